"""The vanilla RNN: a state h that is the tanh of a product of input and state."""

from typing import ClassVar

from xpcap.backend import Array, get_array_module
from xpcap.layers.layer import gradient, layer
from xpcap.layers.recurrent import (
    RowsCache,
    SequenceCache,
    StepCache,
    rows_backward,
    rows_forward,
    sequence_backward,
    sequence_forward,
    step_backward,
    step_forward,
)
from xpcap.memory import Buffer
from xpcap.ops import (
    PackedSequences,
    Pointwise,
    RecurrentTerm,
    State,
)


class RNNCell(Pointwise):
    """The pointwise half of an RNN step: a = x @ Wx + b, r = h_prev @ Wh."""

    name, blocks, product, kernel = "rnn", "h", "h", "rnn_cell"
    equations = ("h = tanh(x Wx + h Wh + b{term})",)
    meanings: ClassVar = {
        "h": ("Hidden state", "what predicts the next word, and goes to the next step"),
    }

    def equation(self, a: Array, r: Array, *state: Array) -> tuple[State, State]:
        """h = tanh(a + r)."""
        return (get_array_module(a).tanh(a + r),), ()

    def gradient(
        self, dstate: State, before: State, after: State, saved: State
    ) -> tuple[Array, Array, tuple[Array | None, ...]]:
        """da = dr = dh * (1 - h * h)."""
        (dh,), (h,) = dstate, after
        da = dh * (1 - h * h)
        return da, da, (None,)


RNN = RNNCell()


@layer("x:N,D prev_h:N,H Wx:D,H Wh:H,H b:H -> next_h:N,H")
def rnn_step_forward(
    x: Array, prev_h: Array, Wx: Array, Wh: Array, b: Array
) -> tuple[Array, StepCache]:
    """One RNN step, next_h = tanh(x @ Wx + prev_h @ Wh + b)."""
    (next_h,), cache = step_forward(RNN, x, (prev_h,), Wx, Wh, b)
    return next_h, cache


@gradient(rnn_step_forward)
def rnn_step_backward(dnext_h: Array, cache: StepCache) -> tuple[Array, Array, Array, Array, Array]:
    """Gradients of rnn_step_forward."""
    dx, (dprev_h,), *weights = step_backward((dnext_h,), cache)
    return dx, dprev_h, *weights


@layer("x:N,T,D h0:N,H Wx:D,H Wh:H,H b:H -> h:N,T,H")
def rnn_forward(x: Array, h0: Array, Wx: Array, Wh: Array, b: Array) -> tuple[Array, SequenceCache]:
    """Run the RNN over a whole sequence.

    h0: The state before the first step.
    h: The state after each step, without h0.
    """
    return sequence_forward(RNN, x, (h0,), Wx, Wh, b)


@gradient(rnn_forward)
def rnn_backward(dh: Array, cache: SequenceCache) -> tuple[Array, Array, Array, Array, Array]:
    """Gradients of rnn_forward.

    dh: The upstream gradient of each step.
    """
    dx, (dh0,), *weights = sequence_backward(dh, cache)
    return dx, dh0, *weights


@layer("a:R,H Wh:H,H -> h:R,H")
def rnn_rows_forward(
    a: Array,
    state0: State,
    Wh: Array,
    rows: PackedSequences,
    buffer: Buffer | None = None,
    extra_term: RecurrentTerm | None = None,
) -> tuple[Array, RowsCache]:
    """Run the RNN over packed rows: h_t = tanh(a_t + h_{t-1} @ Wh) of the sequences alive at t.

    a: x @ Wx + b of every row, time-major.
    state0 : tuple of h0, an array (N, H), float
        The state before the first step.
    rows: Sequence and step of each of the R rows.
    buffer: Memory for results and cache. None allocates.
    extra_term: A term that each step adds to its pre-activation, such as attention.
    h: A view into the cache.
    """
    return rows_forward(a, state0, Wh, rows, RNN, buffer, extra_term)


@gradient(rnn_rows_forward)
def rnn_rows_backward(
    dh: Array, cache: RowsCache, buffer: Buffer | None = None, dWh: Array | None = None
) -> tuple[Array, State, Array]:
    """Gradients of rnn_rows_forward.

    dh: The upstream gradient of each row, from the layers above.
    buffer: Memory for da and dstate0. None allocates.
    dWh : array (H, H), float, or None
        Memory for the gradient of Wh. None allocates.

    Returns
    -------
    da : array (R, H), float
    dstate0 : tuple of dh0, an array (N, H), float
    dWh : array (H, H), float
    """
    return rows_backward(dh, cache, buffer, dWh)
