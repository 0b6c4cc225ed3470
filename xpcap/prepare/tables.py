"""Tables of captions: text with commas, semicolons, tabs or pipes, JSON lines, or a JSON list."""

import contextlib
import csv
import functools
import io
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from xpcap.encoders.finding import SUFFIXES
from xpcap.errors import DataError
from xpcap.json_text import check_json
from xpcap.prepare.rows import CaptionRow, CaptionText, Columns, Format
from xpcap.prepare.text import parse_json

if TYPE_CHECKING:
    import _csv

KNOWN = {  # names of columns, the likeliest first, in lower case and with underscores
    "image": "image image_name file_name filename image_file image_path file path img picture photo"
    " name image_id",
    "caption": "caption captions comment text sentence sentences description raw",
    "split": "split subset partition",
    "number": "comment_number caption_number",  # of a picture's captions
}
DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "pipes"}
HEADING = 10_000  # characters in which a heading is looked for
_SEP = re.compile(r"(\s*)sep=.\n")  # Excel's own first line


def find_columns(names: Iterable[str], columns: Columns) -> dict[str, str] | None:
    """The names of columns by their keys in KNOWN; None: one that is needed or given is missing."""
    names = list(names)
    usual = {_usual(name): name for name in reversed(names)}
    found = {}
    for key, known in KNOWN.items():
        given = getattr(columns, key, None)
        wanted = known.split() if given is None else [_usual(given)]
        first = next((usual[name] for name in wanted if name in usual), None)
        if name := given if given in names else first:
            found[key] = name
        elif given is not None or key in ("image", "caption"):
            return None
    return None if found["image"] == found["caption"] else found


def _usual(name: str) -> str:
    return re.sub(r"[\s-]+", "_", name.strip().lower())


def no_columns(
    where: str, names: Iterable[str], columns: Columns, likely: tuple[str, str] | None = None
) -> DataError:
    """The error for a table whose columns are not found."""
    pictures, captions = (
        getattr(columns, key) or " or ".join(KNOWN[key].split()[:4]) for key in ("image", "caption")
    )
    listed = ", ".join(repr(name[:40]) for name in list(names)[:10]) or "nothing"
    expected = f"one such as {pictures} for pictures and one such as {captions} for captions"
    cause = "name yours by `image_column` and `caption_column`"
    if likely:
        cause += f", perhaps {likely[0]!r} and {likely[1]!r}"
    return DataError(where, "", f"has the columns {listed}", expected, cause)


# text


def has_columns(delimiter: str, file: CaptionText) -> bool:
    """True if the heading names a picture and a caption."""
    return find_columns(_heading(file.text, delimiter), file.columns) is not None


def read_table(delimiter: str, file: CaptionText) -> Iterator[CaptionRow]:
    """Rows of a table in text. Quotes are as in CSV, except between pipes, where they are text.

    A row with too few or too many columns is skipped; if the caption's column is the last, further
    cells belong to the caption. DataError : a quote that is never closed, an enormous field; with
    the line.
    """
    found = find_columns(_heading(file.text, delimiter), file.columns)
    assert found is not None
    return _rows(file, _records(file, delimiter, found["caption"]), found)


def _records(
    file: CaptionText, delimiter: str, caption: str
) -> Iterator[tuple[str, dict[str, str]]]:
    """Rows below the heading as mappings, each with its source.

    Cells beyond the names belong to the last one, if that is the caption's.
    """
    reader = _reader(file.text, delimiter)
    joint = f"{delimiter} " if delimiter in ",;" else delimiter  # the reader drops that space
    try:
        names = _first(reader)
        for cells in reader:
            while len(cells) > len(names) and not cells[-1].strip():
                cells.pop()
            if len(cells) > len(names) and caption == names[-1]:
                cells[len(names) - 1 :] = [joint.join(cells[len(names) - 1 :])]
            line = f"line {reader.line_num}"
            if len(cells) == len(names):
                yield f"{file.where}, {line}", dict(zip(names, cells, strict=True))
            elif any(cell.strip() for cell in cells):
                file.report.skip(f"rows without {len(names)} columns", line)
    except csv.Error as error:
        cause = "each quote that opens a field must close it, one inside is written twice"
        came = f"is not whole: {error}"
        raise DataError(file.where, f"line {reader.line_num}", came, cause=cause) from error


def _reader(text: str, delimiter: str) -> "_csv.Reader":
    lines = io.StringIO(_SEP.sub(r"\1\n", text, count=1) if _SEP.match(text) else text, newline="")
    if delimiter == "|":
        return csv.reader(lines, delimiter=delimiter, quoting=csv.QUOTE_NONE, strict=True)
    return csv.reader(lines, delimiter=delimiter, strict=True, skipinitialspace=delimiter != "\t")


