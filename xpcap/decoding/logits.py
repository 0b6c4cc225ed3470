"""Operations on rows of scores, on the host by blocks of rows that stay in a core's cache."""

from collections.abc import Sequence

import numpy as np

from xpcap.backend import Array, get_array_module
from xpcap.threads import split_evenly

BLOCK = 64  # rows


def normalise(scores: Array) -> Array:
    """ops.log_softmax in place: scores (n, V) become log-probabilities."""
    xp = get_array_module(scores)
    for block in _blocks(scores):
        some = scores[block]
        some -= some.max(axis=1, keepdims=True)
        some -= xp.log(xp.exp(some).sum(axis=1, keepdims=True))
    return scores


def log_mean(scores: Sequence[Array]) -> Array:
    """log(mean over all s of softmax(s)) for arrays s (n, V), which are overwritten.

    One array alone is returned as it is: its softmax is the mean. Of K arrays the mean is at least
    the largest probability / K, and counts as that if it rounds to 0: logarithms stay finite.
    """
    first, *others = scores
    if not others:
        return first
    xp = get_array_module(first)
    with np.errstate(divide="ignore"):
        for block in _blocks(first):
            most, mean = first[block], _softmax(first[block], len(scores))
            for other in others:
                mean += _softmax(other[block], len(scores))
                xp.maximum(most, other[block], out=most)
            xp.maximum(xp.log(mean, out=mean), most, out=most)
    return first


def _softmax(scores: Array, K: int) -> Array:
    """softmax(scores) / K; scores (n, V) become its logarithm."""
    xp = get_array_module(scores)
    scores -= scores.max(axis=1, keepdims=True)
    p = xp.exp(scores)
    total = K * p.sum(axis=1, keepdims=True)
    p /= total
    scores -= xp.log(total)
    return p


def largest(x: Array, k: int) -> tuple[Array, Array]:
    """The k largest of each row of x (n, m), falling, and their columns, each (n, k).

    Of equals the first column comes first. If fewer than k of a row are above -inf, the rest are
    -inf, of any column. x is written to, and restored.
    """
    xp, n = get_array_module(x), len(x)
    values, columns = xp.empty((n, k), x.dtype), xp.empty((n, k), np.int32)
    for block in _blocks(x):
        _largest(x[block], values[block], columns[block])
    return values, columns


def _largest(x: Array, values: Array, columns: Array) -> None:
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


def _blocks(x: Array) -> list[slice]:
    if not isinstance(x, np.ndarray):
        return [slice(0, len(x))]
    return split_evenly(len(x), -(-len(x) // BLOCK))
