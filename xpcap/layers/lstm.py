"""The LSTM: a step, a sequence (N, T, D), and the one loop over packed time-major rows that both share.

Gates are stacked i, f, o, g along the last axis. Hochreiter & Schmidhuber 1997, with the forget gate of Gers et al. 2000.
"""

from collections.abc import Sequence
from typing import NamedTuple

from xpcap.backend import Array, get_array_module
from xpcap.layers.checks import check_arrays, check_upstream
from xpcap.layers.rows import check_sizes, from_rows, past_states, step_rows, to_rows
from xpcap.ops import Gates, lstm_gates, lstm_gates_backward, times_transpose
from xpcap.workspace import New, fresh

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

    h: Array  # (N+R, H): h0, then the state after each row
    c: Array  # (N+R, H)
    gates: Array  # (R, 4H)
    tanh_c: Array  # (R, H)
    Wh: Array  # (H, 4H)
    sizes: Sequence[int]
    past: Array | None


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
    gates = lstm_gates(x @ Wx + b, prev_h @ Wh, prev_c)
    return gates.h, gates.c, LSTMStepCache(x, prev_h, prev_c, Wx, Wh, gates)


def lstm_step_backward(dnext_h: Array, dnext_c: Array, cache: LSTMStepCache) -> tuple[Array, Array, Array, Array, Array, Array]:
    """Gradients of lstm_step_forward: dnext_h, dnext_c (N, H) to dx, dprev_h, dprev_c, dWx, dWh, db."""
    x, prev_h, prev_c, Wx, Wh, gates = cache
    check_upstream("lstm_step_backward", "dnext_h", dnext_h, prev_c.shape, prev_c)
    check_upstream("lstm_step_backward", "dnext_c", dnext_c, prev_c.shape, prev_c)
    nothing = get_array_module(dnext_h).zeros_like(dnext_h)  # all of dnext_h comes from above
    da, dprev_c = lstm_gates_backward(dnext_h, nothing, dnext_c, gates.gates, gates.tanh_c, prev_c)
    return da @ Wx.T, da @ Wh.T, dprev_c, x.T @ da, prev_h.T @ da, da.sum(axis=0)


def lstm_rows_forward(
    a: Array, h0: Array, c0: Array, Wh: Array, sizes: Sequence[int], past: Array | None = None, new: New | None = None
) -> tuple[Array, LSTMRowsCache]:
    """The recurrence over packed rows: an LSTM step on a_t + h_{t-1} @ Wh, for the sequences alive at each t.

    Parameters
    ----------
    a : array (R, 4H), float; x @ Wx + b of every row. Time-major: the sizes[0] rows of step 0, then the sizes[1] of step 1, ...
    h0, c0 : array (N, H), float
    Wh : array (H, 4H), float
    sizes : rows alive at each step, never growing; row k of one step continues row k of the step before. R = sum(sizes)
    past : array (R,), int; xpcap.layers.rows.past_rows of these sizes, where the caller has it on the device. Else it is worked out
    new : where results and cache are put; in fresh memory if None

    Returns
    -------
    h : array (R, H), float; a part of the cache
    cache : for lstm_rows_backward

    Raises
    ------
    TypeError, ValueError : libraries, dtypes, shapes or sizes that do not fit together.
    """
    xp = check_arrays("lstm_rows_forward", "a:R,4H h0:N,H c0:N,H Wh:H,4H", a, h0, c0, Wh, note=ORDER)
    (R, _), (N, H) = a.shape, h0.shape
    check_sizes("lstm_rows_forward", sizes, R, N)
    new = new or fresh(a)
    h, c, gates, tanh_c = new("h", (N + R, H)), new("c", (N + R, H)), new("gates", (R, 4 * H)), new("tanh_c", (R, H))
    h[:N], c[:N] = h0, c0
    for rows, before, after in step_rows(sizes, N):
        r = xp.dot(h[before], Wh, out=gates[rows])  # (n, 4H); the gates take its place
        lstm_gates(a[rows], r, c[before], out=Gates(h[after], c[after], gates[rows], tanh_c[rows]))
    return h[N:], LSTMRowsCache(h, c, gates, tanh_c, Wh, sizes, past)


def lstm_rows_backward(dh: Array, cache: LSTMRowsCache, new: New | None = None, dWh: Array | None = None) -> tuple[Array, Array, Array, Array]:
    """Gradients of lstm_rows_forward: dh (R, H), each step's own, to da (R, 4H), dh0, dc0 (N, H), dWh (H, 4H), which may be given to write to."""
    h, c, gates, tanh_c, Wh, sizes, past = cache
    (R, H), N = tanh_c.shape, len(h) - len(tanh_c)
    check_upstream("lstm_rows_backward", "dh", dh, (R, H), h)
    xp, new = get_array_module(dh, h), new or fresh(h)
    da, dh_next, dc = new("da", (R, 4 * H)), new("dh_next", (N, H)), new("dc", (N, H))
    dh_next[...], dc[...] = 0, 0  # what the step after sends back; sequences that have ended there sent nothing
    for rows, before, _ in reversed(step_rows(sizes, N)):
        n = rows.stop - rows.start
        lstm_gates_backward(dh[rows], dh_next[:n], dc[:n], gates[rows], tanh_c[rows], c[before], out=(da[rows], dc[:n]))
        times_transpose(da[rows], Wh, dh_next[:n], new)
    dWh = xp.dot(past_states(h, sizes, N, past, new).T, da, out=dWh)
    return da, dh_next, dc, dWh


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
    N, T, H = len(rows.h) - len(rows.tanh_c), len(rows.sizes), rows.h.shape[1]
    check_upstream("lstm_backward", "dh", dh, (N, T, H), rows.h)
    da, dh0, _, dWh = lstm_rows_backward(to_rows(dh), rows)
    return from_rows(da @ Wx.T, N, T), dh0, x.T @ da, dWh, da.sum(axis=0)
