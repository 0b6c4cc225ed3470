"""Check the fields of an error, not its words."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from xpcap.errors import XpcapError

FIELDS = ("function", "thing", "came", "expected", "cause")


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
        fits = found == text if name == "function" else all(one in found for one in texts)
        assert fits, f"{name} is {found!r}, expected {text!r}; the error: {caught.value}"
