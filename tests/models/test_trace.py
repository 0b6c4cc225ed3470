"""The trace of captions: equations between its arrays, gradient norms against finite differences,
and cells of one's own.
"""

from typing import Any

import numpy as np
import pytest
from captioners import batch, make, strong
from new_cells import NEW_CELLS, MinimalGated
from refusals import refuses

from xpcap import CaptioningRNN, layers, to_numpy, use_backend
from xpcap.models import FeatureRows, Trace
from xpcap.models.batch import caption_lengths
from xpcap.models.config import INJECT as WAYS

INJECT = pytest.mark.parametrize("inject", WAYS)
CELLS = pytest.mark.parametrize("cell", [*layers.CELLS, *NEW_CELLS])
pytestmark = pytest.mark.usefixtures("new_cells")


def loss_from(
    model: CaptioningRNN, features: Any, captions: np.ndarray, state: Any, k: int, t: int
) -> Any:
    """-log p of the word that step t predicts, of each caption, from the state after k steps."""
    state = (*state, *model.start(features)[len(state) :])
    if k == t + 1:  # the word is read from h
        scores = state[0] @ model.params["W_vocab"] + model.params["b_vocab"]
    for step in range(k, t + 1):
        scores, state = model.step(captions[:, step], state)
    top = scores.max(axis=1, keepdims=True)
    log_p = scores - top - np.log(np.exp(scores - top).sum(axis=1, keepdims=True))
    return -log_p[np.arange(len(captions)), captions[:, t + 1]]


def numeric_norms(
    model: CaptioningRNN, trace: Trace, features: Any, captions: np.ndarray
) -> dict[str, np.ndarray]:
    """Gradient norms by centred differences, each loss and state on its own."""
    (N, T), d = captions[:, 1:].shape, 1e-6
    states = list(trace.states.values())
    norms = {name: np.zeros((N, T, T + 1)) for name in trace.states}
    for t in range(T):
        for k in range(t + 2):
            for which, name in enumerate(trace.states):
                total = np.zeros(N)
                for unit in range(states[0].shape[2]):
                    sides = []
                    for sign in (d, -d):
                        state = [x[:, k].copy() for x in states]
                        state[which][:, unit] += sign
                        sides.append(loss_from(model, features, captions, state, k, t))
                    total += ((sides[0] - sides[1]) / (2 * d)) ** 2
                norms[name][:, t, k] = np.sqrt(total)
        for one in norms.values():
            one[captions[:, t + 1] == 0, t] = 0
    return norms


