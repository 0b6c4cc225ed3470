"""A cell of one's own, a minimal gated unit that attends: one entry in CELLS, and the package trains
it, saves it and samples from it as from its own; from a stack as well. Source: Zhou et al. 2016.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from refusals import Refusal, refusals, refuses

from xpcap import CaptioningRNN, OptionError, TrainOptions, open_run, train_run
from xpcap.data import write_dataset
from xpcap.data.synthetic import draw_data
from xpcap.layers import CELLS, Cell, Pointwise, attention_forward, loop_of, stack
from xpcap.memory import allocator
from xpcap.models import Beam, Policy
from xpcap.ops import sigmoid, single_step
from xpcap.testing import CELL, check_cell


def shapes(W: int, H: int) -> dict[str, tuple[int, ...]]:
    """Blocks stack f, g: forget gate, candidate."""
    return {"Wx": (W, 2 * H), "Wh": (H, 2 * H), "b": (2 * H,)}


def blocks(a: Any, h: Any, Wh: Any) -> tuple[Any, ...]:
    """f and g, and what the gate scales: the candidate's part of r = h @ Wh."""
    H, r = h.shape[1], h @ Wh
    f = sigmoid(a[:, :H] + r[:, :H])
    return f, np.tanh(a[:, H:] + f * r[:, H:]), r[:, H:]


def step(a: Any, state: Any, params: Any, buffer: Any, extra_term: Any = None) -> Any:
    (h,) = state
    if extra_term is not None:
        a = a.copy()
        extra_term.forward_steps(h, a)(single_step(len(h)))
    f, g, _ = blocks(a, h, params["Wh"])
    return ((1 - f) * h + f * g,)


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
        f, g, r = blocks(a[t.rows], before, Wh)
        dh_all = dh[t.rows] + dh_next[: t.n]
        dg = dh_all * f * (1 - g * g)
        df = (dh_all * (g - before) + dg * r) * f * (1 - f)
        da[t.rows] = np.concatenate((df, dg), axis=1)
        dr[t.rows] = np.concatenate((df, dg * f), axis=1)  # not da: the gate scales r
        dh_next[: t.n] = dh_all * (1 - f) + dr[t.rows] @ Wh.T
        if back is not None:
            back(t)  # adds to dh_next what came through the term
    return da, (dh_next,), {"Wh": rows.previous_states(h, allocator(h)).T @ dr}


MGU = Cell(shapes, 1, step, rows_forward, rows_backward, takes_extra_term=True)


@pytest.fixture(autouse=True)
def listed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(CELLS, "mgu", MGU)
    monkeypatch.setitem(CELLS, "lstm2", stack(CELLS["lstm"], CELLS["lstm"]))


@pytest.mark.parametrize("claim", CELL, ids=lambda claim: claim.__name__)
def test_the_cell_keeps_the_contract(claim: Any) -> None:
    check_cell("mgu", [claim])


@pytest.mark.parametrize(
    ("cell", "own"),
    [("mgu", "Wx Wh b"), ("lstm2", "Wx1 Wh1 b1 Wx2 Wh2 b2")],
    ids=["of one's own", "stacked"],
)
def test_a_new_cell_is_trained_saved_reopened_and_sampled(
    cell: str, own: str, tmp_path: Path
) -> None:
    data = draw_data(12, (4, 6), 20, seed=0)
    write_dataset(tmp_path / "x.h5", data)
    trained = train_run(
        TrainOptions(
            data=tmp_path / "x.h5",
            out=tmp_path / "run",
            cell=cell,
            inject="attention+every-step",
            wordvec=16,
            hidden=32,
            epochs=15,
            score_epochs=0,
            neighbours=False,
            batch_size=6,
            lr=0.02,
            dropout=0.0,
            smoothing=0.0,
            feature_scaling="none",
            select="loss",
        )
    )
    lines = (tmp_path / "run" / "history.jsonl").read_text().splitlines()
    losses = [json.loads(line)["train_loss"] for line in lines]
    assert losses[-1] < losses[0] / 1.5
    run = open_run(tmp_path / "run")
    assert " ".join(run.model.params).startswith(f"W_proj b_proj W_embed {own} ")
    features = data.features("train", np.arange(12))
    greedy, beam = (
        run.model.decode(features, policy) for policy in (Policy(), Beam(3, length_penalty=0))
    )
    assert (beam.log_probabilities >= greedy.log_probabilities - 1e-4).all()
    np.testing.assert_array_equal(
        greedy.captions, trained.run.model.decode(features, Policy()).captions
    )
    # it says different things of different pictures
    assert len(np.unique(beam.captions[:, 0], axis=0)) > 3


