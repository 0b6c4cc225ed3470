"""The emulated binding of NCCL, cupy.cuda.nccl: communicators between threads, each a rank with a
device, and sums of memory at addresses.

Signatures and numbers are those of CuPy 14.2's binding with NCCL 2.32, read from it; like cuBLAS's
it takes any address, and here each has to lie in an array.
"""

import threading
from typing import Any

import numpy as np

from emulated import memory, real
from emulated.cuda import Module
from emulated.record import EMULATOR

CREATE = "NcclCommunicator(int ndev, bytes commId, int rank, NcclConfig config=None)"
ALL_REDUCE = (
    "allReduce(intptr_t sendbuf, intptr_t recvbuf, size_t count, int datatype, int op, intptr_t"
    " stream)"
)
DTYPES = {7: np.dtype(np.float32), 8: np.dtype(np.float64)}
ID_BYTES = 128

_meetings: dict[bytes, tuple[threading.Barrier, list[Any]]] = {}
_lock = threading.Lock()


def get_unique_id() -> bytes:
    """A fresh id; whoever has it can meet under it."""
    with _lock:
        made = f"emulated {len(_meetings)}".encode().ljust(ID_BYTES, b"\0")
        _meetings[made] = (None, [])  # type: ignore[assignment]  # until the first rank says how many there are
    return made


class NcclCommunicator:
    """A rank's end of a communicator; made when all ranks are."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        given = real.documented(CREATE).bind(*args, **kwargs).arguments
        self.size, self._id, self.rank = given["ndev"], given["commId"], given["rank"]
        if not isinstance(self._id, bytes) or self._id not in _meetings:
            raise RuntimeError(
                "NCCL_ERROR_INVALID_ARGUMENT: commId is none that get_unique_id gave, as bytes"
            )
        with _lock:
            barrier, _ = _meetings[self._id]
            if barrier is None:
                _meetings[self._id] = threading.Barrier(self.size), [None] * self.size
        self._barrier, self._brought = _meetings[self._id]
        self._barrier.wait()

    def allReduce(self, *args: Any, **kwargs: Any) -> None:  # noqa: N802 - its name
        given = real.documented(ALL_REDUCE).bind(*args, **kwargs).arguments
        if given["op"] != 0 or given["stream"] != EMULATOR.stream_ptr:
            raise ValueError(
                f"allReduce: op {given['op']}, stream {given['stream']}: only sums on the current"
                " stream are modelled"
            )
        dtype = DTYPES[given["datatype"]]
        sent, received = (
            self._array(given[key], given["count"], dtype) for key in ("sendbuf", "recvbuf")
        )
        self._brought[self.rank] = sent.copy()
        self._barrier.wait()
        total = np.sum(self._brought, axis=0, dtype=dtype)
        self._barrier.wait()
        received[...] = total
        EMULATOR.launch("nccl", "allReduce")

    @staticmethod
    def _array(address: int, count: int, dtype: np.dtype) -> np.ndarray:
        block = memory.find(address)
        if (
            block is None
            or block.dtype != dtype
            or address + count * dtype.itemsize > block.start + block.nbytes
        ):
            raise ValueError(
                f"allReduce: {count} numbers of {dtype} at {address:#x} lie in no array of the"
                " device of that dtype"
            )
        block.use()
        owner = block.owner()
        assert owner is not None
        return owner.reshape(-1)[(address - block.start) // dtype.itemsize :][:count]


def namespace(available: bool = True) -> Module:
    """cupy.cuda.nccl, of a machine with NCCL's library or without."""
    if not available:
        return Module("cuda.nccl", available=False)
    return Module(
        "cuda.nccl",
        available=True,
        get_unique_id=get_unique_id,
        NcclCommunicator=NcclCommunicator,
        NCCL_FLOAT32=7,
        NCCL_FLOAT64=8,
        NCCL_SUM=0,
    )
