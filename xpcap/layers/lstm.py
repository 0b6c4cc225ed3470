"""The LSTM: a step, a sequence (N, T, D), and the one loop over packed time-major rows that both share.

Gates are stacked i, f, o, g along the last axis. Hochreiter & Schmidhuber 1997, with the forget gate of Gers et al. 2000.
"""

from collections.abc import Sequence
from typing import NamedTuple

from xpcap.backend import Array, get_array_module
from xpcap.layers.checks import check_arrays, check_upstream
from xpcap.layers.rows import carry_rows, check_sizes, from_rows, previous_rows, step_rows, to_rows
from xpcap.ops import Gates, lstm_gates, lstm_gates_backward

ORDER = "gates stack i, f, o, g"


class LSTMStepCache(NamedTuple):
    """What lstm_step_backward needs: the arguments and the result of the step."""

    x: Array
    prev_h: Array
    prev_c: Array
    Wx: Array
    Wh: Array
    gates: Gates


class LSTMRowsCache(NamedTuple):
    """What lstm_rows_backward needs."""

    h0: Array  # (N, H)
    c0: Array  # (N, H)
    Wh: Array  # (H, 4H)
    steps: Gates  # each field over all rows (R, .)
    sizes: Sequence[int]


class LSTMCache(NamedTuple):
    """What lstm_backward needs."""

    x: Array  # (T*N, D), time-major
    Wx: Array  # (D, 4H)
    rows: LSTMRowsCache


def lstm_step_forward(x: Array, prev_h: Array, prev_c: Array, Wx: Array, Wh: Array, b: Array) -> tuple[Array, Array, LSTMStepCache]:
    """One LSTM step.

    a = x @ Wx + prev_h @ Wh + b;  i, f, o = sigmoid(a_i), sigmoid(a_f), sigmoid(a_o);  g = tanh(a_g)
    next_c = f * prev_c + i * g;  next_h = o * tanh(next_c)

    Parameters
    ----------
    x : array (N, D), float
    prev_h, prev_c : array (N, H), float
    Wx : array (D, 4H), float
    Wh : array (H, 4H), float
    b : array (4H,), float

    Returns
    -------
    next_h, next_c : array (N, H), float
    cache : for lstm_step_backward

    Raises
    ------
    TypeError, ValueError : libraries, dtypes or shapes that do not fit together.
    """
    check_arrays("lstm_step_forward", "x:N,D prev_h:N,H prev_c:N,H Wx:D,4H Wh:H,4H b:4H", x, prev_h, prev_c, Wx, Wh, b, note=ORDER)
    gates = lstm_gates(x @ Wx + prev_h @ Wh + b, prev_c)
    return gates.h, gates.c, LSTMStepCache(x, prev_h, prev_c, Wx, Wh, gates)


def lstm_step_backward(dnext_h: Array, dnext_c: Array, cache: LSTMStepCache) -> tuple[Array, Array, Array, Array, Array, Array]:
    """Gradients of lstm_step_forward: dnext_h, dnext_c (N, H) to dx, dprev_h, dprev_c, dWx, dWh, db."""
    x, prev_h, prev_c, Wx, Wh, gates = cache
    check_upstream("lstm_step_backward", "dnext_h", dnext_h, prev_c.shape, prev_c)
    check_upstream("lstm_step_backward", "dnext_c", dnext_c, prev_c.shape, prev_c)
    da, dprev_c = lstm_gates_backward(dnext_h, dnext_c, gates.gates, gates.tanh_c, prev_c)
    return da @ Wx.T, da @ Wh.T, dprev_c, x.T @ da, prev_h.T @ da, da.sum(axis=0)


