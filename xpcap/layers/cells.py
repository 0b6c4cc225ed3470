"""The table of recurrent cells. Nothing above this file asks which cell it is; a new one is a new entry."""

from collections.abc import Callable
from typing import Any, NamedTuple

from xpcap.backend import Array, get_array_module
from xpcap.layers.lstm import lstm_advance, lstm_rows_backward, lstm_rows_forward
from xpcap.layers.rnn import rnn_advance, rnn_rows_backward, rnn_rows_forward

State = tuple[Array, ...]  # h first; each array (n, H)


class Cell(NamedTuple):
    """A recurrent cell on pre-activations a = x @ Wx + b of G = gates * H columns.

    ``step(a, state, Wh, buffer, beside=None) -> state`` is one step, for sampling.
    ``rows_forward(a, state0, Wh, rows, buffer=None, beside=None) -> h, cache`` is the loop over packed Rows: h (R, H).
    ``rows_backward(dh, cache, buffer=None, dWh=None) -> da, dstate0, dWh`` are its gradients.
    """

    gates: int  # columns of Wx, Wh and b, in units of H
    states: int  # arrays in a state
    step: Callable[..., State]
    rows_forward: Callable[..., tuple[Array, Any]]
    rows_backward: Callable[..., tuple[Array, State, Array]]

    def initial(self, h0: Array) -> State:
        """The state before the first step: h0 (n, H), and zeros for whatever else the cell keeps."""
        xp = get_array_module(h0)
        return (h0, *(xp.zeros_like(h0) for _ in range(self.states - 1)))


CELLS: dict[str, Cell] = {
    "rnn": Cell(1, 1, rnn_advance, rnn_rows_forward, rnn_rows_backward),
    "lstm": Cell(4, 2, lstm_advance, lstm_rows_forward, lstm_rows_backward),
}
