"""The LSTM: one step, a sequence (N, T, D), and the loop over packed time-major rows.

Gates are stacked i, f, o, g along the last axis. Source: Hochreiter & Schmidhuber 1997, with the
forget gate of Gers et al. 2000.
"""

from typing import Any, NamedTuple

from xpcap.backend import Array, get_array_module
from xpcap.errors import InvalidValueError
from xpcap.layers.checks import check_arrays, check_upstream
from xpcap.memory import Buffer, allocator
from xpcap.ops import (
    Gates,
    PackedSequences,
    RecurrentTerm,
    contiguous,
    from_rows,
    get_ops,
    lstm_gates_backward,
    single_step,
    to_rows,
    zero_without_steps,
)
from xpcap.spec import Spec
from xpcap.threads import in_turn

ORDER = "gates stack i, f, o, g"
STEP = Spec("x:N,D prev_h:N,H prev_c:N,H Wx:D,4H Wh:H,4H b:4H -> next_h:N,H next_c:N,H", note=ORDER)
SEQUENCE = Spec("x:N,T,D h0:N,H Wx:D,4H Wh:H,4H b:4H c0?:N,H -> h:N,T,H c_T?:N,H", note=ORDER)
State = tuple[Array, Array]  # h and c, each (n, H)


class LSTMStepCache(NamedTuple):
    """Cache of lstm_step_forward: its arguments and results."""

    x: Array
    prev_h: Array
    prev_c: Array
    Wx: Array
    Wh: Array
    gates: Gates


class LSTMRowsCache(NamedTuple):
    """Cache of lstm_rows_forward."""

    # h and c (N+R, H): initial states, then those after each row; gates (R, 4H) and tanh_c (R, H)
    out: Gates
    Wh: Array  # (H, 4H)
    rows: PackedSequences
    extra_term: RecurrentTerm | None


class LSTMCache(NamedTuple):
    """Cache of lstm_forward."""

    x: Array  # (T*N, D), time-major
    Wx: Array  # (D, 4H)
    loop: LSTMRowsCache
    carried: bool  # c0 was given and c_T returned: lstm_backward returns dc0


@in_turn
@STEP.documents
def lstm_step_forward(
    x: Array, prev_h: Array, prev_c: Array, Wx: Array, Wh: Array, b: Array
) -> tuple[Array, Array, LSTMStepCache]:
    """One LSTM step.

    Gates stack i, f, o, g::

        a = x @ Wx + prev_h @ Wh + b
        i, f, o = sigmoid(a_i), sigmoid(a_f), sigmoid(a_o);  g = tanh(a_g)
        next_c = f * prev_c + i * g;  next_h = o * tanh(next_c)

    Parameters
    ----------
    x
    prev_h, prev_c
    Wx
    Wh
    b

    Returns
    -------
    next_h, next_c
    cache : LSTMStepCache
        For lstm_step_backward.

    Raises
    ------
    TypeError, ValueError
        Libraries, dtypes or shapes do not match.
    """
    STEP.check("lstm_step_forward", x, prev_h, prev_c, Wx, Wh, b)
    gates = get_ops(x).lstm_gates(x @ Wx + b, prev_h @ Wh, prev_c)
    return gates.h, gates.c, LSTMStepCache(x, prev_h, prev_c, Wx, Wh, gates)


@in_turn
@STEP.backward.documents
def lstm_step_backward(
    dnext_h: Array, dnext_c: Array, cache: LSTMStepCache
) -> tuple[Array, Array, Array, Array, Array, Array]:
    """Gradients of lstm_step_forward.

    Parameters
    ----------
    dnext_h, dnext_c
        The upstream gradients of next_h and next_c.
    cache : LSTMStepCache
        Of lstm_step_forward.

    Returns
    -------
    dx
    dprev_h, dprev_c
    dWx
    dWh
    db

    Raises
    ------
    TypeError, ValueError
        Libraries, dtypes or shapes do not match.
    """
    x, prev_h, prev_c, Wx, Wh, gates = cache
    check_upstream("lstm_step_backward", "dnext_h", dnext_h, prev_c.shape, prev_c)
    check_upstream("lstm_step_backward", "dnext_c", dnext_c, prev_c.shape, prev_c)
    zeros = get_array_module(dnext_h).zeros_like(dnext_h)  # none comes from a next step
    da, dprev_c = lstm_gates_backward(dnext_h, zeros, dnext_c, gates.gates, gates.tanh_c, prev_c)
    return da @ Wx.T, da @ Wh.T, dprev_c, x.T @ da, prev_h.T @ da, da.sum(axis=0)


