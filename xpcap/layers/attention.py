"""Dot-product attention over the regions of a picture.

By itself, in whole sequences of a cell that attends, in one LSTM step, and as a term of any cell.
Source: the form of UMich EECS 498-007, assignment 5; the scaled dot product is Vaswani et al. 2017,
section 3.2.1, with the regions as keys and values.
"""

from typing import NamedTuple

from xpcap.backend import Array, get_array_module
from xpcap.errors import InvalidValueError, OptionError, unknown
from xpcap.layers.cells import CELLS, check_takes_extra_term
from xpcap.layers.checks import check_arrays, check_upstream
from xpcap.layers.lstm import ORDER, LSTMStepCache, lstm_step_backward, lstm_step_forward
from xpcap.memory import Buffer, allocator
from xpcap.ops import (
    PackedSequences,
    Step,
    StepFn,
    contiguous,
    from_rows,
    get_ops,
    single_step,
    to_rows,
)
from xpcap.threads import in_turn

# ---- Attention by itself


class DotProductCache(NamedTuple):
    """Cache of dot_product_attention_forward."""

    prev_h: Array  # (N, H)
    A: Array  # (N, P, H), whatever layout was given
    weights: Array  # (N, P)
    shape: tuple[int, ...]  # of A as it was given


@in_turn
def dot_product_attention_forward(prev_h: Array, A: Array) -> tuple[Array, Array, DotProductCache]:
    """Attention to the regions of each picture from a state.

    The scaled dot product::

        scores = A . prev_h / sqrt(H);  attn_weights = softmax(scores) over regions
        attn = attn_weights . A

    Parameters
    ----------
    prev_h : array (N, H), float
    A : array (N, P, H), float, or (N, H, K, K)
        The regions, projected to the size of a state. (N, H, K, K) is the layout of the assignment.

    Returns
    -------
    attn : array (N, H), float
        The context.
    attn_weights : array (N, P), float, or (N, K, K)
        In the layout of A; the weights of a picture have the sum 1.
    cache : DotProductCache
        For dot_product_attention_backward.

    Raises
    ------
    TypeError, ValueError
        Libraries, dtypes or shapes do not match, or there is no region.
    """
    check_regions("dot_product_attention_forward", A, "prev_h:N,H", prev_h)
    prev_h, regions = contiguous(prev_h), contiguous(to_regions(A))
    xp, (N, P, H) = get_array_module(A), regions.shape
    weights, context = xp.empty((N, P), A.dtype), xp.empty((N, H), A.dtype)
    get_ops(A).attend_steps(prev_h, regions, weights, context)(single_step(N))
    cache = DotProductCache(prev_h, regions, weights.copy(), A.shape)
    return context, weights.reshape(N, *_grid(A)), cache


@in_turn
def dot_product_attention_backward(dattn: Array, cache: DotProductCache) -> tuple[Array, Array]:
    """Gradients of dot_product_attention_forward.

    `attn_weights` has no upstream gradient::

        dweights = A . dattn
        dscores = attn_weights * (dweights - attn_weights . dweights) / sqrt(H)
        dprev_h = dscores . A;  dA = attn_weights (x) dattn + dscores (x) prev_h

    Parameters
    ----------
    dattn : array (N, H), float
        The upstream gradient of attn.
    cache : DotProductCache
        Of dot_product_attention_forward.

    Returns
    -------
    dprev_h : array (N, H), float
    dA : array, float
        In the shape of A.

    Raises
    ------
    TypeError, ValueError
        Libraries, dtypes or shapes do not match.
    """
    prev_h, A, weights, shape = cache
    check_upstream("dot_product_attention_backward", "dattn", dattn, prev_h.shape, prev_h)
    dattn, xp = contiguous(dattn), get_array_module(A)
    dscores, dprev_h = xp.empty_like(weights), xp.zeros_like(prev_h)
    attend = get_ops(A).attend_backward_steps(dattn, A, weights, dscores, dprev_h)
    attend(single_step(len(A)))
    # A is read twice: in the scores and in the mean
    dA = weights[:, :, None] * dattn[:, None, :] + dscores[:, :, None] * prev_h[:, None, :]
    return dprev_h, from_regions(dA, shape)


