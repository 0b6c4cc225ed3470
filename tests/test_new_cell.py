"""A cell of one's own is one entry in CELLS: this file adds a GRU, and the package trains, samples and checks it as it does its own."""

from typing import Any

import numpy as np
import pytest

from xpcap import CaptioningRNN, CaptioningSolver
from xpcap.data.synthetic import draw_data
from xpcap.gradcheck import directional_errors
from xpcap.layers import CELLS, Cell
from xpcap.ops import sigmoid


def gates(a: Any, h: Any, Wh: Any) -> tuple[Any, ...]:
    """Update gate z, reset gate q, candidate g, and what h brings to the candidate: a and r = h @ Wh stack z, q, g."""
    H, r = h.shape[1], h @ Wh
    z, q = sigmoid(a[:, :H] + r[:, :H]), sigmoid(a[:, H : 2 * H] + r[:, H : 2 * H])
    return z, q, np.tanh(a[:, 2 * H :] + q * r[:, 2 * H :]), r[:, 2 * H :]


def step(a: Any, state: Any, Wh: Any, buffer: Any, beside: Any = None) -> Any:
    z, _, g, _ = gates(a, state[0], Wh)
    return (z * state[0] + (1 - z) * g,)


def rows_forward(a: Any, state0: Any, Wh: Any, rows: Any, buffer: Any = None, beside: Any = None) -> Any:
    h = np.concatenate((state0[0], np.empty((rows.R, len(Wh)), a.dtype)))
    for t in rows.steps:
        (h[t.afters],) = step(a[t.rows], (h[t.befores],), Wh, buffer)
    return h[rows.N :], (a, h, Wh, rows)


def rows_backward(dh: Any, cache: Any, buffer: Any = None, dWh: Any = None) -> Any:
    a, h, Wh, rows = cache
    da, dr, dh_next = np.empty_like(a), np.empty_like(a), np.zeros((rows.N, len(Wh)), a.dtype)
    for step_ in reversed(rows.steps):
        t, before, n = step_.rows, step_.befores, step_.n
        z, q, g, r = gates(a[t], h[before], Wh)
        dh_all = dh[t] + dh_next[:n]
        dg = dh_all * (1 - z) * (1 - g * g)
        dz, dq = dh_all * (h[before] - g) * z * (1 - z), dg * r * q * (1 - q)
        da[t], dr[t] = np.concatenate((dz, dq, dg), axis=1), np.concatenate((dz, dq, dg * q), axis=1)
        dh_next[:n] = dh_all * z + dr[t] @ Wh.T
    return da, (dh_next,), np.dot(h[: rows.R].T if rows.past is None else h[rows.past].T, dr, out=dWh)


def test_a_gru_trains_samples_and_passes_the_gradient_check(monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator) -> None:
    monkeypatch.setitem(CELLS, "gru", Cell(3, 1, step, rows_forward, rows_backward))
    data = draw_data(12, 6, 20, seed=0)
    model = CaptioningRNN(data.vocabulary.word_to_idx, 6, 16, 32, "gru", np.float64, seed=0)
    batch = data.minibatch("train", np.arange(12))
    errors = directional_errors(lambda: model.loss(*batch)[0], model.params, model.loss(*batch)[1].copy(), rng)
    assert max(errors) < 1e-7
    CaptioningSolver(
        model, data, update_rule="adam", optim_config={"learning_rate": 0.02}, num_epochs=100, batch_size=6, verbose=False, seed=0
    ).train()
    assert (model.sample(data.features("train", np.arange(12)), 16) == data.split("train").captions[:, 1:]).mean() > 0.95
