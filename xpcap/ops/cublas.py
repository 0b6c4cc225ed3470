"""Products by cuBLAS's own gemm, through CuPy's binding: no copy, no slice, no allocation, and half of what cupy.dot costs the host.

cuBLAS sees columns where our arrays have rows: a row-major (n, k) matrix is a column-major (k, n) one. So out = x @ w is asked for as
out.T = w.T @ x.T, and a matrix whose transpose is row-major is handed over with the flag for a transposed factor. Each call runs on CuPy's current
stream. A raw call checks nothing: `supports` does.
"""

import functools
import sys

import numpy as np

from xpcap.backend import is_device_array
from xpcap.ops.launch import current_device

GEMM = {"f": "sgemm", "d": "dgemm"}  # by NumPy's character for the dtype
FACTORS = {real: np.array([0, 1], real) for real in GEMM}  # 0 and 1 in the host's memory, where cuBLAS reads beta and alpha
ZERO, ONE = ({real: pair.ctypes.data + k * pair.itemsize for real, pair in FACTORS.items()} for k in (0, 1))
AS_IT_IS, TRANSPOSED = 0, 1  # CUBLAS_OP_N and CUBLAS_OP_T


@functools.cache
def _binding(xp):
    """CuPy's binding to cuBLAS; None where its library cannot be loaded."""
    try:
        return xp.cuda.cublas
    except ImportError:
        return None


def layout(x):
    """How cuBLAS reads a factor that is row-major, or whose transpose is: its flag, and its leading dimension, the distance between rows in elements.

    None for any other.
    """
    flags = x.flags
    if flags.c_contiguous:
        return AS_IT_IS, x.shape[1]
    return (TRANSPOSED, x.shape[0]) if flags.f_contiguous else None


def gemm(like):
    """The function for the dtype of `like`, and its device's handle. ValueError : that device is not this thread's."""
    name = GEMM[like.dtype.char]
    xp, _ = current_device(name, like)
    return getattr(_binding(xp), name), xp.cuda.device.get_cublas_handle()


def _fits(x, w, out):
    """Whether gemm can compute out = x @ w."""
    dtype = out.dtype
    if dtype.char not in GEMM or x.dtype != dtype or w.dtype != dtype or not (x.ndim == w.ndim == out.ndim == 2):
        return False
    there = is_device_array(x) and (type(x) is type(w) is type(out) or (is_device_array(w) and is_device_array(out)))
    return bool(there and x.size and w.size and layout(x) and layout(w) and out.flags.c_contiguous and _binding(sys.modules["cupy"]))


def _multiply(x, w, out, beta):
    """out = x @ w + beta * out."""
    function, handle = gemm(out)
    (n, k), m, real = x.shape, w.shape[1], out.dtype.char
    (flag_x, leading_x), (flag_w, leading_w) = layout(x), layout(w)
    function(handle, flag_w, flag_x, m, n, k, ONE[real], w.data.ptr, leading_w, x.data.ptr, leading_x, beta[real], out.data.ptr, m)
    return out


def supports_product(x, w, out):
    return _fits(x, w, out)


def product(x, w, out):
    return _multiply(x, w, out, ZERO)


def supports_add_product(x, w, out, scratch):
    return _fits(x, w, out)


def add_product(x, w, out, scratch):
    return _multiply(x, w, out, ONE)


def supports_times_transpose(x, w, out, scratch):
    return _fits(x, w.T, out)


def times_transpose(x, w, out, scratch):
    return _multiply(x, w.T, out, ZERO)


def supports_row_products(x, w, out):
    return _fits(x, w, out) and x.flags.c_contiguous


def row_products(x, w, out):
    return _multiply_rows(x, w, out, ZERO)


def _multiply_rows(x, w, out, beta):
    """out[o : o + n] = x[i : i + n] @ w + beta * out[o : o + n], for each call with (i, o, n)."""
    function, handle = gemm(out)
    (k, m), of_w, size, real = w.shape, layout(w), out.itemsize, out.dtype.char
    from_x, to_out, (flag, leading), w_at = x.data.ptr, out.data.ptr, of_w, w.data.ptr
    one, kept, x_row, out_row = ONE[real], beta[real], k * size, m * size

    def multiply(i, o, n, alive=(x, w, out)):  # an address keeps no memory alive
        function(handle, flag, AS_IT_IS, m, n, k, one, w_at, leading, from_x + i * x_row, k, kept, to_out + o * out_row, m)

    return multiply


def supports_row_products_add(x, w, out, scratch):
    return supports_row_products(x, w, out)


def row_products_add(x, w, out, scratch):
    return _multiply_rows(x, w, out, ONE)


def supports_row_products_transpose(x, w, out, scratch):
    return supports_row_products(x, w.T, out)


def row_products_transpose(x, w, out, scratch):
    return row_products(x, w.T, out)
