"""What a grading gives others: JSON, Gradescope's points, the page, rows of a class, a pytest file."""

import csv
import json
import math
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from xpcap.errors import DataError
from xpcap.exercise import table
from xpcap.exercise.grading import grade
from xpcap.exercise.grading.report import PENDING, Report, Result, zero_report
from xpcap.exercise.grading.results import (
    HEADS,
    lines,
    read_json,
    refused,
    report_page,
    summary,
    to_gradescope,
    to_json,
    write_class,
    write_json,
)

ROOT = Path(__file__).parents[2]
HOSTILE = "<script>alert(1)</script>\x1b[2J\u202e&" + "x" * 5000
DERIVED = "Fix `dx`.\nDerivation, line F2:\n    da_f = df * f * (1 - f)\n    (N, H)\nThat is all."
RESULTS = [
    Result("sigmoid", True, error=1e-16),
    Result("affine_forward", False, "", "not written yet", "Write affine_forward."),
    Result("rnn_step_forward", True, "", "dtype changed", "Right, but `float32` comes back.", 1e-8),
    Result("rnn_step_backward", False, "dx", "wrong values", DERIVED, 0.5),
    Result("rnn_step_backward", False, "db", "bias missing", "Sum over N.", 0.5),
    Result("lstm_forward", False, f"line 7: {HOSTILE}", "raises an error", HOSTILE),
    Result("lstm_backward", False, "dx", "wrong values", "It is not finite.", math.nan),
    Result("rnn.py", False, "", "missing", "Hand in rnn.py."),
]
UNCONFINED = "not confined: the code could read your files"
REPORT = Report(
    RESULTS,
    table.HANDED_IN,
    ("rnn",),
    UNCONFINED,
    seed=1234567,
    notes=["rnn_layers-1.py is taken as rnn_layers.py"],
    unusual=["fcntl"],
)


def test_a_summary_counts_functions_and_not_files_and_points_unless_some_alone_are_graded() -> None:
    assert summary(REPORT) == "2 of 16 functions pass, 6 of 100 points"
    assert summary(REPORT, only=True) == "2 of 6 functions pass"
    one = Report(RESULTS[:1], ("rnn_layers",), (), "")
    assert summary(one, only=True) == "1 of 1 function passes"


def test_an_advice_is_paragraphs_and_indented_code() -> None:
    assert lines(RESULTS[3]) == [
        "wrong values, dx",
        "Fix `dx`. Derivation, line F2:",
        "    da_f = df * f * (1 - f)",
        "    (N, H)",
        "That is all.",
    ]
    assert lines(RESULTS[0]) == []
    assert not any("\x1b" in line or len(line) > 2100 for line in lines(RESULTS[5]))


def test_json_has_the_fields_of_a_result_and_only_finite_numbers(tmp_path: Path) -> None:
    rows = json.loads(json.dumps(to_json(RESULTS), allow_nan=False))
    assert [list(row) for row in rows] == [
        ["function", "passed", "where", "kind", "advice", "error"]
    ] * len(RESULTS)
    assert [row["error"] for row in rows] == [1e-16, None, 1e-8, 0.5, 0.5, None, None, None]
    write_json(tmp_path / "ada.json", "ada", REPORT)
    whole = json.loads((tmp_path / "ada.json").read_text())
    assert next(iter(whole.items())) == ("confinement", UNCONFINED)
    assert (whole["student"], whole["score"], whole["missing"]) == ("ada", 6, ["rnn"])
    step = next(one for one in whole["functions"] if one["function"] == "rnn_step_backward")
    assert (step["most"], step["points"], len(step["results"])) == (8, 0, 2)


def test_gradescope_gets_points_for_what_passes_and_advice_for_what_does_not() -> None:
    found = json.loads(to_gradescope(REPORT))
    assert set(found) == {"score", "output", "output_format", "tests"}
    tests = {test.pop("name"): test for test in found["tests"]}
    for test in tests.values():
        assert set(test) == {"score", "max_score", "status", "output", "output_format"}
    most = table.points(table.HANDED_IN)
    assert {name: test["max_score"] for name, test in tests.items()} == most
    assert found["score"] == tests["rnn_step_forward"]["score"] == most["rnn_step_forward"] > 0
    assert [name for name, test in tests.items() if test["status"] == "passed"] == [
        "rnn_step_forward"
    ]
    assert tests["rnn_step_backward"]["output"].startswith("wrong values, dx\nFix `dx`. Deriv")
    missing = "not graded\nrnn.py is missing, or cannot be imported."
    assert tests["CaptioningRNN.loss (rnn)"]["output"] == missing
    assert "\x1b" not in tests["lstm_forward"]["output"]
    assert found["output"].splitlines() == [
        UNCONFINED,
        "2 of 16 functions pass, 6 of 100 points.",
        "rnn_layers-1.py is taken as rnn_layers.py",
        "affine_forward: not written yet Write affine_forward.",
        "rnn.py: missing Hand in rnn.py.",
    ]


def test_functions_without_points_are_tests_where_there_are_no_others() -> None:
    report = Report(RESULTS[:2], (), (), "confined by bubblewrap")
    found = json.loads(to_gradescope(report))
    assert [test["name"] for test in found["tests"]] == ["sigmoid", "affine_forward"]
    assert found["output"] == "1 of 2 functions pass, 0 of 100 points."


def test_what_cannot_be_graded_is_a_report_of_zero_with_the_reason() -> None:
    error = DataError(
        "grade", "ada", "defines nothing of the course", "functions", "it holds a.zip"
    )
    report = refused(("rnn_layers", "optim"), error)
    found = json.loads(to_gradescope(report))
    assert found["score"] == sum(test["score"] for test in found["tests"]) == 0
    assert round(sum(test["max_score"] for test in found["tests"]), 9) == 100
    assert "defines nothing of the course, expected functions; it holds a.zip" in found["output"]
    page = report_page("ada", report).decode()
    assert "it holds a.zip" in page
    assert page.count("rnn_layers.py is missing") == page.count("optim.py is missing") == 1