def lstm_advance(
    a: Array, state: State, Wh: Array, buffer: Buffer, extra_term: RecurrentTerm | None = None
) -> State:
    """One step from a (n, 4H) and (h, c) to the next (h, c), in fresh memory, for sampling."""
    a, Wh, h, c = (contiguous(x) for x in (a, Wh, *state))
    empty_like = get_array_module(h).empty_like
    gates, tanh_c = buffer("gates", a.shape), buffer("tanh_c", h.shape)
    out = Gates(empty_like(h), empty_like(h), gates, tanh_c)
    get_ops(h).lstm_steps(a, Wh, (h, c), out, extra_term)(single_step(len(h)))
    return out.h, out.c


@in_turn
def lstm_rows_forward(
    a: Array,
    state0: tuple[Array, Array | None],
    Wh: Array,
    rows: PackedSequences,
    buffer: Buffer | None = None,
    extra_term: RecurrentTerm | None = None,
) -> tuple[Array, LSTMRowsCache]:
    """Run the LSTM over packed rows: steps on a_t + h_{t-1} @ Wh of the sequences alive at each t.

    Parameters
    ----------
    a : array (R, 4H), float
        x @ Wx + b of every row, time-major.
    state0 : tuple of h0 and c0, each an array (N, H), float
        The state before the first step. c0 None: zeros.
    Wh : array (H, 4H), float
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
    cache : LSTMRowsCache
        For lstm_rows_backward.

    Raises
    ------
    TypeError, ValueError
        Libraries, dtypes, shapes or sizes do not match.
    """
    h0, c0 = state0
    shapes = "a:R,4H h0:N,H Wh:H,4H c0?:N,H"
    check_arrays("lstm_rows_forward", shapes, a, h0, Wh, c0, note=ORDER)
    a, h0, c0, Wh = (contiguous(x) for x in (a, h0, c0, Wh))
    ops, (R, _), (N, H) = get_ops(a), a.shape, h0.shape
    rows.check("lstm_rows_forward", R, N)
    buffer = buffer or allocator(a, ((N + R, H), (N + R, H), (R, 4 * H), (R, H)))
    h, c = buffer("h", (N + R, H)), buffer("c", (N + R, H))
    gates, tanh_c = buffer("gates", (R, 4 * H)), buffer("tanh_c", (R, H))
    ops.start_states(h0, c0, h, c)
    out = Gates(h, c, gates, tanh_c)
    step_fn = ops.lstm_steps(a, Wh, (h, c), out, extra_term)
    for step in rows.steps:
        step_fn(step)
    return h[N:], LSTMRowsCache(out, Wh, rows, extra_term)


@in_turn
def lstm_rows_backward(
    dh: Array,
    cache: LSTMRowsCache,
    buffer: Buffer | None = None,
    dWh: Array | None = None,
    dc_T: Array | None = None,
) -> tuple[Array, State, Array]:
    """Gradients of lstm_rows_forward.

    Parameters
    ----------
    dh : array (R, H), float
        The upstream gradient of each row, from the layers above.
    cache : LSTMRowsCache
        Of lstm_rows_forward.
    buffer : Buffer or None
        Memory for da, dh0 and dc0. None allocates.
    dWh : array (H, 4H), float, or None
        Memory for the gradient of Wh. None allocates.
    dc_T : array (N, H), float, or None
        The upstream gradient of each sequence's c after its last step. None: zeros.

    Returns
    -------
    da : array (R, 4H), float
    dstate0 : tuple of dh0 and dc0, each an array (N, H), float
    dWh : array (H, 4H), float

    Raises
    ------
    TypeError, ValueError
        Libraries, dtypes or shapes do not match.
    """
    out, Wh, rows, extra_term = cache
    h, (R, H), N = out.h, out.tanh_c.shape, rows.N
    check_upstream("lstm_rows_backward", "dh", dh, (R, H), h)
    if dc_T is not None:
        check_upstream("lstm_rows_backward", "dc_T", dc_T, (N, H), h)
    ops, dh, buffer = get_ops(h), contiguous(dh), buffer or allocator(h)
    da = buffer("da", (R, 4 * H))
    dh_next, dc = buffer("dh_next", (N, H)), buffer("dc", (N, H))
    step_fn = ops.lstm_backward_steps(dh, dh_next, dc, out, Wh, da, extra_term, dc_T)
    for step in reversed(rows.steps):
        step_fn(step)
    if dc_T is None:
        zero_without_steps(rows, dh_next, dc)
    dWh = buffer("dWh", Wh.shape) if dWh is None else dWh
    dWh = ops.matmul(rows.previous_states(h, buffer).T, da, out=dWh)
    return da, (dh_next, dc), dWh


