"""The vanilla RNN: one step, a sequence (N, T, D), and the loop over packed time-major rows."""

from typing import NamedTuple

from xpcap.backend import Array, get_array_module
from xpcap.layers.checks import check_arrays, check_upstream
from xpcap.memory import Buffer, allocator
from xpcap.ops import (
    PackedSequences,
    RecurrentTerm,
    contiguous,
    from_rows,
    get_ops,
    rnn_cell,
    rnn_cell_backward,
    single_step,
    to_rows,
    zero_without_steps,
)
from xpcap.threads import in_turn

State = tuple[Array]  # h (n, H)


class RNNStepCache(NamedTuple):
    """Cache of rnn_step_forward: its arguments and results."""

    x: Array
    prev_h: Array
    Wx: Array
    Wh: Array
    next_h: Array


class RNNRowsCache(NamedTuple):
    """Cache of rnn_rows_forward."""

    h: Array  # (N+R, H): h0, then the state after each row
    Wh: Array  # (H, H)
    rows: PackedSequences
    extra_term: RecurrentTerm | None


class RNNCache(NamedTuple):
    """Cache of rnn_forward."""

    x: Array  # (T*N, D), time-major
    Wx: Array  # (D, H)
    loop: RNNRowsCache


@in_turn
def rnn_step_forward(
    x: Array, prev_h: Array, Wx: Array, Wh: Array, b: Array
) -> tuple[Array, RNNStepCache]:
    """One RNN step, next_h = tanh(x @ Wx + prev_h @ Wh + b).

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
    cache : RNNStepCache
        For rnn_step_backward.

    Raises
    ------
    TypeError, ValueError
        Libraries, dtypes or shapes do not match.
    """
    check_arrays("rnn_step_forward", "x:N,D prev_h:N,H Wx:D,H Wh:H,H b:H", x, prev_h, Wx, Wh, b)
    next_h = rnn_cell(x @ Wx + b, prev_h @ Wh)
    return next_h, RNNStepCache(x, prev_h, Wx, Wh, next_h)


@in_turn
def rnn_step_backward(
    dnext_h: Array, cache: RNNStepCache
) -> tuple[Array, Array, Array, Array, Array]:
    """Gradients of rnn_step_forward.

    Parameters
    ----------
    dnext_h : array (N, H), float
        The upstream gradient of next_h.
    cache : RNNStepCache
        Of rnn_step_forward.

    Returns
    -------
    dx : array (N, D), float
    dprev_h : array (N, H), float
    dWx : array (D, H), float
    dWh : array (H, H), float
    db : array (H,), float

    Raises
    ------
    TypeError, ValueError
        Libraries, dtypes or shapes do not match.
    """
    x, prev_h, Wx, Wh, next_h = cache
    check_upstream("rnn_step_backward", "dnext_h", dnext_h, next_h.shape, next_h)
    zeros = get_array_module(dnext_h).zeros_like(dnext_h)  # none comes from a next step
    da = rnn_cell_backward(dnext_h, zeros, next_h)
    return da @ Wx.T, da @ Wh.T, x.T @ da, prev_h.T @ da, da.sum(axis=0)


def rnn_advance(
    a: Array, state: State, Wh: Array, buffer: Buffer, extra_term: RecurrentTerm | None = None
) -> State:
    """One step from a (n, H) and (h,) to the next (h,), in fresh memory, for sampling."""
    a, Wh, h_prev = (contiguous(x) for x in (a, Wh, *state))
    h = get_array_module(a).empty_like(a)
    get_ops(a).rnn_steps(a, Wh, h_prev, h, extra_term)(single_step(len(h)))
    return (h,)


@in_turn
def rnn_rows_forward(
    a: Array,
    state0: State,
    Wh: Array,
    rows: PackedSequences,
    buffer: Buffer | None = None,
    extra_term: RecurrentTerm | None = None,
) -> tuple[Array, RNNRowsCache]:
    """Run the RNN over packed rows: h_t = tanh(a_t + h_{t-1} @ Wh) of the sequences alive at t.

    Parameters
    ----------
    a : array (R, H), float
        x @ Wx + b of every row, time-major.
    state0 : tuple of h0, an array (N, H), float
        The state before the first step.
    Wh : array (H, H), float
    rows : PackedSequences
        Sequence and step of each of the R rows.
    buffer : Buffer or None
        Memory for results and cache. None allocates.
    extra_term : RecurrentTerm or None
        A term that each step adds to its pre-activation, such as attention.

    Returns
    -------
    h : array (R, H), float
        A view into the cache.
    cache : RNNRowsCache
        For rnn_rows_backward.

    Raises
    ------
    TypeError, ValueError
        Libraries, dtypes, shapes or sizes do not match.
    """
    (h0,) = state0
    check_arrays("rnn_rows_forward", "a:R,H h0:N,H Wh:H,H", a, h0, Wh)
    a, h0, Wh = (contiguous(x) for x in (a, h0, Wh))
    ops, R, (N, H) = get_ops(a), len(a), h0.shape
    rows.check("rnn_rows_forward", R, N)
    h = (buffer or allocator(a))("h", (N + R, H))
    ops.start_states(h0, None, h, None)
    step_fn = ops.rnn_steps(a, Wh, h, h, extra_term)
    for step in rows.steps:
        step_fn(step)
    return h[N:], RNNRowsCache(h, Wh, rows, extra_term)


