"""The gated recurrent unit. Its gates stack r, z, n along the last axis: reset, update and new.

Source: Cho et al. 2014, section 2.3. The reset gate scales the product h_prev @ Wh, as in cuDNN and
PyTorch, so that one product serves all gates.
"""

from typing import ClassVar

from xpcap.backend import Array, get_array_module
from xpcap.layers.layer import gradient, layer
from xpcap.layers.recurrent import (
    InputStepCache,
    Pointwise,
    SequenceCache,
    sequence_backward,
    sequence_forward,
    step_backward,
    step_forward,
)
from xpcap.ops import State, sigmoid


class GRUCell(Pointwise):
    """The pointwise half of a GRU step: a = x @ Wx + b, r = h_prev @ Wh."""

    blocks = "rzn"
    gates = "rz"
    scales_recurrence = True
    saved: ClassVar = {"blocks": 3, "product": 3}
    meanings: ClassVar = {
        "r": ("Reset gate", "the share of the state that enters the candidate"),
        "z": ("Update gate", "the share of the state that stays"),
        "n": ("Candidate", "the new content for the state"),
        "h": ("Hidden state", "predicts the next word, and goes to the next step"),
    }
    memory_gate = "z", "h"

    def equation(self, a: Array, r: Array, *state: Array) -> tuple[State, State]:
        """h is the mean of h_prev and new, with the weights update and 1 - update."""
        (h_prev,) = state
        a_r, a_z, a_n = self.split(a)
        r_r, r_z, r_n = self.split(r)
        xp = get_array_module(a)
        reset = sigmoid(a_r + r_r)  # (n, H)
        update = sigmoid(a_z + r_z)  # (n, H)
        new = xp.tanh(a_n + reset * r_n)
        h = (1 - update) * new + update * h_prev
        return (h,), (xp.concatenate((reset, update, new), axis=1), r)

    def gradient(
        self, dstate: State, before: State, after: State, saved: State
    ) -> tuple[Array, Array, tuple[Array | None, ...]]:
        """The gradients of `equation`, last line first."""
        (dh,) = dstate
        (h_prev,) = before
        blocks, r = saved
        reset, update, new = self.split(blocks)
        _, _, r_n = self.split(r)
        xp = get_array_module(dh)
        dnew = dh * (1 - update) * (1 - new * new)
        dupdate = dh * (h_prev - new) * update * (1 - update)
        dreset = dnew * r_n * reset * (1 - reset)
        da = xp.concatenate((dreset, dupdate, dnew), axis=1)
        dr = xp.concatenate((dreset, dupdate, dnew * reset), axis=1)
        return da, dr, (dh * update,)


GRU = GRUCell()


@layer("x:N,D prev_h:N,H Wx:D,3H Wh:H,3H b:3H -> next_h:N,H", cause=GRU.order)
def gru_step_forward(
    x: Array, prev_h: Array, Wx: Array, Wh: Array, b: Array
) -> tuple[Array, InputStepCache]:
    """One GRU step.

    Gates stack r, z, n::

        a = x @ Wx + b;  p = prev_h @ Wh
        r, z = sigmoid(a_r + p_r), sigmoid(a_z + p_z);  n = tanh(a_n + r * p_n)
        next_h = (1 - z) * n + z * prev_h

    Notes
    -----
    Cho et al. 2014, section 2.3. The reset gate scales a product, as in cuDNN and PyTorch.
    """
    (next_h,), cache = step_forward(GRU, x, (prev_h,), Wx, Wh, b)
    return next_h, cache


@gradient(gru_step_forward)
def gru_step_backward(
    dnext_h: Array, cache: InputStepCache
) -> tuple[Array, Array, Array, Array, Array]:
    """Gradients of gru_step_forward, from dnext_h and the cache."""
    dx, (dprev_h,), *weights = step_backward((dnext_h,), cache)
    return dx, dprev_h, *weights


@layer("x:N,T,D h0:N,H Wx:D,3H Wh:H,3H b:3H -> h:N,T,H", cause=GRU.order)
def gru_forward(x: Array, h0: Array, Wx: Array, Wh: Array, b: Array) -> tuple[Array, SequenceCache]:
    """Run the GRU over a sequence: gru_step_forward at each step.

    h0 is the state before the first step; h holds the state after each step.
    """
    return sequence_forward(GRU, x, (h0,), Wx, Wh, b)


@gradient(gru_forward)
def gru_backward(dh: Array, cache: SequenceCache) -> tuple[Array, Array, Array, Array, Array]:
    """Gradients of gru_forward, from dh, the upstream gradient of each step, and the cache."""
    dx, (dh0,), *weights = sequence_backward(dh, cache)
    return dx, dh0, *weights
