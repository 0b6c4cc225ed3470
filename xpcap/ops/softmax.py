"""The mean probabilities of several models."""

from collections.abc import Sequence

import numpy as np

from xpcap.backend import Array, get_array_module
from xpcap.ops.choosing import row_blocks


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
        for block in row_blocks(first):
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
