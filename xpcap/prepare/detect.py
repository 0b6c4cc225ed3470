"""read_captions: detect the form of each file of captions, and join their rows."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from xpcap.errors import DataError
from xpcap.prepare.coco import COCO, KARPATHY, read_coco, read_karpathy
from xpcap.prepare.flickr8k import is_token_line, read_tokens
from xpcap.prepare.rows import CaptionRow, ImportReport, grouped
from xpcap.prepare.splits import with_split_names
from xpcap.prepare.tables import (
    DELIMITERS,
    Columns,
    find_delimiter,
    json_lines,
    read_objects,
    read_table,
    unknown_columns,
)
from xpcap.prepare.text import first_line, parse_json, read_whole, refuse_masses
from xpcap.progress import bar

CaptionFile = tuple[str | None, str | Path]  # the split that the user gave, if any, and the path

FORMS = (
    "COCO annotations JSON, Karpathy's data set JSON, lines NAME#K, tab, caption as of Flickr8k, "
    "a table (CSV, TSV, pipes, JSON lines) whose heading names a picture and a caption, "
    "or has the names in `image_column` and `caption_column`"
)


def read_captions(
    files: Sequence[CaptionFile],
    *,
    columns: Columns | None = None,
    report: ImportReport | None = None,
    progress: bool = False,
) -> list[CaptionRow]:
    """Read files of captions, each of any known form.

    Parameters
    ----------
    files : (split, path) each; split None: the file names the splits itself, or has none
    columns : names of a table's columns, if they are not the usual ones
    report : takes the omissions, and the form of each file
    progress : show a bar of the files on a terminal

    Returns
    -------
    rows, grouped by split, then by picture, in order of first appearance

    Raises
    ------
    DataError : a file of no known form or a damaged one, or files with splits and files without.
    OSError : a file cannot be read.
    """
    columns, report = columns or Columns(), report or ImportReport()
    joined: list[CaptionRow] = []
    for split, path in bar(files, "reading captions", shown=progress):
        form, found = read_file(path, columns, report)
        rows = list(with_split_names(found, report))
        report.forms.append(form)
        if split is not None and (own := dict.fromkeys(row.split for row in rows if row.split)):
            raise DataError(
                "read_captions",
                path,
                f"says itself who is in which split ({', '.join(own)})",
                expected="no split before its name",
            )
        if not rows:
            raise DataError(
                "read_captions", path, "has no caption that could be read", expected="some"
            )
        joined += rows if split is None else [row._replace(split=split) for row in rows]
    if not joined:
        raise DataError("read_captions", "", "got no file", expected="at least one")
    if len({row.split is None for row in joined}) > 1:
        raise DataError(
            "read_captions",
            "some of the files",
            "have splits and some have none",
            expected="all or none of them",
            cause="name the split of each file",
        )
    return grouped(joined)


def read_file(
    path: str | Path, columns: Columns, report: ImportReport
) -> tuple[str, Iterable[CaptionRow]]:
    """The form of a file, in words, and its rows."""
    where, text = f"read_captions: {path}", read_whole("read_captions", path)
    line = first_line(text)
    if not line:
        raise DataError(where, "", "is empty", expected="captions")
    if line[0] in "{[":
        return _read_json(where, text, line, columns, report)
    if is_token_line(line):
        return "lines NAME#K, tab, caption", read_tokens(where, text, report)
    if delimiter := find_delimiter(text, columns):
        rows = read_table(where, text, delimiter, columns, report)
        return f"a table with {DELIMITERS[delimiter]}", rows
    if error := unknown_columns(where, text, columns):
        raise error
    raise DataError(
        where, "", f"is of no form known here, its first line is {line[:100]!r}", expected=FORMS
    )


def _read_json(
    where: str, text: str, line: str, columns: Columns, report: ImportReport
) -> tuple[str, Iterable[CaptionRow]]:
    whole = _parse_unless_lines(where, text, line)
    if whole is None:
        return "JSON lines", read_objects(where, json_lines(where, text), columns, report)
    if isinstance(whole, list):
        rows = [(f"{where}, row {number}", row) for number, row in enumerate(whole, start=1)]
        return "a JSON list of rows", read_objects(where, rows, columns, report)
    images = whole.get("images")
    first = images[0] if isinstance(images, list) and images else None
    if isinstance(images, list) and isinstance(first, dict) and "sentences" in first:
        return KARPATHY, read_karpathy(where, images, report)
    if "images" in whole or "annotations" in whole:
        return COCO, read_coco(where, whole, report)
    keys = ", ".join(repr(key[:40]) for key in list(whole)[:6]) or "nothing"
    raise DataError(where, "", f"is a JSON object with {keys}", expected=FORMS)


def _parse_unless_lines(
    where: str, text: str, line: str
) -> dict[str, object] | list[object] | None:
    """The value of a JSON text, an object or a list; None if each line is an object of its own."""
    refuse_masses(where, text)
    if line[0] == "[" or line[-1] != "}":
        return parse_json(where, text)
    alone = len(text.strip()) == len(line)
    try:
        first = parse_json(where, line)
    except DataError:
        if alone:
            raise
        return parse_json(where, text)  # an object whose first line happens to end in a bracket
    return first if alone and {"images", "annotations"} & set(first) else None
