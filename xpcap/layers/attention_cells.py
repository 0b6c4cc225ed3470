"""Recurrent cells that attend: a step of each that is given a context, and a whole sequence, which attends at every step.

Source: the attention LSTM of UMich EECS 498-007, assignment 5.
"""

from typing import Any, NamedTuple

from xpcap.backend import Array, get_array_module
from xpcap.blas import in_turn
from xpcap.errors import unknown
from xpcap.layers.attention import Attention, check_places, from_places, to_places
from xpcap.layers.cells import CELLS, check_takes_beside
from xpcap.layers.checks import check_arrays, check_upstream
from xpcap.layers.lstm import ORDER, LSTMStepCache, lstm_step_backward, lstm_step_forward
from xpcap.layers.rnn import RNNStepCache, rnn_step_backward, rnn_step_forward
from xpcap.ops import PackedSequences, from_rows, to_rows


class AttentionLSTMStepCache(NamedTuple):
    """Cache of attention_lstm_step_forward."""

    D: int
    step: LSTMStepCache  # on x and attn side by side


class AttentionRNNStepCache(NamedTuple):
    """Cache of attention_rnn_step_forward."""

    D: int
    step: RNNStepCache  # on x and attn side by side


class AttentionCache(NamedTuple):
    """Cache of attention_forward."""

    x: Array  # (T*N, D), time-major
    Wx: Array  # (D, G)
    shape: tuple[int, ...]  # of A as it was given
    attention: Attention
    rows: PackedSequences
    cell: str
    loop: Any  # the cache of the cell's loop


@in_turn
def attention_lstm_step_forward(
    x: Array, prev_h: Array, prev_c: Array, attn: Array, Wx: Array, Wh: Array, Wattn: Array, b: Array
) -> tuple[Array, Array, AttentionLSTMStepCache]:
    """Take one LSTM step that is given a context: lstm_step_forward with a = x @ Wx + prev_h @ Wh + attn @ Wattn + b.

    So the context is more of the input: [x, attn] @ [Wx; Wattn].

    Parameters
    ----------
    x : array (N, D), float
    prev_h, prev_c : array (N, H), float
    attn : array (N, H), float; the context, as from dot_product_attention_forward
    Wx : array (D, 4H), float
    Wh, Wattn : array (H, 4H), float
    b : array (4H,), float

    Returns
    -------
    next_h, next_c : array (N, H), float
    cache : for attention_lstm_step_backward

    Raises
    ------
    TypeError, ValueError : libraries, dtypes or shapes do not match.
    """
    shapes = "x:N,D prev_h:N,H prev_c:N,H attn:N,H Wx:D,4H Wh:H,4H Wattn:H,4H b:4H"
    check_arrays("attention_lstm_step_forward", shapes, x, prev_h, prev_c, attn, Wx, Wh, Wattn, b, note=ORDER)
    xp = get_array_module(x)
    next_h, next_c, step = lstm_step_forward(xp.concatenate((x, attn), axis=1), prev_h, prev_c, xp.concatenate((Wx, Wattn)), Wh, b)
    return next_h, next_c, AttentionLSTMStepCache(len(Wx), step)


@in_turn
def attention_lstm_step_backward(
    dnext_h: Array, dnext_c: Array, cache: AttentionLSTMStepCache
) -> tuple[Array, Array, Array, Array, Array, Array, Array, Array]:
    """Gradients of attention_lstm_step_forward: dnext_h, dnext_c (N, H) to dx, dprev_h, dprev_c, dattn, dWx, dWh, dWattn, db."""
    D, step = cache
    dinput, dprev_h, dprev_c, dweights, dWh, db = lstm_step_backward(dnext_h, dnext_c, step)
    return dinput[:, :D], dprev_h, dprev_c, dinput[:, D:], dweights[:D], dWh, dweights[D:], db


