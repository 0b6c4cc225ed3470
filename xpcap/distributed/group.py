"""Groups of ranks, as in MPI, that train one model or share pictures; `SINGLE` is a group of one."""

from collections.abc import Iterator
from typing import Protocol

from xpcap.backend import Array


class RankDone(Exception):  # noqa: N818 - no error
    """The end of this rank's part: the rest is for rank 0."""


class Group(Protocol):
    """`size` ranks, of which this process is number `rank`. Rank 0 writes files and prints.

    All ranks call the same methods in the same order, as in MPI; a call returns when all have made
    it.
    """

    rank: int
    size: int

    def all_reduce(self, flat: Array) -> None:
        """Sum a contiguous array of floats over all ranks, in place, with the same bits on each."""

    def sum_buffer(self, like: Array) -> Array | None:
        """An array like `like`, flat, that `all_reduce` sums faster than others; None: no such.

        Repeated calls return the same array; its content is valid from writing until the sum has
        been used.
        """

    def max(self, number: int) -> int:
        """The largest of the ranks' numbers."""

    def all_gather(self, text: str) -> list[str]:
        """The texts of all ranks, in the order of ranks."""

    def shard(self, n: int) -> slice:
        """This rank's contiguous slice of n items; slice sizes differ by at most one."""


class _Single:
    rank, size = 0, 1

    def all_reduce(self, flat: Array) -> None:
        return

    def sum_buffer(self, like: Array) -> Array | None:
        return None

    def max(self, number: int) -> int:
        return number

    def all_gather(self, text: str) -> list[str]:
        return [text]

    def shard(self, n: int) -> slice:
        return slice(0, n)


SINGLE: Group = _Single()


def batches(group: Group, n: int, size: int) -> Iterator[slice]:
    """This rank's shard of n items in batches of `size`; as many as on other ranks, some empty."""
    shard = group.shard(n)
    for first in range(0, -(-n // group.size), size):  # up to the largest shard
        start = shard.start + first
        yield slice(min(start, shard.stop), min(start + size, shard.stop))
