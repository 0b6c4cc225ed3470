"""Functions of the emulated cupy, by name: joining arrays, looking at them in another way, and what
goes on to a method.
"""

import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from emulated import creation, elementwise, methods, products
from emulated.arrays import SCALARS, array, deliver, ndarray, operand, view, wrap
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
    return concatenate([expand_dims(x, axis) for x in tup], axis, out, dtype=dtype, casting=casting)


def hstack(tup: Any, *, dtype: Any = None, casting: str = "same_kind") -> ndarray:
    parts = [atleast_1d(x) for x in tup]
    return concatenate(parts, 0 if parts[0].ndim == 1 else 1, dtype=dtype, casting=casting)


def vstack(tup: Any, *, dtype: Any = None, casting: str = "same_kind") -> ndarray:
    return concatenate(
        [_reshaped("atleast_2d", x, np.atleast_2d) for x in tup], 0, dtype=dtype, casting=casting
    )


def split(ary: Any, indices_or_sections: Any, axis: int = 0) -> list[ndarray]:
    return [view(part, ary) for part in np.split(array(ary, "split"), indices_or_sections, axis)]


def copyto(dst: Any, src: Any, casting: str = "same_kind", where: Any = None) -> None:
    target, value = array(dst, "copyto"), operand(src, "copyto")
    np.copyto(
        target,
        value,
        casting=casting,
        where=True if where is None else array(where, "copyto(where=)"),
    )
    if target.size:
        EMULATOR.launch(
            "elementwise" if isinstance(src, SCALARS) or where is not None else "copy", "copyto"
        )


def copy(a: Any, order: str = "K") -> ndarray:
    array(a, "copy")
    return a.copy(order)


def tile(A: Any, reps: Any) -> ndarray:
    return _rearranged("tile", np.tile(array(A, "tile"), reps))


def roll(a: Any, shift: Any, axis: Any = None) -> ndarray:
    return _rearranged("roll", np.roll(array(a, "roll"), shift, axis))


def tril(m: Any, k: int = 0) -> ndarray:
    return generated("tril", np.tril(array(m, "tril"), k))


def triu(m: Any, k: int = 0) -> ndarray:
    return generated("triu", np.triu(array(m, "triu"), k))


def _rearranged(name: str, host: np.ndarray) -> ndarray:
    if host.size:
        EMULATOR.launch("copy", name)
    return wrap(host)


# Views


def _reshaped(name: str, a: Any, change: Callable[[np.ndarray], np.ndarray]) -> ndarray:
    return view(change(a.host if isinstance(a, ndarray) else array(a, name)), a)


def reshape(a: Any, shape: Any, order: str = "C", *, copy: Any = None) -> ndarray:
    array(a, "reshape")
    return a.reshape(shape, order=order)


def expand_dims(a: Any, axis: Any) -> ndarray:
    return _reshaped("expand_dims", a, lambda x: np.expand_dims(x, axis))


def moveaxis(a: Any, source: Any, destination: Any) -> ndarray:
    return _reshaped("moveaxis", a, lambda x: np.moveaxis(x, source, destination))


def broadcast_to(array: Any, shape: Any) -> ndarray:
    return _reshaped("broadcast_to", array, lambda x: np.broadcast_to(x, shape))


def flip(m: Any, axis: Any = None) -> ndarray:
    return _reshaped("flip", m, lambda x: np.flip(x, axis))


def atleast_1d(*arys: Any) -> Any:
    views = [_reshaped("atleast_1d", x, np.atleast_1d) for x in arys]
    return views[0] if len(views) == 1 else views


def atleast_2d(*arys: Any) -> Any:
    views = [_reshaped("atleast_2d", x, np.atleast_2d) for x in arys]
    return views[0] if len(views) == 1 else views


# What has to be read to know its size, and comparisons of whole arrays


def _size_read(name: str, a: Any) -> np.ndarray:
    host = array(a, name)
    EMULATOR.launch("scan", name, 8 * host.size)
    EMULATOR.read(name)
    return host


def argwhere(a: Any) -> ndarray:
    return wrap(np.argwhere(_size_read("argwhere", a)))


def flatnonzero(a: Any) -> ndarray:
    return wrap(np.flatnonzero(_size_read("flatnonzero", a)))


def unique(
    ar: Any,
    return_index: bool = False,
    return_inverse: bool = False,
    return_counts: bool = False,
    axis: Any = None,
    **rest: Any,
) -> Any:
    found = np.unique(
        _size_read("unique", ar), return_index, return_inverse, return_counts, axis, **rest
    )
    return tuple(wrap(x) for x in found) if isinstance(found, tuple) else wrap(found)


