"""Recurrent cells: the contract by which training and sampling use them, and their table, CELLS."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from xpcap.backend import Array, get_array_module
from xpcap.errors import OptionError
from xpcap.layers.gru import GRU
from xpcap.layers.lstm import LSTM
from xpcap.layers.recurrent import RowsCache, advance, rows_backward, rows_forward
from xpcap.layers.rnn import RNN
from xpcap.memory import Buffer
from xpcap.ops import PackedSequences, Pointwise, RecurrentTerm, State

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
    equations : tuple of str
        Lines of a step's equations, for the model card. ``{term}`` stands for the terms that
        `inject` adds to a.
    meanings : mapping of str to tuple of str
        Of gates and states by name: a title, and what it is, for the page of `look`.
    keeps : tuple of str or None
        As in Pointwise, for the same page.
    note : str
        Likely cause of a wrong shape of a weight, for messages.
    """

    shapes: Callable[[int, int], Shapes]
    states: int
    step: Callable[..., State]
    rows_forward: Callable[..., tuple[Array, object]]
    rows_backward: Callable[..., tuple[Array, State, Params]]
    activations: Callable[[Any], dict[str, Activation]] = no_activations
    takes_extra_term: bool = False
    replayable: bool = False
    inputs: tuple[str, str] = ("Wx", "b")
    gates: Callable[[Any], dict[str, Array]] = no_gates
    state_names: tuple[str, ...] = ()
    equations: tuple[str, ...] = ()
    meanings: Mapping[str, tuple[str, str]] = MappingProxyType({})
    keeps: tuple[str, str, str] | None = None
    note: str = ""

    def names_of_states(self) -> tuple[str, ...]:
        """Names of the arrays of a state.

        Returns
        -------
        names : tuple of str
            `state_names`, or h, state 2, ...
        """
        return self.state_names or ("h", *(f"state {k}" for k in range(2, self.states + 1)))

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


# ---- A cell by its pointwise half


def loop_of(cell: Pointwise) -> Cell:
    """The Cell that runs a pointwise half in the loop over packed rows.

    Its parameters are Wx (W, G), Wh (H, G) and b (G,).

    Parameters
    ----------
    cell : Pointwise

    Returns
    -------
    cell : Cell
    """

    def shapes(W: int, H: int) -> Shapes:
        G = len(cell.blocks) * H
        return {"Wx": (W, G), "Wh": (H, G), "b": (G,)}

    def step(
        a: Array,
        state: State,
        params: Params,
        buffer: Buffer,
        extra_term: RecurrentTerm | None = None,
    ) -> State:
        return advance(a, state, params["Wh"], cell, buffer, extra_term)

    def forward(
        a: Array,
        state0: State,
        params: Params,
        rows: PackedSequences,
        buffer: Buffer | None = None,
        extra_term: RecurrentTerm | None = None,
    ) -> tuple[Array, RowsCache]:
        return rows_forward(a, state0, params["Wh"], rows, cell, buffer, extra_term)

    def backward(
        dh: Array, cache: RowsCache, buffer: Buffer | None = None, grads: Params | None = None
    ) -> tuple[Array, State, Params]:
        da, dstate0, dWh = rows_backward(dh, cache, buffer, None if grads is None else grads["Wh"])
        return da, dstate0, {"Wh": dWh}

    def blocks(cache: RowsCache) -> dict[str, Array]:
        values = cache.saved.get("blocks")
        return {} if values is None else dict(zip(cell.blocks, cell.split(values), strict=True))

    def activations(cache: RowsCache) -> dict[str, Activation]:
        """Gates, or the state of a cell without. At 0.05 and 0.95 a sigmoid has a fifth of its
        steepest slope, at 0.99 tanh a fiftieth.
        """
        by_name = blocks(cache)
        if cell.gates:
            return {f"gate {name}": Activation(by_name[name], 0.05, 0.95) for name in cell.gates}
        return {"state": Activation(cache.states[0][cache.rows.N :], -0.99, 0.99)}

    return Cell(
        shapes,
        len(cell.states),
        step,
        forward,
        backward,
        activations,
        takes_extra_term=True,
        replayable=bool(cell.kernel),
        gates=blocks,
        state_names=cell.states,
        equations=cell.equations,
        meanings=cell.meanings,
        keeps=cell.keeps,
        note=cell.order,
    )


# ---- The cells

CELLS: dict[str, Cell] = {"rnn": loop_of(RNN), "lstm": loop_of(LSTM), "gru": loop_of(GRU)}


def check_takes_extra_term(function: str, cell: str) -> None:
    """OptionError : a cell in CELLS takes no extra term, so it cannot attend."""
    if not CELLS[cell].takes_extra_term:
        able = ", ".join(name for name, one in CELLS.items() if one.takes_extra_term)
        expected = f"one that adds an extra term to its pre-activations, such as {able}"
        cause = "if it does, say so in its Cell with takes_extra_term=True"
        raise OptionError(function, f"cell {cell!r}", "cannot attend", expected, cause)
