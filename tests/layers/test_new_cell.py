"""A cell of one's own: an entry in CELLS, and the package trains it, saves it and samples from it as
from its own. What its step returns wrongly is named. Loops, and stacks of cells.
"""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from new_cells import NEW_CELLS, MinimalGated
from refusals import Refusal, refusals, refuses

from xpcap import CaptioningRNN, Recipe, open_run, train_run
from xpcap.backend.memory import Workspace
from xpcap.data import write_dataset
from xpcap.data.synthetic import draw_data
from xpcap.layers import (
    CELLS,
    Attention,
    Cell,
    PackedSequences,
    Pointwise,
    lstm_forward,
    rnn_forward,
    stack,
)
from xpcap.layers.lstm import LSTMCell
from xpcap.models import Beam, Policy
from xpcap.testing import cell as contract
from xpcap.testing import check_cell

LSTM, RNN = CELLS["lstm"], CELLS["rnn"]
pytestmark = pytest.mark.usefixtures("new_cells")


@pytest.mark.parametrize("cell", NEW_CELLS)
def test_a_new_cell_is_trained_saved_reopened_and_sampled(cell: str, tmp_path: Path) -> None:
    data = draw_data(12, (4, 6), 20, seed=0)
    write_dataset(tmp_path / "x.h5", data)
    sizes = {"wordvec": 16, "hidden": 32, "epochs": 15, "batch_size": 6, "lr": 0.02}
    plain = {"score_epochs": 0, "neighbours": False, "dropout": 0.0, "smoothing": 0.0}
    plain |= {"feature_scaling": "none", "select": "loss", "inject": "attention+every-step"}
    files = {"data": tmp_path / "x.h5", "out": tmp_path / "run"}
    trained = train_run(Recipe(cell=cell, **files, **sizes, **plain))
    lines = (tmp_path / "run" / "history.jsonl").read_text().splitlines()
    losses = [json.loads(line)["train_loss"] for line in lines]
    assert losses[-1] < losses[0] / 1.5
    run = open_run(tmp_path / "run")
    names = " ".join(CELLS[cell].shapes(16, 32))
    assert " ".join(run.model.params).startswith(f"W_proj b_proj W_embed {names} ")
    features = data.features("train", np.arange(12))
    policies = Policy(), Beam(3, length_penalty=0)
    greedy, beam = (run.model.decode(features, policy) for policy in policies)
    assert (beam.log_probabilities >= greedy.log_probabilities - 1e-4).all()
    again = trained.run.model.decode(features, policies[0])
    np.testing.assert_array_equal(greedy.captions, again.captions)
    # it says different things of different pictures
    assert len(np.unique(beam.captions[:, 0], axis=0)) > 3


class Delayed(Cell):
    """A cell whose second array is a view of its pre-activations, for the step after."""

    blocks, states = "hc", ("h", "c")

    def shapes(self, W: int, H: int) -> dict[str, tuple[int, ...]]:
        return {"Wx": (W, 2 * H), "Wh": (H, H), "b": (2 * H,)}

    def step_forward(self, a: Any, state: Any, params: Any) -> Any:
        (h, c), (a_h, a_c) = state, self.split(a)
        after = np.tanh(a_h + h @ params["Wh"] + c)
        return (after, a_c), {"before": h, "h": after}

    def step_backward(self, dafter: Any, cache: Any, params: Any) -> Any:
        (dh, dc), (before, after) = dafter, cache.values()
        da_h = dh * (1 - after * after)
        da = np.concatenate((da_h, dc), axis=1)
        return da, (da_h @ params["Wh"].T, da_h), {"Wh": before.T @ da_h}


def test_a_state_may_be_a_view_of_what_a_step_is_given() -> None:
    CELLS["plain"] = Delayed()
    check_cell("plain")


# ---- The loops


