"""Attention over the places of a picture: values by hand, sequences of steps in both layouts, and what
is refused. Packed rows are compared with the captioner's, in tests/models/test_captioning_rnn.py.
"""

import math
from typing import Any

import numpy as np
import pytest
from refusals import Refusal, refusals, refuses

from xpcap import layers, to_numpy, use_backend
from xpcap.ops import PackedSequences

N, T, D, H, P = 3, 4, 5, 6, 8
CELLS = pytest.mark.parametrize(
    "cell", [name for name, x in layers.CELLS.items() if set(x.shapes(1, 1)) == {"Wx", "Wh", "b"}]
)


def draw(cell: str, rng: np.random.Generator) -> list[np.ndarray]:
    """x, A, Wx, Wh, Wattn and b."""
    shapes = layers.CELLS[cell].shapes(D, H)
    recurrent = shapes["Wx"], shapes["Wh"], shapes["Wh"], shapes["b"]
    return [rng.standard_normal(shape) for shape in ((N, T, D), (N, P, H), *recurrent)]


def test_context_and_weights_are_those_of_a_hand_computed_case(lib: Any) -> None:
    """H = 4, so scores are halved: they are 0, ln 2 and ln 5, and the weights 1/8, 2/8 and 5/8."""
    h = np.array([[2.0, 0.0, 0.0, 0.0]])
    A = np.array(
        [[[0.0, 8.0, 0.0, 1.0], [math.log(2), 0.0, 8.0, 1.0], [math.log(5), 8.0, 8.0, 1.0]]]
    )
    context, weights, cache = layers.dot_product_attention_forward(*lib(h, A))
    np.testing.assert_allclose(to_numpy(weights), [[1 / 8, 2 / 8, 5 / 8]], rtol=1e-14)
    np.testing.assert_allclose(
        to_numpy(context), [[(2 * math.log(2) + 5 * math.log(5)) / 8, 6, 7, 1]], rtol=1e-14
    )
    dh, dA = layers.dot_product_attention_backward(lib(np.array([[0.0, 0.0, 1.0, 0.0]])), cache)
    dscores = (
        np.array([1 / 8 * (0 - 7), 2 / 8 * (8 - 7), 5 / 8 * (8 - 7)]) / 2
    )  # of the places' third units, 0, 8 and 8, the mean is 7
    np.testing.assert_allclose(to_numpy(dh), dscores[None] @ A[0], rtol=1e-13, atol=1e-15)
    np.testing.assert_allclose(
        to_numpy(dA)[0],
        np.outer([1 / 8, 2 / 8, 5 / 8], [0, 0, 1, 0]) + np.outer(dscores, h),
        rtol=1e-13,
    )


def test_scores_far_apart_leave_no_overflow() -> None:
    h, A = np.array([[2.0]], np.float32), np.array([[[1e30], [-1e30], [1e30]]], np.float32)
    with np.errstate(over="raise", invalid="raise"):
        context, weights, _ = layers.dot_product_attention_forward(h, A)
    assert weights.tolist() == [[0.5, 0, 0.5]]
    assert context[0, 0] == np.float32(1e30)


def test_a_step_is_given_its_context_as_it_is_its_state(rng: np.random.Generator) -> None:
    x, _, Wx, Wh, Wattn, b = draw("lstm", rng)
    h, c, attn = rng.standard_normal((3, N, H))
    i, f, o, g = np.split(x[:, 0] @ Wx + h @ Wh + attn @ Wattn + b, 4, axis=1)
    i, f, o, g = (*(1 / (1 + np.exp(-z)) for z in (i, f, o)), np.tanh(g))
    next_h, next_c, _ = layers.attention_lstm_step_forward(x[:, 0], h, c, attn, Wx, Wh, Wattn, b)
    np.testing.assert_allclose(next_c, f * c + i * g, rtol=1e-12)
    np.testing.assert_allclose(next_h, o * np.tanh(f * c + i * g), rtol=1e-12)


