"""Reading and writing by index, with the launches of cupy/_core/_routines_indexing.pyx and none of
its silence.

Where cupy wraps an index that is out of range, this raises, and where it leaves open which of two equal
indices wins. A boolean mask, whose result has a size that the host would wait for, is refused.
"""

from typing import Any

import numpy as np

from emulated.arrays import SCALARS, array, cast, deliver, fresh, ndarray, view, wrap
from emulated.record import EMULATOR


class Key:
    """An index taken apart. `host` is what NumPy is to be given; `arrays` are the integer arrays in
    it.
    """

    def __init__(self, key: Any, who: str) -> None:
        self.arrays: list[np.ndarray] = []
        parts = [self._part(part, who) for part in (key if isinstance(key, tuple) else (key,))]
        self.basic = not self.arrays
        if not any(part is Ellipsis for part in parts):
            parts.append(Ellipsis)  # so that NumPy gives a 0-d array, never a scalar
        self.host = tuple(parts)

    def _part(self, part: Any, who: str) -> Any:
        if (
            part is None
            or part is Ellipsis
            or isinstance(part, slice)
            or (isinstance(part, int | np.integer) and not isinstance(part, bool))
        ):
            return part
        if isinstance(part, list):
            EMULATOR.transfer(8 * len(part))  # cupy sends it, and says nothing
            part = fresh(np.asarray(part, dtype=None if part else np.int32))
        index = array(part, f"{who} by index")
        if index.dtype.kind not in "iu":
            raise IndexError(
                f"cupy.{who}: an index has dtype {index.dtype}, expected integers; with a mask the"
                " host waits for the size of what it takes: use where"
            )
        self.arrays.append(index)
        return index

    def refuse_duplicates(self, shape: tuple[int, ...]) -> None:
        """An IndexError where two elements of the index arrays name one place."""
        axes = self._axes(shape)
        linear = np.zeros(np.broadcast_shapes(*(index.shape for index in self.arrays)), np.int64)
        for index, size in zip(self.arrays, axes, strict=True):
            linear = linear * size + index % max(size, 1)
        if np.unique(linear).size != linear.size:
            raise IndexError(
                "cupy: duplicate indices in an assignment, expected distinct ones; which of them"
                " wins is undefined on a device"
            )

    def _axes(self, shape: tuple[int, ...]) -> list[int]:
        """The sizes of the axes that the integer arrays index."""
        taken = sum(part is not None for part in self.host) - 1
        sizes, axis = [], 0
        for part in self.host:
            if part is Ellipsis:
                axis += len(shape) - taken
            elif isinstance(part, np.ndarray):
                sizes.append(shape[axis])
                axis += 1
            elif part is not None:
                axis += 1
        return sizes


def getitem(x: ndarray, key: Any) -> ndarray:
    if isinstance(key, tuple) and not key:
        return view(x.host, x)
    index = Key(key, "getitem")
    if index.basic:
        return view(x.host[index.host], x)
    result = wrap(array(x, "getitem")[index.host])
    if result.size:
        EMULATOR.launch("gather", "index")
    return result


def setitem(x: ndarray, key: Any, value: Any) -> None:
    index = Key(key, "setitem")
    memory = array(x, "setitem")
    if not isinstance(value, SCALARS):
        array(value, "setitem of a value")
    if index.basic:
        _assign(memory[index.host], value)
        return
    index.refuse_duplicates(memory.shape)
    EMULATOR.launch("scatter", "index")
    if not isinstance(value, ndarray):
        EMULATOR.transfer(memory.itemsize)  # cupy makes a device array of the scalar
        EMULATOR.allocate(memory.itemsize)
        memory[index.host] = value
        return
    memory[index.host] = cast(value.host, x.dtype, "setitem")


def _assign(target: np.ndarray, value: Any) -> None:
    """`value` into a view: a memset, a fill, a copy, or nothing where it lies there already, as
    after ``x[rows] += y``.
    """
    if isinstance(value, ndarray):
        source = value.host
        same = source.shape == target.shape and source.strides == target.strides
        if same and source.ctypes.data == target.ctypes.data and source.dtype == target.dtype:
            return
        if target.size:
            EMULATOR.launch("copy", "setitem")
        target[...] = cast(source, target.dtype, "setitem")
    else:
        fill(target, value)


def fill(target: np.ndarray, value: Any) -> None:
    if target.size:
        plain = value == 0 and target.flags.c_contiguous
        EMULATOR.launch("memset" if plain else "elementwise", "fill")
    target[...] = (
        cast(value, target.dtype, "fill") if isinstance(value, np.generic | float) else value
    )


def add_at(x: ndarray, key: Any, value: Any) -> None:
    """Atomic additions, in another order each time: no two runs on a device need give equal
    bits.
    """
    index = Key(key, "add.at")
    memory = array(x, "add.at")
    if len(index.arrays) != 1 or len(index.host) != 2 or index.arrays[0].ndim != 1:
        raise NotImplementedError("cupy.add.at: rows by one vector of numbers alone are modelled")
    EMULATOR.launch("scatter", "index")
    EMULATOR.atomics += 1
    order = np.random.default_rng(EMULATOR.atomics).permutation(len(index.arrays[0]))
    rows = np.broadcast_to(value, (len(order), *memory.shape[1:]))
    np.add.at(memory, index.arrays[0][order], rows[order].astype(memory.dtype))


def take(x: ndarray, indices: Any, axis: Any = None, out: Any = None) -> ndarray:
    memory = array(x, "take")
    where = indices if isinstance(indices, int | np.integer) else array(indices, "take by index")
    if isinstance(where, np.ndarray) and where.dtype.kind not in "iu":
        raise TypeError(f"cupy.take: indices have dtype {where.dtype}, expected integers")
    result = np.take(memory, where, axis)  # an IndexError where cupy wraps
    if result.size:
        EMULATOR.launch("gather", "take")
    return deliver(result, out, "take")


ndarray.__getitem__ = getitem
ndarray.__setitem__ = setitem
