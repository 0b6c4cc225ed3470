"""Functions of the emulated cupy, by name: joining arrays, looking at them in another way, and what
goes on to a method.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from emulated import creation, elementwise, methods, products
from emulated.arrays import array, deliver, ndarray, view, wrap
from emulated.creation import generated
from emulated.record import EMULATOR

Function = Callable[..., Any]


# Joining and copying


def concatenate(
    tup: Any, axis: Any = 0, out: Any = None, *, dtype: Any = None, casting: str = "same_kind"
) -> ndarray:
    """One copy for each array; for more than eight small ones of one dtype a single kernel that is
    sent their addresses.

    So in _concatenate of cupy/_core/_routines_manipulation.pyx, where small is less than 2 MiB on
    average.
    """
    parts = [x.ravel() if axis is None and isinstance(x, ndarray) else x for x in tup]
    hosts = [array(x, "concatenate") for x in parts]
    result = np.concatenate(hosts, axis or 0, dtype=dtype, casting=casting)
    total = sum(host.size for host in hosts) * result.itemsize
    if (
        len(hosts) > 8
        and all(host.dtype == result.dtype for host in hosts)
        and total < len(hosts) * 2 * 1024 * 1024
    ):
        alike = all(host.flags.c_contiguous and host.shape == hosts[0].shape for host in hosts)
        for _ in range(1 if alike else 3):
            EMULATOR.transfer(8 * len(hosts))
            EMULATOR.allocate(8 * len(hosts))
        EMULATOR.launch("copy", "concatenate (one kernel)")
    else:
        for host in hosts:
            if host.size:
                EMULATOR.launch("copy", "concatenate")
    return deliver(result, out, "concatenate")


def stack(
    tup: Any, axis: int = 0, out: Any = None, *, dtype: Any = None, casting: str = "same_kind"
) -> ndarray:
    parts = [view(np.expand_dims(array(x, "stack"), axis), x) for x in tup]
    return concatenate(parts, axis, out, dtype=dtype, casting=casting)


def tile(A: Any, reps: Any) -> ndarray:
    return _rearranged("tile", np.tile(array(A, "tile"), reps))


def _rearranged(name: str, host: np.ndarray) -> ndarray:
    if host.size:
        EMULATOR.launch("copy", name)
    return wrap(host)


def reshape(a: Any, shape: Any, order: str = "C", *, copy: Any = None) -> ndarray:
    array(a, "reshape")
    return a.reshape(shape, order=order)


def searchsorted(a: Any, v: Any, side: str = "left", sorter: Any = None) -> ndarray:
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


def shares_memory(a: Any, b: Any, max_work: Any = None) -> bool:
    return np.shares_memory(array(a, "shares_memory"), array(b, "shares_memory"))


CREATION = (
    "asarray", "ascontiguousarray", "empty", "full", "zeros", "ones", "empty_like", "zeros_like",
    "full_like", "ones_like", "arange",
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
