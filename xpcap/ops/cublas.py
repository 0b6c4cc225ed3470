"""Products by cuBLAS's own gemm: no copy, slice or allocation, and half of cupy.dot's host time.

cuBLAS sees columns where our arrays have rows: a row-major (n, k) matrix is a column-major (k, n)
one. So out = x @ w is computed as out.T = w.T @ x.T, and a matrix whose transpose is row-major is
passed with the flag for a transposed factor. Each call runs on CuPy's current stream. A raw call
checks nothing: `fits_product` does.
"""

import functools
import os
import sys
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

import numpy as np

from xpcap.backend import Array, is_device_array
from xpcap.ops import equations, recurrent
from xpcap.ops.dispatch import cuda_kernel
from xpcap.ops.launch import current_device
from xpcap.ops.recurrent import MultiplyRows

GEMM = {"f": "sgemm", "d": "dgemm"}  # by NumPy's character for the dtype
# 0 and 1 in the host's memory, where cuBLAS reads beta and alpha, and their addresses
FACTORS = {real: np.array([0, 1], real) for real in GEMM}
ZERO = {real: pair.ctypes.data for real, pair in FACTORS.items()}
ONE = {real: pair.ctypes.data + pair.itemsize for real, pair in FACTORS.items()}
# Variables by which CuPy and cuBLAS compute products in less than float32, or imitate it
IMITATIONS = (
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


def imitations(names: Sequence[str] = IMITATIONS) -> list[str]:
    """The variables of the environment, as NAME=value, that take products out of float32."""
    set_to = {name: os.environ.get(name, "0") for name in names}
    return [f"{name}={value}" for name, value in set_to.items() if value not in ("", "0")]


def layout(x: Array) -> tuple[int, int]:
    """Flag and leading dimension of a factor that is row-major, or whose transpose is."""
    return (AS_IT_IS, x.shape[1]) if x.flags.c_contiguous else (TRANSPOSED, x.shape[0])


def gemm(like: Array) -> tuple[Callable[..., None], int]:
    """cuBLAS's gemm for the dtype of `like`, and the handle of its device.

    ValueError : that device is not this thread's.
    """
    name = GEMM[like.dtype.char]
    xp, _ = current_device(name, like)
    return getattr(_binding(xp), name), xp.cuda.device.get_cublas_handle()


def check_handle(like: Array) -> None:
    """ValueError : other code left cuBLAS's handle of this device in a state of its own.

    A product would then be in TF32, or read its factors 0 and 1 at an address on the device.
    """
    if not is_device_array(like) or (binding := _binding(sys.modules["cupy"])) is None:
        return
    _, handle = gemm(like)
    for setting in ("MathMode", "PointerMode"):
        if mode := getattr(binding, f"get{setting}")(handle):
            raise ValueError(
                f"cuBLAS: the handle of CUDA device {like.data.device_id} has {setting} {mode},"
                f" expected 0, the default; did other code of this process call set{setting}?"
            )


def fits_product(x: Array, w: Array, out: Array, scratch: Array | None = None) -> bool:
    """True if gemm can compute out = x @ w."""
    dtype = out.dtype
    one_dtype = dtype.char in GEMM and x.dtype == dtype and w.dtype == dtype
    if not one_dtype or not x.ndim == w.ndim == out.ndim == 2:
        return False
    one_type = type(x) is type(w) is type(out)  # cheaper to ask than the other
    on_device = is_device_array(x) and (one_type or (is_device_array(w) and is_device_array(out)))
    dense = _is_dense(x.flags) and _is_dense(w.flags) and out.flags.c_contiguous
    return bool(on_device and x.size and w.size and dense and _binding(sys.modules["cupy"]))


def _is_dense(flags: Any) -> bool:
    return flags.c_contiguous or flags.f_contiguous


def fits_row_products(x: Array, w: Array, out: Array, scratch: Array | None = None) -> bool:
    return fits_product(x, w, out) and x.flags.c_contiguous


def fits_row_products_transpose(x: Array, w: Array, out: Array, scratch: Array) -> bool:
    return fits_row_products(x, w.T, out)


def _multiply(x: Array, w: Array, out: Array, beta: dict[str, int]) -> Array:
    """out = x @ w + beta * out."""
    function, handle = gemm(out)
    (n, k), m, real = x.shape, w.shape[1], out.dtype.char
    (flag_x, leading_x), (flag_w, leading_w) = layout(x), layout(w)
    factors = w.data.ptr, leading_w, x.data.ptr, leading_x
    function(handle, flag_w, flag_x, m, n, k, ONE[real], *factors, beta[real], out.data.ptr, m)
    return out


@cuda_kernel(equations.product, fits=fits_product)
def product(x: Array, w: Array, out: Array) -> Array:
    return _multiply(x, w, out, ZERO)


@cuda_kernel(equations.add_product, fits=fits_product)
def add_product(x: Array, w: Array, out: Array, scratch: Array) -> Array:
    return _multiply(x, w, out, ONE)


@cuda_kernel(equations.times_transpose, fits=lambda x, w, out, scratch: fits_product(x, w.T, out))
def times_transpose(x: Array, w: Array, out: Array, scratch: Array) -> Array:
    return _multiply(x, w.T, out, ZERO)


def _multiply_rows(x: Array, w: Array, out: Array, beta: dict[str, int]) -> MultiplyRows:
    """out[o : o + n] = x[i : i + n] @ w + beta * out[o : o + n], for each call with (i, o, n)."""
    function, handle = gemm(out)
    (k, m), (flag, leading), size, real = w.shape, layout(w), out.itemsize, out.dtype.char
    from_x, to_out, w_at = x.data.ptr, out.data.ptr, w.data.ptr
    one, factor, x_row, out_row = ONE[real], beta[real], k * size, m * size

    # The arrays come along as a default: an address keeps no memory alive
    def multiply(i: int, o: int, n: int, alive: object = (x, w, out)) -> None:
        x_at, out_at = from_x + i * x_row, to_out + o * out_row
        function(handle, flag, AS_IT_IS, m, n, k, one, w_at, leading, x_at, k, factor, out_at, m)

    return multiply


@cuda_kernel(recurrent.row_products, fits=fits_row_products)
def row_products(x: Array, w: Array, out: Array) -> MultiplyRows:
    return _multiply_rows(x, w, out, ZERO)


@cuda_kernel(recurrent.row_products_add, fits=fits_row_products)
def row_products_add(x: Array, w: Array, out: Array, scratch: Array | None = None) -> MultiplyRows:
    return _multiply_rows(x, w, out, ONE)


@cuda_kernel(recurrent.row_products_transpose, fits=fits_row_products_transpose)
def row_products_transpose(x: Array, w: Array, out: Array, scratch: Array) -> MultiplyRows:
    return row_products(x, w.T, out)
