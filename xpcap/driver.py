"""Launches of CUDA kernels through the driver's binding in CuPy.

A launch is prepared once: arguments are packed into memory as the kernel's C parameters want them.
It can then be run as often as wanted, in a fraction of the host's time of CuPy's own launch.
"""

import ctypes
import functools
import re
import struct
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any, NamedTuple

THREADS = 256  # of a block, in every kernel
# A parameter fills eight bytes, whatever its type; a pointer is a "Q"
SLOTS = {"int": "i4x", "long long": "q", "float": "f4x", "double": "d"}


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

    def before_capture(self, stream: int) -> None:
        """Nothing."""

    def capture(self, stream: int) -> None:
        self.call(stream)()


class Kernel:
    """A kernel on a device. Called with a grid and arguments, it launches.

    Arguments are those of the C function: device arrays, and numbers, which are packed as the type
    of their parameter. A grid has one to three axes.

    Parameters
    ----------
    xp : CuPy
    module : its RawModule
    name : of the C function
    types : its parameters, as from `parameters`
    note : is given each launch after it
    """

    def __init__(
        self,
        xp: ModuleType,
        module: Any,
        name: str,
        types: Sequence[Parameter],
        note: Callable[[Launch], None],
    ) -> None:
        self.name, self._function, self._note = name, module.get_function(name).kernel, note
        self.address: int = self._function.ptr
        self.launch: Callable[..., None] = xp.cuda.driver.launchKernel
        self.current_stream: Callable[[], Any] = xp.cuda.get_current_stream
        self._is_pointer = tuple(one.pointer for one in types)
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
        self._pack(memory, 0, *[start + offset for offset in self._offsets], *values)
        x, y, z, *_ = *grid, 1, 1
        work = Launch(self, (x, y, z), memory, args)
        work.call(self.current_stream().ptr)()
        self._note(work)


def parameters(text: str, name: str, real: str) -> tuple[Parameter, ...]:
    """The parameters of a kernel in a file's text."""
    text = re.sub(r"//[^\n]*|__launch_bounds__\(.*?\)|__restrict__|\bconst\b", "", text)
    (inside,) = re.findall(rf"__global__\s+void\s+{name}\s*\(([^)]*)\)", text)
    found = []
    for part in inside.split(","):
        type_, pointer, own = re.fullmatch(r"\s*(.*?)\s*(\*?)\s*(\w+)\s*", part).groups()  # type: ignore[union-attr]
        found.append(Parameter(own, type_.replace("real", real), bool(pointer)))
    return tuple(found)
