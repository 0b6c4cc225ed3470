"""What a grading gives others: JSON, the page, rows of a class, a pytest file."""

import json
import math
import re
import subprocess
import sys
from pathlib import Path

import pytest

from xpcap.cs231n import table
from xpcap.cs231n.grading import grade
from xpcap.cs231n.grading.report import Report, Result
from xpcap.cs231n.grading.results import blocks, class_cells, report_page, summary, to_json

ROOT = Path(__file__).parents[2]
HOSTILE = "<script>alert(1)</script>\x1b[2J\u202e&" + "x" * 5000
DIFFERENCE_ERRORS = (
    "Fix `dx`.\nDerivation, line F2:\n    da_f = df * f * (1 - f)\n    (N, H)\nThat is all."
)
RESULTS = [
    Result("sigmoid", True, error=1e-16),
    Result("affine_forward", False, "", "not written yet", "Write affine_forward."),
    Result("rnn_step_forward", True, "", "dtype changed", "Right, but `float32` comes back.", 1e-8),
    Result("rnn_step_backward", False, "dx", "wrong values", DIFFERENCE_ERRORS, 0.5),
    Result("rnn_step_backward", False, "db", "bias missing", "Sum over N.", 0.5),
    Result("lstm_forward", False, f"line 7: {HOSTILE}", "raises an error", HOSTILE),
    Result("lstm_backward", False, "dx", "wrong values", "It is not finite.", math.nan),
    Result("rnn.py", False, "", "missing", "Hand in rnn.py."),
]
NOTE = "rnn_layers.py is outside cs231n, and is not graded"
REPORT = Report(RESULTS, table.HANDED_IN, ("rnn",), [NOTE])


def test_a_summary_counts_functions_and_has_points_unless_only_chosen_ones_were_graded() -> None:
    assert summary(REPORT) == "2 of 16 functions pass, 6 of 100 points"
    names = [result.function for result in RESULTS[:4]]
    chosen = Report(RESULTS[:4], table.HANDED_IN, (), (), names)
    assert summary(chosen) == "2 of 4 functions pass"
    assert [mark["function"] for mark in to_json(chosen)["functions"]] == names
    sigmoid = Report(RESULTS[:1], ("rnn_layers",), (), (), ["sigmoid"])
    assert summary(sigmoid) == "1 of 1 function passes"


def test_an_advice_is_paragraphs_and_indented_code() -> None:
    assert blocks(DIFFERENCE_ERRORS) == [
        (False, "Fix `dx`. Derivation, line F2:"),
        (True, "    da_f = df * f * (1 - f)\n    (N, H)"),
        (False, "That is all."),
    ]
    assert len(blocks(HOSTILE)[0][1]) == 2000


def test_json_has_points_and_the_fields_of_results_and_only_finite_numbers() -> None:
    whole = json.loads(json.dumps(to_json(REPORT), allow_nan=False))
    assert (whole["score"], whole["missing"], whole["notices"]) == (6, ["rnn"], [NOTE])
    functions = {mark["function"]: mark for mark in whole["functions"]}
    step = functions["rnn_step_backward"]
    assert (step["max_points"], step["points"], step["passed"]) == (8, 0, False)
    assert [result["error"] for result in step["results"]] == [0.5, 0.5]
    (result,) = functions["lstm_backward"]["results"]
    assert list(result) == ["function", "passed", "where", "kind", "advice", "error"]
    assert result["error"] is None
    assert sum(mark["max_points"] for mark in functions.values()) == 100


def test_a_row_of_a_class_has_points_and_what_is_wrong() -> None:
    points, wrong = class_cells(REPORT)
    assert points == "6"
    assert wrong.startswith(f"{NOTE}; ")
    assert "rnn_step_backward: wrong values, dx; rnn_step_backward: bias missing, db" in wrong


def test_the_page_has_every_function_and_escapes_what_a_submission_says() -> None:
    text = report_page("<b>work.py", REPORT).decode()
    for name in (*table.points(table.HANDED_IN), "sigmoid", "affine_forward", "rnn.py"):
        assert re.search(rf">\s*{re.escape(name)}\s*<", text), name
    assert "Fix <code>dx</code>. Derivation, line F2:</p>" in text
    assert re.search(r"<pre[^>]*>    da_f = df \* f \* \(1 - f\)\n    \(N, H\)\n</pre>", text)
    assert "0 of 8 points" in text
    assert "6 of 100 points" in text
    assert text.index("Grading of &lt;b&gt;work.py</h1>") < text.index(NOTE)
    assert text.count("Error: ") == text.count("Error: 5.0e-01") == 2
    assert "Content-Security-Policy" in text
    assert not re.search(r"<script|\x1b|\u202e|src=|://", text)
    assert "&lt;script&gt;alert(1)&lt;/script&gt;\\x1b[2J\\u202e&amp;" in text
    assert max(map(len, text.split())) < 2500


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
