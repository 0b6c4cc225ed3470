"""The way that xpcap computes: by fast versions, or by the plain equations alone."""

import contextlib
import contextvars
import functools
import os
from collections.abc import Iterator

from xpcap.errors import OptionError

VARIABLE = "XPCAP_PLAIN"
WAYS = ("fast", "plain")

_inside = contextvars.ContextVar("xpcap_plain", default=False)


@contextlib.contextmanager
def plain() -> Iterator[None]:
    """Compute by the plain equations alone inside the ``with``, on NumPy as on CuPy.

    Results are those of the fast versions, up to rounding. Nothing of xpcap's own runs that makes a
    step faster: no kernel, no product by its own call of cuBLAS, no recorded step, no thread.

    Yields
    ------
    None

    Notes
    -----
    The choice belongs to the thread, as any `contextvars.ContextVar`: a thread that is started
    inside computes plainly if it enters `plain` itself, or runs in a copy of the context. The
    environment variable `XPCAP_PLAIN`, "1", is for the whole process.
    """
    token = _inside.set(True)
    try:
        yield
    finally:
        _inside.reset(token)


def is_plain() -> bool:
    """True inside `plain`, or if the environment variable `XPCAP_PLAIN` was "1" when first asked.

    OptionError : the variable is neither "1" nor "0" nor empty.
    """
    return _inside.get() or _from_environment()


@functools.cache  # each operation asks, and reading the environment takes ten times as long
def _from_environment() -> bool:
    value = os.environ.get(VARIABLE, "")
    if value not in ("", "0", "1"):
        got, expected = f"is {value!r}", "1 for the plain equations alone, 0 or nothing for fast"
        raise OptionError("is_plain", VARIABLE, got, expected)
    return value == "1"


def current_way() -> str:
    """The way that this thread computes, of `WAYS`."""
    return WAYS[is_plain()]


def check_way(caller: str, thing: object, begun: str) -> None:
    """Raise OptionError if `thing` began another way than this thread computes."""
    if begun == current_way():
        return
    cause = f"go on without `plain` and {VARIABLE}, or begin anew"
    if begun == "plain":
        cause = f"go on with `plain`, {VARIABLE}=1 or `with xpcap.plain():`, or begin anew"
    got = f"began in the {begun} way, and this process computes in the {current_way()} way"
    raise OptionError(caller, thing, got, "one way from beginning to end", cause)
