"""The choice of code: plain, as the equations stand, or fast, with everything that saves time."""

import contextlib
import contextvars
import functools
import os
from collections.abc import Iterator

from xpcap.errors import OptionError

VARIABLE = "XPCAP_PLAIN"
CODES = ("fast", "plain")

_inside = contextvars.ContextVar("xpcap_plain", default=False)


@contextlib.contextmanager
def plain() -> Iterator[None]:
    """Run plain code inside the ``with``: the equations in functions of NumPy or CuPy.

    Results equal those of the fast code up to rounding. xpcap then starts no kernel, thread or
    recorded step of its own, and does not call cuBLAS itself.

    Yields
    ------
    None

    Notes
    -----
    The choice holds for one thread, as any `contextvars.ContextVar`. A thread that is started
    inside the ``with`` enters `plain` itself, or runs in a copy of the context. The environment
    variable ``XPCAP_PLAIN=1`` chooses plain code for the whole process.

    Examples
    --------
    >>> import xpcap
    >>> from xpcap.layers import affine_forward
    >>> with xpcap.plain():
    ...     out, cache = affine_forward(np.ones((1, 3)), np.ones((3, 2)), np.zeros(2))
    >>> print(out)
    [[3. 3.]]
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
        raise OptionError(
            f"{VARIABLE} is {value!r}, expected 1 for plain code, 0 or nothing for fast code"
        )
    return value == "1"


def current_code() -> str:
    """The code that this thread runs, of `CODES`."""
    return CODES[is_plain()]


def check_code(thing: object, begun: str) -> None:
    """Raise OptionError if `thing` was begun by other code than this thread runs."""
    if begun == current_code():
        return
    cause = f"go on without `plain` and {VARIABLE}, or begin anew"
    if begun == "plain":
        cause = f"go on with `plain`, {VARIABLE}=1 or `with xpcap.plain():`, or begin anew"
    raise OptionError(
        f"{thing} was begun by {begun} code, and this process runs {current_code()} code, expected"
        f" the same code from beginning to end; {cause}"
    )