@pytest.mark.parametrize("sizes", [[4, 4, 4], [3, 2, 2], []], ids=str)
@pytest.mark.parametrize(
    ("cell", "attends"),
    [
        (name, attends)
        for name, cell in (CELLS | NEW_CELLS).items()
        if type(cell).run_forward is not Cell.run_forward
        # a stack attends from the state of its bottom layer, which is not its first
        for attends in ((False, True) if isinstance(cell, Pointwise) else (False,))
    ],
)
def test_a_loop_of_its_own_gives_what_the_plain_one_gives(
    cell: str, sizes: list[int], attends: bool, rng: np.random.Generator
) -> None:
    W, H, N, P = 2, 5, 4, 3
    fast, rows, found = CELLS[cell], PackedSequences.of(sizes, N), []
    params = {name: rng.standard_normal(shape) for name, shape in fast.shapes(W, H).items()}
    a = rng.standard_normal((rows.R, len(params[fast.inputs[1]])))
    state0 = tuple(rng.standard_normal((len(fast.states), N, H)))
    A, Wattn = rng.standard_normal((N, P, H)), rng.standard_normal((H, a.shape[1]))
    dh = rng.standard_normal((rows.R, H))
    for loop in (type(fast), Cell):
        term = Attention(A, Wattn) if attends else None
        h, cache = loop.run_forward(fast, a, state0, params, rows, extra_term=term)
        da, dstate0, grads = loop.run_backward(fast, dh, cache)
        found.append([h, da, *dstate0, *grads.values()])
    for ours, theirs in zip(*found, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-11, atol=1e-13)


# ---- What is refused


@pytest.mark.parametrize(
    "attribute",
    [
        {"states": ("h", "a")},
        {"states": ("r", "tanh_c"), "saved": {"h": 4, "da": 1}},
        {"scales_recurrence": True},
    ],
    ids=str,
)
def test_an_lstm_has_its_gradients_whatever_it_calls_arrays_or_says_of_r(attribute: Any) -> None:
    """States and saved arrays may be called as others are, and dr be da though they may differ."""
    CELLS["plain"] = type("Renamed", (LSTMCell,), attribute)()
    data = draw_data(8, 5, 30, seed=0)
    batch, grads = data.minibatch("train", np.arange(8)), []
    for cell in ("lstm", "plain"):
        model = CaptioningRNN(data.vocabulary.word_to_idx, 5, 4, 6, cell, np.float64, seed=0)
        grads.append(model.loss(*batch, workspace=Workspace(model.params.flat))[1].flat)
    np.testing.assert_allclose(*grads, rtol=0, atol=1e-14)


class Changed(MinimalGated):
    """A minimal gated unit whose step and gradient return what `forward` and `backward` make of it."""

    def __init__(self, forward: Any = None, backward: Any = None, **attributes: Any) -> None:
        self.forward, self.backward = forward or (lambda *x: x), backward or (lambda *x: x)
        vars(self).update(attributes)

    def step_forward(self, a: Any, state: Any, params: Any) -> Any:
        self.a, self.h = a, state[0]
        return self.forward(*super().step_forward(a, state, params))

    def step_backward(self, dafter: Any, cache: Any, params: Any) -> Any:
        return self.backward(*super().step_backward(dafter, cache, params))


def forward(change: Any) -> None:
    """Run a step whose state after it and cache are changed."""
    cell = CELLS["plain"] = Changed(change)
    loop = contract.Trial("plain").loop()
    _, (cache, _) = loop.forward()
    cell.activations(cache)


def backward(change: Any) -> None:
    """Run a step whose da, gradient of the state before and gradients of parameters are changed."""
    CELLS["plain"] = Changed(backward=change)
    contract.Trial("plain").loop().run()


class ChangedLSTM(type(CELLS["lstm"])):  # type: ignore[misc]
    """An LSTM whose equation and gradient return what `forward` and `backward` make of it."""

    def __init__(self, forward: Any, backward: Any) -> None:
        self.forward, self.backward = forward, backward

    def equation(self, a: Any, r: Any, *state: Any) -> Any:
        return self.forward(*super().equation(a, r, *state))

    def gradient(self, *arguments: Any) -> Any:
        return self.backward(*super().gradient(*arguments))


def same(*results: Any) -> Any:
    return results


def run_lstm(forward: Any = same, backward: Any = same) -> None:
    """Run the loop of an LSTM whose results are changed."""
    CELLS["plain"] = ChangedLSTM(forward, backward)
    contract.Trial("plain").loop().run()


