"""Sums over ranks of arrays that lie on devices: by NCCL where each rank has a device of its own, else through page-locked host memory and MPI."""

import json
from typing import Any, Protocol

import numpy as np

from xpcap.backend import Array, get_array_module, import_nccl


class DeviceSum(Protocol):
    """Sums device arrays over the ranks of a group."""

    name: str

    def add(self, flat: Array) -> None:
        """Sum a contiguous array of floats over all ranks, in place; every rank gets the same bits. The sum is launched, not waited for."""


class NCCL:
    """Device to device. MPI passes on the id that NCCL's ranks find each other by.

    Parameters
    ----------
    nccl : the module cupy.cuda.nccl
    group : the ranks; each has made its device the current one
    """

    name = "NCCL"

    def __init__(self, nccl: Any, group: Any, xp: Any) -> None:
        (first, *_) = group.collect(bytes(nccl.get_unique_id()).hex() if group.rank == 0 else "")
        self._nccl, self._xp = nccl, xp
        self._kinds = {"f4": nccl.NCCL_FLOAT32, "f8": nccl.NCCL_FLOAT64}
        self._communicator = nccl.NcclCommunicator(group.size, bytes.fromhex(first), group.rank)

    def add(self, flat: Array) -> None:
        """Launched on the current stream, behind the gradients and before their use."""
        kind, stream = self._kinds[flat.dtype.str[1:]], self._xp.cuda.get_current_stream().ptr
        self._communicator.allReduce(flat.data.ptr, flat.data.ptr, flat.size, kind, self._nccl.NCCL_SUM, stream)


class Staged:
    """Through page-locked memory of the host, where MPI sums."""

    name = "MPI, through page-locked host memory"

    def __init__(self, group: Any, xp: Any) -> None:
        self._group, self._xp = group, xp
        self._host = np.empty(0, np.uint8)

    def add(self, flat: Array) -> None:
        """Waits for the device: the host has to see the numbers."""
        if self._host.nbytes < flat.nbytes:
            self._host = np.frombuffer(self._xp.cuda.alloc_pinned_memory(flat.nbytes), np.uint8, flat.nbytes)
        host = np.ndarray(flat.shape, flat.dtype, self._host.data)
        flat.get(out=host)
        self._group.add_on_host(host)
        stream = self._xp.cuda.get_current_stream()
        flat.set(host, stream=stream)
        stream.synchronize()  # the next sum writes to the same memory


def device_sum(group: Any, like: Array) -> DeviceSum:
    """NCCL if all ranks have it and no two share a device, which it refuses; else Staged. All ranks choose the same."""
    xp, nccl = get_array_module(like), import_nccl()
    where = [group.hosts[group.rank], xp.cuda.Device().pci_bus_id]
    everyone = [json.loads(text) for text in group.collect(json.dumps([nccl is not None, *where]))]
    alone = len({tuple(place) for _, *place in everyone}) == group.size
    if nccl is not None and alone and all(has for has, *_ in everyone):
        return NCCL(nccl, group, xp)
    return Staged(group, xp)
