"""Errors that the caller can do something about. The command line prints them as one message, without a traceback.

A message names the function, the thing, what came, what was expected, and the likely cause. It writes a parameter of a public function in
backquotes, as `out`; the command line prints its own option there.
"""

import difflib
from collections.abc import Iterable


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
    """The command that installs an extra of this package; its argument names the folder of the clone."""
    return f"pip install '.[{extra}]'"


def nearest(name: object, known: Iterable[str]) -> str:
    """``"; did you mean 'adam'?"`` if a known name is close to `name`, else an empty string."""
    close = difflib.get_close_matches(str(name), list(known), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


def unknown(function: str, thing: str, name: object, known: Iterable[str], error: type[Exception] = OptionError) -> Exception:
    """The error for a name that is not among the known ones: it lists them and suggests the nearest."""
    known = list(known)
    more = f" and {len(known) - 20} more" if len(known) > 20 else ""
    listed = ", ".join(one if one.isprintable() else repr(one) for one in known[:20])  # names may come from a file that others made
    return error(f"{function}: {thing} {name!r} does not exist, expected one of {listed}{more}{nearest(name, known)}")
