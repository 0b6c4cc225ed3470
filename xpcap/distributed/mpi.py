"""Ranks that MPI connects: sums in shared memory and on devices, and a watchdog for hanging ranks.

mpi4py.MPI is imported only when a group is created, since the import starts MPI.
"""

import contextlib
import json
import math
import os
import platform
import shutil
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

import numpy as np

from xpcap.backend import Array, get_array_module, is_device_array
from xpcap.backend.cuda_problems import nccl_package
from xpcap.backend.probe import import_nccl
from xpcap.backend.threads import divide, limit_cores
from xpcap.distributed.group import Group
from xpcap.errors import GroupError, InvalidValueError, OptionError, install

# Up to this many numbers are gathered, and summed in the order of ranks: equal bits in any MPI
MAX_GATHERED = 1024
PIECE = 4 << 20  # bytes summed in a call: all 50 MB at once would not stay in the cache
BLOCK = 1 << 16  # numbers in shared memory that are summed at once, within the cache
# Folder of MPI's shared memory; if it is full, writing to such memory kills the process
SHARED = Path("/dev/shm")  # noqa: S108 - MPI chose it

# The watchdog
VARIABLE = "XPCAP_RANK_TIMEOUT"
SECONDS = 600.0
# Kinds of messages
ASKED = 1
ANSWERED = 2
TICK = 0.5  # seconds between two looks at clock and messages
PATIENCE = 3.0  # seconds in which the other ranks have to answer

# Seconds for the launcher to read why a rank ends all: it drops output that it has not read by then
DELIVERY = 1.0
THREADS = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "GOTO_NUM_THREADS")


def timeout() -> float:
    """Seconds that a rank waits for the others; OptionError if the variable is no such number."""
    text = os.environ.get(VARIABLE, "")
    try:
        seconds = float(text) if text else SECONDS
    except ValueError:
        seconds = math.nan
    if not seconds > 0:
        raise OptionError(
            f"{VARIABLE} is {text[:60]!r}, expected seconds that a rank waits for the others, above"
            " 0"
        )
    return seconds


class Watchdog:
    """A thread that watches how long this rank waits for the others.

    After `seconds` it asks them how many collective calls they have begun. It names the ranks that
    are behind or do not answer on standard error, and then ends all ranks.

    communicator : connects all ranks, and is used for nothing else
    names : names of the ranks in messages
    """

    def __init__(self, communicator: Any, names: list[str], seconds: float) -> None:
        self._communicator = communicator
        self._names = names
        self._seconds = seconds
        self._rank = communicator.Get_rank()
        self._calls = 0
        self._since = math.inf
        self._asked_at = math.inf
        self._answers: dict[int, int] = {}
        threading.Thread(target=self._watch, name="xpcap ranks", daemon=True).start()

    @contextlib.contextmanager
    def waiting(self, *, call: bool) -> Iterator[None]:
        """As `Group.waiting`."""
        self._calls += call
        self._since = time.monotonic()
        try:
            yield
        finally:
            self._since = math.inf

    def _watch(self) -> None:
        while True:
            time.sleep(TICK)
            self._read()
            now = time.monotonic()
            if now - self._since < self._seconds:
                self._asked_at = math.inf
            elif self._asked_at == math.inf:
                self._asked_at = now
                self._answers = {self._rank: self._calls}
                for rank in range(len(self._names)):
                    if rank != self._rank:
                        self._send(rank, ASKED)
            elif now - self._asked_at > PATIENCE or len(self._answers) == len(self._names):
                self._end()

    def _send(self, rank: int, message: int) -> None:
        self._communicator.Send(np.array([message, self._calls], np.int64), dest=rank)

    def _read(self) -> None:
        from mpi4py import MPI

        status = MPI.Status()
        message = np.empty(2, np.int64)
        while self._communicator.Iprobe(status=status):
            sender = status.Get_source()
            self._communicator.Recv(message, source=sender)
            if message[0] == ASKED:
                self._send(sender, ANSWERED)
            else:
                self._answers[sender] = int(message[1])

    def _end(self) -> None:
        late = [
            f"{name} did not answer"
            for rank, name in enumerate(self._names)
            if rank not in self._answers
        ]
        late += [
            f"{self._names[rank]} has made fewer calls"
            for rank, calls in sorted(self._answers.items())
            if calls < self._calls
        ]
        reason = "; ".join(late) or "all answer: is the network slow, or down?"
        print(
            f"xpcap: {self._names[self._rank]} has waited {self._seconds:g} s for the other ranks:"
            f" {reason}; ending all",
            file=sys.stderr,
            flush=True,
        )
        _abort(self._communicator, 1)


