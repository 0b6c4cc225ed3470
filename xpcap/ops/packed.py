"""Packed sequences: the layout of their rows and states, their time steps, and extra terms."""

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import numpy as np

from xpcap.backend import Array
from xpcap.errors import InvalidValueError

# Packed sequences are a batch without padding. Rows are in order of time: first those of step 0, then
# those of step 1, and so on. Sequences are sorted by length, longest first, so the sequences of a step
# are the first ones of the step before. States form a stack: the N initial states, then the state after
# each row. With N = 3 sequences of 3, 2 and 1 steps:
#
#     step                       0        1     2
#     batch_sizes                3        2     1
#     row             .  .  .    0  1  2  3  4  5
#     sequence        .  .  .    0  1  2  0  1  0
#     stack of h      0  1  2    3  4  5  6  7  8      row r's state is stack[N + r]
#     previous        .  .  .    0  1  2  3  4  6      and it starts from stack[previous[r]]


class Step(NamedTuple):
    """A time step of n sequences: where its rows and states begin.

    Its rows begin at row `first`. In a stack of states, the states before the step begin at `before`,
    and those after it at `after`. The first `n_next` sequences have a next step, whose rows begin at
    `first + n`.
    """

    first: int
    before: int
    after: int
    n: int
    n_next: int

    @property
    def rows(self) -> slice:
        """The step's rows among all rows."""
        return slice(self.first, self.first + self.n)

    @property
    def states_before(self) -> slice:
        """The states before the step, in their stack."""
        return slice(self.before, self.before + self.n)

    @property
    def states_after(self) -> slice:
        """The states after the step, in their stack."""
        return slice(self.after, self.after + self.n)


StepFn = Callable[[Step], None]


def single_step(n: int) -> Step:
    """A single step of n sequences, with separate arrays for the states before and after."""
    return Step(0, 0, 0, n, 0)


class PackedSequences(NamedTuple):
    """Layout of N sequences, longest first, in R packed rows. A `full` layout has no indices."""

    batch_sizes: Sequence[int]  # sequences at each step, non-increasing; always on the host
    N: int
    previous: Array | None  # (R,) int, each row's previous state in the stack; None: r for row r
    sequence: Array | None  # (R,) int, each row's sequence, in sorted order; None: r % N for row r
    firsts: Array | None = None  # (T+1,) int, each step's first row, and R; None: multiples of N

    @classmethod
    def of(cls, batch_sizes: Sequence[int], N: int) -> "PackedSequences":
        """Layout of N sequences, of which batch_sizes[t] have step t; index arrays on the host."""
        sizes = np.array(batch_sizes, np.intp)
        firsts = np.zeros(len(sizes) + 1, np.intp)
        sizes.cumsum(out=firsts[1:])
        starts = firsts[:-1]
        sequence = np.arange(sizes.sum()) - starts.repeat(sizes)
        if len(sequence) == N * len(sizes):
            return cls(tuple(batch_sizes), N, None, sequence, firsts)
        before = np.zeros_like(starts)  # position in the stack of the first state before each step
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
        """The time steps that any sequence reaches, first to last."""
        return _steps(tuple(self.batch_sizes), self.N)

    def check(self, function: str, R: int, N: int) -> None:
        """Raise ValueError unless this lays out N sequences in R rows, longest first, with indices."""
        bounds = [N, *self.batch_sizes, 0]
        if self.R != R or self.N != N or bounds != sorted(bounds, reverse=True):
            raise InvalidValueError(
                f"{function}: batch sizes are {list(self.batch_sizes)} with N = {self.N}, expected N"
                f" = {N} and non-increasing sizes that add up to {R}; are the sequences sorted by"
                " length?"
            )
        lacks = self.previous is None or self.sequence is None
        if lacks and any(n != N for n in self.batch_sizes):
            raise InvalidValueError(
                f"{function}: batch sizes are {list(self.batch_sizes)}, and `previous` or `sequence`"
                f" is None, expected {N} at each step; make it by PackedSequences.of(sizes, N)"
            )


@functools.lru_cache(maxsize=64)  # the forward and the backward loop use the same steps
def _steps(batch_sizes: tuple[int, ...], N: int) -> tuple[Step, ...]:
    steps = []
    first = 0
    before = 0
    for n, n_next in itertools.zip_longest(batch_sizes, batch_sizes[1:], fillvalue=0):
        if n:
            steps.append(Step(first, before, N + first, n, n_next))
        first, before = first + n, N + first
    return tuple(steps)


def zero_without_steps(rows: PackedSequences, *grads: Array) -> None:
    """Zero the gradients (N, H) of empty sequences' initial states, which no step writes."""
    first = rows.batch_sizes[0] if rows.batch_sizes else 0
    if first < rows.N:
        for grad in grads:
            grad[first:] = 0


def to_rows(x: Array) -> Array:
    """Time-major rows (T*N, D) of x (N, T, D)."""
    N, T, D = x.shape
    return x.transpose(1, 0, 2).reshape(T * N, D)


def from_rows(rows: Array, N: int, T: int) -> Array:
    """Array (N, T, D) of time-major rows (T*N, D); always a copy."""
    return rows.reshape(T, N, rows.shape[1]).transpose(1, 0, 2).copy()


class RecurrentTerm(Protocol):
    """An extra term of the pre-activation that depends on the previous state, such as attention.

    An object serves one forward and one backward pass; it holds the term's cache and collects the
    gradients of the term's parameters. Each method is called once per sequence, with whole buffers,
    and returns a function of one Step.
    """

    def forward_steps(self, h: Array, r: Array, R: int) -> StepFn:
        """Steps that add the term of h[step.states_before] to r[: step.n].

        `h` is the stack of states that steps start from. r (N, G) has the rows of one step: a part of
        the pre-activation whose gradient is da. The steps have R rows in all.
        """

    def backward_steps(self, da: Array, dh_prev: Array) -> StepFn:
        """Steps that backpropagate da[step.rows] (n, G), the gradient of the pre-activation.

        They add the gradient of the states before to dh_prev[: step.n].
        """
