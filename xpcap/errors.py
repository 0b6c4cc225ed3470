"""Errors that a caller can act on; the command line prints them without a traceback.

The text of an error is one sentence: what came, what was expected, and the likely cause. Parameters
of public functions are in backquotes, as `out`; the command line replaces them by its options.
"""

import difflib
import shlex
from collections.abc import Iterable
from pathlib import Path

MAX_MESSAGE = 900  # characters: a file may hold names of any length


class XpcapError(Exception):
    """An error of xpcap, with its message. The middle of a long message is left out.

    A message is ``f"{what came}, expected {what was wanted}; {cause}"``; the cause may be empty.
    """

    def __str__(self) -> str:
        text = super().__str__().removesuffix("; ")
        if len(text) <= MAX_MESSAGE:
            return text
        return f"{text[: MAX_MESSAGE // 2]} ... {text[-MAX_MESSAGE // 2 :]}"


class BackendError(XpcapError, RuntimeError):
    """The requested backend cannot be used on this machine."""


class DataError(XpcapError, ValueError):
    """A file or data set is missing, damaged, or does not fit."""


class NetworkError(DataError):
    """A download failed that may succeed another time."""


class ContractError(XpcapError, AssertionError):
    """A layer, a cell or an update rule breaks a rule that xpcap relies on."""


class GroupError(XpcapError, RuntimeError):
    """Processes that were started together cannot work together."""


class OptionError(XpcapError, ValueError):
    """An option has a value that is unknown or contradicts another."""


class TrainingError(XpcapError, ArithmeticError):
    """The loss, a gradient or a score is no longer finite."""


class SaveError(XpcapError, RuntimeError):
    """A checkpoint could not be written. The one before it is intact."""


class InvalidValueError(XpcapError, ValueError):
    """An argument has a shape or a value that does not fit."""


class InvalidTypeError(XpcapError, TypeError):
    """An argument has the wrong type, dtype or library."""


EXPECTED = (BackendError, DataError, GroupError, OptionError, SaveError, TrainingError)


def install(extra: str) -> str:
    """The command that installs the packages of an extra, in any folder."""
    from importlib.metadata import PackageNotFoundError, requires

    try:
        lines = [line.partition(";") for line in requires("xpcap") or ()]
    except PackageNotFoundError:  # a clone that is not installed
        return shlex.join(("pip", "install", f"{Path(__file__).parents[1]}[{extra}]"))
    packages = (line[0] for line in lines if line[2].endswith(f"extra == '{extra}'"))
    return shlex.join(("pip", "install", *packages))


def without_subject(error: Exception, subject: object) -> str:
    """The message of an error about `subject` without its name, for a list of subjects."""
    return str(error).removeprefix(f"{subject} ").removeprefix(f"{subject}: ")


def nearest(name: object, known: Iterable[str]) -> str:
    """``"did you mean 'adam'?"`` if a known name is close to `name`, else an empty string."""
    close = difflib.get_close_matches(str(name), list(known), n=1)
    return f"did you mean {close[0]!r}?" if close else ""


def one_of(known: Iterable[str], name: object) -> str:
    """The end of a message about an unknown name: the known ones, and the nearest to it."""
    known = list(known)
    more = f" and {len(known) - 20} more" if len(known) > 20 else ""
    # names may come from any file
    listed = ", ".join(word if word.isprintable() else repr(word) for word in known[:20])
    return f"one of {listed}{more}; {nearest(name, known)}"
