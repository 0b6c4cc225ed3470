"""A step, and a whole sequence (N, T, D), of a cell with one product per step, from its inputs x.

Whoever imports a layer gets these: the course's functions in lstm.py, rnn.py and gru.py call them.
"""

from typing import NamedTuple

from xpcap.backend import Array
from xpcap.layers.cell import StepCache as CellCache
from xpcap.layers.recurrent import Pointwise, RowsCache, backward_loop, forward_loop
from xpcap.ops import PackedSequences, State, from_rows, to_rows

# ---- One step


class StepCache(NamedTuple):
    """Cache of step_forward."""

    cell: Pointwise
    x: Array  # (N, D)
    Wx: Array
    Wh: Array
    step: CellCache

    @property
    def sizes(self) -> dict[str, int]:
        """N sequences, D inputs, H units."""
        return {"N": len(self.x), "D": len(self.Wx), "H": len(self.Wh)}


def step_forward(
    cell: Pointwise, x: Array, before: State, Wx: Array, Wh: Array, b: Array
) -> tuple[State, StepCache]:
    """The state after one step of a cell from x (N, D); the cache keeps its own copy."""
    after, step = cell.step_forward(x @ Wx + b, before, {"Wh": Wh})
    copies = tuple(state.copy() for state in after)  # which the caller may write to
    return copies, StepCache(cell, x, Wx, Wh, step)


def step_backward(dafter: State, cache: StepCache) -> tuple[Array, State, Array, Array, Array]:
    """Gradients of step_forward: dx, those of the state before, dWx, dWh and db."""
    cell, x, Wx, Wh, step = cache
    da, dbefore, grads = cell.step_backward(dafter, step, {"Wh": Wh})
    return da @ Wx.T, dbefore, x.T @ da, grads["Wh"], da.sum(axis=0)


# ---- Sequences (N, T, D), all of one length


class SequenceCache(NamedTuple):
    """Cache of sequence_forward."""

    x: Array  # (T*N, D), time-major
    Wx: Array  # (D, G)
    loop: RowsCache
    carried: bool  # the state besides h was given, and its last value returned

    @property
    def sizes(self) -> dict[str, int]:
        """N sequences of T steps, D inputs, H units."""
        rows = self.loop.rows
        return {"N": rows.N, "T": len(rows.batch_sizes), "D": len(self.Wx), "H": len(self.loop.Wh)}

    @property
    def last_state(self) -> State:
        """The state (N, H) after the last step."""
        return tuple(x[len(x) - self.loop.rows.N :].copy() for x in self.loop.states)


def sequence_forward(
    cell: Pointwise, x: Array, state0: tuple[Array | None, ...], Wx: Array, Wh: Array, b: Array
) -> tuple[Array, SequenceCache]:
    """States (N, T, H) of a cell over a whole sequence x (N, T, D)."""
    N, T, _ = x.shape
    x_rows = to_rows(x)
    a = x_rows @ Wx  # (T*N, G)
    a += b
    h, loop = forward_loop(a, state0, Wh, PackedSequences.full(N, T), cell)
    return from_rows(h, N, T), SequenceCache(x_rows, Wx, loop, state0[-1] is not None)


def sequence_backward(
    dh: Array, cache: SequenceCache, last: tuple[Array | None, ...] | None = None
) -> tuple[Array, State, Array, Array, Array]:
    """Gradients of sequence_forward: dx, those of state0, dWx, dWh and db."""
    x, Wx, loop, _ = cache
    da, dstate0, dWh = backward_loop(to_rows(dh), loop, last=last)
    # Bare products make fresh arrays. dWh comes from the loop by ops.matmul, since captioners run
    # that loop too, and give it memory for dWh
    dx = from_rows(da @ Wx.T, loop.rows.N, len(loop.rows.batch_sizes))
    return dx, dstate0, x.T @ da, dWh, da.sum(axis=0)
