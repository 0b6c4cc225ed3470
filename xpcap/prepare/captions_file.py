"""Captions of a split's pictures from a JSON file, of any captioner."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from xpcap.errors import DataError
from xpcap.prepare.text import kind_of, parse_json, read_whole

NAMES = ("image", "image_id", "file_name")  # keys of a picture's name


class CaptionFile(NamedTuple):
    """Captions by the split's names of pictures, and the number of captions of other pictures."""

    captions: dict[str, str]
    others: int


def read_captions_json(path: str | Path, images: Sequence[str]) -> CaptionFile:
    """Read captions of pictures from a JSON file.

    It is ``{image: caption}``, a list of objects with ``caption`` and ``image``, ``image_id`` or
    ``file_name``, or an evaluation as JSON.

    Parameters
    ----------
    images : names of the split's pictures; a file may name a picture by its name, by the name
        without folder or suffix, by a path that ends in either, or by the number at its end, as
        COCO does

    Raises
    ------
    DataError : another form, two captions of a picture, or a name that fits two pictures. OSError :
        the file cannot be opened.
    """
    where = f"read_captions_json: {path}"
    pairs = _pairs(where, parse_json(where, read_whole("read_captions_json", path)))
    exact, loose = set(images), _loose(images)
    captions: dict[str, str] = {}
    for key, caption in pairs:
        base = key.replace("\\", "/").rsplit("/", 1)[-1]
        found = [key] if key in exact else loose.get(key) or loose.get(base, [])
        if len(found) > 1:
            raise DataError(
                where,
                f"{key[:60]!r}",
                f"may be {found[0][:60]!r} or {found[1][:60]!r}",
                expected="names that fit one picture",
            )
        for name in found:
            if name in captions:
                raise DataError(
                    where, "", f"has two captions of {name[:100]!r}", expected="one of each picture"
                )
            captions[name] = caption
    return CaptionFile(captions, len(pairs) - len(captions))


def _pairs(where: str, content: Any) -> list[tuple[str, str]]:
    """The picture's key and the caption of each entry."""
    if isinstance(content, dict) and isinstance(content.get("captions"), dict):
        content = content["captions"]  # an evaluation as JSON
    if isinstance(content, dict):
        pairs = list(content.items())
    elif isinstance(content, list):
        entries = enumerate(content, start=1)
        pairs = [_pair(f"{where}, entry {number}", entry) for number, entry in entries]
    else:
        raise DataError(
            where,
            "",
            f"is {kind_of(content)}",
            expected="an object of image and caption, or a list of objects with 'image' and"
            " 'caption'",
        )
    for key, caption in pairs:
        if not isinstance(caption, str):
            raise DataError(
                where,
                f"the caption of {key[:100]!r}",
                f"is {kind_of(caption)}",
                expected="text",
                cause="one caption a picture",
            )
        if not caption.isascii() and any("\ud800" <= letter <= "\udfff" for letter in caption):
            raise DataError(
                where,
                f"the caption of {key[:100]!r}",
                "holds half of a surrogate pair, which is no character",
                cause="cut short?",
            )
    return pairs


def _pair(where: str, entry: Any) -> tuple[str, Any]:
    keys = [key for key in NAMES if isinstance(entry, dict) and key in entry]
    if not keys or "caption" not in entry:
        raise DataError(
            where,
            "",
            f"is {kind_of(entry)} without 'caption' or any of {', '.join(NAMES)}",
            expected="both",
        )
    image = entry[keys[0]]
    if not isinstance(image, str) and type(image) is not int:
        raise DataError(
            where, f"{keys[0]!r}", f"is {kind_of(image)}", expected="text or a whole number"
        )
    return str(image), entry["caption"]


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
