"""The emulated cupy.ndarray: NumPy's memory behind the manners of a device. Operators and methods
are attached by the files beside this one.
"""

from typing import Any

import numpy as np

from emulated import memory, real
from emulated.record import EMULATOR

SCALARS = (bool, int, float, complex, np.number, np.bool_)
# Of NumPy, and harmless: they look at no element
SHAPES = np.shape, np.ndim, np.size, np.result_type, np.can_cast


class Flags:
    """The layout, as cupy tells it: read-only, and without `writeable`, which cupy's arrays
    lack.
    """

    def __init__(self, host: np.ndarray) -> None:
        self.c_contiguous, self.f_contiguous = host.flags.c_contiguous, host.flags.f_contiguous


class Pointer:
    """What `array.data` is: where the elements lie; further on, so many bytes are added."""

    def __init__(self, host: np.ndarray, device_id: int, offset: int = 0) -> None:
        self.host, self.offset, self.device_id = host, offset, device_id

    @property
    def ptr(self) -> int:
        """The address. Whoever asks may hand it to a kernel: the device remembers whose it is."""
        address = self.host.ctypes.data + self.offset
        if not self.offset:
            memory.asked(address, self.host, self.device_id)
        return address

    def __add__(self, nbytes: int) -> "Pointer":
        return type(self)(self.host, self.device_id, self.offset + nbytes)

    def view(self, shape: Any, dtype: Any) -> np.ndarray:
        """An array of the memory behind it. It has to lie in what the pointer came from, which is
        stricter than cupy.
        """
        if not self.host.flags.c_contiguous:
            raise NotImplementedError(
                "emulated cupy.ndarray: memptr into an array that is not contiguous is not modelled"
            )
        return np.ndarray(shape, dtype, self.host.reshape(-1).view(np.uint8), self.offset)


class ndarray:  # noqa: N801 - cupy's name
    """An array on the emulated device. `host` is NumPy's array behind it, for the files of this
    package alone.
    """

    # Attributes of cupy's are found as quickly as there
    __slots__ = (
        "__weakref__", "data", "dtype", "flags", "host", "itemsize", "nbytes", "ndim", "number",
        "shape", "size", "strides",
    )  # fmt: skip
    __array_priority__ = 100
    __hash__ = None  # type: ignore[assignment]
    host: np.ndarray
    number: int  # the device it lies on

    def __init__(
        self,
        shape: Any,
        dtype: Any = float,
        memptr: Any = None,
        strides: Any = None,
        order: str = "C",
    ) -> None:
        if strides is not None:
            raise NotImplementedError("emulated cupy.ndarray: strides are not modelled")
        if memptr is not None:
            _hold(self, memptr.view(shape, supported(dtype)), memptr.device_id)
        else:
            _hold(self, memory.allocate(poisoned(shape, dtype, order or "C")), EMULATOR.current)

    def __getattr__(self, name: str) -> Any:
        """Only for what the emulation does not define."""
        if name.startswith("__") or not hasattr(real.cupy().ndarray, name):
            raise AttributeError(f"'cupy.ndarray' object has no attribute {name!r}")
        raise NotImplementedError(
            f"emulated device: cupy.ndarray.{name} is not modelled; add it to"
            " tests/emulated/methods.py"
        )

    T = property(lambda self: view(self.host.T, self))

    @property
    def device(self) -> Any:
        from emulated.cuda import Device

        return Device(self.number)

    def __reduce__(self) -> Any:
        return loaded, (self.host,)

    def __len__(self) -> int:
        return len(self.host)

    def __iter__(self) -> Any:
        if self.ndim == 0:
            raise TypeError("iteration over a 0-d array")
        return (self[i] for i in range(len(self)))  # reads nothing by itself: each is an array

    # What NumPy asks of an array that is not its own

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        raise TypeError("Implicit conversion to a NumPy array is not allowed.")

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **kwargs: Any) -> Any:
        """cupy takes over here without a word, also for an operator with a NumPy scalar on its left;
        a stray np. is to be seen.
        """
        raise TypeError(f"numpy.{ufunc.__name__} was called on a device array")

    def __array_function__(self, func: Any, types: Any, args: Any, kwargs: Any) -> Any:
        if func in SHAPES:
            return func(*(x.host if isinstance(x, ndarray) else x for x in args), **kwargs)
        raise TypeError(f"numpy.{func.__name__} was called on a device array")


