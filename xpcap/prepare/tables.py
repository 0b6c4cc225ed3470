"""Tables of captions: text with commas, semicolons, tabs or pipes, JSON lines, or a JSON list."""

import contextlib
import csv
import io
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from xpcap.encoders.finding import SUFFIXES
from xpcap.errors import DataError
from xpcap.prepare.rows import CaptionRow, ImportReport
from xpcap.prepare.text import kind_of, parse_json

if TYPE_CHECKING:
    import _csv

KNOWN = {  # names of columns, the likeliest first, in lower case and with underscores
    "image": (
        "image",
        "image_name",
        "file_name",
        "filename",
        "image_file",
        "image_path",
        "file",
        "path",
        "img",
        "picture",
        "photo",
        "name",
        "image_id",
    ),
    "caption": (
        "caption",
        "captions",
        "comment",
        "text",
        "sentence",
        "sentences",
        "description",
        "raw",
    ),
    "split": ("split", "subset", "partition"),
    "number": ("comment_number", "caption_number"),
}
DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "pipes"}
_SEP = re.compile(r"\s*sep=(.)\n")  # Excel's own first line


@dataclass(frozen=True, kw_only=True)
class Columns:
    """Names of a table's columns; None: found by the usual names."""

    image: str | None = None
    caption: str | None = None
    split: str | None = None


@dataclass(frozen=True)
class _Found:
    image: str
    caption: str
    split: str | None
    number: str | None


def find_delimiter(text: str, columns: Columns) -> str | None:
    """The delimiter of a table whose heading names a picture and a caption; else None."""
    heading = text[_start(text) :][:10_000]
    return next((sign for sign in DELIMITERS if _find(_heading(heading, sign), columns)), None)


def unknown_columns(where: str, text: str, columns: Columns) -> DataError | None:
    """The error for a table whose heading is missing or unknown; None for text of one column."""
    beginning = text[_start(text) :][:10_000]
    delimiter = max(DELIMITERS, key=lambda sign: len(_heading(beginning, sign)))
    names = _heading(beginning, delimiter)
    if len(names) < 2 or not all(names) or len(set(names)) < len(names):
        return None
    if any(name.lower().endswith(SUFFIXES) for name in names):
        first = beginning.partition("\n")[0][:100]
        return DataError(
            where,
            "",
            f"has no heading, its first line is {first!r}",
            expected="one that names the columns",
            cause=f"put image{delimiter}caption above it",
        )
    return no_columns(where, names, columns, _likely(names, beginning, delimiter))


def _likely(names: Sequence[str], beginning: str, delimiter: str) -> Columns | None:
    """The one column that looks like picture files, and the wordiest other one; None if unclear."""
    rows: list[list[str]] = []
    with contextlib.suppress(csv.Error):  # the text is cut, perhaps inside a field
        rows += (cells for cells in _reader(beginning, delimiter) if len(cells) == len(names))
    pictures: list[str] = []
    words: dict[str, float] = {}  # mean number of words of a cell
    for name, column in zip(names, zip(*rows[1:], strict=True), strict=False):
        cells = [cell.strip() for cell in column if cell.strip()]
        if sum(cell.lower().endswith(SUFFIXES) for cell in cells) * 2 > len(cells):
            pictures.append(name)
        elif cells:
            words[name] = sum(len(cell.split()) for cell in cells) / len(cells)
    if len(pictures) != 1 or not words:
        return None
    wordiest = max(words, key=lambda name: words[name])
    return Columns(image=pictures[0], caption=wordiest) if words[wordiest] > 2 else None


def read_table(
    where: str, text: str, delimiter: str, columns: Columns, report: ImportReport
) -> Iterator[CaptionRow]:
    """Rows of a table in text. Quotes are as in CSV, except between pipes, where they are text.

    A row with too few or too many columns is skipped; if the caption's column is the last, further
    cells belong to the caption. DataError : a quote that is never closed, an enormous field; with
    the line.
    """
    start = _start(text)
    names = _heading(text[start:][:10_000], delimiter)
    found = _find(names, columns)
    assert found is not None
    open_end, before = found.caption == names[-1], text[:start].count("\n")
    records = _records(where, text[start:], delimiter, names, open_end, before, report)
    return _rows(records, found, report)


def read_objects(
    where: str, objects: Iterable[tuple[str, object]], columns: Columns, report: ImportReport
) -> Iterator[CaptionRow]:
    """Rows of objects, each with its source: a caption, or a list of them, with its picture.

    DataError : no object, no key for pictures or captions, or a value of another type.
    """
    records = list(objects)
    first = records[0][1] if records else None
    if not isinstance(first, dict):
        raise DataError(
            where,
            "its first row",
            f"is {kind_of(first)}",
            expected="an object with a picture and a caption",
        )
    found = _find(list(first), columns)
    if found is None:
        raise no_columns(where, list(first), columns)
    return _rows(records, found, report)


