"""Parts of the choice of the next words from rows of scores, which need no fast version."""

from typing import NamedTuple

import numpy as np

from xpcap.backend import Array, get_array_module
from xpcap.threads import split_evenly

BLOCK = 64  # rows


class BeamRows(NamedTuple):
    """The n hypotheses of some pictures, and the m that continue them, with a table of best words.

    A picture's hypotheses are neighbours, and m / n times as many continue them.
    """

    # In a table with `size` rows a picture, each hypothesis puts its best words into its row
    rows: Array  # (n,) int, row of each in the table, rising
    # (m,) int, rows after the step: a picture's j-th row takes the j-th best entry of its table
    next_rows: Array
    firsts: Array  # (m,) int, the picture's first hypothesis before the step
    pictures: int  # in the table
    size: int  # hypotheses of a picture, at most


def topk(x: Array, k: int) -> tuple[Array, Array]:
    """The k largest of each row of x (n, m), falling, and their columns, each (n, k).

    Of equals the first column comes first. If fewer than k of a row are above -inf, the rest are
    -inf, of any column. x is written to, and restored.
    """
    xp, n = get_array_module(x), len(x)
    values, columns = xp.empty((n, k), x.dtype), xp.empty((n, k), np.int32)
    for block in row_blocks(x):
        _topk(x[block], values[block], columns[block])
    return values, columns


def _topk(x: Array, values: Array, columns: Array) -> None:
    xp, (n, m) = get_array_module(x), x.shape
    flat, starts = x.reshape(-1), xp.arange(n, dtype=np.int64) * m
    hidden = xp.full(n, -np.inf, x.dtype)
    seen = []
    # Find each and hide it behind -inf: k fast passes, where sorting would be one slow one
    for j in range(values.shape[1]):
        columns[:, j] = best = x.argmax(axis=1)
        seen.append(starts + best)
        values[:, j] = flat[seen[-1]]
        flat[seen[-1]] = hidden
    for j in reversed(range(len(seen))):  # backwards: a column of -inf may have been found again
        flat[seen[j]] = values[:, j]


def row_blocks(x: Array) -> list[slice]:
    """Slices of the rows of x, one for all on a device."""
    if not isinstance(x, np.ndarray):
        return [slice(0, len(x))]
    return split_evenly(len(x), -(-len(x) // BLOCK))
