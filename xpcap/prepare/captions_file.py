"""Captions of a split's pictures from a JSON file, of any captioner."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from xpcap.errors import DataError
from xpcap.json_text import check_json
from xpcap.prepare.text import parse_json, read_whole, with_slashes

NAMES = ("image", "image_id", "file_name")  # keys of a picture's name
ENTRY = {**{f"{name}?": (str, int) for name in NAMES}, "caption": str}
BY_NAME = {"*": str}


class CaptionFile(NamedTuple):
    """Captions by the split's names of pictures, and the number of captions of other pictures."""

    captions: dict[str, str]
    others: int


def read_captions_json(path: str | Path, images: Sequence[str]) -> CaptionFile:
    """Read captions of pictures from a JSON file.

    It is ``{image: caption}``, a list of objects with ``caption`` and ``image``, ``image_id`` or
    ``file_name``, or an evaluation as JSON.

    images : names of the split's pictures; a file may name a picture by its name, by the name
        without folder or suffix, by a path that ends in either, or by the number at its end, as
        COCO does
    DataError : another form, two captions of a picture, or a name that fits two pictures. OSError :
        the file cannot be opened.
    """
    caller = f"read_captions_json: {path}"
    pairs = _pairs(caller, read_whole("read_captions_json", path))
    exact, loose = set(images), _loose(images)
    captions: dict[str, str] = {}
    for key, caption in pairs:
        base = with_slashes(key).rsplit("/", 1)[-1]
        names = [key] if key in exact else loose.get(key) or loose.get(base, [])
        if len(names) > 1:
            got = f"may be {names[0][:60]!r} or {names[1][:60]!r}"
            raise DataError(caller, f"{key[:60]!r}", got, "names that fit one picture")
        for name in names:
            if name in captions:
                got = f"has two captions of {name[:100]!r}"
                raise DataError(caller, "", got, "one of each picture")
            captions[name] = caption
    return CaptionFile(captions, len(pairs) - len(captions))


def _pairs(caller: str, text: str) -> list[tuple[str, str]]:
    """The picture's key and the caption of each entry."""
    content = parse_json(caller, text)
    if isinstance(content, dict) and isinstance(content.get("captions"), dict):
        content = content["captions"]  # an evaluation as JSON
    check_json(caller, "", content, (BY_NAME, [ENTRY]), "one caption per picture")
    if isinstance(content, dict):
        return list(content.items())
    pairs = []
    for number, entry in enumerate(content):
        key = next((entry[name] for name in NAMES if entry.get(name) is not None), None)
        if key is None:
            got = f"has none of the keys {', '.join(NAMES)}"
            raise DataError(caller, f"[{number}]", got, "one, with the name of the picture")
        pairs.append((str(key), entry["caption"]))
    return pairs


def _loose(images: Sequence[str]) -> dict[str, list[str]]:
    """Other keys of pictures: a name without folder, without suffix, or the number at its end."""
    loose: dict[str, list[str]] = {}
    for name in images:
        base = name.rsplit("/", 1)[-1]
        stem = base.rsplit(".", 1)[0]
        number = re.search(r"\d+$", stem)
        keys = {base, stem}
        if number and number[0].isascii() and len(number[0]) < 20:
            keys.add(str(int(number[0])))
        for key in keys:
            loose.setdefault(key, []).append(name)
    return loose
