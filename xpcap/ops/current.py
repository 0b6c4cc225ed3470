"""`get_ops`: the operations that run for an array."""

import contextlib
import contextvars
from collections.abc import Iterator
from typing import Any

import numpy as np

from xpcap.backend import Array
from xpcap.ops.replay import invalidate

# By library, as ops/__init__.py enters them: files that classes of operations need can ask, too
_operations: dict[str, Any] = {}
_plain = contextvars.ContextVar("xpcap_plain_only", default=False)


def enter(plain: object, host: object, device: object) -> None:
    """Set the operations that get_ops returns."""
    _operations.update(plain=plain, host=host, device=device)


def get_ops(x: Array) -> Any:
    """The operations for an array, as an Ops; each function asks once."""
    if _plain.get():
        invalidate("plain_only")
        return _operations["plain"]
    return _operations["host" if isinstance(x, np.ndarray) else "device"]


@contextlib.contextmanager
def plain_only() -> Iterator[None]:
    """Run only plain equations inside the ``with``: the reference for tests of fast versions."""
    token = _plain.set(True)
    try:
        yield
    finally:
        _plain.reset(token)
