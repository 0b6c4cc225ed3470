"""Grading of whole submissions: right solutions pass, mistakes are named where they are."""

import ast
import inspect
import re
from collections.abc import Iterable
from pathlib import Path
from string import Formatter
from types import ModuleType

import numpy as np
import pytest
from students import (
    FILES,
    MISTAKES,
    Answer,
    Mistake,
    answers,
    submissions,
    with_mistakes,
    written,
)

from xpcap.exercise.grading import Result, grade, mutants, rules
from xpcap.exercise.reference import captioning_solver, optim, rnn, rnn_layers

# What is searched for a mistake
SEARCHED: list[tuple[ModuleType, str]] = [
    (module, name)
    for module, names in {
        rnn_layers: [name for name, thing in vars(rnn_layers).items() if callable(thing)],
        rnn: ["CaptioningRNN.loss", "CaptioningRNN.sample"],
        optim: ["sgd", "sgd_momentum", "rmsprop", "adam"],
        captioning_solver: ["CaptioningSolver.train", "CaptioningSolver._step"],
    }.items()
    for name in names
]


@pytest.mark.parametrize(
    "mistakes",
    [
        pytest.param(mistakes, marks=[pytest.mark.slow] if k % 20 else [])
        for k, mistakes in enumerate(submissions(MISTAKES))
    ],
)
def test_mistakes_are_named_where_they_are_and_nothing_else(mistakes: list[Mistake]) -> None:
    assert [answer for answer in answers(mistakes) if not answer.is_right] == []


def test_an_answer_is_right_only_if_it_names_a_mistake_as_its_row_says() -> None:
    mistake = Mistake("uphill", "sgd", "w -=", "w +=", "sign", ("weights",))
    named, other = Result("sgd", False, "weights", "sign"), Result("adam", False, kind="sign")
    assert Answer(mistake, [named], []).is_right
    for faults, others in (
        ([], []),
        ([named._replace(kind="factor missing")], []),
        ([named._replace(where="")], []),
        ([named], [other]),
    ):
        assert not Answer(mistake, faults, others).is_right


def test_what_is_not_written_is_a_row_and_the_rest_is_graded(tmp_path: Path) -> None:
    layers = FILES["rnn_layers.py"]
    start = layers.index("def rnn_step_backward")
    body = layers.index("    x, prev_h", start)
    unwritten = layers[:body] + "    raise NotImplementedError\n\n" + layers[body:]
    missing = re.sub(r"def lstm_forward.*?(?=\ndef )", "", unwritten, flags=re.DOTALL)
    none = missing.replace("    return dW\n", "    dW = None\n    return dW\n")
    (tmp_path / "mine.py").write_text(none)
    results = {result.function: result for result in grade(tmp_path / "mine.py", seed=0)}
    kinds = {name: result.kind for name, result in results.items() if not result.passed}
    assert kinds == {
        "rnn_step_backward": "not written yet",
        "word_embedding_backward": "not written yet",
        "lstm_forward": "not written yet",
        "lstm_backward": "follows from another function",
    }
    assert results["lstm_step_backward"].passed
    assert results["temporal_softmax_loss"].passed


def test_a_mistake_that_nothing_explains_is_still_narrowed_down(tmp_path: Path) -> None:
    odd = Mistake("", "lstm_step_forward", "f = sigmoid(a[:, H:", "f = 0.9 * sigmoid(a[:, H:", "")
    results = {
        result.function: result for result in grade(written(with_mistakes([odd]), tmp_path), seed=0)
    }
    assert results["lstm_step_forward"].kind == "wrong values"
    assert results["lstm_step_forward"].where.endswith("gate f")
    # right for the forward pass as it is
    assert results["lstm_forward"].kind == "follows from another function"


def test_a_result_has_the_fields_that_scripts_read() -> None:
    assert Result._fields == ("function", "passed", "where", "kind", "advice", "error")


@pytest.fixture(scope="module")
def edits() -> list[mutants.Edit]:
    return [
        edit
        for module, name in SEARCHED
        for edit in mutants.mutants(mutants.parsed(module, name), name)
    ]


def letters(trees: Iterable[ast.AST]) -> set[str]:
    """The letters of patterns that stand for expressions."""
    names = {node.id for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Name)}
    return {name for name in names if re.fullmatch(r"_[a-zVW]", name)}