def lstm_rows_forward(a: Array, h0: Array, c0: Array, Wh: Array, sizes: Sequence[int]) -> tuple[Array, LSTMRowsCache]:
    """The recurrence over packed rows: an LSTM step on a_t + h_{t-1} @ Wh, for the sequences alive at each t.

    Parameters
    ----------
    a : array (R, 4H), float; x @ Wx + b of every row. Time-major: the sizes[0] rows of step 0, then the sizes[1] of step 1, ...
    h0, c0 : array (N, H), float
    Wh : array (H, 4H), float
    sizes : rows alive at each step, never growing; row k of one step continues row k of the step before. R = sum(sizes)

    Returns
    -------
    h : array (R, H), float
    cache : for lstm_rows_backward

    Raises
    ------
    TypeError, ValueError : libraries, dtypes, shapes or sizes that do not fit together.
    """
    xp = check_arrays("lstm_rows_forward", "a:R,4H h0:N,H c0:N,H Wh:H,4H", a, h0, c0, Wh, note=ORDER)
    check_sizes("lstm_rows_forward", sizes, len(a), len(h0))
    R, H = a.shape[0], h0.shape[1]
    steps = Gates(h=xp.empty((R, H), a.dtype), c=xp.empty((R, H), a.dtype), gates=xp.empty_like(a), tanh_c=xp.empty((R, H), a.dtype))
    h_prev, c_prev = h0, c0
    for rows, n in step_rows(sizes):
        step = lstm_gates(a[rows] + h_prev[:n] @ Wh, c_prev[:n])
        for everything, this in zip(steps, step, strict=True):
            everything[rows] = this
        h_prev, c_prev = step.h, step.c
    return steps.h, LSTMRowsCache(h0, c0, Wh, steps, sizes)


def lstm_rows_backward(dh: Array, cache: LSTMRowsCache) -> tuple[Array, Array, Array, Array]:
    """Gradients of lstm_rows_forward: dh (R, H), each step's own, to da (R, 4H), dh0, dc0 (N, H), dWh (H, 4H)."""
    h0, c0, Wh, steps, sizes = cache
    check_upstream("lstm_rows_backward", "dh", dh, steps.h.shape, steps.h)
    xp = get_array_module(dh, steps.h)
    da = xp.empty_like(steps.gates)
    c_prev = previous_rows(c0, steps.c, sizes)
    dh_next, dc_next = xp.zeros_like(h0), xp.zeros_like(c0)  # what the step after sends back; rows that have ended sent nothing
    for rows, n in reversed(step_rows(sizes)):
        da[rows], dc_prev = lstm_gates_backward(dh[rows] + dh_next[:n], dc_next[:n], steps.gates[rows], steps.tanh_c[rows], c_prev[rows])
        dh_next, dc_next = carry_rows(da[rows] @ Wh.T, dh_next), carry_rows(dc_prev, dc_next)
    return da, dh_next, dc_next, previous_rows(h0, steps.h, sizes).T @ da


def lstm_forward(x: Array, h0: Array, Wx: Array, Wh: Array, b: Array) -> tuple[Array, LSTMCache]:
    """Run the LSTM over a whole sequence, from c0 = 0.

    Parameters
    ----------
    x : array (N, T, D), float
    h0 : array (N, H), float; the state before the first step
    Wx : array (D, 4H), float
    Wh : array (H, 4H), float
    b : array (4H,), float

    Returns
    -------
    h : array (N, T, H), float; the states after each step, h0 not among them
    cache : for lstm_backward

    Raises
    ------
    TypeError, ValueError : libraries, dtypes or shapes that do not fit together.
    """
    xp = check_arrays("lstm_forward", "x:N,T,D h0:N,H Wx:D,4H Wh:H,4H b:4H", x, h0, Wx, Wh, b, note=ORDER)
    N, T, _ = x.shape
    x_rows = to_rows(x)
    h, cache = lstm_rows_forward(x_rows @ Wx + b, h0, xp.zeros_like(h0), Wh, [N] * T)
    return from_rows(h, N, T), LSTMCache(x_rows, Wx, cache)


def lstm_backward(dh: Array, cache: LSTMCache) -> tuple[Array, Array, Array, Array, Array]:
    """Gradients of lstm_forward: dh (N, T, H), each step's own, to dx (N, T, D), dh0, dWx, dWh, db."""
    x, Wx, rows = cache
    N, T = rows.h0.shape[0], len(rows.sizes)
    check_upstream("lstm_backward", "dh", dh, (N, T, rows.h0.shape[1]), rows.h0)
    da, dh0, _, dWh = lstm_rows_backward(to_rows(dh), rows)
    return from_rows(da @ Wx.T, N, T), dh0, x.T @ da, dWh, da.sum(axis=0)