# ---- Attention as a term of a cell's pre-activation


class Attention:
    """A RecurrentTerm that attends: context @ Wattn, with context = attention to A from h_prev.

    Parameters
    ----------
    A : array (N, P, H), float
        The regions of each sequence's picture, in the order of sequences.
    Wattn : array (H, G), float
    buffer : Buffer or None
        Memory for cache and results. None allocates.

    Attributes
    ----------
    A : array (N, P, H), float
        As given.
    weights : array (R, P), float
        Attention of each row, after the forward pass.
    """

    weights: Array
    _context: Array  # (R, H)
    _h: Array  # the stack of states
    _dcontext: Array  # (R, H)
    _dscores: Array  # (R, P)

    def __init__(self, A: Array, Wattn: Array, buffer: Buffer | None = None) -> None:
        check_arrays("Attention", "A:N,P,H Wattn:H,G", A, Wattn)
        self.A, self._Wattn = contiguous(A), contiguous(Wattn)
        self._buffer = buffer or allocator(A)

    @property
    def hidden(self) -> int:
        """H, the size of a region and of a state."""
        return self.A.shape[2]

    def start(self) -> Array:
        """State before the first step, and c0: the mean of A over regions.

        Returns
        -------
        h0 : array (N, H), float
        """
        N, _, H = self.A.shape
        return get_ops(self.A).mean_regions(self.A, self._buffer("h0", (N, H)))

    def forward_steps(self, h: Array, r: Array) -> StepFn:
        """Steps that add the term, as in RecurrentTerm.

        Parameters
        ----------
        h : array (N + R, H), float
            The stack of states that steps start from.
        r : array (R, G), float
            The recurrent part of the pre-activations. The term is added to it in place.

        Returns
        -------
        step_fn : callable
            Function of one Step.
        """
        ops, buffer, R, (_, P, H) = get_ops(h), self._buffer, len(r), self.A.shape
        self._h = h
        self.weights, self._context = buffer("weights", (R, P)), buffer("context", (R, H))
        attend = ops.attend_steps(h, self.A, self.weights, self._context)
        add = ops.row_matmul_add(self._context, self._Wattn, r, buffer)

        def step_fn(step: Step) -> None:
            attend(step)
            add(step.first, step.first, step.n)

        return step_fn

    def backward_steps(self, da: Array, dh_prev: Array) -> StepFn:
        """Steps that backpropagate through the term, as in RecurrentTerm.

        Parameters
        ----------
        da : array (R, G), float
            Gradients of the pre-activations.
        dh_prev : array (N, H), float
            The gradient of the states before a step is added to its first rows, in place.

        Returns
        -------
        step_fn : callable
            Function of one Step.
        """
        ops, buffer = get_ops(da), self._buffer
        self._dcontext = buffer("dcontext", self._context.shape)
        self._dscores = buffer("dscores", self.weights.shape)
        multiply = ops.row_matmul_nt(da, self._Wattn, self._dcontext)
        attend = ops.attend_backward_steps(
            self._dcontext, self.A, self.weights, self._dscores, dh_prev
        )

        def step_fn(step: Step) -> None:
            multiply(step.first, step.first, step.n)
            attend(step)

        return step_fn

    def gradients(
        self, da: Array, dh0: Array, rows: PackedSequences, dWattn: Array | None = None
    ) -> tuple[Array, Array]:
        """Gradients of A and Wattn, after the backward loop.

        Parameters
        ----------
        da : array (R, G), float
            Gradients of the pre-activations.
        dh0 : array (N, H), float
            Gradient of `start()`, summed over the states that began as it. It is overwritten.
        rows : PackedSequences
            Of the loop.
        dWattn : array (H, G), float, or None
            Memory for the gradient of Wattn. None allocates.

        Returns
        -------
        dA : array (N, P, H), float
        dWattn : array (H, G), float
        """
        if dWattn is None:
            dWattn = self._buffer("dWattn", self._Wattn.shape)
        ops, da, dh0 = get_ops(da), contiguous(da), contiguous(dh0)
        ops.matmul(self._context.T, da, out=dWattn)
        out = self._buffer("dA", self.A.shape)
        dA = ops.attention_sum(self.weights, self._dcontext, self._dscores, self._h, rows, out)
        ops.add_to_regions(dA, dh0)  # each region has its share of the mean
        return dA, dWattn


