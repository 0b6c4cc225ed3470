"""Captions of a split's pictures from a JSON file or a table, of any captioner."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from xpcap.errors import DataError
from xpcap.files.json_text import check_json
from xpcap.prepare.detect import read_rows
from xpcap.prepare.names import NameIndex
from xpcap.prepare.rows import CaptionText
from xpcap.prepare.text import read_whole

NAMES = ("image", "image_id", "file_name")  # keys of a picture's name
ENTRY = {**{f"{name}?": (str, int) for name in NAMES}, "caption": str}
BY_NAME = {"*": str}


class Submission(NamedTuple):
    """Captions by picture of a split; other names, each with a reason as in `Matches`."""

    captions: dict[str, str]
    unmatched: dict[str, str]


def read_submission(path: str | Path, images: Sequence[str]) -> Submission:
    """Read captions of pictures from a file.

    It is ``{image: caption}``, a list of objects with ``caption`` and ``image``, ``image_id`` or
    ``file_name``, an evaluation as JSON, or a table or JSON lines, as `caption` writes them.

    images : names of the split's pictures; the file's names are matched with them by `NameIndex`
    DataError : another form, or two captions of a picture. OSError : the file cannot be opened.
    """
    file = CaptionText(str(path), read_whole(path))
    if file.first_line[:1] in ("{", "[") and not file.is_json_lines:
        pairs = _pairs(file.where, file.json)
    else:
        pairs = [(row.picture, row.caption) for row in read_rows(file) if row.caption is not None]
    names = NameIndex(images).match(name for name, _ in pairs)
    captions: dict[str, str] = {}
    for name, caption in pairs:
        if image := names.matches.get(name):
            if image in captions:
                raise DataError(
                    f"{path} has two captions of {image[:100]!r}, expected one of each picture"
                )
            captions[image] = caption
    return Submission(captions, names.unmatched)


def _pairs(path: str, content: Any) -> list[tuple[str, str]]:
    """The picture's key and the caption of each entry of a JSON file."""
    if isinstance(content, dict) and isinstance(content.get("captions"), dict):
        content = content["captions"]  # an evaluation as JSON
    check_json(path, content, (BY_NAME, [ENTRY]), "one caption per picture")
    if isinstance(content, dict):
        return list(content.items())
    pairs = []
    for number, entry in enumerate(content):
        key = next((entry[name] for name in NAMES if entry.get(name) is not None), None)
        if key is None:
            raise DataError(
                f"{path}[{number}] has none of the keys {', '.join(NAMES)}, expected one, with the name"
                " of the picture"
            )
        pairs.append((str(key), entry["caption"]))
    return pairs
