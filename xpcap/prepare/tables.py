"""Tables of captions: text with commas, semicolons, tabs or pipes, JSON lines, or a JSON list."""

import ast
import contextlib
import csv
import functools
import io
import itertools
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from xpcap.data.vocabulary import tokenize
from xpcap.encoders.finding import SUFFIXES
from xpcap.errors import DataError
from xpcap.files.json_text import check_json
from xpcap.files.read_write import is_text
from xpcap.prepare.rows import CaptionRow, CaptionText, Columns, Format
from xpcap.prepare.text import parse_json

if TYPE_CHECKING:
    import _csv

KNOWN = {  # names of columns, in lower case and with underscores; the first in a table counts
    "image": "image image_name file_name filename image_file image_path file path img picture photo"
    " name image_id",
    "caption": "caption captions comment text sentence sentences description raw",
    "split": "split subset partition",
    "number": "comment_number caption_number",  # number among a picture's captions
}
DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "pipes"}
HEADING = 10_000  # characters searched for a heading
MAX_COLUMNS = 20  # named in a notice
UNREADABLE_LISTS = "rows with a list of captions that cannot be read"
_LITERAL = re.compile(r"""'(?:[^'\\]|\\[\\'"nrtxuU])*+'|"(?:[^"\\]|\\[\\'"nrtxuU])*+\"""")
_LIST_START = re.compile(r"\[\s*['\"]")
_LIST = re.compile(rf"\[\s*+(?:{_LITERAL.pattern})(?:[\s,]++(?:{_LITERAL.pattern}))*+[\s,]*+\]")
_SEP = re.compile(r"(\s*)sep=.\n")  # Excel's own first line


Positions = Mapping[str, Sequence[int]]  # key of KNOWN to positions of a table's columns
BY_PICTURE_COLUMNS: Positions = {"image": [0], "caption": [1], "split": [], "number": []}


def find_columns(names: Sequence[str], columns: Columns) -> Positions | None:
    """The positions of the columns; None if a required or given one is missing.

    Columns such as ``caption 2`` and ``caption_2`` have further captions of a row.
    """
    positions: dict[str, Sequence[int]] = {}
    for key, known in KNOWN.items():
        given: str | Sequence[str] | None = getattr(columns, key, None)
        if given is None:
            indices = _indices(names, _stem if key == "caption" else _usual)
            positions[key] = next((indices[word] for word in known.split() if word in indices), ())
            continue
        groups = [_named(names, name) for name in ([given] if isinstance(given, str) else given)]
        if not all(groups):
            return None
        positions[key] = list(dict.fromkeys(itertools.chain.from_iterable(groups)))
    needed = positions["image"] and positions["caption"]
    return positions if needed and not {*positions["image"]} & {*positions["caption"]} else None


def _named(names: Sequence[str], given: str) -> Sequence[int]:
    """Positions of the columns of that name; if none, ignoring case, blanks and hyphens."""
    exact = _indices(names, str).get(given)
    return exact or _indices(names, _usual).get(_usual(given), ())


def _indices(names: Sequence[str], form: Callable[[str], str]) -> Mapping[str, Sequence[int]]:
    """The positions of the columns by a normalised form of their names."""
    indices: dict[str, list[int]] = {}
    for k, name in enumerate(names):
        indices.setdefault(form(name), []).append(k)
    return indices


def _usual(name: str) -> str:
    return re.sub(r"[\s-]+", "_", name.strip().lower())


def _stem(name: str) -> str:
    """A heading without the number at its end."""
    return _usual(name).rstrip("0123456789").removesuffix("_")


