"""Errors that the caller can do something about, printed without a traceback by the command line.

A message names the function, the thing, what came, what was expected, and the likely cause. It
writes a parameter of a public function in backquotes, as `out`; the command line prints its own
option there. Numbers are checked by `check_whole` and `check_number` alone.
"""

import difflib
import math
import numbers
from collections.abc import Iterable

LARGEST = 2**63 - 1  # of seeds and steps: what a random stream's key and counter hold


class BackendError(RuntimeError):
    """The requested backend cannot be used on this machine."""


class DataError(ValueError):
    """A file or data set is missing, damaged, or does not fit."""


class GroupError(RuntimeError):
    """Processes that were started together cannot work together."""


class OptionError(ValueError):
    """An option has a value that is unknown or contradicts another."""


class TrainingError(ArithmeticError):
    """The loss or a gradient is no longer finite."""


class SaveError(RuntimeError):
    """A checkpoint could not be written. The one before it is intact."""


EXPECTED = (BackendError, DataError, GroupError, OptionError, SaveError, TrainingError)


def install(extra: str) -> str:
    """The command that installs an extra of this package, run in the folder of the clone."""
    return f"pip install '.[{extra}]'"


def nearest(name: object, known: Iterable[str]) -> str:
    """``"; did you mean 'adam'?"`` if a known name is close to `name`, else an empty string."""
    close = difflib.get_close_matches(str(name), list(known), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


def unknown(
    function: str,
    thing: str,
    name: object,
    known: Iterable[str],
    error: type[Exception] = OptionError,
) -> Exception:
    """The error for a name that is not among the known ones: lists them, suggests the nearest."""
    known = list(known)
    more = f" and {len(known) - 20} more" if len(known) > 20 else ""
    # names may come from a stranger's file
    listed = ", ".join(one if one.isprintable() else repr(one) for one in known[:20])
    return error(
        f"{function}: {thing} {name!r} does not exist, expected one of"
        f" {listed}{more}{nearest(name, known)}"
    )


def check_whole(
    where: str,
    name: str,
    value: object,
    low: int,
    high: float = math.inf,
    *,
    hint: str = "",
    error: type[Exception] = OptionError,
) -> int:
    """A whole number in low..high, as an int; `error` for anything else.

    Parameters
    ----------
    where, name : begin the message; a name that the command line knows comes in backquotes
    hint : ends it, as in ``"; it is a probability"``
    """
    number = int(value) if isinstance(value, numbers.Integral) else low - 1
    if low <= number <= high:
        return number
    last = "2**63-1" if high == LARGEST else high
    wanted = f"of at least {low}" if high == math.inf else f"in {low}..{last}"
    raise error(f"{where}: {name} is {_shown(value)}, expected a whole number {wanted}{hint}")


def check_number(
    where: str,
    name: str,
    value: object,
    low: float = -math.inf,
    high: float = math.inf,
    *,
    above: float = -math.inf,
    below: float = math.inf,
    hint: str = "",
    error: type[Exception] = OptionError,
) -> float:
    """A finite number in low..high, above `above` and below `below`; else as `check_whole`."""
    try:
        number = float(value) if isinstance(value, numbers.Real) else math.nan
    except OverflowError:
        number = math.inf  # a whole number beyond all floats
    if math.isfinite(number) and low <= number <= high and above < number < below:
        return number
    if below < math.inf:
        wanted = f"number in [{low:g}, {below:g})"
    elif high < math.inf:
        wanted = f"number in {low:g}..{high:g}"
    elif above > -math.inf:
        wanted = "positive number" if above == 0 else f"number above {above:g}"
    else:
        wanted = f"finite number of at least {low:g}"
    raise error(f"{where}: {name} is {_shown(value)}, expected a {wanted}{hint}")


def _shown(value: object) -> str:
    return str(value) if isinstance(value, numbers.Number) else repr(value)
