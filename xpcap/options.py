"""Options as fields of dataclasses, each with its kind, help and presets.

A kind describes its values, for checks, messages, the command line and the docs. A dataclass gives
its fields their kinds, and checks them all at once::

    @dataclass(frozen=True)
    class Beam:
        width: int = option(Whole(1), 5, "Beam search with K hypotheses.")

        def __post_init__(self):
            check_fields(self)
"""

import contextlib
import functools
import inspect
import math
import numbers
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, TypeVar

import numpy as np

from xpcap.errors import OptionError, one_of

LARGEST = 2**63 - 1  # seed or step that a random stream's key or counter can hold
T = TypeVar("T")


class OptionKind:
    """A kind of option; ``str(kind)`` describes its values."""

    reads: type = str  # converts a text of a command line
    cause = ""  # ends the message of a refusal
    repeated = False  # a command line may repeat it; `parse` then gets all its texts

    @property
    def metavar(self) -> str:
        """The value in the help of a command line."""
        return "TEXT"

    def check(self, name: str, value: object) -> Any:
        """The value, converted; OptionError if it is not of this kind."""
        raise NotImplementedError

    def parse(self, text: Any) -> Any:
        """The value of a text; a text that cannot be converted, for `check` to refuse."""
        try:
            return self.reads(text)
        except ValueError:
            return text

    def refusal(self, name: str, value: object) -> OptionError:
        """The error for a value."""
        shown = str(value) if isinstance(value, numbers.Number) else repr(value)
        return OptionError(f"{name} is {shown}, expected {self}; {self.cause}")


@dataclass(frozen=True)
class Whole(OptionKind):
    """Whole numbers in low..high, including NumPy's; `check` returns an int.

    low, high : the range, both included
    optional : None is valid, too; messages do not mention it
    cause : ends the message of a refusal
    """

    low: int = 0
    high: float = math.inf
    optional: bool = False
    cause: str = ""

    reads = int
    metavar = "INTEGER"

    def __str__(self) -> str:
        last = "2**63-1" if self.high == LARGEST else self.high
        span = f"of at least {self.low}" if self.high == math.inf else f"in {self.low}..{last}"
        return f"a whole number {span}"

    def check(self, name: str, value: object) -> Any:
        if self.optional and value is None:
            return None
        # True and False are integers to Python, and a mistake here
        if isinstance(value, numbers.Integral) and not isinstance(value, bool):
            number = int(value)
            if self.low <= number <= self.high:
                return number
        raise self.refusal(name, value)


@dataclass(frozen=True)
class Real(OptionKind):
    """Finite real numbers in low..high, above `above` and below `below`; `check` returns a float.

    low, high : the range, both included
    above, below : the range, neither included
    optional : None is valid, too; messages do not mention it
    word : a word that is valid, too
    cause : ends the message of a refusal
    """

    low: float = -math.inf
    high: float = math.inf
    above: float = -math.inf
    below: float = math.inf
    optional: bool = False
    word: str = ""
    cause: str = ""

    reads = float

    @property
    def metavar(self) -> str:
        return f"FLOAT|{self.word}" if self.word else "FLOAT"

    def __str__(self) -> str:
        if self.below < math.inf:
            span = f"a number in [{_plain(self.low)}, {_plain(self.below)})"
        elif self.high < math.inf:
            span = f"a number in {_plain(self.low)}..{_plain(self.high)}"
        elif self.above > -math.inf:
            positive = self.above == 0
            span = "a positive number" if positive else f"a number above {_plain(self.above)}"
        elif self.low > -math.inf:
            span = f"a finite number of at least {_plain(self.low)}"
        else:
            span = "a finite number"
        return f"{span}, or {self.word!r}" if self.word else span

    def check(self, name: str, value: object) -> Any:
        if (self.optional and value is None) or (self.word and value == self.word):
            return value
        try:
            real = isinstance(value, numbers.Real) and not isinstance(value, bool)
            number = float(value) if real else math.nan  # type: ignore[arg-type]
        except OverflowError:
            number = math.inf  # a whole number beyond all floats
        in_range = self.low <= number <= self.high and self.above < number < self.below
        if math.isfinite(number) and in_range:
            return number
        raise self.refusal(name, value)


@dataclass(frozen=True)
class Flag(OptionKind):
    """True or False, including NumPy's; `check` returns a bool."""

    metavar = ""

    def __str__(self) -> str:
        return "True or False"

    def check(self, name: str, value: object) -> Any:
        if isinstance(value, bool | np.bool_):
            return bool(value)
        raise self.refusal(name, value)


