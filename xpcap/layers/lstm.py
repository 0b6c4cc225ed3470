"""The LSTM. Its gates stack i, f, o, g along the last axis.

`LSTMCell` has the equations, forward and backward. recurrent.py runs them, for a step with inputs x and
in the loop over a sequence, where `xpcap.ops` may have a faster version of an equation.

Source: Hochreiter & Schmidhuber 1997, with the forget gate of Gers et al. 2000.
"""

from typing import Any, ClassVar, overload

from xpcap.backend import Array, get_array_module
from xpcap.errors import InvalidValueError
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


class LSTMCell(Pointwise):
    """The pointwise half of an LSTM step: a = x @ Wx + b, r = h_prev @ Wh."""

    blocks = "ifog"
    gates = "ifo"
    states = ("h", "c")
    saved: ClassVar = {"blocks": 4, "tanh_c": 1}
    meanings: ClassVar = {
        "i": ("Input gate", "the share of the candidate g that enters the cell"),
        "f": ("Forget gate", "the share of the cell that stays"),
        "o": ("Output gate", "the share of tanh(c) in the hidden state"),
        "g": ("Candidate", "the new content for the cell"),
        "c": ("Cell", "c = f · c + i · g, after the word"),
        "h": ("Hidden state", "predicts the next word, and goes to the next step"),
    }
    memory_gate = "f", "c"

    def equation(self, a: Array, r: Array, *state: Array) -> tuple[State, State]:
        """c = f * c_prev + i * g and h = o * tanh(c), with gates from the pre-activation a + r."""
        xp = get_array_module(a)
        _, c_prev = state
        i, f, o, g = self.split(a + r)  # each (n, H)
        i, f, o, g = sigmoid(i), sigmoid(f), sigmoid(o), xp.tanh(g)
        c = f * c_prev + i * g
        tanh_c = xp.tanh(c)
        h = o * tanh_c
        return (h, c), (xp.concatenate((i, f, o, g), axis=1), tanh_c)

    def gradient(
        self, dstate: State, before: State, after: State, saved: State
    ) -> tuple[Array, Array, tuple[Array | None, ...]]:
        """The gradients of `equation`, last line first."""
        dh, dc = dstate
        _, c_prev = before
        blocks, tanh_c = saved
        xp = get_array_module(dh)
        i, f, o, g = self.split(blocks)
        dc = dc + dh * ((1 - tanh_c * tanh_c) * o)
        di = dc * ((1 - i) * i * g)
        df = dc * ((1 - f) * f) * c_prev
        do = dh * ((1 - o) * o * tanh_c)
        dg = dc * ((1 - g * g) * i)
        da = xp.concatenate((di, df, do, dg), axis=1)
        return da, da, (None, dc * f)


LSTM = LSTMCell()


# ---- One step


@layer(
    "x:N,D prev_h:N,H prev_c:N,H Wx:D,4H Wh:H,4H b:4H -> next_h:N,H next_c:N,H", cause=LSTM.order
)
def lstm_step_forward(
    x: Array, prev_h: Array, prev_c: Array, Wx: Array, Wh: Array, b: Array
) -> tuple[Array, Array, InputStepCache]:
    """One LSTM step.

    Gates stack i, f, o, g::

        a = x @ Wx + prev_h @ Wh + b
        i, f, o = sigmoid(a_i), sigmoid(a_f), sigmoid(a_o);  g = tanh(a_g)
        next_c = f * prev_c + i * g;  next_h = o * tanh(next_c)

    Notes
    -----
    Hochreiter & Schmidhuber 1997, with the forget gate of Gers et al. 2000.

    Examples
    --------
    >>> N, D, H = 2, 3, 4
    >>> rng = np.random.default_rng(0)
    >>> x, prev_h, prev_c = rng.normal(size=(N, D)), np.zeros((N, H)), np.zeros((N, H))
    >>> Wx, Wh, b = rng.normal(size=(D, 4 * H)), rng.normal(size=(H, 4 * H)), np.zeros(4 * H)
    >>> next_h, next_c, cache = lstm_step_forward(x, prev_h, prev_c, Wx, Wh, b)
    >>> dx, dh, dc, dWx, dWh, db = lstm_step_backward(np.ones((N, H)), np.zeros((N, H)), cache)
    >>> dWx.shape
    (3, 16)
    """
    (next_h, next_c), cache = step_forward(LSTM, x, (prev_h, prev_c), Wx, Wh, b)
    return next_h, next_c, cache


