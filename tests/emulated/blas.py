"""The emulated binding of cuBLAS, cupy.cuda.cublas: raw products of matrices at addresses, checked
as strictly as arrays are.

The real one takes any numbers: a wrong address, size or leading dimension reads or writes what lies
there. Here each matrix has to lie in one allocation of the current device, of the right dtype. What
a bigger buffer hides is in `Counts.products`.
"""

import ctypes
import functools
import operator
import threading
from typing import Any

import numpy as np

from emulated import memory, real
from emulated.cuda import Module
from emulated.record import EMULATOR, Footprint

MISSING = "emulated device: the binding of cuBLAS cannot be loaded (configured with cublas=False)"
SIGNATURE = (
    "(intptr_t handle, int transa, int transb, int m, int n, int k, size_t alpha, size_t A, int"
    " lda, size_t B, int ldb, size_t beta, size_t C, int ldc)"
)
FIRST_HANDLE = 0x5EED0


def get_cublas_handle() -> int:
    """The handle of the current device, for this thread."""
    return handle_of(EMULATOR.current)


def handle_of(device: int) -> int:
    if not EMULATOR.cublas:
        raise ImportError(MISSING)
    key = device, threading.get_ident()
    return EMULATOR.handles.setdefault(key, FIRST_HANDLE + 16 * len(EMULATOR.handles))


class Cublas(Module):
    """The names of the real binding, where it can be loaded; elsewhere only what is modelled here
    is known.
    """

    def __init__(self) -> None:
        super().__init__("cuda.cublas", "is not modelled; add it to tests/emulated/blas.py")
        self.CUBLAS_OP_N, self.CUBLAS_OP_T = 0, 1
        self.getVersion = lambda handle: 130_000
        self.sgemm, self.dgemm = _gemm("sgemm", np.float32), _gemm("dgemm", np.float64)
        self.getMathMode = lambda handle: EMULATOR.math_mode
        self.getPointerMode = lambda handle: EMULATOR.pointer_mode

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except ImportError:
            raise NotImplementedError(
                f"emulated device: cupy.cuda.cublas.{name} {self._why}"
            ) from None


def _gemm(name: str, dtype: Any) -> Any:
    signature = real.documented(name + SIGNATURE)

    def call(*args: Any, **kwargs: Any) -> None:
        try:
            given = signature.bind(*args, **kwargs).arguments
        except TypeError as error:
            raise TypeError(f"cupy.cuda.cublas.{name}() {error}") from None
        if EMULATOR.capture is not None:
            raise NotImplementedError(
                "calling cuBLAS API during stream capture is currently unsupported"
            )
        EMULATOR.streams.pop(given["handle"], None)  # CuPy gives the handle to the current stream
        Call(name, np.dtype(dtype), given).run()

    call.__name__ = name
    return call


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
        self._check_handle(v["handle"])
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
        with np.errstate(all="ignore"):
            product = alpha * ((A.T if v["transa"] else A) @ (B.T if v["transb"] else B))
            C[...] = product + beta * C if beta else product  # with beta 0, C is not read
        EMULATOR.multiply(self.name, a, b, c)

    def _check_handle(self, handle: int) -> None:
        owners = {number: key for key, number in EMULATOR.handles.items()}
        if handle not in owners:
            raise ValueError(
                f"{self.name}: handle {handle:#x} was never given out, expected that of"
                " get_cublas_handle()"
            )
        device, thread = owners[handle]
        if device != EMULATOR.current:
            raise ValueError(
                f"{self.name}: the handle belongs to device {device}, and device {EMULATOR.current}"
                " is the current one"
            )
        if thread != threading.get_ident():
            raise ValueError(
                f"{self.name}: the handle belongs to another thread, expected that of"
                " get_cublas_handle() in this one"
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


class Library:
    """cuBLAS itself, as ctypes shows it: functions return a status, and take a handle's stream."""

    def __init__(self) -> None:
        for name, dtype in (("cublasSgemm_v2", np.float32), ("cublasDgemm_v2", np.float64)):
            setattr(self, name, Entry(functools.partial(self._gemm, name, np.dtype(dtype)), 14))
        self.cublasSetStream_v2 = Entry(self._set_stream, 2)
        self.cublasSetWorkspace_v2 = Entry(self._set_workspace, 3)

    def _set_stream(self, handle: int, stream: int) -> int:
        EMULATOR.streams[handle] = stream, False
        return 0

    def _set_workspace(self, handle: int, address: int, nbytes: int) -> int:
        block = memory.find(address)
        if handle not in EMULATOR.streams or block is None or block.nbytes < nbytes:
            return 7  # CUBLAS_STATUS_INVALID_VALUE
        EMULATOR.streams[handle] = EMULATOR.streams[handle][0], True
        return 0

    def _gemm(self, name: str, dtype: np.dtype, *args: int) -> int:
        names = [part.split()[-1] for part in SIGNATURE.strip("()").split(", ")]
        call, capture = Call(name, dtype, dict(zip(names, args, strict=True))), EMULATOR.capture
        stream, has_workspace = EMULATOR.streams.get(args[0], (0, False))
        if capture is None or stream != capture.stream.ptr or not has_workspace:
            return 14  # CUBLAS_STATUS_INTERNAL_ERROR: here it is called in a capture alone
        capture.work.append(call.run)
        return 0


class Entry:
    """A function of the library, whose arguments have to have types before it is called."""

    argtypes: tuple[Any, ...] | None = None

    def __init__(self, run: Any, count: int) -> None:
        self._run, self._count = run, count

    def __call__(self, *args: int) -> int:
        if self.argtypes is None or len(self.argtypes) != self._count != len(args):
            raise TypeError("ctypes would cut addresses down to 32 bits: argtypes are not set")
        for type_, value in zip(self.argtypes, args, strict=True):
            type_(value)
        return int(self._run(*args))


CUBLAS = Cublas()
LIBRARY = Library()
