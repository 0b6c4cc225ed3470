"""Kinds of options: whole numbers, real numbers, names, and lists of one kind.

A kind says what it takes, in one place for the check, the message and the docs. A dataclass gives
its fields their kinds, and checks them all at once::

    @dataclass(frozen=True)
    class Beam:
        width: int = option(Whole(1), 5)

        def __post_init__(self):
            check_fields(self)
"""

import functools
import math
import numbers
from collections.abc import Collection, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from types import MappingProxyType
from typing import Any, Protocol

import numpy as np

from xpcap.errors import OptionError, unknown

LARGEST = 2**63 - 1  # of seeds and steps: what a random stream's key and counter hold


class Kind(Protocol):
    """A kind of option: `check` returns the value, converted, or raises an OptionError."""

    def check(self, function: str, name: str, value: object) -> Any: ...


@dataclass(frozen=True)
class Whole:
    """Whole numbers, NumPy's among them, in low..high; `check` returns an int.

    Parameters
    ----------
    low, high : the range, both included
    optional : None is taken, too, which a refusal does not mention
    cause : ends the message of a refusal
    """

    low: int = 0
    high: float = math.inf
    optional: bool = False
    cause: str = ""

    def __str__(self) -> str:
        last = "2**63-1" if self.high == LARGEST else self.high
        some = f"of at least {self.low}" if self.high == math.inf else f"in {self.low}..{last}"
        return f"a whole number {some}"

    def check(self, function: str, name: str, value: object) -> Any:
        if self.optional and value is None:
            return None
        # True and False are whole numbers to Python, and a slip here
        if isinstance(value, numbers.Integral) and not isinstance(value, bool):
            number = int(value)
            if self.low <= number <= self.high:
                return number
        raise _refused(function, name, value, self, self.cause)


@dataclass(frozen=True)
class Real:
    """Finite real numbers in low..high, above `above` and below `below`; `check` returns a float.

    Parameters
    ----------
    low, high : the range, both included
    above, below : the range, neither included
    optional : None is taken, too, which a refusal does not mention
    word : a word that is taken, too
    cause : ends the message of a refusal
    """

    low: float = -math.inf
    high: float = math.inf
    above: float = -math.inf
    below: float = math.inf
    optional: bool = False
    word: str = ""
    cause: str = ""

    def __str__(self) -> str:
        if self.below < math.inf:
            some = f"a number in [{_plain(self.low)}, {_plain(self.below)})"
        elif self.high < math.inf:
            some = f"a number in {_plain(self.low)}..{_plain(self.high)}"
        elif self.above > -math.inf:
            positive = self.above == 0
            some = "a positive number" if positive else f"a number above {_plain(self.above)}"
        elif self.low > -math.inf:
            some = f"a finite number of at least {_plain(self.low)}"
        else:
            some = "a finite number"
        return f"{some}, or {self.word!r}" if self.word else some

    def check(self, function: str, name: str, value: object) -> Any:
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
        raise _refused(function, name, value, self, self.cause)


@dataclass(frozen=True)
class Names:
    """One of a few names, or of the keys of a mapping, which may grow."""

    names: Collection[str]

    def __str__(self) -> str:
        return f"one of {', '.join(self.names)}"

    def check(self, function: str, name: str, value: object) -> Any:
        if isinstance(value, str) and value in self.names:
            return value
        raise unknown(function, name, value, self.names)


@dataclass(frozen=True)
class Several:
    """A list or tuple, or another sequence, of one kind; `check` returns a tuple.

    Parameters
    ----------
    kind : of each item
    """

    kind: Kind

    def __str__(self) -> str:
        return f"several, each {self.kind}"

    def check(self, function: str, name: str, value: object) -> Any:
        if isinstance(value, str) or not isinstance(value, Sequence):
            raise _refused(function, name, value, self, "")
        return tuple(self.kind.check(function, name, item) for item in value)


SEED = Whole(0, LARGEST)  # of anything random, and of its steps


def _plain(number: float) -> str:
    """A number as people write it: 0.000001, not 1e-06."""
    return np.format_float_positional(number, trim="-")


def _refused(function: str, name: str, value: object, kind: Kind, cause: str) -> OptionError:
    shown = str(value) if isinstance(value, numbers.Number) else repr(value)
    return OptionError(function, name, f"is {shown}", expected=kind, cause=cause)


def option(kind: Kind, default: Any = MISSING) -> Any:
    """Make a field of a dataclass, with its kind and, if it has one, its default."""
    return field(default=default, metadata={"kind": kind})


def kinds(options: object) -> Mapping[str, Kind]:
    """The kinds of the fields of a dataclass, or of an instance of one, by name."""
    return _kinds(options if isinstance(options, type) else type(options))


@functools.cache
def _kinds(of: type) -> Mapping[str, Kind]:
    found = {one.name: one.metadata.get("kind") for one in fields(of)}
    return MappingProxyType({name: kind for name, kind in found.items() if kind is not None})


def check_fields(options: object) -> None:
    """Check the fields of a dataclass that have a kind. OptionError : a value is not of its kind.

    Values stay as they came: a frozen dataclass compares and prints what its maker wrote.
    """
    for name, kind in kinds(options).items():
        kind.check(type(options).__name__, f"`{name}`", getattr(options, name))
