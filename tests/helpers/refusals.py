"""Check the fields of an error, not its words."""

import builtins
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import pytest

from xpcap import errors
from xpcap.errors import XpcapError

FIELDS = ("function", "thing", "got", "expected", "cause")


@contextmanager
def refuses(
    error: type[Exception] | tuple[type[Exception], ...], **fields: str | tuple[str, ...]
) -> Iterator[pytest.ExceptionInfo[Any]]:
    """Expect an error whose function is the given one, and whose other fields hold what is given.

    A tuple asks a field for several texts. An option may stand in backquotes, as in the sentence; the
    field is without. Yields pytest's ExceptionInfo, for what a test asks besides.
    """
    assert set(fields) <= set(FIELDS), f"{sorted(fields)}: an error has the fields {FIELDS}"
    with pytest.raises(error) as caught:
        yield caught
    assert isinstance(caught.value, XpcapError), f"{caught.value!r} has no fields"
    for name, text in fields.items():
        found = getattr(caught.value, name)
        texts = (text,) if isinstance(text, str) else text
        if name == "thing":
            texts = tuple(one.replace("`", "") for one in texts)
        fits = all(_fits(name, text, found) for text in texts)
        assert fits, f"{name} is {found!r}, expected {text!r}; the error: {caught.value}"


def _fits(name: str, text: str, found: str) -> bool:
    """Whether a field has a text: a function is that alone, a thing has it as whole words."""
    if name == "function":
        return text == found
    whole_words = rf"(?<!\w){re.escape(text)}(?!\w)"
    return bool(re.search(whole_words, found)) if name == "thing" else text in found


class Refusal(NamedTuple):
    """A statement that is refused.

    fields : texts that each field of the error holds
    """

    statement: str
    error: type[Exception]
    fields: Mapping[str, tuple[str, ...]]

    def check(self, names: Mapping[str, Any], template: str = "{}", **fields: str) -> None:
        """Run the statement, put into a template, with names; compare its error with all fields."""
        with refuses(self.error, **self.fields, **fields):
            exec(template.format(self.statement), {**names})


def refusals(
    rows: str, *, error: type[Exception] | None = None, **common: str
) -> pytest.MarkDecorator:
    """Parametrize a test by refusals, from rows of text; the statements are the ids.

    A row is ``statement | error | field: text | ...``, without the error where all rows have the one
    given; `common` has the fields that are the same in all. A line that begins with | continues a
    row, and a field may stand twice. The test takes a `refusal`, and checks it with the names that
    the statements use.
    """
    cases: dict[str, Refusal] = {}
    for row in re.sub(r"\n\s*\|", " |", rows.strip()).splitlines():
        statement, *texts = (cell.strip() for cell in row.split(" | "))
        assert statement not in cases, f"{statement} occurs twice"
        kind = error or getattr(errors, texts[0], None) or getattr(builtins, texts[0])
        fields = {name: (text,) for name, text in common.items()}
        for name, _, text in (text.partition(": ") for text in texts[error is None :]):
            assert name in FIELDS, f"{row}: an error has the fields {FIELDS}, not {name!r}"
            fields[name] = (*fields.get(name, ()), text)
        cases[statement] = Refusal(statement, kind, fields)
    return pytest.mark.parametrize("refusal", cases.values(), ids=list(cases))