@CELLS
@INJECT
def test_states_probabilities_and_norms_are_those_of_decoding_that_reads_the_caption(
    cell: str, inject: str, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Norms by finite differences. Captions of several lengths and one without a word; gradients in
    blocks of captions.
    """
    monkeypatch.setattr("xpcap.models.trace.CAPTIONS_AT_ONCE", 2)
    features, captions = (x[:6] for x in batch(rng, inject))
    captions = captions[:, :5]
    model = strong(cell, rng, inject=inject, dropout=0.4)  # dropout is for training
    traces = [model.trace(features, captions)]
    traces += [model.trace(FeatureRows(features[::-1].copy(), np.arange(6)[::-1]), captions)]
    state, lengths = model.start(features), caption_lengths(captions, 0)
    for t in range(captions.shape[1]):
        taken = t <= lengths
        for x, expected in zip(
            (x for trace in traces for x in trace.states.values()),
            (*state[: len(traces[0].states)],) * 2,
            strict=True,
        ):
            assert (type(x), x.dtype) == (np.ndarray, model.dtype)
            np.testing.assert_allclose(x[taken, t], expected[taken], rtol=1e-9, atol=1e-12)
            assert not x[~taken & (t > 0), t].any()
        if t < captions.shape[1] - 1:
            _, state = model.step(captions[:, t], state)
    picked = np.take_along_axis(traces[0].log_probabilities, captions[:, 1:, None], 2)[:, :, 0]
    expected = model.word_log_probabilities(features, captions)
    np.testing.assert_allclose(np.where(captions[:, 1:] != 0, picked, 0), expected, rtol=1e-9)
    norms = traces[0].gradient_norms
    assert list(norms) == list(traces[0].states)
    for name, expected in numeric_norms(model, traces[0], features, captions).items():
        np.testing.assert_allclose(norms[name], expected, rtol=1e-6, atol=1e-8)
        assert (expected > 1e-3).sum() > 20


@pytest.mark.parametrize(
    ("cell", "inject"),
    [("rnn", "init"), ("plain", "every-step"), ("stacked", "attention+every-step")],
)
def test_libraries_agree(cell: str, inject: str, lib: Any, rng: np.random.Generator) -> None:
    features, captions = batch(rng, inject)
    model = strong(cell, rng, inject=inject)
    there = model.trace(lib(features), captions)
    with use_backend("numpy"):
        host = make(cell, inject=inject)
        host.params = {name: to_numpy(x) for name, x in model.params.items()}
        here = host.trace(features, captions)
    log_p = there.log_probabilities
    np.testing.assert_allclose(log_p, here.log_probabilities, rtol=1e-8, atol=1e-10)
    for ours, theirs in (
        (there.states, here.states),
        (there.gates, here.gates),
        (there.gradient_norms, here.gradient_norms),
    ):
        assert list(ours) == list(theirs)
        for name, x in ours.items():
            np.testing.assert_allclose(x, theirs[name], rtol=1e-8, atol=1e-10)
    for name, found in there.saturation.items():
        np.testing.assert_allclose(found.above, here.saturation[name].above, rtol=1e-12)


def test_the_gates_of_an_lstm_are_those_of_its_step_and_make_its_next_state(
    rng: np.random.Generator,
) -> None:
    features, captions = batch(rng)
    model = strong("lstm", rng)
    p, (states, gates, _, saturation, _) = model.params, model.trace(features, captions)
    h, c = states.values()
    live = np.arange(captions.shape[1] - 1) < caption_lengths(captions, 0)[:, None]
    assert list(gates) == ["i", "f", "o", "g"]
    np.testing.assert_allclose(
        c[:, 1:][live], (gates["f"] * c[:, :-1] + gates["i"] * gates["g"])[live], rtol=1e-12
    )
    np.testing.assert_allclose(h[:, 1:][live], (gates["o"] * np.tanh(c[:, 1:]))[live], rtol=1e-12)
    a = p["W_embed"][captions[:, 2]] @ p["Wx"] + h[:, 2] @ p["Wh"] + p["b"]
    *shares, g = np.split(a, 4, axis=1)
    for name, gate in zip("ifog", (*map(layers.sigmoid, shares), np.tanh(g)), strict=True):
        np.testing.assert_allclose(gates[name][live[:, 2], 2], gate[live[:, 2]], rtol=1e-9)
        assert not gates[name][~live].any()
    assert list(saturation) == ["gate i", "gate f", "gate o"]
    below, above, low, high = saturation["gate f"]
    for share, beyond in ((below, gates["f"] < low), (above, gates["f"] > high)):
        np.testing.assert_allclose(share[live], beyond.mean(axis=2)[live])
        assert 0 < share[live].mean() < 1
        assert not share[~live].any()


def test_an_rnn_has_no_gates_and_the_saturation_of_its_state(rng: np.random.Generator) -> None:
    features, captions = batch(rng)
    trace = strong("rnn", rng).trace(features, captions)
    assert (list(trace.states), trace.gates, list(trace.saturation)) == (["h"], {}, ["state"])


class Quiet(MinimalGated):
    """A minimal gated unit that names no gate."""

    gates = ""

    def step_forward(self, a: Any, state: Any, params: Any) -> Any:
        after, cache = super().step_forward(a, state, params)
        return after, {"saved": cache}

    def step_backward(self, dafter: Any, cache: Any, params: Any) -> Any:
        return super().step_backward(dafter, cache["saved"], params)


def test_a_cell_that_names_nothing_is_traced_all_the_same(
    monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator
) -> None:
    features, captions = batch(rng, "attention")
    model = strong("plain", rng, inject="attention")
    named = model.trace(features, captions)
    monkeypatch.setitem(layers.CELLS, "plain", Quiet())
    quiet = model.trace(features, captions)
    assert (quiet.gates, quiet.saturation) == ({}, {})
    np.testing.assert_array_equal(quiet.states["h"], named.states["h"])
    np.testing.assert_array_equal(quiet.gradient_norms["h"], named.gradient_norms["h"])


def test_what_is_no_batch_is_refused(rng: np.random.Generator) -> None:
    features, captions = batch(rng)
    with refuses(ValueError, "features", "have shape"):
        make("lstm").trace(features[:2], captions)
    with refuses(ValueError, "captions", "another vocabulary"):
        make("lstm").trace(features, captions + 50)
