"""Packed time-major rows: how a batch of sequences lies in memory once finished ones are left out.

The rows of a step follow those of the step before, and row k of a step continues row k of the step before. An (N, T, D) batch is the case
in which all N sequences are alive at every step.

States are kept in one stack: the N initial ones, then the state after each row. Row r's own state is stack[N + r].
"""

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from xpcap.backend import Array, asarray
from xpcap.ops import gather
from xpcap.workspace import Buffer


class Step(NamedTuple):
    """Where one time step lies: its rows, and in the stack the states that it starts from and those that it makes."""

    rows: slice
    before: slice
    after: slice


class Rows(NamedTuple):
    """R packed rows of N sequences, longest sequence first."""

    sizes: Sequence[int]  # sequences alive at each step, never growing; on the host always
    N: int
    past: Any  # (R,) int array, place in the stack of the state that each row starts from; None: row r starts from place r
    caption: Any  # (R,) int array, the sequence of each row, in sorted order; None: row r is of sequence r % N

    @classmethod
    def of(cls, sizes: Sequence[int], N: int) -> "Rows":
        """Rows for N sequences of which sizes[t] are alive at step t; index arrays are on the host."""
        rows = cls(sizes, N, None, np.concatenate([np.zeros(0, np.int32), *(np.arange(n, dtype=np.int32) for n in sizes)]))
        if all(n == N for n in sizes):
            return rows
        return rows._replace(past=np.concatenate([np.arange(step.before.start, step.before.stop, dtype=np.int32) for step in rows.steps]))

    @classmethod
    def full(cls, N: int, T: int) -> "Rows":
        """N sequences of T steps each, as an (N, T, D) array has them."""
        return cls([N] * T, N, None, None)

    @property
    def R(self) -> int:  # noqa: N802 - a size
        """Number of rows."""
        return sum(self.sizes)

    @property
    def steps(self) -> list[Step]:
        """The time steps, first to last."""
        steps, start, past = [], 0, 0
        for n in self.sizes:
            steps.append(Step(slice(start, start + n), slice(past, past + n), slice(self.N + start, self.N + start + n)))
            start, past = start + n, self.N + start
        return steps

    def check(self, function: str, R: int, N: int) -> None:
        """ValueError : these are not R rows of N sequences, or the sizes grow from one step to the next."""
        if self.R != R or self.N != N or any(not 0 <= n <= before for before, n in itertools.pairwise([N, *self.sizes])):
            raise ValueError(
                f"{function}: sizes are {list(self.sizes)} of N = {self.N}, expected at most N = {N}, never growing, {R} rows in all; "
                "sequences not sorted by length?"
            )

    def past_states(self, stack: Array, buffer: Buffer) -> Array:
        """The states (R, H) that the rows start from, out of a stack (N + R, H)."""
        if self.past is None:
            return stack[: self.R]
        return gather(stack, asarray(self.past, like=stack), buffer("past", (self.R, stack.shape[1])))


class Beside(Protocol):
    """What a step adds to its pre-activation from the state before it, besides h @ Wh: attention, for example.

    One object serves one pass: it keeps what its backward needs, and collects the gradients of its own parameters.
    """

    def forward(self, h_prev: Array, r: Array, rows: slice) -> None:
        """Add to r (n, G), in place, what comes from h_prev (n, H). `rows` is where the step's rows lie among all."""

    def backward(self, da: Array, dh_prev: Array, rows: slice) -> None:
        """Add to dh_prev (n, H), in place, what da (n, G), the gradient of the pre-activation, sends back through `forward`."""


def to_rows(x: Array) -> Array:
    """(N, T, D) to time-major rows (T*N, D)."""
    N, T, D = x.shape
    return x.transpose(1, 0, 2).reshape(T * N, D)


def from_rows(rows: Array, N: int, T: int) -> Array:
    """Time-major rows (T*N, D) to (N, T, D)."""
    return rows.reshape(T, N, rows.shape[1]).transpose(1, 0, 2).copy()  # a copy for N = 1 too: results share no memory with caches
