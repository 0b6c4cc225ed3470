"""The work of a time step, over whole buffers. Each function chooses its kernels once for a sequence and returns a function that takes one Step.

So a step on a GPU costs the host two launches each way, or one where the batch is small: nothing is sliced, looked up or asked for.

Packed time-major rows are the memory layout of a batch of sequences without padding. Rows are ordered by time step, and row k of a step continues row k
of the previous step. In an (N, T, D) batch all N sequences are alive at every step. States form one stack: the N initial states, then the state after
each row, so row r's state is stack[N + r].
"""

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from xpcap.backend import Array, asarray, get_array_module
from xpcap.memory import Buffer
from xpcap.ops import dispatch
from xpcap.ops.equations import (
    Gates,
    add_product,
    gather,
    gather_plus,
    lstm_gates,
    lstm_gates_backward,
    product,
    rnn_cell,
    rnn_cell_backward,
    times_transpose,
)


class Step(NamedTuple):
    """Where a time step of n sequences lies.

    Its rows begin at row `first`. In a stack of states, those it starts from begin at `before` and those it produces at `after`. The first `more`
    of its sequences have a next step, whose rows begin at `first + n`.
    """

    first: int
    before: int
    after: int
    n: int
    more: int

    @property
    def rows(self) -> slice:
        """Its rows among all rows."""
        return slice(self.first, self.first + self.n)

    @property
    def befores(self) -> slice:
        """The states it starts from, in their stack."""
        return slice(self.before, self.before + self.n)

    @property
    def afters(self) -> slice:
        """The states it produces, in their stack."""
        return slice(self.after, self.after + self.n)


TakeStep = Callable[[Step], None]


def single_step(n: int) -> Step:
    """The one step of n sequences, where the states before and after lie in arrays of their own."""
    return Step(0, 0, 0, n, 0)


def start_states(h0: Array, c0: Array | None, h: Array, c: Array) -> None:
    """h[:N], c[:N] = h0, c0: the states (N, H) before the first step, at the beginning of their stacks. c0 None: zeros."""
    if fast := dispatch.find("start_states", h0, c0, h, c):
        fast(h0, c0, h, c)
        return
    N = len(h0)
    h[:N], c[:N] = h0, 0 if c0 is None else c0


def row_products(x: Array, w: Array, out: Array) -> Callable[[int, int, int], None]:
    """out[o : o + n] = x[i : i + n] @ w, for each call with (i, o, n); x (., k), w (k, m), out (., m)."""
    if fast := dispatch.find("row_products", x, w, out):
        return fast(x, w, out)

    def multiply(i: int, o: int, n: int) -> None:
        product(x[i : i + n], w, out=out[o : o + n])

    return multiply


def row_products_add(x: Array, w: Array, out: Array, scratch: Array | None = None) -> Callable[[int, int, int], None]:
    """out[o : o + n] += x[i : i + n] @ w, for each call with (i, o, n); x (., k), w (k, m), out (., m).

    `scratch` (., m) has a row for each of n and is overwritten; None takes fresh memory, where a version needs any.
    """
    if fast := dispatch.find("row_products_add", x, w, out, scratch):
        return fast(x, w, out, scratch)

    def multiply(i: int, o: int, n: int) -> None:
        to = out[o : o + n]
        add_product(x[i : i + n], w, to, get_array_module(to).empty_like(to) if scratch is None else scratch[:n])

    return multiply


def row_products_transpose(x: Array, w: Array, out: Array, scratch: Array) -> Callable[[int, int, int], None]:
    """out[o : o + n] = x[i : i + n] @ w.T, for each call with (i, o, n); x (., k), w (m, k), out (., m). `scratch` as in ops.times_transpose."""
    if fast := dispatch.find("row_products_transpose", x, w, out, scratch):
        return fast(x, w, out, scratch)

    def multiply(i: int, o: int, n: int) -> None:
        times_transpose(x[i : i + n], w, out[o : o + n], scratch)

    return multiply


