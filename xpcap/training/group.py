"""The processes that train one model together. `ALONE` is a group of one."""

from typing import Protocol

from xpcap.backend import Array


class Group(Protocol):
    """`size` processes, of which this one has number `rank`. Rank 0 writes files."""

    rank: int
    size: int

    def add(self, flat: Array) -> None:
        """Sum `flat` over all ranks, in place; every rank gets the same bits."""

    def any(self, flag: bool) -> bool:
        """Whether the flag is set on any rank."""

    def share(self, n: int) -> slice:
        """Which of n equal pieces of work are this rank's."""


class _Alone:
    """One process: nothing to add, nobody to ask."""

    rank, size = 0, 1

    def add(self, flat: Array) -> None:
        return

    def any(self, flag: bool) -> bool:
        return flag

    def share(self, n: int) -> slice:
        return slice(0, n)


ALONE: Group = _Alone()
