"""The arrays of a loop of a cell over packed rows, and what operations ask of that cell."""

from typing import Any, NamedTuple, Protocol

from xpcap.backend import Array

State = tuple[Array, ...]  # h first; each array (n, H)


class CellBuffers(NamedTuple):
    """Arrays of a cell's forward loop, written to but for `a` and `before`."""

    a: Array  # (R, G), by row; x @ Wx + b
    r: Array  # (N, G), memory for h @ Wh of a step, and a term that is added to it
    before: State  # stacks of the states before a step
    after: State  # of those after it, which may be the same stacks
    saved: State  # (R, .), by row; what the backward pass reads


class CellGradients(NamedTuple):
    """Arrays of a cell's backward loop; the first three are read.

    `dstate` (N, H) hands gradients from a step to the one before it: a step reads its first n rows
    and overwrites them. Only the first `n_next` sequences of a step have a next one, which has just
    written their rows. The others end here: theirs are as the loop began. So sequences may end at
    any step, without a test or a mask.
    """

    states: State  # stacks of the forward loop
    saved: State  # (R, .), by row; of the forward loop
    dh: Array  # (R, H), by row; upstream gradient of h
    dstate: State  # each (N, H); with dh the gradient of the state after a step
    begun: bool  # dstate holds the gradients of the last states; else these are 0, and not written
    da: Array  # (R, G), by row; written to
    dr: Array  # (R, G), by row; da itself, unless the cell scales r


class PointwiseSteps(Protocol):
    """The part of a `Pointwise`, a cell with one product a step, that operations see."""

    def equation(self, a: Array, r: Array, *state: Array) -> tuple[State, State]: ...

    def gradient(
        self, dstate: State, before: State, after: State, saved: State
    ) -> tuple[Array, Array, tuple[Array | None, ...]]: ...


def name_of(method: Any) -> str:
    """Where a cell's method is written, as ``xpcap.layers.lstm.LSTMCell.equation``.

    By its code, so that a method that is overridden, assigned or wrapped has another name: a faster
    version is registered for one text, and for no other.
    """
    function = getattr(method, "__func__", method)
    code = getattr(function, "__code__", None)
    return "" if code is None else f"{function.__globals__['__name__']}.{code.co_qualname}"
