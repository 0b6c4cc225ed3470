"""Recurrent cells that attend: an LSTM step with a given context, and whole sequences of any cell.

Source: the attention LSTM of UMich EECS 498-007, assignment 5.
"""

from typing import Any, NamedTuple

from xpcap.backend import Array, get_array_module
from xpcap.errors import OptionError, unknown
from xpcap.layers.attention import Attention, check_regions, from_regions, to_regions
from xpcap.layers.cells import CELLS, check_takes_extra_term
from xpcap.layers.checks import check_arrays, check_upstream
from xpcap.layers.lstm import ORDER, LSTMStepCache, lstm_step_backward, lstm_step_forward
from xpcap.ops import Rows, from_rows, to_rows
from xpcap.threads import in_turn


class AttentionLSTMStepCache(NamedTuple):
    """Cache of attention_lstm_step_forward."""

    D: int
    step: LSTMStepCache  # on x and attn side by side


class AttentionCache(NamedTuple):
    """Cache of attention_forward."""

    x: Array  # (T*N, D), time-major
    Wx: Array  # (D, G)
    shape: tuple[int, ...]  # of A as it was given
    attention: Attention
    rows: Rows
    cell: str
    loop: Any  # the cache of the cell's loop


@in_turn
def attention_lstm_step_forward(
    x: Array, prev_h: Array, prev_c: Array, attn: Array, Wx: Array, Wh: Array, Wattn: Array, b: Array
) -> tuple[Array, Array, AttentionLSTMStepCache]:
    """Take one LSTM step with a context: a = x @ Wx + prev_h @ Wh + attn @ Wattn + b.

    The context is more of the input: [x, attn] @ [Wx; Wattn].

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
    """Gradients of attention_lstm_step_forward.

    dnext_h, dnext_c (N, H) to dx, dprev_h, dprev_c, dattn, dWx, dWh, dWattn, db
    """
    D, step = cache
    dinput, dprev_h, dprev_c, dweights, dWh, db = lstm_step_backward(dnext_h, dnext_c, step)
    return dinput[:, :D], dprev_h, dprev_c, dinput[:, D:], dweights[:D], dWh, dweights[D:], db


@in_turn
def attention_forward(
    x: Array, A: Array, Wx: Array, Wh: Array, Wattn: Array, b: Array, cell: str = "lstm"
) -> tuple[Array, AttentionCache]:  # fmt: skip
    """Run a cell that attends over a whole sequence, from h0 = c0 = the mean of A over regions.

    Each step adds attn @ Wattn to its pre-activation, attn = attention to A from the state before.

    Parameters
    ----------
    x : array (N, T, D), float
    A : array (N, P, H), float; the regions of each picture, projected to the size of a state; or
        (N, H, K, K)
    Wx : array (D, G), float; G is 4H for an LSTM, H for an RNN
    Wh, Wattn : array (H, G), float
    b : array (G,), float
    cell : a name in xpcap.layers.CELLS, of a cell with the parameters Wx, Wh and b

    Returns
    -------
    h : array (N, T, H), float; the state after each step, without h0
    cache : for attention_backward

    Raises
    ------
    TypeError, ValueError : libraries, dtypes or shapes do not match, or there is no region.
    OptionError : the cell is unknown, cannot attend, or has other parameters.
    """
    if cell not in CELLS:
        raise unknown("attention_forward", "cell", cell, CELLS)
    check_takes_extra_term("attention_forward", cell)
    kind = CELLS[cell]
    shapes = kind.shapes(1, 1)
    if set(shapes) != {"Wx", "Wh", "b"}:
        raise OptionError(f"attention_forward: cell {cell!r} has the parameters {', '.join(shapes)}, expected one of Wx, Wh and b")
    G = f"{shapes['b'][0]}H"
    check_regions("attention_forward", A, f"x:N,T,D Wh:H,{G} Wx:D,{G} Wattn:H,{G} b:{G}", x, Wh, Wx, Wattn, b, note=ORDER if cell == "lstm" else "")
    N, T, _ = x.shape
    x_rows, rows, attention = to_rows(x), Rows.full(N, T), Attention(to_regions(A), Wattn)
    a = x_rows @ Wx  # (T*N, G)
    a += b
    h, loop = kind.rows_forward(a, (attention.start(),) * kind.states, {"Wh": Wh}, rows, extra_term=attention)
    return from_rows(h, N, T), AttentionCache(x_rows, Wx, A.shape, attention, rows, cell, loop)


@in_turn
def attention_backward(dh: Array, cache: AttentionCache) -> tuple[Array, Array, Array, Array, Array, Array]:
    """Gradients of attention_forward.

    dh (N, T, H), the upstream gradient of each step, to dx (N, T, D), dA, dWx, dWh, dWattn, db
    """
    x, Wx, shape, attention, rows, cell, loop = cache
    N, T = rows.N, len(rows.sizes)
    check_upstream("attention_backward", "dh", dh, (N, T, attention.hidden), x)
    da, dstate0, grads = CELLS[cell].rows_backward(to_rows(dh), loop)
    dA, dWattn = attention.gradients(da, sum(dstate0), rows)
    return from_rows(da @ Wx.T, N, T), from_regions(dA, shape), x.T @ da, grads["Wh"], dWattn, da.sum(axis=0)
