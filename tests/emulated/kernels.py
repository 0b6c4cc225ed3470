"""The emulated RawModule: the same CUDA C text, compiled by g++ and run on the host.

A kernel is launched through the driver's binding, by addresses. What lies there is held against the C
parameter list, and CUDA reads it whatever it is. Each array is laid between margins while the kernel
runs, so that what it reads beyond an end is NaN and what it writes there is an error.
"""

import ctypes
import functools
import itertools
from typing import Any

import numpy as np

from emulated import memory, real
from emulated.record import EMULATOR

MARGIN = 1024  # elements before and behind: more than the threads of a last block that has no guard


class RawModule:
    """CUDA C text. Built when the first kernel is asked for, once for each text and type, over all
    tests.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        arguments = real.bind("RawModule", args, kwargs)
        self.code, options = arguments.pop("code", None), arguments.pop("options", ())
        if options not in (("-DREAL=float",), ("-DREAL=double",)) or arguments:
            raise NotImplementedError(
                f"emulated RawModule: options are {options}, and {sorted(arguments)}, expected"
                " -DREAL=float or -DREAL=double alone"
            )
        self._real = options[0].removeprefix("-DREAL=")
        self._device = EMULATOR.current

    def get_function(self, name: str) -> "RawKernel":
        import cpu_build

        built = cpu_build.build(self.code, self._real, EMULATOR.as_gpu)
        if name not in built.parameters:
            raise AttributeError(f"cupy.RawModule.get_function: no kernel {name!r}")
        return RawKernel(built, name, self._device)


_addresses = itertools.count(0xF00D000, 64)
_functions: dict[int, "RawKernel"] = {}  # by address
# The arrays of a launch through the driver, by its function and the address of its parameters, with
# the parameters: a launch that is repeated asks no array for its address again
_launched: dict[tuple[int, int], tuple[tuple[Any, ...], list[memory.Asked]]] = {}


class RawKernel:
    """A kernel of a module, on the device that the module was loaded on."""

    def __init__(self, built: Any, name: str, number: int) -> None:
        self._built, self.name, self._device = built, name, number
        self.kernel, self.ptr = self, next(_addresses)  # what the driver knows of it
        _functions[self.ptr] = self

    @property
    def attributes(self) -> dict[str, int]:
        """Zeros: the CPU's registers are not a GPU's."""
        real.look_up("RawKernel.attributes")
        return dict.fromkeys(("num_regs", "local_size_bytes", "shared_size_bytes"), 0)

    def arguments(self, address: int) -> tuple[Any, ...]:
        """The arguments at the addresses that lie at `address`, one behind the other."""
        import cpu_build

        parameters = self._built.parameters[self.name]
        slots = (ctypes.c_uint64 * len(parameters)).from_address(address)
        dtypes = (cpu_build.dtype_of(parameter, self._built.real) for parameter in parameters)
        values = tuple(
            np.frombuffer(ctypes.string_at(slot, 8), dtype, 1)[0]
            for slot, dtype in zip(slots, dtypes, strict=True)
        )
        pointers = [int(v) for v, p in zip(values, parameters, strict=True) if p.pointer]
        key, found = (self.ptr, address), memory.take_asked(pointers)
        if found is not None:
            _launched[key] = values, found
        elif key in _launched and _launched[key][0] == values:
            found = _launched[key][1]
        else:
            raise ValueError(
                f"{self.name}: a pointer among {pointers} is no address that an array was asked for"
                " before this launch"
            )
        arrays = iter([self._array(at, one) for at, one in zip(pointers, found, strict=True)])
        pairs = zip(parameters, values, strict=True)
        return tuple(next(arrays) if p.pointer else value for p, value in pairs)

    def _array(self, address: int, asked: memory.Asked) -> np.ndarray:
        block = memory.find(address)
        size = asked.dtype.itemsize * int(np.prod(asked.shape))
        self._check_device("an array lies", asked.device)
        if not size:
            return np.empty(asked.shape, asked.dtype)
        if block is None or address + size > block.start + block.nbytes:
            raise ValueError(f"{self.name}: the array at {address:#x} was freed before this launch")
        if not asked.contiguous:
            got = f"an argument has strides {asked.strides} for shape {asked.shape}"
            raise ValueError(f"{self.name}: {got}, expected C-contiguous rows")
        block.use()
        held = (ctypes.c_char * size).from_address(address)
        return np.ndarray(asked.shape, asked.dtype, held)

    def _check_device(self, what: str, number: int) -> None:
        if number != EMULATOR.current:
            current = f"and device {EMULATOR.current} is the current one"
            raise ValueError(f"{self.name}: {what} on device {number}, {current}")

    def run(self, grid: tuple[int, ...], block: tuple[int, ...], args: tuple[Any, ...]) -> None:
        self._check_device("was loaded", self._device)
        guarded = Guarded(self.name, self._built.parameters[self.name], args)
        if EMULATOR.recorded is not None:
            EMULATOR.recorded.append(self._recorded(grid, block, guarded.args))
        self._built.launch(self.name, grid, block, guarded.args, EMULATOR.seed)
        guarded.leave()
        EMULATOR.launch("raw", self.name)

    def _recorded(self, grid: Any, block: Any, args: list[Any]) -> Any:
        """The launch with copies of its arrays; an array given twice is one copy."""
        import cpu_build

        copies = {id(x): x.copy() for x in args if isinstance(x, np.ndarray)}
        kept = [copies.get(id(x), x) for x in args]
        return cpu_build.Launch(self._built.source, self._built.real, self.name, grid, block, kept)


def launch_kernel(
    f: int, gx: int, gy: int, gz: int, bx: int, by: int, bz: int, shared: int, stream: int,
    kernel_params: int, extra: int,
) -> None:  # fmt: skip
    """cupy.cuda.driver.launchKernel."""
    if not EMULATOR.has_context:
        raise RuntimeError("CUDA_ERROR_INVALID_CONTEXT: invalid device context")
    if f not in _functions:
        raise ValueError(f"launchKernel: {f:#x} is no function, expected RawKernel.kernel.ptr")
    kernel = _functions[f]
    if stream != EMULATOR.stream_ptr or extra or shared:
        raise ValueError(
            f"{kernel.name}: was given to stream {stream:#x} with {shared} bytes of shared"
            f" memory and extra {extra}, expected the current stream {EMULATOR.stream_ptr:#x}, 0 and 0"
        )
    kernel.run((gx, gy, gz), (bx, by, bz), kernel.arguments(kernel_params))


class Guarded:
    """The arguments of a launch with every array between margins. Arrays of the same memory share
    one place, as they do on the device.
    """

    def __init__(self, who: str, parameters: Any, args: tuple[Any, ...]) -> None:
        self._who = who
        # Name, array, room and inside of it, by what makes two arrays one
        self._places: dict[Any, tuple[str, np.ndarray, np.ndarray, np.ndarray]] = {}
        self.args = [
            self._laid(p.name, x) if p.pointer else x for p, x in zip(parameters, args, strict=True)
        ]

    def _laid(self, name: str, host: np.ndarray) -> np.ndarray:
        key = (host.ctypes.data, host.size, host.dtype.str)
        if key not in self._places:
            if any(np.may_share_memory(host, other) for _, other, _, _ in self._places.values()):
                raise NotImplementedError(
                    f"{self._who}: {name} overlaps another argument in part; the emulated device"
                    " runs kernels on equal or separate memory alone"
                )
            behind = margin(host.dtype.str, len(self._places))
            room = np.concatenate((behind[::-1], host.reshape(-1), behind))
            inside = room[MARGIN : MARGIN + host.size].reshape(host.shape)
            self._places[key] = name, host, room, inside
        inside = self._places[key][3]
        return inside if inside.shape == host.shape else inside.reshape(host.shape)

    def leave(self) -> None:
        """Take the results home. RuntimeError : the kernel wrote beside one of its arrays."""
        for number, (name, host, room, inside) in enumerate(self._places.values()):
            behind = margin(host.dtype.str, number)
            if (
                room[MARGIN + host.size :].tobytes() != behind.tobytes()
                or room[:MARGIN].tobytes() != behind[::-1].tobytes()
            ):
                raise RuntimeError(
                    f"{self._who}: wrote outside {name} of {host.size} elements; a guard is"
                    " missing, or a size is wrong"
                )
            host[...] = inside


@functools.cache
def margin(dtype: str, number: int) -> np.ndarray:
    """What lies behind an array: NaN in turn with a number, each of them another one for each
    argument; -1 and less for integers.

    A kernel that reads there gets the NaN. One that writes there changes something even where it
    only carries a NaN on.
    """
    there = np.dtype(dtype)
    if there.kind != "f":
        return np.resize(np.array([-1, -2]), MARGIN).astype(there)
    values = np.full(MARGIN, 1000 + number, there)
    unsigned = np.dtype(f"u{there.itemsize}")
    values.view(unsigned)[::2] = np.array(np.nan, there).view(unsigned) + unsigned.type(number + 1)
    return values