@in_turn
@SEQUENCE.documents
def lstm_forward(
    x: Array, h0: Array, Wx: Array, Wh: Array, b: Array, *, c0: Array | None = None
) -> tuple[Any, ...]:
    """Run the LSTM over a whole sequence.

    The course's form, ``h, cache = lstm_forward(x, h0, Wx, Wh, b)``, begins with c0 = 0. With c0
    the state is carried from one piece of a sequence to the next: ``h, c_T, cache = lstm_forward(x,
    h0, Wx, Wh, b, c0=c0)``; the next piece begins with ``h[:, -1]`` and ``c_T``.

    Parameters
    ----------
    x
    h0
        The state before the first step.
    Wx
    Wh
    b
    c0
        The cell before the first step. None: zeros, and c_T is not returned.

    Returns
    -------
    h
        The state after each step, without h0.
    c_T
        The cell after the last step. Only if c0 is given.
    cache : LSTMCache
        For lstm_backward.

    Raises
    ------
    TypeError, ValueError
        Libraries, dtypes or shapes do not match.
    """
    SEQUENCE.check("lstm_forward", x, h0, Wx, Wh, b, c0)
    N, T, _ = x.shape
    x_rows = to_rows(x)
    a = x_rows @ Wx  # (T*N, 4H)
    a += b
    h_rows, loop = lstm_rows_forward(a, (h0, c0), Wh, PackedSequences.full(N, T))
    h, cache = from_rows(h_rows, N, T), LSTMCache(x_rows, Wx, loop, c0 is not None)
    return (h, cache) if c0 is None else (h, loop.out.c[N * T :].copy(), cache)


@in_turn
@SEQUENCE.backward.documents
def lstm_backward(dh: Array, cache: LSTMCache, *, dc_T: Array | None = None) -> tuple[Array, ...]:
    """Gradients of lstm_forward.

    Parameters
    ----------
    dh
        The upstream gradient of each step.
    cache : LSTMCache
        Of lstm_forward.
    dc_T
        The upstream gradient of c_T, if the forward pass was given c0. None: zeros.

    Returns
    -------
    dx
    dh0
    dWx
    dWh
    db
    dc0
        Only if the forward pass was given c0.

    Raises
    ------
    TypeError, ValueError
        Library, dtype or shape do not match those of the forward pass, or dc_T is given and the
        forward pass was not given c0.
    """
    x, Wx, loop, carried = cache
    N, T, H = loop.rows.N, len(loop.rows.batch_sizes), loop.out.h.shape[1]
    check_upstream("lstm_backward", "dh", dh, (N, T, H), loop.out.h)
    if dc_T is not None and not carried:
        raise InvalidValueError(
            "lstm_backward",
            "",
            "got dc_T",
            expected="none: the forward pass returned no c_T",
            cause="pass c0 to lstm_forward, zeros if need be",
        )
    if dc_T is not None:
        check_upstream("lstm_backward", "dc_T", dc_T, (N, H), loop.out.h)
    da, (dh0, dc0), dWh = lstm_rows_backward(to_rows(dh), loop, dc_T=dc_T)
    grads = from_rows(da @ Wx.T, N, T), dh0, x.T @ da, dWh, da.sum(axis=0)
    return (*grads, dc0) if carried else grads
