"""Reading from a device while it goes on computing."""

from typing import Any

import numpy as np

from xpcap.backend import Array, get_array_module


class Reading:
    """Arrays on their way from a device to the host. The copies are queued behind the work that makes the arrays, and the host goes on.

    `wait` waits for the copies and for nothing launched after them. Arrays of the host are there already.
    """

    _copied: Any = None  # the event behind copies that nobody has waited for

    def __init__(self, *arrays: Array) -> None:
        xp = get_array_module(*arrays)
        if xp is np:
            self._host = arrays
            return
        self._host = tuple(_pinned(xp, x) for x in arrays)
        for x, host in zip(arrays, self._host, strict=True):
            x.get(out=host, blocking=False)
        self._copied = xp.cuda.Event(disable_timing=True)
        self._copied.record()

    def wait(self) -> tuple[np.ndarray, ...]:
        """The arrays on the host."""
        if self._copied is not None:
            self._copied.synchronize()
            self._copied = None
        return self._host

    def __del__(self) -> None:
        if self._copied is not None:
            self._copied.synchronize()  # CuPy gives the memory to others next: no copy may end there


def _pinned(xp: Any, x: Array) -> np.ndarray:
    """Pinned memory for `x`: a copy to any other makes the host wait."""
    return np.ndarray(x.shape, x.dtype, xp.cuda.alloc_pinned_memory(x.nbytes))
