"""Text and JSON from anybody: read whole, within limits, or refused in one sentence."""

from pathlib import Path
from typing import Any

from xpcap import json_text
from xpcap.errors import DataError, InvalidValueError
from xpcap.files import read_text
from xpcap.signatures import ENDS, type_of_file

MAX_TEXT_BYTES = 256 << 20  # bytes of a captions file or list; Karpathy's of COCO takes 144 MB
MAX_VALUES = 16 << 20  # commas and brackets of a JSON text; Karpathy's of COCO has 10 million
EXPECTED = "a text file of captions or picture names"
UTF8 = "save it as UTF-8, which a spreadsheet offers as CSV UTF-8"
WRONG_PATH = "is the path right?"
REMEDIES = {  # by a file's family
    "spreadsheet": "save the sheet as CSV UTF-8 (comma delimited) and give that file",
    "archive": "unpack it first",
    "document": "copy its table into a spreadsheet and save that as CSV UTF-8",
}


def read_whole(caller: str, path: str | Path) -> str:
    """The text of a UTF-8 file, without byte order mark, with newlines as line ends.

    DataError : not UTF-8, too large, a pipe or a device, a workbook, a picture or another kind.
        OSError : it cannot be opened.
    """
    undecoded = None
    try:
        text = read_text(Path(path), MAX_TEXT_BYTES)
        content = text[:ENDS].encode()  # some kinds are text, such as HTML
    except UnicodeDecodeError as error:
        undecoded, content = error, bytes(error.object)
    except InvalidValueError as error:
        expected = f"{EXPECTED}, at most {MAX_TEXT_BYTES >> 20} MB"
        raise DataError(caller, path, error.got, expected, WRONG_PATH) from error
    if file_type := type_of_file(content):
        remedy = REMEDIES.get(file_type.family, WRONG_PATH)
        raise DataError(caller, path, f"is {file_type.name}", EXPECTED, remedy) from undecoded
    if undecoded:
        line = content[: undecoded.start].count(10) + 1
        reason = f"{undecoded.reason} at byte {undecoded.start}, line {line}"
        if content[:2] in (b"\xff\xfe", b"\xfe\xff"):
            reason = "it is UTF-16"
        elif b"\0" not in content:
            reason += "; perhaps Windows-1252, as Excel writes a plain CSV"
        got = f"is not UTF-8 text ({reason})"
        raise DataError(caller, path, got, cause=UTF8) from undecoded
    return text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")


def parse_json(caller: str, text: str) -> Any:
    """Parse a JSON text. DataError : not JSON, or too large for captions."""
    if (count := sum(text.count(sign) for sign in "[{,")) > MAX_VALUES:  # would fill the memory
        expected, cause = f"at most {MAX_VALUES:,}", "is it a file of captions?"
        raise DataError(caller, "", f"holds {count:,} values", expected, cause)
    return json_text.parse_json(caller, "", text)


def is_json(caller: str, text: str) -> bool:
    """True if a text is whole JSON, of a size that captions may have."""
    try:
        parse_json(caller, text)
    except DataError:
        return False
    return True


def read_list(path: str | Path) -> list[str]:
    """Read picture names, one per line. DataError : there is none."""
    lines = read_whole("read_list", path).split("\n")
    if not (names := [line.strip() for line in lines if line.strip()]):
        cause = "a split needs at least one picture"
        raise DataError("read_list", path, "is empty", "one picture name a line", cause)
    return names
