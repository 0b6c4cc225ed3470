"""A cell of one's own, a GRU that attends: one entry in CELLS, and the package trains it, saves it
and samples from it as from its own.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from refusals import refuses

from xpcap import CaptioningRNN, OptionError, TrainOptions, open_run, train_run
from xpcap.data import write_dataset
from xpcap.data.synthetic import draw_data
from xpcap.gradcheck import directional_errors, eval_numerical_gradient_array
from xpcap.layers import CELLS, Attention, Cell, PackedSequences, attention_forward
from xpcap.memory import allocator
from xpcap.models import Beam, Policy
from xpcap.ops import sigmoid, single_step


def shapes(W: int, H: int) -> dict[str, tuple[int, ...]]:
    """Gates stack z, q, g: update, reset, candidate."""
    return {"Wx": (W, 3 * H), "Wh": (H, 3 * H), "b": (3 * H,)}


def gates(a: Any, h: Any, Wh: Any) -> tuple[Any, ...]:
    """z, q and g, and what the reset gate scales: the candidate's part of r = h @ Wh."""
    H, r = h.shape[1], h @ Wh
    z, q = sigmoid(a[:, :H] + r[:, :H]), sigmoid(a[:, H : 2 * H] + r[:, H : 2 * H])
    return z, q, np.tanh(a[:, 2 * H :] + q * r[:, 2 * H :]), r[:, 2 * H :]


def step(a: Any, state: Any, params: Any, buffer: Any, extra_term: Any = None) -> Any:
    (h,) = state
    if extra_term is not None:
        a = a.copy()
        extra_term.forward_steps(h, a)(single_step(len(h)))
    z, _, g, _ = gates(a, h, params["Wh"])
    return (z * h + (1 - z) * g,)


def rows_forward(
    a: Any, state0: Any, params: Any, rows: Any, buffer: Any = None, extra_term: Any = None
) -> Any:
    h = np.concatenate((state0[0], np.empty((rows.R, state0[0].shape[1]), a.dtype)))
    if extra_term is not None:
        a = a.copy()
        add = extra_term.forward_steps(h, a)
    for t in rows.steps:
        if extra_term is not None:
            add(t)
        (h[t.states_after],) = step(a[t.rows], (h[t.states_before],), params, buffer)
    return h[rows.N :], (a, h, params["Wh"], rows, extra_term)


def rows_backward(dh: Any, cache: Any, buffer: Any = None, grads: Any = None) -> Any:
    a, h, Wh, rows, extra_term = cache
    da, dr, dh_next = np.empty_like(a), np.empty_like(a), np.zeros((rows.N, len(Wh)), a.dtype)
    back = None if extra_term is None else extra_term.backward_steps(da, dh_next)
    for t in reversed(rows.steps):
        before = h[t.states_before]
        z, q, g, r = gates(a[t.rows], before, Wh)
        dh_all = dh[t.rows] + dh_next[: t.n]
        dg = dh_all * (1 - z) * (1 - g * g)
        dz, dq = dh_all * (before - g) * z * (1 - z), dg * r * q * (1 - q)
        da[t.rows] = np.concatenate((dz, dq, dg), axis=1)
        dr[t.rows] = np.concatenate((dz, dq, dg * q), axis=1)  # not da: the reset gate scales r
        dh_next[: t.n] = dh_all * z + dr[t.rows] @ Wh.T
        if back is not None:
            back(t)  # adds to dh_next what came through the term
    return da, (dh_next,), {"Wh": rows.previous_states(h, allocator(h)).T @ dr}


GRU = Cell(shapes, 1, step, rows_forward, rows_backward, takes_extra_term=True)


@pytest.fixture(autouse=True)
def listed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(CELLS, "gru", GRU)


