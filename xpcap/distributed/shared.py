"""Sums over the ranks of one machine in memory that they share: each rank sums a part for all, block by block, so that it stays in the cache."""

import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np

BLOCK = 1 << 16  # numbers
PLACE = Path("/dev/shm")  # where MPI libraries take shared memory from; without room there, writing to it ends the process


class SharedMemory:
    """An array of each rank that all of them see.

    Parameters
    ----------
    communicator : of ranks on one machine
    count, dtype : of each rank's array

    Attributes
    ----------
    mine : this rank's array (count,)
    """

    def __init__(self, communicator: Any, count: int, dtype: np.dtype) -> None:
        from mpi4py import MPI

        self._communicator = communicator
        self._window = MPI.Win.Allocate_shared(count * dtype.itemsize, dtype.itemsize, comm=communicator)
        self._window.Lock_all(MPI.MODE_NOCHECK)
        size = communicator.Get_size()
        buffers: list[Any] = [self._window.Shared_query(rank)[0] for rank in range(size)]
        self._arrays = [np.frombuffer(buffer, dtype) for buffer in buffers]
        self.mine = self._arrays[communicator.Get_rank()]

    def holds(self, flat: np.ndarray) -> bool:
        """Whether an array is this rank's, or a view of all of it."""
        return flat.nbytes == self.mine.nbytes and flat.ctypes.data == self.mine.ctypes.data

    def add(self) -> None:
        """Sum the ranks' arrays into each of them, in the order of ranks. Returns when all have done their part."""
        self._meet()
        rank, size, count = self._communicator.Get_rank(), len(self._arrays), len(self.mine)
        first, *others = self._arrays
        end = count * (rank + 1) // size
        for start in range(count * rank // size, end, BLOCK):
            block = slice(start, min(start + BLOCK, end))
            total = first[block]
            for other in others:
                total += other[block]
            for other in others:
                other[block] = total
        self._meet()

    def _meet(self) -> None:
        """All ranks have come here, and see what each has written."""
        self._window.Sync()
        self._communicator.Barrier()
        self._window.Sync()


def has_room(nbytes: int) -> bool:
    """Whether so many bytes of shared memory are likely to be there, and as many again."""
    return (shutil.disk_usage(PLACE).free if PLACE.is_dir() else math.inf) > 2 * nbytes
