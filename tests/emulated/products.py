"""Matrix products by CuPy's own calls."""

from typing import Any

import numpy as np

from emulated import arrays
from emulated.arrays import ndarray, wrap
from emulated.record import EMULATOR, SCRATCH


def dot(a: ndarray, b: ndarray, out: Any = None) -> ndarray:
    x, y = arrays.array(a, "dot"), arrays.array(b, "dot")
    return _product(np.dot(x, y), out, "dot")


def matmul(a: ndarray, b: ndarray, out: Any = None) -> ndarray:
    x, y = arrays.array(a, "matmul"), arrays.array(b, "matmul")
    return _product(np.matmul(x, y), out, "matmul")


def vdot(a: ndarray, b: ndarray) -> ndarray:
    x, y = arrays.array(a, "vdot"), arrays.array(b, "vdot")
    EMULATOR.launch("reduction", "vdot", x.nbytes, SCRATCH)
    return wrap(np.vdot(x, y))


def _product(result: Any, out: Any, who: str) -> ndarray:
    """Count a product and bring its result home."""
    if np.size(result):
        EMULATOR.launch("product", who)
    if out is not None and not out.flags.c_contiguous:
        raise ValueError(f"cupy.{who}: Output array must be C-contiguous")
    return arrays.deliver(result, out, who)


ndarray.__matmul__ = matmul
ndarray.__rmatmul__ = lambda self, other: matmul(other, self)
