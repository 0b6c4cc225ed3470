"""Dot-product attention over the regions of a picture: alone, as a term of any cell, and in LSTMs.

The functions follow UMich EECS 498-007, assignment 5; the scaled dot product is that of Vaswani et al.
2017, section 3.2.1, with the regions as keys and values.
"""

from typing import NamedTuple

from xpcap.backend import Array, get_array_module
from xpcap.backend.memory import Workspace
from xpcap.backend.shape_specs import spec
from xpcap.errors import InvalidValueError, OptionError, one_of
from xpcap.layers.cells import CELLS
from xpcap.layers.checks import check_arrays
from xpcap.layers.layer import gradient, layer
from xpcap.layers.lstm import LSTM
from xpcap.layers.recurrent import InputStepCache, step_backward, step_forward
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

# ---- Attention alone


class DotProductCache(NamedTuple):
    """Cache of dot_product_attention_forward."""

    prev_h: Array  # (N, H)
    A: Array  # (N, P, H), whatever the layout of the argument
    weights: Array  # (N, P)
    shape: tuple[int, ...]  # shape of the argument A


@layer("prev_h:N,H A:N,P,H|N,H,J,K -> attn:N,H attn_weights?:N,P|N,J,K")
def dot_product_attention_forward(prev_h: Array, A: Array) -> tuple[Array, Array, DotProductCache]:
    """Attend from a state to the regions of each picture.

    Scaled dot-product attention::

        scores = A . prev_h / sqrt(H);  attn_weights = softmax(scores) over regions
        attn = attn_weights . A

    A holds the regions, projected to the size of a state; the assignment's layout is (N, H, K, K).
    attn is the context. attn_weights has the layout of A; the weights of each picture sum to 1.

    Raises
    ------
    ValueError
        A has no regions.

    Examples
    --------
    >>> A = np.array([[[2.0, 0.0], [0.0, 2.0]]])  # one picture with two regions
    >>> attn, weights, cache = dot_product_attention_forward(np.array([[1.0, 1.0]]), A)
    >>> attn, weights
    (array([[1., 1.]]), array([[0.5, 0.5]]))
    """
    require_regions("dot_product_attention_forward", A)
    regions = to_regions(A)
    xp = get_array_module(A)
    N, P, H = regions.shape
    weights = xp.empty((N, P), A.dtype)
    context = xp.empty((N, H), A.dtype)
    get_ops(A).attend_steps(prev_h, regions, weights, context)(single_step(N))
    cache = DotProductCache(prev_h, regions, weights.copy(), A.shape)
    return context, weights.reshape(N, *_grid(A)), cache


@gradient(dot_product_attention_forward)
def dot_product_attention_backward(dattn: Array, cache: DotProductCache) -> tuple[Array, Array]:
    """Gradients of dot_product_attention_forward, from dattn and the cache.

    attn_weights has no upstream gradient::

        dweights = A . dattn
        dscores = attn_weights * (dweights - attn_weights . dweights) / sqrt(H)
        dprev_h = dscores . A;  dA = attn_weights (x) dattn + dscores (x) prev_h
    """
    prev_h, A, weights, shape = cache
    xp = get_array_module(A)
    dscores = xp.empty_like(weights)
    dprev_h = xp.zeros_like(prev_h)
    get_ops(A).attend_backward_steps(dattn, A, weights, dscores, dprev_h)(single_step(len(A)))
    # A has two gradients: of the scores and of the weighted mean
    dA = weights[:, :, None] * dattn[:, None, :] + dscores[:, :, None] * prev_h[:, None, :]
    return dprev_h, from_regions(dA, shape)


# ---- Attention as a term of a cell's pre-activation