# ---- Whole sequences of a cell that attends


class AttentionCache(NamedTuple):
    """Cache of attention_forward."""

    x: Array  # (T*N, D), time-major
    Wx: Array  # (D, G)
    shape: tuple[int, ...]  # of A as it was given
    attention: Attention
    rows: PackedSequences
    cell: str
    loop: object  # the cache of the cell's loop


@in_turn
def attention_forward(
    x: Array, A: Array, Wx: Array, Wh: Array, Wattn: Array, b: Array, cell: str = "lstm"
) -> tuple[Array, AttentionCache]:
    """Run a cell that attends over a whole sequence, from h0 = c0 = the mean of A over regions.

    Each step adds attn @ Wattn to its pre-activation; attn attends to A from the state before.

    Parameters
    ----------
    x : array (N, T, D), float
    A : array (N, P, H), float, or (N, H, K, K)
        The regions of each picture, projected to the size of a state.
    Wx : array (D, G), float
        G is 4H for an LSTM, H for an RNN.
    Wh, Wattn : array (H, G), float
    b : array (G,), float
    cell : str
        A name in xpcap.layers.CELLS, of a cell with the parameters Wx, Wh and b.

    Returns
    -------
    h : array (N, T, H), float
        The state after each step, without h0.
    cache : AttentionCache
        For attention_backward.

    Raises
    ------
    TypeError, ValueError
        Libraries, dtypes or shapes do not match, or there is no region.
    OptionError
        The cell is unknown, cannot attend, or has other parameters.
    """
    if cell not in CELLS:
        raise unknown("attention_forward", "cell", cell, CELLS)
    check_takes_extra_term("attention_forward", cell)
    kind = CELLS[cell]
    shapes = kind.shapes(1, 1)
    if set(shapes) != {"Wx", "Wh", "b"}:
        raise OptionError(
            "attention_forward",
            f"cell {cell!r}",
            f"has the parameters {', '.join(shapes)}",
            expected="one of Wx, Wh and b",
        )
    G = f"{shapes['b'][0]}H"
    note, layout = ORDER if cell == "lstm" else "", f"x:N,T,D Wh:H,{G} Wx:D,{G} Wattn:H,{G} b:{G}"
    check_regions("attention_forward", A, layout, x, Wh, Wx, Wattn, b, note=note)
    N, T, _ = x.shape
    x_rows, rows = to_rows(x), PackedSequences.full(N, T)
    attention = Attention(to_regions(A), Wattn)
    a = x_rows @ Wx  # (T*N, G)
    a += b
    state0 = (attention.start(),) * kind.states
    h, loop = kind.rows_forward(a, state0, {"Wh": Wh}, rows, extra_term=attention)
    return from_rows(h, N, T), AttentionCache(x_rows, Wx, A.shape, attention, rows, cell, loop)


@in_turn
def attention_backward(
    dh: Array, cache: AttentionCache
) -> tuple[Array, Array, Array, Array, Array, Array]:
    """Gradients of attention_forward.

    Parameters
    ----------
    dh : array (N, T, H), float
        The upstream gradient of each step.
    cache : AttentionCache
        Of attention_forward.

    Returns
    -------
    dx : array (N, T, D), float
    dA : array, float
        In the shape of A.
    dWx : array (D, G), float
    dWh, dWattn : array (H, G), float
    db : array (G,), float

    Raises
    ------
    TypeError, ValueError
        Libraries, dtypes or shapes do not match.
    """
    x, Wx, shape, attention, rows, cell, loop = cache
    N, T = rows.N, len(rows.batch_sizes)
    check_upstream("attention_backward", "dh", dh, (N, T, attention.hidden), x)
    da, dstate0, grads = CELLS[cell].rows_backward(to_rows(dh), loop)
    dA, dWattn = attention.gradients(da, sum(dstate0), rows)
    dx, dA = from_rows(da @ Wx.T, N, T), from_regions(dA, shape)
    return dx, dA, x.T @ da, grads["Wh"], dWattn, da.sum(axis=0)


# ---- One LSTM step with a context


