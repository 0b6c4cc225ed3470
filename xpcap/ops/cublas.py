"""Products by cuBLAS's own gemm: no copy, slice or allocation, and half of cupy.dot's host time.

cuBLAS sees columns where our arrays have rows: a row-major (n, k) matrix is a column-major (k, n)
one. So out = x @ w is asked for as out.T = w.T @ x.T, and a matrix whose transpose is row-major is
handed over with the flag for a transposed factor. Each call runs on CuPy's current stream. A raw
call checks nothing: `fits_product` does.
"""

import functools
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from xpcap.backend import Array, is_device_array
from xpcap.ops import equations, recurrent
from xpcap.ops.dispatch import cuda_kernel
from xpcap.ops.launch import current_device
from xpcap.ops.recurrent import MultiplyRows

GEMM = {"f": "sgemm", "d": "dgemm"}  # by NumPy's character for the dtype
FACTORS = {
    real: np.array([0, 1], real) for real in GEMM
}  # 0 and 1 in the host's memory, where cuBLAS reads beta and alpha
ZERO, ONE = (
    {real: pair.ctypes.data + k * pair.itemsize for real, pair in FACTORS.items()} for k in (0, 1)
)
AS_IT_IS, TRANSPOSED = 0, 1  # CUBLAS_OP_N and CUBLAS_OP_T


@functools.cache
def _binding(xp: Any) -> Any:
    """CuPy's binding to cuBLAS; None where its library cannot be loaded."""
    try:
        return xp.cuda.cublas
    except ImportError:
        return None


def layout(x: Array) -> tuple[int, int]:
    """How cuBLAS reads a factor that is row-major, or whose transpose is.

    Its flag, and its leading dimension: the distance between rows in elements.
    """
    return (AS_IT_IS, x.shape[1]) if x.flags.c_contiguous else (TRANSPOSED, x.shape[0])


def gemm(like: Array) -> tuple[Callable[..., None], int]:
    """The function for the dtype of `like`, and its device's handle.

    ValueError : that device is not this thread's.
    """
    name = GEMM[like.dtype.char]
    xp, _ = current_device(name, like)
    return getattr(_binding(xp), name), xp.cuda.device.get_cublas_handle()


def fits_product(x: Array, w: Array, out: Array, scratch: Array | None = None) -> bool:
    """Whether gemm can compute out = x @ w."""
    dtype = out.dtype
    if (
        dtype.char not in GEMM
        or x.dtype != dtype
        or w.dtype != dtype
        or not (x.ndim == w.ndim == out.ndim == 2)
    ):
        return False
    there = is_device_array(x) and (
        type(x) is type(w) is type(out) or (is_device_array(w) and is_device_array(out))
    )
    dense = _is_dense(x.flags) and _is_dense(w.flags) and out.flags.c_contiguous
    return bool(there and x.size and w.size and dense and _binding(sys.modules["cupy"]))


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
    function(
        handle,
        flag_w,
        flag_x,
        m,
        n,
        k,
        ONE[real],
        w.data.ptr,
        leading_w,
        x.data.ptr,
        leading_x,
        beta[real],
        out.data.ptr,
        m,
    )
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
    (k, m), of_w, size, real = w.shape, layout(w), out.itemsize, out.dtype.char
    from_x, to_out, (flag, leading), w_at = x.data.ptr, out.data.ptr, of_w, w.data.ptr
    one, kept, x_row, out_row = ONE[real], beta[real], k * size, m * size

    def multiply(
        i: int, o: int, n: int, alive: object = (x, w, out)
    ) -> None:  # an address keeps no memory alive
        function(
            handle,
            flag,
            AS_IT_IS,
            m,
            n,
            k,
            one,
            w_at,
            leading,
            from_x + i * x_row,
            k,
            kept,
            to_out + o * out_row,
            m,
        )

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