def test_the_page_has_every_function_and_escapes_what_a_submission_says() -> None:
    text = report_page("<b>work.py", REPORT).decode()
    for name in (*table.points(table.HANDED_IN), "sigmoid", "affine_forward", "rnn.py"):
        assert re.search(rf">\s*{re.escape(name)}\s*<", text), name
    assert "Fix <code>dx</code>. Derivation, line F2:</p>" in text
    assert re.search(r"<pre[^>]*>    da_f = df \* f \* \(1 - f\)\n    \(N, H\)\n</pre>", text)
    assert "0 of 8 points" in text
    assert "6 of 100 points" in text
    assert text.index(UNCONFINED) < text.index("Grading of &lt;b&gt;work.py</h1>")
    assert "rnn_layers-1.py is taken as rnn_layers.py" in text
    assert text.count("Error: ") == text.count("Error: 5.0e-01") == 2
    assert "Content-Security-Policy" in text
    assert not re.search(r"<script|\x1b|\u202e|src=|://", text)
    assert "&lt;script&gt;alert(1)&lt;/script&gt;\\x1b[2J\\u202e&amp;" in text
    assert max(map(len, text.split())) < 2500


def test_what_is_pending_is_no_mistake_on_the_page_and_is_read_back_when_it_is_complete(
    tmp_path: Path,
) -> None:
    waits = [Result("lstm_forward", False, "", PENDING, "It waits for another pass.")]
    for results, is_complete in ((waits, False), (RESULTS, True)):
        begun = replace(REPORT, results=results, content="00ff")
        page = report_page("ada", begun).decode()
        assert (page.count("It waits for another pass.") == 1) is not is_complete
        assert ("To fix" in page) is is_complete
        write_json(tmp_path / "ada.json", "ada", begun)
        found = read_json(tmp_path / "ada.json", begun)
        assert (found is not None) is is_complete
        assert read_json(tmp_path / "ada.json", replace(begun, content="other")) is None
    assert found is not None
    assert [mark[:4] for mark in found.marks] == [mark[:4] for mark in begun.marks]
    assert to_json(found) == to_json(RESULTS)


def test_rows_of_a_class_stay_text_and_add_up(tmp_path: Path) -> None:
    nothing = zero_report(table.HANDED_IN, "Nothing was handed in.")
    graded = [(name, REPORT) for name in ("=cmd", "@ada;x", "\t-1", "李")]
    write_class(tmp_path / "class.csv", [*graded, ("bob", nothing)])
    with (tmp_path / "class.csv").open(encoding="utf-8", newline="") as file:
        head, *found = csv.reader(file)
    assert tuple(head) == HEADS
    assert list(dict.fromkeys(row[0] for row in found)) == ["'=cmd", "'@ada;x", "' -1", "李", "bob"]
    assert not any(re.match(r"\s*[=+@-]", cell) for row in found for cell in row)
    assert not any("\x1b" in cell for row in found for cell in row)
    for name in ("'=cmd", "bob"):
        *functions, total = [row for row in found if row[0] == name]
        assert total[1] == "total"
        assert sum(float(row[2]) for row in functions) == float(total[2])
        assert sum(float(row[3]) for row in functions) == float(total[3]) == 100
        assert {row[1] for row in functions} >= set(table.points(table.HANDED_IN))
    step = next(row for row in found if row[1] == "rnn_step_backward")
    assert step[4:7] == ["no", "wrong values; bias missing", "dx; db"]
    assert "da_f" not in step[7]
    missing = [row for row in found if row[1].startswith("CaptioningRNN")]
    assert {row[5] for row in missing} == {"not graded"}
    assert found[-1][1:] == [
        "total",
        "0.0",
        "100.0",
        "no",
        "nothing to grade",
        "",
        "Nothing was handed in.",
        "",
    ]


def test_points_sum_to_100_whatever_they_are_of() -> None:
    assert table.points(table.HANDED_IN) == {
        one.name: float(one.points) for one in table.functions(table.HANDED_IN) if one.points
    }
    for modules in (("rnn_layers",), ("rnn", "optim"), ("captioning_solver",), tuple(table.FILES)):
        shares = table.points(modules)
        assert round(sum(shares.values()), 9) == 100
        assert all(round(share, 2) == share for share in shares.values())


@pytest.mark.slow
def test_the_pytest_file_of_the_docs_has_a_test_for_each_function(tmp_path: Path) -> None:
    source = table.source("rnn_layers", "")
    source += "\n\ndef rnn_backward(dh, cache):\n    pass\n"
    source += "\n\ndef word_embedding_forward(x, W):\n    return undefined\n"
    (tmp_path / "rnn_layers.py").write_text(source)
    docs = (ROOT / "docs/tutorials/check-your-lstm.md").read_text(encoding="utf-8")
    block = re.search(r"^    import pytest\n(?:(?:    .*)?\n)+", docs, re.MULTILINE)
    assert block
    code = re.sub(r"^    ", "", block[0], flags=re.MULTILINE)
    (tmp_path / "test_it.py").write_text(code)
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_it.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    failed = re.findall(r"^FAILED test_it.py::test_function\[(\w+)\]", result.stdout, re.MULTILINE)
    graded = grade(tmp_path / "rnn_layers.py")
    assert failed == [one.function for one in graded if not one.passed]
    assert {"rnn_backward", "word_embedding_forward"} <= set(failed)
    assert f"{len(graded) - len(failed)} passed" in result.stdout
    assert "not written yet: " in result.stdout
