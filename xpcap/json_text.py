"""JSON that anybody wrote: its text, and the types of what it holds.

A form says what is wanted: a type; a kind of option; a list of one form; an object's keys with their
forms, "*" for any other key, and a question mark behind a key that may be missing or null; a tuple of
alternatives. ``{"images": [{"file_name": str, "id": (int, str)}], "info?": {}, "*": Real(0)}``
"""

import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from xpcap.errors import DataError, OptionError
from xpcap.files import read_text
from xpcap.options import OptionKind

JsonForm = type | OptionKind | list[Any] | dict[str, Any] | tuple[Any, ...]
TYPES = {str: "text", int: "a whole number", dict: "an object", list: "a list"}
_SURROGATE = re.compile("[\ud800-\udfff]")


def parse_json(caller: str, thing: object, text: str, expected: str = "") -> Any:
    """Parse a JSON text. DataError : not JSON, nested too deep, or a repeated key."""

    def distinct(members: list[tuple[str, Any]]) -> dict[str, Any]:
        value = dict(members)
        if len(value) < len(members):
            ((key, _),) = Counter(key for key, _ in members).most_common(1)
            got = f"has the key {key[:60]!r} twice in an object"
            raise DataError(caller, thing, got, "each key once", "two files put together?")
        return value

    try:
        return json.loads(text, object_pairs_hook=distinct)
    except DataError:  # a ValueError, too
        raise
    except RecursionError as error:
        raise DataError(caller, thing, "is JSON nested too deep", expected, "damaged?") from error
    except ValueError as error:
        got, cause = f"is not whole JSON ({error})", "cut short, or edited by hand?"
        raise DataError(caller, thing, got, expected, cause) from error


def read_json(caller: str, path: Path, most: int, expected: str) -> Any:
    """The value in a JSON file of at most `most` bytes. DataError : as of `read_text`, `parse_json`."""
    return parse_json(caller, path, read_text(caller, path, most, expected), expected)


def check_json(
    caller: str, thing: object, value: object, form: JsonForm, cause: str = "damaged?"
) -> None:
    """Check a value of JSON, and all that it holds, against a form.

    DataError : the first misfit, by its path, such as ``images[3].file_name``.
    """
    if found := _misfit(value, form):
        path, got, expected = found
        where = ": ".join(filter(None, (str(thing), path.removeprefix("."))))
        raise DataError(caller, where, f"is {got}", expected, cause)


def _misfit(value: object, form: JsonForm) -> tuple[str, str, str] | None:
    """The path of the first value that does not fit, what came, and what was expected."""
    if isinstance(form, OptionKind):
        try:
            form.check("", "", value)
        except OptionError:
            return "", kind_of(value), str(form)
        return None
    if isinstance(form, tuple):
        form = next((one for one in form if type(value) is _type(one)), form)
    if type(value) is not _type(form):
        forms = form if isinstance(form, tuple) else (form,)
        return "", kind_of(value), " or ".join(TYPES[_type(one)] for one in forms)
    if isinstance(value, str) and not value.isascii() and _SURROGATE.search(value):
        return (
            "",
            "text with half of a surrogate pair, which is not a character",
            "whole characters",
        )
    for step, part, inner in _parts(value, form):
        if found := _misfit(part, inner):
            return step + found[0], *found[1:]
    return None


def _type(form: JsonForm) -> type:
    return form if isinstance(form, type) else type(form)


def _parts(value: Any, form: JsonForm) -> Iterator[tuple[str, object, JsonForm]]:
    """Members of a list or an object: the step of the path to each, its value, and its form."""
    if isinstance(form, list):
        yield from ((f"[{number}]", one, form[0]) for number, one in enumerate(value))
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
    """A value of JSON in messages: ``null``, ``an object``, or the value itself, shortened."""
    names = {dict: "an object", list: "a list", type(None): "null", type(...): "missing"}
    return names.get(type(value)) or repr(value)[:60]