def lstm_steps(a: Array, Wh: Array, state: tuple[Array, Array], out: Gates, beside: Any = None) -> TakeStep:
    """A step of an LSTM: h, c and the gates from a + h_prev @ Wh (+ beside).

    a (R, 4H), gates and tanh_c by row; `state`, the stacks h and c that steps start from, and out.h and out.c, those they produce, may be the same.
    """
    if beside is None and (fast := dispatch.find("lstm_steps", a, Wh, state, out)):
        return fast(a, Wh, state, out)
    h, c = state
    multiply, gate = row_products(h, Wh, out.gates), lstm_gate_steps(a, out.gates, c, out)
    add = None if beside is None else beside.forward_steps(h, out.gates)

    def take(step: Step) -> None:
        multiply(step.before, step.first, step.n)  # r, overwritten by the gates
        if add is not None:
            add(step)
        gate(step)

    return take


def lstm_backward_steps(
    dh: Array, dh_next: Array, dc: Array, out: Gates, Wh: Array, da: Array, scratch: Array, beside: Any = None, dc_T: Array | None = None
) -> TakeStep:  # fmt: skip
    """Gradients of lstm_steps, later steps first: da by row; dh_next[:n] and dc[:n], which go to the step before, and from the first to h0 and c0.

    Arguments as in lstm_gate_backward_steps; `out` holds the stacks and buffers of the forward pass, `scratch` (N * H,) is overwritten. Between steps
    a kernel may leave dh_next as it was. With dc_T a step is always a product and the gates.
    """
    if beside is None and dc_T is None and (fast := dispatch.find("lstm_backward_steps", dh, dh_next, dc, out, Wh, da, scratch)):
        return fast(dh, dh_next, dc, out, Wh, da, scratch)
    gate, multiply = lstm_gate_backward_steps(dh, dh_next, dc, out, da, dc_T), row_products_transpose(da, Wh, dh_next, scratch)
    add = None if beside is None else beside.backward_steps(da, dh_next)

    def take(step: Step) -> None:
        gate(step)
        multiply(step.first, 0, step.n)
        if add is not None:
            add(step)

    return take


def lstm_gate_steps(a: Array, r: Array, c_prev: Array, out: Gates) -> TakeStep:
    """ops.lstm_gates on the rows of a step: a, r, gates, tanh_c (R, .) by row, c_prev in the stack before, h and c in the stack after."""
    if fast := dispatch.find("lstm_gate_steps", a, r, c_prev, out):
        return fast(a, r, c_prev, out)

    def take(step: Step) -> None:
        rows, afters = step.rows, step.afters
        lstm_gates(a[rows], r[rows], c_prev[step.befores], out=Gates(out.h[afters], out.c[afters], out.gates[rows], out.tanh_c[rows]))

    return take


def lstm_gate_backward_steps(dh: Array, dh_next: Array, dc: Array, out: Gates, da: Array, dc_T: Array | None = None) -> TakeStep:
    """ops.lstm_gates_backward on the rows of a step, later steps first.

    dh, da (R, .) by row; dh_next and dc (N, H) hold the gradients from the next step for its first `more` sequences. For the others dh_next counts as 0
    and dc as dc_T (N, H), the gradient of c after a sequence's last step. They begin so; on a GPU without dc_T both count as 0 whatever they hold.
    `out` are the whole buffers of the forward pass; dc is written to.
    """
    if fast := dispatch.find("lstm_gate_backward_steps", dh, dh_next, dc, out, da, dc_T):
        return fast(dh, dh_next, dc, out, da, dc_T)
    dh_next[...], dc[...] = 0, 0 if dc_T is None else dc_T

    def take(step: Step) -> None:
        rows, n = step.rows, step.n
        args = dh[rows], dh_next[:n], dc[:n], out.gates[rows], out.tanh_c[rows], out.c[step.befores]
        lstm_gates_backward(*args, out=(da[rows], dc[:n]))

    return take


