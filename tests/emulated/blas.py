"""The emulated cupy.cuda.cublas: raw products of matrices at addresses, checked as strictly as arrays
are.

The real one takes any numbers: a wrong address, size or leading dimension reads or writes what lies
there. Here each matrix has to lie in one allocation of the current device, of the right dtype. What
a bigger buffer hides is in `Counts.products`.
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
from emulated.record import EMULATOR, Footprint

MISSING = "emulated device: cuBLAS cannot be loaded (configured with cublas=False)"
_addresses = itertools.count(0x5EED0, 16)  # of handles
NAMES = "handle transa transb m n k alpha A lda B ldb beta C ldc".split()


class Call:
    """C = alpha op(A) op(B) + beta C, column by column: op(A) is m x k, op(B) k x n, C m x n."""

    def __init__(self, name: str, dtype: np.dtype, given: dict[str, Any]) -> None:
        self.name, self.dtype = name, dtype
        self.numbers = {key: self._integer(key, value) for key, value in given.items()}

    def _integer(self, key: str, value: Any) -> int:
        try:
            number = operator.index(value)  # the binding would cut a float down
        except TypeError:
            raise TypeError(
                f"{self.name}: {key} is a {type(value).__name__}, expected an int; arrays and"
                " scalars are passed by address"
            ) from None
        bits = 64 if key in ("handle", "alpha", "beta", "A", "B", "C") else 31
        if not 0 <= number < 2**bits:
            raise ValueError(f"{self.name}: {key} is {number}, expected 0 to 2^{bits} - 1")
        return number

    def run(self) -> None:
        v = self.numbers
        self.check_handle()
        for key in ("transa", "transb"):
            if v[key] not in (0, 1):
                raise ValueError(
                    f"{self.name}: {key} is {v[key]}, expected CUBLAS_OP_N = 0 or CUBLAS_OP_T = 1"
                )
        m, n, k = v["m"], v["n"], v["k"]
        a = self._footprint("A", (k, m) if v["transa"] else (m, k))
        b = self._footprint("B", (n, k) if v["transb"] else (k, n))
        c = self._footprint("C", (m, n))
        alpha, beta = self._scalar("alpha"), self._scalar("beta")
        if not m or not n:
            return  # as documented: nothing to compute, and no launch
        A, B, C = (
            self._matrix(key, footprint) for key, footprint in (("A", a), ("B", b), ("C", c))
        )
        for key, other in (("A", A), ("B", B)):
            if np.shares_memory(C, other):
                raise ValueError(
                    f"{self.name}: C overlaps {key}, expected memory of its own; cuBLAS reads and"
                    " writes in no fixed order"
                )
        for address in (a.address, b.address, c.address):
            if block := memory.find(address):
                block.use()
        with np.errstate(all="ignore"):
            product = alpha * ((A.T if v["transa"] else A) @ (B.T if v["transb"] else B))
            C[...] = product + beta * C if beta else product  # with beta 0, C is not read
        EMULATOR.multiply(self.name, a, b, c)

    def check_handle(self) -> None:
        handle = EMULATOR.handles.get(self.numbers["handle"])
        if handle is None:
            raise ValueError(
                f"{self.name}: handle {self.numbers['handle']:#x} was never created, or is"
                " destroyed by now"
            )
        if handle.thread != threading.get_ident():
            raise ValueError(f"{self.name}: the handle belongs to another thread")
        if handle.device != EMULATOR.current:
            raise ValueError(
                f"{self.name}: the handle belongs to device {handle.device}, and device"
                f" {EMULATOR.current} is the current one"
            )

    def _footprint(self, key: str, shape: tuple[int, int]) -> Footprint:
        ld = self.numbers[f"ld{key.lower()}"]
        if ld < max(1, shape[0]):
            raise ValueError(
                f"{self.name}: ld{key.lower()} is {ld}, expected at least the {max(1, shape[0])}"
                f" rows of {key}, which has shape {shape}"
            )
        return Footprint(self.numbers[key], *shape, ld, self.dtype.itemsize)

    def _scalar(self, key: str) -> Any:
        address = self.numbers[key]
        if memory.find(address):
            raise ValueError(
                f"{self.name}: {key} is an address on the device, expected one on the host; cuBLAS"
                " reads it there"
            )
        if not address or address % self.dtype.itemsize:
            raise ValueError(
                f"{self.name}: {key} is {address:#x}, expected the address of a {self.dtype} on the"
                " host"
            )
        return np.frombuffer(ctypes.string_at(address, self.dtype.itemsize), self.dtype)[0]

    def _matrix(self, key: str, footprint: Footprint) -> np.ndarray:
        """The matrix as NumPy sees it: `footprint` held against the allocation that it begins
        in.
        """
        shape = footprint.rows, footprint.columns
        who = (
            f"{self.name}: {key} of shape {shape} with ld {footprint.ld} at {footprint.address:#x}"
        )
        if not footprint.nbytes:
            return np.empty(shape, self.dtype)
        block = memory.find(footprint.address)
        if block is None:
            raise ValueError(
                f"{who} lies in no array of the device, expected x.data.ptr of one that is alive"
            )
        if block.device != EMULATOR.current:
            raise ValueError(
                f"{who} lies on device {block.device}, and device {EMULATOR.current} is the"
                " current one"
            )
        if block.dtype != self.dtype:
            raise TypeError(f"{who} lies in memory of {block.dtype}, expected {self.dtype}")
        offset = footprint.address - block.start
        if offset % self.dtype.itemsize:
            raise ValueError(
                f"{who} begins inside an element, {offset} bytes into its allocation; an offset"
                " counts bytes, not elements"
            )
        if offset + footprint.nbytes > block.nbytes:
            raise ValueError(
                f"{who} ends {offset + footprint.nbytes - block.nbytes} bytes beyond its allocation"
                f" of {block.nbytes} bytes"
            )
        held = (ctypes.c_char * footprint.nbytes).from_address(footprint.address)
        return np.ndarray(
            shape,
            self.dtype,
            held,
            strides=(self.dtype.itemsize, footprint.ld * self.dtype.itemsize),
        )


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


def _gemm(name: str, dtype: type, *args: int) -> None:
    if len(args) != len(NAMES):
        raise TypeError(f"{name}() takes exactly {len(NAMES)} positional arguments")
    Call(name, np.dtype(dtype), dict(zip(NAMES, args, strict=True))).run()


CUBLAS = Module(
    "cuda.cublas",
    "is not modelled; add it to tests/emulated/blas.py",
    sgemm=functools.partial(_gemm, "sgemm", np.float32),
    dgemm=functools.partial(_gemm, "dgemm", np.float64),
    getVersion=lambda handle: 130000,
)