def json_lines(where: str, text: str) -> Iterator[tuple[str, object]]:
    """The value of each line, with its source."""
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield f"{where}, line {number}", parse_json(f"{where}, line {number}", line)


def no_columns(
    where: str, names: Sequence[str], columns: Columns, likely: Columns | None = None
) -> DataError:
    """The error for a table whose columns are not found."""
    pictures = columns.image or " or ".join(KNOWN["image"][:4])
    captions = columns.caption or " or ".join(KNOWN["caption"][:4])
    listed = ", ".join(repr(name[:40]) for name in names[:10])
    perhaps = f", perhaps {likely.image!r} and {likely.caption!r}" if likely else ""
    return DataError(
        where,
        "",
        f"has the columns {listed}",
        expected=f"one such as {pictures} for pictures and one such as {captions} for captions",
        cause=f"name yours by `image_column` and `caption_column`{perhaps}",
    )


def _start(text: str) -> int:
    match = _SEP.match(text)
    return match.end() if match else len(text) - len(text.lstrip())


def _reader(text: str, delimiter: str) -> "_csv.Reader":
    lines = io.StringIO(text, newline="")
    if delimiter == "|":
        return csv.reader(lines, delimiter=delimiter, quoting=csv.QUOTE_NONE, strict=True)
    return csv.reader(lines, delimiter=delimiter, strict=True, skipinitialspace=delimiter != "\t")


def _heading(text: str, delimiter: str) -> list[str]:
    try:
        return [name.strip() for name in next(_reader(text, delimiter), [])]
    except csv.Error:
        return []


def _find(names: Sequence[str], columns: Columns) -> _Found | None:
    """The columns among `names`; None if one that is needed, or that the user named, is missing."""
    usual = {re.sub(r"[\s-]+", "_", name.strip().lower()): name for name in reversed(names)}
    found: dict[str, str | None] = {}
    for key, known in KNOWN.items():
        given = getattr(columns, key, None)
        wanted = known if given is None else (re.sub(r"[\s-]+", "_", given.strip().lower()),)
        first = next((usual[name] for name in wanted if name in usual), None)
        found[key] = given if given in names else first
        if found[key] is None and (given is not None or key in ("image", "caption")):
            return None
    image, caption = found["image"], found["caption"]
    if image is None or caption is None or image == caption:
        return None
    return _Found(image, caption, found["split"], found["number"])


def _records(
    where: str,
    text: str,
    delimiter: str,
    names: Sequence[str],
    open_end: bool,
    before: int,
    report: ImportReport,
) -> Iterator[tuple[str, dict[str, str]]]:
    """Rows below the heading as mappings, each with its source.

    With `open_end`, cells beyond the names belong to the last; `before` counts lines above.
    """
    reader = _reader(text, delimiter)
    joint = f"{delimiter} " if delimiter in ",;" else delimiter  # the reader drops that space
    try:
        next(reader)
        for cells in reader:
            while len(cells) > len(names) and not cells[-1].strip():
                cells.pop()
            if open_end and len(cells) > len(names):
                cells[len(names) - 1 :] = [joint.join(cells[len(names) - 1 :])]
            line = f"line {before + reader.line_num}"
            if len(cells) == len(names):
                yield f"{where}, {line}", dict(zip(names, cells, strict=True))
            elif any(cell.strip() for cell in cells):
                report.skip(f"rows without {len(names)} columns", line)
    except csv.Error as error:
        raise DataError(
            where,
            f"line {before + reader.line_num}",
            f"is not whole: {error}",
            cause="each quote that opens a field must close it, one inside is written twice",
        ) from error


def _rows(
    records: Iterable[tuple[str, object]], found: _Found, report: ImportReport
) -> Iterator[CaptionRow]:
    seen: set[tuple[str, str]] = set()
    for source, record in records:
        if not isinstance(record, dict):
            raise DataError(source, "", f"is {kind_of(record)}", expected="an object")
        picture, captions = record.get(found.image, ""), record.get(found.caption, "")
        split = record.get(found.split, "")
        texts = captions if isinstance(captions, list) else [captions]
        if (
            not isinstance(picture, str)
            or not isinstance(split, str)
            or not all(isinstance(text, str) for text in texts)
        ):
            raise DataError(
                source,
                "picture",
                f"{kind_of(picture)}, caption {kind_of(captions)}, split {kind_of(split)}",
                expected="text",
            )
        if found.number is not None and isinstance(number := record.get(found.number), str):
            if (key := (picture, number.strip())) in seen:
                report.skip("second captions of one number", f"{key[0]} {key[1]}")
                continue
            seen.add(key)
        for text in texts or [None]:
            caption = None if text is None else text.strip()
            yield CaptionRow(picture.strip(), caption, split if found.split else None, source)
