"""Errors that the caller can do something about, printed without a traceback by the command line.

Each carries five fields: the function, the thing, what it got, what was expected, and the likely
cause. `sentence` makes the message of them. A parameter of a public function stands in backquotes,
as `out`; the command line prints its own option there.
"""

import difflib
import shlex
from collections.abc import Iterable
from pathlib import Path
from typing import Self


class XpcapError(Exception):
    """An error with fields, for programs; its text is the `sentence` of them.

    function : the function that refuses; or function and file, ``"read_dataset: own.h5"``, of which
        the file goes to `thing`
    thing : what is wrong: an argument, a file, a tensor in a file
    got : what was given, as a phrase about the thing: ``has shape (2, 3)``
    expected : what was expected in its place
    cause : the likely cause, or the remedy

    They are attributes, as text, empty where there is nothing to say; `thing` is without
    backquotes. They are also the `args` of the exception, so errors copy and pickle. One argument
    alone, as in ``DataError("any text")``, is the whole message.
    """

    def __init__(
        self,
        function: str = "",
        thing: object = "",
        got: object = "",
        expected: object = "",
        cause: object = "",
    ) -> None:
        name, colon, file = str(function).partition(": ")
        if colon and (thing or got or expected or cause):
            function = name
            thing = f"{file}: {thing}" if str(thing) else file
        super().__init__(*(str(field) for field in (function, thing, got, expected, cause)))
        self.function, self.thing, self.got, self.expected, self.cause = self.args
        self.thing = self.thing.replace("`", "")

    def __str__(self) -> str:
        return sentence(*self.args)

    @property
    def reason(self) -> str:
        """The message without function and thing, for a list of things."""
        return sentence("", "", self.got, self.expected, self.cause) or str(self)

    def within(self, place: object) -> Self:
        """Make the same error about a thing in a place.

        Parameters
        ----------
        place : object
            Such as a file, or an environment variable.

        Returns
        -------
        error : XpcapError
            Of the same class.
        """
        caller, thing, *rest = self.args
        return type(self)(caller, f"{place}: {thing}" if thing else place, *rest)


class BackendError(XpcapError, RuntimeError):
    """The requested backend cannot be used on this machine."""


class DataError(XpcapError, ValueError):
    """A file or data set is missing, damaged, or does not fit."""


class NetworkError(DataError):
    """A download failed that may succeed another time."""


class ContractError(XpcapError, AssertionError):
    """A layer, a cell or an update rule does not do what xpcap relies on."""


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
    """An argument is of another type, dtype or library."""


LONGEST = 400  # characters of a field in a message: a few lines, whatever a stranger's file holds
EXPECTED = (BackendError, DataError, GroupError, OptionError, SaveError, TrainingError)


def sentence(
    function: str = "",
    thing: object = "",
    got: object = "",
    expected: object = "",
    cause: object = "",
) -> str:
    """The message of an error: ``FUNCTION: THING CAME, expected EXPECTED; CAUSE``.

    The middle of a long field is left out.
    """
    thing, got, expected, cause = map(_short, (thing, got, expected, cause))
    about = " ".join(part for part in (thing, got) if part)
    text = ": ".join(part for part in (str(function), about) if part)
    if expected:
        text += f", expected {expected}"
    return f"{text}; {cause}" if cause else text


def _short(field: object) -> str:
    text = str(field)
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 100]} ... {text[-90:]}"


def install(extra: str) -> str:
    """The command that installs the packages of an extra, in any folder."""
    from importlib.metadata import PackageNotFoundError, requires

    try:
        lines = [line.partition(";") for line in requires("xpcap") or ()]
    except PackageNotFoundError:  # a clone that is not installed
        return shlex.join(("pip", "install", f"{Path(__file__).parents[1]}[{extra}]"))
    packages = (line[0] for line in lines if line[2].endswith(f"extra == '{extra}'"))
    return shlex.join(("pip", "install", *packages))


def nearest(name: object, known: Iterable[str]) -> str:
    """``"did you mean 'adam'?"`` if a known name is close to `name`, else an empty string."""
    close = difflib.get_close_matches(str(name), list(known), n=1)
    return f"did you mean {close[0]!r}?" if close else ""


def unknown(
    caller: str,
    thing: str,
    name: object,
    known: Iterable[str],
    error: type[XpcapError] = OptionError,
) -> XpcapError:
    """The error for a name that is not among the known ones: lists them, suggests the nearest."""
    known = list(known)
    more = f" and {len(known) - 20} more" if len(known) > 20 else ""
    # names may come from a stranger's file
    listed = ", ".join(word if word.isprintable() else repr(word) for word in known[:20])
    return error(
        caller,
        thing,
        f"{name!r} does not exist",
        expected=f"one of {listed}{more}",
        cause=nearest(name, known),
    )
