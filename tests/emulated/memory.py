"""The memory of the emulated device: which addresses belong to an array that is alive, of which
dtype, and on which device.
"""

import bisect
import dataclasses
import threading
import weakref
from typing import NamedTuple

import numpy as np

from emulated.record import EMULATOR


class Queue(NamedTuple):
    """What orders the work of a stream, which may be gone while its work goes on."""

    ptr: int
    waits_for_null: bool

    def __str__(self) -> str:
        return f"<Stream {self.ptr}>"


@dataclasses.dataclass
class Block:
    """One allocation. `owner` is NumPy's array whose memory it is; the block is gone when that
    is.
    """

    start: int
    nbytes: int
    dtype: np.dtype
    device: int
    owner: "weakref.ref[np.ndarray]"
    # The last work with it, and its stream
    work: int = 0
    stream: Queue | None = None

    def use(self) -> None:
        """Let work on the current stream read or write it.

        RuntimeError : work on another stream may not be done with it. Stricter than CUDA, where two
        may read.
        """
        old, current = self.stream, EMULATOR.stream
        new = current and Queue(current.ptr, current.waits_for_null)
        if old != new and not EMULATOR.is_over(old.ptr if old else 0, self.work):
            one = old or new
            if (old and new) or not one.waits_for_null:
                raise RuntimeError(
                    f"{self.nbytes} bytes of {self.dtype}: work on {new or 'the null stream'} does"
                    f" not wait for that on {old or 'the null stream'}, expected an event between"
                )
        EMULATOR.work += 1
        self.work, self.stream = EMULATOR.work, new


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
_starts: list[int] = []  # of the same, in ascending order
_owned: dict[int, Block] = {}  # by the owner's id
_asked = _Asked()


def allocate(host: np.ndarray) -> np.ndarray:
    """Count the memory of a new array as taken from the pool, on the current device, and know it
    until it is freed.
    """
    owner = _owner(host)
    assert owner.base is None, "the emulation took memory that is not NumPy's own"
    if owner.nbytes:
        start = owner.ctypes.data
        assert start not in _blocks, "the emulation counts a view as new memory"
        key = id(owner)

        def free(_: object) -> None:
            _starts.remove(start)  # by value: a number found before may be another thread's by now
            del _blocks[start], _owned[key]

        alive = weakref.ref(owner, free)
        _blocks[start] = _owned[key] = Block(
            start, owner.nbytes, owner.dtype, EMULATOR.current, alive
        )
        bisect.insort(_starts, start)
        EMULATOR.allocate(owner.nbytes)
        _blocks[start].use()
    return host


def _owner(host: np.ndarray) -> np.ndarray:
    while isinstance(host.base, np.ndarray):
        host = host.base
    return host


def use(host: np.ndarray) -> None:
    """Let work on the current stream use the memory of an array."""
    if block := _owned.get(id(_owner(host))):
        block.use()


def used_bytes() -> int:
    """Bytes of all allocations that are alive."""
    return sum(block.nbytes for block in _blocks.values())


def find(address: int) -> Block | None:
    """The allocation that `address` lies in, if it is alive."""
    starts = _starts.copy()  # that no other thread changes
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
