"""Loads the CUDA C files of cuda/ and launches their kernels.

A macro compiles each file for float32 or float64. Scalar arguments are NumPy scalars of the C type that the kernel expects: CuPy passes a Python
number as eight bytes, whatever the kernel expects.
"""

import functools
import sys
from importlib import resources

import numpy as np

from xpcap.backend import is_device_array

THREADS = 256  # per block, in every kernel
BLOCK = (THREADS,)
REALS = {"f": "float", "d": "double"}  # by NumPy's character for the dtype, which costs far less than its name
INT_MAX = 2**31 - 1

i32 = functools.lru_cache(maxsize=1 << 14)(np.int32)  # most are asked for again in the next step; making one costs more than finding it


@functools.cache
def _function(xp, device, file, name, real):
    """A kernel for one device. `device` only keys the cache: a module loads on the current device. `real` is no float where a file has no reals."""
    code = resources.files("xpcap.ops").joinpath("cuda", f"{file}.cu").read_text(encoding="utf-8")
    return xp.RawModule(code=code, options=(f"-DREAL={REALS.get(real, 'float')}",)).get_function(name)


def current_device(name, like):
    """CuPy and the number of the device of `like`, which `name` is about to use. ValueError : it is not this thread's current device."""
    xp, device = sys.modules["cupy"], like.data.device_id
    if device != (current := xp.cuda.runtime.getDevice()):
        raise ValueError(
            f"{name}: its arrays lie on CUDA device {device}, and this thread's current device is {current}, expected the same; "
            f"call use_backend('cupy:{device}') in each thread that computes there"
        )
    return xp, device


def kernel(file, name, like):
    """The kernel for the dtype and device of `like`; call it with (grid, BLOCK, arguments). ValueError : that device is not this thread's."""
    xp, device = current_device(name, like)
    return _function(xp, device, file, name, like.dtype.char)


def launch(file, name, like, grid, *args):
    """Launch a kernel with `grid` blocks, in the dtype and on the device of `like`."""
    kernel(file, name, like)(grid if isinstance(grid, tuple) else (grid,), BLOCK, args)


def blocks(n):
    """Blocks of one thread for each of n elements."""
    return -(-n // THREADS)


def fits(*arrays):
    """Whether kernels can index these arrays: on a device, non-empty, C-contiguous, all of the same float dtype."""
    dtype = arrays[0].dtype
    if dtype.char not in REALS or not is_device_array(arrays[0]):
        return False
    for a in arrays:  # noqa: SIM110 - all() of a generator takes twice as long, and a step asks some thirty times
        if not (a.size and (a.dtype is dtype or a.dtype == dtype) and a.flags.c_contiguous):
            return False
    return True


def are_indices(*arrays):
    """Whether kernels can take these as vectors of row numbers."""
    for a in arrays:  # noqa: SIM110 - as in fits
        if not (a.dtype == np.int32 and a.flags.c_contiguous):
            return False
    return True
