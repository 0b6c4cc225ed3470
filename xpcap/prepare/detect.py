"""read_captions: looks at files of captions, whatever they are called, picks the reader of each, and joins what they say into splits."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from xpcap.errors import DataError
from xpcap.prepare.coco import COCO, KARPATHY, read_coco, read_karpathy
from xpcap.prepare.flickr8k import is_token_line, parse_tokens
from xpcap.prepare.splits import ByPicture, BySplit, Findings
from xpcap.prepare.tables import DELIMITERS, Columns, find_delimiter, json_lines, read_objects, read_table, unknown_columns
from xpcap.prepare.text import first_line, parse_json, read_whole, refuse_masses
from xpcap.progress import bar

Named = tuple[str | None, str | Path]  # the split that a file is of, if it was told, and the file

FORMS = (
    "COCO annotations JSON, Karpathy's data set JSON, lines NAME#K, tab, caption as of Flickr8k, a table (CSV, TSV, pipes, JSON lines) "
    "whose heading names a picture and a caption, or has the names in `image_column` and `caption_column`"
)


def read_captions(
    files: Sequence[Named], *, columns: Columns | None = None, findings: Findings | None = None, progress: bool = False
) -> BySplit | ByPicture:  # fmt: skip
    """Read files of captions, each of any known form.

    Parameters
    ----------
    files : (split, path) each; split None: the file says the splits itself, or none of them does
    columns : names of a table's columns, where they are not the usual ones
    findings : takes what was left out, and what each file turned out to be
    progress : show a bar of the files on a terminal

    Returns
    -------
    ``{split: {picture: [captions]}}``; ``{picture: [captions]}`` if no file has a split

    Raises
    ------
    DataError : a file of no known form or a damaged one, or files with splits beside files without. OSError : a file cannot be read.
    """
    columns, findings = columns or Columns(), findings or Findings()
    joined: BySplit = {}
    for split, path in bar(files, progress, "reading captions"):
        form, captions = read_file(path, columns, findings)
        findings.forms.append(form)
        for told, by_picture in _with_splits(split, path, captions).items():
            into = joined.setdefault(told, {})
            for picture, texts in by_picture.items():
                into.setdefault(picture, []).extend(texts)
    if not joined:
        raise DataError("read_captions: got no file, expected at least one")
    if "" in joined and len(joined) > 1:
        raise DataError("read_captions: some of the files have splits and some have none, expected all or none of them; name the split of each file")
    return joined.get("", joined)


def read_file(path: str | Path, columns: Columns, findings: Findings) -> tuple[str, BySplit | ByPicture]:
    """What a file is, in words, and what it says."""
    where, text = f"read_captions: {path}", read_whole("read_captions", path)
    line = first_line(text)
    if not line:
        raise DataError(f"{where} is empty, expected captions")
    if line[0] in "{[":
        return _read_json(where, text, line, columns, findings)
    if is_token_line(line):
        return "lines NAME#K, tab, caption", parse_tokens(where, text, findings)
    if delimiter := find_delimiter(text, columns):
        return f"a table with {DELIMITERS[delimiter]}", read_table(where, text, delimiter, columns, findings)
    if error := unknown_columns(where, text, columns):
        raise error
    raise DataError(f"{where} is of no form known here, its first line is {line[:100]!r}, expected {FORMS}")


def _read_json(where: str, text: str, line: str, columns: Columns, findings: Findings) -> tuple[str, BySplit | ByPicture]:
    whole = _parse_unless_lines(where, text, line)
    if whole is None:
        return "JSON lines", read_objects(where, json_lines(where, text), columns, findings)
    if isinstance(whole, list):
        rows = [(f"{where}, row {number}", row) for number, row in enumerate(whole, start=1)]
        return "a JSON list of rows", read_objects(where, rows, columns, findings)
    images = whole.get("images")
    if isinstance(images, list) and images and isinstance(images[0], dict) and "sentences" in images[0]:
        return KARPATHY, read_karpathy(where, whole, findings)
    if "images" in whole or "annotations" in whole:
        return COCO, read_coco(where, whole, findings)
    raise DataError(f"{where} is a JSON object with {', '.join(repr(key[:40]) for key in list(whole)[:6]) or 'nothing'}, expected {FORMS}")


def _parse_unless_lines(where: str, text: str, line: str) -> Any:
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


def _with_splits(split: str | None, path: str | Path, captions: BySplit | ByPicture) -> BySplit:
    """Captions by split; the split of a file that has none, and was given none, is called ``""``."""
    has = any(isinstance(inner, dict) for inner in captions.values())
    if has and split is not None:
        raise DataError(f"read_captions: {path} says itself who is in which split ({', '.join(captions)}), expected no split before its name")
    if not captions:
        raise DataError(f"read_captions: {path} has no caption that could be read, expected some")
    return captions if has else {split or "": captions}  # type: ignore[dict-item, return-value]  # as `has` says