def _abort(communicator: Any, status: int) -> None:
    if sys.stderr is not None:
        sys.stderr.flush()
    time.sleep(DELIVERY)
    communicator.Abort(status)


class SharedMemory:
    """An array of each rank in memory that a machine's ranks share; each sums its shard for all.

    communicator : connects ranks on one machine
    count, dtype : size and dtype of each rank's array; `array` is this rank's
    """

    def __init__(self, communicator: Any, count: int, dtype: np.dtype) -> None:
        from mpi4py import MPI

        self._communicator = communicator
        self._window = MPI.Win.Allocate_shared(
            count * dtype.itemsize, dtype.itemsize, comm=communicator
        )
        self._window.Lock_all(MPI.MODE_NOCHECK)
        size = communicator.Get_size()
        buffers: list[Any] = [self._window.Shared_query(rank)[0] for rank in range(size)]
        self._arrays = [np.frombuffer(buffer, dtype) for buffer in buffers]
        self.array = self._arrays[communicator.Get_rank()]

    def holds(self, flat: np.ndarray) -> bool:
        """True for this rank's array, or a view of all of it."""
        return flat.nbytes == self.array.nbytes and flat.ctypes.data == self.array.ctypes.data

    def all_reduce(self) -> None:
        """Sum the ranks' arrays into each of them, in the order of ranks."""
        self._barrier()
        first, *rest = self._arrays
        shard = divide(len(self.array), len(self._arrays))[self._communicator.Get_rank()]
        for start in range(shard.start, shard.stop, BLOCK):
            block = slice(start, min(start + BLOCK, shard.stop))
            total = first[block]
            for array in rest:
                total += array[block]
            for array in rest:
                array[block] = total
        self._barrier()

    def _barrier(self) -> None:
        """A barrier after which each rank reads the other ranks' writes."""
        self._window.Sync()
        self._communicator.Barrier()
        self._window.Sync()


def has_room(nbytes: int) -> bool:
    """True if twice `nbytes` of shared memory are likely to be free."""
    return (shutil.disk_usage(SHARED).free if SHARED.is_dir() else math.inf) > 2 * nbytes


class DeviceSum(Protocol):
    """All-reduce of arrays on devices."""

    name: str

    def all_reduce(self, flat: Array) -> None:
        """As `Group.all_reduce`."""


class NCCL:
    """Sums from device to device by NCCL, whose ranks find each other by an id sent through MPI.

    nccl : the module cupy.cuda.nccl
    group : the ranks; the current device of each is its own
    """

    name = "NCCL"

    def __init__(self, nccl: ModuleType, group: "MPIGroup", xp: ModuleType) -> None:
        token, *_ = group.gather(bytes(nccl.get_unique_id()).hex() if group.rank == 0 else "")
        self._nccl = nccl
        self._group = group
        self._xp = xp
        self._types = {"f4": nccl.NCCL_FLOAT32, "f8": nccl.NCCL_FLOAT64}
        with group.waiting():
            self._communicator = nccl.NcclCommunicator(group.size, bytes.fromhex(token), group.rank)

    def all_reduce(self, flat: Array) -> None:
        """Launch the sum on the current stream, after the gradients and before their use.

        The device waits for the other ranks; the host waits when it reads a result.
        """
        type_ = self._types[flat.dtype.str[1:]]
        stream = self._xp.cuda.get_current_stream().ptr
        with self._group.waiting():
            self._communicator.allReduce(
                flat.data.ptr, flat.data.ptr, flat.size, type_, self._nccl.NCCL_SUM, stream
            )