@in_turn
def rnn_rows_backward(
    dh: Array, cache: RNNRowsCache, buffer: Buffer | None = None, dWh: Array | None = None
) -> tuple[Array, State, Array]:
    """Gradients of rnn_rows_forward.

    Parameters
    ----------
    dh : array (R, H), float
        The upstream gradient of each row, from the layers above.
    cache : RNNRowsCache
        Of rnn_rows_forward.
    buffer : Buffer or None
        Memory for da and dh0. None allocates.
    dWh : array (H, H), float, or None
        Memory for the gradient of Wh. None allocates.

    Returns
    -------
    da : array (R, H), float
    dstate0 : tuple of dh0, an array (N, H), float
    dWh : array (H, H), float

    Raises
    ------
    TypeError, ValueError
        Libraries, dtypes or shapes do not match.
    """
    h, Wh, rows, extra_term = cache
    R, N, H = rows.R, rows.N, h.shape[1]
    check_upstream("rnn_rows_backward", "dh", dh, (R, H), h)
    ops, dh, buffer = get_ops(h), contiguous(dh), buffer or allocator(h)
    da, dh_next = buffer("da", (R, H)), buffer("dh_next", (N, H))
    step_fn = ops.rnn_backward_steps(dh, dh_next, h, Wh, da, extra_term)
    for step in reversed(rows.steps):
        step_fn(step)
    zero_without_steps(rows, dh_next)
    dWh = buffer("dWh", Wh.shape) if dWh is None else dWh
    dWh = ops.matmul(rows.previous_states(h, buffer).T, da, out=dWh)
    return da, (dh_next,), dWh


@in_turn
def rnn_forward(x: Array, h0: Array, Wx: Array, Wh: Array, b: Array) -> tuple[Array, RNNCache]:
    """Run the RNN over a whole sequence.

    Parameters
    ----------
    x : array (N, T, D), float
    h0 : array (N, H), float
        The state before the first step.
    Wx : array (D, H), float
    Wh : array (H, H), float
    b : array (H,), float

    Returns
    -------
    h : array (N, T, H), float
        The state after each step, without h0.
    cache : RNNCache
        For rnn_backward.

    Raises
    ------
    TypeError, ValueError
        Libraries, dtypes or shapes do not match.
    """
    check_arrays("rnn_forward", "x:N,T,D h0:N,H Wx:D,H Wh:H,H b:H", x, h0, Wx, Wh, b)
    N, T, _ = x.shape
    x_rows = to_rows(x)
    a = x_rows @ Wx  # (T*N, H)
    a += b
    h, cache = rnn_rows_forward(a, (h0,), Wh, PackedSequences.full(N, T))
    return from_rows(h, N, T), RNNCache(x_rows, Wx, cache)


@in_turn
def rnn_backward(dh: Array, cache: RNNCache) -> tuple[Array, Array, Array, Array, Array]:
    """Gradients of rnn_forward.

    Parameters
    ----------
    dh : array (N, T, H), float
        The upstream gradient of each step.
    cache : RNNCache
        Of rnn_forward.

    Returns
    -------
    dx : array (N, T, D), float
    dh0 : array (N, H), float
    dWx : array (D, H), float
    dWh : array (H, H), float
    db : array (H,), float

    Raises
    ------
    TypeError, ValueError
        Libraries, dtypes or shapes do not match.
    """
    x, Wx, loop = cache
    N, T, H = loop.rows.N, len(loop.rows.batch_sizes), loop.h.shape[1]
    check_upstream("rnn_backward", "dh", dh, (N, T, H), loop.h)
    da, (dh0,), dWh = rnn_rows_backward(to_rows(dh), loop)
    return from_rows(da @ Wx.T, N, T), dh0, x.T @ da, dWh, da.sum(axis=0)
