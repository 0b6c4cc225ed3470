"""Products by cuBLAS's gemm through CuPy's binding, without copies, slices or allocations.

cuBLAS reads our rows as columns: a row-major (n, k) matrix is a column-major (k, n) one. So
out = x @ w is computed as out.T = w.T @ x.T, and a matrix whose transpose is row-major is passed
with the flag for a transposed factor. The binding checks nothing, so factors are checked here.

CuPy has a cuBLAS handle for each thread and device, and gives it the current stream at each call.
"""

import functools
import os
import sys
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from xpcap.backend.launch import Array, current_device
from xpcap.backend.replay import record_node
from xpcap.errors import InvalidTypeError, InvalidValueError, XpcapError

MultiplyRows = Callable[[int, int, int], None]

GEMM = {"f": "sgemm", "d": "dgemm"}  # by NumPy's character of the dtype
# 0 and 1 in the host's memory, where cuBLAS reads beta and alpha, and their addresses
FACTORS = {real: np.array([0, 1], real) for real in GEMM}
ZERO = {real: pair.ctypes.data for real, pair in FACTORS.items()}
ONE = {real: pair.ctypes.data + pair.itemsize for real, pair in FACTORS.items()}
# Environment variables that let cuBLAS compute float32 products less precisely, or emulate them
REDUCED_PRECISION = (
    "NVIDIA_TF32_OVERRIDE",
    "CUBLAS_EMULATE_SINGLE_PRECISION",
    "CUBLAS_EMULATION_STRATEGY",
)
NOT_TRANSPOSED = 0  # CUBLAS_OP_N
TRANSPOSED = 1  # CUBLAS_OP_T


def reduced_precision(names: Sequence[str] = REDUCED_PRECISION) -> list[str]:
    """The environment variables, as NAME=value, that make products less precise than float32."""
    set_to = {name: os.environ.get(name, "0") for name in names}
    return [f"{name}={value}" for name, value in set_to.items() if value not in ("", "0")]


class Product(NamedTuple):
    """A product by gemm, prepared."""

    xp: ModuleType
    gemm: Callable[..., None]
    arguments: tuple[int, ...]  # all but the handle
    arrays: tuple[Array, ...]  # x, w, out: kept alive, since the arguments are raw addresses

    def call(self) -> Callable[[], object]:
        """A function that runs it again in this thread."""
        return functools.partial(self.gemm, handle(self.xp), *self.arguments)


def handle(xp: ModuleType) -> int:
    """CuPy's cuBLAS handle for this thread and its current device."""
    return int(xp.cuda.device.get_cublas_handle())


def _gemm(out: Array) -> tuple[ModuleType, Callable[..., None]]:
    """CuPy, and its gemm for a product; ValueError if `out` is not on this thread's device."""
    xp, _ = current_device("cuBLAS", out)
    return xp, getattr(xp.cuda.cublas, GEMM[out.dtype.char])


def _run(product: Product) -> None:
    product.gemm(handle(product.xp), *product.arguments)
    record_node(product)


def layout(x: Array) -> tuple[int, int]:
    """Transposition flag and leading dimension of a factor that is row-major, or whose transpose is."""
    return (NOT_TRANSPOSED, x.shape[1]) if x.flags.c_contiguous else (TRANSPOSED, x.shape[0])


def _check(x: Array, w: Array, out: Array) -> None:
    """Raise TypeError or ValueError if gemm cannot compute out = x @ w from these."""
    array = sys.modules["cupy"].ndarray
    dtype = out.dtype
    if dtype.char in GEMM and out.flags.c_contiguous and out.ndim == 2:
        for factor in (x, w):
            if not isinstance(factor, array) or factor.dtype != dtype or factor.ndim != 2:
                break
            if not _is_dense(factor.flags):
                break
        else:
            return
    raise _refusal(x, w, out)


def _refusal(x: Array, w: Array, out: Array) -> XpcapError:
    """The error for the first matrix that gemm does not take."""
    error: type[XpcapError] = InvalidValueError
    for name, array in (("out", out), ("x", x), ("w", w)):
        if not isinstance(array, sys.modules["cupy"].ndarray):
            error = InvalidTypeError
            got = f"is a {type(array).__module__}.{type(array).__name__}"
        elif array.dtype.char not in GEMM or array.dtype != out.dtype:
            error = InvalidTypeError
            got = f"has dtype {array.dtype}"
        elif array.ndim != 2:
            got = f"has shape {array.shape}"
        elif not (array.flags.c_contiguous or (array is not out and _is_dense(array.flags))):
            got = f"has strides {array.strides} for shape {array.shape}"
        else:
            continue
        return error(
            f"cuBLAS: {name} {got}, expected a matrix of {out.dtype} on the device, without gaps"
            " between its rows"
        )
    raise AssertionError("every matrix fits")


def _is_dense(flags: Any) -> bool:
    return flags.c_contiguous or flags.f_contiguous


def multiply(x: Array, w: Array, out: Array, beta: dict[str, int] = ZERO) -> Array:
    """out = x @ w + beta * out."""
    _check(x, w, out)
    xp, gemm = _gemm(out)
    real = out.dtype.char
    n, k = x.shape
    m = w.shape[1]
    flag_x, leading_x = layout(x)
    flag_w, leading_w = layout(w)
    factors = w.data.ptr, leading_w, x.data.ptr, leading_x
    sizes = flag_w, flag_x, m, n, k
    arguments = (*sizes, ONE[real], *factors, beta[real], out.data.ptr, m)
    _run(Product(xp, gemm, arguments, (x, w, out)))
    return out


def multiply_rows(x: Array, w: Array, out: Array, beta: dict[str, int] = ZERO) -> MultiplyRows:
    """out[o : o + n] = x[i : i + n] @ w + beta * out[o : o + n], for each call with (i, o, n)."""
    _check(x, w, out)
    if not x.flags.c_contiguous:
        raise InvalidValueError(
            f"cuBLAS: x has strides {x.strides} for shape {x.shape}, expected no gaps between rows"
        )
    xp, gemm = _gemm(out)
    real = out.dtype.char
    k, m = w.shape
    flag, leading = layout(w)
    size = out.itemsize
    from_x = x.data.ptr
    to_out = out.data.ptr
    w_at = w.data.ptr
    alpha_at = ONE[real]
    beta_at = beta[real]
    x_row = k * size
    out_row = m * size
    arrays = x, w, out

    def multiply(i: int, o: int, n: int) -> None:
        x_at = from_x + i * x_row
        out_at = to_out + o * out_row
        sizes = flag, NOT_TRANSPOSED, m, n, k
        arguments = (*sizes, alpha_at, w_at, leading, x_at, k, beta_at, out_at, m)
        _run(Product(xp, gemm, arguments, arrays))

    return multiply
