"""CUDA C files of cuda/: loading them, and launching their kernels, as in driver.py.

A macro compiles each file for float32 or float64. A launch whose arguments are not those of the C
function is an error that names the parameter.
"""

import functools
import re
import struct
import sys
from collections.abc import Callable, Sequence
from importlib import resources
from types import ModuleType

import numpy as np

from xpcap.backend import Array, get_array_module, is_device_array
from xpcap.driver import SLOTS, THREADS, Kernel, Parameter, parameters
from xpcap.errors import InvalidTypeError, InvalidValueError, XpcapError
from xpcap.ops.replay import invalidate, note
from xpcap.ops.softmax import NO_TARGET

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
# Dtypes of the arrays that a kernel reads and writes, by C's type of an element
DTYPES = {
    "float": np.dtype(np.float32),
    "double": np.dtype(np.float64),
    "int": np.dtype(np.int32),
    "unsigned char": np.dtype(np.bool_),
}
Launcher = Callable[..., None]


@functools.cache
def source(file: str) -> str:
    """The text of a CUDA C file as it is compiled: after the constants, with what it includes."""
    folder = resources.files("xpcap.ops").joinpath("cuda")
    text = folder.joinpath(f"{file}.cu").read_text(encoding="utf-8")
    for line, name in re.findall(r'(#include "(.*)")', text):
        text = text.replace(line, folder.joinpath(name).read_text(encoding="utf-8"))
    defines = "".join(f"#define {name} {value}\n" for name, value in CONSTANTS.items())
    return f"{defines}{text}"


class CheckedKernel(Kernel):
    """A kernel that names a C parameter whose argument does not fit.

    Numbers are checked at each launch, arrays where they are first handed over.
    """

    def __init__(
        self, xp: ModuleType, device: int, module: object, name: str, types: Sequence[Parameter]
    ) -> None:
        super().__init__(xp, module, name, types, note)
        self._parameters, self._device, self._array = types, device, xp.ndarray
        self._dtypes = [DTYPES[one.type] if one.pointer else None for one in types]

    def __call__(self, grid: tuple[int, ...], *args: object) -> None:
        try:
            super().__call__(grid, *args)
        except (struct.error, OverflowError):
            raise self._refused_number(args) from None

    def check(self, args: Sequence[object]) -> None:
        """TypeError, ValueError : an array is not what the kernel reads or writes there."""
        array, device = self._array, self._device
        # zip does not count: a loop's numbers come later
        for x, dtype in zip(args, self._dtypes, strict=False):
            if dtype is None:
                continue
            fits = isinstance(x, array) and (x.dtype is dtype or x.dtype == dtype)
            if not (fits and x.flags.c_contiguous and x.data.device_id == device):  # type: ignore[attr-defined]
                raise self._refused_array(args)

    def on(self, *arrays: object) -> Launcher:
        """A function of a grid and of the numbers, which come last, for arrays that are the same."""
        self.check(arrays)

        def launch(grid: tuple[int, ...], *numbers: object) -> None:
            self(grid, *arrays, *numbers)

        return launch

    def _refused_array(self, args: Sequence[object]) -> XpcapError:
        refused: type[XpcapError] = InvalidTypeError
        for x, (name, *_), dtype in zip(args, self._parameters, self._dtypes, strict=False):
            if dtype is None:
                continue
            if not isinstance(x, self._array):
                came = f"is a {type(x).__module__}.{type(x).__name__}"
            elif x.dtype != dtype:
                came = f"has dtype {x.dtype}"
            elif not x.flags.c_contiguous:
                refused, came = InvalidValueError, f"has strides {x.strides} for shape {x.shape}"
            elif x.data.device_id != self._device:
                refused, came = InvalidValueError, f"lies on CUDA device {x.data.device_id}"
            else:
                continue
            expected = f"a C-contiguous array of {dtype} on CUDA device {self._device}"
            return refused(self.name, name, came, expected)
        raise AssertionError("every array fits")

    def _refused_number(self, args: Sequence[object]) -> XpcapError:
        for x, (name, type_, pointer) in zip(args, self._parameters, strict=True):
            if pointer:
                continue
            try:
                struct.pack(f"<{SLOTS[type_]}", x)
            except (struct.error, OverflowError):
                is_number = isinstance(x, int | np.integer) or type_ in REALS.values()
                refused = InvalidValueError if is_number else InvalidTypeError
                return refused(self.name, name, f"is {x!r}", f"a number of C's type {type_}")
        raise AssertionError("every number fits")


@functools.cache
def _kernel(xp: ModuleType, device: int, file: str, name: str, real: str) -> CheckedKernel:
    """A kernel, cached for each device: a module loads on the current one."""
    module = xp.RawModule(code=source(file), options=(f"-DREAL={real}",))
    return CheckedKernel(xp, device, module, name, parameters(source(file), name, real))


def current_device(name: str, like: Array) -> tuple[ModuleType, int]:
    """CuPy and the device of `like`. ValueError : it is not this thread's current device."""
    xp = sys.modules["cupy"]
    if not isinstance(like, xp.ndarray):
        kind = f"are a {type(like).__module__}.{type(like).__name__}"
        raise InvalidTypeError(name, "its arrays", kind, expected="CuPy's")
    device = like.data.device_id
    if device != (current := xp.cuda.runtime.getDevice()):
        raise InvalidValueError(
            name,
            "its arrays",
            f"lie on CUDA device {device}, and this thread's current device is {current}",
            expected="the same",
            cause=f"call use_backend('cupy:{device}') in each thread that computes there",
        )
    return xp, device


def kernel(file: str, name: str, like: Array) -> CheckedKernel:
    """The kernel for the dtype and device of `like`. ValueError : not this thread's device."""
    xp, device = current_device(name, like)
    return _kernel(xp, device, file, name, REALS.get(like.dtype.char, "float"))


def launch(file: str, name: str, like: Array, grid: int | tuple[int, ...], *args: object) -> None:
    """Launch a kernel with `grid` blocks, in the dtype and on the device of `like`.

    TypeError, ValueError : an argument is not what the kernel takes.
    """
    function = kernel(file, name, like)
    function.check(args)
    function(grid if isinstance(grid, tuple) else (grid,), *args)


def blocks(n: int) -> int:
    """Number of blocks for n threads."""
    return -(-n // THREADS)


def contiguous(x: Array) -> Array:
    """Give x the layout that kernels take: C-contiguous, with whole numbers as int32.

    What lies on the host, and None, is as it was. CuPy copies: a recording that is on is not used.
    """
    if not is_device_array(x):
        return x
    if x.dtype.kind in "iu" and x.dtype != np.int32:
        invalidate("contiguous")
        return x.astype(np.int32, order="C")
    if not x.flags.c_contiguous:
        invalidate("contiguous")
        return get_array_module(x).ascontiguousarray(x)
    return x
