"""The memory of the emulated device: which addresses belong to an array that is alive, of which
dtype, and on which device.
"""

import bisect
import threading
import weakref
from typing import NamedTuple

import numpy as np

from emulated.record import EMULATOR


class Block(NamedTuple):
    """One allocation. `owner` is NumPy's array whose memory it is; the block is gone when that
    is.
    """

    start: int
    nbytes: int
    dtype: np.dtype
    device: int
    owner: "weakref.ref[np.ndarray]"


class Asked(NamedTuple):
    """The array that was last asked for its address, when no kernel had got it yet."""

    shape: tuple[int, ...]
    dtype: np.dtype
    strides: tuple[int, ...]
    contiguous: bool
    device: int


class _Asked(threading.local):
    """The arrays that this thread asked for their addresses since its last launch, by address."""

    def __init__(self) -> None:
        self.by_address: dict[int, list[Asked]] = {}


_blocks: dict[int, Block] = {}  # by start
_asked = _Asked()


def allocate(host: np.ndarray) -> np.ndarray:
    """Count the memory of a new array as taken from the pool, on the current device, and know it
    until it is freed.
    """
    owner = host
    while isinstance(owner.base, np.ndarray):
        owner = owner.base
    assert owner.base is None, "the emulation took memory that is not NumPy's own"
    if owner.nbytes:
        start = owner.ctypes.data
        assert start not in _blocks, "the emulation counts a view as new memory"
        _blocks[start] = Block(
            start,
            owner.nbytes,
            owner.dtype,
            EMULATOR.current,
            weakref.ref(owner, lambda _: _blocks.pop(start)),
        )
        EMULATOR.allocate(owner.nbytes)
    return host


def find(address: int) -> Block | None:
    """The allocation that `address` lies in, if it is alive."""
    starts = sorted(_blocks)
    i = bisect.bisect_right(starts, address) - 1
    block = _blocks.get(starts[i]) if i >= 0 else None
    return block if block and address < block.start + block.nbytes else None


def asked(address: int, host: np.ndarray, device: int) -> None:
    """Remember the array that an address was asked of."""
    _asked.by_address.setdefault(address, []).append(
        Asked(host.shape, host.dtype, host.strides, bool(host.flags.c_contiguous), device)
    )


def take_asked(addresses: list[int]) -> list[Asked] | None:
    """The arrays that these addresses were asked of since this thread's last launch; None if not all were.

    Of an address that comes twice, the last two.
    """
    try:
        found = [_asked.by_address[address].pop() for address in reversed(addresses)][::-1]
    except (KeyError, IndexError):
        found = None
    _asked.by_address.clear()
    return found
