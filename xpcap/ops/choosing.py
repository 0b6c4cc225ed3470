"""Choice of the next words from rows of scores: contracts and plain equations, as in base.py.

On the host they go by blocks of rows that stay in a core's cache.
"""

from typing import NamedTuple

import numpy as np

from xpcap.backend import Array, get_array_module
from xpcap.ops.dispatch import find
from xpcap.threads import split_evenly

BLOCK = 64  # rows


def log_softmax_(scores: Array) -> Array:
    """log_softmax in place: scores (n, V) become log-probabilities."""
    if fast := find(log_softmax_, scores):
        return fast(scores)
    xp = get_array_module(scores)
    for block in row_blocks(scores):
        some = scores[block]
        some -= some.max(axis=1, keepdims=True)
        some -= xp.log(xp.exp(some).sum(axis=1, keepdims=True))
    return scores


def forbid(scores: Array, words: Array) -> None:
    """Set the scores (n, V) of words (K,), int32, to -inf in every row."""
    if fast := find(forbid, scores, words):
        fast(scores, words)
        return
    scores[:, words] = -np.inf


def argmax(scores: Array) -> Array:
    """Column (n,), int32, of the largest score in each row of scores (n, V), the first of equals.

    NaN counts as largest.
    """
    if fast := find(argmax, scores):
        return fast(scores)
    return scores.argmax(axis=1).astype(np.int32)


def sample_words(x: Array, u: Array, temperature: float | None = None) -> Array:
    """Words (n,), int32, drawn from unnormalised probabilities p (n, V) by uniforms u (n,).

    p = x, or exp((x - its row's maximum) / temperature)

    The word is the first whose p and those before it add up to more than u, in [0, 1), times the
    sum of the row. It is never one of probability 0.
    """
    if fast := find(sample_words, x, u, temperature):
        return fast(x, u, temperature)
    p = x if temperature is None else soft_weights(x, temperature)
    cumulative = p.cumsum(axis=1)
    return (cumulative <= (u * cumulative[:, -1])[:, None]).sum(axis=1).astype(np.int32)


def soft_weights(scores: Array, temperature: float) -> Array:
    """exp((s - its maximum) / temperature) of each row s of scores (n, V)."""
    return get_array_module(scores).exp((scores - scores.max(axis=1, keepdims=True)) / temperature)


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


def beam_step(
    ranked: Array, scores: Array, totals: Array, beams: BeamRows, null: int
) -> tuple[Array, Array, Array]:
    """Best continuations of each picture's hypotheses: words, parents and totals, each (m,).

    A picture's candidates are its hypotheses r with each word w, the best totals[r] + ranked[r, w]
    first, equals by r, then by ranked, then by w; ranked and scores (n, V), totals (n,). Their new
    totals are totals[r] + scores[r, w]. Where a picture has too few above -inf, the others are word
    `null` with the total -inf.
    """
    if fast := find(beam_step, ranked, scores, totals, beams, null):
        return fast(ranked, scores, totals, beams, null)
    xp, size, tables = get_array_module(scores), beams.size, beams.pictures
    values, words = topk(ranked, size)  # (n, size)
    table = xp.full((tables * size, size), -np.inf, scores.dtype)
    table[beams.rows] = values + totals[:, None]
    found = topk(table.reshape(tables, -1), size)
    best, entries = (x.reshape(-1)[beams.next_rows] for x in found)  # (m,)
    parents = beams.firsts + entries // size
    chosen = words[parents, entries % size]
    exists = best > -np.inf  # else no word is left for this slot
    new_totals = xp.where(exists, totals[parents] + scores[parents, chosen], -np.inf)
    return xp.where(exists, chosen, null), parents, new_totals


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
