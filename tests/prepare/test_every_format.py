"""What `read_captions` keeps of a file of every format, whole, cut or damaged."""

import re
from pathlib import Path

import pytest
from caption_formats import FORMATS, by_picture

from xpcap.errors import DataError
from xpcap.prepare import CaptionRow, ImportReport, detect, read_captions
from xpcap.prepare.rows import Format

SAID = {"one.jpg": ["A dog, a cat", "Ein Hund läuft"], "2.jpg": ["a cat"]}
HARD = {
    "one.jpg": ["A dog, a cat; and more .", 'The dog says "woof" loudly', "the dog"],
    "two.jpg": ["a cat's 2nd dog", "Ein Hund läuft — schnell"],
    "three.jpg": ['"Quoted" from the start, a cat', "the same", "the same"],
}
NO_TEXT, TEXT = b"\xff", (b"\0", b'"', b"{", b"\n")  # in place of a byte; the first is never UTF-8
each_file = pytest.mark.parametrize("form", FORMATS)


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
def test_a_file_gives_the_same_rows_whatever_its_form_and_says_where_each_stands(
    form: str, tmp_path: Path
) -> None:
    path, content = tmp_path / "captions", FORMATS[form](HARD)
    path.write_bytes(content)
    rows = read_captions([(None, path)])
    assert by_picture(rows) == HARD
    assert path.read_bytes() == content
    lines = content.decode("utf-8-sig").splitlines()
    for row in rows:
        assert row.source.startswith(f"{path}, "), f"{form}: {row}"
        if line := re.search(r"line (\d+)$", row.source):
            assert row.picture in lines[int(line[1]) - 1], f"{form}: {row}"


@each_file
def test_of_a_file_cut_anywhere_the_rows_before_the_last_are_whole(
    form: str, tmp_path: Path
) -> None:
    path, content = tmp_path / "captions", FORMATS[form](SAID)
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
    path, content = tmp_path / "captions", FORMATS[form](SAID)
    for k in range(len(content)):
        if k % 2:
            read(path, content[:k] + TEXT[k // 2 % len(TEXT)] + content[k + 1 :])
            continue
        error = read(path, content[:k] + NO_TEXT + content[k + 1 :])
        if isinstance(error, DataError):
            line = content[:k].count(b"\n") + 1
            assert re.search(rf"\b{line}\b", str(error).replace(str(path), "")), error


def test_every_format_that_is_detected_has_such_a_file(tmp_path: Path) -> None:
    report = ImportReport()
    for form, make in FORMATS.items():
        (tmp_path / form).write_bytes(make(SAID))
        read_captions([(None, tmp_path / form)], report=report)
    names = [form.name for form in detect.FORMATS]
    assert len({*names}) == len(names)
    lacking = {*names} - {*report.forms}
    assert not lacking, f"no file in tests/helpers/caption_formats.py is read as {lacking}"


@pytest.mark.parametrize("form", detect.FORMATS, ids=lambda form: form.name)
def test_example_of_a_format_is_of_that_format(form: Format, tmp_path: Path) -> None:
    (tmp_path / "example").write_text(form.example, encoding="utf-8")
    report = ImportReport()
    rows = read_captions([(None, tmp_path / "example")], report=report)
    assert report.forms == [form.name]
    assert rows[0].picture == "a.jpg"
    assert str(rows[0].caption).startswith("A dog")
