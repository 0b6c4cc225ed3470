"""The commands of docs/howto/teaching.md grade a class, and other graders call it."""

import csv
import json
import os
import re
import shutil
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from xpcap.cs231n.handout import TO_WRITE, handout

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "howto" / "teaching.md").read_text(encoding="utf-8")
ODD = "o'neill & $(touch x) ada"  # a student's folder

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("bash") is None, reason="no bash here"),
]


def script_after(line: str) -> str:
    """The indented block below a line of the page."""
    block = re.split(rf"^{re.escape(line)}$\n", PAGE, flags=re.MULTILINE)[1]
    found = re.search(r"^(?: {4}.*\n|\n)+", block[block.index("    ") :])
    assert found
    return re.sub(r"^ {4}", "", found[0], flags=re.MULTILINE)


def run(script: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "-c", script],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """One who wrote all, and one with an odd name who wrote nothing, in `submissions/`."""
    for name, blank in (("solved", []), (ODD, TO_WRITE)):
        for path in handout(tmp_path / "submissions" / name, blank=blank):
            if path.name not in ("rnn_layers.py", "rnn.py"):
                path.unlink()
    return tmp_path


def test_the_command_grades_a_class(folder: Path) -> None:
    command = script_after("## Grade a class")
    assert "xpcap verify --class" in command
    done = run(command.replace("xpcap", f'"{sys.executable}" "{ROOT}/cli.py"'), folder)
    assert done.returncode == 0, done.stderr
    rows = {row["student"]: row for row in csv.DictReader(done.stdout.splitlines())}
    assert (rows["solved"]["points"], rows["solved"]["wrong"]) == ("100", "")
    assert rows[ODD]["points"] == "0"
    assert "lstm_step_forward: not written yet" in rows[ODD]["wrong"]


@pytest.mark.parametrize(("name", "score"), [("solved", 100), (ODD, 0), ("empty", 0)])
def test_the_autograder_leaves_results(name: str, score: float, folder: Path) -> None:
    setup, grade = script_after("`setup.sh`:"), script_after("`run_autograder`:")
    assert run(f"bash -n <<'END'\n{setup}\nEND", folder).returncode == 0
    (folder / "submissions" / "empty").mkdir()
    (folder / "results").mkdir()
    submission = str(folder / "submissions" / name)
    grade = grade.replace('"/autograder/submission"', repr(submission))
    (folder / "run_autograder").write_text(grade.replace("/autograder/", f"{folder}/"))
    done = run(f'"{sys.executable}" run_autograder', folder)
    assert done.returncode == 0, done.stderr
    tests = json.loads((folder / "results" / "results.json").read_text())["tests"]
    assert sum(test["max_score"] for test in tests) == pytest.approx(100)
    assert sum(test["score"] for test in tests) == pytest.approx(score)


@pytest.mark.parametrize("heading", ["## Otter", "## nbgrader"])
def test_a_test_of_another_grader_passes_what_is_right_alone(
    heading: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of Otter the decorator alone is asked for."""
    otter = types.ModuleType("otter.test_files")
    vars(otter)["test_case"] = lambda: lambda function: function
    monkeypatch.setitem(sys.modules, "otter", otter)
    monkeypatch.setitem(sys.modules, "otter.test_files", otter)

    def test(name: str) -> None:
        monkeypatch.chdir(folder / "submissions" / name)
        scope: dict[str, Any] = {}
        exec(script_after(heading), scope)
        scope.get("test_lstm_step", lambda: None)()

    test("solved")
    with pytest.raises(AssertionError, match=r"lstm_step_forward: Write lstm_step_forward"):
        test(ODD)
