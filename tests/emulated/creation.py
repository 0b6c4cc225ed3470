"""Making arrays: sent from the host, filled on the device, or left as memory is found."""

from typing import Any

import numpy as np

from emulated.arrays import array, fresh, ndarray, operand, poisoned, supported
from emulated.methods import send
from emulated.record import EMULATOR


def make(obj: Any, dtype: Any = None, copy: Any = True, order: str = "K") -> ndarray:
    """The one way in for host arrays."""
    if isinstance(obj, ndarray):
        same = dtype is None or supported(dtype) == obj.dtype
        lies = order in ("K", "A") or getattr(obj.flags, f"{order.lower()}_contiguous")
        if same and lies and not copy:
            return obj
        return obj.astype(obj.dtype if dtype is None else dtype, order, copy=True)
    return send(np.array(obj, dtype=None if dtype is None else supported(dtype), order=order))


def asarray(a: Any, dtype: Any = None, order: Any = None) -> ndarray:
    return make(a, dtype, False, order or "K")


def ascontiguousarray(a: Any, dtype: Any = None) -> ndarray:
    x = asarray(a, dtype)
    return x if x.flags.c_contiguous else x.copy()


def empty(shape: Any, dtype: Any = float, order: Any = "C") -> ndarray:
    return fresh(poisoned(shape, dtype, order))


def empty_like(prototype: Any, dtype: Any = None) -> ndarray:
    # A prototype may lie on another device: only its shape and dtype are asked for
    like = prototype.host if isinstance(prototype, ndarray) else array(prototype, "empty_like")
    host = np.empty_like(like, None if dtype is None else supported(dtype))
    host[...] = poisoned((), host.dtype)
    return fresh(host)


def full(shape: Any, fill_value: Any, dtype: Any = None) -> ndarray:
    value = operand(fill_value, "full")
    x = empty(shape, np.asarray(value).dtype if dtype is None else dtype)
    return _filled(x, value, "elementwise", "full")


def zeros(shape: Any, dtype: Any = float) -> ndarray:
    return _filled(empty(shape, dtype), 0, "memset", "zeros")


def ones(shape: Any, dtype: Any = float) -> ndarray:
    return full(shape, 1, dtype)


def zeros_like(a: Any, dtype: Any = None) -> ndarray:
    return _filled(empty_like(a, dtype), 0, "memset", "zeros_like")


def ones_like(a: Any, dtype: Any = None) -> ndarray:
    return _filled(empty_like(a, dtype), 1, "elementwise", "full")


def _filled(x: ndarray, value: Any, kind: str, name: str) -> ndarray:
    if x.size:
        EMULATOR.launch(kind, name)
    x.host[...] = value
    return x


def arange(start: Any, stop: Any = None, step: Any = 1, dtype: Any = None) -> ndarray:
    x = np.arange(start, dtype=dtype) if stop is None else np.arange(start, stop, step, dtype=dtype)
    return generated("arange", x)


def generated(name: str, host: np.ndarray) -> ndarray:
    supported(host.dtype)
    if host.size:
        EMULATOR.launch("elementwise", name)
    return fresh(host)