@gradient(lstm_step_forward)
def lstm_step_backward(
    dnext_h: Array, dnext_c: Array, cache: InputStepCache
) -> tuple[Array, Array, Array, Array, Array, Array]:
    """Gradients of lstm_step_forward, from dnext_h, dnext_c and the cache."""
    dx, (dprev_h, dprev_c), *weights = step_backward((dnext_h, dnext_c), cache)
    return dx, dprev_h, dprev_c, *weights


# ---- A sequence


@overload
def lstm_forward(
    x: Array, h0: Array, Wx: Array, Wh: Array, b: Array
) -> tuple[Array, SequenceCache]: ...


@overload
def lstm_forward(
    x: Array, h0: Array, Wx: Array, Wh: Array, b: Array, *, c0: Array
) -> tuple[Array, Array, SequenceCache]: ...


@layer("x:N,T,D h0:N,H Wx:D,4H Wh:H,4H b:4H c0?:N,H -> h:N,T,H c_T?:N,H", cause=LSTM.order)
def lstm_forward(
    x: Array, h0: Array, Wx: Array, Wh: Array, b: Array, *, c0: Array | None = None
) -> tuple[Any, ...]:
    """Run the LSTM over a sequence: lstm_step_forward at each step.

    h0 is the state before the first step; h holds the state after each step. In the course's form,
    ``h, cache = lstm_forward(x, h0, Wx, Wh, b)``, the cell starts at zero.

    To run a long sequence in pieces, pass the cell before the first step as c0, and get the cell
    after the last step as c_T: ``h, c_T, cache = lstm_forward(x, h0, Wx, Wh, b, c0=c0)``. The next
    piece starts from ``h[:, -1]`` and c_T.

    Examples
    --------
    >>> N, T, D, H = 2, 5, 3, 4
    >>> rng = np.random.default_rng(0)
    >>> x, h0 = rng.normal(size=(N, T, D)), np.zeros((N, H))
    >>> Wx, Wh, b = rng.normal(size=(D, 4 * H)), rng.normal(size=(H, 4 * H)), np.zeros(4 * H)
    >>> h, cache = lstm_forward(x, h0, Wx, Wh, b)
    >>> h.shape
    (2, 5, 4)
    >>> dx, dh0, dWx, dWh, db = lstm_backward(np.ones_like(h), cache)
    """
    h, cache = sequence_forward(LSTM, x, (h0, c0), Wx, Wh, b)
    return (h, cache) if c0 is None else (h, cache.last_state[1], cache)


@gradient(lstm_forward)
def lstm_backward(
    dh: Array, cache: SequenceCache, *, dc_T: Array | None = None
) -> tuple[Array, ...]:
    """Gradients of lstm_forward, from dh, the upstream gradient of each step, and the cache.

    If the forward pass had c0, dc_T is the upstream gradient of c_T (None means zeros), and dc0 is
    returned, too.

    Each step computes its rows of da. The gradients of the weights are then one product each over all
    steps, in sequence_backward and backward_loop: dWx = x.T @ da and dWh = h_prev.T @ da. A captioner
    runs the same loop; its Network.backward first sums the rows of da of each distinct word.

    Raises
    ------
    ValueError
        dc_T is given, but the forward pass had no c0.
    """
    if dc_T is not None and not cache.carried:
        raise InvalidValueError(
            "lstm_backward: got dc_T, expected none: the forward pass returned no c_T; pass c0 to"
            " lstm_forward, zeros if need be"
        )
    dx, (dh0, dc0), *weights = sequence_backward(dh, cache, None if dc_T is None else (None, dc_T))
    return (dx, dh0, *weights, dc0) if cache.carried else (dx, dh0, *weights)