def rnn_steps(a: Array, Wh: Array, h_prev: Array, h: Array, beside: Any = None) -> TakeStep:
    """A step of an RNN: h = tanh(a + h_prev @ Wh (+ beside)); a (R, H) by row, h_prev and h stacks, which may be the same."""
    multiply, activate = row_products(h_prev, Wh, h), rnn_cell_steps(a, h)
    add = None if beside is None else beside.forward_steps(h_prev, h[len(h) - len(a) :])  # its rows, without the initial states

    def take(step: Step) -> None:
        multiply(step.before, step.after, step.n)  # r, overwritten by the new state
        if add is not None:
            add(step)
        activate(step)

    return take


def rnn_backward_steps(dh: Array, dh_next: Array, h: Array, Wh: Array, da: Array, scratch: Array, beside: Any = None) -> TakeStep:
    """Gradients of rnn_steps, later steps first: da by row, then dh_next[:n], which goes to the step before."""
    activate, multiply = rnn_cell_backward_steps(dh, dh_next, h, da), row_products_transpose(da, Wh, dh_next, scratch)
    add = None if beside is None else beside.backward_steps(da, dh_next)

    def take(step: Step) -> None:
        activate(step)
        multiply(step.first, 0, step.n)
        if add is not None:
            add(step)

    return take


def rnn_cell_steps(a: Array, h: Array) -> TakeStep:
    """ops.rnn_cell on the rows of a step: a (R, H) by row; the stack h holds r after the step, and receives the new state there."""
    if fast := dispatch.find("rnn_cell_steps", a, h):
        return fast(a, h)

    def take(step: Step) -> None:
        rnn_cell(a[step.rows], h[step.afters], out=h[step.afters])

    return take


def rnn_cell_backward_steps(dh: Array, dh_next: Array, h: Array, da: Array) -> TakeStep:
    """ops.rnn_cell_backward on the rows of a step, later steps first; dh_next as in lstm_gate_backward_steps."""
    if fast := dispatch.find("rnn_cell_backward_steps", dh, dh_next, h, da):
        return fast(dh, dh_next, h, da)
    dh_next[...] = 0

    def take(step: Step) -> None:
        rnn_cell_backward(dh[step.rows], dh_next[: step.n], h[step.afters], out=da[step.rows])

    return take


def gather_plus_image(table: Array, ids: Array, b: Array, image: Array, rows: Any, out: Array) -> Array:
    """out[r] = table[ids[r]] + b + image[k] for each row r of sequence k: table (K, C), ids (R,) int, b (C,), image (N, C), out (R, C).

    `rows` are layers.rows.Rows. The table may be overwritten.
    """
    if fast := dispatch.find("gather_plus_image", table, ids, b, image, rows, out):
        return fast(table, ids, b, image, rows, out)
    gather_plus(table, ids, b, out)
    for step in rows.steps:
        out[step.rows] += image[: step.n]
    return out


def sequence_sum(x: Array, rows: Any, out: Array) -> Array:
    """out[k] = sum of x[r] over all rows r of sequence k, later steps last: x (R, C), out (N, C). The gradient of `gather_plus_image` for `image`."""
    if fast := dispatch.find("sequence_sum", x, rows, out):
        return fast(x, rows, out)
    out[...] = 0
    for step in rows.steps:
        out[: step.n] += x[step.rows]
    return out


