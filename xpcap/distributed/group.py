"""The processes that work together, called ranks as in MPI. `ALONE` is a group of one."""

from collections.abc import Iterator
from typing import Protocol

from xpcap.backend import Array


class Released(Exception):  # noqa: N818 - no error
    """What is left to do is rank 0's alone: this rank has done its part."""


class Group(Protocol):
    """`size` ranks, of which this process is number `rank`. Rank 0 writes files and speaks.

    All ranks call the same methods in the same order, as in MPI; each call returns when every rank has made it.
    """

    rank: int
    size: int

    def add(self, flat: Array) -> None:
        """Sum a contiguous array of floats over all ranks, in place; every rank gets the same bits."""

    def memory(self, like: Array) -> Array | None:
        """A flat array of the size and dtype of `like`, itself flat, that `add` sums faster than others; None where all are alike.

        Asked for again it is the same array: it holds something from when it is written to until it is summed and used.
        """

    def highest(self, number: int) -> int:
        """The highest of the ranks' numbers."""

    def collect(self, text: str) -> list[str]:
        """What each rank gave, in the order of ranks."""

    def share(self, n: int) -> slice:
        """Which of n equal pieces of work are this rank's: neighbours, and as many as any other rank has, or one less or more."""


class _Alone:
    """One process: nothing to add, nobody to ask."""

    rank, size = 0, 1

    def add(self, flat: Array) -> None:
        return

    def memory(self, like: Array) -> Array | None:
        return None

    def highest(self, number: int) -> int:
        return number

    def collect(self, text: str) -> list[str]:
        return [text]

    def share(self, n: int) -> slice:
        return slice(0, n)


ALONE: Group = _Alone()


def batches(group: Group, n: int, size: int) -> Iterator[slice]:
    """This rank's share of n pieces of work, in batches of `size`; as many batches on every rank, so the last of some may be empty."""
    share = group.share(n)
    most = -(-n // group.size)  # the largest share
    for first in range(0, most, size):
        start = share.start + first
        yield slice(min(start, share.stop), min(start + size, share.stop))
