"""Where the arrays of a computation lie: in fresh memory, or in buffers that their owner keeps from step to step."""

import math
from collections.abc import Callable

from xpcap.backend import Array, get_array_module

New = Callable[..., Array]  # new(name, shape): an array to write to, its content undefined


def fresh(like: Array) -> New:
    """Arrays of the library and dtype of `like`, each in memory of its own."""
    xp, dtype = get_array_module(like), like.dtype
    return lambda name, shape: xp.empty(shape, dtype)


class Workspace:
    """Buffers by name, of the library and dtype of `like`, each as large as its largest use so far; a use gets its first part.

    What a step put there is overwritten by the next, so whoever owns a workspace decides when that may be. The solver is the only one,
    and hands it down; nothing else in this package keeps memory.

    Parameters
    ----------
    like : array whose library, device and dtype the buffers have
    parts : into how many parts, done side by side, its user may cut a step; each works in a `part` of its own
    """

    def __init__(self, like: Array, parts: int = 1) -> None:
        self._xp, self._dtype = get_array_module(like), like.dtype
        self._buffers: dict[str, Array] = {}
        self._others = [Workspace(like) for _ in range(parts - 1)]

    def __call__(self, name: str, shape: tuple[int, ...]) -> Array:
        size = math.prod(shape)
        if name not in self._buffers or self._buffers[name].size < size:
            self._buffers.pop(name, None)  # its memory is free before more is asked for
            self._buffers[name] = self._xp.empty(size, self._dtype)
        return self._buffers[name][:size].reshape(shape)

    @property
    def parts(self) -> list["Workspace"]:
        """One for each part of a step; the first is this one itself."""
        return [self, *self._others]

    @property
    def nbytes(self) -> int:
        """Bytes held, those of all parts."""
        return sum(int(buffer.nbytes) for buffer in self._buffers.values()) + sum(other.nbytes for other in self._others)
