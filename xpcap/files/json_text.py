"""Parse JSON from any source, and check its values against a form.

A form is a type; a kind of option; a list of one form; an object's keys with their forms, "*" for any
other key, and a question mark after a key that may be missing or null; or a tuple of alternatives.
``{"images": [{"file_name": str, "id": (int, str)}], "info?": {}, "*": Real(0)}``
"""

import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from xpcap.errors import DataError, OptionError
from xpcap.files.read_write import read_text
from xpcap.options import OptionKind

JsonForm = type | OptionKind | list[Any] | dict[str, Any] | tuple[Any, ...]
TYPES = {str: "text", int: "a whole number", dict: "an object", list: "a list"}
_SURROGATE = re.compile("[\ud800-\udfff]")


def parse_json(thing: object, text: str, expected: str = "JSON") -> Any:
    """Parse a JSON text. DataError : not JSON, nested too deep, or a repeated key."""

    def unique_keys(members: list[tuple[str, Any]]) -> dict[str, Any]:
        value = dict(members)
        if len(value) < len(members):
            ((key, _),) = Counter(key for key, _ in members).most_common(1)
            raise DataError(
                f"{thing} has the key {key[:60]!r} twice in an object, expected each key once; two"
                " files put together?"
            )
        return value

    try:
        return json.loads(text, object_pairs_hook=unique_keys)
    except DataError:  # it is a ValueError, which the last clause converts
        raise
    except RecursionError as error:
        raise DataError(f"{thing} is JSON nested too deep to read; damaged?") from error
    except ValueError as error:
        raise DataError(
            f"{thing} is not valid JSON ({error}), expected {expected}; cut short, or edited by"
            " hand?"
        ) from error


def read_json(path: Path, max_bytes: int, expected: str) -> Any:
    """The value in a JSON file. DataError : as of `read_text` and `parse_json`."""
    return parse_json(path, read_text(path, max_bytes, expected), expected)


def check_json(thing: object, value: object, form: JsonForm, cause: str = "damaged?") -> None:
    """Check a JSON value, and all values in it, against a form.

    DataError : names the path of the first misfit, such as ``images[3].file_name``.
    """
    if misfit := _misfit(value, form):
        path, got, expected = misfit
        where = ": ".join(filter(None, (str(thing), path.removeprefix("."))))
        raise DataError(f"{where} is {got}, expected {expected}; {cause}")


def _misfit(value: object, form: JsonForm) -> tuple[str, str, str] | None:
    """The first value that does not fit: its path, the value, and what was expected."""
    if isinstance(form, OptionKind):
        try:
            form.check("", value)
        except OptionError:
            return "", kind_of(value), str(form)
        return None
    if isinstance(form, tuple):
        form = next((each for each in form if type(value) is _type(each)), form)
    if type(value) is not _type(form):
        forms = form if isinstance(form, tuple) else (form,)
        return "", kind_of(value), " or ".join(TYPES[_type(each)] for each in forms)
    if isinstance(value, str) and not value.isascii() and _SURROGATE.search(value):
        return (
            "",
            "text with half of a surrogate pair, which is not a character",
            "whole characters",
        )
    for step, part, inner in _parts(value, form):
        if misfit := _misfit(part, inner):
            return step + misfit[0], *misfit[1:]
    return None


def _type(form: JsonForm) -> type:
    return form if isinstance(form, type) else type(form)


def _parts(value: Any, form: JsonForm) -> Iterator[tuple[str, object, JsonForm]]:
    """Members of a list or an object: the step of the path to it, its value and its form."""
    if isinstance(form, list):
        yield from ((f"[{number}]", item, form[0]) for number, item in enumerate(value))
    elif isinstance(form, dict):
        named = {key.removesuffix("?"): key for key in form if key != "*"}
        for name, key in named.items():
            if name == key or value.get(name) is not None:
                yield f".{name}", value.get(name, ...), form[key]
        if "*" in form:
            others = value.keys() - named.keys()
            yield from (
                (f"[{key[:60]!r}]", value[key], form["*"]) for key in value if key in others
            )


def kind_of(value: object) -> str:
    """A JSON value as messages show it: ``null``, ``an object``, or the value itself, shortened."""
    names = {dict: "an object", list: "a list", type(None): "null", type(...): "missing"}
    return names.get(type(value)) or repr(value)[:60]