def _first(reader: "_csv.Reader") -> list[str]:
    """The names in the heading, which is the first row that is not blank."""
    rows = ([cell.strip() for cell in cells] for cells in reader)
    return next((cells for cells in rows if any(cells)), [])


def _heading(text: str, delimiter: str) -> list[str]:
    try:
        return _first(_reader(text[:HEADING], delimiter))
    except csv.Error:
        return []


def unknown_columns(file: CaptionText) -> DataError | None:
    """The error for a table whose heading is missing or unknown; None for text of one column."""
    headings = {sign: _heading(file.text, sign) for sign in DELIMITERS}
    delimiter = max(headings, key=lambda sign: len(headings[sign]))
    names = headings[delimiter]
    if len(names) < 2 or not all(names) or len(set(names)) < len(names):
        return None
    if any(name.lower().endswith(SUFFIXES) for name in names):
        came = f"has no heading, its first line is {delimiter.join(names)[:100]!r}"
        cause = f"put image{delimiter}caption above it"
        return DataError(file.where, "", came, "one that names the columns", cause)
    likely = _likely(names, file.text[:HEADING], delimiter)
    return no_columns(file.where, names, file.columns, likely)


def _likely(names: Sequence[str], text: str, delimiter: str) -> tuple[str, str] | None:
    """The one column that looks like picture files, and the wordiest other one; None if unclear."""
    rows: list[list[str]] = []
    with contextlib.suppress(csv.Error):  # the text is cut, perhaps inside a field
        rows += (cells for cells in _reader(text, delimiter) if len(cells) == len(names))
    pictures: list[str] = []
    words: dict[str, float] = {}  # mean number of words of a cell
    for name, column in zip(names, zip(*rows[1:], strict=True), strict=False):
        cells = [cell.strip() for cell in column if cell.strip()]
        if sum(cell.lower().endswith(SUFFIXES) for cell in cells) * 2 > len(cells):
            pictures.append(name)
        elif cells:
            words[name] = sum(len(cell.split()) for cell in cells) / len(cells)
    wordiest = max(words, key=words.__getitem__, default="")
    return (pictures[0], wordiest) if len(pictures) == 1 and words.get(wordiest, 0) > 2 else None


# JSON


def read_json_list(file: CaptionText) -> Iterator[CaptionRow]:
    """Rows of a list of objects, each of a picture with its caption, or a list of them."""
    rows = enumerate(file.json, start=1)
    return _read_objects(file, [(f"{file.where}, row {number}", row) for number, row in rows])


def read_json_lines(file: CaptionText) -> Iterator[CaptionRow]:
    """Rows of objects as in `read_json_list`, one a line, or of a single one."""
    if isinstance(file.json, dict):
        return _read_objects(file, [(f"{file.where}, line 1", file.json)])
    lines = enumerate(file.text.split("\n"), start=1)
    sources = ((f"{file.where}, line {number}", line) for number, line in lines if line.strip())
    return _read_objects(file, [(source, parse_json(source, line)) for source, line in sources])


def _read_objects(file: CaptionText, objects: Sequence[tuple[str, Any]]) -> Iterator[CaptionRow]:
    if not objects:
        return iter(())
    source, first = objects[0]
    check_json(source, "", first, {}, "")
    if not (found := find_columns(first, file.columns)):
        raise no_columns(file.where, first, file.columns)
    forms = {"image": (str, int), "caption": (str, [str]), "split": str, "number": (str, int)}
    form = {f"{name}?": forms[key] for key, name in found.items()}
    for source, one in objects:
        check_json(source, "", one, form, "")
    return _rows(file, objects, found)


def _rows(
    file: CaptionText, records: Iterable[tuple[str, Mapping[str, Any]]], found: Mapping[str, str]
) -> Iterator[CaptionRow]:
    """Rows of records, each with its source; a missing cell, or null, is an empty one."""
    for source, record in records:
        image, caption, split, number = (
            record.get(found[key]) if key in found else None for key in KNOWN
        )
        picture = "" if image is None else str(image).strip()
        if number is not None:
            key = picture, str(number).strip()
            if file.repeats("second captions of one number", " ".join(key), key):
                continue
        if "split" in found:
            split = split or ""
        texts = caption if isinstance(caption, list) else [caption or ""]
        for text in texts or [None]:
            yield CaptionRow(picture, None if text is None else text.strip(), split, source)


JSON_LIST = Format("a JSON list of rows", lambda file: isinstance(file.json, list), read_json_list)
JSON_LINES = Format(
    "JSON lines", lambda file: isinstance(file.json, dict) or file.is_json_lines, read_json_lines
)
TABLES = [
    Format(
        f"a table with {name}",
        functools.partial(has_columns, sign),
        functools.partial(read_table, sign),
    )
    for sign, name in DELIMITERS.items()
]
