"""`verify --against` and `--class`: what a student and a teacher see of a grading."""

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from commands import call, failing, good

from xpcap.cli import verify
from xpcap.cs231n import table
from xpcap.cs231n.grading.files import read
from xpcap.cs231n.grading.report import Report, Result

LAYERS = "def sigmoid(x): return x\n"
GATE = "gate f: dx, dprev_h, dWx, dWh, db, and more"
ADVICE = "The factor `f * (1 - f)` is missing.\n    da_f = df * f * (1 - f)"
RAISES = "line 7: return a_name", "raises an error", "It raises NameError."
FAULTS = {
    "rnn_forward": Result("rnn_forward", False, *RAISES),
    "lstm_step_backward": Result(
        "lstm_step_backward", False, GATE, "missing derivative of sigmoid", ADVICE
    ),
    "rnn_backward": Result("rnn_backward", True, "", "dtype changed", "It is float32."),
}


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """A grader that finds FAULTS in a file that says so; what it was asked."""
    asked: list[dict[str, Any]] = []

    def grade(
        path: str | Path, *, expect: Sequence[str] | None, only: Sequence[str] = (), **options: Any
    ) -> Report:
        asked.append({"path": str(path), "expect": expect, "only": only, **options})
        handed_in = read(path)
        expected = list(handed_in.homes) if expect is None else expect
        missing = [module for module in expected if module not in handed_in.homes]
        names = [row.name for row in table.functions(expected) if row.module not in missing]
        found = FAULTS if b"wrong" in b"".join(handed_in.files.values()) else {}
        results = [
            found.get(name, Result(name, True)) for name in names if not only or name in only
        ]
        return Report(results, expected, missing, ["a note\x1b"], only)

    monkeypatch.setattr(verify, "grade", grade)
    return asked


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "mine.py"
    file.write_text(f"{LAYERS}# wrong\n")
    return file


@pytest.mark.usefixtures("asked", "work")
def test_a_grading_is_a_table_with_advice_and_points() -> None:
    result = call("verify", "--against", "mine.py")
    assert result.exit_code == 1
    lines = result.stdout.splitlines()
    assert lines[0] == "a note\\x1b"
    assert lines[1].split() == ["function", "pass", "where", "kind"]
    assert "sigmoid                      yes" in lines
    row = next(i for i, line in enumerate(lines) if line.startswith("rnn_forward "))
    assert lines[row].split()[1:] == ["NO", "line", "7", "raises", "an", "error"]
    assert lines[row + 1 : row + 3] == ["    return a_name", "    It raises NameError."]
    row = next(i for i, line in enumerate(lines) if line.startswith("lstm_step_backward "))
    assert lines[row + 1 : row + 4] == [f"    {text}" for text in (GATE, *ADVICE.splitlines())]
    assert lines[-1] == "14 of 16 functions pass, 73.69 of 100 points"


@pytest.mark.usefixtures("work")
def test_a_file_at_home_is_graded_by_what_it_defines_and_a_submission_by_what_is_expected(
    asked: list[dict[str, Any]],
) -> None:
    for options, expect in (
        (["--against", "mine.py"], None),
        (["--against", "."], ("rnn_layers", "rnn")),
        (["--against", "mine.py", "--expect", "rnn,optim,rnn"], ("rnn", "optim")),
    ):
        call("verify", *options)
        assert asked[-1]["expect"] == expect
    call("verify", "--against", ".", "--seed", "7", "--memory", "1")
    limits = {"seed": 7, "seconds": 10.0, "memory": 1.0}
    assert asked[-1] == {"path": ".", "expect": ("rnn_layers", "rnn"), "only": (), **limits}


@pytest.mark.usefixtures("asked", "work")
def test_functions_that_are_chosen_are_counted_without_points() -> None:
    output = good("verify", "--against", ".", "--only", "sigmoid", "--only", "rnn_backward").stdout
    assert output.splitlines()[-1] == "2 of 2 functions pass"
    assert call("verify", "--against", ".", "--only", "rnn_forward").exit_code == 1


@pytest.mark.usefixtures("asked", "work")
def test_a_grading_as_json_with_points_and_a_page() -> None:
    options = ["verify", "--against", "mine.py", "--json", "--html", "page.html"]
    result = call(*options)
    assert result.exit_code == 1
    found = json.loads(result.stdout)
    assert found["score"] == pytest.approx(73.69)
    wrong = [mark["function"] for mark in found["functions"] if not mark["passed"]]
    assert wrong == ["rnn_forward", "lstm_step_backward"]
    assert result.stderr.startswith("a note")
    page = Path("page.html").read_bytes()
    assert b"Grading of mine.py" in page
    failing(options, "exists")
    assert Path("page.html").read_bytes() == page


@pytest.mark.usefixtures("asked")
def test_a_class_is_a_line_for_each_student(work: Path) -> None:
    folder = work.parent / "submissions"
    for name, text in (("ada l.", LAYERS), ("bob\x1b", f"{LAYERS}# wrong"), ("eve", "x")):
        (folder / name).mkdir(parents=True)
        (folder / name / "rnn_layers.py").write_text(text)
    (folder / "zoe.py").write_text(LAYERS)
    (folder / "__MACOSX").mkdir()
    output = good("verify", "--class", "submissions").stdout
    head, *rows = csv.reader(output.splitlines())
    assert head == ["student", "points", "wrong"]
    points = {"ada l.": "76", "bob\\x1b": "56", "eve": "0", "zoe": "76"}
    assert {student: mark for student, mark, _ in rows} == points
    assert rows[0][2] == "a note\\x1b"
    assert "lstm_step_backward: missing derivative of sigmoid, gate f: dx" in rows[1][2]
    assert "defines nothing of the course" in rows[2][2]


REFUSED = """
2 | --class . --json | --json excludes --class; it prints CSV
2 | --class . --only sigmoid | --only requires --against
2 | --against . --seconds 0 | --seconds
2 | --against . --seed -1 | --seed is -1
2 | --against . --seed 4294967296 | --seed is 4294967296
1 | --against none.py | none.py does not exist
1 | --against . --html page.txt | does not end in .html
1 | --class none | none is not a folder
2 | --against . --expect rnn,lstm | --expect 'lstm' does not exist
"""


@pytest.mark.usefixtures("work")
def test_what_cannot_be_graded_is_refused() -> None:
    for row in REFUSED.strip().splitlines():
        status, arguments, words = row.split(" | ")
        failing(["verify", *arguments.split()], words, status=int(status))


@pytest.mark.slow
def test_layers_of_a_handout_pass_as_they_are_graded(work: Path) -> None:
    work.write_text(table.source("rnn_layers", ""))
    output = good("verify", "--against", work.name).stdout
    assert output.splitlines()[-1] == "16 of 16 functions pass, 100 of 100 points"
