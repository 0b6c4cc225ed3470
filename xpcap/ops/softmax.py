"""Softmax: the probabilities of scores, their logarithms and gradients, for any array library.

All are stable: a row's maximum is subtracted before the exponential. Rows are along the last axis.
"""

from collections.abc import Sequence

import numpy as np

from xpcap.backend import Array, get_array_module, is_device_array
from xpcap.ops.choosing import row_blocks

# Target of a row of padding, int32, on a device. No wrong target is likely to be it: neither -1, nor
# -100, which PyTorch ignores, nor the smallest integer, which NaN becomes.
NO_TARGET = 1 - 2**31


def below_maximum(scores: Array, out: Array | None = None) -> Array:
    """s - max(s) of each row s; `out` may be scores itself."""
    highest = scores.max(axis=-1, keepdims=True)
    return get_array_module(scores).subtract(scores, highest, out=out)


def softmax(scores: Array, out: Array | None = None) -> Array:
    """p = exp(s) / sum(exp(s)) of each row s; `out` may be scores itself."""
    p = below_maximum(scores, out)
    get_array_module(p).exp(p, out=p)
    p /= p.sum(axis=-1, keepdims=True)
    return p


def softmax_backward(dp: Array, p: Array) -> Array:
    """Gradient of the scores, p * (dp - p . dp) for each row, in place of dp."""
    dp -= (p * dp).sum(axis=-1, keepdims=True)
    dp *= p
    return dp


def log_softmax(scores: Array, out: Array | None = None) -> Array:
    """log(exp(s) / sum(exp(s))) of each row s; `out` may be scores itself."""
    shifted, xp = below_maximum(scores, out), get_array_module(scores)
    shifted -= xp.log(xp.exp(shifted).sum(axis=-1, keepdims=True))
    return shifted


def tempered(scores: Array, temperature: float) -> Array:
    """exp((s - max(s)) / temperature) of each row s: its softmax, but for a factor."""
    return get_array_module(scores).exp(below_maximum(scores) / temperature)


def log_mean_softmax(scores: Sequence[Array]) -> Array:
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
            most, mean = first[block], _share(first[block], len(scores))
            for other in others:
                mean += _share(other[block], len(scores))
                xp.maximum(most, other[block], out=most)
            xp.maximum(xp.log(mean, out=mean), most, out=most)
    return first


def _share(scores: Array, K: int) -> Array:
    """softmax(scores) / K; scores become its logarithm."""
    xp = get_array_module(scores)
    p = xp.exp(below_maximum(scores, out=scores))
    total = K * p.sum(axis=-1, keepdims=True)
    p /= total
    scores -= xp.log(total)
    return p


def softmax_loss(
    scores: Array,
    targets: Array,
    scale: Array | float,
    out: Array | None = None,
    smoothing: float = 0.0,
) -> tuple[Array, Array]:
    """The equation of Ops.softmax_loss."""
    if out is None:
        out = get_array_module(scores).empty_like(scores)
    xp = get_array_module(scores, targets)
    rows = xp.arange(scores.shape[0])
    log_p = log_softmax(scores)
    padded = is_device_array(targets) and targets.dtype == xp.int32
    if padded:
        has_target = targets != NO_TARGET
        targets = xp.where(has_target, targets, 0)
    xp.exp(log_p, out=out)
    out[rows, targets] -= 1 - smoothing
    nll = (smoothing - 1) * log_p[rows, targets]
    if smoothing:
        out -= smoothing / scores.shape[1]
        nll -= smoothing * log_p.mean(axis=1)
    out *= scale if isinstance(scale, float) else scale[:, None]
    if padded:
        out *= has_target[:, None]
        nll *= has_target
    return nll, out