class Staged:
    """Sums through page-locked host memory and MPI, for ranks that share a device or lack NCCL."""

    name = "MPI, through page-locked host memory"

    def __init__(self, group: "MPIGroup", xp: ModuleType) -> None:
        self._group = group
        self._xp = xp
        self._host = np.empty(0, np.uint8)

    def all_reduce(self, flat: Array) -> None:
        """Sum on the host, which has to wait for the device."""
        if self._host.nbytes < flat.nbytes:
            self._host = np.frombuffer(
                self._xp.cuda.alloc_pinned_memory(flat.nbytes), np.uint8, flat.nbytes
            )
        host = np.ndarray(flat.shape, flat.dtype, self._host.data)
        flat.get(out=host)
        self._group.all_reduce_on_host(host)
        stream = self._xp.cuda.get_current_stream()
        flat.set(host, stream=stream)
        stream.synchronize()  # the next sum overwrites the memory that is copied


def device_sum(group: "MPIGroup", like: Array) -> DeviceSum:
    """NCCL if all ranks have it and no two share a device, which NCCL refuses; else Staged.

    All ranks choose the same. If only NCCL is missing, rank 0 prints how to install it.
    """
    xp = get_array_module(like)
    nccl = import_nccl()
    device = [nccl is not None, group.hosts[group.rank], xp.cuda.Device().pci_bus_id]
    devices = group.gather(device)
    are_distinct = len({tuple(address) for _, *address in devices}) == group.size
    lacking = [rank for rank, (has_nccl, *_) in enumerate(devices) if not has_nccl]
    if nccl is not None and are_distinct and not lacking:
        return NCCL(nccl, group, xp)
    if are_distinct and group.rank == 0:
        print(
            f"xpcap: gradients are summed in host memory: rank {lacking[0]} has no NCCL; pip"
            f" install {nccl_package(xp)} installs it",
            file=sys.stderr,
        )
    return Staged(group, xp)


