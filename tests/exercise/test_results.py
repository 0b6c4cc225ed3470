"""What a grading gives others: JSON, Gradescope's points, the page, a pytest file."""

import json
import math
import re
import subprocess
import sys
from pathlib import Path

import pytest

from xpcap.exercise.grading import Result, grade
from xpcap.exercise.grading.results import (
    POINTS,
    functions,
    points,
    summary,
    to_gradescope,
    to_json,
    write_gradescope,
    write_report,
)
from xpcap.exercise.grading.submission import course_files

ROOT = Path(__file__).parents[2]
HOSTILE = "<script>alert(1)</script>\x1b[2J\u202e&" + "x" * 5000
RESULTS = [
    Result("sigmoid", True, error=1e-16),
    Result("rnn_step_forward", True, "", "dtype changed", "Right, but `float32` comes back.", 1e-8),
    Result("rnn_step_backward", False, "dx", "wrong values", "Fix `dx`.", 0.5),
    Result("rnn_step_backward", False, "db", "bias missing", "Sum over N.", 0.5),
    Result("lstm_forward", False, f"line 7: {HOSTILE}", "raises an error", HOSTILE),
    Result("lstm_backward", False, "dx", "wrong values", "It is not finite.", math.nan),
    Result("affine_forward", False, "", "not written yet", "Write affine_forward."),
]


def test_a_function_passes_if_all_its_results_do() -> None:
    assert [(one.name, one.passed, len(one.results)) for one in functions(RESULTS)] == [
        ("sigmoid", True, 1),
        ("rnn_step_forward", True, 1),
        ("rnn_step_backward", False, 2),
        ("lstm_forward", False, 1),
        ("lstm_backward", False, 1),
        ("affine_forward", False, 1),
    ]
    assert summary(RESULTS) == "2 of 6 functions pass"
    assert summary(RESULTS[:1]) == "1 of 1 function passes"


def test_json_has_the_fields_of_a_result_and_only_finite_numbers() -> None:
    rows = json.loads(json.dumps(to_json(RESULTS), allow_nan=False))
    assert [list(row) for row in rows] == [
        ["function", "passed", "where", "kind", "advice", "error"]
    ] * len(RESULTS)
    assert [row["error"] for row in rows] == [1e-16, 1e-8, 0.5, 0.5, None, None, None]


def test_points_sum_to_100_whatever_a_submission_brings() -> None:
    layers = [name for name in POINTS if name.startswith(("rnn_", "word_", "lstm_"))]
    course = [*layers, *(name for name in POINTS if name.startswith("Captioning"))]
    assert points([*course, "sigmoid", "CaptioningSolver"]) == {
        **{name: float(POINTS[name]) for name in course},
        "sigmoid": 0.0,
        "CaptioningSolver": 0.0,
    }
    for names in (layers, list(POINTS), ["adam", "rmsprop", "sgd"], ["sgd", "sigmoid", "affine"]):
        shares = points(names)
        assert round(sum(shares.values()), 9) == 100
        assert all(round(share, 2) == share for share in shares.values())
    assert points(["sgd", "sigmoid", "affine"])["sigmoid"] == 33.33


def test_gradescope_gets_points_for_what_passes_and_advice_for_what_does_not(
    tmp_path: Path,
) -> None:
    write_gradescope(tmp_path / "results.json", RESULTS)
    found = json.loads((tmp_path / "results.json").read_text())
    assert found == to_gradescope(RESULTS)
    assert set(found) == {"score", "output", "output_format", "tests"}
    tests = {test.pop("name"): test for test in found["tests"]}
    most = points(list(tests))
    for test in tests.values():
        assert set(test) == {"score", "max_score", "status", "output", "output_format"}
    assert {name: test["max_score"] for name, test in tests.items()} == most
    assert sum(test["max_score"] for test in tests.values()) == 100
    assert found["score"] == tests["rnn_step_forward"]["score"] == most["rnn_step_forward"] > 0
    assert [name for name, test in tests.items() if test["status"] == "passed"] == [
        "sigmoid",
        "rnn_step_forward",
    ]
    assert tests["rnn_step_backward"]["output"] == (
        "wrong values, dx\nFix `dx`.\nbias missing, db\nSum over N."
    )
    assert "\x1b" not in tests["lstm_forward"]["output"]
    assert len(tests["lstm_forward"]["output"]) < 5000


def test_the_page_has_every_function_and_escapes_what_a_submission_says(tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    write_report(page, "<b>work.py", RESULTS)
    text = page.read_text(encoding="utf-8")
    for name, *_ in functions(RESULTS):
        assert f">{name}<" in text
    assert "Fix <code>dx</code>." in text
    assert "2 of 6 functions pass" in text
    assert text.count("Error: ") == text.count("Error: 5.0e-01") == 2
    assert "Grading of &lt;b&gt;work.py" in text
    assert "Content-Security-Policy" in text
    assert not re.search(r"<script|\x1b|\u202e|src=|://", text)
    assert "&lt;script&gt;alert(1)&lt;/script&gt;\\x1b[2J\\u202e&amp;" in text
    assert max(map(len, text.split())) < 2500


@pytest.fixture
def submission(tmp_path: Path) -> Path:
    """Layers with one function that is not written and one that raises."""
    source = course_files()["rnn_layers.py"].decode()
    source += "\n\ndef rnn_backward(dh, cache):\n    pass\n"
    source += "\n\ndef word_embedding_forward(x, W):\n    return undefined\n"
    (tmp_path / "rnn_layers.py").write_text(source)
    return tmp_path


def test_the_pytest_file_of_the_docs_has_a_test_for_each_function(submission: Path) -> None:
    docs = (ROOT / "docs/tutorials/check-your-lstm.md").read_text(encoding="utf-8")
    lines = re.search(r"^    import pytest\n(?:(?:    .*)?\n)+", docs, re.MULTILINE)
    assert lines
    code = re.sub(r"^    ", "", lines[0], flags=re.MULTILINE)
    (submission / "test_it.py").write_text(code)
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_it.py"],
        cwd=submission,
        capture_output=True,
        text=True,
        check=False,
    )
    failed = re.findall(r"^FAILED test_it.py::test_function\[(\w+)\]", result.stdout, re.MULTILINE)
    graded = functions(grade(submission / "rnn_layers.py"))
    assert failed == [one.name for one in graded if not one.passed]
    assert {"rnn_backward", "word_embedding_forward"} <= set(failed)
    assert f"{len(graded) - len(failed)} passed" in result.stdout
    assert "not written yet: " in result.stdout


def test_points_are_of_functions_that_grading_names(tmp_path: Path) -> None:
    for name, content in course_files().items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    graded = functions(grade(tmp_path))
    assert [one.results for one in graded if not one.passed] == []
    assert set(POINTS) < {one.name for one in graded}