def test_a_cell_that_takes_no_term_is_refused_where_it_would_attend(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(CELLS, "plain", MGU._replace(takes_extra_term=False))
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
                for shape in ((1, 2, 5), (1, 4, 7), (5, 14), (7, 14), (7, 14), (14,))
            ),
            cell="plain",
        )
    assert CaptioningRNN(words, 6, 5, 7, "plain", inject="every-step").sample(
        np.zeros((1, 6)), 3
    ).shape == (1, 3)


def test_a_cell_without_the_parameter_of_the_term_does_without_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plain = MGU._replace(
        step=lambda a, state, params, buffer: step(a, state, params, buffer),
        rows_forward=lambda a, state0, params, rows, buffer=None: rows_forward(
            a, state0, params, rows, buffer
        ),
        takes_extra_term=False,
    )
    monkeypatch.setitem(CELLS, "plain", plain)
    check_cell("plain")


@refusals(
    """
    shapes=lambda W, H: {**shapes(W, H), "W_vocab": (H, H)} | came: has a parameter 'W_vocab' | expected: another name
    shapes=lambda W, H: shapes(H, H) | came: inputs ('Wx', 'b') of shapes (7, 14) and (14,) | expected: (W, G) and (G,) with W = 5
    inputs=("Wx", "bx") | came: of shapes (5, 14) and ()
    """,
    error=OptionError,
    function="ModelConfig",
    thing="cell 'mgu'",
)
def test_parameters_that_do_not_fit_in_are_refused(
    refusal: Refusal, monkeypatch: pytest.MonkeyPatch
) -> None:
    def model(**change: Any) -> CaptioningRNN:
        monkeypatch.setitem(CELLS, "mgu", MGU._replace(**change))
        return CaptioningRNN({"<NULL>": 0, "<START>": 1, "a": 2}, 6, 5, 7, "mgu")

    refusal.check({**globals(), "model": model}, "model({})")


def test_a_gradient_that_a_cell_does_not_return_is_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(
        CELLS, "mgu", MGU._replace(rows_backward=lambda *args: (*rows_backward(*args)[:2], {}))
    )
    data = draw_data(4, 6, 20, seed=0)
    model = CaptioningRNN(data.vocabulary.word_to_idx, 6, 5, 7, "mgu", seed=0)
    with refuses(
        ValueError, thing="rows_backward of cell 'mgu'", came="returned no gradient of Wh"
    ):
        model.loss(*data.minibatch("train", np.arange(4)))


def test_an_unfinished_cell_is_named_with_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    class Half(Pointwise):
        name, blocks, product = "half", "h", "h"

        def equation(self, a: Any, r: Any, *state: Any) -> Any:
            return (np.tanh(a + r),), ()

    monkeypatch.setitem(CELLS, "half", loop_of(Half()))
    with pytest.raises(
        NotImplementedError, match=r"Half\.gradient is missing: write the gradients"
    ):
        check_cell("half")
    monkeypatch.setitem(
        CELLS, "half", loop_of(type("Empty", (Half,), {"equation": Pointwise.equation})())
    )
    with pytest.raises(NotImplementedError, match=r"Empty\.equation is missing"):
        check_cell("half")
