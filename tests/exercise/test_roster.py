"""A class: who its students are, that each is graded whatever happens, and what is left on disk."""

import csv
import errno
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
from xpcap.exercise.grading.grade import PASSES
from xpcap.exercise.grading.report import PENDING, Report, Result
from xpcap.exercise.grading.roster import (
    Graded,
    apart,
    doubles,
    file_names,
    grade_class,
    not_on,
    read_roster,
    students,
)

EXPECT = ("rnn_layers",)
RIGHT = "def sigmoid(x): return x\n"


class Stub:
    """A grading by which all functions pass, unless the file says what is to happen."""

    passes: list[str]  # of all gradings, in order

    def __init__(self, path: Path, *, expect: Sequence[str], **options: Any) -> None:
        self.handed_in, self.expect, self.left = read(path), expect, list(PASSES)
        self.text = b"".join(self.handed_in.files.values())

    def take(self, step: str) -> "Stub":
        if b"crash" in self.text:
            raise RuntimeError("a mistake\nof ours")
        if b"refuse" in self.text:
            raise OptionError("grade", "`require_confinement`", "cannot be had")
        self.passes.append(step)
        assert step == self.left.pop(0)
        return self

    def report(self) -> Report:
        kind = PENDING if b"wait" in self.text and self.left else ""
        wrong = kind or b"wrong" in self.text
        results = [Result(row.name, not wrong, "", kind) for row in table.functions(self.expect)]
        content, notes = self.handed_in.content, self.handed_in.notes
        return Report(results, self.expect, (), "confined", 0, content, notes, ["fcntl"])


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Gradings by the stub, in this process."""

    def call(work: Callable[[], Any], seconds: float) -> Any:
        return work()

    monkeypatch.setattr(roster, "apart", call)
    monkeypatch.setattr(roster, "fill_page_cache", lambda: None)  # half a second
    monkeypatch.setattr(roster, "Grading", Stub)
    monkeypatch.setattr(Stub, "passes", [], raising=False)
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
            "ada.py": RIGHT,
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
        "ada.py": 100,
        "Bob": 0,
        "crash": 0,
        "dan": 0,
        "eve": 0,
        "zoe": 0,
    }
    assert totals["Bob"]["advice"] == "rnn_layers-1.py is taken as rnn_layers.py"
    assert totals["ada"]["advice"] == "ada.py is probably the same student"
    assert totals["ada.py"]["advice"] == "ada is probably the same student"
    assert totals["crash"]["kind"] == "fault of the grader"
    assert "is an archive" in totals["dan"]["advice"]
    assert "it holds notes.txt" in totals["eve"]["advice"]
    assert totals["zoe"]["kind"] == "nothing handed in"
    functions = {one.name for one in table.functions(EXPECT)}
    of_ada = [row for row in rows(here / "out") if row["student"] == "ada"]
    assert {row["function"] for row in of_ada} == {*functions, "total"}
    assert len(of_ada) == len(functions) + 1
    assert [one.student for one in done if one.failure] == ["crash"]
    names = ["=cmd", "Bob", "ada", "ada.py", "crash", "dan", "eve"]
    files = [f"{name}.{kind}" for name in names for kind in ("html", "json")]
    files += ["class.csv", "class.json"]
    assert sorted(one.name for one in (here / "out").iterdir()) == sorted(files)
    assert (totals["ada"]["unusual"], of_ada[0]["unusual"]) == ("fcntl", "")
    assert "of ours" in (here / "out/crash.html").read_text()
    assert json.loads((here / "out/ada.json").read_text())["score"] == 100
    assert not_on(["Ada", "B-o-b"], ["=cmd", "Bob", "ada"]) == ["=cmd"]


def test_results_of_another_grading_are_never_mixed_in(here: Path) -> None:
    folder = write(here / "submissions", {"ada.py": RIGHT})
    (here / "out").mkdir()
    with refuses(DataError, function="verify", got="exists, and is not overwritten"):
        grade_class(folder, here / "out", expect=EXPECT)
    assert not list((here / "out").iterdir())


def test_a_pass_begins_when_the_one_before_has_ended_for_all(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {f"{name}.py": RIGHT + "# wait" * (name != "ada") for name in ("ada", "bob", "eve")}
    out, take = here / "out", Stub.take
    pending: list[int] = []

    def look(grading: Stub, step: str) -> Stub:
        reports = [page for page in out.glob("*.json") if '"pending",' in page.read_text()]
        pending.append(len(reports))
        return take(grading, step)

    monkeypatch.setattr(Stub, "take", look)
    grade_class(write(here / "submissions", files), out, expect=EXPECT, jobs=1)
    assert Stub.passes == ["own"] * 3 + ["loops"] * 2 + ["captioners"] * 2
    assert pending[-2:] == [2, 1]  # reports are there before the last pass, and completed by it
    assert {row["points"] for row in rows(out) if row["function"] == "total"} == {"100.0"}


def test_an_interrupted_class_goes_on_where_it_stopped(here: Path) -> None:
    files = {f"student{i}.py": RIGHT + "# wait" * (i == 5) for i in range(9)}
    folder, out = write(here / "submissions", files), here / "out"

    def interrupt(graded: Graded) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        grade_class(folder, out, expect=EXPECT, jobs=1, on_graded=interrupt)
    done = [page.stem for page in out.glob("*.html") if page.stem != "student5"]
    assert done
    assert not (out / "class.csv").exists()
    seed = json.loads((out / "class.json").read_text())["seed"]
    for other in ({"expect": ("rnn",)}, {"expect": EXPECT, "seed": seed + 1}):
        with refuses(DataError, function="verify", thing="class.json", got="of a grading with"):
            grade_class(folder, out, **other)

    Stub.passes.clear()
    write(folder, {f"{done[0]}.py": f"{RIGHT}# wrong"})  # handed in again
    grade_class(folder, out, expect=EXPECT, seed=seed)
    assert Stub.passes.count("own") == 9 - len(done) + 1
    totals = {row["student"]: row["points"] for row in rows(out) if row["function"] == "total"}
    assert len(totals) == 9
    assert [name for name, points in totals.items() if points == "0.0"] == [done[0]]


def test_what_is_refused_of_all_ends_the_class(here: Path) -> None:
    folder = write(here / "submissions", {"ada.py": "def sgd(w): 'refuse'\n"})
    with refuses(OptionError, function="grade", got="cannot be had"):
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


def test_one_student_in_two_spellings_is_two_entries_and_told(tmp_path: Path) -> None:
    folder = write(
        tmp_path,
        {
            "bob/rnn.py": "",
            "bob.py": "",
            "Bob_.zip": "",
            "Doe, Jane/rnn.py": "",
            "doejane_12_346_rnn.py": "",
            "jane.doe/rnn.py": "",
            "jane/rnn.py": "",
            "Ada_99_assignsubmission_file_/rnn.py": "",
            "Ada_98_assignsubmission_file_/rnn.py": "",  # numbers of two accounts
        },
    )
    brought = students(folder)
    assert len(brought) == 9
    for name in ("Ren\u00e9", "Rene\u0301"):  # which are one file on some systems
        brought.append((name, [folder / name]))
    assert doubles(brought) == {
        "bob": ["Bob_", "bob.py"],
        "bob.py": ["Bob_", "bob"],
        "Bob_": ["bob", "bob.py"],
        "Doe, Jane": ["doejane"],
        "doejane": ["Doe, Jane"],
        "Ren\u00e9": ["Rene\u0301"],
        "Rene\u0301": ["Ren\u00e9"],
    }


def test_a_class_that_cannot_be_listed_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def closed(path: Path) -> None:  # whoever runs the tests may read all folders
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(Path, "iterdir", closed)
    with refuses(DataError, function="verify", got="cannot be listed: Permission denied"):
        students(tmp_path)


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
        (
            'Student,ID,HW\n"    Points Possible",,100\n"Doe, Jane",1,\n"Student, Test",9,\n',
            ["Doe, Jane"],
        ),
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
    fields = ((), EXPECT, (), "confined")
    assert apart(functools.partial(Report, *fields), 60) == Report(*fields)


@pytest.mark.slow
def test_a_class_is_graded_in_processes(tmp_path: Path) -> None:
    source = table.source("rnn_layers", "")
    folder = write(tmp_path / "submissions", {"ada/rnn_layers (1).py": source, "bob.py": "x = 1\n"})
    done = grade_class(folder, tmp_path / "out", expect=EXPECT, jobs=2)
    assert [(*one[:1], one.report.score, one.failure) for one in done] == [
        ("ada", 100, ""),
        ("bob", 0, ""),
    ]
