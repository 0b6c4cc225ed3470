"""Products by cuBLAS's own gemm: no copy, slice or allocation, and half of cupy.dot's host time.

cuBLAS sees columns where our arrays have rows: a row-major (n, k) matrix is a column-major (k, n)
one. So out = x @ w is computed as out.T = w.T @ x.T, and a matrix whose transpose is row-major is
passed with the flag for a transposed factor. Each call runs on CuPy's current stream. A raw call
checks nothing, so factors are checked here.
"""

import ctypes
import functools
import os
import sys
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from xpcap.backend import Array, is_device_array
from xpcap.errors import InvalidTypeError, InvalidValueError, XpcapError
from xpcap.ops.base import MultiplyRows
from xpcap.ops.launch import current_device
from xpcap.ops.replay import note

GEMM = {"f": "sgemm", "d": "dgemm"}  # by NumPy's character for the dtype
# 0 and 1 in the host's memory, where cuBLAS reads beta and alpha, and their addresses
FACTORS = {real: np.array([0, 1], real) for real in GEMM}
ZERO = {real: pair.ctypes.data for real, pair in FACTORS.items()}
ONE = {real: pair.ctypes.data + pair.itemsize for real, pair in FACTORS.items()}
# Variables by which CuPy and cuBLAS compute products in less than float32, or imitate it
REDUCED_PRECISION = (
    "CUPY_TF32",
    "NVIDIA_TF32_OVERRIDE",
    "CUBLAS_EMULATE_SINGLE_PRECISION",
    "CUBLAS_EMULATION_STRATEGY",
)
AS_IT_IS, TRANSPOSED = 0, 1  # CUBLAS_OP_N and CUBLAS_OP_T


@functools.cache
def _binding(xp: ModuleType) -> Any:
    """CuPy's binding to cuBLAS; None where its library cannot be loaded."""
    try:
        return xp.cuda.cublas
    except ImportError:
        return None


def reduced_precision(names: Sequence[str] = REDUCED_PRECISION) -> list[str]:
    """The variables of the environment, as NAME=value, that take products out of float32."""
    set_to = {name: os.environ.get(name, "0") for name in names}
    return [f"{name}={value}" for name, value in set_to.items() if value not in ("", "0")]


def layout(x: Array) -> tuple[int, int]:
    """Flag and leading dimension of a factor that is row-major, or whose transpose is."""
    return (AS_IT_IS, x.shape[1]) if x.flags.c_contiguous else (TRANSPOSED, x.shape[0])


class Product(NamedTuple):
    """A product by gemm, prepared."""

    gemm: Callable[..., None]
    arguments: tuple[int, ...]
    arrays: tuple[Array, ...]  # x, w, out: an address keeps no memory alive

    def call(self, stream: int) -> Callable[[], object]:
        return functools.partial(self.gemm, *self.arguments)

    def before_capture(self, stream: int) -> None:
        """Give cuBLAS's handle to the stream, with memory for what is captured there.

        CuPy takes the handle back at the next product outside the capture.
        """
        out = self.arrays[-1]
        xp, device = current_device("cuBLAS", out)
        memory, handle, cublas = _workspace(xp, device), self.arguments[0], _library(xp, device)
        status = cublas.cublasSetStream_v2(handle, stream)
        status = status or cublas.cublasSetWorkspace_v2(handle, memory.data.ptr, memory.nbytes)
        if status:
            raise RuntimeError(f"cuBLAS refuses a stream or its workspace: status {status}")

    def capture(self, stream: int) -> None:
        """By cuBLAS itself: CuPy's binding refuses to."""
        out = self.arrays[-1]
        function = getattr(_library(*current_device("cuBLAS", out)), LIBRARY[out.dtype.char])
        if status := function(*self.arguments):
            raise RuntimeError(f"cuBLAS refuses a product in a capture: status {status}")


LIBRARY = {"f": "cublasSgemm_v2", "d": "cublasDgemm_v2"}  # gemm's names in cuBLAS itself
_HANDLE = _ADDRESS = ctypes.c_void_p
_MATRIX = _ADDRESS, ctypes.c_int  # and its leading dimension
_GEMM_TYPES = _HANDLE, *[ctypes.c_int] * 5, _ADDRESS, *_MATRIX, *_MATRIX, _ADDRESS, *_MATRIX
WORKSPACE = 32 << 20  # bytes for cuBLAS in a capture, as NVIDIA advises


def load_library(version: int) -> Any:
    """cuBLAS of a major version, which CuPy has loaded. RuntimeError : it is not to be found."""
    windows = sys.platform == "win32"
    try:
        return ctypes.CDLL(f"cublas64_{version}.dll" if windows else f"libcublas.so.{version}")
    except OSError as error:
        raise RuntimeError(f"cuBLAS cannot be called without CuPy's binding: {error}") from error


