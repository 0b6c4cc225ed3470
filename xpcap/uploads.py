"""Host arrays that a device gets in each step: sent without waiting and without allocating."""

from typing import Any

import numpy as np

from xpcap.backend import Array

AHEAD = 4  # uploads that may be under way; one more waits for the oldest


class Uploads:
    """A ring of pinned buffers: the host writes into one while a device still copies from the others.

    A copy from ordinary memory would wait for all work launched before it. An upload waits only where the device is AHEAD uploads behind.

    Parameters
    ----------
    xp : cupy
    """

    def __init__(self, xp: Any) -> None:
        self._xp, self._turn = xp, 0
        self._slots: list[tuple[np.ndarray, Any]] = []  # pinned memory as bytes, and the event behind its last copy

    def send(self, host: np.ndarray, device: Array) -> None:
        """Copy `host` to `device`, an array of its shape and dtype. Work launched afterwards sees it; `host` may be overwritten at once."""
        pinned, copied = self._take(host.nbytes)
        staged = np.ndarray(host.shape, host.dtype, pinned.data)
        staged[...] = host
        device.set(staged, stream=self._xp.cuda.get_current_stream())
        copied.record()

    def _take(self, nbytes: int) -> tuple[np.ndarray, Any]:
        """The next slot, free to be written to, with room for so many bytes."""
        k, self._turn = self._turn, (self._turn + 1) % AHEAD
        if k == len(self._slots):
            self._slots.append((np.empty(0, np.uint8), self._xp.cuda.Event(disable_timing=True)))
        else:
            self._slots[k][1].synchronize()
        pinned, copied = self._slots[k]
        if pinned.size < nbytes:
            size = nbytes + nbytes // 4  # batches differ a little
            self._slots[k] = pinned, _ = np.frombuffer(self._xp.cuda.alloc_pinned_memory(size), np.uint8, size), copied
        return pinned, copied

    def __del__(self) -> None:
        for _, copied in self._slots:
            copied.synchronize()  # CuPy gives pinned memory to others next: no copy may still read it
