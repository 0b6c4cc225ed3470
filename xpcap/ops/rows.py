"""Packed time-major rows: the memory layout of a batch of sequences without padding.

Rows are ordered by time step, and row k of a step continues row k of the previous step. In an (N, T, D) batch all N sequences are alive at every
step.

States form one stack: the N initial states, then the state after each row, so row r's state is stack[N + r].
"""

import functools
import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from xpcap.backend import Array, asarray
from xpcap.memory import Buffer
from xpcap.ops.equations import gather
from xpcap.ops.recurrent import Step, TakeStep


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
