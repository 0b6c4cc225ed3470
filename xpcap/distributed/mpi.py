"""Ranks that MPI connects. Importing mpi4py's MPI starts it, so that happens where a group is made, and not before."""

import contextlib
import json
import os
import platform
from typing import Any

import numpy as np

from xpcap.backend import Array, is_device_array
from xpcap.blas import blas
from xpcap.distributed.device import DeviceSum, device_sum
from xpcap.distributed.shared import SharedMemory, has_room
from xpcap.distributed.waiting import Waiting, timeout
from xpcap.errors import GroupError, install

FEW = 1024  # numbers: so many are gathered and summed in the order of ranks, which any MPI does with the same bits everywhere
PIECE = 4 << 20  # bytes summed at once: twice to three times as fast as 50 MB in one call, whose pieces leave the cache before their turn
THREADS = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "GOTO_NUM_THREADS")


class MPIGroup:
    """The ranks of a communicator: a Group.

    Parameters
    ----------
    communicator : mpi4py.MPI.Intracomm

    Attributes
    ----------
    local_rank, local_size : this rank's number among those of its machine, and how many they are
    """

    def __init__(self, communicator: Any) -> None:
        from mpi4py import MPI

        self._mpi, self._communicator = MPI, communicator
        self.rank, self.size = communicator.Get_rank(), communicator.Get_size()
        local = communicator.Split_type(MPI.COMM_TYPE_SHARED)
        self.local_rank, self.local_size = local.Get_rank(), local.Get_size()
        local.Free()
        self._device: DeviceSum | None = None
        self._shared: dict[tuple[int, np.dtype], SharedMemory] = {}  # by size and dtype
        self._waiting: Any = contextlib.nullcontext
        self.hosts = self.collect(platform.node())
        names = [f"rank {rank} on {host}" for rank, host in enumerate(self.hosts)]
        if MPI.Query_thread() == MPI.THREAD_MULTIPLE:  # else a second thread may not speak
            self._waiting = Waiting(communicator.Dup(), names, timeout())

    def add(self, flat: Array) -> None:
        if is_device_array(flat):
            if self._device is None:
                self._device = device_sum(self, flat)
            with self._waiting():
                self._device.add(flat)
        else:
            self.add_on_host(flat)

    def add_on_host(self, flat: np.ndarray) -> None:
        """`add` for an array of NumPy."""
        with self._waiting():
            shared = self._shared.get((flat.size, flat.dtype))
            if shared is not None and shared.holds(flat):
                shared.add()
                return
            if flat.size > FEW:
                numbers = PIECE // flat.itemsize
                for start in range(0, flat.size, numbers):
                    self._communicator.Allreduce(self._mpi.IN_PLACE, flat.reshape(-1)[start : start + numbers])
                return
            everyone = np.empty((self.size, *flat.shape), flat.dtype)
            self._communicator.Allgather(np.ascontiguousarray(flat), everyone)
            flat[...] = everyone.sum(axis=0)

    def memory(self, like: Array) -> Array | None:
        if is_device_array(like) or self.local_size < self.size:
            return None
        key = like.size, like.dtype
        if key not in self._shared:
            if self.highest(not has_room(self.size * like.nbytes)):
                return None
            with self._waiting():
                self._shared[key] = SharedMemory(self._communicator, *key)
        return self._shared[key].mine

    def highest(self, number: int) -> int:
        found = np.array([number], np.int64)
        with self._waiting():
            self._communicator.Allreduce(self._mpi.IN_PLACE, found, self._mpi.MAX)
        return int(found[0])

    def collect(self, text: str) -> list[str]:
        content = np.frombuffer(text.encode("utf-8", "surrogatepass"), np.uint8)
        lengths = np.empty(self.size, np.int64)
        with self._waiting():
            self._communicator.Allgather(np.array([len(content)], np.int64), lengths)
            everything = np.empty(int(lengths.sum()), np.uint8)
            self._communicator.Allgatherv(content, [everything, lengths])
        ends = np.cumsum(lengths)
        return [everything[end - length : end].tobytes().decode("utf-8", "surrogatepass") for end, length in zip(ends, lengths, strict=True)]

    def share(self, n: int) -> slice:
        return slice(n * self.rank // self.size, n * (self.rank + 1) // self.size)

    def abort(self, status: int) -> None:
        """End all ranks at once."""
        self._communicator.Abort(status)

    @property
    def library(self) -> str:
        """Name and version of the MPI library."""
        return " ".join(self._mpi.Get_library_version().split("\n")[0].replace("\0", " ").split()[:4]).rstrip(",")


def world(size: int) -> MPIGroup:
    """The group of all `size` processes that the launcher started; each machine's cores are dealt out to its ranks.

    Raises
    ------
    GroupError : mpi4py finds no MPI library, or one that knows nothing of the launcher. OptionError : a bad XPCAP_RANK_TIMEOUT.
    """
    timeout()
    try:
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:
        raise GroupError(
            f"join: mpi4py cannot load an MPI library ({error}), expected one; {install('mpi')} installs one, with its mpiexec"
        ) from error
    if MPI.COMM_WORLD.Get_size() != size:
        raise GroupError(
            f"join: the launcher started {size} processes, and mpi4py's MPI, {MPI.Get_library_version().split(chr(10))[0][:60]!r}, knows "
            f"{MPI.COMM_WORLD.Get_size()}, expected the same; use the mpiexec of the MPI that mpi4py loads"
        )
    group = MPIGroup(MPI.COMM_WORLD)
    _share_cores(group)
    return group


def _share_cores(group: MPIGroup) -> None:
    """Give BLAS a part of the cores, where neither the launcher nor the user has dealt them out."""
    mine = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))
    everyone = [json.loads(text) for text in group.collect(json.dumps([group.hosts[group.rank], mine]))]
    beside = everyone.count([group.hosts[group.rank], mine])  # ranks that may use the same cores
    if not any(name in os.environ for name in THREADS):
        blas().limit(max(1, len(mine) // beside))