def test_each_row_of_mistakes_is_whole() -> None:
    form = "pattern | instead | rank | kind | detail"
    for row in rules.TABLE.splitlines():
        if not row or row.startswith("#"):
            continue
        cells = row.split(" | ")
        assert len(cells) in (4, 5), f"{row!r} has {len(cells)} cells, expected {form}"
        assert all(cells), f"{row!r} has an empty cell, expected {form}"
        for rule in rules.rules(row):
            old, new = ([place[k] for place in rule.places] for k in (0, 1))
            assert [*map(ast.unparse, old)] != [*map(ast.unparse, new)], f"{row!r} changes nothing"
            fields = {field for _, field, *_ in Formatter().parse(rule.detail) if field}
            unbound = (letters(new) | fields) - letters(old) - {"old", "new", "target"}
            assert not unbound, f"{row!r} names {unbound}, which its pattern lacks"


def test_each_rule_changes_some_function(edits: list[mutants.Edit]) -> None:
    fired = {id(edit.rule) for edit in edits}
    dead = [rule for rule in rules.all_rules() if id(rule) not in fired]
    assert [[ast.unparse(tree) for place in rule.places for tree in place] for rule in dead] == []


def test_no_mutant_can_loop_without_end(edits: list[mutants.Edit]) -> None:
    new = [node for edit in edits for slot in edit.slots for node in _nodes(slot.new)]
    assert not any(isinstance(node, ast.While) for node in new)
    loops = {ast.unparse(node.iter) for node in new if isinstance(node, ast.For)}
    assert all(re.match(r"(reversed\()?range\(|self\.", loop) for loop in loops)
    assert mutants._range(mutants.LOOPS) == range(mutants.LOOPS)
    with pytest.raises(ValueError, match="a loop of"):
        mutants._range(mutants.LOOPS + 1)


def _nodes(new: object) -> list[ast.AST]:
    trees = new if isinstance(new, list) else [new]
    return [node for tree in trees for node in ast.walk(tree)]


def test_a_search_ends_after_so_many_mutants_whatever_the_clock_says() -> None:
    for module in (mutants, rules):
        for node in ast.walk(ast.parse(inspect.getsource(module))):
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = {node.module} if isinstance(node, ast.ImportFrom) else set()
                names |= {alias.name for alias in node.names}
                assert not names & {"time", "datetime", "signal", "threading"}
    ran = []
    rng = np.random.default_rng(0)
    x, prev_h, Wx, Wh, b = (rng.standard_normal(s) for s in ((3, 5), (3, 4), (5, 4), (4, 4), (4,)))

    def run(mutant):  # type: ignore[no-untyped-def]
        ran.append(mutant)
        return mutant(x, prev_h, Wx, Wh, b)[:1]

    wrong = [np.tanh(x @ Wx + prev_h @ Wh)]
    found = mutants.localise(rnn_layers, "rnn_step_forward", run, wrong)
    assert found is not None
    assert (found.whole, found.changes[0].kind) == (True, "bias missing")
    needed = len(ran)
    again = mutants.localise(rnn_layers, "rnn_step_forward", run, wrong, budget=needed)
    assert again is not None
    assert again[:2] == found[:2]
    ran.clear()
    assert mutants.localise(rnn_layers, "rnn_step_forward", run, wrong, budget=5) is None
    assert len(ran) == 5


def test_edits_leave_the_tree_as_it_was() -> None:
    tree = mutants.parsed(rnn_layers, "lstm_backward")
    before = ast.unparse(tree)
    for edit in mutants.mutants(tree, "lstm_backward"):
        assert edit.described().kind
    assert ast.unparse(tree) == before


@pytest.mark.parametrize(
    ("name", "got", "right", "kind"),
    [
        ("db", (1, 6), (6,), "axis of one"),
        ("db", (3, 6), (6,), "sum over the batch missing"),
        ("db", (), (6,), "summed too far"),
        ("dWx", (6, 5), (5, 6), "transposed"),
        ("h", (4, 3, 6), (3, 4, 6), "transposed"),
        ("h", (3, 6), (3, 4, 6), "summed too far"),
        ("dW", (7, 5), (8, 5), "table too small"),
        ("dx", (3, 20), (3, 4, 5), "not reshaped back"),
        ("dWx", (6, 24), (5, 24), "results swapped"),
        ("dx", (3, 9), (3, 5), "wrong shape"),
    ],
)
def test_a_wrong_shape_is_named(
    name: str, got: tuple[int, ...], right: tuple[int, ...], kind: str
) -> None:
    found, advice = rules.wrong_shape(name, got, right, {"dWx": (5, 24), "dWh": (6, 24)})
    assert found == kind
    assert advice.startswith(f"{name} has shape {got}, not {right}")
