"""Cells on top of each other: `stack` makes one cell of several, with the parameters of all."""

import numpy as np
import pytest
from refusals import Refusal, refusals

from xpcap import CaptioningRNN
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


@refusals(
    """
    stack() | ValueError | got: got no cell | expected: two or more
    stack(LSTM) | ValueError | got: got one cell | expected: two or more
    stack("lstm", "lstm") | TypeError | got: got a str | expected: cells | cause: CELLS["lstm"]
    """,
    function="stack",
)
def test_what_makes_no_stack_is_refused(refusal: Refusal) -> None:
    refusal.check(globals())


def test_names_of_states_and_blocks_have_the_number_of_their_layer() -> None:
    assert stack(LSTM, RNN).states == ("h2", "h1", "c1")
    model = CaptioningRNN({"<NULL>": 0, "<START>": 1, "a": 2}, 6, 5, 7, "lstm2", seed=0)
    trace = model.trace(np.zeros((1, 6)), np.array([[1, 2, 0]]))
    assert list(trace.states) == list(trace.gradient_norms) == ["h2", "c2", "h1", "c1"]
    assert list(trace.gates) == ["i1", "f1", "o1", "g1", "i2", "f2", "o2", "g2"]
    assert list(trace.saturation) == [f"gate {name}{k}" for k in (1, 2) for name in "ifo"]
