"""CUDA C files of cuda/: loading them, and launching their kernels, as in driver.py.

A macro compiles each file for float32 or float64.
"""

import functools
import re
import sys
from importlib import resources
from types import ModuleType

import numpy as np

from xpcap.backend import Array, is_device_array
from xpcap.driver import THREADS, Kernel, parameter_types
from xpcap.errors import InvalidValueError
from xpcap.ops.base import NO_TARGET
from xpcap.ops.replay import note

# What host and kernels agree on: `#define`s before each file
CONSTANTS = {
    "THREADS": THREADS,
    "NORM_BLOCKS": 256,  # of the first pass of a norm: sums have the same order on every GPU
    "FORWARD_UNITS": 8,  # of a block in lstm_step.cu; its threads divided by them are its rows
    "BACKWARD_UNITS": 16,
    "SEGMENT_PARTS": 4,  # of a long segment
    "SUM_COLUMNS": 8,  # of a block in column_sum.cu
    "REGIONS": 1024,  # of a picture, at most: whole tiles; 13 KiB of shared memory in double
    "SLAB": 16,  # regions for a thread of attention_sum
    "NO_TARGET": NO_TARGET,
}
# C types by NumPy's character for the dtype, which costs far less than its name
REALS = {"f": "float", "d": "double"}
INT_MAX = 2**31 - 1


@functools.cache
def source(file: str) -> str:
    """The text of a CUDA C file as it is compiled: after the constants, with what it includes."""
    folder = resources.files("xpcap.ops").joinpath("cuda")
    text = folder.joinpath(f"{file}.cu").read_text(encoding="utf-8")
    for line, name in re.findall(r'(#include "(.*)")', text):
        text = text.replace(line, folder.joinpath(name).read_text(encoding="utf-8"))
    defines = "".join(f"#define {name} {value}\n" for name, value in CONSTANTS.items())
    return f"{defines}{text}"


@functools.cache
def _kernel(xp: ModuleType, device: int, file: str, name: str, real: str) -> Kernel:
    """A kernel, cached for each device: a module loads on the current one."""
    module = xp.RawModule(code=source(file), options=(f"-DREAL={real}",))
    return Kernel(xp, module, name, parameter_types(source(file), name, real), note)


def current_device(name: str, like: Array) -> tuple[ModuleType, int]:
    """CuPy and the device of `like`. ValueError : it is not this thread's current device."""
    xp, device = sys.modules["cupy"], like.data.device_id
    if device != (current := xp.cuda.runtime.getDevice()):
        raise InvalidValueError(
            name,
            "its arrays",
            f"lie on CUDA device {device}, and this thread's current device is {current}",
            expected="the same",
            cause=f"call use_backend('cupy:{device}') in each thread that computes there",
        )
    return xp, device


def kernel(file: str, name: str, like: Array) -> Kernel:
    """The kernel for the dtype and device of `like`. ValueError : not this thread's device."""
    xp, device = current_device(name, like)
    return _kernel(xp, device, file, name, REALS.get(like.dtype.char, "float"))


def launch(file: str, name: str, like: Array, grid: int | tuple[int, ...], *args: object) -> None:
    """Launch a kernel with `grid` blocks, in the dtype and on the device of `like`."""
    kernel(file, name, like)(grid if isinstance(grid, tuple) else (grid,), *args)


def blocks(n: int) -> int:
    """Number of blocks for n threads."""
    return -(-n // THREADS)


def are_reals(*arrays: Array) -> bool:
    """True if kernels can index all: on a device, non-empty, C-contiguous, of one float dtype."""
    dtype = arrays[0].dtype
    if dtype.char not in REALS or not is_device_array(arrays[0]):
        return False
    # all() of a generator takes twice as long
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