def bincount(x: Any, weights: Any = None, minlength: Any = None) -> ndarray:
    settings = {} if weights is None else {"weights": array(weights, "bincount")}
    return wrap(np.bincount(_size_read("bincount", x), minlength=minlength or 0, **settings))


def count_nonzero(a: Any, axis: Any = None) -> ndarray:
    EMULATOR.launch("reduction", "count_nonzero")
    return wrap(np.count_nonzero(array(a, "count_nonzero"), axis))


def isclose(
    a: Any, b: Any, rtol: float = 1e-5, atol: float = 1e-8, equal_nan: bool = False
) -> ndarray:
    return generated(
        "isclose",
        np.asarray(np.isclose(operand(a, "isclose"), operand(b, "isclose"), rtol, atol, equal_nan)),
    )


def allclose(
    a: Any, b: Any, rtol: float = 1e-5, atol: float = 1e-8, equal_nan: bool = False
) -> ndarray:
    return isclose(a, b, rtol, atol, equal_nan).all()


def array_equal(a1: Any, a2: Any, equal_nan: bool = False) -> ndarray:
    return (
        (a1 == a2).all()
        if array(a1, "array_equal").shape == array(a2, "array_equal").shape
        else wrap(np.False_)
    )


def searchsorted(a: Any, v: Any, side: str = "left", sorter: Any = None) -> ndarray:
    return generated(
        "searchsorted",
        np.asarray(np.searchsorted(array(a, "searchsorted"), array(v, "searchsorted"), side)),
    )


def sort(a: Any, axis: Any = -1, kind: Any = None) -> ndarray:
    x = a.flatten() if axis is None else copy(a)
    x.sort(-1 if axis is None else axis, kind)
    return x


def get_array_module(*args: Any) -> Any:
    return sys.modules["cupy"] if any(isinstance(x, ndarray) for x in args) else np


def shape(a: Any) -> tuple[int, ...]:
    return a.shape


def result_type(*arrays_and_dtypes: Any) -> np.dtype[Any]:
    return np.result_type(*(x.host if isinstance(x, ndarray) else x for x in arrays_and_dtypes))


def may_share_memory(a: Any, b: Any, max_work: Any = None) -> bool:
    return np.may_share_memory(array(a, "may_share_memory"), array(b, "may_share_memory"))


def shares_memory(a: Any, b: Any, max_work: Any = None) -> bool:
    return np.shares_memory(array(a, "shares_memory"), array(b, "shares_memory"))


CREATION = (
    "asarray",
    "ascontiguousarray",
    "asnumpy",
    "empty",
    "full",
    "zeros",
    "ones",
    "empty_like",
    "zeros_like",
    "full_like",
    "ones_like",
    "arange",
    "linspace",
    "eye",
)
HERE: dict[str, Function] = {
    f.__name__: f
    for f in (
        *(getattr(creation, name) for name in CREATION),
        concatenate,
        stack,
        hstack,
        vstack,
        split,
        copyto,
        copy,
        tile,
        roll,
        tril,
        triu,
        reshape,
        expand_dims,
        moveaxis,
        broadcast_to,
        flip,
        atleast_1d,
        atleast_2d,
        argwhere,
        flatnonzero,
        unique,
        bincount,
        count_nonzero,
        isclose,
        allclose,
        array_equal,
        searchsorted,
        sort,
        get_array_module,
        shape,
        result_type,
        may_share_memory,
        shares_memory,
        elementwise.where,
        products.dot,
        products.vdot,
        products.tensordot,
        products.inner,
        products.outer,
        products.einsum,
    )
}
TO_METHOD = (
    *methods.REDUCTIONS,
    "ravel",
    "squeeze",
    "swapaxes",
    "take",
    "repeat",
    "argsort",
    "nonzero",
    "diagonal",
)


def _method(name: str) -> Function:
    """A function that is the method of its first argument."""

    def call(a: Any, **arguments: Any) -> Any:
        array(a, name)
        return getattr(a, name)(**arguments)

    return call


def _around(a: Any, decimals: int = 0, out: Any = None) -> ndarray:
    array(a, "around")
    return a.round(decimals, out)


def _transpose(a: Any, axes: Any = None) -> ndarray:
    array(a, "transpose")
    return a.transpose(axes)


FUNCTIONS: dict[str, Function] = {
    **HERE,
    "array": creation.make,
    "asanyarray": creation.asarray,
    "concat": concatenate,
    "matmul": products.matmul,
    "around": _around,
    "round": _around,
    "transpose": _transpose,
    "clip": lambda a, a_min, a_max, out=None: elementwise.clip(a, a_min, a_max, out),
}
BY_NAME: dict[str, Function] = {name: _method(name) for name in TO_METHOD} | {
    "amax": _method("max"),
    "amin": _method("min"),
}