def test_the_gradients_of_the_cell_and_of_what_it_attends_with_are_those_of_finite_differences(
    rng: np.random.Generator,
) -> None:
    """Packed rows, a random upstream gradient, and one sequence without a step."""
    N, H, P, rows = 4, 5, 3, PackedSequences.of([3, 2, 2], 4)
    a, h0, Wh, A, Wattn, dh = (
        rng.standard_normal(shape)
        for shape in ((rows.R, 3 * H), (N, H), (H, 3 * H), (N, P, H), (H, 3 * H), (rows.R, H))
    )

    def forward(_: Any = None) -> Any:
        attention = Attention(A, Wattn)
        h, cache = GRU.rows_forward(a, (h0,), {"Wh": Wh}, rows, extra_term=attention)
        return h, cache, attention

    _, cache, attention = forward()
    da, (dh0,), grads = GRU.rows_backward(dh, cache)
    dA, dWattn = attention.gradients(da, np.zeros((N, H)), rows)  # h0 is not made of A here
    for x, dx in ((a, da), (h0, dh0), (Wh, grads["Wh"]), (A, dA), (Wattn, dWattn)):
        numeric = eval_numerical_gradient_array(lambda _: forward()[0], x, dh)
        np.testing.assert_allclose(dx, numeric, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("inject", ["init", "every-step", "attention", "attention+every-step"])
def test_a_gru_passes_the_gradient_check_and_samples_what_it_scores(
    inject: str, rng: np.random.Generator
) -> None:
    shape = (4, 6) if "attention" in inject else 6
    data = draw_data(12, shape, 20, seed=0)
    model = CaptioningRNN(
        data.vocabulary.word_to_idx,
        shape,
        5,
        7,
        "gru",
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


def test_a_gru_is_trained_saved_reopened_and_sampled(tmp_path: Path) -> None:
    data = draw_data(12, (4, 6), 20, seed=0)
    write_dataset(tmp_path / "x.h5", data)
    trained = train_run(
        TrainOptions(
            data=tmp_path / "x.h5",
            out=tmp_path / "run",
            cell="gru",
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
    assert list(run.model.params)[3:6] == ["Wx", "Wh", "b"]
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


def test_a_cell_that_takes_no_term_is_refused_where_it_would_attend(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(CELLS, "plain", GRU._replace(takes_extra_term=False))
    words = {"<NULL>": 0, "<START>": 1, "a": 2}
    with refuses(
        OptionError,
        thing="cell 'plain'",
        came="cannot attend",
        expected="such as rnn, lstm",
        cause="takes_extra_term=True",
    ):
        CaptioningRNN(words, (4, 6), 5, 7, "plain", inject="attention+every-step")
    with refuses(
        OptionError, function="attention_forward", thing="cell 'plain'", came="cannot attend"
    ):
        attention_forward(
            *(
                np.zeros(shape)
                for shape in ((1, 2, 5), (1, 4, 7), (5, 21), (7, 21), (7, 21), (21,))
            ),
            cell="plain",
        )
    assert CaptioningRNN(words, 6, 5, 7, "plain", inject="every-step").sample(
        np.zeros((1, 6)), 3
    ).shape == (1, 3)


def test_a_cell_without_the_parameter_of_the_term_does_without_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plain = GRU._replace(
        step=lambda a, state, params, buffer: step(a, state, params, buffer),
        rows_forward=lambda a, state0, params, rows, buffer=None: rows_forward(
            a, state0, params, rows, buffer
        ),
        takes_extra_term=False,
    )
    data = draw_data(4, 6, 20, seed=0)
    losses = []
    for cell in (GRU, plain):
        monkeypatch.setitem(CELLS, "gru", cell)
        model = CaptioningRNN(data.vocabulary.word_to_idx, 6, 5, 7, "gru", seed=0)
        losses.append(
            (
                float(model.loss(*data.minibatch("train", np.arange(4)))[0]),
                model.sample(data.features("train", np.arange(4)), 3).tolist(),
            )
        )
    assert losses[0] == losses[1]


@pytest.mark.parametrize(
    ("change", "came", "expected"),
    [
        (
            {"shapes": lambda W, H: shapes(W, H) | {"W_vocab": (H, H)}},
            "has a parameter 'W_vocab'",
            "another name",
        ),
        (
            {"shapes": lambda W, H: shapes(H, H)},
            "inputs ('Wx', 'b') of shapes (7, 21) and (21,)",
            "(W, G) and (G,) with W = 5",
        ),
        ({"inputs": ("Wx", "bx")}, "of shapes (5, 21) and ()", ""),
    ],
)
def test_parameters_that_do_not_fit_in_are_refused(
    change: dict[str, Any], came: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(CELLS, "gru", GRU._replace(**change))
    with refuses(
        OptionError, function="ModelConfig", thing="cell 'gru'", came=came, expected=expected
    ):
        CaptioningRNN({"<NULL>": 0, "<START>": 1, "a": 2}, 6, 5, 7, "gru")


def test_a_gradient_that_a_cell_does_not_return_is_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(
        CELLS, "gru", GRU._replace(rows_backward=lambda *args: (*rows_backward(*args)[:2], {}))
    )
    data = draw_data(4, 6, 20, seed=0)
    model = CaptioningRNN(data.vocabulary.word_to_idx, 6, 5, 7, "gru", seed=0)
    with refuses(
        ValueError, thing="rows_backward of cell 'gru'", came="returned no gradient of Wh"
    ):
        model.loss(*data.minibatch("train", np.arange(4)))
