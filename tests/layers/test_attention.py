"""Attention over the places of a picture: values by hand, sequences of steps, the packed form, both
layouts, and what is refused.
"""

import math
from typing import Any

import numpy as np
import pytest
from refusals import Refusal, refusals, refuses

from xpcap import layers, to_numpy
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
def test_steps_compose_to_the_sequence_both_ways(cell: str, rng: np.random.Generator) -> None:
    x, A, Wx, Wh, Wattn, b = draw(cell, rng)
    h, cache = layers.attention_forward(x, A, Wx, Wh, Wattn, b, cell)
    kind, params = layers.CELLS[cell], {"Wh": Wh}
    state, caches = (A.mean(axis=1),) * len(kind.states), []
    for t in range(T):
        attn, _, looked = layers.dot_product_attention_forward(state[0], A)
        state, stepped = kind.step_forward(x[:, t] @ Wx + attn @ Wattn + b, state, params)
        caches.append((attn, looked, stepped))
        np.testing.assert_allclose(state[0], h[:, t], rtol=1e-12, atol=1e-15)
    dh = rng.standard_normal(h.shape)
    dx, dA, *dweights = layers.attention_backward(dh, cache)
    dstate, total, expected = (
        [np.zeros((N, H)) for _ in state],
        [np.zeros_like(w) for w in (Wx, Wh, Wattn, b)],
        np.zeros_like(A),
    )
    for t, (attn, looked, stepped) in reversed(list(enumerate(caches))):
        dafter = dstate[0] + dh[:, t], *dstate[1:]
        da, dstate, grads = kind.step_backward(dafter, stepped, params)
        step = x[:, t].T @ da, grads["Wh"], attn.T @ da, da.sum(axis=0)
        total = [x + y for x, y in zip(total, step, strict=True)]
        dprev_h, dA_t = layers.dot_product_attention_backward(da @ Wattn.T, looked)
        dstate, expected = (dstate[0] + dprev_h, *dstate[1:]), expected + dA_t
        np.testing.assert_allclose(dx[:, t], da @ Wx.T, rtol=1e-10, atol=1e-13)
    np.testing.assert_allclose(dA, expected + sum(dstate)[:, None] / P, rtol=1e-10, atol=1e-13)
    for ours, by_steps in zip(dweights, total, strict=True):
        np.testing.assert_allclose(ours, by_steps, rtol=1e-10, atol=1e-13)


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
        with refuses(ValueError, function="Attention.backward_steps", got="2 forward passes"):
            kind.rows_backward(h, cache)


def test_an_attention_to_another_number_of_pictures_is_refused(rng: np.random.Generator) -> None:
    _, A, _, Wh, Wattn, _ = draw("lstm", rng)
    a, h0 = rng.standard_normal((N * T, Wh.shape[1])), A[:, 0]
    lstm, rows = layers.CELLS["lstm"], PackedSequences.full(N, T)
    for pictures, way in ((A[:1], "forward"), (np.concatenate((A, A)), "backward")):
        term = layers.Attention(pictures, Wattn)
        with refuses(ValueError, function=f"Attention.{way}_steps", expected=f"{N} sequences"):
            h, cache = lstm.rows_forward(a, (h0, h0), {"Wh": Wh}, rows, extra_term=term)
            lstm.rows_backward(h, cache)