@in_turn
def attention_rnn_step_forward(
    x: Array, prev_h: Array, attn: Array, Wx: Array, Wh: Array, Wattn: Array, b: Array
) -> tuple[Array, AttentionRNNStepCache]:  # fmt: skip
    """next_h = tanh(x @ Wx + prev_h @ Wh + attn @ Wattn + b): rnn_step_forward given a context attn (N, H), with Wattn (H, H)."""
    check_arrays("attention_rnn_step_forward", "x:N,D prev_h:N,H attn:N,H Wx:D,H Wh:H,H Wattn:H,H b:H", x, prev_h, attn, Wx, Wh, Wattn, b)
    xp = get_array_module(x)
    next_h, step = rnn_step_forward(xp.concatenate((x, attn), axis=1), prev_h, xp.concatenate((Wx, Wattn)), Wh, b)
    return next_h, AttentionRNNStepCache(len(Wx), step)


@in_turn
def attention_rnn_step_backward(dnext_h: Array, cache: AttentionRNNStepCache) -> tuple[Array, Array, Array, Array, Array, Array, Array]:
    """Gradients of attention_rnn_step_forward: dnext_h (N, H) to dx, dprev_h, dattn, dWx, dWh, dWattn, db."""
    D, step = cache
    dinput, dprev_h, dweights, dWh, db = rnn_step_backward(dnext_h, step)
    return dinput[:, :D], dprev_h, dinput[:, D:], dweights[:D], dWh, dweights[D:], db


@in_turn
def attention_forward(
    x: Array, A: Array, Wx: Array, Wh: Array, Wattn: Array, b: Array, cell: str = "lstm"
) -> tuple[Array, AttentionCache]:  # fmt: skip
    """Run a cell that attends over a whole sequence, from h0 = c0 = the mean of A over the places.

    At every step attn = dot-product attention from the state before it to A, and h = the cell's step given attn.

    Parameters
    ----------
    x : array (N, T, D), float
    A : array (N, P, H), float; the places of each picture, projected to the size of a state. (N, H, K, K) does as well
    Wx : array (D, G), float; G is 4H for an LSTM, H for an RNN
    Wh, Wattn : array (H, G), float
    b : array (G,), float
    cell : a name in xpcap.layers.CELLS

    Returns
    -------
    h : array (N, T, H), float; the state after each step, without h0
    cache : for attention_backward

    Raises
    ------
    TypeError, ValueError : libraries, dtypes or shapes do not match, or there is no place. OptionError : the cell is unknown, or cannot attend.
    """
    if cell not in CELLS:
        raise unknown("attention_forward", "cell", cell, CELLS)
    check_takes_beside("attention_forward", cell)
    kind = CELLS[cell]
    G = f"{kind.gates}H"
    check_places("attention_forward", A, f"x:N,T,D Wh:H,{G} Wx:D,{G} Wattn:H,{G} b:{G}", x, Wh, Wx, Wattn, b, note=ORDER if cell == "lstm" else "")
    N, T, _ = x.shape
    x_rows, rows, attention = to_rows(x), PackedSequences.full(N, T), Attention(to_places(A), Wattn)
    a = x_rows @ Wx  # (T*N, G)
    a += b
    h, loop = kind.rows_forward(a, (attention.start(),) * kind.states, Wh, rows, beside=attention)
    return from_rows(h, N, T), AttentionCache(x_rows, Wx, A.shape, attention, rows, cell, loop)


@in_turn
def attention_backward(dh: Array, cache: AttentionCache) -> tuple[Array, Array, Array, Array, Array, Array]:
    """Gradients of attention_forward: dh (N, T, H), the upstream gradient of each step, to dx (N, T, D), dA, dWx, dWh, dWattn, db."""
    x, Wx, shape, attention, rows, cell, loop = cache
    N, T = rows.N, len(rows.batch_sizes)
    check_upstream("attention_backward", "dh", dh, (N, T, attention.hidden), x)
    da, dstate0, dWh = CELLS[cell].rows_backward(to_rows(dh), loop)
    dA, dWattn = attention.gradients(da, sum(dstate0), rows)
    return from_rows(da @ Wx.T, N, T), from_places(dA, shape), x.T @ da, dWh, dWattn, da.sum(axis=0)
