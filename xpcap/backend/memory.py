"""`Workspace`: the arrays that a computation writes to, reused in each step or fresh."""

import math
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Self

import numpy as np
from numpy.typing import DTypeLike

from xpcap.backend.switch import Array, get_array_module
from xpcap.backend.transfers import Staging, Waiting
from xpcap.errors import InvalidTypeError

ALIGNED = 128  # elements; arrays in one allocation begin at multiples


class Workspace:
    """Arrays to write to, by name: ``take(name, shape)``. Their content is undefined.

    A name has one array, as large as its largest use so far; a smaller use gets its beginning. Its
    dtype never changes: that of `like`, or as in ``take(name, shape, bool)``. A caller gives each
    layer a `scope`, so that no two layers share a name.

    Each step overwrites the results of the step before, so the owner of a workspace decides when
    that may happen. The solver owns one; decoding makes one for each call. On a device all its
    work runs on the stream that was current when it was made: nothing orders two streams.

    like : array whose library, device and dtype the arrays have
    count : the largest number of parts of a step; each has a scope
    waiting : returns a context in which to wait for the device, which other ranks may delay
    """

    def __init__(self, like: Array, count: int = 1, *, waiting: Waiting = nullcontext) -> None:
        self._xp = get_array_module(like)
        self.dtype = like.dtype
        self._prefix = ""
        self._count = count
        self._arrays: dict[str, Array] | None = {}  # None: each array is new
        # The last view of each array: most are needed in the same shape again, and the host takes
        # long to make one for a device
        self._views: dict[str, Array] = {}
        self._staging = Staging(self._xp, waiting)

    @classmethod
    def fresh(cls, like: Array) -> Self:
        """Memory of new arrays, whatever their names."""
        memory = cls(like)
        memory._arrays = None
        return memory

    def scope(self, name: str) -> Self:
        """The same memory, under names that begin with ``name.``."""
        scope = object.__new__(type(self))
        scope.__dict__.update(self.__dict__)
        scope._prefix = f"{self._prefix}{name}."
        return scope

    def take(self, name: str, shape: tuple[int, ...], dtype: DTypeLike | None = None) -> Array:
        """The array of a name, in this shape."""
        dtype = dtype or self.dtype
        if self._arrays is None:
            return self._xp.empty(shape, dtype)
        name = self._prefix + name
        flat = self._arrays.get(name)
        if flat is not None and flat.dtype != dtype:
            raise InvalidTypeError(
                f"the buffer {name} has dtype {flat.dtype}, and {np.dtype(dtype)} is asked for, expected one"
                " dtype for each name; two arrays share a name: give each its own name, or each"
                " layer its own scope"
            )
        last_view = self._views.get(name)
        if last_view is not None and last_view.shape == shape:
            return last_view
        size = math.prod(shape)
        if flat is None or flat.size < size:
            flat = last_view = None
            self._drop(name)  # frees the old memory before asking for more
            self._arrays[name] = self._xp.empty(size, dtype)
        array = self._views[name] = view(self._arrays[name], 0, shape)
        return array

    def send(self, name: str, host: np.ndarray) -> Array:
        """Copy a host array to the device, until its name is used again; return it as it is on the host."""
        if self._xp is np:
            return host
        if self._arrays is None:
            return self._xp.asarray(host)
        device = self.take(name, host.shape, host.dtype)
        self._staging.send(host, device)
        return device

    def hold(self, name: str, flat: Array) -> None:
        """Use `flat` as the array of a name."""
        assert self._arrays is not None
        name = self._prefix + name
        self._drop(name)
        self._arrays[name] = flat

    def _drop(self, name: str) -> None:
        """Forget a name's array."""
        assert self._arrays is not None
        self._arrays.pop(name, None)
        self._views.pop(name, None)

    @property
    def parts(self) -> list[Self]:
        """The memory of each part of a step; the first part has this one."""
        return [self, *(self.scope(f"part {k}") for k in range(1, self._count))]

    @property
    def nbytes(self) -> int:
        """Bytes held under names of this scope."""
        arrays = (self._arrays or {}).items()
        return sum(int(array.nbytes) for name, array in arrays if name.startswith(self._prefix))


def one_block(like: Array, shapes: Sequence[tuple[int, ...]]) -> list[Array]:
    """New arrays of these shapes, with the library and dtype of `like`, in one allocation.

    When large arrays are freed together, malloc returns memory beyond twice the largest to the
    system, and the next arrays are paged in again: on a CPU that takes as long as a small batch's
    arithmetic.
    """
    starts = [0]
    for shape in shapes:
        starts.append(starts[-1] + -(-math.prod(shape) // ALIGNED) * ALIGNED)
    block = get_array_module(like).empty(starts[-1], like.dtype)
    return [view(block, start, shape) for start, shape in zip(starts, shapes, strict=False)]


def view(flat: Array, start: int, shape: tuple[int, ...]) -> Array:
    """View flat[start : start + size].reshape(shape)."""
    if isinstance(flat, np.ndarray):
        return flat[start : start + math.prod(shape)].reshape(shape)
    # Slicing and reshaping a device array would take the host twice as long
    return type(flat)(shape, flat.dtype, flat.data + start * flat.itemsize if start else flat.data)