@functools.cache
def _library(xp: ModuleType, device: int) -> Any:
    """cuBLAS itself, with the types of the functions that are called."""
    version = _binding(xp).getVersion(xp.cuda.device.get_cublas_handle())
    found = load_library(version // 10_000)
    for name in LIBRARY.values():
        getattr(found, name).argtypes = _GEMM_TYPES
    found.cublasSetStream_v2.argtypes = _HANDLE, _ADDRESS
    found.cublasSetWorkspace_v2.argtypes = _HANDLE, _ADDRESS, ctypes.c_size_t
    return found


@functools.cache
def _workspace(xp: ModuleType, device: int) -> Array:
    return xp.empty(WORKSPACE, np.uint8)


def gemm(like: Array) -> tuple[Callable[..., None], int]:
    """cuBLAS's gemm for the dtype of `like`, and the handle of its device.

    ValueError : that device is not this thread's.
    """
    name = GEMM[like.dtype.char]
    xp, _ = current_device(name, like)
    return getattr(_binding(xp), name), xp.cuda.device.get_cublas_handle()


def _run(product: Product) -> None:
    product.gemm(*product.arguments)
    note(product)


def check_handle(like: Array) -> None:
    """ValueError : other code left cuBLAS's handle of this device in a state of its own.

    A product would then be in TF32, or read its factors 0 and 1 at an address on the device.
    """
    if not is_device_array(like) or (binding := _binding(sys.modules["cupy"])) is None:
        return
    _, handle = gemm(like)
    for setting in ("MathMode", "PointerMode"):
        if mode := getattr(binding, f"get{setting}")(handle):
            raise InvalidValueError(
                "cuBLAS",
                f"the handle of CUDA device {like.data.device_id}",
                f"has {setting} {mode}",
                expected="0, the default",
                cause=f"did other code of this process call set{setting}?",
            )


def is_usable() -> bool:
    """True if cuBLAS can be called by CuPy's binding, once a device's array exists."""
    return _binding(sys.modules["cupy"]) is not None


def _check(x: Array, w: Array, out: Array) -> None:
    """TypeError, ValueError : gemm cannot read these, and write out = x @ w."""
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
        if not is_device_array(array):
            refused, came = (
                InvalidTypeError,
                f"is a {type(array).__module__}.{type(array).__name__}",
            )
        elif array.dtype.char not in GEMM or array.dtype != out.dtype:
            refused, came = InvalidTypeError, f"has dtype {array.dtype}"
        elif array.ndim != 2:
            came = f"has shape {array.shape}"
        elif not (array.flags.c_contiguous or (array is not out and _is_dense(array.flags))):
            came = f"has strides {array.strides} for shape {array.shape}"
        else:
            continue
        expected = f"a matrix of {out.dtype} on the device, its rows without gaps"
        return refused("cuBLAS", name, came, expected)
    raise AssertionError("gemm takes all three")


def _is_dense(flags: Any) -> bool:
    return flags.c_contiguous or flags.f_contiguous


def multiply(x: Array, w: Array, out: Array, beta: dict[str, int] = ZERO) -> Array:
    """out = x @ w + beta * out."""
    _check(x, w, out)
    function, handle = gemm(out)
    (n, k), m, real = x.shape, w.shape[1], out.dtype.char
    (flag_x, leading_x), (flag_w, leading_w) = layout(x), layout(w)
    factors = w.data.ptr, leading_w, x.data.ptr, leading_x
    sizes = handle, flag_w, flag_x, m, n, k
    _run(Product(function, (*sizes, ONE[real], *factors, beta[real], out.data.ptr, m), (x, w, out)))
    return out


def multiply_rows(x: Array, w: Array, out: Array, beta: dict[str, int] = ZERO) -> MultiplyRows:
    """out[o : o + n] = x[i : i + n] @ w + beta * out[o : o + n], for each call with (i, o, n)."""
    _check(x, w, out)
    if not x.flags.c_contiguous:
        came = f"has strides {x.strides} for shape {x.shape}"
        raise InvalidValueError("cuBLAS", "x", came, expected="rows without gaps")
    function, handle = gemm(out)
    (k, m), (flag, leading), size, real = w.shape, layout(w), out.itemsize, out.dtype.char
    from_x, to_out, w_at = x.data.ptr, out.data.ptr, w.data.ptr
    one, factor, x_row, out_row, arrays = ONE[real], beta[real], k * size, m * size, (x, w, out)

    def multiply(i: int, o: int, n: int) -> None:
        x_at, out_at = from_x + i * x_row, to_out + o * out_row
        sizes = handle, flag, AS_IT_IS, m, n, k
        _run(Product(function, (*sizes, one, w_at, leading, x_at, k, factor, out_at, m), arrays))

    return multiply
