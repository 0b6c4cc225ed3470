"""Figures that stand on several pages come from the CSV files of docs/develop/results."""

import re

import measured
import pytest

TEXTS = {
    path.relative_to(measured.ROOT).as_posix(): path.read_text(encoding="utf-8")
    for path in measured.PAGES
}


@pytest.mark.parametrize("name", TEXTS)
def test_a_measured_figure_is_that_of_its_csv(name: str) -> None:
    assert measured.filled(TEXTS[name]) == TEXTS[name], f"{name} is out of date: run make excerpts"
    assert not re.search(r"^[ >]*<!-- measured", TEXTS[name], re.MULTILINE), "it ends a paragraph"


def test_a_measured_figure_stands_nowhere_without_its_mark() -> None:
    """In the running text of readers' pages. A table may quote the CSV file that it is of, and the
    page on an earlier xpcap what was measured then.
    """
    figures = measured.figures()
    assert {mark[2] for text in TEXTS.values() for mark in measured.MARK.finditer(text)} == {
        *figures
    }
    distinctive = {text for text in figures.values() if re.fullmatch(r"0\.\d{3}|\S+ to \S+", text)}
    for name, page in TEXTS.items():
        if re.match(r"docs/develop/|docs/howto/from-an-earlier", name):
            continue
        text = measured.MARK.sub("", page)
        prose = re.sub(r"^(?:\||!\[| {4}).*$", "", text, flags=re.MULTILINE)
        bare = [figure for figure in distinctive if re.search(rf"(?<!\S){figure}(?!\d)", prose)]
        assert bare == [], f"{name}: mark them by their names in tools/measured.py"


def test_a_row_that_was_renamed_is_told() -> None:
    with pytest.raises(LookupError, match=r"commands\.csv has no row .*'no command'"):
        measured.values("commands.csv", "value", command="no command")