class Rows(NamedTuple):
    """R packed rows of N sequences, longest sequence first."""

    sizes: Sequence[int]  # sequences alive at each step, non-increasing; always on the host
    N: int
    past: Any  # (R,) int array, index in the stack of each row's previous state; None: r for row r
    caption: Any  # (R,) int array, the sequence of each row, in sorted order; None: r % N for row r
    firsts: Any = None  # (T+1,) int array, the first row of each step, and R; None: multiples of N

    @classmethod
    def of(cls, sizes: Sequence[int], N: int) -> "Rows":
        """Rows of N sequences, of which sizes[t] are alive at step t. Index arrays are on the host."""
        lengths = np.array(sizes, np.intp)
        firsts = np.zeros(len(lengths) + 1, np.intp)
        lengths.cumsum(out=firsts[1:])
        starts = firsts[:-1]
        caption = np.arange(lengths.sum()) - starts.repeat(lengths)
        if len(caption) == N * len(lengths):
            return cls(tuple(sizes), N, None, caption, firsts)
        before = np.zeros_like(starts)  # where the states that a step starts from begin in the stack
        before[1:] = N + starts[:-1]
        return cls(tuple(sizes), N, before.repeat(lengths) + caption, caption, firsts)

    @classmethod
    def full(cls, N: int, T: int) -> "Rows":
        """Rows of N sequences with T steps each, as in an (N, T, D) array."""
        return cls([N] * T, N, None, None)

    @property
    def R(self) -> int:  # noqa: N802 - a size
        """Number of rows."""
        return sum(self.sizes) if self.caption is None else len(self.caption)

    @property
    def steps(self) -> tuple[Step, ...]:
        """The time steps, first to last, without those that no sequence reaches."""
        return _steps(tuple(self.sizes), self.N)

    def check(self, function: str, R: int, N: int) -> None:
        """Raise a ValueError unless these are R rows of N sequences and sizes never increase."""
        bounds = [N, *self.sizes, 0]
        if self.R != R or self.N != N or bounds != sorted(bounds, reverse=True):
            raise ValueError(
                f"{function}: sizes are {list(self.sizes)} with N = {self.N}, expected N = {N} and non-increasing sizes that add up to {R}; "
                "are the sequences sorted by length?"
            )

    def past_states(self, stack: Array, buffer: Buffer) -> Array:
        """The state (R, H) before each row, from a stack (N + R, H)."""
        if self.past is None:
            return stack[: self.R]
        return gather(stack, asarray(self.past, like=stack), buffer("past", (self.R, stack.shape[1])))


@functools.lru_cache(maxsize=64)  # the forward and the backward loop ask for the same ones
def _steps(sizes: tuple[int, ...], N: int) -> tuple[Step, ...]:
    steps, first, before = [], 0, 0
    for n, more in itertools.zip_longest(sizes, sizes[1:], fillvalue=0):
        if n:
            steps.append(Step(first, before, N + first, n, more))
        first, before = first + n, N + first
    return tuple(steps)


def zero_without_steps(rows: Rows, *grads: Array) -> None:
    """Zero the gradients (N, H) of the initial states of sequences that have no step: a backward loop never reaches them."""
    first = rows.sizes[0] if rows.sizes else 0
    if first < rows.N:
        for grad in grads:
            grad[first:] = 0


class Beside(Protocol):
    """An extra term that a step adds to its pre-activation from the previous state, besides h @ Wh: attention, for example.

    Each object serves one forward and backward pass. It keeps its own cache and collects the gradients of its own parameters. Like the functions in
    loops.py it is asked once for a sequence, is given whole buffers, and returns a function that takes one Step.
    """

    def forward_steps(self, h: Array, r: Array) -> TakeStep:
        """A step adds the term from the states it starts from, h[step.befores], to r[step.rows] (n, G). `h` is their stack, `r` has all rows."""

    def backward_steps(self, da: Array, dh_prev: Array) -> TakeStep:
        """Backpropagate da[step.rows] (n, G), the gradient of the pre-activation, through a step of the other: add to dh_prev[: step.n] in place."""


def to_rows(x: Array) -> Array:
    """(N, T, D) to time-major rows (T*N, D)."""
    N, T, D = x.shape
    return x.transpose(1, 0, 2).reshape(T * N, D)


def from_rows(rows: Array, N: int, T: int) -> Array:
    """Time-major rows (T*N, D) to (N, T, D)."""
    return rows.reshape(T, N, rows.shape[1]).transpose(1, 0, 2).copy()  # copies even for N = 1: results must not share memory with caches