@dataclass(frozen=True)
class Location(OptionKind):
    """A path of a file or folder, as text or a Path; `check` returns it as it is."""

    reads = Path
    metavar = "PATH"

    def __str__(self) -> str:
        return "a path"

    def check(self, name: str, value: object) -> Any:
        if isinstance(value, str | os.PathLike):
            with contextlib.suppress(ValueError):  # a text that cannot be encoded as a path
                if b"\0" not in os.fsencode(value):
                    return value
        raise self.refusal(name, value)


@dataclass(frozen=True)
class Text(OptionKind):
    """Any text; `check` returns it as it is."""

    def __str__(self) -> str:
        return "text"

    def check(self, name: str, value: object) -> Any:
        if isinstance(value, str):
            return value
        raise self.refusal(name, value)


@dataclass(frozen=True)
class Names(OptionKind):
    """One of a few names, or of the keys of a mapping, which may grow later."""

    names: Collection[str]

    @property
    def metavar(self) -> str:
        return "|".join(self.names)

    def __str__(self) -> str:
        return f"one of {', '.join(self.names)}"

    def check(self, name: str, value: object) -> Any:
        if isinstance(value, str) and value in self.names:
            return value
        raise OptionError(f"{name} {value!r} does not exist, expected {one_of(self.names, value)}")


@dataclass(frozen=True)
class Checked(OptionKind):
    """Values that a function converts; it raises LookupError, TypeError or ValueError for others."""

    convert: Callable[[Any], Any]
    expected: str  # the values, in words
    metavar: str = "TEXT"
    repeated: bool = False

    def __str__(self) -> str:
        return self.expected

    def parse(self, text: Any) -> Any:
        return text

    def check(self, name: str, value: object) -> Any:
        try:
            return self.convert(value)
        except (LookupError, TypeError, ValueError) as error:
            raise self.refusal(name, value) from error


@dataclass(frozen=True)
class Several(OptionKind):
    """A sequence, such as a list, of values of one kind; `check` returns a tuple.

    kind : the kind of each item
    """

    kind: OptionKind

    def __str__(self) -> str:
        return f"several, each {self.kind}"

    def check(self, name: str, value: object) -> Any:
        if isinstance(value, str | bytes | bytearray) or not isinstance(value, Sequence):
            raise self.refusal(name, value)
        return tuple(self.kind.check(name, item) for item in value)


SEED = Whole(0, LARGEST)  # a seed, or the number of a step


def _plain(number: float) -> str:
    """A number as people write it: 0.000001, not 1e-06."""
    return np.format_float_positional(number, trim="-")


class Option(NamedTuple):
    """The declaration of a field.

    kind : the kind of its value
    default : MISSING: it is required. None: it may be None, whatever its kind
    help : a sentence or two for users
    role : its role among the options, named by the dataclass
    presets : other defaults, by the name of their use
    """

    kind: OptionKind
    default: Any = MISSING
    help: str = ""
    role: str = ""
    presets: Mapping[str, Any] = MappingProxyType({})

    def check(self, name: str, value: object) -> Any:
        """The value, as the kind converts it; None if that is the default. OptionError : as of the kind."""
        if value is None and self.default is None:
            return None
        return self.kind.check(name, value)


def option(
    kind: OptionKind, default: Any = MISSING, help: str = "", *, role: str = "", **presets: Any
) -> Any:
    """Make a field of a dataclass, given the fields of its Option; presets are keywords."""
    entry = Option(kind, default, help, role, MappingProxyType(presets))
    return field(default=default, metadata={"option": entry})


def described(options: object) -> Mapping[str, Option]:
    """The options of a dataclass, or of an instance of one, by name, in the order of its fields."""
    return _described(options if isinstance(options, type) else type(options))


@functools.cache
def _described(cls: type) -> Mapping[str, Option]:
    entries = {f.name: f.metadata["option"] for f in fields(cls) if "option" in f.metadata}
    return MappingProxyType(entries)


def documented(cls: type[T]) -> type[T]:
    """Add the options of a dataclass to its docstring, as section Parameters."""
    options = described(cls)
    rows = (
        f"\n{entry.name} : {inspect.formatannotation(entry.type)}\n    {options[entry.name].help}"
        for entry in fields(cls)  # type: ignore[arg-type]
        if entry.name in options
    )
    text, raises, rest = inspect.cleandoc(cls.__doc__ or "").partition("\n\nRaises\n")
    cls.__doc__ = f"{text}\n\nParameters\n----------{''.join(rows)}{raises}{rest}"
    return cls


def check_fields(options: object = "") -> None:
    """Check the options of a dataclass, and store them as their kinds convert them.

    OptionError : a value is not of its kind.
    """
    for name, entry in described(options).items():
        value = entry.check(f"`{name}`", getattr(options, name))
        object.__setattr__(options, name, value)  # the dataclass may be frozen
