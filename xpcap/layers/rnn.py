"""The vanilla RNN: a step, a sequence (N, T, D), and the one loop over packed time-major rows that both share."""

from collections.abc import Sequence
from typing import NamedTuple

from xpcap.backend import Array, get_array_module
from xpcap.layers.checks import check_arrays, check_upstream
from xpcap.layers.rows import check_sizes, from_rows, past_states, step_rows, to_rows
from xpcap.ops import rnn_cell, rnn_cell_backward, times_transpose
from xpcap.workspace import New, fresh


class RNNStepCache(NamedTuple):
    """What rnn_step_backward needs: the arguments and the result of the step."""

    x: Array
    prev_h: Array
    Wx: Array
    Wh: Array
    next_h: Array


class RNNRowsCache(NamedTuple):
    """What rnn_rows_backward needs."""

    h: Array  # (N+R, H): h0, then the state after each row
    Wh: Array  # (H, H)
    sizes: Sequence[int]
    past: Array | None


class RNNCache(NamedTuple):
    """What rnn_backward needs."""

    x: Array  # (T*N, D), time-major
    Wx: Array  # (D, H)
    rows: RNNRowsCache


def rnn_step_forward(x: Array, prev_h: Array, Wx: Array, Wh: Array, b: Array) -> tuple[Array, RNNStepCache]:
    """next_h = tanh(x @ Wx + prev_h @ Wh + b).

    Parameters
    ----------
    x : array (N, D), float
    prev_h : array (N, H), float
    Wx : array (D, H), float
    Wh : array (H, H), float
    b : array (H,), float

    Returns
    -------
    next_h : array (N, H), float
    cache : for rnn_step_backward

    Raises
    ------
    TypeError, ValueError : libraries, dtypes or shapes that do not fit together.
    """
    check_arrays("rnn_step_forward", "x:N,D prev_h:N,H Wx:D,H Wh:H,H b:H", x, prev_h, Wx, Wh, b)
    next_h = rnn_cell(x @ Wx + b, prev_h @ Wh)
    return next_h, RNNStepCache(x, prev_h, Wx, Wh, next_h)


def rnn_step_backward(dnext_h: Array, cache: RNNStepCache) -> tuple[Array, Array, Array, Array, Array]:
    """Gradients of rnn_step_forward: dnext_h (N, H) to dx, dprev_h, dWx, dWh, db."""
    x, prev_h, Wx, Wh, next_h = cache
    check_upstream("rnn_step_backward", "dnext_h", dnext_h, next_h.shape, next_h)
    nothing = get_array_module(dnext_h).zeros_like(dnext_h)  # all of dnext_h comes from above
    da = rnn_cell_backward(dnext_h, nothing, next_h)
    return da @ Wx.T, da @ Wh.T, x.T @ da, prev_h.T @ da, da.sum(axis=0)


def rnn_rows_forward(
    a: Array, h0: Array, Wh: Array, sizes: Sequence[int], past: Array | None = None, new: New | None = None
) -> tuple[Array, RNNRowsCache]:
    """The recurrence over packed rows: h_t = tanh(a_t + h_{t-1} @ Wh).

    Parameters
    ----------
    a : array (R, H), float; x @ Wx + b of every row. Time-major: the sizes[0] rows of step 0, then the sizes[1] of step 1, ...
    h0 : array (N, H), float
    Wh : array (H, H), float
    sizes : rows alive at each step, never growing; row k of one step continues row k of the step before. R = sum(sizes)
    past : array (R,), int; xpcap.layers.rows.past_rows of these sizes, where the caller has it on the device. Else it is worked out
    new : where results and cache are put; in fresh memory if None

    Returns
    -------
    h : array (R, H), float; a part of the cache
    cache : for rnn_rows_backward

    Raises
    ------
    TypeError, ValueError : libraries, dtypes, shapes or sizes that do not fit together.
    """
    xp = check_arrays("rnn_rows_forward", "a:R,H h0:N,H Wh:H,H", a, h0, Wh)
    R, (N, H) = len(a), h0.shape
    check_sizes("rnn_rows_forward", sizes, R, N)
    h = (new or fresh(a))("h", (N + R, H))
    h[:N] = h0
    for rows, before, after in step_rows(sizes, N):
        r = xp.dot(h[before], Wh, out=h[after])  # (n, H); the state takes its place
        rnn_cell(a[rows], r, out=h[after])
    return h[N:], RNNRowsCache(h, Wh, sizes, past)


def rnn_rows_backward(dh: Array, cache: RNNRowsCache, new: New | None = None, dWh: Array | None = None) -> tuple[Array, Array, Array]:
    """Gradients of rnn_rows_forward: dh (R, H), each step's own, to da (R, H), dh0 (N, H), dWh (H, H), which may be given to write to."""
    h, Wh, sizes, past = cache
    R, H = sum(sizes), h.shape[1]
    N = len(h) - R
    check_upstream("rnn_rows_backward", "dh", dh, (R, H), h)
    xp, new = get_array_module(dh, h), new or fresh(h)
    da, dh_next = new("da", (R, H)), new("dh_next", (N, H))
    dh_next[...] = 0  # what the step after sends back; sequences that have ended there sent nothing
    for rows, _, after in reversed(step_rows(sizes, N)):
        n = rows.stop - rows.start
        rnn_cell_backward(dh[rows], dh_next[:n], h[after], out=da[rows])
        times_transpose(da[rows], Wh, dh_next[:n], new)
    dWh = xp.dot(past_states(h, sizes, N, past, new).T, da, out=dWh)
    return da, dh_next, dWh


def rnn_forward(x: Array, h0: Array, Wx: Array, Wh: Array, b: Array) -> tuple[Array, RNNCache]:
    """Run the RNN over a whole sequence.

    Parameters
    ----------
    x : array (N, T, D), float
    h0 : array (N, H), float; the state before the first step
    Wx : array (D, H), float
    Wh : array (H, H), float
    b : array (H,), float

    Returns
    -------
    h : array (N, T, H), float; the states after each step, h0 not among them
    cache : for rnn_backward

    Raises
    ------
    TypeError, ValueError : libraries, dtypes or shapes that do not fit together.
    """
    check_arrays("rnn_forward", "x:N,T,D h0:N,H Wx:D,H Wh:H,H b:H", x, h0, Wx, Wh, b)
    N, T, _ = x.shape
    x_rows = to_rows(x)
    h, cache = rnn_rows_forward(x_rows @ Wx + b, h0, Wh, [N] * T)
    return from_rows(h, N, T), RNNCache(x_rows, Wx, cache)


def rnn_backward(dh: Array, cache: RNNCache) -> tuple[Array, Array, Array, Array, Array]:
    """Gradients of rnn_forward: dh (N, T, H), each step's own, to dx (N, T, D), dh0, dWx, dWh, db."""
    x, Wx, rows = cache
    T, (_, H) = len(rows.sizes), rows.h.shape
    N = len(rows.h) - sum(rows.sizes)
    check_upstream("rnn_backward", "dh", dh, (N, T, H), rows.h)
    da, dh0, dWh = rnn_rows_backward(to_rows(dh), rows)
    return from_rows(da @ Wx.T, N, T), dh0, x.T @ da, dWh, da.sum(axis=0)