@CELLS
def test_packed_equals_padded(cell: str, rng: np.random.Generator) -> None:
    """Sequences of 4, 2 and 0 steps: states, weights, and the gradients of all that goes in, with
    nothing sent back from steps that are not there.
    """
    x, A, Wx, Wh, Wattn, b = draw(cell, rng)
    rows, kind, attention = (
        PackedSequences.of([2, 2, 1, 1], N),
        layers.CELLS[cell],
        layers.Attention(A, Wattn),
    )
    at, t = rows.sequence, np.arange(T).repeat(rows.batch_sizes)
    packed, loop = kind.rows_forward(
        x[at, t] @ Wx + b,
        (attention.start(),) * len(kind.states),
        {"Wh": Wh},
        rows,
        extra_term=attention,
    )
    h, cache = layers.attention_forward(x, A, Wx, Wh, Wattn, b, cell)
    np.testing.assert_allclose(packed, h[at, t], rtol=1e-12, atol=1e-15)
    for row, (i, step) in enumerate(zip(at, t, strict=True)):
        before = h[i, step - 1] if step else A[i].mean(axis=0)
        _, weights, _ = layers.dot_product_attention_forward(before[None], A[[i]])
        np.testing.assert_allclose(attention.weights[row], weights[0], rtol=1e-12)
    dh = np.zeros_like(h)
    dh[at, t] = rng.standard_normal((rows.R, H))
    dx, *expected = layers.attention_backward(dh, cache)
    da, dstate0, grads = kind.rows_backward(dh[at, t], loop)
    dA, dWattn = attention.gradients(da, sum(dstate0), rows)
    np.testing.assert_allclose(da @ Wx.T, dx[at, t], rtol=1e-12, atol=1e-14)
    for ours, theirs in zip(
        (dA, x[at, t].T @ da, grads["Wh"], dWattn, da.sum(axis=0)), expected, strict=True
    ):
        np.testing.assert_allclose(ours, theirs, rtol=1e-12, atol=1e-13)
    assert not dA[2].any()


@CELLS
def test_the_assignments_layout_gives_the_same_in_its_own(
    cell: str, lib: Any, rng: np.random.Generator
) -> None:
    x, A, *weights = draw(cell, rng)
    as_maps, dh, prev_h = (
        A.transpose(0, 2, 1).reshape(N, H, 2, 4),
        rng.standard_normal((N, T, H)),
        rng.standard_normal((N, H)),
    )
    context, looked, cache = layers.dot_product_attention_forward(*lib(prev_h, as_maps))
    expected, over_places, other = layers.dot_product_attention_forward(*lib(prev_h, A))
    assert looked.shape == (N, 2, 4)
    np.testing.assert_array_equal(to_numpy(looked).reshape(N, P), to_numpy(over_places))
    np.testing.assert_array_equal(to_numpy(context), to_numpy(expected))
    (_, dmaps), (_, dA) = (
        layers.dot_product_attention_backward(lib(prev_h), kept) for kept in (cache, other)
    )
    np.testing.assert_array_equal(to_numpy(dmaps).reshape(N, H, P), to_numpy(dA).transpose(0, 2, 1))
    sequences = [
        layers.attention_forward(*lib(x, places, *weights), cell) for places in (as_maps, A)
    ]
    (_, dmaps, *_), (_, dA, *_) = (
        layers.attention_backward(lib(dh), kept) for _, kept in sequences
    )
    np.testing.assert_array_equal(to_numpy(sequences[0][0]), to_numpy(sequences[1][0]))
    np.testing.assert_array_equal(to_numpy(dmaps).reshape(N, H, P), to_numpy(dA).transpose(0, 2, 1))


@refusals(
    """
    attend(np.zeros((N, H)), np.zeros((N, P, H + 1))) | function: dot_product_attention_forward | thing: A | got: has shape (3, 8, 7) | expected: (N, P, H), N = 3, H = 6
    attend(np.zeros((N, H)), np.zeros((N, 0, H))) | function: dot_product_attention_forward | thing: A | got: has shape (3, 0, 6) | expected: at least one region
    attend(np.zeros((N, H)), np.zeros((N, H, 2, 0))) | function: dot_product_attention_forward | thing: A | got: has shape (3, 6, 2, 0) | expected: at least one region
    attend(np.zeros((N, H)), np.zeros((N, H))) | function: dot_product_attention_forward | thing: A | got: has shape (3, 6) | expected: (N, P, H)
    layers.attention_forward(*rnn) | function: attention_forward | thing: Wh | got: has shape (6, 6) | expected: (H, 4H) | cause: i, f, o, g
    layers.attention_forward(*rnn, cell="no cell") | function: attention_forward | thing: cell | got: 'no cell' | expected: lstm
    """,
    error=ValueError,
)
def test_arguments_that_do_not_fit_are_refused(refusal: Refusal, rng: np.random.Generator) -> None:
    attend = layers.dot_product_attention_forward
    refusal.check({**globals(), "attend": attend, "rnn": draw("rnn", rng)})
