"""Cells on top of each other: `stack` makes one cell of several, with the parameters of all."""

from typing import Any

import numpy as np
import pytest
from refusals import Refusal, refusals

from xpcap import CaptioningRNN
from xpcap.data.synthetic import draw_data
from xpcap.layers import CELLS, PackedSequences, lstm_forward, rnn_forward, stack

LSTM, RNN = CELLS["lstm"], CELLS["rnn"]
STACK = stack(LSTM, LSTM)


@pytest.fixture(autouse=True)
def listed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(CELLS, "lstm2", STACK)


def test_a_stack_runs_each_layer_on_the_states_of_the_one_below(rng: np.random.Generator) -> None:
    N, T, D, H = 3, 4, 5, 6
    x, h0, lower0 = rng.standard_normal((N, T, D)), *rng.standard_normal((2, N, H))
    cell = stack(LSTM, RNN)
    params = {name: rng.standard_normal(shape) for name, shape in cell.shapes(D, H).items()}
    assert list(params) == ["Wx1", "Wh1", "b1", "Wx2", "Wh2", "b2"]
    h1, _ = lstm_forward(x, lower0, params["Wx1"], params["Wh1"], params["b1"])
    expected, _ = rnn_forward(h1, h0, params["Wx2"], params["Wh2"], params["b2"])
    a = x.transpose(1, 0, 2).reshape(T * N, D) @ params["Wx1"] + params["b1"]
    h, _ = cell.rows_forward(a, (h0, lower0, None), params, PackedSequences.full(N, T))
    np.testing.assert_allclose(h.reshape(T, N, H).transpose(1, 0, 2), expected, rtol=1e-12)


def test_a_stack_attends_if_its_bottom_layer_does_and_names_the_states_of_all() -> None:
    blind = RNN._replace(takes_extra_term=False)
    assert stack(RNN, blind).takes_extra_term
    assert not stack(blind, RNN).takes_extra_term
    assert stack(LSTM, RNN).names_of_states() == ("h2", "h1", "c1")


@refusals(
    """
    stack() | came: no cell
    stack(LSTM) | came: one cell
    """,
    error=ValueError,
    function="stack",
    expected="two or more",
)
def test_a_stack_of_less_than_two_cells_is_refused(refusal: Refusal) -> None:
    refusal.check(globals())


def test_a_stack_is_traced_and_its_gradient_norms_are_those_of_finite_differences(
    rng: np.random.Generator,
) -> None:
    """Of the last word, with respect to each array of the first state."""
    data = draw_data(2, 6, 20, seed=0)
    model = CaptioningRNN(
        data.vocabulary.word_to_idx, 6, 5, 7, "lstm2", np.float64, inject="init", seed=0
    )
    model.params.flat[...] *= 3
    features, captions = data.minibatch("train", np.arange(2))
    captions = np.concatenate((captions[:, :3], np.full((2, 1), data.vocabulary.end)), axis=1)
    trace = model.trace(features, captions)
    assert list(trace.states) == ["h2", "c2", "h1", "c1"]
    assert list(trace.gates) == ["i1", "f1", "o1", "g1", "i2", "f2", "o2", "g2"]
    start = [x[:, 0] for x in trace.states.values()]

    def loss(state: list[Any]) -> Any:
        scores = None
        for t in range(3):
            scores, state = model.step(captions[:, t], tuple(state))
        p = np.exp(scores - scores.max(axis=1, keepdims=True))
        return -np.log(p[:, data.vocabulary.end] / p.sum(axis=1))

    for which, norms in enumerate(trace.gradient_norms.values()):
        numeric = np.zeros((2, 7))
        for unit in range(7):
            for sign in (1, -1):
                moved = [x.copy() for x in start]
                moved[which][:, unit] += sign * 1e-6
                numeric[:, unit] += sign * loss(moved) / 2e-6
        expected = np.sqrt((numeric**2).sum(axis=1))
        np.testing.assert_allclose(norms[:, 2, 0], expected, rtol=1e-6)
        assert (expected > 1e-6).all()
