"""Memory of a computation, and transfers between host and device.

A `Workspace` keeps buffers from step to step and lends them through a `Buffer`; `allocator` gives a
`Buffer` of new arrays. `Staging` sends host arrays to a device, `AsyncCopy` brings results back
while the device goes on computing.
"""

import math
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any, TypeVar

import numpy as np
from numpy.typing import DTypeLike

from xpcap.backend import Array, asarray, get_array_module
from xpcap.errors import InvalidTypeError, InvalidValueError

T = TypeVar("T")
ALIGNED = 128  # elements; arrays in one allocation begin at multiples
AHEAD = 8  # uploads under way at most, of two steps or more; one more waits for the oldest


class Buffer:
    """Arrays to write to, by name: ``buffer(name, shape)``. Their content is undefined.

    A name stands for one array, always of one dtype: the usual one, or as in ``buffer(name, shape,
    bool)``. Each layer gets a scope of its own from its caller, so that no two layers share a name.

    Parameters
    ----------
    take : maps a full name, a shape and a dtype (None for the usual one) to an array
    send : maps a full name and a host array to that array on the buffer's device
    prefix : put in front of every name

    Attributes
    ----------
    records : whatever its user keeps that holds addresses, such as views and recorded launches, by
        keys of his own; cleared when an array moves. None: each array is new
    graphs : True if records are to run as CUDA graphs
    """

    graphs = False

    def __init__(
        self,
        take: Callable[[str, tuple[int, ...], DTypeLike | None], Array],
        send: Callable[[str, np.ndarray], Array],
        prefix: str = "",
        records: dict[object, Any] | None = None,
    ) -> None:
        self._take, self._send, self._prefix, self.records = take, send, prefix, records
        self._cache: dict[str, tuple[Array, object, Any]] = {}

    def __call__(self, name: str, shape: tuple[int, ...], dtype: DTypeLike | None = None) -> Array:
        return self._take(self._prefix + name, shape, dtype)

    def cached(
        self, name: str, shape: tuple[int, ...], make: Callable[[Array], T], of: object
    ) -> T:
        """Result of make(self(name, shape)), cached until the array or `of` is another object."""
        array = self(name, shape)
        last = self._cache.get(name)
        if last is None or last[0] is not array or last[1] is not of:
            last = self._cache[name] = array, of, make(array)
        return last[2]

    def upload(self, name: str, host: np.ndarray) -> Array:
        """A host array on the device, until its name is used again; on the host that array."""
        return self._send(self._prefix + name, host)

    def scope(self, name: str) -> "Buffer":
        """The same memory under names that begin with ``name.``"""
        return Buffer(self._take, self._send, f"{self._prefix}{name}.")


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


class Workspace:
    """Named buffers that last from step to step, lent through `buffer`.

    A buffer is as large as its largest use so far, and a smaller use gets its beginning. Each step
    overwrites the results of the step before, so the owner of a workspace decides when that may
    happen. The solver owns one; a sampler makes one for each call. On a device all work with it
    belongs to the stream that was current when it was made: nothing orders two streams.

    Parameters
    ----------
    like : array whose library, device and dtype the buffers have
    parts : most parts of a step; each has buffers of its own
    graphs : run what is recorded as CUDA graphs, where they give the same bits
    """

    def __init__(self, like: Array, parts: int = 1, *, graphs: bool = False) -> None:
        self._xp, self._dtype = get_array_module(like), like.dtype
        self._buffers: dict[str, Array] = {}
        # The last view of each: most are needed in the same shape again, and a new one costs a
        # device's host time
        self._views: dict[str, Array] = {}
        self._others = [Workspace(like) for _ in range(parts - 1)]
        self._staging = Staging(self._xp)
        self._records: dict[object, Any] = {}
        self.buffer = Buffer(self._take, self._send, records=self._records)
        self.buffer.graphs = graphs

    def _take(self, name: str, shape: tuple[int, ...], dtype: DTypeLike | None) -> Array:
        flat, wanted = self._buffers.get(name), dtype or self._dtype
        if flat is not None and flat.dtype != wanted:
            raise InvalidTypeError(
                "Workspace",
                name,
                f"has dtype {flat.dtype}, and {np.dtype(wanted)} is asked for",
                expected="one dtype for each name",
                cause="two arrays share a name: give each a name, or its layer a scope, of its own",
            )
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
        """Forget a name's array, and the records, which may hold its address."""
        self._buffers.pop(name, None)
        self._views.pop(name, None)
        self._records.clear()

    def hold(self, name: str, flat: Array) -> None:
        """Use `flat` as the buffer of a name."""
        self._drop(name)
        self._buffers[name] = flat

    def _send(self, name: str, host: np.ndarray) -> Array:
        if self._xp is np:
            return host
        device = self._take(name, host.shape, host.dtype)
        self._staging.send(host, device)
        return device

    @property
    def parts(self) -> list["Workspace"]:
        """Workspaces of the parts of a step; the first is this one."""
        return [self, *self._others]

    @property
    def nbytes(self) -> int:
        """Bytes held, over all parts."""
        return sum(int(buffer.nbytes) for buffer in self._buffers.values()) + sum(
            other.nbytes for other in self._others
        )