@refusals(
    """
    forward(lambda after, cache: after) | TypeError | got a tuple of 1 | a tuple of the state after, a dict for the gradient
    forward(lambda after, cache: (after[0], cache)) | TypeError | got a ndarray | a tuple of h | has a comma, (h,)
    forward(lambda after, cache: (after * 2, cache)) | TypeError | got a tuple of 2 | a tuple of h
    forward(lambda after, cache: (after, (*cache.values(),))) | TypeError | cache | is a tuple of 3 | a dict
    forward(lambda after, cache: ((after[0][:, :1],), cache)) | ValueError | state h | has shape (3, 1) | (3, 3)
    forward(lambda after, cache: ((after[0].astype("f4"),), cache)) | TypeError | state h | has dtype float32 | float64
    forward(lambda after, cache: ((after[0].tolist(),), cache)) | TypeError | state h | is a list
    forward(lambda after, cache: (after, {"h": cache["h"], "n": cache["n"]})) | ValueError | names 'f', which a step's cache lacks | n
    backward(lambda da, dstate, grads: (da, dstate)) | TypeError | got a tuple of 2 | a tuple of da, dstate, grads
    backward(lambda da, dstate, grads: da) | TypeError | got a ndarray | a tuple of da, dstate, grads
    backward(lambda da, dstate, grads: (da, dstate[0], grads)) | TypeError | got a ndarray | a tuple of gradient of state h | has a comma, (h,)
    backward(lambda da, dstate, grads: (da[:, :1], dstate, grads)) | ValueError | da | has shape (2, 1) | (2, 6)
    backward(lambda da, dstate, grads: (da.astype("f4"), dstate, grads)) | TypeError | da | has dtype float32
    backward(lambda da, dstate, grads: (da, (dstate[0][:, :1],), grads)) | ValueError | gradient of state h | has shape (2, 1)
    backward(lambda da, dstate, grads: (da, dstate, {})) | ValueError | grads | are those of nothing | of Wf, Wn
    backward(lambda da, dstate, grads: (da, dstate, {**grads, "Wx": 0})) | ValueError | grads | Wf, Wn, Wx | the caller computes those of the inputs
    backward(lambda da, dstate, grads: (da, dstate, {**grads, "Wn": grads["Wn"][:1]})) | ValueError | gradient of Wn | has shape (1, 3) | (3, 3)
    run_lstm(lambda after, saved: after) | TypeError | ChangedLSTM.equation, state | got a ndarray
    run_lstm(lambda after, saved: ((after[0][:1], after[1]), saved)) | ValueError | ChangedLSTM.equation:  | state h | has shape (1, 3) | (3, 3)
    run_lstm(lambda after, saved: (after, (saved[0], saved[1].astype("f4")))) | TypeError | saved tanh_c | has dtype float32
    run_lstm(same, lambda da, dr, before: (da, dr, before[1:])) | TypeError | ChangedLSTM.gradient, state | got a tuple of 1
    run_lstm(same, lambda da, dr, before: (da, dr, (None, before[1][:1]))) | ValueError | ChangedLSTM.gradient:  | gradient of state c | has shape (1, 3) | (2, 3)
    run_lstm(same, lambda da, dr, before: (da[0], dr, before)) | ValueError | the result | scales_recurrence
    """,
)
def test_what_a_step_an_equation_or_a_gradient_returns_wrongly_is_named(refusal: Refusal) -> None:
    refusal.check(globals())


@pytest.mark.parametrize("name", ["a", "h"])
def test_a_step_cannot_write_to_what_it_is_given(name: str) -> None:
    def write(after: Any, cache: Any) -> Any:
        getattr(CELLS["plain"], name)[...] = 0

    with pytest.raises(ValueError, match="read-only"):
        forward(write)


@refusals(
    """
    shapes=lambda W, H: {**shapes(W, H), "W_vocab": (H, H)} | has a parameter 'W_vocab' | another name
    shapes=lambda W, H: shapes(H, H) | inputs ('Wx', 'b') of shapes (7, 14) and (14,) | (W, G) and (G,) with W = 5
    inputs=("Wx", "bx") | of shapes (5, 14) and ()
    states=("h h",) | has the name 'h h' | identifiers
    states=("h", "h") | has the name 'h' | each of one state
    """,
    "cell 'plain'",
    error=ValueError,
)
def test_parameters_and_states_that_do_not_fit_in_are_refused(refusal: Refusal) -> None:
    def model(**change: Any) -> CaptioningRNN:
        CELLS["plain"] = Changed(**change)
        return CaptioningRNN({"<NULL>": 0, "<START>": 1, "a": 2}, 6, 5, 7, "plain")

    refusal.check({"shapes": MinimalGated().shapes, "model": model}, "model({})")


def test_a_class_among_the_cells_is_refused() -> None:
    CELLS["plain"] = MinimalGated  # type: ignore[assignment]
    with refuses(ValueError, "cell 'plain'", 'CELLS["plain"] = MinimalGated()'):
        CaptioningRNN({"<NULL>": 0, "<START>": 1, "a": 2}, 6, 5, 7, "plain")