def no_columns(
    source: str,
    names: Sequence[str],
    columns: Columns,
    likely: tuple[str, Sequence[str]] | None,
) -> DataError:
    """The error for a table whose columns are not found.

    likely : the headings of columns that look like pictures and captions
    """
    given = {"image": [columns.image] if columns.image else [], "caption": columns.caption or ()}
    pictures, captions = (
        " and ".join(given[key]) or " or ".join(KNOWN[key].split()[:4]) for key in given
    )
    listed = ", ".join(repr(name[:40]) for name in [*filter(None, names)][:10]) or "nothing"
    expected = f"one such as {pictures} for pictures and one such as {captions} for captions"
    expected += f" and {columns.split} for splits" if columns.split else ""
    cause = "name your columns by `image` and `caption`"
    if any(_are_columns(names, name) for name in given["caption"]):
        cause = "give `caption` once for each column of captions"
    elif likely:
        captions = " ".join(f"`caption` {name!r}" for name in likely[1])
        cause = f"name your columns, judging by the cells: `image` {likely[0]!r} {captions}"
    return DataError(f"{source} has the columns {listed}, expected {expected}; {cause}")


def _are_columns(names: Sequence[str], given: str) -> bool:
    """True if a name consists of the names of several columns, with commas."""
    parts = given.split(",")
    return len(parts) > 1 and all(_named(names, part) for part in parts)


# text


def has_columns(delimiter: str, file: CaptionText) -> bool:
    """True if the heading names a picture and a caption."""
    return find_columns(_heading(file.text, delimiter), file.columns) is not None


def read_table(delimiter: str, file: CaptionText) -> Iterator[CaptionRow]:
    """Rows of a table in text. Quotes are as in CSV; between pipes they are ordinary characters.

    A row with too few or too many cells is skipped, but if the only caption column is the last one,
    further cells belong to the caption. DataError : a quote is not closed, or a field is too long,
    with the line; or a heading is repeated.
    """
    names = _heading(file.text, delimiter)
    positions = find_columns(names, file.columns)
    assert positions is not None
    return _rows(file, names, positions, _records(file, delimiter, positions["caption"]))


def _records(
    file: CaptionText, delimiter: str, captions: Sequence[int]
) -> Iterator[tuple[str, list[str]]]:
    """Rows below the heading, as source and cells; each has as many cells as the heading."""
    reader = _reader(file.text, delimiter)
    joint = f"{delimiter} " if delimiter in ",;" else delimiter  # the reader drops that space
    try:
        count = len(_first(reader))
        for cells in reader:
            while len(cells) > count and not cells[-1].strip():
                cells.pop()
            if len(cells) > count and [*captions] == [count - 1]:
                cells[count - 1 :] = [joint.join(cells[count - 1 :])]
            line = f"line {reader.line_num}"
            if len(cells) == count:
                yield f"{file.where}, {line}", cells
            elif any(cell.strip() for cell in cells):
                file.report.skip(f"rows without {count} columns", line)
    except csv.Error as error:
        raise DataError(
            f"{file.where}: line {reader.line_num} cannot be parsed: {error}; close each quoted"
            " field by a quote, and double quotes inside a field"
        ) from error


def _reader(text: str, delimiter: str) -> "_csv.Reader":
    lines = io.StringIO(_SEP.sub(r"\1\n", text, count=1) if _SEP.match(text) else text, newline="")
    if delimiter == "|":
        return csv.reader(lines, delimiter=delimiter, quoting=csv.QUOTE_NONE, strict=True)
    return csv.reader(lines, delimiter=delimiter, strict=True, skipinitialspace=delimiter != "\t")


def _first(reader: "_csv.Reader") -> list[str]:
    """The cells of the first row that is not blank, the heading."""
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
    headed = [name for name in names if name]
    if not max(2, len(headed)) < 2 * len({*headed}):  # prose
        return None
    if any(name.lower().endswith(SUFFIXES) for name in headed):
        return DataError(
            f"{file.where} has no heading, its first line is {delimiter.join(names)[:100]!r},"
            f" expected a heading that names the columns; add the line image{delimiter}caption"
            " above it"
        )
    rows: list[list[str]] = []
    with contextlib.suppress(csv.Error):  # the text may be cut inside a field
        rows += _reader(file.text[:HEADING], delimiter)
    full_rows = [cells for cells in rows if len(cells) == len(names)]
    return no_columns(file.where, names, file.columns, _likely(names, full_rows[1:]))


