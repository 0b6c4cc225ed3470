"""CUDA C files of cuda/: loading them, and preparing and running launches of their kernels.

A macro compiles each file for float32 or float64. A launch is prepared once: arguments are packed
into memory as the kernel's C parameters want them. It can then be run as often as wanted, through
the driver's binding in CuPy, which takes a fraction of the host's time of CuPy's own launch.
"""

import ctypes
import functools
import re
import struct
import sys
from collections.abc import Callable
from importlib import resources
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from xpcap.backend import Array, is_device_array
from xpcap.ops.equations import NO_TARGET
from xpcap.ops.replay import note

# What host and kernels agree on: `#define`s before each file
CONSTANTS = {
    "THREADS": 256,  # per block, in every kernel
    "NORM_BLOCKS": 256,  # of the first pass of a norm: sums have the same order on every GPU
    "FORWARD_UNITS": 8,  # of a block in lstm_step.cu; its threads divided by them are its rows
    "BACKWARD_UNITS": 16,
    "SEGMENT_PARTS": 4,  # of a long segment
    "SUM_COLUMNS": 8,  # of a block in column_sum.cu
    "REGIONS": 1024,  # of a picture, at most: whole tiles; 13 KiB of shared memory in double
    "SLAB": 16,  # regions for a thread of attention_sum
    "NO_TARGET": NO_TARGET,
}
THREADS = CONSTANTS["THREADS"]
# C types by NumPy's character for the dtype, which costs far less than its name
REALS = {"f": "float", "d": "double"}
INT_MAX = 2**31 - 1
# A parameter fills eight bytes, whatever its type; a pointer is a "Q"
SLOTS = {"int": "i4x", "long long": "q", "float": "f4x", "double": "d"}


class Launch(NamedTuple):
    """A kernel's launch, prepared."""

    kernel: "Kernel"
    grid: tuple[int, int, int]
    parameters: ctypes.Array[Any]  # addresses of the parameters, then the parameters
    arrays: tuple[object, ...]  # the arguments: an address keeps no memory alive

    def call(self, stream: int) -> Callable[[], object]:
        kernel, grid, parameters, _ = self
        shape, address = (*grid, THREADS, 1, 1, 0), ctypes.addressof(parameters)
        return functools.partial(kernel.launch, kernel.address, *shape, stream, address, 0)

    def before_capture(self, stream: int) -> None:
        """Nothing."""

    def capture(self, stream: int) -> None:
        self.call(stream)()


class Kernel:
    """A kernel on a device. Called with a grid and arguments, it launches.

    Arguments are those of the C function: device arrays, and numbers, which are packed as the type
    of their parameter. A grid has one to three axes.
    """

    def __init__(self, xp: ModuleType, module: Any, name: str, types: tuple[str, ...]) -> None:
        self.name, self._function = name, module.get_function(name).kernel
        self.address: int = self._function.ptr
        self.launch: Callable[..., None] = xp.cuda.driver.launchKernel
        self.current_stream: Callable[[], Any] = xp.cuda.get_current_stream
        self._is_pointer = tuple(type_ == "*" for type_ in types)
        n = len(types)
        slots = "".join("Q" if type_ == "*" else SLOTS[type_] for type_ in types)
        self._pack = struct.Struct(f"<{n}Q{slots}").pack_into
        self._room = ctypes.c_byte * (16 * n)
        self._offsets = tuple(range(8 * n, 16 * n, 8))

    def __call__(self, grid: tuple[int, ...], *args: object) -> None:
        room = self._room()
        start = ctypes.addressof(room)
        pairs = zip(args, self._is_pointer, strict=True)
        values = [x.data.ptr if pointer else x for x, pointer in pairs]  # type: ignore[attr-defined]
        self._pack(room, 0, *[start + offset for offset in self._offsets], *values)
        x, y, z, *_ = *grid, 1, 1
        work = Launch(self, (x, y, z), room, args)
        work.call(self.current_stream().ptr)()
        note(work)


@functools.cache
def source(file: str) -> str:
    """The text of a CUDA C file as it is compiled: after the constants, with what it includes."""
    folder = resources.files("xpcap.ops").joinpath("cuda")
    text = folder.joinpath(f"{file}.cu").read_text(encoding="utf-8")
    for line, name in re.findall(r'(#include "(.*)")', text):
        text = text.replace(line, folder.joinpath(name).read_text(encoding="utf-8"))
    defines = "".join(f"#define {name} {value}\n" for name, value in CONSTANTS.items())
    return f"{defines}{text}"


def parameter_types(text: str, name: str, real: str) -> tuple[str, ...]:
    """C types of a kernel's parameters in a file's text; "*" for any pointer."""
    text = re.sub(r"//[^\n]*|__launch_bounds__\(.*?\)", "", text)
    (inside,) = re.findall(rf"__global__\s+void\s+{name}\s*\(([^)]*)\)", text)
    types = (part.rpartition(" ")[0].strip() for part in inside.split(","))
    return tuple("*" if "*" in type_ else type_.replace("real", real) for type_ in types)


@functools.cache
def _kernel(xp: ModuleType, device: int, file: str, name: str, real: str) -> Kernel:
    """A kernel, cached for each device: a module loads on the current one."""
    module = xp.RawModule(code=source(file), options=(f"-DREAL={real}",))
    return Kernel(xp, module, name, parameter_types(source(file), name, real))


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
