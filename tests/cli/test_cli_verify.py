"""`verify --against` and `--class`: what a student and a teacher see of a grading."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from commands import call, failing, good

from xpcap.cli import verify
from xpcap.exercise import table
from xpcap.exercise.grading import Report, Result, roster
from xpcap.exercise.grading.files import read

LAYERS = "def sigmoid(x): return x\n"
FAULTS = {
    "rnn_forward": Result(
        "rnn_forward", False, "line 7: return a_name", "raises an error", "It raises NameError."
    ),
    "lstm_step_backward": Result(
        "lstm_step_backward",
        False,
        "gate f: dx, dprev_h, dWx, dWh, db, and more",
        "missing derivative of sigmoid",
        "The factor `f * (1 - f)` is missing.\n    da_f = df * f * (1 - f)",
    ),
    "rnn_backward": Result("rnn_backward", True, "", "dtype changed", "It is float32."),
}
UNCONFINED = "not confined: \x1bthe code could read your files"


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """A grader that finds FAULTS in a file that says so; what it was asked."""
    asked: list[dict[str, Any]] = []

    class Stub:
        def __init__(
            self,
            path: str | Path,
            *,
            expect: Sequence[str] | None,
            only: Sequence[str] = (),
            **options: Any,
        ) -> None:
            self.only = only
            self.seed = options["seed"] or 0
            self.handed_in = read(path)
            self.expect = list(self.handed_in.homes) if expect is None else expect
            options.pop("confined", None), options.pop("turn", None)
            asked.append({"path": str(path), "expect": expect, "only": only, **options})

        def take(self, step: str) -> "Stub":
            if b"crash" in b"".join(self.handed_in.files.values()):
                raise RuntimeError("a mistake of ours")
            return self

        def report(self) -> Report:
            text = b"".join(self.handed_in.files.values())
            missing = [one for one in self.expect if one not in self.handed_in.homes]
            names = [one.name for one in table.functions(self.expect) if one.module not in missing]
            found = FAULTS if b"wrong" in text else {}
            results = [
                found.get(name, Result(name, True))
                for name in names
                if not self.only or name in self.only
            ]
            says = UNCONFINED if b"unheld" in text else "confined by bubblewrap"
            return Report(
                results, self.expect, missing, says, self.seed, "00ff", self.handed_in.notes
            )

    def here(work: Callable[[], Any], seconds: float) -> Any:
        return work()

    monkeypatch.setattr(verify, "grade", lambda path, **options: Stub(path, **options).report())
    monkeypatch.setattr(roster, "Grading", Stub)
    monkeypatch.setattr(roster, "apart", here)
    for module in (verify, roster):  # which takes half a second
        monkeypatch.setattr(module, "fill_page_cache", lambda: None)
    return asked


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "rnn_layers-1.py"
    file.write_text(f"{LAYERS}# wrong, unheld\n")
    return file


@pytest.mark.usefixtures("asked", "work")
def test_a_grading_tells_what_does_not_hold_and_is_a_table_with_advice_and_points() -> None:
    result = call("verify", "--against", "rnn_layers-1.py")
    assert result.exit_code == 1
    lines = result.stdout.splitlines()
    assert lines[:3] == [
        "not confined: \\x1bthe code could read your files",
        "rnn_layers-1.py is taken as rnn_layers.py",
        "inputs of --seed 0",
    ]
    assert lines[3].split() == ["function", "pass", "where", "kind"]
    assert "sigmoid                      yes" in lines
    row = next(i for i, line in enumerate(lines) if line.startswith("rnn_forward "))
    assert lines[row].split()[1:] == ["NO", "line", "7", "raises", "an", "error"]
    assert lines[row + 1 : row + 3] == ["    return a_name", "    It raises NameError."]
    row = next(i for i, line in enumerate(lines) if line.startswith("lstm_step_backward "))
    assert lines[row + 1 : row + 4] == [
        "    gate f: dx, dprev_h, dWx, dWh, db, and more",
        "    The factor `f * (1 - f)` is missing.",
        "        da_f = df * f * (1 - f)",
    ]
    assert lines[-1] == "14 of 16 functions pass, 73.69 of 100 points"


@pytest.mark.usefixtures("work")
def test_a_file_at_home_is_graded_by_what_it_defines_and_a_submission_by_what_is_expected(
    asked: list[dict[str, Any]],
) -> None:
    for options, expect in (
        (["--against", "rnn_layers-1.py"], None),
        (["--against", "."], ("rnn_layers", "rnn")),
        (["--against", "rnn_layers-1.py", "--gradescope", "r.json"], ("rnn_layers", "rnn")),
        (["--against", "rnn_layers-1.py", "--expect", "rnn,optim,rnn"], ("rnn", "optim")),
    ):
        call("verify", *options)
        assert asked[-1]["expect"] == expect
    call("verify", "--against", ".", "--seed", "7", "--require-confinement", "--memory", "1")
    assert asked[-1] == {
        "path": ".",
        "expect": ("rnn_layers", "rnn"),
        "only": (),
        "seed": 7,
        "seconds": 10.0,
        "memory": 1.0,
        "require_confinement": True,
    }


@pytest.mark.usefixtures("asked", "work")
def test_functions_that_are_chosen_are_counted_without_points() -> None:
    output = good("verify", "--against", ".", "--only", "sigmoid", "--only", "rnn_backward").stdout
    assert output.splitlines()[-1] == "2 of 2 functions pass"
    assert call("verify", "--against", ".", "--only", "rnn_forward").exit_code == 1


@pytest.mark.usefixtures("asked", "work")
def test_a_grading_as_json_with_points_and_a_page() -> None:
    options = ("--against", "rnn_layers-1.py", "--json")
    written = ("--gradescope", "results.json", "--html", "page.html")
    result = call("verify", *options, *written)
    assert result.exit_code == 1
    rows = json.loads(result.stdout)
    assert [row["function"] for row in rows if not row["passed"]] == [
        "rnn_forward",
        "lstm_step_backward",
    ]
    assert result.stderr.startswith("not confined: ")
    assert "inputs of --seed 0" in result.stderr
    scores = json.loads(Path("results.json").read_text())
    assert scores["score"] == 56
    assert scores["output"].startswith("not confined: ")
    page = Path("page.html").read_text(encoding="utf-8")
    assert "Grading of rnn_layers-1.py" in page
    assert not any("seed" in text for text in (page, scores["output"]))
    for file in written[1::2]:
        before = Path(file).read_bytes()
        failing(["verify", *options, written[written.index(file) - 1], file], "exists")
        assert Path(file).read_bytes() == before


@pytest.mark.usefixtures("asked")
def test_gradescope_gets_zero_and_the_reason_where_there_is_nothing_of_the_course(
    work: Path,
) -> None:
    work.write_text("x = 1\n")
    options = ["verify", "--against", ".", "--gradescope", "results.json"]
    failing(options, "defines nothing of the course", left=("results.json",))
    found = json.loads(Path("results.json").read_text())
    assert found["score"] == 0
    assert "it holds rnn_layers-1.py" in found["output"]
    failing(["verify", "--against", "none", "--gradescope", "other.json"], "does not exist")


def test_a_class_is_graded_with_its_roster_and_the_graders_own_failures_are_told(
    asked: list[dict[str, Any]], work: Path
) -> None:
    folder = work.parent / "submissions"
    for name, text in (("ada", ""), ("bob", "# wrong, unheld"), ("eve", "x")):
        (folder / name).mkdir(parents=True)
        (folder / name / "rnn_layers.py").write_text(LAYERS + text)
    Path("names").write_text("Ada\nBob\nZoe\n")
    options = ["--class", "submissions", "--out", "reports", "--jobs", "1", "--roster", "names"]
    result = good("verify", *options, "--seed", "3")
    assert [one["expect"] for one in asked] == [["rnn_layers", "rnn"]] * 3
    assert {one["seed"] for one in asked} == {3}
    lines = result.stdout.splitlines()
    assert sorted(lines) == [
        "Zoe: 0 of 14 functions pass, 0 of 100 points",
        "ada: 16 of 20 functions pass, 76 of 100 points",
        "bob: 14 of 20 functions pass, 56 of 100 points",
        "eve: 16 of 20 functions pass, 76 of 100 points",
        "not confined: \\x1bthe code could read your files",
        "wrote reports/class.csv: 4 students; the seed is in reports/class.json",
    ]
    assert lines.index("bob: 14 of 20 functions pass, 56 of 100 points") == 1 + next(
        i for i, line in enumerate(lines) if line.startswith("not confined")
    )
    assert "note: not on the roster: eve" in result.stderr
    failing(["verify", *options], "reports exists")

    (folder / "eve" / "rnn_layers.py").write_text(f"{LAYERS}# crash")
    options[3] = "again"
    result = call("verify", *options)
    assert result.exit_code == 1
    assert "the grader failed for eve: this zero is not a mark" in result.stderr
    assert Path("again/class.csv").exists()


REFUSED = """
2 | --class . --out o --json | --json excludes --class; --out gets JSON of each student
2 | --against . --backend cupy | --backend cupy with --against
2 | --against . --seconds 0 | --seconds
2 | --against . --seed -1 | --seed is -1
2 | --class . --out o --jobs -1 | --jobs is -1
1 | --against none.py | none.py does not exist
1 | --against . --html page.txt | does not end in .html
1 | --class none --out o | none is not a folder
1 | --class . --out o --roster none | none cannot be read
"""


@pytest.mark.usefixtures("asked", "work")
@pytest.mark.parametrize("row", REFUSED.strip().splitlines())
def test_what_cannot_be_graded_is_refused(row: str) -> None:
    status, arguments, says = row.split(" | ")
    failing(["verify", *arguments.split()], says, status=int(status))


@pytest.mark.usefixtures("work")
def test_a_module_that_students_do_not_write_cannot_be_expected() -> None:
    command = "verify --against . --expect rnn,lstm"
    failing(command.split(), "--expect 'lstm' does not exist", status=2)


def test_the_help_says_what_a_class_leaves_on_disk() -> None:
    text = " ".join(good("verify", "--help").stdout.split())
    for sentence in (
        "The same command continues an interrupted grading.",
        "The exit status is 1 if the grader itself failed for any student.",
        "A missing module scores zero.",
    ):
        assert sentence in text


@pytest.mark.slow
def test_layers_of_a_handout_pass_as_they_are_graded(work: Path) -> None:
    work.write_text(table.source("rnn_layers", ""))
    output = good("verify", "--against", work.name).stdout
    assert output.splitlines()[-1] == "16 of 16 functions pass, 100 of 100 points"
