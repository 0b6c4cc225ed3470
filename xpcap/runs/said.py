"""Captions that anything made, from a JSON file, for pictures of a data set."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from xpcap.errors import DataError
from xpcap.prepare.text import kind_of, parse_json, read_whole

NAMES = ("image", "image_id", "file_name")  # keys that may tell the picture


class Said(NamedTuple):
    """Captions by the data set's own names of pictures, and how many were of no picture of the split."""

    captions: dict[str, str]
    others: int


def read_said(path: str | Path, images: Sequence[str]) -> Said:
    """Captions of pictures, from ``{image: caption}``, a list of objects with ``caption`` and ``image``, ``image_id`` or ``file_name``, or an evaluation as JSON.

    Parameters
    ----------
    images : names of the split's pictures; a file may tell a picture by its name, by the name without folder or suffix, by a path that ends
        in either, or by the number at its end, as COCO does

    Raises
    ------
    DataError : another form, two captions of a picture, or a name that fits two pictures. OSError : the file cannot be opened.
    """
    where = f"read_said: {path}"
    pairs = _pairs(where, parse_json(where, read_whole("read_said", path)))
    exact, loose = set(images), _loose(images)
    captions: dict[str, str] = {}
    for told, caption in pairs:
        found = [told] if told in exact else loose.get(told) or loose.get(told.replace("\\", "/").rsplit("/", 1)[-1], [])
        if len(found) > 1:
            raise DataError(f"{where}: {told[:60]!r} may be {found[0][:60]!r} or {found[1][:60]!r}, expected names that fit one picture")
        for name in found:
            if name in captions:
                raise DataError(f"{where} has two captions of {name[:100]!r}, expected one of each picture")
            captions[name] = caption
    return Said(captions, len(pairs) - len(captions))


def _pairs(where: str, content: Any) -> list[tuple[str, str]]:
    """What tells a picture, and its caption, of each entry."""
    if isinstance(content, dict) and isinstance(content.get("captions"), dict):
        content = content["captions"]  # all of an evaluation as JSON
    if isinstance(content, dict):
        pairs = list(content.items())
    elif isinstance(content, list):
        pairs = [_pair(f"{where}, entry {number}", entry) for number, entry in enumerate(content, start=1)]
    else:
        raise DataError(f"{where} is {kind_of(content)}, expected an object of image and caption, or a list of objects with 'image' and 'caption'")
    for told, caption in pairs:
        if not isinstance(caption, str):
            raise DataError(f"{where}: the caption of {told[:100]!r} is {kind_of(caption)}, expected text; one caption a picture")
        if not caption.isascii() and any("\ud800" <= letter <= "\udfff" for letter in caption):
            raise DataError(f"{where}: the caption of {told[:100]!r} holds half of a surrogate pair, which is no character; cut short?")
    return pairs


def _pair(where: str, entry: Any) -> tuple[str, Any]:
    keys = [key for key in NAMES if isinstance(entry, dict) and key in entry]
    if not keys or "caption" not in entry:
        raise DataError(f"{where} is {kind_of(entry)} without 'caption' or any of {', '.join(NAMES)}, expected both")
    told = entry[keys[0]]
    if not isinstance(told, str) and type(told) is not int:
        raise DataError(f"{where}: {keys[0]!r} is {kind_of(told)}, expected text or a whole number")
    return str(told), entry["caption"]


def _loose(images: Sequence[str]) -> dict[str, list[str]]:
    """What else may tell a picture: its name without folder, without suffix, or the number at its end."""
    loose: dict[str, list[str]] = {}
    for name in images:
        base = name.rsplit("/", 1)[-1]
        stem = base.rsplit(".", 1)[0]
        number = re.search(r"\d+$", stem)
        for key in {base, stem, *([str(int(number[0]))] if number and number[0].isascii() and len(number[0]) < 20 else [])}:
            loose.setdefault(key, []).append(name)
    return loose
