"""The table of recurrent cells. To add a cell, add an entry; no code above this file depends on which cell it is."""

from collections.abc import Callable
from typing import Any, NamedTuple

from xpcap.backend import Array, get_array_module
from xpcap.errors import OptionError
from xpcap.layers.activations import Activation, lstm_activations, no_activations, rnn_activations
from xpcap.layers.lstm import lstm_advance, lstm_rows_backward, lstm_rows_forward
from xpcap.layers.rnn import rnn_advance, rnn_rows_backward, rnn_rows_forward

State = tuple[Array, ...]  # h first; each array (n, H)


class Cell(NamedTuple):
    """A recurrent cell that works on pre-activations a = x @ Wx + b with G = gates * H columns.

    ``step(a, state, Wh, buffer, beside=None) -> state`` takes one step, for sampling.
    ``rows_forward(a, state0, Wh, rows, buffer=None, beside=None) -> h, cache`` loops over packed Rows; h is (R, H). In state0 all but h may be None: zeros.
    ``rows_backward(dh, cache, buffer=None, dWh=None) -> da, dstate0, dWh`` returns its gradients.
    A cell with `takes_beside` adds the extra term `beside`, such as attention, to its pre-activations in both. One without is never given it, may leave
    the parameter out, and is refused where it is needed.
    ``activations(cache) -> dict`` names what the loop's nonlinearities gave, for the doctor; a cell may leave it out.
    """

    gates: int  # columns of Wx, Wh and b, in units of H
    states: int  # number of arrays in a state
    step: Callable[..., State]
    rows_forward: Callable[..., tuple[Array, Any]]
    rows_backward: Callable[..., tuple[Array, State, Array]]
    activations: Callable[[Any], dict[str, Activation]] = no_activations
    takes_beside: bool = False

    def initial(self, h0: Array) -> State:
        """The state before the first step: h0 (n, H), with zeros for the other arrays."""
        xp = get_array_module(h0)
        return (h0, *(xp.zeros_like(h0) for _ in range(self.states - 1)))


CELLS: dict[str, Cell] = {
    "rnn": Cell(1, 1, rnn_advance, rnn_rows_forward, rnn_rows_backward, rnn_activations, takes_beside=True),
    "lstm": Cell(4, 2, lstm_advance, lstm_rows_forward, lstm_rows_backward, lstm_activations, takes_beside=True),
}


def check_takes_beside(function: str, cell: str) -> None:
    """OptionError : a cell in CELLS adds no extra term, so it cannot attend."""
    if not CELLS[cell].takes_beside:
        able = ", ".join(name for name, one in CELLS.items() if one.takes_beside)
        raise OptionError(
            f"{function}: cell {cell!r} cannot attend, expected one that adds an extra term to its pre-activations, such as {able}; "
            "if it does, say so in its Cell with takes_beside=True"
        )
