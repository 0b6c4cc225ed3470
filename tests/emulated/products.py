"""Matrix products, with the copies that cupy/_core/_routines_linalg.pyx makes on the way to
cuBLAS.
"""

from typing import Any

import numpy as np

from emulated import arrays
from emulated.arrays import ndarray, wrap
from emulated.record import EMULATOR, SCRATCH


def dot(a: ndarray, b: ndarray, out: Any = None) -> ndarray:
    x, y = arrays.array(a, "dot"), arrays.array(b, "dot")
    if out is not None:
        arrays.array(out, "dot(out=)")
        if out.dtype != np.result_type(x.dtype, y.dtype):
            raise ValueError(
                f"cupy.dot: out is {out.dtype} for {x.dtype} and {y.dtype}. Not supported dtype"
                " combination."
            )
        if not out.flags.c_contiguous:
            raise ValueError("cupy.dot: Output array must be C-contiguous")
    return _finish(np.dot(x, y), x, y, out, "dot")


def matmul(a: ndarray, b: ndarray, out: Any = None) -> ndarray:
    x, y = arrays.array(a, "matmul"), arrays.array(b, "matmul")
    if x.ndim == 0 or y.ndim == 0:
        raise ValueError("cupy.matmul: Scalar operands are not allowed, use '*' instead")
    result = np.matmul(x, y)
    if max(x.ndim, y.ndim) <= 2:
        _count(result, x, y, "matmul")
    else:
        for operand in (x, y):
            if not operand.flags.c_contiguous:
                EMULATOR.launch("copy", "matmul: operand", operand.nbytes)
        EMULATOR.launch("product", "matmul (batched)")
    if out is not None and (not out.flags.c_contiguous or _overlap(out.host, x, y)):
        EMULATOR.launch("copy", "matmul: result to out", result.nbytes)
    return arrays.deliver(result, out, "matmul")


def vdot(a: ndarray, b: ndarray) -> ndarray:
    x, y = arrays.array(a, "vdot"), arrays.array(b, "vdot")
    if x.size != y.size:
        raise ValueError("cupy.vdot: Axis dimension mismatch")
    _inner(x, y, "vdot")
    return wrap(np.vdot(x, y))


def _inner(x: np.ndarray, y: np.ndarray, who: str) -> None:
    """A single number as the result: CuPy multiplies, adds up with CUB, and copies the sum to its
    place.
    """
    dtype = np.result_type(x.dtype, y.dtype)
    for host in (x, y):
        if not host.flags.c_contiguous:
            EMULATOR.launch("copy", f"{who}: operand", host.nbytes)
    if x.size:
        EMULATOR.launch("elementwise", f"{who}: multiply", x.size * dtype.itemsize)
        EMULATOR.launch("reduction", f"{who}: sum", dtype.itemsize, SCRATCH)
        EMULATOR.launch("copy", f"{who}: sum to its place")
    else:
        EMULATOR.launch("memset", who)


def _finish(result: Any, x: np.ndarray, y: np.ndarray, out: Any, who: str) -> ndarray:
    """Count a product of x and y and bring its result home."""
    result = np.asarray(result)
    _count(result, x, y, who)
    if out is not None and _overlap(out.host, x, y):
        EMULATOR.launch("copy", f"{who}: result to out", result.nbytes)
    return arrays.deliver(result, out, who)


def _count(result: np.ndarray, x: np.ndarray, y: np.ndarray, who: str) -> None:
    for host in (x, y):
        if host.dtype != result.dtype and host.size:
            EMULATOR.launch("copy", f"{who}: astype", host.size * result.itemsize)
    if x.ndim == 0 or y.ndim == 0:
        EMULATOR.launch("elementwise", f"{who}: multiply")
    elif result.size == 1 and x.size:
        _inner(x, y, who)
    elif not (x.size and y.size):
        if result.size:
            EMULATOR.launch("memset", who)
    else:
        _copy_mixed(x, who)
        _copy_mixed(y, who)
        EMULATOR.launch("product", who)


def _copy_mixed(host: np.ndarray, who: str) -> None:
    """cuBLAS takes rows or columns that lie one after the other; anything else is copied first."""
    if not (host.flags.c_contiguous or host.flags.f_contiguous):
        EMULATOR.launch("copy", f"{who}: operand", host.nbytes)


def _overlap(out: np.ndarray, *hosts: np.ndarray) -> bool:
    return any(np.may_share_memory(out, host) for host in hosts)


ndarray.__matmul__ = matmul
ndarray.__rmatmul__ = lambda self, other: matmul(other, self)
