"""The commands of docs/howto/teaching.md grade a class, and its autograder writes Gradescope's results."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from xpcap.exercise.handout import TO_WRITE, handout

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


def test_the_command_grades_a_class_and_its_totals_come_of_the_table(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = script_after("## Grading a class")
    assert "xpcap verify --class" in command
    done = run(command.replace("xpcap", f'"{sys.executable}" "{ROOT}/cli.py"'), folder)
    assert done.returncode == 0, done.stderr
    reports = folder / "reports"
    names = [f"{name}.{kind}" for name in ("solved", ODD) for kind in ("html", "json")]
    assert sorted(path.name for path in reports.iterdir()) == sorted(
        [*names, "class.csv", "class.json"]
    )
    assert "not written yet" in (reports / f"{ODD}.html").read_text(encoding="utf-8")
    assert sorted(path.name for path in folder.iterdir()) == ["reports", "submissions"]
    (table,) = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    monkeypatch.chdir(folder)
    exec(table, {})
    rows = capsys.readouterr().out.splitlines()
    scores = {name: float(score) for name, score in (row.rsplit(",", 1) for row in rows)}
    assert scores["solved"] == pytest.approx(100)
    assert scores[ODD] == 0


def test_the_autograder_leaves_results_whether_or_not_a_function_fails(folder: Path) -> None:
    setup, grade = script_after("`setup.sh`:"), script_after("`run_autograder`:")
    assert run(f"bash -n <<'END'\n{setup}\nEND", folder).returncode == 0
    for name, passed in (("solved", True), (ODD, False)):
        autograder = folder / f"autograder-{passed}"
        (autograder / "results").mkdir(parents=True)
        (folder / "submissions" / name).rename(autograder / "submission")
        grade = grade.replace("/autograder/venv/bin/python", sys.executable)
        (folder / "run_autograder").write_text(grade.replace("/autograder/", "$PWD/"))
        done = run(f'cd "{autograder}"; bash "{folder}/run_autograder"', folder)
        assert done.returncode == 0, done.stderr
        results = json.loads((autograder / "results" / "results.json").read_text())
        assert (results["score"] == pytest.approx(100)) is passed
    empty = folder / "autograder-none"
    (empty / "submission").mkdir(parents=True)
    assert run(f'cd "{empty}"; bash "{folder}/run_autograder"', folder).returncode != 0
