"""Recurrent cells over packed sequences: equations, forward and backward loops.

Four parts: packed sequences, products of a step's rows, the LSTM, the RNN. Each cell has
the equations of one step on separate arrays (`lstm_gates`, `lstm_gates_backward`) and the step of
a loop (`lstm_steps`, `lstm_backward_steps`). A loop over whole buffers is then

    step_fn = lstm_steps(a, Wh, (h, c), out)                    step_fn = lstm_backward_steps(dh, ...)
    for step in rows.steps:                                     for step in reversed(rows.steps):
        step_fn(step)                                               step_fn(step)

with a = x @ Wx + b of all rows in one product before it, and the gradients of Wx, Wh and b in one
product each after it, as in layers/lstm.py and layers/rnn.py. The functions of a step choose
their kernels once for a sequence: at each step nothing is looked up, and nothing is sliced that
stays the same. Kernels, in host.py, device.py and cublas.py:

    row_matmul...                    NumPy: a product that avoids waiting threads; CuPy: cuBLAS
    lstm_gate_steps, rnn_cell_steps  NumPy: in place, in blocks of rows; CuPy: one launch a step
    lstm_steps                       CuPy, at most 128 sequences: product and gates in one launch

and each one's backward form likewise.
"""

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import numpy as np

from xpcap.backend import Array, asarray, get_array_module
from xpcap.errors import InvalidValueError
from xpcap.memory import Buffer, allocator
from xpcap.ops.base import gather, gather_plus, matmul, matmul_nt, sigmoid
from xpcap.ops.dispatch import find

# ---- Packed sequences
#
# A batch of sequences without padding: rows in order of time, first those of step 0, then those of
# step 1, and so on. The longest sequence comes first, so those alive at a step are the first ones
# of the step before. States form one stack: the N initial states, then the state after each row.
# With N = 3 sequences of 3, 2 and 1 steps:
#
#     step                       0        1     2
#     batch_sizes                3        2     1
#     row             .  .  .    0  1  2  3  4  5
#     sequence        .  .  .    0  1  2  0  1  0
#     stack of h      0  1  2    3  4  5  6  7  8      row r's state is stack[N + r]
#     previous        .  .  .    0  1  2  3  4  6      and it starts from stack[previous[r]]


class Step(NamedTuple):
    """A time step of n sequences, by the beginnings of its rows and states.

    Its rows begin at row `first`. In a stack of states, the ones before it begin at `before`, the
    ones after it at `after`. The first `n_next` of its sequences have a next step, whose rows begin
    at `first + n`.
    """

    first: int
    before: int
    after: int
    n: int
    n_next: int

    @property
    def rows(self) -> slice:
        """Its rows among all rows."""
        return slice(self.first, self.first + self.n)

    @property
    def states_before(self) -> slice:
        """The states before it, in their stack."""
        return slice(self.before, self.before + self.n)

    @property
    def states_after(self) -> slice:
        """The states after it, in their stack."""
        return slice(self.after, self.after + self.n)


StepFn = Callable[[Step], None]


def single_step(n: int) -> Step:
    """The only step of n sequences whose states before and after are separate arrays."""
    return Step(0, 0, 0, n, 0)


