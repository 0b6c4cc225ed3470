"""The vanilla RNN: h = tanh(x @ Wx + h_prev @ Wh + b)."""

from typing import ClassVar

from xpcap.backend import Array, get_array_module
from xpcap.layers.cell import Activation
from xpcap.layers.layer import gradient, layer
from xpcap.layers.recurrent import (
    InputStepCache,
    Pointwise,
    RowsCache,
    SequenceCache,
    sequence_backward,
    sequence_forward,
    step_backward,
    step_forward,
)
from xpcap.ops import State


class RNNCell(Pointwise):
    """The pointwise half of an RNN step: a = x @ Wx + b, r = h_prev @ Wh."""

    blocks = "h"
    meanings: ClassVar = {
        "h": ("Hidden state", "predicts the next word, and goes to the next step"),
    }

    def equation(self, a: Array, r: Array, *state: Array) -> tuple[State, State]:
        """h = tanh(a + r)."""
        return (get_array_module(a).tanh(a + r),), ()

    def gradient(
        self, dstate: State, before: State, after: State, saved: State
    ) -> tuple[Array, Array, tuple[Array | None, ...]]:
        """da = dr = dh * (1 - h * h)."""
        (dh,) = dstate
        (h,) = after
        da = dh * (1 - h * h)
        return da, da, (None,)

    def activations(self, cache: RowsCache) -> dict[str, Activation]:
        """The state. At 0.99 the slope of tanh is a fiftieth of its largest."""
        return {"state": Activation(cache.states[0][cache.rows.N :], -0.99, 0.99)}


RNN = RNNCell()


@layer("x:N,D prev_h:N,H Wx:D,H Wh:H,H b:H -> next_h:N,H")
def rnn_step_forward(
    x: Array, prev_h: Array, Wx: Array, Wh: Array, b: Array
) -> tuple[Array, InputStepCache]:
    """One RNN step, next_h = tanh(x @ Wx + prev_h @ Wh + b)."""
    (next_h,), cache = step_forward(RNN, x, (prev_h,), Wx, Wh, b)
    return next_h, cache


@gradient(rnn_step_forward)
def rnn_step_backward(
    dnext_h: Array, cache: InputStepCache
) -> tuple[Array, Array, Array, Array, Array]:
    """Gradients of rnn_step_forward, from dnext_h and the cache."""
    dx, (dprev_h,), *weights = step_backward((dnext_h,), cache)
    return dx, dprev_h, *weights


@layer("x:N,T,D h0:N,H Wx:D,H Wh:H,H b:H -> h:N,T,H")
def rnn_forward(x: Array, h0: Array, Wx: Array, Wh: Array, b: Array) -> tuple[Array, SequenceCache]:
    """Run the RNN over a sequence: rnn_step_forward at each step.

    h0 is the state before the first step; h holds the state after each step.
    """
    return sequence_forward(RNN, x, (h0,), Wx, Wh, b)


@gradient(rnn_forward)
def rnn_backward(dh: Array, cache: SequenceCache) -> tuple[Array, Array, Array, Array, Array]:
    """Gradients of rnn_forward, from dh, the upstream gradient of each step, and the cache."""
    dx, (dh0,), *weights = sequence_backward(dh, cache)
    return dx, dh0, *weights
