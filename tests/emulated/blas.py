"""The emulated cupy.cuda.cublas: raw products of matrices at addresses, checked as strictly as arrays
are.

The real one takes any numbers: a wrong address, size or leading dimension reads or writes what lies
there. Here each matrix has to lie in one allocation of the current device, of the right dtype.
"""

import ctypes
import functools
import itertools
import operator
import threading
from typing import Any

import numpy as np

from emulated import memory
from emulated.cuda import Module
from emulated.record import EMULATOR

MISSING = "emulated device: cuBLAS cannot be loaded (configured with cublas=False)"
_addresses = itertools.count(0x5EED0, 16)  # of handles
NAMES = "handle transa transb m n k alpha A lda B ldb beta C ldc".split()


def gemm(name: str, dtype: Any, *args: int) -> None:
    """C = alpha op(A) op(B) + beta C, column by column: op(A) is m x k, op(B) k x n, C m x n."""
    v = {key: _integer(key, value) for key, value in zip(NAMES, args, strict=True)}
    _check_handle(v["handle"])
    for key in ("transa", "transb"):
        if v[key] not in (0, 1):
            raise ValueError(f"{key} is {v[key]}, expected CUBLAS_OP_N = 0 or CUBLAS_OP_T = 1")
    m, n, k = v["m"], v["n"], v["k"]
    shapes = {
        "A": (k, m) if v["transa"] else (m, k),
        "B": (n, k) if v["transb"] else (k, n),
        "C": (m, n),
    }
    for key, (rows, _) in shapes.items():
        if v[f"ld{key.lower()}"] < max(1, rows):
            got = v[f"ld{key.lower()}"]
            raise ValueError(
                f"ld{key.lower()} is {got}, expected at least the {rows} rows of {key}"
            )
    alpha, beta = (_scalar(key, v[key], dtype) for key in ("alpha", "beta"))
    if not m or not n:
        return  # as documented: nothing to compute, and no launch
    A, B, C = (_matrix(key, v[key], *shapes[key], v[f"ld{key.lower()}"], dtype) for key in shapes)
    for key, other in (("A", A), ("B", B)):
        if np.shares_memory(C, other):
            raise ValueError(f"C overlaps {key}: cuBLAS reads and writes in no fixed order")
    with np.errstate(all="ignore"):
        # By rows, as NumPy lays a product out: on the host the bits are then those of matmul
        product = alpha * ((B if v["transb"] else B.T) @ (A if v["transa"] else A.T)).T
        C[...] = product + beta * C if beta else product  # with beta 0, C is not read
    EMULATOR.launch("product", name)


def _integer(key: str, value: Any) -> int:
    try:
        number = operator.index(value)  # the binding would cut a float down
    except TypeError:
        raise TypeError(f"{key} is a {type(value).__name__}, expected an int") from None
    bits = 64 if key in ("handle", "alpha", "beta", "A", "B", "C") else 31
    if not 0 <= number < 2**bits:
        raise ValueError(f"{key} is {number}, expected 0 to 2^{bits} - 1")
    return number


def _check_handle(address: int) -> None:
    handle = EMULATOR.handles.get(address)
    if handle is None:
        raise ValueError(f"handle {address:#x} was never created, or is destroyed by now")
    if handle.thread != threading.get_ident():
        raise ValueError("the handle belongs to another thread")
    if handle.device != EMULATOR.current:
        raise ValueError(
            f"the handle belongs to device {handle.device}, and device {EMULATOR.current} is the"
            " current one"
        )


def _scalar(key: str, address: int, dtype: np.dtype) -> Any:
    if memory.find(address) or not address or address % dtype.itemsize:
        raise ValueError(f"{key} is {address:#x}, expected the address of a {dtype} on the host")
    return np.frombuffer(ctypes.string_at(address, dtype.itemsize), dtype)[0]


def _matrix(key: str, address: int, rows: int, columns: int, ld: int, dtype: Any) -> np.ndarray:
    """The matrix as NumPy sees it, held against the allocation that it begins in."""
    if not (rows and columns):
        return np.empty((rows, columns), dtype)
    nbytes, block = (ld * (columns - 1) + rows) * dtype.itemsize, memory.find(address)
    if block is None:
        raise ValueError(f"{key} lies in no array of the device that is alive")
    if block.device != EMULATOR.current:
        raise ValueError(
            f"{key} lies on device {block.device}, and device {EMULATOR.current} is the current one"
        )
    if block.dtype != dtype:
        raise TypeError(f"{key} lies in memory of {block.dtype}, expected {dtype}")
    offset = address - block.start
    if offset % dtype.itemsize:
        raise ValueError(f"{key} begins inside an element; an offset counts bytes, not elements")
    if beyond := max(0, offset + nbytes - block.nbytes):
        raise ValueError(
            f"{key} of shape {(rows, columns)} with ld {ld} ends {beyond} bytes beyond its"
            f" allocation of {block.nbytes} bytes"
        )
    block.use()
    held = (ctypes.c_char * nbytes).from_address(address)
    strides = dtype.itemsize, ld * dtype.itemsize
    return np.ndarray((rows, columns), dtype, held, strides=strides)


class Handle:
    """A handle of a thread and a device, which ends with its thread."""

    def __init__(self) -> None:
        self.device, self.thread = EMULATOR.current, threading.get_ident()
        self.address = next(_addresses)
        EMULATOR.handles[self.address] = self


def get_cublas_handle() -> int:
    """The address of this thread's handle for its current device."""
    if not EMULATOR.cublas:
        raise ImportError(MISSING)
    EMULATOR.bind()
    handles = EMULATOR.thread_handles
    if EMULATOR.current not in handles:
        handles[EMULATOR.current] = Handle()
    return int(handles[EMULATOR.current].address)


CUBLAS = Module(
    "cuda.cublas",
    sgemm=functools.partial(gemm, "sgemm", np.dtype(np.float32)),
    dgemm=functools.partial(gemm, "dgemm", np.dtype(np.float64)),
    getVersion=lambda handle: 130000,
)