class PackedSequences(NamedTuple):
    """Layout of N sequences, longest first, in R packed rows. A `full` one has no indices."""

    batch_sizes: Sequence[int]  # sequences alive at each step, non-increasing; always on the host
    N: int
    previous: Array | None  # (R,) int, each row's previous state in the stack; None: r for row r
    sequence: Array | None  # (R,) int, each row's sequence, in sorted order; None: r % N for row r
    firsts: Array | None = None  # (T+1,) int, each step's first row, and R; None: multiples of N

    @classmethod
    def of(cls, batch_sizes: Sequence[int], N: int) -> "PackedSequences":
        """Layout of N sequences, batch_sizes[t] alive at step t. Index arrays are on the host."""
        sizes = np.array(batch_sizes, np.intp)
        firsts = np.zeros(len(sizes) + 1, np.intp)
        sizes.cumsum(out=firsts[1:])
        starts = firsts[:-1]
        sequence = np.arange(sizes.sum()) - starts.repeat(sizes)
        if len(sequence) == N * len(sizes):
            return cls(tuple(batch_sizes), N, None, sequence, firsts)
        before = np.zeros_like(starts)  # in the stack: the first state that a step starts from
        before[1:] = N + starts[:-1]
        return cls(tuple(batch_sizes), N, before.repeat(sizes) + sequence, sequence, firsts)

    @classmethod
    def full(cls, N: int, T: int) -> "PackedSequences":
        """Layout of N sequences of T steps each, as in an (N, T, D) array."""
        return cls([N] * T, N, None, None)

    @property
    def R(self) -> int:  # noqa: N802 - a size
        """Number of rows."""
        return sum(self.batch_sizes) if self.sequence is None else len(self.sequence)

    @property
    def steps(self) -> tuple[Step, ...]:
        """Time steps, first to last, without those that no sequence reaches."""
        return _steps(tuple(self.batch_sizes), self.N)

    def check(self, function: str, R: int, N: int) -> None:
        """ValueError : this is not a layout of N sequences in R rows, longest first."""
        bounds = [N, *self.batch_sizes, 0]
        if self.R != R or self.N != N or bounds != sorted(bounds, reverse=True):
            raise InvalidValueError(
                function,
                "batch sizes",
                f"are {list(self.batch_sizes)} with N = {self.N}",
                expected=f"N = {N} and non-increasing sizes that add up to {R}",
                cause="are the sequences sorted by length?",
            )

    def previous_states(self, stack: Array, buffer: Buffer) -> Array:
        """State (R, H) before each row, from a stack (N + R, H)."""
        if self.previous is None:
            return stack[: self.R]
        previous = asarray(self.previous, like=stack)
        return gather(stack, previous, buffer("previous", (self.R, stack.shape[1])))


@functools.lru_cache(maxsize=64)  # the forward and the backward loop ask for the same ones
def _steps(batch_sizes: tuple[int, ...], N: int) -> tuple[Step, ...]:
    steps, first, before = [], 0, 0
    for n, n_next in itertools.zip_longest(batch_sizes, batch_sizes[1:], fillvalue=0):
        if n:
            steps.append(Step(first, before, N + first, n, n_next))
        first, before = first + n, N + first
    return tuple(steps)


def zero_without_steps(rows: PackedSequences, *grads: Array) -> None:
    """Zero the gradients (N, H) of initial states of empty sequences, which no step writes."""
    first = rows.batch_sizes[0] if rows.batch_sizes else 0
    if first < rows.N:
        for grad in grads:
            grad[first:] = 0


def to_rows(x: Array) -> Array:
    """Time-major rows (T*N, D) of x (N, T, D)."""
    N, T, D = x.shape
    return x.transpose(1, 0, 2).reshape(T * N, D)


def from_rows(rows: Array, N: int, T: int) -> Array:
    """Array (N, T, D) of time-major rows (T*N, D), in memory of its own even if N = 1."""
    return rows.reshape(T, N, rows.shape[1]).transpose(1, 0, 2).copy()


class RecurrentTerm(Protocol):
    """An extra term of the pre-activation that depends on the previous state, such as attention.

    Each object serves one forward and backward pass. It keeps its own cache and collects the
    gradients of its own parameters. Like a cell's loop it is asked once for a sequence, is given
    whole buffers, and returns a function that takes one Step.
    """

    def forward_steps(self, h: Array, r: Array) -> StepFn:
        """Steps that add the term of h[step.states_before] to r[step.rows] (n, G).

        `h` is the stack of states that steps start from. `r` has all rows: the term adds to any
        part of the pre-activation whose gradient is da.
        """

    def backward_steps(self, da: Array, dh_prev: Array) -> StepFn:
        """Steps that backpropagate da[step.rows] (n, G), the gradient of the pre-activation.

        The gradient of the states before is added to dh_prev[: step.n] in place.
        """


def gather_plus_image(
    table: Array, ids: Array, b: Array, image: Array, rows: PackedSequences, out: Array
) -> Array:
    """out[r] = table[ids[r]] + b + image[k] for each row r of sequence k.

    table (K, C), ids (R,) int, b (C,), image (N, C), out (R, C). The table may be overwritten.
    """
    if fast := find(gather_plus_image, table, ids, b, image, rows, out):
        return fast(table, ids, b, image, rows, out)
    gather_plus(table, ids, b, out)
    for step in rows.steps:
        out[step.rows] += image[: step.n]
    return out


def sequence_sum(x: Array, rows: PackedSequences, out: Array) -> Array:
    """out[k] = sum of x[r] over all rows r of sequence k, later steps last: x (R, C), out (N, C).

    The gradient of `gather_plus_image` for `image`.
    """
    if fast := find(sequence_sum, x, rows, out):
        return fast(x, rows, out)
    out[...] = 0
    for step in rows.steps:
        out[: step.n] += x[step.rows]
    return out


