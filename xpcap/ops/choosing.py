"""Helpers that choose the next words from rows of scores; all backends share them."""

from typing import NamedTuple

import numpy as np

from xpcap.backend import Array, get_array_module
from xpcap.backend.threads import split_evenly

BLOCK = 64  # rows


class BeamRows(NamedTuple):
    """Rows of n hypotheses before a step, and of m after it, in a table of candidate words.

    A picture's hypotheses are neighbours, and the step multiplies their number by m / n.
    """

    # The table has `size` rows per picture; a hypothesis writes its best words to its row
    rows: Array  # (n,) int, the row of each hypothesis, ascending
    # (m,) int, the rows after the step: a picture's j-th row gets the j-th best entry of its table
    next_rows: Array
    firsts: Array  # (m,) int, the picture's first hypothesis before the step
    pictures: int  # pictures in the table
    size: int  # most hypotheses of a picture


def topk(x: Array, k: int) -> tuple[Array, Array]:
    """The k largest numbers of each row of x (n, m), descending, and their columns, each (n, k).

    Equal numbers come in the order of columns. If fewer than k are above -inf, the rest are -inf,
    with any columns. x is changed during the call, and restored.
    """
    xp = get_array_module(x)
    n = len(x)
    values = xp.empty((n, k), x.dtype)
    columns = xp.empty((n, k), np.int32)
    for block in row_blocks(x):
        _topk(x[block], values[block], columns[block])
    return values, columns


def _topk(x: Array, values: Array, columns: Array) -> None:
    xp = get_array_module(x)
    n, m = x.shape
    flat = x.reshape(-1)
    starts = xp.arange(n, dtype=np.int64) * m
    lowest = xp.full(n, -np.inf, x.dtype)
    found = []  # positions in `flat`
    # Each pass finds the maxima and overwrites them by -inf: k fast passes instead of a slow sort
    for j in range(values.shape[1]):
        columns[:, j] = best = x.argmax(axis=1)
        found.append(starts + best)
        values[:, j] = flat[found[-1]]
        flat[found[-1]] = lowest
    for j in reversed(range(len(found))):  # in reverse: a column may have been found again as -inf
        flat[found[j]] = values[:, j]


def row_blocks(x: Array) -> list[slice]:
    """Slices of the rows of x; on a device a single one."""
    if not isinstance(x, np.ndarray):
        return [slice(0, len(x))]
    return split_evenly(len(x), -(-len(x) // BLOCK))