class MPIGroup(Group):
    """The ranks of an mpi4py.MPI.Intracomm.

    `local_size` of them are on this machine; `hosts` has the machine of each rank.
    """

    def __init__(self, communicator: Any) -> None:
        from mpi4py import MPI

        self._mpi = MPI
        self._communicator = communicator
        self.rank = communicator.Get_rank()
        self.size = communicator.Get_size()
        local = communicator.Split_type(MPI.COMM_TYPE_SHARED)
        self.local_rank = local.Get_rank()
        self.local_size = local.Get_size()
        local.Free()
        self._device: DeviceSum | None = None
        self._shared: dict[tuple[int, np.dtype], SharedMemory] = {}  # by size and dtype
        self._watchdog: Watchdog | None = None
        self.hosts = self.gather(platform.node())
        names = [f"rank {rank} on {host}" for rank, host in enumerate(self.hosts)]
        if MPI.Query_thread() == MPI.THREAD_MULTIPLE:  # otherwise a second thread may not call MPI
            self._watchdog = Watchdog(communicator.Dup(), names, timeout())

    def all_reduce(self, flat: Array) -> None:
        if not flat.flags.c_contiguous:
            raise InvalidValueError(
                "the array is not contiguous, expected one in C order; the sum would go into a"
                " copy, and be lost"
            )
        if is_device_array(flat):
            self._device = self._device or device_sum(self, flat)
            self._device.all_reduce(flat)
        else:
            self.all_reduce_on_host(flat)

    def all_reduce_on_host(self, flat: np.ndarray) -> None:
        """`all_reduce` of a NumPy array."""
        with self.waiting():
            shared = self._shared.get((flat.size, flat.dtype))
            if shared is not None and shared.holds(flat):
                shared.all_reduce()
                return
            if flat.size > MAX_GATHERED:
                numbers = PIECE // flat.itemsize
                for start in range(0, flat.size, numbers):
                    piece = flat.reshape(-1)[start : start + numbers]
                    self._communicator.Allreduce(self._mpi.IN_PLACE, piece)
                return
            gathered = np.empty((self.size, *flat.shape), flat.dtype)
            self._communicator.Allgather(np.ascontiguousarray(flat), gathered)
            flat[...] = gathered.sum(axis=0)

    def sum_buffer(self, like: Array) -> Array | None:
        if is_device_array(like) or self.local_size < self.size:
            return None
        key = like.size, like.dtype
        if key not in self._shared:
            if self.max(not has_room(self.size * like.nbytes)):
                return None
            with self.waiting():
                self._shared[key] = SharedMemory(self._communicator, *key)
        return self._shared[key].array

    def max(self, number: int) -> int:
        largest = np.array([number], np.int64)
        with self.waiting():
            self._communicator.Allreduce(self._mpi.IN_PLACE, largest, self._mpi.MAX)
        return int(largest[0])

    def gather(self, thing: Any) -> list[Any]:
        content = np.frombuffer(json.dumps(thing).encode(), np.uint8)
        lengths = np.empty(self.size, np.int64)
        with self.waiting():
            self._communicator.Allgather(np.array([len(content)], np.int64), lengths)
            contents = np.empty(int(lengths.sum()), np.uint8)
            self._communicator.Allgatherv(content, [contents, lengths])
        ends = np.cumsum(lengths)
        return [
            json.loads(contents[end - length : end].tobytes())
            for end, length in zip(ends, lengths, strict=True)
        ]

    def barrier(self) -> None:
        with self.waiting():
            self._communicator.Barrier()

    def waiting(self, *, call: bool = True) -> AbstractContextManager[None]:
        if self._watchdog is None:
            return super().waiting(call=call)
        return self._watchdog.waiting(call=call)

    def abort(self, status: int) -> None:
        _abort(self._communicator, status)

    @property
    def library(self) -> str:
        """Name and version of the MPI library."""
        first, *_ = self._mpi.Get_library_version().split("\n")
        return " ".join(first.replace("\0", " ").split()[:4]).rstrip(",")


def world(size: int) -> MPIGroup:
    """The group of all `size` processes of the launcher; ranks of a machine divide its cores.

    GroupError : mpi4py finds no MPI library, or one that does not know the launcher.
    OptionError : a bad XPCAP_RANK_TIMEOUT.
    """
    timeout()
    try:
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:
        raise GroupError(
            f"mpi4py cannot load an MPI library ({error}), expected an MPI library;"
            f" {install('mpi')} installs one, with its mpiexec"
        ) from error
    if MPI.COMM_WORLD.Get_size() != size:
        raise GroupError(
            f"the launcher started {size} processes, and mpi4py's MPI,"
            f" {MPI.Get_library_version().split(chr(10))[0][:60]!r}, knows"
            f" {MPI.COMM_WORLD.Get_size()}, expected the same; use the mpiexec of the MPI that"
            " mpi4py loads"
        )
    group = MPIGroup(MPI.COMM_WORLD)
    _divide_cores(group)
    return group


def _divide_cores(group: MPIGroup) -> None:
    """Limit BLAS to this rank's share of cores, unless the launcher or the user has divided them."""
    cores = list(range(os.cpu_count() or 1))
    if hasattr(os, "sched_getaffinity"):
        cores = sorted(os.sched_getaffinity(0))
    host_cores = [group.hosts[group.rank], cores]
    sharing = group.gather(host_cores).count(host_cores)  # ranks that may use the same cores
    if not any(name in os.environ for name in THREADS):
        limit_cores(max(1, len(cores) // sharing))