# ---- Products of a step's rows
#
# Each takes whole buffers and returns multiply(i, o, n): n rows of x from row i on, to n rows of
# out from row o on.

MultiplyRows = Callable[[int, int, int], None]


def row_matmul(x: Array, w: Array, out: Array) -> MultiplyRows:
    """out[o : o + n] = x[i : i + n] @ w; x (., k), w (k, m), out (., m)."""
    if fast := find(row_matmul, x, w, out):
        return fast(x, w, out)

    def multiply(i: int, o: int, n: int) -> None:
        matmul(x[i : i + n], w, out=out[o : o + n])

    return multiply


def row_matmul_add(x: Array, w: Array, out: Array, buffer: Buffer | None = None) -> MultiplyRows:
    """out[o : o + n] += x[i : i + n] @ w; x (., k), w (k, m), out (., m).

    Memory for a product comes from `buffer`, if needed.
    """
    if fast := find(row_matmul_add, x, w, out):
        return fast(x, w, out)
    scratch = out[:0]

    def multiply(i: int, o: int, n: int) -> None:
        nonlocal scratch
        if n > len(scratch):  # once: the first step has the most rows
            scratch = (buffer or allocator(out))("product", (n, out.shape[1]))
        to = out[o : o + n]
        to += matmul(x[i : i + n], w, out=scratch[:n])

    return multiply


def row_matmul_nt(x: Array, w: Array, out: Array) -> MultiplyRows:
    """out[o : o + n] = x[i : i + n] @ w.T; x (., k), w (m, k), out (., m)."""
    if fast := find(row_matmul_nt, x, w, out):
        return fast(x, w, out)

    def multiply(i: int, o: int, n: int) -> None:
        matmul_nt(x[i : i + n], w, out[o : o + n])

    return multiply


# ---- The LSTM
#
#     a = x @ Wx + b + h_prev @ Wh
#     i, f, o = sigmoid(a_i), sigmoid(a_f), sigmoid(a_o);  g = tanh(a_g)
#     c = f * c_prev + i * g;  h = o * tanh(c)
#
# The blocks are stacked i, f, o, g. In what follows a is x @ Wx + b, and r is h_prev @ Wh.


class Gates(NamedTuple):
    """Results of LSTM steps: states h and c, the four gates in one array, and tanh(c)."""

    h: Array  # (n, H); of a loop the stack
    c: Array  # (n, H); of a loop the stack
    gates: Array  # (n, 4H)
    tanh_c: Array  # (n, H)


def split_gates(gates: Array) -> tuple[Array, Array, Array, Array]:
    """Views of the four (n, H) blocks i, f, o, g of an (n, 4H) array."""
    H = gates.shape[1] // 4
    return gates[:, :H], gates[:, H : 2 * H], gates[:, 2 * H : 3 * H], gates[:, 3 * H :]


def lstm_gates(a: Array, r: Array, c_prev: Array, out: Gates | None = None) -> Gates:
    """Elementwise half of an LSTM step: a (n, 4H) from the input, r (n, 4H) from the state.

    i, f, o = sigmoid((a + r)_i), sigmoid((a + r)_f), sigmoid((a + r)_o);  g = tanh((a + r)_g)
    c = f * c_prev + i * g;  h = o * tanh(c)

    `out.gates` may be a or r itself.
    """
    if out is None:
        xp = get_array_module(a, c_prev)
        h, c, tanh_c = (xp.empty_like(c_prev) for _ in range(3))
        out = Gates(h, c, xp.empty_like(a), tanh_c)
    if fast := find(lstm_gates, a, r, c_prev, out):
        return fast(a, r, c_prev, out)
    xp, H = get_array_module(a, r, c_prev), c_prev.shape[1]
    h, c, gates, tanh_c = out
    a = a + r  # (n, 4H)
    gates[:, : 3 * H] = sigmoid(a[:, : 3 * H])
    gates[:, 3 * H :] = xp.tanh(a[:, 3 * H :])
    i, f, o, g = split_gates(gates)
    c[...] = f * c_prev + i * g
    tanh_c[...] = xp.tanh(c)
    h[...] = o * tanh_c
    return out


