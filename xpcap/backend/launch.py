"""Load kernels of CUDA C files, and launch them through CuPy's binding of the driver.

A launch packs its arguments into memory as the C function reads them. It can then be repeated, and
takes the host a fraction of the time of CuPy's own launch. An argument that does not fit the C
function is an error that names kernel and parameter.
"""

import ctypes
import functools
import re
import struct
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from importlib import resources
from importlib.resources.abc import Traversable
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from xpcap.backend.replay import record_node
from xpcap.errors import InvalidTypeError, InvalidValueError, XpcapError

Array = Any  # a cupy.ndarray
LaunchSize = int | tuple[int, ...]  # threads, or numbers of blocks along each axis

THREADS = 256  # in a block
# A parameter fills eight bytes, whatever its type; a pointer is a "Q"
SLOTS = {"int": "i4x", "long long": "q", "float": "f4x", "double": "d"}
# C types by NumPy's character of the dtype, which is read far faster than its name
REALS = {"f": "float", "d": "double"}
# Dtypes of the arrays that a kernel reads and writes, by the C type of an element
DTYPES = {
    "float": np.dtype(np.float32),
    "double": np.dtype(np.float64),
    "int": np.dtype(np.int32),
    "unsigned char": np.dtype(np.bool_),
}


class Parameter(NamedTuple):
    """A parameter of a C function."""

    name: str
    type: str  # the C type, without const; of a pointer, that of its elements
    pointer: bool
    const: bool


class KernelLaunch(NamedTuple):
    """A launch of a kernel, ready to be repeated."""

    kernel: "Kernel"
    grid: tuple[int, int, int]
    parameters: ctypes.Array[Any]  # addresses of the parameters, then the parameters
    arrays: tuple[object, ...]  # the arguments: kept alive, since parameters hold addresses

    def arguments(self, stream: int) -> tuple[int, ...]:
        """The arguments of the driver's launchKernel."""
        kernel, grid, parameters, _ = self
        shape = (*grid, kernel.threads, 1, 1, 0)
        return kernel.address, *shape, stream, ctypes.addressof(parameters), 0

    def call(self) -> Callable[[], object]:
        """A function that launches it again, on this thread's current stream."""
        stream = self.kernel.current_stream().ptr
        return functools.partial(self.kernel.launch_kernel, *self.arguments(stream))


