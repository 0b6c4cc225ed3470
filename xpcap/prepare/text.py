"""Text and JSON from anybody: read whole, within limits, or refused in one sentence."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

from xpcap.errors import DataError, InvalidValueError
from xpcap.files import read_text
from xpcap.signatures import ENDS, Kind, kind_of_file

MOST_TEXT = 256 << 20  # bytes of a captions file or list; Karpathy's of COCO takes 144 MB
REMEDIES = {  # by a file's family
    "spreadsheet": "save the sheet as CSV UTF-8 (comma delimited) and give that file",
    "archive": "unpack it first",
    "document": "copy its table into a spreadsheet and save that as CSV UTF-8",
}
MOST_VALUES = 16 << 20  # commas and brackets of a JSON text; Karpathy's of COCO has 10 million


def read_whole(function: str, path: str | Path) -> str:
    """The text of a UTF-8 file, without byte order mark, with newlines as line ends.

    DataError : not UTF-8, too large, a pipe or a device, a workbook, a picture or another kind.
        OSError : it cannot be opened.
    """
    try:
        text = read_text(Path(path), MOST_TEXT)
    except UnicodeDecodeError as error:
        content = bytes(error.object)
        if kind := kind_of_file(content):
            raise _other(function, path, kind) from error
        line = content[: error.start].count(10) + 1
        reason = f"{error.reason} at byte {error.start}, line {line}"
        if content[:2] in (b"\xff\xfe", b"\xfe\xff"):
            reason = "it is UTF-16"
        elif b"\0" not in content:
            reason += "; perhaps Windows-1252, as Excel writes a plain CSV"
        raise DataError(
            function,
            path,
            f"is not UTF-8 text ({reason})",
            cause="save it as UTF-8, which a spreadsheet offers as CSV UTF-8",
        ) from error
    except InvalidValueError as error:
        raise DataError(
            function,
            path,
            error.came,
            expected=f"a text file of captions or picture names, at most {MOST_TEXT >> 20} MB",
            cause="is the path right?",
        ) from error
    if kind := kind_of_file(text[:ENDS].encode("utf-8")):  # some of these are text, such as HTML
        raise _other(function, path, kind)
    return text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")


def _other(function: str, path: str | Path, kind: Kind) -> DataError:
    remedy = REMEDIES.get(kind.family, "is the path right?")
    return DataError(
        function,
        path,
        f"is {kind.name}",
        expected="a text file of captions or picture names",
        cause=remedy,
    )


def parse_json(where: str, text: str) -> Any:
    """The value of a JSON text. DataError : it is none, or larger than captions would be."""
    refuse_masses(where, text)
    try:
        return json.loads(text)
    except RecursionError as error:
        raise DataError(
            where, "", "is JSON nested too deep to be captions", cause="is the path right?"
        ) from error
    except ValueError as error:
        raise DataError(
            where, "", f"is not whole JSON ({error})", cause="cut short, or edited by hand?"
        ) from error


def refuse_masses(where: str, text: str) -> None:
    """DataError : a JSON text holds so many values that they would fill the memory."""
    if (count := sum(text.count(sign) for sign in "[{,")) > MOST_VALUES:
        raise DataError(
            where,
            "",
            f"holds {count:,} values",
            expected=f"at most {MOST_VALUES:,}",
            cause="is it a file of captions?",
        )


def first_line(text: str) -> str:
    """The first line that is not blank."""
    return text.lstrip().partition("\n")[0].rstrip()


def kind_of(value: object) -> str:
    """A value of JSON in messages: ``null``, ``an object``, or the value itself, shortened."""
    names = {dict: "an object", list: "a list", type(None): "null"}
    return names.get(type(value)) or repr(value)[:60]


def read_list(path: str | Path) -> list[str]:
    """Picture names, one a line. DataError : there is none, or one twice."""
    names = [line.strip() for line in read_whole("read_list", path).split("\n") if line.strip()]
    if not names:
        raise DataError(
            "read_list",
            path,
            "is empty",
            expected="one picture name a line",
            cause="a split needs at least one picture",
        )
    if twice := next((name for name, count in Counter(names).items() if count > 1), None):
        raise DataError(
            "read_list", path, f"lists {twice[:100]!r} twice", expected="each picture once"
        )
    return names
