"""Read text and JSON of users within limits, or refuse them with a clear message."""

import codecs
import re
from pathlib import Path
from typing import Any

from xpcap.errors import DataError
from xpcap.files import json_text
from xpcap.files.file_types import type_of_file
from xpcap.files.read_write import read_bytes

MAX_TEXT_BYTES = 256 << 20  # of a caption file or list; Karpathy's COCO has 144 MB
MAX_VALUES = 16 << 20  # commas and brackets of a JSON text; Karpathy's COCO has 10 million
EXPECTED = "a text file of captions or picture names"
MARKS = {  # byte order marks
    codecs.BOM_UTF8: "utf-8",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
EXCEL = "give `encoding` cp1252 if Excel wrote it as plain CSV"
UTF8 = "save it as UTF-8, which a spreadsheet offers as CSV UTF-8"
WRONG_PATH = "is the path right?"
REMEDIES = {  # by the family of a file's type
    "spreadsheet": "save the sheet as CSV UTF-8 (comma delimited) and give that file",
    "archive": "unpack it first",
    "document": "copy its table into a spreadsheet and save that as CSV UTF-8",
}

ODD_CAPTIONS = {  # kinds of captions that are reported; the first pattern that fits counts
    "captions that are errors or formulas of a spreadsheet": re.compile(
        r"^=|^#(\S+[!?]|N/?[A-Z])$"
    ),
    "captions that look like placeholders": re.compile(
        r"^\W*(todo|tbd|n\W?a|nan|null|none|undefined|placeholder|x{2,})\W*$", re.IGNORECASE
    ),
    "captions with HTML entities, such as &amp;": re.compile(r"&(#\w{1,8}|[A-Za-z]\w{1,30});"),
}


def read_whole(path: str | Path, encoding: str | None = "utf-8") -> str:
    """The text of a file, without byte order mark, with newlines as line ends.

    encoding : of a file without such a mark; None: UTF-8, and the error suggests this option
    DataError : the file is missing, too large, not text (such as a workbook), or in another encoding.
    """
    content = read_bytes(Path(path), MAX_TEXT_BYTES, EXPECTED)
    if file_type := type_of_file(content):
        raise DataError(
            f"{path} is {file_type.name}, expected {EXPECTED};"
            f" {REMEDIES.get(file_type.family, WRONG_PATH)}"
        )
    marked = (name for mark, name in MARKS.items() if content.startswith(mark))
    codec = next(marked, encoding or "utf-8")
    try:
        text = content.decode(codec)
    except UnicodeDecodeError as error:
        line = content[: error.start].decode(codec, "replace").count("\n") + 1
        got = f"is not {codec.upper()} text ({error.reason} at byte {error.start}, line {line})"
        cause = UTF8 if encoding or b"\0" in content else f"{EXCEL}, or {UTF8}"
        raise DataError(f"{path} {got}; {cause}") from error
    return text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")


def odd_kind(caption: str) -> str | None:
    """The kind of a caption that hardly describes a picture; None for others."""
    return next((kind for kind, pattern in ODD_CAPTIONS.items() if pattern.search(caption)), None)


def parse_json(source: str, text: str) -> Any:
    """Parse a JSON text. DataError : not JSON, or too large for captions."""
    if (count := sum(text.count(sign) for sign in "[{,")) > MAX_VALUES:  # it would fill the memory
        raise DataError(
            f"{source} holds {count:,} values, expected at most {MAX_VALUES:,}; is it a file of"
            " captions?"
        )
    return json_text.parse_json(source, text)


def is_json(source: str, text: str) -> bool:
    """True if a text is valid JSON, not too large for captions."""
    try:
        parse_json(source, text)
    except DataError:
        return False
    return True


def read_list(path: str | Path, encoding: str | None = None) -> list[str]:
    """Read picture names, one per line. DataError : there is none, or as in `read_whole`."""
    lines = read_whole(path, encoding).split("\n")
    if not (names := [line.strip() for line in lines if line.strip()]):
        raise DataError(
            f"{path} is empty, expected a picture name per line; a split needs at least one picture"
        )
    return names
