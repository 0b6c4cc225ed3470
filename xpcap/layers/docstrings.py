"""Docstrings of layers: the numpydoc tables of arrays, from one line of shapes.

The author's docstring ends with what there is to say of arguments, results and errors, a line each,
further lines indented::

    x: Word ids in 0..V-1.
    ValueError: An id is outside 0..V-1.

``name : type``, with the description indented below it, gives a type of its own, and names a result
that is no array. Sections such as Notes follow; a section Returns of the author's own stays.
"""

import inspect
import re
import types
import typing
from collections.abc import Callable
from typing import Any, NamedTuple

from xpcap.spec import Spec

MISMATCH = "Libraries, dtypes or shapes do not match."
HEADING = re.compile(r"^\w+\n-{3,}$", re.MULTILINE)
LINE = re.compile(r"(?P<names>\w+(?:, \w+)*)(?P<typed> :|:)(?: (?P<rest>.*))?")


class Words(NamedTuple):
    """Types and descriptions, by name, that an author need not write."""

    types: dict[str, str]
    texts: dict[str, str]


class Item(NamedTuple):
    """An entry of a numpydoc section."""

    names: tuple[str, ...]
    type: str
    text: str

    def __str__(self) -> str:
        head = ", ".join(self.names) + f" : {self.type}" * bool(self.type)
        return "\n".join([head, *(f"    {line}".rstrip() for line in self.text.splitlines())])


def forward_words(function: Callable[..., Any]) -> Words:
    results = typing.get_args(inspect.signature(function).return_annotation)
    caches = [one.__name__ for one in results if getattr(one, "__name__", "").endswith("Cache")]
    backward = function.__name__.replace("_forward", "_backward")
    return Words({"cache": caches[-1]} if caches else {}, {"cache": f"For {backward}."})


def backward_words(forward: Callable[..., Any], spec: Spec) -> Words:
    texts = {one.name: f"The upstream gradient of {one.name[1:]}." for one in spec.entries}
    return Words({}, {"cache": f"Of {forward.__name__}.", **texts})


def docstring(function: Callable[..., Any], spec: Spec, words: Words) -> str:
    """The author's prose, the sections of arrays, and the author's other sections."""
    text = inspect.cleandoc(function.__doc__ or "")
    heading = HEADING.search(text)
    end = heading.start() if heading else len(text)
    prose, listed = _listed(text[:end].rstrip())
    parameters = inspect.signature(function).parameters
    arrays = {entry.name: entry.type + ", or None" * entry.optional for entry in spec.entries}
    results = {entry.name: entry.type for entry in spec.results}
    if "cache" not in parameters:
        results |= words.types
    errors = {name: item for name, item in listed.items() if name.endswith("Error")}
    others = listed.keys() - parameters.keys() - errors.keys()
    results |= {name: item.type for name, item in listed.items() if item.type and name in others}
    if unknown := others - results.keys():
        raise ValueError(f"{function.__name__}: the docstring describes {', '.join(unknown)}")
    of_parameters = {
        name: arrays.get(name) or _type_words(one.annotation) for name, one in parameters.items()
    }
    sections = {
        "Parameters": _items(of_parameters, listed, words),
        "Returns": _items(results, listed, words),
        "Raises": [
            Item(("TypeError", "ValueError"), "", MISMATCH),
            *dict.fromkeys(errors.values()),
        ],
    }
    others_own = text[end:]
    written = {
        name: "\n".join([name, "-" * len(name), *map(str, items)])
        for name, items in sections.items()
        if items
    }
    if others_own.startswith("Returns\n"):
        written["Returns"], others_own = others_own, ""
    return "\n\n".join([prose, *written.values(), others_own]).rstrip()


def _listed(prose: str) -> tuple[str, dict[str, Item]]:
    """Prose without the list at its end, and that list, by name."""
    before, _, last = prose.rpartition("\n\n")
    lines = last.splitlines()
    heads = [line for line in lines if not line.startswith(" ")]
    if not (before and heads and all(LINE.fullmatch(line) for line in heads)):
        return prose, {}
    listed: dict[str, Item] = {}
    for one in re.split(r"\n(?! )", last):
        head, _, more = one.partition("\n")
        found = LINE.fullmatch(head)
        assert found  # as all heads
        rest, more = found["rest"] or "", inspect.cleandoc(f"\n{more}")
        names = tuple(found["names"].split(", "))
        item = (
            Item(names, rest, more)
            if found["typed"] == " :"
            else Item(names, "", f"{rest}\n{more}".strip())
        )
        listed |= dict.fromkeys(names, item)
    return before, listed


def _items(of: dict[str, str], listed: dict[str, Item], words: Words) -> list[Item]:
    """Entries of a section; neighbours of one type and description share one."""
    items: list[Item] = []
    for name, usual in of.items():
        own = listed.get(name, Item((), "", ""))
        item = Item((name,), own.type or usual, own.text)
        if items and items[-1][1:] == item[1:]:
            item = item._replace(names=(*items.pop().names, name))
        items.append(item)
    return [item if item.text else item._replace(text=_usual(item.names, words)) for item in items]


def _usual(names: tuple[str, ...], words: Words) -> str:
    """The description of names that have none of their author's."""
    texts = [words.texts.get(name, "") for name in names]
    if len(names) == 1 or not all(texts):
        return texts[0] if len(names) == 1 else ""
    return f"The upstream gradients of {' and '.join(name[1:] for name in names)}."


def _type_words(annotation: Any) -> str:
    """An annotation in words: "Buffer or None" of ``Buffer | None``."""
    if typing.get_origin(annotation) in (types.UnionType, typing.Union):
        return " or ".join(map(_type_words, typing.get_args(annotation)))
    if annotation is types.NoneType:
        return "None"
    if isinstance(annotation, type) and not typing.get_args(annotation):
        return annotation.__name__
    return re.sub(r"\b(\w+\.)+", "", str(annotation))
