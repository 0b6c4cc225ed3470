"""The errors that a caller can mend: the command line shows them as one message, without a traceback."""

import difflib
from collections.abc import Iterable


class BackendError(RuntimeError):
    """A backend was asked for and cannot be used here."""


class DataError(ValueError):
    """A file or a data set is not what it should be."""


class OptionError(ValueError):
    """An option or keyword has a value that does not exist."""


class TrainingError(ArithmeticError):
    """Training has gone where no number comes back from."""


class SaveError(RuntimeError):
    """Training could not be saved; what was saved before is whole."""


EXPECTED = (BackendError, DataError, OptionError, SaveError, TrainingError)


def nearest(name: object, known: Iterable[str]) -> str:
    """``"; did you mean 'adam'?"`` where one of `known` is close to `name`, else an empty string."""
    close = difflib.get_close_matches(str(name), list(known), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


def unknown(function: str, thing: str, name: object, known: Iterable[str], error: type[Exception] = OptionError) -> Exception:
    """The error for a name that is not in `known`: it lists what is, and suggests the near one."""
    known = list(known)
    more = f" and {len(known) - 20} more" if len(known) > 20 else ""
    listed = ", ".join(one if one.isprintable() else repr(one) for one in known[:20])  # they may be a stranger's
    return error(f"{function}: {thing} {name!r} does not exist, expected one of {listed}{more}{nearest(name, known)}")
