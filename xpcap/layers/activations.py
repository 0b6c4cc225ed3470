"""Activations in the cache of a loop over packed rows, and where they saturate."""

from typing import NamedTuple

from xpcap.backend import Array
from xpcap.layers.lstm import LSTMRowsCache
from xpcap.layers.rnn import RNNRowsCache
from xpcap.ops import split_gates


class Activation(NamedTuple):
    """Values of one nonlinearity for every row, a view into the cache.

    Below `low` and above `high` it is saturated: hardly any gradient passes.
    """

    values: Array  # (R, H)
    low: float
    high: float


def lstm_activations(cache: LSTMRowsCache) -> dict[str, Activation]:
    """Gates i, f and o of lstm_rows_forward.

    At 0.05 and 0.95 a sigmoid has a fifth of its steepest slope.
    """
    gates = zip("ifo", split_gates(cache.out.gates)[:3], strict=True)
    return {f"gate {name}": Activation(gate, 0.05, 0.95) for name, gate in gates}


def rnn_activations(cache: RNNRowsCache) -> dict[str, Activation]:
    """States of rnn_rows_forward. At 0.99 tanh has a fiftieth of its steepest slope."""
    return {"state": Activation(cache.h[cache.rows.N :], -0.99, 0.99)}


def no_activations(cache: object) -> dict[str, Activation]:
    """No activations: for a cell that does not say what its cache holds."""
    return {}
