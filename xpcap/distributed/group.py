"""The processes that work together, called ranks as in MPI, and joining those that a launcher such as mpiexec started. `SINGLE` is a group of one."""

import functools
import importlib.util
import os
from collections.abc import Iterator, Mapping
from typing import Protocol

from xpcap.backend import Array
from xpcap.errors import GroupError, install


class RankDone(Exception):  # noqa: N818 - no error
    """What is left to do is rank 0's alone: this rank has done its part."""


class Group(Protocol):
    """`size` ranks, of which this process is number `rank`. Rank 0 writes files and speaks.

    All ranks call the same methods in the same order, as in MPI; each call returns when every rank has made it.
    """

    rank: int
    size: int

    def all_reduce(self, flat: Array) -> None:
        """Sum a contiguous array of floats over all ranks, in place; every rank gets the same bits."""

    def sum_buffer(self, like: Array) -> Array | None:
        """A flat array of the size and dtype of `like`, itself flat, that `add` sums faster than others; None where all are alike.

        Asked for again it is the same array: it holds something from when it is written to until it is summed and used.
        """

    def max(self, number: int) -> int:
        """The highest of the ranks' numbers."""

    def all_gather(self, text: str) -> list[str]:
        """What each rank gave, in the order of ranks."""

    def shard(self, n: int) -> slice:
        """Which of n equal pieces of work are this rank's: neighbours, and as many as any other rank has, or one less or more."""


class _Alone:
    """One process: nothing to add, nobody to ask."""

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


SINGLE: Group = _Alone()


def batches(group: Group, n: int, size: int) -> Iterator[slice]:
    """This rank's share of n pieces of work, in batches of `size`; as many batches on every rank, so the last of some may be empty."""
    share = group.shard(n)
    most = -(-n // group.size)  # the largest share
    for first in range(0, most, size):
        start = share.start + first
        yield slice(min(start, share.stop), min(start + size, share.stop))


# What launchers tell each process: how many there are, and which it is. MPICH's and Intel's mpiexec and srun; Open MPI's; srun with PMIx.
VARIABLES = (("PMI_SIZE", "PMI_RANK"), ("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK"), ("SLURM_STEP_NUM_TASKS", "PMIX_RANK"))


def launcher_rank(environment: Mapping[str, str] = os.environ) -> tuple[int, int]:
    """This process's rank and the number of ranks, as its launcher tells them: (0, 1) without one. Nothing is imported for that."""
    for size, rank in VARIABLES:
        if environment.get(size, "").isdecimal() and environment.get(rank, "").isdecimal():
            return int(environment[rank]), int(environment[size])
    return 0, 1


@functools.cache
def init() -> Group:
    """The group of all processes that a launcher started together: SINGLE, without importing anything, where there is only this one.

    Raises
    ------
    GroupError : mpi4py is missing or finds no MPI library, or its library does not know of the other processes.
    """
    _, size = launcher_rank()
    if size == 1:
        return SINGLE
    if importlib.util.find_spec("mpi4py") is None:
        raise GroupError(
            f"init: a launcher started {size} processes, and mpi4py is not installed, expected it, to join them; {install('mpi')} installs it"
        )
    from xpcap.distributed.mpi import world

    return world(size)


def abort(status: int) -> None:
    """End all ranks at once with an exit status, if this process has joined them; else return."""
    if init.cache_info().currsize and (group := init()) is not SINGLE:
        group.abort(status)  # type: ignore[attr-defined]  # only SINGLE has none
