"""The contract of readers of captions: kept by every format that is detected and by a reader of
somebody's own; and a reader that breaks a claim is named with what is wrong.
"""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from caption_formats import FORMATS
from refusals import refuses

from xpcap.errors import ContractError, DataError
from xpcap.prepare import CaptionRow, ImportReport, detect, read_captions
from xpcap.prepare.rows import CaptionText, Format
from xpcap.prepare.text import read_whole
from xpcap.testing import READER, check_reader
from xpcap.testing import reader as contract

SAID = {"one.jpg": ["A dog, a cat", "Ein Hund läuft"], "2.jpg": ["a cat"]}
FILES = {form: make(SAID) for form, make in FORMATS.items()}
each_claim = pytest.mark.parametrize("claim", READER, ids=lambda claim: claim.__name__)


def detected(path: Path) -> list[CaptionRow]:
    return read_captions([(None, path)])


@pytest.mark.parametrize("form", FILES)
def test_reader_of_every_format_keeps_the_contract(form: str) -> None:
    check_reader(detected, FILES[form])


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


@pytest.mark.parametrize("form", FILES)
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


# ---- Readers that break the contract, each one claim at least

LINES = "train|a.jpg|Ein Hund läuft.\nval|b.jpg|A cat!\n"


def own(path: Path) -> Iterator[CaptionRow]:
    """A reader of somebody's own."""
    for number, line in enumerate(read_whole("own", path).splitlines(), 1):
        fields = line.split("|", 2)
        if len(fields) < 3 or not fields[1]:
            expected = "SPLIT|PICTURE|CAPTION"
            raise DataError("own", f"{path}, line {number}", f"is {line!r}", expected)
        yield CaptionRow(fields[1], fields[2], fields[0])


def read_text(path: Path) -> Iterator[CaptionRow]:
    for line in path.read_text("utf-8").splitlines():
        split, picture, caption = line.split("|", 2)
        yield CaptionRow(picture, caption, split)


def changed(change: Callable[[list[CaptionRow], Path], Any]) -> contract.Reader:
    """A reader that changes the rows."""
    return lambda path: change([*own(path)], path)


def refusing(thing: str) -> contract.Reader:
    """A reader whose errors are about this."""

    def read(path: Path) -> list[CaptionRow]:
        try:
            return [*own(path)]
        except DataError as error:
            raise DataError("own", thing, "is damaged") from error

    return read


READ: list[Path] = []
BROKEN: dict[str, list[tuple[contract.Reader, str, str]]] = {
    "rows_alone": [
        (changed(lambda rows, path: []), "a whole file", "has no row"),
        (changed(lambda rows, path: [*rows, None]), "row 2", "is a NoneType"),
        (changed(lambda rows, path: [rows[0]._replace(picture="")]), "picture of row 0", "is ''"),
        (changed(lambda rows, path: [rows[0]._replace(split=1)]), "split of row 0", "is 1"),
        (changed(lambda rows, path: READ.append(path) or rows * len(READ)), "again", "other rows"),
        (changed(lambda rows, path: rows * (1 + path.write_text(""))), "is read", "has changed"),
    ],
    "cut_anywhere": [
        (read_text, "that was cut to 1", "ends in ValueError"),
        (refusing("the file"), "the error of a file", "own: the file is damaged"),
        (changed(lambda rows, path: rows[::-1]), "that was cut to", "has the rows"),
    ],
    "places_named": [
        (read_text, "a file whose byte 0 is b'\\xff'", "ends in UnicodeDecodeError"),
        (refusing("captions, line 9"), "the error of line 1", "line 9 is damaged"),
    ],
}


@each_claim
def test_reader_that_breaks_a_claim_is_named_with_what_is_wrong(claim: contract.Claim) -> None:
    check_reader(own, LINES, [claim])
    for reader, thing, got in BROKEN[claim.__name__]:
        things = ("reader", thing)
        with refuses(ContractError, function="check_reader", thing=things, got=got):
            check_reader(reader, LINES, [claim])
