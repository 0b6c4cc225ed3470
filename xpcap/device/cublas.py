"""Products by cuBLAS's own gemm, called without CuPy: no copy, slice or allocation.

cuBLAS sees columns where our arrays have rows: a row-major (n, k) matrix is a column-major (k, n)
one. So out = x @ w is computed as out.T = w.T @ x.T, and a matrix whose transpose is row-major is
passed with the flag for a transposed factor. A raw call checks nothing, so factors are checked here.

Each product runs by the `Handle` of the current stream. cuBLAS chooses an algorithm, and thereby the
bits, by the memory that a handle has: all have as much, so launches one by one and in a graph agree.
A product may be several kernels that share this memory, so the thread that launches one holds the
`LAUNCH_LOCK`: no other product of the stream, and no graph, comes between.
"""

import contextlib
import ctypes
import functools
import os
import sys
import threading
import weakref
from collections.abc import Callable, MutableMapping, Sequence
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from xpcap.device import Array
from xpcap.device.launch import current_device
from xpcap.device.replay import LAUNCH_LOCK, note
from xpcap.errors import InvalidTypeError, InvalidValueError, XpcapError

MultiplyRows = Callable[[int, int, int], None]

GEMM = {"f": "cublasSgemm_v2", "d": "cublasDgemm_v2"}  # by NumPy's character for the dtype
# 0 and 1 in the host's memory, where cuBLAS reads beta and alpha, and their addresses
FACTORS = {real: np.array([0, 1], real) for real in GEMM}
ZERO = {real: pair.ctypes.data for real, pair in FACTORS.items()}
ONE = {real: pair.ctypes.data + pair.itemsize for real, pair in FACTORS.items()}
# Variables by which cuBLAS computes products in less than float32, or imitates it
REDUCED_PRECISION = (
    "NVIDIA_TF32_OVERRIDE",
    "CUBLAS_EMULATE_SINGLE_PRECISION",
    "CUBLAS_EMULATION_STRATEGY",
)
AS_IT_IS, TRANSPOSED = 0, 1  # CUBLAS_OP_N and CUBLAS_OP_T
WORKSPACE = 32 << 20  # bytes for a handle, as NVIDIA advises for its largest cards
PER_THREAD_STREAM = 2  # the address by which every thread means a default stream of its own

_INT, _ADDRESS = ctypes.c_int, ctypes.c_void_p
_MATRIX = _ADDRESS, _INT  # and its leading dimension
_TYPES = {
    **dict.fromkeys(
        GEMM.values(), (_ADDRESS, *[_INT] * 5, _ADDRESS, *_MATRIX, *_MATRIX, _ADDRESS, *_MATRIX)
    ),
    "cublasCreate_v2": (ctypes.POINTER(_ADDRESS),),
    "cublasDestroy_v2": (_ADDRESS,),
    "cublasSetStream_v2": (_ADDRESS, _ADDRESS),
    "cublasSetWorkspace_v2": (_ADDRESS, _ADDRESS, ctypes.c_size_t),
}


def reduced_precision(names: Sequence[str] = REDUCED_PRECISION) -> list[str]:
    """The variables of the environment, as NAME=value, that take products out of float32."""
    set_to = {name: os.environ.get(name, "0") for name in names}
    return [f"{name}={value}" for name, value in set_to.items() if value not in ("", "0")]


def library_name(version: int) -> str:
    """The file name of cuBLAS of a major version; on Linux, more of its version may follow."""
    return f"cublas64_{version}.dll" if sys.platform == "win32" else f"libcublas.so.{version}"


def load_library(version: int) -> Any:
    """cuBLAS of a major version, which CuPy has loaded; OSError if it cannot be found.

    By the path of what cuda-pathfinder loaded for CuPy: by its name alone, Windows may find another
    file.
    """
    name, path = library_name(version), None
    with contextlib.suppress(ImportError, RuntimeError):  # CuPy did without, or from elsewhere
        from cuda import pathfinder

        path = pathfinder.load_nvidia_dynamic_lib("cublas").abs_path
    return ctypes.CDLL(path if path and name in path.lower() else name)


