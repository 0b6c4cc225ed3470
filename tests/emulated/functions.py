"""Functions of the emulated cupy, by name: joining arrays, looking at them in another way, and what
goes on to a method.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from emulated import creation, elementwise, methods, products
from emulated.arrays import array, ndarray, view, wrap
from emulated.creation import generated
from emulated.record import EMULATOR

Function = Callable[..., Any]


def concatenate(tup: Any, axis: int = 0) -> ndarray:
    """One copy for each array."""
    hosts = [array(x, "concatenate") for x in tup]
    for host in hosts:
        if host.size:
            EMULATOR.launch("copy", "concatenate")
    return wrap(np.concatenate(hosts, axis))


def stack(tup: Any, axis: int = 0) -> ndarray:
    return concatenate([view(np.expand_dims(array(x, "stack"), axis), x) for x in tup], axis)


def tile(A: Any, reps: Any) -> ndarray:
    host = np.tile(array(A, "tile"), reps)
    if host.size:
        EMULATOR.launch("copy", "tile")
    return wrap(host)


def reshape(a: Any, shape: Any) -> ndarray:
    array(a, "reshape")
    return a.reshape(shape)


def searchsorted(a: Any, v: Any, side: str = "left") -> ndarray:
    return generated(
        "searchsorted",
        np.asarray(np.searchsorted(array(a, "searchsorted"), array(v, "searchsorted"), side)),
    )


def sort(a: Any, axis: Any = -1, kind: Any = None) -> ndarray:
    methods.stable(kind)
    array(a, "sort")
    x = a.copy("K")
    x.sort(axis)
    return x


def take(a: Any, indices: Any, axis: Any = None, out: Any = None) -> ndarray:
    array(a, "take")
    return a.take(indices, axis, out)


def argsort(a: Any, axis: Any = -1, kind: Any = None) -> ndarray:
    """Its method has no `kind` in CuPy 13."""
    methods.stable(kind)
    array(a, "argsort")
    return a.argsort(axis)


def shares_memory(a: Any, b: Any) -> bool:
    return np.shares_memory(array(a, "shares_memory"), array(b, "shares_memory"))


CREATION = (
    "asarray", "ascontiguousarray", "empty", "full", "zeros", "ones", "empty_like", "zeros_like",
    "ones_like", "arange",
)  # fmt: skip
HERE: dict[str, Function] = {
    f.__name__: f
    for f in (
        *(getattr(creation, name) for name in CREATION),
        *(concatenate, stack, tile, reshape, searchsorted, sort, take, argsort, shares_memory),
        *(elementwise.where, products.dot, products.vdot),
    )
}
FUNCTIONS: dict[str, Function] = {**HERE, "array": creation.make, "matmul": products.matmul}