def lstm_gates_backward(
    dh: Array,
    dh_next: Array,
    dc: Array,
    gates: Array,
    tanh_c: Array,
    c_prev: Array,
    out: tuple[Array, Array] | None = None,
) -> tuple[Array, Array]:
    """Gradients of lstm_gates: da (n, 4H), for a and r alike, and dc_prev (n, H).

    Upstream gradients, each (n, H): dh from the layer above, dh_next and dc from the next time
    step. dc_prev may be dc itself.
    """
    if out is None:
        xp = get_array_module(gates, dc)
        out = xp.empty_like(gates), xp.empty_like(dc)
    i, f, o, g = split_gates(gates)
    da, dc_prev = out
    dh_all = dh + dh_next  # (n, H)
    dc_all = dc + dh_all * o * (1 - tanh_c * tanh_c)  # (n, H)
    di, df, do, dg = split_gates(da)
    di[...] = dc_all * g * i * (1 - i)
    df[...] = dc_all * c_prev * f * (1 - f)
    do[...] = dh_all * tanh_c * o * (1 - o)
    dg[...] = dc_all * i * (1 - g * g)
    dc_prev[...] = dc_all * f
    return out


def start_states(h0: Array, c0: Array | None, h: Array, c: Array | None) -> None:
    """Put the initial states, (N, H), on top of their stacks h and c. c0 None: zeros. c None: no c."""
    if fast := find(start_states, h0, c0, h, c):
        fast(h0, c0, h, c)
        return
    N = len(h0)
    h[:N] = h0
    if c is not None:
        c[:N] = 0 if c0 is None else c0


def lstm_steps(
    a: Array,
    Wh: Array,
    state: tuple[Array, Array],
    out: Gates,
    extra_term: RecurrentTerm | None = None,
) -> StepFn:
    """A step of an LSTM: h, c and the gates from a + h_prev @ Wh (+ extra_term).

    a (R, 4H), out.gates and out.tanh_c by row. `state` has the stacks h and c of the states before;
    out.h and out.c, of the states after, may be the same.
    """
    if extra_term is None and (fast := find(lstm_steps, a, Wh, state, out)):
        return fast(a, Wh, state, out)
    h, c = state
    multiply, gate = row_matmul(h, Wh, out.gates), lstm_gate_steps(a, out.gates, c, out)
    add = None if extra_term is None else extra_term.forward_steps(h, out.gates)

    def step_fn(step: Step) -> None:
        multiply(step.before, step.first, step.n)  # r, overwritten by the gates
        if add is not None:
            add(step)
        gate(step)

    return step_fn


def lstm_gate_steps(a: Array, r: Array, c_prev: Array, out: Gates) -> StepFn:
    """lstm_gates on a step's rows: a, r, gates, tanh_c (R, .) by row; c_prev, h, c are stacks."""
    if fast := find(lstm_gate_steps, a, r, c_prev, out):
        return fast(a, r, c_prev, out)

    def step_fn(step: Step) -> None:
        rows, after = step.rows, step.states_after
        results = Gates(out.h[after], out.c[after], out.gates[rows], out.tanh_c[rows])
        lstm_gates(a[rows], r[rows], c_prev[step.states_before], out=results)

    return step_fn


# Backward, later steps first. dh_next and dc (N, H) hand gradients from a step to the one before
# it: step t reads rows 0..n-1 and overwrites them for step t - 1. Only the first `n_next` of its
# sequences have a next step, which has just written their rows. The others end here: no step has
# written theirs yet, so they still hold what the loop began with, 0 in dh_next and in dc the
# gradient of the last c, if there is one. So sequences may end at any step, without a test or a
# mask.


def lstm_backward_steps(
    dh: Array,
    dh_next: Array,
    dc: Array,
    out: Gates,
    Wh: Array,
    da: Array,
    extra_term: RecurrentTerm | None = None,
    dc_T: Array | None = None,
) -> StepFn:
    """Gradients of lstm_steps, later steps first.

    A step writes da by row, and dh_next[:n] and dc[:n], the gradients for the step before; the
    first step writes those of h0 and c0. Arguments as in lstm_gate_backward_steps; `out` has the
    stacks and buffers of the forward pass. Between steps a kernel may leave dh_next as it was. With dc_T a step is always a product and the gates.
    """
    is_plain = extra_term is None and dc_T is None
    if is_plain and (fast := find(lstm_backward_steps, dh, dh_next, dc, out, Wh, da)):
        return fast(dh, dh_next, dc, out, Wh, da)
    gate = lstm_gate_backward_steps(dh, dh_next, dc, out, da, dc_T)
    multiply = row_matmul_nt(da, Wh, dh_next)
    add = None if extra_term is None else extra_term.backward_steps(da, dh_next)

    def step_fn(step: Step) -> None:
        gate(step)
        multiply(step.first, 0, step.n)  # dh_next = da @ Wh.T
        if add is not None:
            add(step)

    return step_fn


