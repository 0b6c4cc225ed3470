"""`verify --against`: what a student and a teacher see of a grading."""

import json
from pathlib import Path

import pytest
from commands import call, failing, good

from xpcap import use_backend
from xpcap.exercise.grading.submission import course_files

SOURCE = """

def rnn_forward(x, h0, Wx, Wh, b):
    return a_name_that_is_not_defined_anywhere_in_this_file


def word_embedding_forward(x, W):
    pass
"""


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "my layers.py"
    file.write_bytes(course_files()["rnn_layers.py"] + SOURCE.encode())
    return file


def test_a_grading_is_a_table_with_advice_below_what_is_wrong(work: Path) -> None:
    result = call("verify", "--against", "my layers.py", "--only", "*_forward", "--only", "sigmoid")
    assert result.exit_code == 1
    lines = result.stdout.splitlines()
    assert lines[0].split() == ["function", "pass", "where", "kind"]
    assert "sigmoid                      yes" in lines
    line = work.read_text().splitlines().index("def rnn_forward(x, h0, Wx, Wh, b):", 180) + 2
    row = next(i for i, line in enumerate(lines) if line.startswith("rnn_forward "))
    assert lines[row].split()[1:] == ["NO", "line", str(line), "raises", "an", "error"]
    assert lines[row + 1] == "    return a_name_that_is_not_defined_anywhere_in_this_file"
    assert lines[row + 2].startswith("    rnn_forward raises NameError: name 'a_name_")
    assert any(line.endswith("not written yet") for line in lines)
    assert not any("backward" in line for line in lines)
    assert lines[-1] == "6 of 8 functions pass"


def test_a_grading_as_json_with_points_and_a_page(work: Path) -> None:
    options = ("--against", "my layers.py", "--json", "--only", "rnn_*")
    written = ("--gradescope", "results.json", "--html", "page.html")
    result = call("verify", *options, *written)
    assert result.exit_code == 1
    rows = json.loads(result.stdout)
    assert [row["function"] for row in rows if row["passed"]][:2] == [
        "rnn_step_forward",
        "rnn_step_backward",
    ]
    scores = json.loads(Path("results.json").read_text())
    assert sum(test["max_score"] for test in scores["tests"]) == 100
    assert 0 < scores["score"] < 100
    assert "Grading of my layers.py" in Path("page.html").read_text(encoding="utf-8")
    for file in written[1::2]:
        before = Path(file).read_bytes()
        failing(["verify", *options, written[written.index(file) - 1], file], "exists")
        assert Path(file).read_bytes() == before


def test_a_right_submission_passes_on_numpy_whatever_backend_is_in_force(work: Path) -> None:
    Path("optim.py").write_bytes(course_files()["optim.py"])
    with use_backend("numpy"):
        output = good("verify", "--against", "optim.py", "--backend", "numpy").stdout
    assert output.splitlines()[-1] == "4 of 4 functions pass"


@pytest.mark.parametrize(
    ("status", "arguments", "says"),
    [
        (2, ["--only", "adam"], "--only without --against"),
        (2, ["--seconds", "3"], "--seconds without --against"),
        (2, ["--against", "my layers.py", "--backend", "cupy"], "--backend cupy with --against"),
        (2, ["--against", "my layers.py", "--seconds", "0"], "--seconds"),
        (1, ["--against", "none.py"], "none.py does not exist"),
        (1, ["--against", "my layers.py", "--html", "page.txt"], "does not end in .html"),
        (
            2,
            ["--against", "my layers.py", "--only", "nothing"],
            "is named nothing",
        ),
    ],
)
def test_what_cannot_be_graded_is_refused(
    status: int, arguments: list[str], says: str, work: Path
) -> None:
    result = call("verify", *arguments)
    assert (result.exit_code, says in result.stderr, result.stdout) == (status, True, "")
    assert list(work.parent.iterdir()) == [work]
