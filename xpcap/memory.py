"""Memory of a computation.

A `Workspace` keeps buffers from step to step and lends them through a `Buffer`; `allocator` gives a
`Buffer` of new arrays.
"""

import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any, TypeVar

import numpy as np
from numpy.typing import DTypeLike

from xpcap.backend import Array, asarray, get_array_module, is_device_array
from xpcap.device.replay import Replay
from xpcap.device.transfers import Staging, Waiting
from xpcap.errors import InvalidTypeError

T = TypeVar("T")
ALIGNED = 128  # elements; arrays in one allocation begin at multiples


class Buffer:
    """Arrays to write to, by name: ``buffer(name, shape)``. Their content is undefined.

    A name stands for one array, always of one dtype: the usual one, or as in ``buffer(name, shape,
    bool)``. Each layer gets a scope of its own from its caller, so that no two layers share a name.

    take : maps a full name, a shape and a dtype (None for the usual one) to an array
    send : maps a full name and a host array to that array on the buffer's device
    constants : results that last as long as the memory, by full name; None: nothing is constant
    prefix : put in front of every name
    """

    def __init__(
        self,
        take: Callable[[str, tuple[int, ...], DTypeLike | None], Array],
        send: Callable[[str, np.ndarray], Array],
        constants: dict[str, tuple[Array, Any]] | None = None,
        prefix: str = "",
    ) -> None:
        self._take, self._send, self._constants, self._prefix = take, send, constants, prefix

    def __call__(self, name: str, shape: tuple[int, ...], dtype: DTypeLike | None = None) -> Array:
        return self._take(self._prefix + name, shape, dtype)

    def upload(self, name: str, host: np.ndarray) -> Array:
        """A host array on the device, until its name is used again; on the host that array."""
        return self._send(self._prefix + name, host)

    def constant(self, name: str, source: Array, make: Callable[[], T]) -> T:
        """The result of `make`, which depends on `source` alone.

        While parameters are `constant`, the last result is returned again for the same array.
        """
        if self._constants is None:
            return make()
        last, result = self._constants.get(full := self._prefix + name, (None, None))
        if last is not source:
            result = make()
            self._constants[full] = source, result
        return result

    def scope(self, name: str) -> "Buffer":
        """The same memory under names that begin with ``name.``"""
        return Buffer(self._take, self._send, self._constants, f"{self._prefix}{name}.")


def allocator(like: Array) -> Buffer:
    """New arrays of the library and dtype of `like`, whatever their names."""
    xp, usual = get_array_module(like), like.dtype
    return Buffer(
        lambda name, shape, dtype: xp.empty(shape, dtype or usual),
        lambda name, host: asarray(host, like=like),
    )


def one_block(like: Array, shapes: Sequence[tuple[int, ...]]) -> list[Array]:
    """New arrays of these shapes, of the library and dtype of `like`, in one allocation.

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
    # Slicing and reshaping a device's array takes twice the host's time
    return type(flat)(shape, flat.dtype, flat.data + start * flat.itemsize if start else flat.data)


class _Store:
    """Named buffers that last. It knows no `Buffer`, so their memory goes with its last user."""

    def __init__(self, like: Array, waiting: Waiting) -> None:
        self._xp, self._dtype = get_array_module(like), like.dtype
        self._buffers: dict[str, Array] = {}
        # The last view of each: most are needed in the same shape again, and a new one costs a
        # device's host time
        self._views: dict[str, Array] = {}
        self._staging = Staging(self._xp, waiting)

    def take(self, name: str, shape: tuple[int, ...], dtype: DTypeLike | None) -> Array:
        flat, wanted = self._buffers.get(name), dtype or self._dtype
        if flat is not None and flat.dtype != wanted:
            got = f"has dtype {flat.dtype}, and {np.dtype(wanted)} is asked for"
            cause = "two arrays share a name: give each a name, or its layer a scope, of its own"
            raise InvalidTypeError("Workspace", name, got, "one dtype for each name", cause)
        last = self._views.get(name)
        if last is not None and last.shape == shape:
            return last
        size = math.prod(shape)
        if flat is None or flat.size < size:
            flat = last = None
            self._drop(name)  # frees the old memory before asking for more
            self._buffers[name] = self._xp.empty(size, wanted)
        result = self._views[name] = view(self._buffers[name], 0, shape)
        return result

    def _drop(self, name: str) -> None:
        """Forget a name's array."""
        self._buffers.pop(name, None)
        self._views.pop(name, None)

    def hold(self, name: str, flat: Array) -> None:
        """Use `flat` as the buffer of a name."""
        self._drop(name)
        self._buffers[name] = flat

    def send(self, name: str, host: np.ndarray) -> Array:
        if self._xp is np:
            return host
        device = self.take(name, host.shape, host.dtype)
        self._staging.send(host, device)
        return device

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return sum(int(buffer.nbytes) for buffer in self._buffers.values())


class Workspace:
    """Named buffers that last from step to step, lent through `buffer`.

    A buffer is as large as its largest use so far, and a smaller use gets its beginning. Each step
    overwrites the results of the step before, so the owner of a workspace decides when that may
    happen. The solver owns one; a sampler makes one for each call. On a device all work with it
    belongs to the stream that was current when it was made: nothing orders two streams.

    like : array whose library, device and dtype the buffers have
    parts : most parts of a step; each has buffers of its own
    layout : what inputs of a step are padded to by the function that packs them, so that no buffer
        moves; on a device alone
    constant : parameters do not change while the workspace lasts, so that what is computed from
        them alone is kept
    waiting : gives the context of a wait for the device, which other ranks may hold up

    replay : record of the work of padded steps
    """

    def __init__(
        self,
        like: Array,
        parts: int = 1,
        *,
        layout: Any = None,
        constant: bool = False,
        waiting: Waiting = nullcontext,
    ) -> None:
        self._store = _Store(like, waiting)
        self._others = [Workspace(like) for _ in range(parts - 1)]
        self.buffer = Buffer(self._store.take, self._store.send, {} if constant else None)
        self.layout = layout if is_device_array(like) else None
        self.replay = Replay[Any]()

    def hold(self, name: str, flat: Array) -> None:
        """Use `flat` as the buffer of a name."""
        self._store.hold(name, flat)

    @property
    def parts(self) -> list["Workspace"]:
        """Workspaces of the parts of a step; the first is this one."""
        return [self, *self._others]

    @property
    def nbytes(self) -> int:
        """Bytes held, over all parts."""
        return self._store.nbytes + sum(other.nbytes for other in self._others)
