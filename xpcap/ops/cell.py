"""The arrays of a cell's loop over packed rows, and the methods of a cell that operations use."""

from typing import Any, NamedTuple, Protocol

from xpcap.backend import Array

State = tuple[Array, ...]  # h first; each array (n, H)


class CellBuffers(NamedTuple):
    """Arrays of a cell's forward loop. It reads `a` and `before`, and writes the others."""

    a: Array  # (R, G), x @ Wx + b of each row
    r: Array  # (N, G), memory for h @ Wh of a step, plus an extra term
    before: State  # stacks of the states before each step
    after: State  # stacks of the states after it; they may be the same stacks
    saved: State  # (R, .), values of each row that the backward pass reads


class CellGradients(NamedTuple):
    """Arrays of a cell's backward loop. It reads the first three.

    `dstate` (N, H) carries gradients from a step to the one before: a step reads its first n rows and
    overwrites them. Only the first `n_next` sequences have a next step, which has just written their
    rows. The other sequences end here, and their rows still hold the initial values. So sequences may
    end at any step without a test or a mask.
    """

    states: State  # stacks of the forward loop
    saved: State  # (R, .), of the forward loop
    dh: Array  # (R, H), upstream gradient of h at each row
    dstate: State  # each (N, H); with dh the gradient of the state after a step
    begun: bool  # True if dstate holds the last states' gradients; else they are 0, and not written
    da: Array  # (R, G), written at each row
    dr: Array  # (R, G), written at each row; da itself, unless the cell scales r


class PointwiseSteps(Protocol):
    """The methods of a `Pointwise`, a cell with one product per step, that operations use."""

    def equation(self, a: Array, r: Array, *state: Array) -> tuple[State, State]: ...

    def gradient(
        self, dstate: State, before: State, after: State, saved: State
    ) -> tuple[Array, Array, tuple[Array | None, ...]]: ...


def name_of(method: Any) -> str:
    """The full name of the function behind a cell's method: ``xpcap.layers.lstm.LSTMCell.equation``.

    It comes from the code object, so an overridden, assigned or wrapped method has another name: a
    faster version belongs to one function.
    """
    function = getattr(method, "__func__", method)
    code = getattr(function, "__code__", None)
    return "" if code is None else f"{function.__globals__['__name__']}.{code.co_qualname}"