@CELLS
def test_sequence_is_its_steps_in_either_layout(
    cell: str, lib: Any, rng: np.random.Generator
) -> None:
    x, A, Wx, Wh, Wattn, b = draw(cell, rng)
    as_maps = A.transpose(0, 2, 1).reshape(N, H, 2, 4)
    h, maps_h = (
        to_numpy(layers.attention_forward(*lib(x, places, Wx, Wh, Wattn, b), cell)[0])
        for places in (A, as_maps)
    )
    np.testing.assert_array_equal(maps_h, h)
    kind = layers.CELLS[cell]
    state = (A.mean(axis=1),) * len(kind.states)
    with use_backend("numpy"):
        for t in range(T):
            attn, weights, _ = layers.dot_product_attention_forward(state[0], A)
            maps_attn, maps_weights, _ = layers.dot_product_attention_forward(state[0], as_maps)
            np.testing.assert_array_equal(maps_attn, attn)
            np.testing.assert_array_equal(maps_weights, weights.reshape(N, 2, 4))
            state, _ = kind.step_forward(x[:, t] @ Wx + attn @ Wattn + b, state, {"Wh": Wh})
            np.testing.assert_allclose(state[0], h[:, t], rtol=1e-12, atol=1e-14)


def test_a_term_of_two_forward_passes_gives_no_gradients(rng: np.random.Generator) -> None:
    _, A, _, Wh, Wattn, _ = draw("lstm", rng)
    kind, rows, attention = (
        layers.CELLS["lstm"],
        PackedSequences.full(N, T),
        layers.Attention(A, Wattn),
    )
    caches = []
    for _ in range(2):
        a = rng.standard_normal((N * T, Wh.shape[1]))
        h, cache = kind.rows_forward(a, (A[:, 0],) * 2, {"Wh": Wh}, rows, extra_term=attention)
        caches.append(cache)
    for cache in caches:
        with refuses(ValueError, "Attention.backward_steps: ", "2 forward passes"):
            kind.rows_backward(h, cache)


def test_an_attention_to_another_number_of_pictures_is_refused(rng: np.random.Generator) -> None:
    _, A, _, Wh, Wattn, _ = draw("lstm", rng)
    a, h0 = rng.standard_normal((N * T, Wh.shape[1])), A[:, 0]
    lstm, rows = layers.CELLS["lstm"], PackedSequences.full(N, T)
    for pictures, way in ((A[:1], "forward"), (np.concatenate((A, A)), "backward")):
        term = layers.Attention(pictures, Wattn)
        with refuses(ValueError, f"Attention.{way}_steps", f"{N} sequences"):
            h, cache = lstm.rows_forward(a, (h0, h0), {"Wh": Wh}, rows, extra_term=term)
            lstm.rows_backward(h, cache)


@refusals(
    """
    attend(np.zeros((N, H)), np.zeros((N, P, H + 1))) | dot_product_attention_forward:  | A | has shape (3, 8, 7) | (N, P, H), N = 3, H = 6
    attend(np.zeros((N, H)), np.zeros((N, 0, H))) | dot_product_attention_forward:  | A | has shape (3, 0, 6) | at least one region
    attend(np.zeros((N, H)), np.zeros((N, H, 2, 0))) | dot_product_attention_forward:  | A | has shape (3, 6, 2, 0) | at least one region
    attend(np.zeros((N, H)), np.zeros((N, H))) | dot_product_attention_forward:  | A | has shape (3, 6) | (N, P, H)
    layers.attention_forward(*rnn) | attention_forward:  | Wh | has shape (6, 6) | (H, 4H) | i, f, o, g
    layers.attention_forward(*rnn, cell="no cell") | attention_forward:  | cell | 'no cell' | lstm
    """,
    error=ValueError,
)
def test_arguments_that_do_not_fit_are_refused(refusal: Refusal, rng: np.random.Generator) -> None:
    attend = layers.dot_product_attention_forward
    refusal.check({**globals(), "attend": attend, "rnn": draw("rnn", rng)})
