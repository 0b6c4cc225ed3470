"""Verdicts on observations, whatever they are."""

import re
from typing import Any

import numpy as np
import pytest

from xpcap.cs231n import table
from xpcap.cs231n.grading import expected, explain, judge
from xpcap.cs231n.grading.cases import Draw
from xpcap.cs231n.grading.run import Line, Note, Observation, Stopped
from xpcap.cs231n.reference import rnn_layers

ODD = (
    np.array(1.0),
    np.zeros((0, 3)),
    np.full((2, 3), np.nan),
    np.ones((1, 1, 1, 1), bool),
    np.arange(5, dtype=np.uint8),
    np.array([np.inf, -np.inf], np.float16),
)
NOTES = (
    Note(error=("ValueError", "{odd} | `x`", Line("a.py", 3, "x = 1"))),
    Note(error=("NotImplementedError", "", Line())),
    Note(number=0),
    Note(number=-(10**9)),
    Note(none=True),
    Note(types={"dx": "list", "captions": "str", "loss": "object"}),
    Note(names=["x", "h0"]),
    Note(missing=["Wx", "Wh"]),
)


def disturbed(right: Observation, rng: np.random.Generator) -> Observation:
    """An observation with arrays gone, exchanged or odd, and notes that fit nothing."""
    arrays: dict[str, Any] = dict(right.arrays)
    for key in rng.choice(list(arrays), rng.integers(0, 5)):
        arrays.pop(str(key), None)
        if rng.random() < 0.7:
            arrays[str(key)] = ODD[rng.integers(len(ODD))]
    stages = ["import", "cache", "shapes", "calls", "shared", "defaults"]
    stages += [key.partition(".")[0] for key in right.arrays]
    chosen = rng.choice(stages, rng.integers(0, 3))
    return Observation(arrays, {str(one): NOTES[rng.integers(len(NOTES))] for one in chosen})