class Attention:
    """A RecurrentTerm with attention: context @ Wattn, where h_prev attends to A.

    It serves one forward pass with its backward pass, or any number of forward passes without one.

    Parameters
    ----------
    A : array (N, P, H), float
        The regions of each sequence's picture, in the order of the sequences.
    Wattn : array (H, G), float
    memory : Workspace or None
        Memory for cache and results. None: new arrays.

    Attributes
    ----------
    A : array (N, P, H), float
        The regions.
    weights : array (R, P), float
        Attention weights of each row, set by the forward pass.
    """

    weights: Array
    _context: Array  # (R, H)
    _h: Array  # the stack of states
    _passes = 0  # forward passes so far
    _dcontext: Array  # (R, H)
    _dscores: Array  # (R, P)

    def __init__(self, A: Array, Wattn: Array, memory: Workspace | None = None) -> None:
        check_arrays("Attention", "A:N,P,H Wattn:H,G", A, Wattn)
        self.A = A
        self._Wattn = Wattn
        self._memory = memory or Workspace.fresh(A)

    def start(self) -> Array:
        """The initial state h0, and c0: the mean of A over the regions.

        Returns
        -------
        h0 : array (N, H), float
        """
        N, _, H = self.A.shape
        return get_ops(self.A).mean_regions(self.A, self._memory.take("h0", (N, H)))

    def forward_steps(self, h: Array, r: Array, R: int) -> StepFn:
        """Steps that add the term, as in RecurrentTerm.

        Parameters
        ----------
        h : array (N + R, H), float
            The stack of states that steps start from.
        r : array (N, G), float
            A step adds its term to the first rows, in place.
        R : int
            Number of rows of all steps.

        Returns
        -------
        step_fn : callable
            A function of one Step.

        Raises
        ------
        ValueError
            There are fewer pictures than sequences.
        """
        ops = get_ops(r)
        memory = self._memory
        N, P, H = self.A.shape
        if r.shape[0] > N:
            raise InvalidValueError(
                f"Attention.forward_steps: A has {N} pictures, expected one for each of"
                f" {r.shape[0]} sequences"
            )
        self._h = h
        self._passes = self._passes + 1
        self.weights = memory.take("weights", (R, P))
        self._context = memory.take("context", (R, H))
        attend = ops.attend_steps(h, self.A, self.weights, self._context)
        add = ops.row_matmul_add(self._context, self._Wattn, r, memory)

        def step_fn(step: Step) -> None:
            attend(step)
            add(step.first, 0, step.n)

        return step_fn

    def backward_steps(self, da: Array, dh_prev: Array) -> StepFn:
        """Steps that backpropagate through the term, as in RecurrentTerm.

        Parameters
        ----------
        da : array (R, G), float
            Gradients of the pre-activations.
        dh_prev : array (N, H), float
            A step adds the gradient of the states before it to the first rows, in place.

        Returns
        -------
        step_fn : callable
            A function of one Step.

        Raises
        ------
        ValueError
            There was no forward pass, or more than one (only the last one's states are known); or
            the numbers of pictures and sequences differ.
        """
        if self._passes != 1:
            raise InvalidValueError(
                f"Attention.backward_steps: the term has run {self._passes or 'no'} forward passes,"
                " expected one; make an Attention for each forward pass, from the same A and Wattn"
            )
        if len(self.A) != len(dh_prev):
            raise InvalidValueError(
                f"Attention.backward_steps: A has {len(self.A)} pictures, expected one for each of"
                f" {len(dh_prev)} sequences of the gradient; is the term of another batch?"
            )
        ops = get_ops(da)
        memory = self._memory
        self._dcontext = memory.take("dcontext", self._context.shape)
        self._dscores = memory.take("dscores", self.weights.shape)
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
            Gradient of `start()`, summed over all states that start from it. It is overwritten.
        rows : PackedSequences
            Layout of the loop's rows.
        dWattn : array (H, G), float, or None
            Memory for the gradient of Wattn. None: a new array.

        Returns
        -------
        dA : array (N, P, H), float
        dWattn : array (H, G), float
        """
        if dWattn is None:
            dWattn = self._memory.take("dWattn", self._Wattn.shape)
        ops = get_ops(da)
        da = contiguous(da)
        dh0 = contiguous(dh0)
        out = self._memory.take("dA", self.A.shape)
        ops.matmul(self._context.T, da, out=dWattn)
        dA = ops.attention_sum(self.weights, self._dcontext, self._dscores, self._h, rows, out)
        ops.add_to_regions(dA, dh0)  # each region gets its share of the mean's gradient
        return dA, dWattn


# ---- A sequence of a cell with attention


class AttentionCache(NamedTuple):
    """Cache of attention_forward."""

    x: Array  # (N, T, D)
    A: Array  # in the argument's layout
    x_rows: Array  # (T*N, D), time-major
    Wx: Array  # (D, G)
    attention: Attention
    rows: PackedSequences
    cell: str
    loop: object  # the cache of the cell's loop


@layer("x:N,T,D A:N,P,H|N,H,J,K Wx:D,G Wh:H,G Wattn:H,G b:G -> h:N,T,H")
def attention_forward(
    x: Array, A: Array, Wx: Array, Wh: Array, Wattn: Array, b: Array, cell: str = "lstm"
) -> tuple[Array, AttentionCache]:
    """Run a cell with attention over a sequence, from h0 = c0 = the mean of A over the regions.

    At each step the state before it attends to A, and attn @ Wattn is added to the pre-activation. A
    holds the regions of each picture, projected to the size of a state; h holds the state after each
    step. `cell` names a cell in xpcap.layers.CELLS with the parameters Wx, Wh and b; G is H times the
    number of its blocks.

    Raises
    ------
    ValueError
        A has no regions.
    OptionError
        The cell is unknown, or has other parameters.
    """
    if cell not in CELLS:
        raise OptionError(
            f"attention_forward: cell {cell!r} does not exist, expected {one_of(CELLS, cell)}"
        )
    recurrent_cell = CELLS[cell]
    shapes = recurrent_cell.shapes(1, 1)
    if set(shapes) != {"Wx", "Wh", "b"}:
        raise OptionError(
            f"attention_forward: cell {cell!r} has the parameters {', '.join(shapes)}, expected one"
            " of Wx, Wh and b"
        )
    spec(f"Wh:H,{shapes['b'][0]}H").check(
        Wh, function="attention_forward", cause=recurrent_cell.order
    )
    require_regions("attention_forward", A)
    N, T, _ = x.shape
    x_rows = to_rows(x)
    rows = PackedSequences.full(N, T)
    attention = Attention(to_regions(A), Wattn)
    a = get_ops(x).matmul(x_rows, Wx)  # (T*N, G)
    a += b
    state0 = (attention.start(),) * len(recurrent_cell.states)
    h, loop = recurrent_cell.rows_forward(a, state0, {"Wh": Wh}, rows, extra_term=attention)
    return from_rows(h, N, T), AttentionCache(x, A, x_rows, Wx, attention, rows, cell, loop)


@gradient(attention_forward)
def attention_backward(
    dh: Array, cache: AttentionCache
) -> tuple[Array, Array, Array, Array, Array, Array]:
    """Gradients of attention_forward, from dh, the upstream gradient of each step, and the cache.

    dA has A's layout.
    """
    x, A, x_rows, Wx, attention, rows, cell, loop = cache
    matmul = get_ops(dh).matmul
    da, dstate0, grads = CELLS[cell].rows_backward(to_rows(dh), loop)
    dA, dWattn = attention.gradients(da, sum(dstate0), rows)
    dx = from_rows(matmul(da, Wx.T), *x.shape[:2])
    dWx = matmul(x_rows.T, da)
    return dx, from_regions(dA, A.shape), dWx, grads["Wh"], dWattn, da.sum(axis=0)


# ---- One LSTM step with a context


@layer(
    "x:N,D prev_h:N,H prev_c:N,H attn:N,H Wx:D,4H Wh:H,4H Wattn:H,4H b:4H -> next_h:N,H next_c:N,H",
    cause=LSTM.order,
)
def attention_lstm_step_forward(
    x: Array,
    prev_h: Array,
    prev_c: Array,
    attn: Array,
    Wx: Array,
    Wh: Array,
    Wattn: Array,
    b: Array,
) -> tuple[Array, Array, InputStepCache]:
    """One LSTM step with a context: a = x @ Wx + prev_h @ Wh + attn @ Wattn + b.

    attn is the context, as dot_product_attention_forward returns it. It extends the input:
    [x, attn] @ [Wx; Wattn].
    """
    concatenate = get_array_module(x).concatenate
    inputs = concatenate((x, attn), axis=1)
    weights = concatenate((Wx, Wattn))
    (next_h, next_c), cache = step_forward(LSTM, inputs, (prev_h, prev_c), weights, Wh, b)
    return next_h, next_c, cache


@gradient(attention_lstm_step_forward)
def attention_lstm_step_backward(
    dnext_h: Array, dnext_c: Array, cache: InputStepCache
) -> tuple[Array, Array, Array, Array, Array, Array, Array, Array]:
    """Gradients of attention_lstm_step_forward, from dnext_h, dnext_c and the cache."""
    D = len(cache.Wx) - len(cache.Wh)
    dinput, (dprev_h, dprev_c), dweights, dWh, db = step_backward((dnext_h, dnext_c), cache)
    return dinput[:, :D], dprev_h, dprev_c, dinput[:, D:], dweights[:D], dWh, dweights[D:], db


# ---- Layouts of regions: (N, P, H), and the assignment's (N, H, K, K)


def require_regions(function: str, A: Array) -> None:
    """Raise ValueError if A has no regions."""
    if 0 in _grid(A):
        raise InvalidValueError(f"{function}: A has shape {A.shape}, expected at least one region")


def to_regions(A: Array) -> Array:
    """Regions (N, P, H) of A in either layout; a grid (N, H, K, K) is read row by row."""
    if A.ndim == 3:
        return A
    N, H, down, across = A.shape
    return get_array_module(A).ascontiguousarray(A.reshape(N, H, down * across).transpose(0, 2, 1))


def from_regions(x: Array, shape: tuple[int, ...]) -> Array:
    """x (N, P, H) in the layout of an array of `shape`: the inverse of to_regions."""
    return x if len(shape) == 3 else x.transpose(0, 2, 1).reshape(shape)


def _grid(A: Array) -> tuple[int, ...]:
    """The axes of the regions: (P,), or (K, K)."""
    return A.shape[1:2] if A.ndim == 3 else A.shape[2:]