@functools.cache
def _library(xp: ModuleType) -> Any:
    """cuBLAS itself, with the types of the functions that are called; their errors are raised.

    ImportError, OSError : it cannot be found.
    """
    _ = xp.cuda.cublas  # loads the library, from a wheel or from the system
    library = load_library(xp.cuda.runtime.runtimeGetVersion() // 1000)  # as CUDA's
    for name, types in _TYPES.items():
        function = getattr(library, name)
        function.argtypes, function.errcheck = types, _raise_status
    return library


def _raise_status(status: int, function: Any, args: Any) -> int:
    """Raise RuntimeError if cuBLAS refuses a call."""
    if status:
        raise RuntimeError(f"cuBLAS refuses {function.__name__}: status {status}")
    return status


class Handle:
    """A handle of cuBLAS with memory, for products on one stream of a device.

    xp : CuPy
    device : number of this thread's current device
    stream : address
    memory : that of another handle, whose work is never done at the same time; None: new
    """

    def __init__(
        self, xp: ModuleType, device: int, stream: int, memory: Array | None = None
    ) -> None:
        self._xp, self._library, self.device = xp, _library(xp), device
        self.gemm = {real: getattr(self._library, name) for real, name in GEMM.items()}
        self._memory = xp.empty(WORKSPACE, np.uint8) if memory is None else memory
        address = _ADDRESS()
        with LAUNCH_LOCK:
            self._library.cublasCreate_v2(ctypes.byref(address))
        self.address = int(address.value or 0)
        # Not at the end of the process, when the driver may be gone already
        weakref.finalize(self, _destroy, self._library, self.address).atexit = False
        self._use(stream)

    def _use(self, stream: int) -> None:
        """Give the handle to a stream. cuBLAS then forgets its memory, so it gets that again."""
        self._library.cublasSetStream_v2(self.address, stream)
        memory = self._memory
        self._library.cublasSetWorkspace_v2(self.address, memory.data.ptr, memory.nbytes)
        self.stream = stream

    @functools.cached_property
    def _twin(self) -> "Handle":
        return Handle(self._xp, self.device, self.stream, self._memory)

    def on(self, stream: int) -> "Handle":
        """This handle; for another stream, which captures, its twin with the same memory.

        The device does not work for both at once: a graph is launched on this handle's stream. The
        twin lasts as long as this handle, which the nodes of a graph keep alive.
        """
        if stream == self.stream:
            return self
        self._twin._use(stream)
        return self._twin


def _destroy(library: Any, address: int) -> None:
    with LAUNCH_LOCK:
        library.cublasDestroy_v2(address)


# By stream, with which they go, and device: the null stream is one of each device
_handles: MutableMapping[object, dict[int, Handle]] = weakref.WeakKeyDictionary()


def _handle(out: Array) -> Handle:
    """The handle for a product; ValueError if `out` is not on this thread's device."""
    xp, device = current_device("cuBLAS", out)
    stream = xp.cuda.get_current_stream()
    owner = threading.current_thread() if stream.ptr == PER_THREAD_STREAM else stream
    handles = _handles.setdefault(owner, {})
    if device not in handles:
        with LAUNCH_LOCK:
            handles[device] = handles.get(device) or Handle(xp, device, stream.ptr)
    return handles[device]


class Product(NamedTuple):
    """A product by gemm, prepared."""

    handle: Handle  # alive as long as the product
    gemm: Callable[..., int]
    arguments: tuple[int, ...]
    arrays: tuple[Array, ...]  # x, w, out: an address keeps no memory alive

    def call(self, stream: int) -> Callable[[], object]:
        types = self.gemm.argtypes  # type: ignore[attr-defined]
        arguments = self.handle.on(stream).address, *self.arguments[1:]
        prepared = [type_(x) for type_, x in zip(types, arguments, strict=True)]
        return functools.partial(self.gemm, *prepared)


def _run(product: Product) -> None:
    with LAUNCH_LOCK:
        product.gemm(*product.arguments)
    note(product)


def layout(x: Array) -> tuple[int, int]:
    """Flag and leading dimension of a factor that is row-major, or whose transpose is."""
    return (AS_IT_IS, x.shape[1]) if x.flags.c_contiguous else (TRANSPOSED, x.shape[0])


def _check(x: Array, w: Array, out: Array) -> None:
    """Raise TypeError or ValueError if gemm cannot compute out = x @ w from these."""
    array, dtype, flags = sys.modules["cupy"].ndarray, out.dtype, out.flags
    if dtype.char in GEMM and flags.c_contiguous and out.ndim == 2:
        for factor in (x, w):
            if not isinstance(factor, array) or factor.dtype != dtype or factor.ndim != 2:
                break
            if not _is_dense(factor.flags):
                break
        else:
            return
    raise _refused(x, w, out)


def _refused(x: Array, w: Array, out: Array) -> XpcapError:
    refused: type[XpcapError] = InvalidValueError
    for name, array in (("out", out), ("x", x), ("w", w)):
        if not isinstance(array, sys.modules["cupy"].ndarray):
            kind = f"{type(array).__module__}.{type(array).__name__}"
            refused, got = InvalidTypeError, f"is a {kind}"
        elif array.dtype.char not in GEMM or array.dtype != out.dtype:
            refused, got = InvalidTypeError, f"has dtype {array.dtype}"
        elif array.ndim != 2:
            got = f"has shape {array.shape}"
        elif not (array.flags.c_contiguous or (array is not out and _is_dense(array.flags))):
            got = f"has strides {array.strides} for shape {array.shape}"
        else:
            continue
        expected = f"a matrix of {out.dtype} on the device, its rows without gaps"
        return refused("cuBLAS", name, got, expected)
    raise AssertionError("gemm takes all three")


def _is_dense(flags: Any) -> bool:
    return flags.c_contiguous or flags.f_contiguous


def multiply(x: Array, w: Array, out: Array, beta: dict[str, int] = ZERO) -> Array:
    """out = x @ w + beta * out."""
    _check(x, w, out)
    handle = _handle(out)
    (n, k), m, real = x.shape, w.shape[1], out.dtype.char
    (flag_x, leading_x), (flag_w, leading_w) = layout(x), layout(w)
    factors = w.data.ptr, leading_w, x.data.ptr, leading_x
    sizes = handle.address, flag_w, flag_x, m, n, k
    arguments = (*sizes, ONE[real], *factors, beta[real], out.data.ptr, m)
    _run(Product(handle, handle.gemm[real], arguments, (x, w, out)))
    return out


def multiply_rows(x: Array, w: Array, out: Array, beta: dict[str, int] = ZERO) -> MultiplyRows:
    """out[o : o + n] = x[i : i + n] @ w + beta * out[o : o + n], for each call with (i, o, n)."""
    _check(x, w, out)
    if not x.flags.c_contiguous:
        got = f"has strides {x.strides} for shape {x.shape}"
        raise InvalidValueError("cuBLAS", "x", got, expected="rows without gaps")
    handle, real = _handle(out), out.dtype.char
    (k, m), (flag, leading), size, gemm = w.shape, layout(w), out.itemsize, handle.gemm[real]
    from_x, to_out, w_at = x.data.ptr, out.data.ptr, w.data.ptr
    alpha_at, beta_at, x_row, out_row, arrays = (
        ONE[real],
        beta[real],
        k * size,
        m * size,
        (x, w, out),
    )

    def multiply(i: int, o: int, n: int) -> None:
        x_at, out_at = from_x + i * x_row, to_out + o * out_row
        sizes = handle.address, flag, AS_IT_IS, m, n, k
        arguments = (*sizes, alpha_at, w_at, leading, x_at, k, beta_at, out_at, m)
        _run(Product(handle, gemm, arguments, arrays))

    return multiply
