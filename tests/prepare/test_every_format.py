"""What `read_captions` keeps of a file of every format, whole, cut or damaged."""

import re
from pathlib import Path

import pytest
from caption_formats import FORMATS, by_picture

from xpcap.errors import DataError
from xpcap.prepare import CaptionRow, ImportReport, detect, read_captions
from xpcap.prepare.rows import CaptionText, Format
from xpcap.prepare.text import read_whole

SAID = {"one.jpg": ["A dog, a cat", "Ein Hund läuft"], "2.jpg": ["a cat"]}
FILES = {form: make(SAID) for form, make in FORMATS.items()}
NO_TEXT, TEXT = b"\xff", (b"\0", b'"', b"{", b"\n")  # in place of a byte; the first is never UTF-8
each_file = pytest.mark.parametrize("form", FILES)


def read(path: Path, content: bytes) -> list[CaptionRow] | DataError:
    """The rows of a file, or why it is refused, which names it."""
    path.write_bytes(content)
    try:
        return read_captions([(None, path)])
    except DataError as error:
        refusal = error
    assert path.name in str(refusal)
    return refusal


@each_file
def test_a_file_gives_the_same_rows_each_time_and_stays(form: str, tmp_path: Path) -> None:
    rows = read(path := tmp_path / "captions", FILES[form])
    assert not isinstance(rows, DataError)
    assert by_picture(rows) == SAID
    assert read_captions([(None, path)]) == rows
    assert path.read_bytes() == FILES[form]


@each_file
def test_of_a_file_cut_anywhere_the_rows_before_the_last_are_whole(
    form: str, tmp_path: Path
) -> None:
    path, content = tmp_path / "captions", FILES[form]
    whole = read(path, content)
    assert not isinstance(whole, DataError)
    for cut in range(len(content)):
        rows = read(path, content[:cut])
        if not isinstance(rows, DataError):
            assert rows[:-1] == whole[: len(rows[:-1])], f"cut to {cut}"
            assert len(rows) <= len(whole)


@each_file
def test_of_a_byte_that_is_no_text_the_line_is_named_and_others_are_read_or_refused(
    form: str, tmp_path: Path
) -> None:
    path, content = tmp_path / "captions", FILES[form]
    for k in range(len(content)):
        read(path, content[:k] + TEXT[k % len(TEXT)] + content[k + 1 :])
        error = read(path, content[:k] + NO_TEXT + content[k + 1 :])
        if isinstance(error, DataError):
            line = content[:k].count(b"\n") + 1
            assert re.search(rf"\b{line}\b", str(error).replace(str(path), "")), error


def test_every_format_that_is_detected_has_such_a_file(tmp_path: Path) -> None:
    report = ImportReport()
    for form, content in FILES.items():
        (tmp_path / form).write_bytes(content)
        read_captions([(None, tmp_path / form)], report=report)
    names = [form.name for form in detect.FORMATS]
    assert sorted({*filter(None, names)}) == sorted(names), (
        f"two share a name, or one has none: {names}"
    )
    lacking = {*names} - {*report.forms}
    assert not lacking, f"no file in tests/helpers/caption_formats.py is read as {lacking}"


@each_file
def test_each_row_says_where_it_stands(form: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(FILES[form])
    text = read_whole("here", tmp_path / "file")
    rows = [*detect.read_rows(CaptionText("here", text))]
    for row in rows:
        assert row.source.startswith("here, "), f"{form}: {row} has the source {row.source!r}"
        if line := re.search(r"line (\d+)$", row.source):
            there = text.splitlines()[int(line[1]) - 1]
            assert row.picture in there, f"{form}: {row.source} is {there!r}, without {row.picture}"


@pytest.mark.parametrize("form", detect.FORMATS, ids=lambda form: form.name)
def test_example_of_a_format_is_of_that_format(form: Format, tmp_path: Path) -> None:
    (tmp_path / "example").write_text(form.example, encoding="utf-8")
    report = ImportReport()
    rows = read_captions([(None, tmp_path / "example")], report=report)
    assert report.forms == [form.name]
    assert rows[0].picture == "a.jpg"
    assert str(rows[0].caption).startswith("A dog")
