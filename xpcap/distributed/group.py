"""Groups of ranks, as in MPI, that work together; `SINGLE` is a group of one."""

import contextlib
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any

from xpcap.backend import Array
from xpcap.backend.threads import divide


class RankDone(Exception):  # noqa: N818 - no error
    """This rank's work is done; rank 0 does the rest."""


class Group:
    """`size` ranks, of which this process is number `rank`. Rank 0 writes files and prints.

    All ranks call the same methods in the same order, as in MPI; a call returns once all ranks have
    made it. The base class is the group of a single process, and its methods cost nothing.

    local_rank : this rank's number on its machine
    """

    rank = 0
    size = 1
    local_rank = 0

    def all_reduce(self, flat: Array) -> None:
        """Sum a contiguous array of floats over all ranks, in place, with the same bits on each.

        ValueError : among several ranks, an array that is not contiguous.
        """

    def sum_buffer(self, like: Array) -> Array | None:
        """A flat array like `like` that `all_reduce` sums faster than others; None if there is none.

        Each call returns the same array, so finish with its content before the next use.
        """
        return None

    def max(self, number: int) -> int:
        """The largest of the ranks' numbers."""
        return number

    def gather(self, thing: Any) -> list[Any]:
        """The `thing` of each rank, in order: anything that JSON can hold, floats to the bit.

        Among several ranks a tuple is returned as a list, even this rank's.
        """
        return [thing]

    def barrier(self) -> None:
        """Return once all ranks have called this."""

    def shard(self, n: int) -> slice:
        """This rank's contiguous slice of n items; slice sizes differ by at most one."""
        return divide(n, self.size)[self.rank]

    def batches(self, n: int, size: int) -> Iterator[slice]:
        """This rank's shard of n items in batches of `size`; every rank has as many, some empty."""
        shard = self.shard(n)
        for first in range(0, -(-n // self.size), size):  # up to the largest shard
            start = min(shard.start + first, shard.stop)
            yield slice(start, min(start + size, shard.stop))

    def waiting(self, *, call: bool = True) -> AbstractContextManager[None]:
        """A context in which to wait for other ranks; a watchdog ends all if one hangs.

        `call` is False if not every rank waits here: the watchdog counts collective calls to find
        the rank that is late.
        """
        return contextlib.nullcontext()

    def abort(self, status: int) -> None:
        """End all ranks at once with an exit status; a single process goes on."""


SINGLE = Group()
