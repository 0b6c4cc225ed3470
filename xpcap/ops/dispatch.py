"""Kernels: fast versions of operations, found by the function that they replace.

A kernel registers itself: ``@numpy_kernel(operation, fits=...)``, or ``@cuda_kernel(...)``, above a
function with the operation's arguments and results. No kernel changes a result by more than
rounding. A test or timer that replaces an operation in its own module finds no kernel for it:
replace it in the modules that import it.
"""

import contextlib
import contextvars
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, TypeVar

import numpy as np

from xpcap.ops.replay import invalidate

Operation = TypeVar("Operation", bound=Callable[..., Any])
Result = TypeVar("Result")


class Kernel(NamedTuple):
    """A fast version of an operation, for arguments of which `fits` is true."""

    operation: Callable[..., Any]
    fits: Callable[..., bool]
    run: Any  # of the operation's own type


# By the memory of an operation's arrays, so that a lookup tries one kernel at most
HOST: dict[Callable[..., Any], Kernel] = {}
DEVICE: dict[Callable[..., Any], Kernel] = {}
SEQUENCES = (tuple, list)
_plain = contextvars.ContextVar("xpcap_plain_only", default=False)


def numpy_kernel(
    operation: Callable[..., Result], fits: Callable[..., bool]
) -> Callable[[Callable[..., Result]], Callable[..., Result]]:
    """Register the decorated function as the version of `operation` for NumPy's arrays.

    `fits` is called as `find` is, without the operation, and with a NumPy array as the first one.
    """
    return _registers(HOST, operation, fits)


def cuda_kernel(
    operation: Callable[..., Result], fits: Callable[..., bool]
) -> Callable[[Callable[..., Result]], Callable[..., Result]]:
    """Register the decorated function as the version of `operation` for CuPy's arrays."""
    return _registers(DEVICE, operation, fits)


def _registers(
    table: dict[Callable[..., Any], Kernel],
    operation: Callable[..., Result],
    fits: Callable[..., bool],
) -> Callable[[Callable[..., Result]], Callable[..., Result]]:
    def register(run: Callable[..., Result]) -> Callable[..., Result]:
        assert operation not in table, f"{operation.__name__} has two kernels"
        table[operation] = Kernel(operation, fits, run)
        return run

    return register


def find(operation: Operation, *args: Any) -> Operation | None:
    """The kernel of an operation for these arguments; None: the plain equations are to run."""
    if _plain.get():
        invalidate("plain_only")
        return None
    first = args[0]
    while not (on_host := isinstance(first, np.ndarray)) and isinstance(first, SEQUENCES):
        first = first[0]
    kernel = (HOST if on_host else DEVICE).get(operation)
    if kernel is not None and kernel.fits(*args):
        return kernel.run
    if not on_host:
        invalidate(operation.__name__)
    return None


@contextlib.contextmanager
def plain_only() -> Iterator[None]:
    """Run only plain equations inside the ``with``: the reference for tests of kernels."""
    token = _plain.set(True)
    try:
        yield
    finally:
        _plain.reset(token)