# ---- Stacks


def test_a_stack_runs_each_layer_on_the_states_of_the_one_below(rng: np.random.Generator) -> None:
    N, T, D, H = 3, 4, 5, 6
    x, h0, lower0 = rng.standard_normal((N, T, D)), *rng.standard_normal((2, N, H))
    cell = stack(LSTM, RNN)
    p = {name: rng.standard_normal(shape) for name, shape in cell.shapes(D, H).items()}
    assert list(p) == ["Wx1", "Wh1", "b1", "Wx2", "Wh2", "b2"]
    h1, _ = lstm_forward(x, lower0, p["Wx1"], p["Wh1"], p["b1"])
    expected, _ = rnn_forward(h1, h0, p["Wx2"], p["Wh2"], p["b2"])
    a = x.transpose(1, 0, 2).reshape(T * N, D) @ p["Wx1"] + p["b1"]
    h, _ = cell.rows_forward(a, (h0, lower0, None), p, PackedSequences.full(N, T))
    np.testing.assert_allclose(h.reshape(T, N, H).transpose(1, 0, 2), expected, rtol=1e-12)


def test_names_of_a_stacks_states_and_blocks_have_the_number_of_their_layer() -> None:
    assert stack(LSTM, RNN).states == ("h2", "h1", "c1")
    CELLS["plain"] = stack(LSTM, LSTM)
    model = CaptioningRNN({"<NULL>": 0, "<START>": 1, "a": 2}, 6, 5, 7, "plain", seed=0)
    trace = model.trace(np.zeros((1, 6)), np.array([[1, 2, 0]]))
    assert list(trace.states) == list(trace.gradient_norms) == ["h2", "c2", "h1", "c1"]
    assert list(trace.gates) == ["i1", "f1", "o1", "g1", "i2", "f2", "o2", "g2"]
    assert list(trace.saturation) == [f"gate {name}{k}" for k in (1, 2) for name in "ifo"]


@refusals(
    """
    stack(LSTM) | ValueError | got one cell | two or more
    stack("lstm", "lstm") | TypeError | got a str | cells | CELLS["lstm"]
    """
)
def test_what_makes_no_stack_is_refused(refusal: Refusal) -> None:
    refusal.check(globals())


# ---- Classes that cannot be cells


def test_a_gradient_that_the_fast_form_would_not_use_is_refused() -> None:
    class Unscaled(type(CELLS["gru"])):  # type: ignore[misc]
        scales_recurrence = False

    CELLS["plain"] = Unscaled()
    with refuses(ValueError, "Unscaled.gradient: ", "set scales_recurrence = True"):
        contract.Trial("plain").loop().run()


@pytest.mark.parametrize("name", ["shapes", "split", "step_forward", "rows_forward"])
def test_an_override_that_would_never_run_is_refused_when_the_class_is_made(name: str) -> None:
    def override(*_: Any) -> None:
        raise AssertionError

    mixin = type("Mixin", (), {name: override})
    for bases, methods in (((LSTMCell,), {name: override}), ((mixin, LSTMCell), {})):
        with refuses(TypeError, "Mine: ", name, "subclass Cell"):
            type("Mine", bases, methods)
    with refuses(TypeError, "Mine: ", "gradient", "LSTMCell.gradient"):
        type("Mine", (LSTMCell,), {"equation": override})
    type("Mine", (LSTMCell,), {"equation": override, "gradient": LSTMCell.gradient})


def test_an_unfinished_cell_is_named_with_what_is_missing() -> None:
    class NoStep(Cell):
        blocks = "h"

    class NoEquation(Pointwise):
        blocks = "h"

    no_gradient = type("NoGradient", (NoStep,), {"step_forward": RNN.step_forward})
    half = type("Half", (NoEquation,), {"equation": lambda self, a, r, *_: ((np.tanh(a + r),), ())})
    for cell, missing in (
        (NoStep, "NoStep.step_forward is missing: write a step"),
        (no_gradient, "NoGradient.step_backward is missing: write the gradients"),
        (NoEquation, "NoEquation.equation is missing: write a step"),
        (half, "Half.gradient is missing: write the gradients"),
    ):
        CELLS["plain"] = cell()
        with pytest.raises(NotImplementedError, match=re.escape(missing)):
            check_cell("plain")
