"""Kinds of options: what each takes, converts and refuses, and dataclasses checked by them."""

from dataclasses import MISSING, dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from refusals import Refusal, refusals, refuses

from xpcap.errors import OptionError
from xpcap.options import (
    LARGEST,
    Flag,
    Location,
    Names,
    Option,
    OptionKind,
    Real,
    Several,
    Whole,
    check_fields,
    described,
    option,
)


@pytest.mark.parametrize(
    ("kind", "value", "found"),
    [
        (Whole(1), 1, 1),
        (Whole(0, LARGEST), LARGEST, LARGEST),
        (Whole(1), np.int64(7), 7),
        (Whole(1, optional=True), None, None),
        (Real(0), 0, 0.0),
        (Real(above=0), np.float32(0.5), 0.5),
        (Real(0, below=1), Fraction(1, 2), 0.5),
        (Real(above=0, word="linear"), "linear", "linear"),
        (Real(0, 1, optional=True), None, None),
        (Names({"rnn": 1, "lstm": 2}), "lstm", "lstm"),
        (Several(Whole(1)), [3, np.int32(4)], (3, 4)),
        (Flag(), True, True),
        (Flag(), np.False_, False),
        (Location(), "a.h5", "a.h5"),
        (Location(), Path("a.h5"), Path("a.h5")),
    ],
)
def test_kind_takes_and_converts(kind: OptionKind, value: object, found: object) -> None:
    taken = kind.check("`x`", value)
    assert taken == found
    assert type(taken) is type(found)


@refusals(
    """
    Whole(1), 0 | is 0 | a whole number of at least 1
    Whole(1), 1.0 | is 1.0 | a whole number
    Whole(1), "1" | is '1' | a whole number
    Whole(1), True | is True | a whole number
    Whole(1), None | is None | a whole number of at least 1
    Whole(0, 9, optional=True), 10 | is 10 | a whole number in 0..9
    Whole(0, LARGEST), LARGEST + 1 | is 9223372036854775808 | in 0..2**63-1
    Real(above=0), 0 | is 0 | a positive number
    Real(above=0), np.nan | is nan | a positive number
    Real(), 10**400 | is 1000 | a finite number
    Real(0, below=1), 1 | is 1 | a number in [0, 1)
    Real(0, 10), 11 | is 11 | a number in 0..10
    Real(above=0, word="linear"), "lineal" | is 'lineal' | a positive number, or 'linear'
    Real(1e-3), "1" | is '1' | a finite number of at least 0.001
    Real(0, 1, cause="it is a probability"), 2 | is 2 | it is a probability
    Names(("rnn", "lstm")), "lstn" | 'lstn' does not exist | one of rnn, lstm | did you mean 'lstm'?
    Names(("rnn", "lstm")), 3 | 3 does not exist | one of rnn, lstm
    Several(Whole(1)), [3, 0] | is 0 | a whole number of at least 1
    Several(Whole(1)), "34" | is '34' | several, each a whole number of at least 1
    Several(Whole(1)), b"34" | is b'34' | several, each a whole number of at least 1
    Several(Whole(1)), 3 | is 3 | several, each a whole number of at least 1
    Flag(), "no" | is 'no' | True or False
    Flag(), 1 | is 1 | True or False
    Location(), 3 | is 3 | a path
    """,
    "x",
    error=OptionError,
)
def test_kind_refuses(refusal: Refusal) -> None:
    refusal.check(globals(), 'kind, value = {}; kind.check("`x`", value)')


@pytest.mark.parametrize(
    ("kind", "metavar", "text", "found"),
    [
        (Whole(1), "INTEGER", "12", 12),
        (Whole(1), "INTEGER", "1.5", "1.5"),
        (Real(0), "FLOAT", "1e-3", 1e-3),
        (Real(0), "FLOAT", "linear", "linear"),
        (Real(0, word="linear"), "FLOAT|linear", "linear", "linear"),
        (Names(("rnn", "lstm")), "rnn|lstm", "rnn", "rnn"),
        (Location(), "PATH", "a.h5", Path("a.h5")),
    ],
)
def test_kind_parses_a_text_and_leaves_what_it_cannot_convert(
    kind: OptionKind, metavar: str, text: str, found: object
) -> None:
    parsed = kind.parse(text)
    assert (kind.metavar, parsed, type(parsed)) == (metavar, found, type(found))


@dataclass(frozen=True)
class Sizes:
    hidden: int = option(Whole(1))
    rate: float = option(Real(above=0), 0.5, "Learning rate.", role="free", large=2.0)
    width: int | None = option(Whole(1), None)
    free: Any = "anything"

    def __post_init__(self) -> None:
        check_fields(self)


def test_dataclass_is_checked_by_the_kinds_of_its_fields() -> None:
    assert Sizes(3) == Sizes(3, 0.5)
    assert list(described(Sizes)) == ["hidden", "rate", "width"]
    with pytest.raises(TypeError, match="hidden"):
        Sizes()  # type: ignore[call-arg]
    with refuses(OptionError, "`hidden`", "is -3"):
        Sizes(-3)
    with refuses(OptionError, "`rate`"):
        Sizes(3, 0)
    with refuses(OptionError, "`hidden`", "is None"):
        Sizes(None)  # type: ignore[arg-type]
    assert Sizes(3, width=None).width is None  # as its default


def test_dataclass_stores_numbers_of_numpy_as_those_of_python() -> None:
    made = Sizes(np.int64(3), np.float64(0.5), np.int8(2))  # type: ignore[arg-type]
    assert [type(value) for value in vars(made).values()] == [int, float, int, str]


def test_dataclass_describes_its_options() -> None:
    told = described(Sizes)
    assert told["rate"] == Option(Real(above=0), 0.5, "Learning rate.", "free", {"large": 2.0})
    assert (told["hidden"].default, told["hidden"].help) == (MISSING, "")
    assert "free" not in told
