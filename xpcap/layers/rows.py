"""Packed time-major rows: how a batch of sequences lies in memory once finished ones are left out.

`sizes` lists how many sequences are alive at each step and never grows. The rows of a step follow those of the step
before, and row k of a step continues row k of the step before. (N, T, D) is the case where all sizes are N.
"""

import itertools
from collections.abc import Sequence

from xpcap.backend import Array, get_array_module


def step_rows(sizes: Sequence[int]) -> list[tuple[slice, int]]:
    """For each step, where its rows lie and how many they are."""
    steps, start = [], 0
    for n in sizes:
        steps.append((slice(start, start + n), n))
        start += n
    return steps


def check_sizes(function: str, sizes: Sequence[int], R: int, N: int) -> None:
    """Check that `sizes` start at N at most, never grow, and add up to R rows; a ValueError where they do not."""
    if sum(sizes) != R or any(not 0 <= n <= before for before, n in itertools.pairwise([N, *sizes])):
        raise ValueError(f"{function}: sizes are {list(sizes)}, expected at most N = {N}, never growing, {R} rows in all; not sorted by length?")


def to_rows(x: Array) -> Array:
    """(N, T, D) to time-major rows (T*N, D)."""
    N, T, D = x.shape
    return x.transpose(1, 0, 2).reshape(T * N, D)


def from_rows(rows: Array, N: int, T: int) -> Array:
    """Time-major rows (T*N, D) to (N, T, D)."""
    return rows.reshape(T, N, rows.shape[1]).transpose(1, 0, 2).copy()  # a copy for N = 1 too: results share no memory with caches


def previous_rows(h0: Array, h: Array, sizes: Sequence[int]) -> Array:
    """For every row (R, H), the state that its step started from: h0's rows at the first step, then those of the step before."""
    xp = get_array_module(h0, h)
    states, previous = [h0[:0]], h0
    for rows, n in step_rows(sizes):
        states.append(previous[:n])
        previous = h[rows]
    return xp.concatenate(states)


def carry_rows(new: Array, old: Array) -> Array:
    """`new` in place of the first rows of `old`; going back in time, sequences join with the zeros they had."""
    xp = get_array_module(new, old)
    return new if len(new) == len(old) else xp.concatenate((new, old[len(new) :]))
