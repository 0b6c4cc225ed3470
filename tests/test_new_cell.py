"""A cell of one's own is one entry in CELLS: this file adds a GRU, and the package trains, samples and checks it as it does its own."""

from typing import Any

import numpy as np
import pytest

from xpcap import CaptioningRNN, CaptioningSolver, OptionError
from xpcap.data.synthetic import draw_data
from xpcap.gradcheck import directional_errors
from xpcap.layers import CELLS, Cell, attention_forward
from xpcap.ops import sigmoid, single_step


def gates(a: Any, h: Any, Wh: Any) -> tuple[Any, ...]:
    """Update gate z, reset gate q, candidate g, and what h brings to the candidate: a and r = h @ Wh stack z, q, g."""
    H, r = h.shape[1], h @ Wh
    z, q = sigmoid(a[:, :H] + r[:, :H]), sigmoid(a[:, H : 2 * H] + r[:, H : 2 * H])
    return z, q, np.tanh(a[:, 2 * H :] + q * r[:, 2 * H :]), r[:, 2 * H :]


def step(a: Any, state: Any, Wh: Any, buffer: Any, beside: Any = None) -> Any:
    (h,) = state
    if beside is not None:
        a = a.copy()
        beside.forward_steps(h, a)(single_step(len(h)))  # adds the term of attention to a
    z, _, g, _ = gates(a, h, Wh)
    return (z * h + (1 - z) * g,)


def rows_forward(a: Any, state0: Any, Wh: Any, rows: Any, buffer: Any = None, beside: Any = None) -> Any:
    h = np.concatenate((state0[0], np.empty((rows.R, len(Wh)), a.dtype)))
    if beside is not None:
        a = a.copy()
        add = beside.forward_steps(h, a)
    for t in rows.steps:
        if beside is not None:
            add(t)
        (h[t.states_after],) = step(a[t.rows], (h[t.states_before],), Wh, buffer)
    return h[rows.N :], (a, h, Wh, rows, beside)


def rows_backward(dh: Any, cache: Any, buffer: Any = None, dWh: Any = None) -> Any:
    a, h, Wh, rows, beside = cache
    da, dr, dh_next = np.empty_like(a), np.empty_like(a), np.zeros((rows.N, len(Wh)), a.dtype)
    back = None if beside is None else beside.backward_steps(da, dh_next)
    for step_ in reversed(rows.steps):
        t, before, n = step_.rows, step_.states_before, step_.n
        z, q, g, r = gates(a[t], h[before], Wh)
        dh_all = dh[t] + dh_next[:n]
        dg = dh_all * (1 - z) * (1 - g * g)
        dz, dq = dh_all * (h[before] - g) * z * (1 - z), dg * r * q * (1 - q)
        da[t], dr[t] = np.concatenate((dz, dq, dg), axis=1), np.concatenate((dz, dq, dg * q), axis=1)
        dh_next[:n] = dh_all * z + dr[t] @ Wh.T
        if back is not None:
            back(step_)  # adds to dh_next what came through attention
    return da, (dh_next,), np.dot(h[: rows.R].T if rows.previous is None else h[rows.previous].T, dr, out=dWh)


GRU = Cell(3, 1, step, rows_forward, rows_backward, takes_beside=True)


def test_a_gru_trains_and_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(CELLS, "gru", GRU)
    data = draw_data(12, 6, 20, seed=0)
    model = CaptioningRNN(data.vocabulary.word_to_idx, 6, 16, 32, "gru", np.float64, seed=0)
    CaptioningSolver(
        model, data, update_rule="adam", optim_config={"learning_rate": 0.02}, num_epochs=100, batch_size=6, verbose=False, seed=0
    ).train()
    assert (model.sample(data.features("train", np.arange(12)), 16) == data.split("train").captions[:, 1:]).mean() > 0.95


@pytest.mark.parametrize("inject", ["init", "every-step", "attention", "attention+every-step"])
def test_a_gru_passes_the_gradient_check_and_samples_what_it_scores(inject: str, monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator) -> None:
    monkeypatch.setitem(CELLS, "gru", GRU)
    shape = (4, 6) if "attention" in inject else 6
    data = draw_data(12, shape, 20, seed=0)
    model = CaptioningRNN(data.vocabulary.word_to_idx, shape, 5, 7, "gru", np.float64, inject=inject, seed=0)
    model.params.flat[...] *= 2
    batch = data.minibatch("train", np.arange(12))
    assert max(directional_errors(lambda: model.loss(*batch)[0], model.params, model.loss(*batch)[1].copy(), rng)) < 1e-7
    captions, p = model.sample_with_probabilities(batch[0], 8, forbid=[0, 1])
    given = np.concatenate([np.full((12, 1), data.vocabulary.start), captions], axis=1)
    np.testing.assert_allclose(-np.log(p[captions != 0]).sum(), model.score(batch[0], given).nll, rtol=1e-10)


def test_a_cell_that_takes_no_extra_term_is_refused_where_it_would_attend(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(CELLS, "plain", GRU._replace(takes_beside=False))
    words = {"<NULL>": 0, "<START>": 1, "a": 2}
    with pytest.raises(OptionError, match=r"cell 'plain' cannot attend, expected .* such as rnn, lstm.*takes_beside=True"):
        CaptioningRNN(words, (4, 6), 5, 7, "plain", inject="attention+every-step")
    with pytest.raises(OptionError, match="attention_forward: cell 'plain' cannot attend"):
        attention_forward(*(np.zeros(shape) for shape in ((1, 2, 5), (1, 4, 7), (5, 21), (7, 21), (7, 21), (21,))), cell="plain")
    assert CaptioningRNN(words, 6, 5, 7, "plain", inject="every-step").sample(np.zeros((1, 6)), 3).shape == (1, 3)


def test_a_cell_without_the_parameter_of_the_extra_term_does_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = GRU._replace(
        step=lambda a, state, Wh, buffer: step(a, state, Wh, buffer),
        rows_forward=lambda a, state0, Wh, rows, buffer=None: rows_forward(a, state0, Wh, rows, buffer),
        takes_beside=False,
    )
    data = draw_data(4, 6, 20, seed=0)
    losses = []
    for cell in (GRU, plain):
        monkeypatch.setitem(CELLS, "gru", cell)
        model = CaptioningRNN(data.vocabulary.word_to_idx, 6, 5, 7, "gru", seed=0)
        losses.append((float(model.loss(*data.minibatch("train", np.arange(4)))[0]), model.sample(data.features("train", np.arange(4)), 3).tolist()))
    assert losses[0] == losses[1]
