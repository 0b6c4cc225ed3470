"""A class: who its students are, that each is graded whatever happens, and what is left on disk."""

import csv
import functools
import json
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import pytest
from refusals import refuses

from xpcap.errors import DataError, OptionError
from xpcap.exercise import table
from xpcap.exercise.grading import roster
from xpcap.exercise.grading.files import read
from xpcap.exercise.grading.report import Report, Result
from xpcap.exercise.grading.roster import (
    Graded,
    apart,
    file_names,
    grade_class,
    not_on,
    read_roster,
    students,
)

EXPECT = ("rnn_layers",)
RIGHT = "def sigmoid(x): return x\n"


def stub(path: Path, *, expect: Sequence[str], **options: Any) -> Report:
    """All functions pass, unless the file says what is to happen."""
    handed_in = read(path)
    text = b"".join(handed_in.files.values())
    if b"crash" in text:
        raise RuntimeError("a mistake\nof ours")
    if b"refuse" in text:
        raise OptionError("grade", "`require_confinement`", "cannot be had")
    results = [Result(one.name, b"wrong" not in text) for one in table.functions(expect)]
    return Report(results, expect, (), "confined", handed_in.digest(0), handed_in.notes)


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Gradings by the stub, in this process."""

    def call(work: Callable[[], Report], seconds: float) -> Report:
        return work()

    monkeypatch.setattr(roster, "apart", call)
    monkeypatch.setattr(roster, "grade_submission", stub)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(folder: Path, files: dict[str, str]) -> Path:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return folder


def rows(out: Path) -> list[dict[str, str]]:
    with (out / "class.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_every_student_gets_rows_a_page_and_json_whatever_happens(here: Path) -> None:
    folder = write(
        here / "submissions",
        {
            "ada/cs231n/rnn_layers.py": RIGHT,
            "Bob/rnn_layers-1.py": f"{RIGHT}# wrong",
            "=cmd/rnn_layers.py": RIGHT,
            "crash.py": f"{RIGHT}# crash",
            "dan.zip": "PK",
            "eve/notes.txt": "",
            ".DS_Store": "",
        },
    )
    seen: list[Graded] = []
    done = grade_class(
        folder, here / "out", expect=EXPECT, jobs=2, names=["Ada", "zoe"], on_graded=seen.append
    )
    assert sorted(one.student for one in seen) == sorted(one.student for one in done)
    totals = {row["student"]: row for row in rows(here / "out") if row["function"] == "total"}
    assert {name: float(row["points"]) for name, row in totals.items()} == {
        "'=cmd": 100,
        "ada": 100,
        "Bob": 0,
        "crash": 0,
        "dan": 0,
        "eve": 0,
        "zoe": 0,
    }
    assert totals["Bob"]["advice"] == "rnn_layers-1.py is taken as rnn_layers.py"
    assert totals["crash"]["kind"] == "fault of the grader"
    assert "is an archive" in totals["dan"]["advice"]
    assert "it holds notes.txt" in totals["eve"]["advice"]
    assert totals["zoe"]["kind"] == "nothing handed in"
    functions = {one.name for one in table.functions(EXPECT)}
    of_ada = [row for row in rows(here / "out") if row["student"] == "ada"]
    assert {row["function"] for row in of_ada} == {*functions, "total"}
    assert len(of_ada) == len(functions) + 1
    assert [one.student for one in done if one.failure] == ["crash"]
    names = ["=cmd", "Bob", "ada", "crash", "dan", "eve"]
    files = [f"{name}.{kind}" for name in names for kind in ("html", "json")]
    assert sorted(one.name for one in (here / "out").iterdir()) == sorted([*files, "class.csv"])
    assert "of ours" in (here / "out/crash.html").read_text()
    assert json.loads((here / "out/ada.json").read_text())["score"] == 100
    assert not_on(["Ada", "B-o-b"], ["=cmd", "Bob", "ada"]) == ["=cmd"]


def test_results_of_another_grading_are_never_mixed_in(here: Path) -> None:
    folder = write(here / "submissions", {"ada.py": RIGHT})
    (here / "out").mkdir()
    with refuses(DataError, function="verify", came="exists, and is not overwritten"):
        grade_class(folder, here / "out", expect=EXPECT)
    assert not list((here / "out").iterdir())


def test_an_interrupted_class_leaves_what_is_done_and_no_table(here: Path) -> None:
    folder = write(here / "submissions", {f"student{i}.py": RIGHT for i in range(9)})

    def interrupt(graded: Graded) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        grade_class(folder, here / "out", expect=EXPECT, jobs=1, on_graded=interrupt)
    assert list((here / "out").glob("*.html"))
    assert not (here / "out/class.csv").exists()


def test_what_is_refused_of_all_ends_the_class(here: Path) -> None:
    folder = write(here / "submissions", {"ada.py": "def sgd(w): 'refuse'\n"})
    with refuses(OptionError, function="grade", came="cannot be had"):
        grade_class(folder, here / "out", expect=EXPECT)
    assert not (here / "out").exists()
    for empty in (here / "none", write(here / "empty", {".hidden": ""})):
        with pytest.raises(DataError):
            grade_class(empty, here / "out", expect=EXPECT)


def test_students_are_told_apart_in_what_canvas_and_moodle_make(here: Path) -> None:
    folder = write(
        here / "submissions",
        {
            "doejane_LATE_12_345_rnn.py": "class CaptioningRNN: pass\n",
            "doejane_LATE_12_346_rnn_layers-1.py": RIGHT,
            "roejim_13_347_rnn_layers.py": f"{RIGHT}# wrong",
            "Ada Lovelace_99_assignsubmission_file_/rnn_layers.py": RIGHT,
            "Ada Lovelace_98_assignsubmission_file_/rnn_layers.py": RIGHT,
            "Zoe_97_assignsubmission_file_rnn_layers.py": RIGHT,
            "bob.py": RIGHT,
            "bob.zip": "",
        },
    )
    assert {name: len(paths) for name, paths in students(folder)} == {
        "Ada Lovelace 98": 1,
        "Ada Lovelace 99": 1,
        "Zoe": 1,
        "bob": 1,
        "bob.zip": 1,
        "doejane": 2,
        "roejim": 1,
    }
    grade_class(folder, here / "out", expect=EXPECT, names=["Doe, Jane", "Roe, Jim"])
    totals = {row["student"]: row for row in rows(here / "out") if row["function"] == "total"}
    assert len(totals) == 7
    assert "doejane_LATE_12_346_rnn_layers-1.py is taken" in totals["doejane"]["advice"]
    assert (totals["doejane"]["points"], totals["roejim"]["points"]) == ("100.0", "0.0")


def test_files_of_students_are_distinct_on_every_system() -> None:
    names = ["Ada", "ada", "a/b", "a:b", "con", "-rf", "李" * 85, "a\n", "..", "É", "E\u0301"]
    files = file_names(names)
    assert len({file.casefold() for file in files}) == len(names)
    assert files[:6] == ["Ada", "ada-2", "a_b", "a_b-2", "_con", "_-rf"]
    assert all(file.isprintable() and len(file.encode()) < 220 for file in files)


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("Ada Lovelace\n\n  Doe, Jane  \n", ["Ada Lovelace", "Doe, Jane"]),
        ('\ufeffID,Student\n1,"Doe, Jane"\n2,Ada\n3\n', ["Doe, Jane", "Ada"]),
        ("Full name,Grade\nAda,\n", ["Ada"]),
        ("Nr;Name;Punkte\n1;Müller, Jörg;\n\n2;Ößer;3,5\n", ["Müller, Jörg", "Ößer"]),
    ],
)
def test_a_roster_is_lines_or_a_column(text: str, names: list[str], tmp_path: Path) -> None:
    (tmp_path / "names").write_text(text, encoding="utf-8")
    assert read_roster(tmp_path / "names") == names


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00", b"name\n"])
def test_what_is_no_roster_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "names").write_bytes(content)
    with refuses(DataError, function="verify", thing="names"):
        read_roster(tmp_path / "names")


def refuse() -> Report:
    raise OptionError("grade", "`memory`", "is too small")


def hang() -> Report:
    threading.Event().wait()
    raise AssertionError


@pytest.mark.slow
def test_a_process_that_ends_or_hangs_costs_one_grading() -> None:
    for work, seconds in ((functools.partial(os._exit, 3), 60), (hang, 0.5)):
        with pytest.raises(BrokenProcessPool):
            apart(work, seconds)
    with refuses(OptionError, function="grade", thing="memory"):
        apart(refuse, 60)
    report = Report((), EXPECT, (), "confined", "", ())
    assert apart(functools.partial(Report, *report), 60) == report


@pytest.mark.slow
def test_a_class_is_graded_in_processes(tmp_path: Path) -> None:
    source = table.source("rnn_layers", "")
    folder = write(tmp_path / "submissions", {"ada/rnn_layers (1).py": source, "bob.py": "x = 1\n"})
    done = grade_class(folder, tmp_path / "out", expect=EXPECT, jobs=2)
    assert [(*one[:1], one.report.score, one.failure) for one in done] == [
        ("ada", 100, ""),
        ("bob", 0, ""),
    ]
