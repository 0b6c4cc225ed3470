"""Recurrent cells: the contract by which training and sampling use them, and their table, CELLS."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from xpcap.backend import Array, get_array_module
from xpcap.errors import OptionError
from xpcap.layers.lstm import LSTMRowsCache, lstm_advance, lstm_rows_backward, lstm_rows_forward
from xpcap.layers.rnn import RNNRowsCache, rnn_advance, rnn_rows_backward, rnn_rows_forward
from xpcap.memory import Buffer
from xpcap.ops import PackedSequences, RecurrentTerm, split_gates

State = tuple[Array, ...]  # h first; each array (n, H)
Shapes = dict[str, tuple[int, ...]]
Params = Mapping[str, Array]


class Activation(NamedTuple):
    """Activations (R, H) of one nonlinearity; beyond low..high hardly any gradient passes."""

    values: Array  # (R, H)
    low: float
    high: float


def no_activations(cache: object) -> dict[str, Activation]:
    """No activations, for a cell that does not name those in its cache."""
    return {}


def no_gates(cache: object) -> dict[str, Array]:
    """No gates, for a cell that has none or does not name them."""
    return {}


class Cell(NamedTuple):
    """A recurrent cell: parameters, a step for sampling, a loop with gradients for training.

    A cell works on pre-activations a = x @ weight + bias, (n, G), of the parameters that `inputs`
    names. The caller computes a, once for each distinct word, and the gradients of these two; all
    other parameters are the cell's own. Dropout is the captioner's: of image features, word vectors
    and h. A cell drops nothing.

    Parameters
    ----------
    shapes : callable
        ``shapes(W, H)`` names the parameters, in the order of the buffer, for word vectors of W and
        states of H numbers. Matrices are drawn from randn / sqrt(rows); vectors begin at zero.
    states : int
        Number of arrays in a state, each (n, H). The first is the cell's output.
    step : callable
        ``step(a, state, params, buffer) -> state`` takes one step of n hypotheses. `params` is a
        mapping of the names in `shapes`. `buffer` is memory for temporaries, not for the new state.
    rows_forward : callable
        ``rows_forward(a, state0, params, rows, buffer=None) -> h, cache`` takes all steps of
        PackedSequences; h (R, H). In state0 all arrays but the first may be None: zeros.
    rows_backward : callable
        ``rows_backward(dh, cache, buffer=None, grads=None) -> da, dstate0, grads`` returns the
        gradients of a (R, G), of each array in state0, and of the cell's own parameters by name. It
        may write the latter to the arrays of `grads`, if given.
    activations : callable
        ``activations(cache)`` are the nonlinearities to watch for saturation, for the doctor and
        for `CaptioningRNN.trace`.
    takes_extra_term : bool
        True if `step` and `rows_forward` have one more parameter, ``extra_term=None``: a
        RecurrentTerm, such as attention, that each step adds to its pre-activation a. It may be
        added to any part of the pre-activation whose gradient is da, but not to a part that a reset
        gate scales: the term's own gradients are computed from da. A cell without it is never given
        a term, and is refused if one is needed.
    replayable : bool
        True if on a device the loops do nothing but call operations of xpcap.ops that have kernels,
        for then launches can be recorded and repeated.
    inputs : tuple of two str
        Names of the weight (W, G) and of the bias (G,) of pre-activations.
    gates : callable
        ``gates(cache)`` are all gates (R, H) by name, for the trace alone.
    state_names : tuple of str
        Names of the arrays of a state, for the trace alone. Empty: h, state 2, ...
    """

    shapes: Callable[[int, int], Shapes]
    states: int  # number of arrays in a state
    step: Callable[..., State]
    rows_forward: Callable[..., tuple[Array, object]]
    rows_backward: Callable[..., tuple[Array, State, Params]]
    activations: Callable[[Any], dict[str, Activation]] = no_activations  # of a cache
    takes_extra_term: bool = False
    replayable: bool = False  # its loops launch only kernels and products of xpcap.ops
    inputs: tuple[str, str] = ("Wx", "b")  # weight (W, G) and bias (G,)
    gates: Callable[[Any], dict[str, Array]] = no_gates  # of a cache
    state_names: tuple[str, ...] = ()  # of all arrays of a state; empty: h, state 2, ...

    def initial(self, h0: Array) -> State:
        """The state before the first step.

        Parameters
        ----------
        h0 : array (n, H), float

        Returns
        -------
        state : tuple of array
            h0, and zeros for the other arrays.
        """
        xp = get_array_module(h0)
        return (h0, *(xp.zeros_like(h0) for _ in range(self.states - 1)))


# ---- The cells


def one_layer(
    gates: int,
    states: int,
    advance: Callable[..., State],
    rows_forward: Callable[..., tuple[Array, object]],
    rows_backward: Callable[..., tuple[Array, State, Array]],
    activations: Callable[[Any], dict[str, Activation]],
) -> Cell:
    """A Cell with Wx (W, G), Wh (H, G) and b (G,), G = gates * H. Functions get Wh as `params`."""

    def shapes(W: int, H: int) -> Shapes:
        return {"Wx": (W, gates * H), "Wh": (H, gates * H), "b": (gates * H,)}

    def step(
        a: Array,
        state: State,
        params: Params,
        buffer: Buffer,
        extra_term: RecurrentTerm | None = None,
    ) -> State:
        return advance(a, state, params["Wh"], buffer, extra_term)

    def forward(
        a: Array,
        state0: State,
        params: Params,
        rows: PackedSequences,
        buffer: Buffer | None = None,
        extra_term: RecurrentTerm | None = None,
    ) -> tuple[Array, object]:
        return rows_forward(a, state0, params["Wh"], rows, buffer, extra_term)

    def backward(
        dh: Array, cache: object, buffer: Buffer | None = None, grads: Params | None = None
    ) -> tuple[Array, State, Params]:
        da, dstate0, dWh = rows_backward(dh, cache, buffer, None if grads is None else grads["Wh"])
        return da, dstate0, {"Wh": dWh}

    loops = forward, backward
    return Cell(shapes, states, step, *loops, activations, takes_extra_term=True, replayable=True)


def gates_by_name(cache: LSTMRowsCache) -> dict[str, Array]:
    """Gates i, f, o and g."""
    return dict(zip("ifog", split_gates(cache.out.gates), strict=True))


def lstm_activations(cache: LSTMRowsCache) -> dict[str, Activation]:
    """Gates i, f and o. At 0.05 and 0.95 a sigmoid has a fifth of its steepest slope."""
    gates = gates_by_name(cache)
    return {f"gate {name}": Activation(gates[name], 0.05, 0.95) for name in "ifo"}


def rnn_activations(cache: RNNRowsCache) -> dict[str, Activation]:
    """States. At 0.99 tanh has a fiftieth of its steepest slope."""
    return {"state": Activation(cache.h[cache.rows.N :], -0.99, 0.99)}


RNN = one_layer(1, 1, rnn_advance, rnn_rows_forward, rnn_rows_backward, rnn_activations)
LSTM = one_layer(4, 2, lstm_advance, lstm_rows_forward, lstm_rows_backward, lstm_activations)
CELLS: dict[str, Cell] = {
    "rnn": RNN._replace(state_names=("h",)),
    "lstm": LSTM._replace(state_names=("h", "c"), gates=gates_by_name),
}


def check_takes_extra_term(function: str, cell: str) -> None:
    """OptionError : a cell in CELLS takes no extra term, so it cannot attend."""
    if not CELLS[cell].takes_extra_term:
        able = ", ".join(name for name, one in CELLS.items() if one.takes_extra_term)
        raise OptionError(
            function,
            f"cell {cell!r}",
            "cannot attend",
            expected=f"one that adds an extra term to its pre-activations, such as {able}",
            cause="if it does, say so in its Cell with takes_extra_term=True",
        )
