"""Grading of whole submissions: right solutions pass, mistakes are named where they are."""

import re
from pathlib import Path

import pytest
from students import (
    FILES,
    MISTAKES,
    PAGE,
    STYLES,
    Mistake,
    is_right,
    named,
    table,
    with_mistake,
    written,
)

from xpcap.exercise.grading import Result, grade
from xpcap.exercise.grading.known import LABELS
from xpcap.exercise.grading.layers import LAYERS

NOTATION = Path(__file__).parents[2] / "docs" / "explain" / "backward.md"
A_FEW = [
    "no sigmoid derivative of f",
    "stacked i, f, g, o",
    "dc not carried",
    "two derivatives forgotten",
    "gradient of the cell not carried",
    "shapes that do not fit",
    "scatter by +=",
    "everything counts",
    "cache in a global",
]


@pytest.mark.parametrize("style", STYLES)
def test_right_solutions_pass_in_any_style(style: str, tmp_path: Path) -> None:
    results = grade(written(STYLES[style], tmp_path))
    assert [result for result in results if not result.passed] == []
    assert len(results) == 25


@pytest.mark.parametrize("name", A_FEW)
def test_a_mistake_is_named_where_it_is_and_nothing_else(name: str, tmp_path: Path) -> None:
    (mistake,) = [mistake for mistake in MISTAKES if mistake.name == name]
    there, others = named(mistake, tmp_path)
    assert is_right(mistake, there, others), (there, others)


@pytest.mark.slow
def test_every_mistake_is_named_as_the_page_says() -> None:
    lines = list(table())
    assert [line for line in lines if "WRONG" in line] == []
    assert len(lines) > 80
    assert PAGE.read_text(encoding="utf-8").endswith("\n".join(lines) + "\n")


def test_what_is_not_written_is_a_row_and_the_rest_is_graded(tmp_path: Path) -> None:
    layers = FILES["rnn_layers.py"]
    start = layers.index("def rnn_step_backward")
    body = layers.index("    x, prev_h", start)
    unwritten = layers[:body] + "    raise NotImplementedError\n\n" + layers[body:]
    missing = re.sub(r"def lstm_forward.*?(?=\ndef )", "", unwritten, flags=re.DOTALL)
    none = missing.replace("    return dW\n", "    dW = None\n    return dW\n")
    (tmp_path / "mine.py").write_text(none)
    results = {result.function: result for result in grade(tmp_path / "mine.py")}
    kinds = {name: result.kind for name, result in results.items() if not result.passed}
    assert kinds == {
        "rnn_step_backward": "not written yet",
        "rnn_backward": "follows from another function",
        "word_embedding_backward": "not written yet",
        "lstm_forward": "not written yet",
        "lstm_backward": "follows from another function",
    }
    assert results["lstm_step_backward"].passed
    assert results["temporal_softmax_loss"].passed


def test_a_mistake_that_nothing_explains_is_still_narrowed_down(tmp_path: Path) -> None:
    odd = Mistake("", "lstm_step_forward", "f = sigmoid(a[:, H:", "f = 0.9 * sigmoid(a[:, H:", "")
    results = {result.function: result for result in grade(written(with_mistake(odd), tmp_path))}
    assert results["lstm_step_forward"].kind == "wrong values"
    assert results["lstm_step_forward"].where.endswith("gate f")
    # right for the forward pass as it is
    assert results["lstm_forward"].kind == "follows from another function"


def test_advice_leads_to_lines_of_the_derivation_that_are_there() -> None:
    text = NOTATION.read_text(encoding="utf-8")
    heads = {
        re.sub(r"[^\w -]", "", head).lower().replace(" ", "-")
        for head in re.findall(r"^##+ (.*)$", text, re.MULTILINE)
    }
    assert {spec.page for spec in LAYERS.values()} | {"the-loss", "the-whole-captioner"} <= heads
    labels = {label for lines in LABELS.values() for label in lines.values()}
    for label in {one for several in labels for one in several.split(", ") if one[0] == "F"}:
        assert f"**{label}**" in text or f"| {label} |" in text


def test_a_result_has_the_fields_that_scripts_read() -> None:
    assert Result._fields == ("function", "passed", "where", "kind", "advice", "error")
