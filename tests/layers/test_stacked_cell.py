"""A stack of two LSTMs is a cell: one entry in CELLS, made of the LSTM's own, which names the
parameters of both.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from xpcap import CaptioningRNN, TrainOptions, open_run, train_run
from xpcap.data import write_dataset
from xpcap.data.synthetic import draw_data
from xpcap.gradcheck import directional_errors, eval_numerical_gradient_array
from xpcap.layers import (
    CELLS,
    Attention,
    Cell,
    PackedSequences,
    affine_backward,
    affine_forward,
    lstm_forward,
)
from xpcap.models import Beam, Policy

LSTM = CELLS["lstm"]


def shapes(W: int, H: int) -> dict[str, tuple[int, ...]]:
    lower, upper = LSTM.shapes(W, H), LSTM.shapes(H, H)
    return {f"{name}1": shape for name, shape in lower.items()} | {
        f"{name}2": shape for name, shape in upper.items()
    }


def step(a: Any, state: Any, params: Any, buffer: Any, extra_term: Any = None) -> Any:
    """The state is that of the upper LSTM, then that of the lower one."""
    h1, c1 = LSTM.step(a, state[2:], {"Wh": params["Wh1"]}, buffer.scope("1"), extra_term)
    a2 = h1 @ params["Wx2"] + params["b2"]
    return (*LSTM.step(a2, state[:2], {"Wh": params["Wh2"]}, buffer.scope("2")), h1, c1)


def rows_forward(
    a: Any, state0: Any, params: Any, rows: Any, buffer: Any = None, extra_term: Any = None
) -> Any:
    h0, c0, lower_h0, lower_c0 = state0
    lower_h0 = np.zeros_like(h0) if lower_h0 is None else lower_h0
    scopes = [None if buffer is None else buffer.scope(layer) for layer in "12"]
    h1, lower = LSTM.rows_forward(
        a, (lower_h0, lower_c0), {"Wh": params["Wh1"]}, rows, scopes[0], extra_term
    )
    a2, between = affine_forward(h1, params["Wx2"], params["b2"])
    h2, upper = LSTM.rows_forward(a2, (h0, c0), {"Wh": params["Wh2"]}, rows, scopes[1])
    return h2, (lower, between, upper)


def rows_backward(dh: Any, cache: Any, buffer: Any = None, grads: Any = None) -> Any:
    lower, between, upper = cache
    scopes = [None if buffer is None else buffer.scope(layer) for layer in "12"]
    da2, dstate2, grads2 = LSTM.rows_backward(dh, upper, scopes[1])
    dh1, dWx2, db2 = affine_backward(da2, between)
    da, dstate1, grads1 = LSTM.rows_backward(dh1, lower, scopes[0])
    return (
        da,
        (*dstate2, *dstate1),
        {"Wh1": grads1["Wh"], "Wx2": dWx2, "Wh2": grads2["Wh"], "b2": db2},
    )


STACK = Cell(
    shapes, 4, step, rows_forward, rows_backward, takes_extra_term=True, inputs=("Wx1", "b1")
)


@pytest.fixture(autouse=True)
def listed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(CELLS, "lstm2", STACK)


def test_the_stack_is_one_lstm_on_the_states_of_another(rng: np.random.Generator) -> None:
    N, T, D, H = 3, 4, 5, 6
    x, h0 = rng.standard_normal((N, T, D)), rng.standard_normal((N, H))
    params = {name: rng.standard_normal(shape) for name, shape in shapes(D, H).items()}
    h1, _ = lstm_forward(x, np.zeros((N, H)), params["Wx1"], params["Wh1"], params["b1"])
    expected, _ = lstm_forward(h1, h0, params["Wx2"], params["Wh2"], params["b2"])
    a = x.transpose(1, 0, 2).reshape(T * N, D) @ params["Wx1"] + params["b1"]
    h, _ = STACK.rows_forward(a, (h0, None, None, None), params, PackedSequences.full(N, T))
    np.testing.assert_allclose(h.reshape(T, N, H).transpose(1, 0, 2), expected, rtol=1e-12)


def test_the_gradients_of_the_stack_are_those_of_finite_differences(
    rng: np.random.Generator,
) -> None:
    """Packed rows, a random upstream gradient, states of both layers, and attention in the lower
    one.
    """
    N, H, P, rows = 4, 3, 2, PackedSequences.of([3, 2, 2], 4)
    a, A, Wattn, dh = (
        rng.standard_normal(shape)
        for shape in ((rows.R, 4 * H), (N, P, H), (H, 4 * H), (rows.R, H))
    )
    state0 = tuple(rng.standard_normal((4, N, H)))
    params = {name: rng.standard_normal(shape) for name, shape in shapes(H, H).items()}

    def forward() -> Any:
        attention = Attention(A, Wattn)
        return *STACK.rows_forward(a, state0, params, rows, extra_term=attention), attention

    _, cache, attention = forward()
    da, dstate0, grads = STACK.rows_backward(dh, cache)
    dA, dWattn = attention.gradients(da, np.zeros((N, H)), rows)  # no state is made of A here
    assert set(grads) == {"Wh1", "Wx2", "Wh2", "b2"}
    own = [(params[name], grad) for name, grad in grads.items()]
    for x, dx in ((a, da), (A, dA), (Wattn, dWattn), *own, *zip(state0, dstate0, strict=True)):
        numeric = eval_numerical_gradient_array(lambda _: forward()[0], x, dh)
        np.testing.assert_allclose(dx, numeric, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("inject", ["init", "every-step", "attention"])
def test_a_stack_passes_the_gradient_check_and_samples_what_it_scores(
    inject: str, rng: np.random.Generator
) -> None:
    shape = (4, 6) if inject == "attention" else 6
    data = draw_data(12, shape, 20, seed=0)
    model = CaptioningRNN(
        data.vocabulary.word_to_idx,
        shape,
        5,
        7,
        "lstm2",
        np.float64,
        inject=inject,
        dropout=0.3,
        seed=0,
    )
    model.params.flat[...] *= 2
    batch = data.minibatch("train", np.arange(12))
    grads = model.loss(*batch, step=0)[1].copy()
    assert (
        max(directional_errors(lambda: model.loss(*batch, step=0)[0], model.params, grads, rng))
        < 1e-7
    )
    captions, p = model.sample_with_probabilities(batch[0], 8, forbid=[0, 1])
    given = np.concatenate([np.full((12, 1), data.vocabulary.start), captions], axis=1)
    np.testing.assert_allclose(
        -np.log(p[captions != 0]).sum(), model.score(batch[0], given).nll, rtol=1e-10
    )


def test_a_stack_is_trained_saved_reopened_and_sampled(tmp_path: Path) -> None:
    data = draw_data(12, (4, 6), 20, seed=0)
    write_dataset(tmp_path / "x.h5", data)
    trained = train_run(
        TrainOptions(
            data=tmp_path / "x.h5",
            out=tmp_path / "run",
            cell="lstm2",
            inject="attention+every-step",
            wordvec=16,
            hidden=32,
            epochs=15,
            score_epochs=0,
            batch_size=6,
            lr=0.02,
            dropout=0.0,
            smoothing=0.0,
            feature_scaling="none",
            select="loss",
        )
    )
    losses = [
        json.loads(line)["train_loss"]
        for line in (tmp_path / "run" / "history.jsonl").read_text().splitlines()
    ]
    assert losses[-1] < losses[0] / 1.5
    run = open_run(tmp_path / "run")
    assert list(run.model.params)[3:9] == ["Wx1", "Wh1", "b1", "Wx2", "Wh2", "b2"]
    features = data.features("train", np.arange(12))
    greedy, beam = (
        run.model.decode(features, policy) for policy in (Policy(), Beam(3, length_penalty=0))
    )
    assert (beam.log_probabilities >= greedy.log_probabilities - 1e-4).all()
    np.testing.assert_array_equal(
        greedy.captions, trained.run.model.decode(features, Policy()).captions
    )
    assert (
        len(np.unique(beam.captions[:, 0], axis=0)) > 3
    )  # it says different things of different pictures


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
    assert list(trace.states) == ["h", "state 2", "state 3", "state 4"]
    assert not trace.gates
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
