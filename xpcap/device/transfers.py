"""Copies between host and device that do not stop the host."""

import contextlib
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from types import ModuleType
from typing import Any

import numpy as np

from xpcap.device import Array
from xpcap.errors import InvalidValueError

Waiting = Callable[[], AbstractContextManager[None]]

AHEAD = 8  # uploads under way at most, of two steps or more; one more waits for the oldest


class Staging:
    """A ring of pinned buffers: the host writes into one while a device copies from the others.

    A copy from ordinary memory would wait for all work launched before it. An upload waits only if
    the device is AHEAD uploads behind.

    waiting : gives the context of a wait, in which other ranks may hold up the device
    """

    def __init__(self, xp: ModuleType, waiting: Waiting) -> None:
        self._xp, self._waiting, self._next_slot = xp, waiting, 0
        self._stream = 0 if xp is np else xp.cuda.get_current_stream().ptr
        # Pinned memory as bytes, and the event behind its last copy
        self._slots: list[tuple[np.ndarray, Any]] = []

    def send(self, host: np.ndarray, device: Array) -> None:
        """Copy `host` to `device` for later launches; `host` may be overwritten at once.

        ValueError : another stream is current than when this was made.
        """
        stream = self._xp.cuda.get_current_stream()
        if stream.ptr != self._stream:
            raise InvalidValueError(
                "Workspace",
                "",
                f"was made on CUDA stream {self._stream:#x}, and the current stream is"
                f" {stream.ptr:#x}",
                expected="the same: nothing orders work of two streams",
                cause="train and sample inside the `with` of one stream, and make the solver there",
            )
        pinned, copied = self._take(host.nbytes)
        staged = np.ndarray(host.shape, host.dtype, pinned.data)
        staged[...] = host
        device.set(staged, stream=stream)
        copied.record()

    def _take(self, nbytes: int) -> tuple[np.ndarray, Any]:
        """The next slot that no copy reads from, with room for `nbytes` bytes."""
        k, self._next_slot = self._next_slot, (self._next_slot + 1) % AHEAD
        if k == len(self._slots):
            self._slots.append((np.empty(0, np.uint8), self._xp.cuda.Event(disable_timing=True)))
        else:
            with self._waiting():
                self._slots[k][1].synchronize()
        pinned, copied = self._slots[k]
        if pinned.size < nbytes:
            size = nbytes + nbytes // 4  # batches differ a little
            pinned = np.frombuffer(self._xp.cuda.alloc_pinned_memory(size), np.uint8, size)
            self._slots[k] = pinned, copied
        return pinned, copied

    def __del__(self) -> None:
        # After an error of CUDA, which is on its way to the caller, there is nothing to wait for
        with self._waiting(), contextlib.suppress(RuntimeError):
            for _, copied in self._slots:
                copied.synchronize()  # CuPy reuses pinned memory next: no copy may still read it


class AsyncCopy:
    """Arrays on their way from a device to the host, and any None; those of the host have arrived.

    The copies are queued behind the work that computes the arrays, and the host goes on. `wait`
    waits for them and for nothing launched after them.
    """

    _copied: Any = None  # the event behind copies that nothing has waited for

    def __init__(self, *arrays: Array | None) -> None:
        if all(x is None or isinstance(x, np.ndarray) for x in arrays):
            self._host = arrays
            return
        xp = sys.modules["cupy"]
        self._host = tuple(x if x is None else _pinned(xp, x) for x in arrays)
        for x, host in zip(arrays, self._host, strict=True):
            if x is not None:
                x.get(out=host, blocking=False)
        self._copied = xp.cuda.Event(disable_timing=True)
        self._copied.record()

    def wait(self) -> tuple[Any, ...]:
        """The arrays on the host."""
        if self._copied is not None:
            self._copied.synchronize()
            self._copied = None
        return self._host

    def __del__(self) -> None:
        if self._copied is not None:
            with contextlib.suppress(RuntimeError):  # as of Staging
                self._copied.synchronize()  # CuPy reuses the memory next: no copy may end there


def _pinned(xp: ModuleType, x: Array) -> np.ndarray:
    """Pinned memory for `x`: a copy to other memory makes the host wait."""
    return np.ndarray(x.shape, x.dtype, xp.cuda.alloc_pinned_memory(x.nbytes))