class AttentionLSTMStepCache(NamedTuple):
    """Cache of attention_lstm_step_forward."""

    D: int
    step: LSTMStepCache  # of the step on [x, attn]


@in_turn
def attention_lstm_step_forward(
    x: Array,
    prev_h: Array,
    prev_c: Array,
    attn: Array,
    Wx: Array,
    Wh: Array,
    Wattn: Array,
    b: Array,
) -> tuple[Array, Array, AttentionLSTMStepCache]:
    """One LSTM step with a context, a = x @ Wx + prev_h @ Wh + attn @ Wattn + b.

    The context is more of the input: [x, attn] @ [Wx; Wattn].

    Parameters
    ----------
    x : array (N, D), float
    prev_h, prev_c : array (N, H), float
    attn : array (N, H), float
        The context, as from dot_product_attention_forward.
    Wx : array (D, 4H), float
    Wh, Wattn : array (H, 4H), float
    b : array (4H,), float

    Returns
    -------
    next_h, next_c : array (N, H), float
    cache : AttentionLSTMStepCache
        For attention_lstm_step_backward.

    Raises
    ------
    TypeError, ValueError
        Libraries, dtypes or shapes do not match.
    """
    shapes = "x:N,D prev_h:N,H prev_c:N,H attn:N,H Wx:D,4H Wh:H,4H Wattn:H,4H b:4H"
    check_arrays(
        "attention_lstm_step_forward", shapes, x, prev_h, prev_c, attn, Wx, Wh, Wattn, b, note=ORDER
    )
    xp = get_array_module(x)
    next_h, next_c, step = lstm_step_forward(
        xp.concatenate((x, attn), axis=1), prev_h, prev_c, xp.concatenate((Wx, Wattn)), Wh, b
    )
    return next_h, next_c, AttentionLSTMStepCache(len(Wx), step)


@in_turn
def attention_lstm_step_backward(
    dnext_h: Array, dnext_c: Array, cache: AttentionLSTMStepCache
) -> tuple[Array, Array, Array, Array, Array, Array, Array, Array]:
    """Gradients of attention_lstm_step_forward.

    Parameters
    ----------
    dnext_h, dnext_c : array (N, H), float
        The upstream gradients of next_h and next_c.
    cache : AttentionLSTMStepCache
        Of attention_lstm_step_forward.

    Returns
    -------
    dx : array (N, D), float
    dprev_h, dprev_c, dattn : array (N, H), float
    dWx : array (D, 4H), float
    dWh, dWattn : array (H, 4H), float
    db : array (4H,), float

    Raises
    ------
    TypeError, ValueError
        Libraries, dtypes or shapes do not match.
    """
    D, step = cache
    dinput, dprev_h, dprev_c, dweights, dWh, db = lstm_step_backward(dnext_h, dnext_c, step)
    return dinput[:, :D], dprev_h, dprev_c, dinput[:, D:], dweights[:D], dWh, dweights[D:], db


# ---- Layouts of regions: (N, P, H), and the assignment's (N, H, K, K)


def check_regions(function: str, A: Array, shapes: str, *arrays: Array, note: str = "") -> None:
    """check_arrays with A last, in either layout. ValueError : A has no region."""
    layout = "N,H,J,K" if getattr(A, "ndim", 3) == 4 else "N,P,H"
    check_arrays(function, f"{shapes} A:{layout}", *arrays, A, note=note)
    if 0 in _grid(A):
        raise InvalidValueError(
            function, "A", f"has shape {A.shape}", expected="at least one region"
        )


def to_regions(A: Array) -> Array:
    """Regions (N, P, H) of A in either layout; those of (N, H, K, K) row by row."""
    if A.ndim == 3:
        return A
    N, H, down, across = A.shape
    return get_array_module(A).ascontiguousarray(A.reshape(N, H, down * across).transpose(0, 2, 1))


def from_regions(x: Array, shape: tuple[int, ...]) -> Array:
    """Array x (N, P, H) in the layout of an A of `shape`: the inverse of to_regions."""
    return x if len(shape) == 3 else x.transpose(0, 2, 1).reshape(shape)


def _grid(A: Array) -> tuple[int, ...]:
    """Axes of regions: (P,), or (K, K)."""
    return A.shape[1:2] if A.ndim == 3 else A.shape[2:]