def _likely(
    names: Sequence[str], rows: Sequence[Sequence[str]]
) -> tuple[str, Sequence[str]] | None:
    """The only column of picture files, and the wordiest of the others, with columns of more than
    half as many words; None if unclear.
    """
    pictures: list[str] = []
    words: dict[str, float] = {}  # mean number of words of a cell
    for name, column in zip(names, zip(*rows, strict=True), strict=False):
        cells = [cell.strip() for cell in column if cell.strip()]
        if sum(cell.lower().endswith(SUFFIXES) for cell in cells) * 2 > len(cells):
            pictures.append(name)
        elif cells:
            words[name] = sum(map(_count_words, cells)) / len(cells)
    wordiest = max(words, key=words.__getitem__, default="")
    if len(pictures) != 1 or words.get(wordiest, 0) <= 2:
        return None
    return pictures[0], [name for name in words if words[name] > words[wordiest] / 2]


def _count_words(cell: str) -> int:
    """The number of words of a cell, in any script; an ASCII date or address counts as one word."""
    if cell.isascii():
        return len(cell.split())
    return sum(not word.isdecimal() for word in tokenize(cell))


# JSON


def read_json_list(file: CaptionText) -> Iterator[CaptionRow]:
    """Rows of a list of objects, each with a picture and its caption or list of captions."""
    rows = enumerate(file.json, start=1)
    return _read_objects(file, [(f"{file.where}, row {number}", row) for number, row in rows])


def read_json_lines(file: CaptionText) -> Iterator[CaptionRow]:
    """Rows of objects as in `read_json_list`, one per line."""
    if isinstance(file.json, dict):
        return _read_objects(file, [(f"{file.where}, line 1", file.json)])
    lines = enumerate(file.text.split("\n"), start=1)
    sources = ((f"{file.where}, line {number}", line) for number, line in lines if line.strip())
    return _read_objects(file, [(source, parse_json(source, line)) for source, line in sources])


def is_by_picture(file: CaptionText) -> bool:
    """True for an object with pictures as keys; False for a row, whose value names the picture."""
    if not isinstance(file.json, dict) or find_columns([*file.json], file.columns):
        return False
    if any(key.lower().endswith(SUFFIXES) for key in file.json):
        return True
    captions = file.json.values()
    return bool(captions) and all(
        isinstance(value, str | list | None) and not str(value).lower().endswith(SUFFIXES)
        for value in captions
    )


def read_by_picture(file: CaptionText) -> Iterator[CaptionRow]:
    """Rows of an object that maps pictures to a caption or a list of captions."""
    check_json(file.where, [*file.json], [str], "")
    captions = {name: value for name, value in file.json.items() if value is not None}
    check_json(file.where, captions, {"*": (str, [str])}, "")
    entries = enumerate(file.json.items(), start=1)
    records = ((f"{file.where}, entry {number}", entry) for number, entry in entries)
    return _rows(file, ("image", "caption"), BY_PICTURE_COLUMNS, records)


def _read_objects(file: CaptionText, objects: Sequence[tuple[str, Any]]) -> Iterator[CaptionRow]:
    for source, record in objects:
        check_json(source, record, {}, "")
    names = list(dict.fromkeys(name for _, record in objects for name in record))
    if not objects:
        return iter(())
    if not (positions := find_columns(names, file.columns)):
        texts = [[str(record.get(name, "")) for name in names] for _, record in objects[:100]]
        raise no_columns(file.where, names, file.columns, _likely(names, texts))
    forms = {"image": (str, int), "caption": (str, [str]), "split": str, "number": (str, int)}
    form = {f"{names[k]}?": forms[key] for key, group in positions.items() for k in group}
    for source, record in objects:
        check_json(source, record, form, "")
    records = ((source, [record.get(name) for name in names]) for source, record in objects)
    return _rows(file, names, positions, records)