class Staging:
    """A ring of pinned buffers: the host writes into one while a device copies from the others.

    A copy from ordinary memory would wait for all work launched before it. An upload waits only if
    the device is AHEAD uploads behind.
    """

    def __init__(self, xp: ModuleType) -> None:
        self._xp, self._turn = xp, 0
        self._stream = 0 if xp is np else xp.cuda.get_current_stream().ptr
        # Pinned memory as bytes, and the event behind its last copy
        self._slots: list[tuple[np.ndarray, Any]] = []

    def send(self, host: np.ndarray, device: Array) -> None:
        """Copy `host` to `device` for later launches; `host` may be overwritten at once.

        ValueError : another stream is current than when this was made.
        """
        stream = self._xp.cuda.get_current_stream()
        if stream.ptr != self._stream:
            raise InvalidValueError(
                "Workspace",
                "",
                f"was made on CUDA stream {self._stream:#x}, and the current stream is"
                f" {stream.ptr:#x}",
                expected="the same: nothing orders work of two streams",
                cause="train and sample inside the `with` of one stream, and make the solver there",
            )
        pinned, copied = self._take(host.nbytes)
        staged = np.ndarray(host.shape, host.dtype, pinned.data)
        staged[...] = host
        device.set(staged, stream=stream)
        copied.record()

    def _take(self, nbytes: int) -> tuple[np.ndarray, Any]:
        """The next slot that no copy reads from, with room for `nbytes` bytes."""
        k, self._turn = self._turn, (self._turn + 1) % AHEAD
        if k == len(self._slots):
            self._slots.append((np.empty(0, np.uint8), self._xp.cuda.Event(disable_timing=True)))
        else:
            self._slots[k][1].synchronize()
        pinned, copied = self._slots[k]
        if pinned.size < nbytes:
            size = nbytes + nbytes // 4  # batches differ a little
            pinned = np.frombuffer(self._xp.cuda.alloc_pinned_memory(size), np.uint8, size)
            self._slots[k] = pinned, copied
        return pinned, copied

    def __del__(self) -> None:
        for _, copied in self._slots:
            copied.synchronize()  # CuPy reuses pinned memory next: no copy may still read it


class AsyncCopy:
    """Arrays on their way from a device to the host, and any None; those of the host have arrived.

    The copies are queued behind the work that computes the arrays, and the host goes on. `wait`
    waits for them and for nothing launched after them.
    """

    _copied: Any = None  # the event behind copies that nothing has waited for

    def __init__(self, *arrays: Array | None) -> None:
        xp = get_array_module(*arrays)
        if xp is np:
            self._host = arrays
            return
        self._host = tuple(x if x is None else _pinned(xp, x) for x in arrays)
        for x, host in zip(arrays, self._host, strict=True):
            if x is not None:
                x.get(out=host, blocking=False)
        self._copied = xp.cuda.Event(disable_timing=True)
        self._copied.record()

    def wait(self) -> tuple[Any, ...]:
        """The arrays on the host."""
        if self._copied is not None:
            self._copied.synchronize()
            self._copied = None
        return self._host

    def __del__(self) -> None:
        if self._copied is not None:
            self._copied.synchronize()  # CuPy reuses the memory next: no copy may end there


def _pinned(xp: ModuleType, x: Array) -> np.ndarray:
    """Pinned memory for `x`: a copy to other memory makes the host wait."""
    return np.ndarray(x.shape, x.dtype, xp.cuda.alloc_pinned_memory(x.nbytes))
