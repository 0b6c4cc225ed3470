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
    return _product(np.dot(x, y), x, y, out, "dot")


def matmul(a: ndarray, b: ndarray, out: Any = None) -> ndarray:
    x, y = arrays.array(a, "matmul"), arrays.array(b, "matmul")
    return _product(np.matmul(x, y), x, y, out, "matmul")


def vdot(a: ndarray, b: ndarray) -> ndarray:
    """CuPy multiplies, adds up with CUB, and copies the sum to its place."""
    x, y = arrays.array(a, "vdot"), arrays.array(b, "vdot")
    EMULATOR.launch("elementwise", "vdot: multiply", x.nbytes)
    EMULATOR.launch("reduction", "vdot: sum", x.itemsize, SCRATCH)
    EMULATOR.launch("copy", "vdot: sum to its place")
    return wrap(np.vdot(x, y))


def _product(result: Any, x: np.ndarray, y: np.ndarray, out: Any, who: str) -> ndarray:
    """Count a product of x and y and bring its result home."""
    result = np.asarray(result)
    for host in (x, y):
        # cuBLAS takes rows or columns that lie one after the other, of the result's dtype
        if host.dtype != result.dtype or not (host.flags.c_contiguous or host.flags.f_contiguous):
            EMULATOR.launch("copy", f"{who}: operand", host.size * result.itemsize)
    if result.size:
        EMULATOR.launch("product" if x.size else "memset", who)
    if out is not None:
        if not out.flags.c_contiguous:
            raise ValueError(f"cupy.{who}: Output array must be C-contiguous")
        if any(np.may_share_memory(out.host, host) for host in (x, y)):
            EMULATOR.launch("copy", f"{who}: result to out", result.nbytes)
    return arrays.deliver(result, out, who)


ndarray.__matmul__ = matmul
ndarray.__rmatmul__ = lambda self, other: matmul(other, self)
