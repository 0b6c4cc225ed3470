"""Check what the message of an error says."""

import builtins
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import pytest

from xpcap import errors
from xpcap.errors import XpcapError


@contextmanager
def refuses(
    error: type[Exception] | tuple[type[Exception], ...], *texts: str
) -> Iterator[pytest.ExceptionInfo[Any]]:
    """Expect an error of xpcap whose message has these texts.

    Backquotes do not matter. Yields pytest's ExceptionInfo, for what a test asks besides.
    """
    with pytest.raises(error) as caught:
        yield caught
    assert isinstance(caught.value, XpcapError), f"{caught.value!r} is no error of xpcap"
    message = str(caught.value).replace("`", "")
    for text in texts:
        assert text.replace("`", "") in message, f"no {text!r} in {message!r}"


class Refusal(NamedTuple):
    """A statement that is refused with a message that has the texts."""

    statement: str
    error: type[Exception]
    texts: tuple[str, ...]

    def check(self, names: Mapping[str, Any], template: str = "{}", *texts: str) -> None:
        """Run the statement, put into a template, with names; its message also has `texts`."""
        with refuses(self.error, *texts, *self.texts):
            exec(template.format(self.statement), {**names})


def refusals(rows: str, *texts: str, error: type[Exception] | None = None) -> pytest.MarkDecorator:
    """Parametrize a test by refusals, from rows of text; the statements are the ids.

    A row is ``statement | error | text | ...``, without the error where all rows have the one given;
    all messages have `texts`. A line that begins with | continues a row. The test takes a
    `refusal`, and checks it with the names that the statements use.
    """
    cases: dict[str, Refusal] = {}
    joined: list[str] = []
    for line in rows.strip().splitlines():
        if line.lstrip().startswith("|"):
            joined[-1] += f" {line.strip()}"
        else:
            joined.append(line.strip())
    for row in joined:
        statement, *cells = (cell.strip() for cell in row.split(" | "))
        assert statement not in cases, f"{statement} occurs twice"
        kind = error or getattr(errors, cells[0], None) or getattr(builtins, cells[0])
        cases[statement] = Refusal(statement, kind, (*texts, *cells[error is None :]))
    return pytest.mark.parametrize("refusal", cases.values(), ids=list(cases))