@pytest.mark.parametrize("module", expected.MODULES)
def test_whatever_is_observed_gets_a_verdict(module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(explain, "localise", lambda *_, **__: None)  # on its own arrays elsewhere
    rng, draw = np.random.default_rng(0), Draw(0)
    for row in table.functions([module]):
        cases = draw.cases(row.name)
        right = expected.reference(row, cases)
        wrong = judge.Judged([judge.Result("", False, kind=judge.NOT_WRITTEN)])
        verdicts = dict.fromkeys((row.forward, row.step, "adam", "sigmoid"), wrong)
        assert judge.judge(row, right, right, cases, [], {}).passed
        for _ in range(12):
            seen = expected.cut_after_end(row, disturbed(right, rng), cases)
            below = [name for name in verdicts if name and rng.random() < 0.3]
            for result in judge.judge(row, seen, right, cases, below, verdicts).results:
                assert isinstance(result, judge.Result)
                assert result.passed or result.kind
            if row.forward:
                forward = getattr(rnn_layers, row.forward)
                judge.pass_on_own_forward(row, seen, cases["square"], forward)
        stopped = Stopped("did not end within 10 seconds")
        assert not judge.judge(row, stopped, right, cases, [], {}).passed


def test_a_mistake_of_both_cells_costs_once() -> None:
    verdicts = {}
    for cell in table.CELLS:
        name = f"CaptioningRNN.loss ({cell})"
        change = explain.Change(0, "bias missing", "", "h0", "h0 = a", "h0 = b", "")
        named = judge.Localisation([change], True, max)
        verdicts[name] = judge.Judged([judge.Result(name, False, kind="bias missing")], named)
    first, second = judge.report_shared_mistakes_once(verdicts).values()
    assert (first.passed, second.passed) == (False, True)
    assert "CaptioningRNN.loss (rnn)" in second.results[0].advice


@pytest.mark.parametrize("method", ["loss", "sample"])
def test_results_without_a_cell_earn_nothing_though_a_mistake_of_both_cells_gives_them(
    method: str,
) -> None:
    verdicts = {}
    for cell in table.CELLS:
        row = table.FUNCTIONS[f"CaptioningRNN.{method} ({cell})"]
        cases = Draw(0).cases(row.name)
        right = expected.reference(row, cases)
        nothing = {key: 0 * value for key, value in right.arrays.items() if key[:6] != "shapes"}
        if method == "sample":  # the number of the step for a word
            nothing = {key: value + np.arange(value.shape[-1]) for key, value in nothing.items()}
        seen = expected.cut_after_end(row, Observation({**right.arrays, **nothing}, {}), cases)
        verdicts[row.name] = judge.judge(row, seen, right, cases, [], {})
    first, second = verdicts.values()
    assert [one.advice for one in first.results] == [one.advice for one in second.results]
    assert not any(judged.passed for judged in judge.report_shared_mistakes_once(verdicts).values())


def test_zeros_are_no_backward_pass_of_a_forward_pass_without_slopes() -> None:
    row, there = (table.FUNCTIONS[f"rnn_step_{way}"] for way in ("backward", "forward"))
    cases = Draw(0).cases(row.name)
    right = expected.reference(row, cases)

    def sign(x: Any, prev_h: Any, Wx: Any, Wh: Any, b: Any) -> Any:
        next_h = np.sign(x @ Wx + prev_h @ Wh + b)
        return next_h, (x, prev_h, Wx, Wh, next_h)

    change = explain.Change(3, "wrong activation", "", "next_h", "tanh(a)", "sign(a)", "")
    wrong = judge.Result(there.name, False, kind="wrong activation", error=1.0)
    forward = judge.Judged([wrong], judge.Localisation([change], True, sign))
    zeros = Observation({key: 0 * value for key, value in right.arrays.items()}, {})
    judged = judge.judge(row, zeros, right, cases, [there.name], {there.name: forward})
    assert not judged.passed


OF_RNN, OF_LAYERS = Line("rnn.py", 31, "raise"), Line("rnn_layers.py", 31, "raise")
UNWRITTEN, FOLLOWS, WRONG = judge.NOT_WRITTEN, judge.FOLLOWS, "sign"
BELOW = [  # a function, the line that it raises, kinds of those below it, what its advice is
    ("rnn_forward", None, {"rnn_step_forward": WRONG}, "Fix rnn_step_forward first: {} calls it."),
    (
        "rnn_backward",
        None,
        {"rnn_step_forward": UNWRITTEN, "rnn_forward": FOLLOWS},
        "Write rnn_step_forward first: {} builds on it.",
    ),
    (
        "word_embedding_backward",
        None,
        {"word_embedding_forward": UNWRITTEN},
        "Write word_embedding_forward first: {} reads its cache.",
    ),
    (
        "CaptioningRNN.loss (lstm)",
        None,
        {"lstm_step_backward": WRONG, "lstm_backward": FOLLOWS},
        "Fix lstm_step_backward first: {} builds on it.",
    ),
    (
        "CaptioningRNN.loss (rnn)",
        OF_LAYERS,
        {"rnn_forward": UNWRITTEN},
        "Write rnn_forward first: {} calls it.",
    ),
    (
        "CaptioningRNN.loss (rnn)",
        OF_RNN,
        {"rnn_forward": UNWRITTEN},
        "Write CaptioningRNN.loss.",
    ),
]


@pytest.mark.parametrize(("name", "line", "kinds", "advice"), BELOW)
def test_what_is_not_written_or_wrong_is_named_and_not_what_follows_from_it(
    name: str, line: Line | None, kinds: dict[str, str], advice: str
) -> None:
    row, cases = table.FUNCTIONS[name], Draw(0).cases(name)
    right = expected.reference(row, cases)
    error = line and {"out": Note(error=(judge.UNWRITTEN, "", line))}
    wrong = {key: 2 * right.arrays[key] for key in right.arrays if re.match(r"(out|again)\.", key)}
    seen = Observation({**right.arrays, **wrong}, error or {})
    verdicts = {
        below: judge.Judged([judge.Result(below, False, kind=kind)], raised=OF_LAYERS)
        for below, kind in kinds.items()
    }
    judged = judge.judge(row, seen, right, cases, list(kinds)[-1:], verdicts)
    assert judged.results[0].advice == advice.format(name)
