"""Kernels of CUDA C files: loading them, and launching them through the driver's binding in CuPy.

A launch is prepared once: arguments are packed into memory as the kernel's C parameters want them.
It can then be run as often as wanted, in a fraction of the host's time of CuPy's own launch. A
launch whose arguments are not those of the C function is an error that names the parameter.
"""

import ctypes
import functools
import re
import struct
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import resources
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from xpcap.device import Array
from xpcap.device.replay import note
from xpcap.errors import InvalidTypeError, InvalidValueError, XpcapError

Launcher = Callable[..., None]

THREADS = 256  # of a block, in every kernel
# A parameter fills eight bytes, whatever its type; a pointer is a "Q"
SLOTS = {"int": "i4x", "long long": "q", "float": "f4x", "double": "d"}
# C types by NumPy's character for the dtype, which costs far less than its name
REALS = {"f": "float", "d": "double"}
# Dtypes of the arrays that a kernel reads and writes, by C's type of an element
DTYPES = {
    "float": np.dtype(np.float32),
    "double": np.dtype(np.float64),
    "int": np.dtype(np.int32),
    "unsigned char": np.dtype(np.bool_),
}


class Parameter(NamedTuple):
    """A parameter of a C function."""

    name: str
    type: str  # in C, of what a pointer points to, without const
    pointer: bool


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


class Kernel:
    """A kernel on a device. Called with a grid and arguments, it launches.

    Arguments are those of the C function: device arrays, and numbers, which are packed as the type
    of their parameter. A grid has one to three axes. Numbers are checked at each launch, arrays
    where they are first handed over, by `check`.

    Parameters
    ----------
    xp : CuPy
    device : its number
    module : a RawModule that was loaded there
    name : of the C function
    types : its parameters, as from `parameters`
    """

    def __init__(
        self, xp: ModuleType, device: int, module: Any, name: str, types: Sequence[Parameter]
    ) -> None:
        self.name, self._function = name, module.get_function(name).kernel
        self.address: int = self._function.ptr
        self.launch: Callable[..., None] = xp.cuda.driver.launchKernel
        self.current_stream: Callable[[], Any] = xp.cuda.get_current_stream
        self._device, self._array, self._parameters = device, xp.ndarray, types
        self._is_pointer = tuple(one.pointer for one in types)
        self._dtypes = [DTYPES[one.type] if one.pointer else None for one in types]
        n = len(types)
        slots = "".join("Q" if one.pointer else SLOTS[one.type] for one in types)
        self._pack = struct.Struct(f"<{n}Q{slots}").pack_into
        self._memory = ctypes.c_byte * (16 * n)
        self._offsets = tuple(range(8 * n, 16 * n, 8))

    def __call__(self, grid: tuple[int, ...], *args: object) -> None:
        memory = self._memory()
        start = ctypes.addressof(memory)
        pairs = zip(args, self._is_pointer, strict=True)
        values = [x.data.ptr if pointer else x for x, pointer in pairs]  # type: ignore[attr-defined]
        try:
            self._pack(memory, 0, *[start + offset for offset in self._offsets], *values)
        except (struct.error, OverflowError):
            raise self._refused_number(args) from None
        x, y, z, *_ = *grid, 1, 1
        work = Launch(self, (x, y, z), memory, args)
        work.call(self.current_stream().ptr)()
        note(work)

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


def parameters(text: str, name: str, real: str) -> tuple[Parameter, ...]:
    """The parameters of a kernel in a file's text."""
    text = re.sub(r"//[^\n]*|__launch_bounds__\(.*?\)|__restrict__|\bconst\b", "", text)
    (inside,) = re.findall(rf"__global__\s+void\s+{name}\s*\(([^)]*)\)", text)
    found = []
    for part in inside.split(","):
        type_, pointer, own = re.fullmatch(r"\s*(.*?)\s*(\*?)\s*(\w+)\s*", part).groups()  # type: ignore[union-attr]
        found.append(Parameter(own, type_.replace("real", real), bool(pointer)))
    return tuple(found)


def current_device(name: str, like: Array) -> tuple[ModuleType, int]:
    """CuPy and the device of `like`, with a context. ValueError : it is not this thread's device."""
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
    bind_context(xp, device)
    return xp, device


def bind_context(xp: ModuleType, device: int) -> None:
    """Give this thread a context of the device. The driver, unlike CuPy, launches nothing without."""
    if not xp.cuda.driver.ctxGetCurrent():
        xp.cuda.Device(device).use()


class Kernels:
    """The kernels of a folder of CUDA C files, each compiled for float32 or float64 by a macro.

    Parameters
    ----------
    package : the folder's package; the files lie in its folder cuda/
    constants : what host and kernels agree on: ``#define`` before each file
    """

    def __init__(self, package: str, constants: Mapping[str, int]) -> None:
        self._package, self.constants = package, dict(constants)
        self.source = functools.cache(self._source)
        self._kernel = functools.cache(self._load)

    def _source(self, file: str) -> str:
        """The text of a file as it is compiled: after the constants, with what it includes."""
        folder = resources.files(self._package).joinpath("cuda")
        text = folder.joinpath(f"{file}.cu").read_text(encoding="utf-8")
        for line, name in re.findall(r'(#include "(.*)")', text):
            text = text.replace(line, folder.joinpath(name).read_text(encoding="utf-8"))
        defines = "".join(f"#define {name} {value}\n" for name, value in self.constants.items())
        return f"{defines}{text}"

    def _load(self, xp: ModuleType, device: int, file: str, name: str, real: str) -> Kernel:
        """A kernel, cached for each device: a module loads on the current one."""
        text = self.source(file)
        module = xp.RawModule(code=text, options=(f"-DREAL={real}",))
        return Kernel(xp, device, module, name, parameters(text, name, real))

    def kernel(self, file: str, name: str, like: Array) -> Kernel:
        """The kernel for the dtype and device of `like`. ValueError : not this thread's device."""
        xp, device = current_device(name, like)
        return self._kernel(xp, device, file, name, REALS.get(like.dtype.char, "float"))

    def launch(
        self, file: str, name: str, like: Array, grid: int | tuple[int, ...], *args: object
    ) -> None:
        """Launch a kernel with `grid` blocks, in the dtype and on the device of `like`.

        TypeError, ValueError : an argument is not what the kernel takes.
        """
        function = self.kernel(file, name, like)
        function.check(args)
        function(grid if isinstance(grid, tuple) else (grid,), *args)


def blocks(n: int) -> int:
    """Number of blocks for n threads."""
    return -(-n // THREADS)