def _rows(
    file: CaptionText,
    names: Sequence[str],
    positions: Positions,
    records: Iterable[tuple[str, Sequence[Any]]],
) -> Iterator[CaptionRow]:
    """Rows of records, each with its source; null counts as an empty cell.

    An empty caption is dropped if another column of the row has one. DataError : a heading is
    repeated.
    """
    _check_headings(file, names, positions)
    (image,) = positions["image"]
    split = positions["split"][:1]
    number = positions["number"][:1]
    for source, cells in records:
        picture = "" if cells[image] is None else str(cells[image]).strip()
        if any(cells[k] is not None for k in number):
            key = picture, *(str(cells[k]).strip() for k in number)
            if file.repeats("repeated captions of one number", " ".join(key), key):
                continue
        groups = [_captions_of(cells[k]) for k in positions["caption"]]
        if not all(groups):
            file.report.skip(UNREADABLE_LISTS, source.rpartition(", ")[2])
            continue
        captions = list(itertools.chain.from_iterable(groups))
        if len(groups) > 1:
            captions = list(filter(None, captions)) or [""]
        split_name = next((cells[k] or "" for k in split), None)
        for caption in captions:
            yield CaptionRow(picture, caption, split_name, source)


def _captions_of(cell: str | list[str] | None) -> list[str | None]:
    """The captions of a cell: of a list, also one printed by JSON, Python or NumPy, or the cell itself.

    The result is empty if a printed list cannot be read.
    """
    if isinstance(cell, list):
        return [text.strip() for text in cell] or [None]
    text = (cell or "").strip()
    if not _LIST_START.match(text):
        return [text]
    captions: Any = []
    try:
        captions = parse_json("", text)
    except DataError:
        if _LIST.fullmatch(text):
            with contextlib.suppress(SyntaxError, ValueError):  # invalid escapes such as '\x4'
                captions = [ast.literal_eval(literal) for literal in _LITERAL.findall(text)]
    are_texts = all(isinstance(caption, str) and is_text(caption) for caption in captions)
    return [caption.strip() for caption in captions] if are_texts else []


def _check_headings(file: CaptionText, names: Sequence[str], positions: Positions) -> None:
    """Report unused columns. DataError : a heading, other than of captions, is repeated."""
    single = [k for k in range(len(names)) if k not in positions["caption"]]
    headings = Counter(_usual(names[k]) for k in single if names[k])
    if repeated := [names[k] for k in single if headings[_usual(names[k])] > 1]:
        raise DataError(
            f"{file.where}: the heading {repeated[0][:40]!r} occurs twice, expected distinct"
            " headings; rename one of the columns"
        )
    used = {k for group in positions.values() for k in group}
    unused = [names[k][:40] or f"number {k + 1}" for k in single if k not in used]
    if unused:
        more = f" and {len(unused) - MAX_COLUMNS} more" if len(unused) > MAX_COLUMNS else ""
        line = f"columns that are not used: {', '.join(unused[:MAX_COLUMNS])}{more}"
        if line not in file.report.notices:  # another file may have the same columns
            file.report.notices.append(line)


IN_A_KEY = "under a key, if there is one"
IN_A_COLUMN = "in a column, if there is one"
BY_PICTURE = Format(
    "a JSON object of pictures",
    is_by_picture,
    read_by_picture,
    '{"a.jpg": ["A dog.", "A dog runs."], "b.jpg": "A cat."}',
    "none",
)
JSON_LIST = Format(
    "a JSON list of rows",
    lambda file: isinstance(file.json, list),
    read_json_list,
    '[{"image": "a.jpg", "caption": ["A dog.", "A dog runs."]}]',
    IN_A_KEY,
)
JSON_LINES = Format(
    "JSON lines",
    lambda file: isinstance(file.json, dict) or file.is_json_lines,
    read_json_lines,
    '{"image": "a.jpg", "caption": "A dog."}\n{"image": "b.jpg", "caption": "A cat."}',
    IN_A_KEY,
)
TABLES = [
    Format(
        f"a table with {name}",
        functools.partial(has_columns, sign),
        functools.partial(read_table, sign),
        f"image{sign}caption\na.jpg{sign}A dog runs.",
        IN_A_COLUMN,
    )
    for sign, name in DELIMITERS.items()
]