ndarray.__module__ = "cupy"


def _hold(x: ndarray, host: np.ndarray, number: int) -> ndarray:
    """`x` as an array of that memory on a device."""
    x.host, x.number, x.flags = host, number, Flags(host)
    x.shape, x.strides, x.dtype = host.shape, host.strides, host.dtype
    x.ndim, x.size, x.itemsize, x.nbytes = host.ndim, host.size, host.itemsize, host.nbytes
    x.data = Pointer(host, number)
    return x


def supported(dtype: Any) -> np.dtype[Any]:
    """A dtype that cupy has: numbers and booleans; strings, objects and dates it has not."""
    found = np.dtype(dtype)
    if found.kind not in "biufc":
        raise ValueError(f"Unsupported dtype {found}")
    return found


def poisoned(shape: Any, dtype: Any, order: Any = "C") -> np.ndarray:
    """Memory as it is found: NaN, or a large odd number, so that reading what was never written
    shows.
    """
    found = supported(dtype)
    poison: Any = 1
    if found.kind != "b":
        poison = np.nan if found.kind in "fc" else np.iinfo(found).max - 2
    return np.full(shape, poison, found, order)


def wrap(value: Any) -> ndarray:
    """A fresh result as an array on the current device: C-contiguous, as cupy's results are, and
    never a scalar.
    """
    return fresh(np.asarray(value, order="C"))


def fresh(host: np.ndarray) -> ndarray:
    """NumPy's array `host` as it lies, as new memory on the current device."""
    return _hold(ndarray.__new__(ndarray), memory.allocate(host), EMULATOR.current)


def loaded(host: np.ndarray) -> ndarray:
    """A copy of a host array on the current device, as unpickling gives one."""
    return fresh(host.copy())


def view(host: np.ndarray, like: ndarray) -> ndarray:
    """NumPy's array `host`, which lies in the memory of `like`."""
    return _hold(ndarray.__new__(ndarray), host, like.number)


def here(x: ndarray, who: str) -> np.ndarray:
    """The memory of `x` for a kernel that runs on the current device."""
    if x.number != EMULATOR.current:
        raise ValueError(
            f"{who}: Array device must be same as the current device: array device = {x.number}"
            f" while current = {EMULATOR.current}"
        )
    memory.use(x.host)
    return x.host


def array(x: Any, who: str) -> np.ndarray:
    """The memory of a device array; nothing else will do."""
    if isinstance(x, ndarray):
        return here(x, who)
    got = f"{type(x).__module__}.{type(x).__name__}"
    raise TypeError(f"cupy.{who}: got a {got}, expected a device array")


def operand(x: Any, who: str) -> Any:
    """The memory of a device array, or a scalar as it is."""
    return x if isinstance(x, SCALARS) else array(x, who)


def deliver(result: Any, out: ndarray | None, who: str) -> ndarray:
    """A result as a fresh array, or in the one given as out=: exactly its shape and dtype, which is
    stricter than cupy.
    """
    if out is None:
        return wrap(result)
    value = np.asarray(result)
    target = array(out, f"{who}(out=)")
    if target.dtype != value.dtype or target.shape != value.shape:
        raise TypeError(
            f"cupy.{who}: out is {target.dtype} {target.shape}, expected {value.dtype}"
            f" {value.shape}"
        )
    target[...] = value
    return out


def cast(host: Any, dtype: np.dtype[Any], who: str) -> Any:
    """As NumPy casts, where both libraries give the same: not a float that the integer type cannot
    hold.
    """
    value = np.asarray(host)
    if value.dtype.kind in "fc" and dtype.kind in "iu" and value.size:
        low, high = np.iinfo(dtype).min, np.iinfo(dtype).max
        fits = np.isfinite(value) & (value.real > low - 1) & (value.real <= high)
        if not fits.all():
            raise ValueError(
                f"cupy.{who}: casts {value.dtype} to {dtype}, which cannot hold all of it; cupy and"
                " numpy differ"
            )
    with np.errstate(all="ignore"):
        return value.astype(dtype)
