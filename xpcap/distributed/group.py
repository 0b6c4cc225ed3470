"""Groups of ranks, as in MPI, that train one model or share pictures; `SINGLE` is a group of one."""

import contextlib
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any

from xpcap.backend import Array
from xpcap.threads import divide


class RankDone(Exception):  # noqa: N818 - no error
    """The end of this rank's part: the rest is for rank 0."""


class Group:
    """`size` ranks, of which this process is number `rank`. Rank 0 writes files and prints.

    All ranks call the same methods in the same order, as in MPI; a call returns when all have made
    it. The base class is the group of a single process, and its methods cost nothing.

    local_rank : this rank's number on its machine
    """

    rank, size, local_rank = 0, 1, 0

    def all_reduce(self, flat: Array) -> None:
        """Sum a contiguous array of floats over all ranks, in place, with the same bits on each.

        ValueError : among several ranks, an array that is not contiguous.
        """

    def sum_buffer(self, like: Array) -> Array | None:
        """A flat array like `like` that `all_reduce` sums faster than others; None: there is none.

        Repeated calls return the same array; its content is valid from writing until the sum has
        been used.
        """
        return None

    def max(self, number: int) -> int:
        """The largest of the ranks' numbers."""
        return number

    def gather(self, thing: Any) -> list[Any]:
        """The items of all ranks, in their order: anything that JSON can hold, floats to the bit.

        Among several ranks a tuple comes back as a list, this rank's own included.
        """
        return [thing]

    def barrier(self) -> None:
        """Return when all ranks have come here."""

    def shard(self, n: int) -> slice:
        """This rank's contiguous slice of n items; slice sizes differ by at most one."""
        return divide(n, self.size)[self.rank]

    def batches(self, n: int, size: int) -> Iterator[slice]:
        """This rank's shard of n items in batches of `size`; as many as others have, some empty."""
        shard = self.shard(n)
        for first in range(0, -(-n // self.size), size):  # up to the largest shard
            start = min(shard.start + first, shard.stop)
            yield slice(start, min(start + size, shard.stop))

    def waiting(self, *, call: bool = True) -> AbstractContextManager[None]:
        """The context of a wait for the other ranks, which is watched: one of them may hang.

        `call` is False if not every rank waits here; calls are counted to find the rank that is
        late.
        """
        return contextlib.nullcontext()

    def abort(self, status: int) -> None:
        """End all ranks at once with an exit status; a single process goes on."""


SINGLE = Group()
