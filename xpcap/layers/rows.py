"""Packed time-major rows: how a batch of sequences lies in memory once finished ones are left out.

`sizes` lists how many sequences are alive at each step and never grows. The rows of a step follow those of the step
before, and row k of a step continues row k of the step before. (N, T, D) is the case where all sizes are N.

States are kept in one stack, the N first ones and then those after each row: row r's own is stack[N + r].
"""

import itertools
from collections.abc import Sequence

import numpy as np

from xpcap.backend import Array, asarray
from xpcap.ops import gather
from xpcap.workspace import New


def step_rows(sizes: Sequence[int], N: int) -> list[tuple[slice, slice, slice]]:
    """For each step: where its rows lie, where in the stack the states that it starts from lie, and those that it makes."""
    steps, start, past = [], 0, 0
    for n in sizes:
        steps.append((slice(start, start + n), slice(past, past + n), slice(N + start, N + start + n)))
        start, past = start + n, N + start
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


def past_rows(sizes: Sequence[int], N: int) -> np.ndarray | None:
    """For each of the R rows, the place in the stack of the state that it starts from; None where those are simply the first R places."""
    if all(n == N for n in sizes):
        return None
    places = [np.arange(past.start, past.stop, dtype=np.int32) for _, past, _ in step_rows(sizes, N)]
    return np.concatenate(places)


def past_states(stack: Array, sizes: Sequence[int], N: int, past: Array | None, new: New) -> Array:
    """The states (R, H) that the rows start from. `past` is past_rows' answer where that is on the device already."""
    if past is None and (places := past_rows(sizes, N)) is not None:
        past = asarray(places, like=stack)
    return stack[: len(stack) - N] if past is None else gather(stack, past, new("past", (len(past), stack.shape[1])))