class Kernel:
    """A kernel on a device; ``kernel(threads or blocks, *arguments)`` launches it.

    Arguments are those of the C function: device arrays, and numbers, which are packed as the type
    of their parameter. Blocks lie along one to three axes; nothing is launched without threads.
    Each launch checks its numbers; `check` checks arrays, once.

    xp : CuPy
    device : number of the device
    module : a RawModule that was loaded there
    name : name of the C function
    types : its parameters, from `parameters`
    threads : number of threads in a block
    """

    def __init__(
        self,
        xp: ModuleType,
        device: int,
        module: Any,
        name: str,
        types: Sequence[Parameter],
        threads: int = THREADS,
    ) -> None:
        self.threads = threads
        self.name = name
        self._function = module.get_function(name).kernel
        self.address: int = self._function.ptr
        self.launch_kernel: Callable[..., None] = xp.cuda.driver.launchKernel
        self.current_stream: Callable[[], Any] = xp.cuda.get_current_stream
        self._device = device
        self._array = xp.ndarray
        self._parameters = types
        self._is_pointer = tuple(parameter.pointer for parameter in types)
        self._arrays = [
            (k, DTYPES[parameter.type]) for k, parameter in enumerate(types) if parameter.pointer
        ]
        n = len(types)
        slots = "".join("Q" if parameter.pointer else SLOTS[parameter.type] for parameter in types)
        self._pack = struct.Struct(f"<{n}Q{slots}").pack_into
        self._memory = ctypes.c_byte * (16 * n)
        self._offsets = tuple(range(8 * n, 16 * n, 8))

    def __call__(self, work: LaunchSize, *args: object) -> None:
        grid = work if isinstance(work, tuple) else (-(-work // self.threads),)
        if 0 in grid:  # CUDA would refuse an empty grid
            return
        memory = self._memory()
        start = ctypes.addressof(memory)
        pairs: Any = zip(args, self._is_pointer, strict=True)
        values = [x.data.ptr if pointer else x for x, pointer in pairs]
        try:
            self._pack(memory, 0, *[start + offset for offset in self._offsets], *values)
        except (struct.error, OverflowError):
            raise self._number_error(args) from None
        x, y, z, *_ = *grid, 1, 1
        launch = KernelLaunch(self, (x, y, z), memory, args)
        self.launch_kernel(*launch.arguments(self.current_stream().ptr))
        record_node(launch)

    def check(self, args: Sequence[object]) -> None:
        """Raise TypeError or ValueError if an array does not fit its parameter."""
        array = self._array
        device = self._device
        for k, dtype in self._arrays:
            x: Any = args[k]
            fits = isinstance(x, array) and (x.dtype is dtype or x.dtype == dtype)
            if not (fits and x.flags.c_contiguous and x.data.device_id == device):
                raise self._array_error(args)

    def _array_error(self, args: Sequence[object]) -> XpcapError:
        error: type[XpcapError] = InvalidTypeError
        for k, dtype in self._arrays:
            x: Any = args[k]
            name = self._parameters[k].name
            if not isinstance(x, self._array):
                got = f"is a {type(x).__module__}.{type(x).__name__}"
            elif x.dtype != dtype:
                got = f"has dtype {x.dtype}"
            elif not x.flags.c_contiguous:
                error = InvalidValueError
                got = f"has strides {x.strides} for shape {x.shape}"
            elif x.data.device_id != self._device:
                error = InvalidValueError
                got = f"lies on CUDA device {x.data.device_id}"
            else:
                continue
            return error(
                f"{self.name}: {name} {got}, expected a C-contiguous array of {dtype} on CUDA"
                f" device {self._device}"
            )
        raise AssertionError("every array fits")

    def _number_error(self, args: Sequence[object]) -> XpcapError:
        for x, (name, type_, pointer, _) in zip(args, self._parameters, strict=True):
            if pointer:
                continue
            try:
                struct.pack(f"<{SLOTS[type_]}", x)
            except (struct.error, OverflowError):
                is_number = isinstance(x, int | np.integer) or type_ in REALS.values()
                error = InvalidValueError if is_number else InvalidTypeError
                return error(
                    f"{self.name}: {name} is {x!r}, expected a number of the C type {type_}"
                )
        raise AssertionError("every number fits")


def signatures(text: str) -> dict[str, str]:
    """The parameters of each kernel in a file's text, as text."""
    text = re.sub(r"//[^\n]*|__launch_bounds__\(.*?\)|__restrict__", "", text)
    return dict(re.findall(r"__global__\s+void\s+(\w+)\s*\(([^)]*)\)", text))


def parameters(text: str, name: str, real: str) -> tuple[Parameter, ...]:
    """The parsed parameters of a kernel in a file's text."""
    result = []
    for part in signatures(text)[name].split(","):
        shape = r"\s*(const\s)?\s*(.*?)\s*(\*?)\s*(\w+)\s*"
        const, type_, star, name_ = re.fullmatch(shape, part).groups()  # type: ignore[union-attr]
        result.append(Parameter(name_, type_.replace("real", real), bool(star), bool(const)))
    return tuple(result)


def current_device(name: str, like: Array) -> tuple[ModuleType, int]:
    """CuPy, and the device of `like`, which then has a context.

    TypeError, ValueError : `like` is no array of CuPy, or not on this thread's device
    """
    xp = sys.modules["cupy"]
    if not isinstance(like, xp.ndarray):
        raise InvalidTypeError(
            f"{name}: its arrays are a {type(like).__module__}.{type(like).__name__}, expected"
            " CuPy's"
        )
    device = like.data.device_id
    if device != (current := xp.cuda.runtime.getDevice()):
        raise InvalidValueError(
            f"{name}: its arrays lie on CUDA device {device}, and this thread's current device is"
            f" {current}, expected the same; call use_backend('cupy:{device}') in each thread that"
            " computes there"
        )
    if not _this_thread.has_context:
        # Unlike CuPy, the driver launches nothing without a context
        xp.cuda.Device(device).use()
        _this_thread.has_context = True
    return xp, device


class _ThisThread(threading.local):
    has_context = False


_this_thread = _ThisThread()


class Kernels:
    """The kernels of a package's folder cuda/, compiled for float32 or float64 by the macro REAL.

    package : the package whose folder cuda/ has the files
    constants : numbers that host and kernels share: ``#define`` before each file, like THREADS
    threads : number of threads in a block
    """

    def __init__(self, package: str, constants: Mapping[str, int], threads: int = THREADS) -> None:
        self._package = package
        self.constants = dict(constants)
        self.threads = threads
        self.source = functools.cache(self._source)
        self._like = functools.cache(self._find_like)
        # By CuPy, device (a module is loaded on the current one), name and dtype
        self._loaded: dict[tuple[ModuleType, int, str, str], Kernel] = {}

    def __getitem__(self, constant: str) -> int:
        return self.constants[constant]

    def _source(self, file: str) -> str:
        """The text of a file as it is compiled: with the constants, and the files it includes."""
        text = self._read(f"{file}.cu")
        for line, name in re.findall(r'(#include "(.*)")', text):
            text = text.replace(line, self._read(name))
        defined = {"THREADS": self.threads, **self.constants}
        return "".join(f"#define {name} {value}\n" for name, value in defined.items()) + text

    @property
    def _folder(self) -> Traversable:
        return resources.files(self._package).joinpath("cuda")

    def _read(self, name: str) -> str:
        return self._folder.joinpath(name).read_text(encoding="utf-8")

    @functools.cached_property
    def files(self) -> dict[str, str]:
        """The file of each kernel, without suffix."""
        names = [path.name for path in self._folder.iterdir() if path.is_file()]
        return {
            kernel: name.removesuffix(".cu")
            for name in names
            for kernel in signatures(self._read(name))
        }

    def _parameters(self, kernel: str, real: str) -> tuple[Parameter, ...]:
        return parameters(self.source(self.files[kernel]), kernel, real)

    def _load(self, xp: ModuleType, device: int, name: str, real: str) -> Kernel:
        code = self.source(self.files[name])
        module = xp.RawModule(code=code, options=(f"-DREAL={real}",))
        return Kernel(xp, device, module, name, self._parameters(name, real), self.threads)

    def _find_like(self, name: str) -> int:
        """Index of the argument whose dtype and device choose the compiled kernel.

        It is the first array of reals that the kernel writes, else that it reads, else the first.
        """
        arguments = enumerate(self._parameters(name, "real"))
        pointers = [(k, parameter) for k, parameter in arguments if parameter.pointer]
        reals = [(parameter.const, k) for k, parameter in pointers if parameter.type == "real"]
        return min(reals, default=(True, pointers[0][0]))[1]

    def kernel(self, name: str, args: Sequence[Any]) -> Kernel:
        """A kernel for the dtype and device of its arguments, of which numbers may be missing.

        TypeError, ValueError : an array does not fit, or is not on this thread's device
        """
        like = args[self._like(name)]
        xp, device = current_device(name, like)
        key = xp, device, name, like.dtype.char
        if (kernel := self._loaded.get(key)) is None:
            kernel = self._load(xp, device, name, REALS.get(like.dtype.char, "float"))
            self._loaded[key] = kernel
        kernel.check(args)
        return kernel

    def launch(self, name: str, work: LaunchSize, *args: object) -> None:
        """Launch a kernel; TypeError or ValueError if an argument does not fit."""
        self.kernel(name, args)(work, *args)

    def prepared(self, name: str, *arrays: Array) -> Callable[..., None]:
        """A function of threads or blocks, and numbers, that launches a kernel on these arrays.

        TypeError, ValueError : an array does not fit
        """
        kernel = self.kernel(name, arrays)

        def launch(work: LaunchSize, *numbers: object) -> None:
            kernel(work, *arrays, *numbers)

        return launch

    def blocks(self, n: int, items: int = 0) -> int:
        """Number of blocks for n threads, or for n items if a block takes `items` of them."""
        return -(-n // (items or self.threads))
