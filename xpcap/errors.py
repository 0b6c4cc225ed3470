"""Errors that a caller can act on; the command line prints them without a traceback.

Each has five fields: the function, the thing, what came, what was expected, and the likely cause.
`sentence` joins them into a message. Parameters of public functions are in backquotes, as `out`; the
command line replaces them by its options.
"""

import difflib
import shlex
from collections.abc import Iterable
from pathlib import Path
from typing import Self


class XpcapError(Exception):
    """An error with fields that programs can read; its text is their `sentence`.

    function : the function that raises it; or function and file, ``"read_dataset: own.h5"``, whose
        file becomes part of `thing`
    thing : what is wrong: an argument, a file, a tensor in a file
    got : what came, as a phrase about the thing: ``has shape (2, 3)``
    expected : what was expected instead
    cause : the likely cause, or the remedy

    The fields are attributes: text, empty if there is nothing to say; `thing` loses its backquotes.
    They are also the `args` of the exception, so errors copy and pickle. A single argument, as in
    ``DataError("any text")``, is the whole message.
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

    def within(self, source: object) -> Self:
        """The same error, about a thing in a source.

        Parameters
        ----------
        source : object
            Such as a file, or an environment variable.

        Returns
        -------
        error : XpcapError
            Of the same class.
        """
        caller, thing, *fields = self.args
        return type(self)(caller, f"{source}: {thing}" if thing else source, *fields)


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


MAX_FIELD = 400  # characters of a field in a message: a file may hold names of any length
EXPECTED = (BackendError, DataError, GroupError, OptionError, SaveError, TrainingError)


def sentence(
    function: str = "",
    thing: object = "",
    got: object = "",
    expected: object = "",
    cause: object = "",
) -> str:
    """The message of an error: ``FUNCTION: THING GOT, expected EXPECTED; CAUSE``.

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
    return text if len(text) <= MAX_FIELD else f"{text[: MAX_FIELD - 100]} ... {text[-90:]}"


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
    # names may come from any file
    listed = ", ".join(word if word.isprintable() else repr(word) for word in known[:20])
    return error(
        caller,
        thing,
        f"{name!r} does not exist",
        expected=f"one of {listed}{more}",
        cause=nearest(name, known),
    )
