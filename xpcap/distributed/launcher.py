"""The ranks that a launcher such as mpiexec started: `init` joins them."""

import functools
import importlib.util
import os
from collections.abc import Mapping

from xpcap.distributed.group import SINGLE, Group
from xpcap.errors import GroupError, install

# Variables of launchers: mpiexec of MPICH and Intel, and srun; mpiexec of Open MPI; srun with PMIx
VARIABLES = (
    ("PMI_SIZE", "PMI_RANK"),
    ("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK"),
    ("SLURM_STEP_NUM_TASKS", "PMIX_RANK"),
)


def launcher_rank(environment: Mapping[str, str] = os.environ) -> tuple[int, int]:
    """Rank and number of ranks, from the launcher's environment variables; (0, 1) without one."""
    for size, rank in VARIABLES:
        if environment.get(size, "").isdecimal() and environment.get(rank, "").isdecimal():
            return int(environment[rank]), int(environment[size])
    return 0, 1


@functools.cache
def init() -> Group:
    """The group of all processes that a launcher started; SINGLE, without an import, for one process.

    GroupError : mpi4py is missing or finds no MPI library, or its library does not know of the
        other processes.
    """
    _, size = launcher_rank()
    if size == 1:
        return SINGLE
    if importlib.util.find_spec("mpi4py") is None:
        raise GroupError(
            f"a launcher started {size} processes, and mpi4py is not installed, expected mpi4py,"
            f" which connects them; {install('mpi')} installs it"
        )
    from xpcap.distributed.mpi import world

    return world(size)


def abort(status: int) -> None:
    """End all ranks at once with an exit status, if this process has joined them; else return."""
    if init.cache_info().currsize:
        init().abort(status)
