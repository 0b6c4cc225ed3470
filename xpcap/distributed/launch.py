"""Whether a launcher, such as mpiexec, started this process as one of several, and joining the others if so."""

import functools
import importlib.util
import os
from collections.abc import Mapping

from xpcap.distributed.group import ALONE, Group
from xpcap.errors import GroupError, install

# What launchers tell each process: how many there are, and which it is. MPICH's and Intel's mpiexec and srun; Open MPI's; srun with PMIx.
VARIABLES = (("PMI_SIZE", "PMI_RANK"), ("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK"), ("SLURM_STEP_NUM_TASKS", "PMIX_RANK"))


def told(environment: Mapping[str, str] = os.environ) -> tuple[int, int]:
    """This process's rank and the number of ranks, as its launcher tells them: (0, 1) without one. Nothing is imported for that."""
    for size, rank in VARIABLES:
        if environment.get(size, "").isdecimal() and environment.get(rank, "").isdecimal():
            return int(environment[rank]), int(environment[size])
    return 0, 1


@functools.cache
def join() -> Group:
    """The group of all processes that a launcher started together: ALONE, without importing anything, where there is only this one.

    Raises
    ------
    GroupError : mpi4py is missing or finds no MPI library, or its library does not know of the other processes.
    """
    _, size = told()
    if size == 1:
        return ALONE
    if importlib.util.find_spec("mpi4py") is None:
        raise GroupError(
            f"join: a launcher started {size} processes, and mpi4py is not installed, expected it, to join them; {install('mpi')} installs it"
        )
    from xpcap.distributed.mpi import world

    return world(size)


def abort(status: int) -> None:
    """End all ranks at once with an exit status, if this process has joined them; else return."""
    if join.cache_info().currsize and (group := join()) is not ALONE:
        group.abort(status)  # type: ignore[attr-defined]  # only ALONE has none