def lstm_gate_backward_steps(
    dh: Array, dh_next: Array, dc: Array, out: Gates, da: Array, dc_T: Array | None = None
) -> StepFn:
    """Gradients of lstm_gates on the rows of a step, later steps first.

    dh, da (R, .) by row; `out` has the whole buffers of the forward pass. dh_next and dc (N, H)
    hold the gradients from the next step for the first `n_next` sequences of a step. For the others
    dh_next counts as 0 and dc as dc_T (N, H), the gradient of c after a sequence's last step. They
    begin so; on a GPU without dc_T both count as 0 whatever they hold.
    """
    if fast := find(lstm_gate_backward_steps, dh, dh_next, dc, out, da, dc_T):
        return fast(dh, dh_next, dc, out, da, dc_T)
    dh_next[...], dc[...] = 0, 0 if dc_T is None else dc_T

    def step_fn(step: Step) -> None:
        rows, n = step.rows, step.n
        upstream = dh[rows], dh_next[:n], dc[:n]
        c_prev, to = out.c[step.states_before], (da[rows], dc[:n])
        lstm_gates_backward(*upstream, out.gates[rows], out.tanh_c[rows], c_prev, out=to)

    return step_fn


# ---- The RNN
#
#     h = tanh(x @ Wx + b + h_prev @ Wh) = tanh(a + r)


def rnn_cell(a: Array, r: Array, out: Array | None = None) -> Array:
    """Elementwise half of an RNN step: h = tanh(a + r), each (n, H). `out` may be a or r."""
    if out is None:
        out = get_array_module(a).empty_like(a)
    xp = get_array_module(a, r)
    out[...] = xp.tanh(a + r)
    return out


def rnn_cell_backward(dh: Array, dh_next: Array, h: Array, out: Array | None = None) -> Array:
    """Gradient of rnn_cell: da (n, H), for a and r alike.

    Upstream gradients, each (n, H): dh from the layer above, dh_next from the next time step.
    """
    if out is None:
        out = get_array_module(h).empty_like(h)
    out[...] = (dh + dh_next) * (1 - h * h)
    return out


def rnn_steps(
    a: Array, Wh: Array, h_prev: Array, h: Array, extra_term: RecurrentTerm | None = None
) -> StepFn:
    """A step of an RNN: h = tanh(a + h_prev @ Wh (+ extra_term)).

    a (R, H) by row; h_prev and h are stacks, which may be the same.
    """
    multiply, activate = row_matmul(h_prev, Wh, h), rnn_cell_steps(a, h)
    # The extra term is added to the rows of h, which begin behind the initial states
    add = None if extra_term is None else extra_term.forward_steps(h_prev, h[len(h) - len(a) :])

    def step_fn(step: Step) -> None:
        multiply(step.before, step.after, step.n)  # r, overwritten by the new state
        if add is not None:
            add(step)
        activate(step)

    return step_fn


def rnn_cell_steps(a: Array, h: Array) -> StepFn:
    """rnn_cell on a step's rows: a (R, H) by row; the stack h has r, and receives the states."""
    if fast := find(rnn_cell_steps, a, h):
        return fast(a, h)

    def step_fn(step: Step) -> None:
        rnn_cell(a[step.rows], h[step.states_after], out=h[step.states_after])

    return step_fn


def rnn_backward_steps(
    dh: Array,
    dh_next: Array,
    h: Array,
    Wh: Array,
    da: Array,
    extra_term: RecurrentTerm | None = None,
) -> StepFn:
    """Gradients of rnn_steps, later steps first: da by row, dh_next[:n] for the step before."""
    activate = rnn_cell_backward_steps(dh, dh_next, h, da)
    multiply = row_matmul_nt(da, Wh, dh_next)
    add = None if extra_term is None else extra_term.backward_steps(da, dh_next)

    def step_fn(step: Step) -> None:
        activate(step)
        multiply(step.first, 0, step.n)  # dh_next = da @ Wh.T
        if add is not None:
            add(step)

    return step_fn


def rnn_cell_backward_steps(dh: Array, dh_next: Array, h: Array, da: Array) -> StepFn:
    """rnn_cell_backward on the rows of a step, later steps first; dh_next as for the LSTM."""
    if fast := find(rnn_cell_backward_steps, dh, dh_next, h, da):
        return fast(dh, dh_next, h, da)
    dh_next[...] = 0

    def step_fn(step: Step) -> None:
        rnn_cell_backward(dh[step.rows], dh_next[: step.n], h[step.states_after], out=da[step.rows])

    return step_fn
