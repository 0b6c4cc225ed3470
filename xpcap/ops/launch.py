"""CUDA C files of cuda/: loading them and launching their kernels.

A macro compiles each file for float32 or float64. Scalar arguments are NumPy scalars of the C type
of the kernel's parameter: CuPy passes a Python number as eight bytes, whatever the kernel expects.
"""

import functools
import sys
from collections.abc import Callable
from importlib import resources
from types import ModuleType

import numpy as np

from xpcap.backend import Array, is_device_array

THREADS = 256  # per block, in every kernel
BLOCK = (THREADS,)
# C types by NumPy's character for the dtype, which costs far less than its name
REALS = {"f": "float", "d": "double"}
INT_MAX = 2**31 - 1

# A kernel, called with grid, BLOCK and arguments: arrays and NumPy scalars
Launch = Callable[[tuple[int, ...], tuple[int, ...], tuple[object, ...]], None]

# Cached, since the next step needs most of them again, and a new one costs more than a lookup
i32 = functools.lru_cache(maxsize=1 << 14)(np.int32)


def real(number: float, like: Array) -> np.floating:
    """A number as a kernel's `real`, for the dtype of `like`: float kernels compute nothing in double."""
    return like.dtype.type(number)


@functools.cache
def _function(xp: ModuleType, device: int, file: str, name: str, real: str) -> Launch:
    """A kernel, cached for each device: a module loads on the current one."""
    code = resources.files("xpcap.ops").joinpath("cuda", f"{file}.cu").read_text(encoding="utf-8")
    options = (f"-DREAL={REALS.get(real, 'float')}",)
    return xp.RawModule(code=code, options=options).get_function(name)


def current_device(name: str, like: Array) -> tuple[ModuleType, int]:
    """CuPy and the device of `like`. ValueError : it is not this thread's current device."""
    xp, device = sys.modules["cupy"], like.data.device_id
    if device != (current := xp.cuda.runtime.getDevice()):
        raise ValueError(
            f"{name}: its arrays lie on CUDA device {device}, "
            f"and this thread's current device is {current}, expected the same; "
            f"call use_backend('cupy:{device}') in each thread that computes there"
        )
    return xp, device


def kernel(file: str, name: str, like: Array) -> Launch:
    """The kernel for the dtype and device of `like`. ValueError : not this thread's device."""
    xp, device = current_device(name, like)
    return _function(xp, device, file, name, like.dtype.char)


def launch(file: str, name: str, like: Array, grid: int | tuple[int, ...], *args: object) -> None:
    """Launch a kernel with `grid` blocks, in the dtype and on the device of `like`."""
    kernel(file, name, like)(grid if isinstance(grid, tuple) else (grid,), BLOCK, args)


def blocks(n: int) -> int:
    """Number of blocks for n threads."""
    return -(-n // THREADS)


def are_reals(*arrays: Array) -> bool:
    """True if kernels can index all: on a device, non-empty, C-contiguous, of one float dtype."""
    dtype = arrays[0].dtype
    if dtype.char not in REALS or not is_device_array(arrays[0]):
        return False
    # all() of a generator takes twice as long, and a step asks some thirty times
    for a in arrays:
        if not (a.size and (a.dtype is dtype or a.dtype == dtype) and a.flags.c_contiguous):
            return False
    return True


def are_indices(*arrays: Array) -> bool:
    """True if kernels can read all as vectors of row numbers."""
    for a in arrays:  # noqa: SIM110 - as in are_reals
        if not (a.dtype == np.int32 and a.flags.c_contiguous):
            return False
    return True
