"""Making arrays: sent from the host, filled on the device, or left as memory is found."""

from typing import Any

import numpy as np

from emulated.arrays import array, fresh, ndarray, operand, poisoned, supported
from emulated.methods import send
from emulated.record import EMULATOR


def make(
    obj: Any,
    dtype: Any = None,
    copy: Any = True,
    order: Any = "K",
    subok: bool = False,
    ndmin: int = 0,
    *,
    blocking: bool = False,
) -> ndarray:
    """The one way in for host arrays."""
    if isinstance(obj, ndarray):
        same = dtype is None or supported(dtype) == obj.dtype
        lies = order in (None, "K", "A") or getattr(obj.flags, f"{order.lower()}_contiguous")
        if same and lies and not copy:
            return obj
        return obj.astype(obj.dtype if dtype is None else dtype, order or "K", copy=True)
    host = np.array(
        obj, dtype=None if dtype is None else supported(dtype), order=order or "K", ndmin=ndmin
    )
    return send(host)


def asarray(
    a: Any, dtype: Any = None, order: Any = None, *, copy: Any = None, blocking: bool = False
) -> ndarray:
    return make(a, dtype, bool(copy), order)


def ascontiguousarray(a: Any, dtype: Any = None) -> ndarray:
    x = asarray(a, dtype)
    return x if x.flags.c_contiguous else x.copy()


def empty(shape: Any, dtype: Any = float, order: Any = "C") -> ndarray:
    return fresh(poisoned(shape, dtype, order))


def full(shape: Any, fill_value: Any, dtype: Any = None, order: Any = "C") -> ndarray:
    value = operand(fill_value, "full")
    x = empty(shape, np.asarray(value).dtype if dtype is None else dtype, order)
    if x.size:
        EMULATOR.launch("elementwise", "full")
    x.host[...] = value
    return x


def zeros(shape: Any, dtype: Any = float, order: Any = "C") -> ndarray:
    x = empty(shape, dtype, order)
    return _zeroed("zeros", x)


def ones(shape: Any, dtype: Any = float, order: Any = "C") -> ndarray:
    return full(shape, 1, dtype, order)


def empty_like(
    prototype: Any, dtype: Any = None, order: Any = "K", subok: Any = None, shape: Any = None
) -> ndarray:
    host = np.empty_like(
        _any_device(prototype), None if dtype is None else supported(dtype), order, shape=shape
    )
    host[...] = poisoned((), host.dtype)
    return fresh(host)


def zeros_like(
    a: Any, dtype: Any = None, order: Any = "K", subok: Any = None, shape: Any = None
) -> ndarray:
    x = empty_like(a, dtype, order, subok, shape)
    return _zeroed("zeros_like", x)


def _zeroed(name: str, x: ndarray) -> ndarray:
    if x.size:
        EMULATOR.launch("memset", name)
    x.host[...] = 0
    return x


def full_like(
    a: Any,
    fill_value: Any,
    dtype: Any = None,
    order: Any = "K",
    subok: Any = None,
    shape: Any = None,
) -> ndarray:
    x = empty_like(a, dtype, order, subok, shape)
    if x.size:
        EMULATOR.launch("elementwise", "full")
    x.host[...] = operand(fill_value, "full_like")
    return x


def ones_like(
    a: Any, dtype: Any = None, order: Any = "K", subok: Any = None, shape: Any = None
) -> ndarray:
    return full_like(a, 1, dtype, order, subok, shape)


def _any_device(x: Any) -> np.ndarray:
    """A prototype may lie on another device: only its shape and dtype are asked for."""
    return x.host if isinstance(x, ndarray) else array(x, "empty_like")


def arange(start: Any, stop: Any = None, step: Any = 1, dtype: Any = None) -> ndarray:
    x = np.arange(start, dtype=dtype) if stop is None else np.arange(start, stop, step, dtype=dtype)
    return generated("arange", x)


def generated(name: str, host: np.ndarray) -> ndarray:
    supported(host.dtype)
    if host.size:
        EMULATOR.launch("elementwise", name)
    return fresh(host)
