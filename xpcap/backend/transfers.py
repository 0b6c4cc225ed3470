"""Copies between host and device that do not make the host wait."""

import contextlib
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from types import ModuleType
from typing import Any

import numpy as np

from xpcap.errors import InvalidValueError

Array = Any  # a numpy.ndarray or a cupy.ndarray
Waiting = Callable[[], AbstractContextManager[None]]

AHEAD = 8  # most unfinished uploads, enough for two steps; another waits for the oldest


class Staging:
    """A ring of pinned buffers: the host writes into one while a device copies from the others.

    A copy from memory that is not pinned would wait for all earlier launches. An upload waits only
    if the device is AHEAD uploads behind.

    waiting : returns a context in which to wait for the device, which other ranks may delay
    """

    def __init__(self, xp: ModuleType, waiting: Waiting) -> None:
        self._xp = xp
        self._waiting = waiting
        self._next_slot = 0
        self._stream = 0 if xp is np else xp.cuda.get_current_stream().ptr
        # Pinned memory as bytes, and the event after its last copy
        self._slots: list[tuple[np.ndarray, Any]] = []

    def send(self, host: np.ndarray, device: Array) -> None:
        """Copy `host` to `device` for later launches; the caller may overwrite `host` at once.

        ValueError : the current stream is not the one that this was made on.
        """
        stream = self._xp.cuda.get_current_stream()
        if stream.ptr != self._stream:
            raise InvalidValueError(
                f"the workspace was made on CUDA stream {self._stream:#x}, and the current stream is"
                f" {stream.ptr:#x}, expected the same: nothing orders work of two streams; train"
                " and sample inside the `with` of one stream, and make the solver there"
            )
        pinned, copied = self._take(host.nbytes)
        staged = np.ndarray(host.shape, host.dtype, pinned.data)
        staged[...] = host
        device.set(staged, stream=stream)
        copied.record()

    def _take(self, nbytes: int) -> tuple[np.ndarray, Any]:
        """The next slot that no copy reads from, with room for `nbytes` bytes."""
        k = self._next_slot
        self._next_slot = (self._next_slot + 1) % AHEAD
        if k == len(self._slots):
            self._slots.append((np.empty(0, np.uint8), self._xp.cuda.Event(disable_timing=True)))
        else:
            with self._waiting():
                self._slots[k][1].synchronize()
        pinned, copied = self._slots[k]
        if pinned.size < nbytes:
            size = nbytes + nbytes // 4  # room for a slightly larger batch
            pinned = np.frombuffer(self._xp.cuda.alloc_pinned_memory(size), np.uint8, size)
            self._slots[k] = pinned, copied
        return pinned, copied

    def __del__(self) -> None:
        # After a CUDA error, which the caller gets anyway, there is nothing to wait for
        with self._waiting(), contextlib.suppress(RuntimeError):
            for _, copied in self._slots:
                copied.synchronize()  # CuPy reuses the memory next, so no copy may still read it


class AsyncCopy:
    """Copies of arrays from a device to the host; arrays of the host, and None, are not copied.

    The copies are queued after the work that computes the arrays, and the host goes on. `wait`
    waits for them, and for nothing launched later.
    """

    _copied: Any = None  # the event after copies, until `wait`

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
            with contextlib.suppress(RuntimeError):  # as in Staging
                self._copied.synchronize()  # CuPy reuses the memory next, so no copy may write it


def _pinned(xp: ModuleType, x: Array) -> np.ndarray:
    """Pinned memory for a copy of `x`: with other memory the host would wait."""
    return np.ndarray(x.shape, x.dtype, xp.cuda.alloc_pinned_memory(x.nbytes))
