"""How sure a score is: 95 % intervals from resampled pictures (Efron 1979), and differences between two sets of captions of the same pictures.

A resample draws as many pictures as there are, with replacement. Every score that is a function of sums over pictures is computed anew for
each of 1,000 resamples; 95 % of the values lie in the interval. It says what other pictures of the same kind would do to the score; it does
not say what another seed of training would.
"""

from collections.abc import Sequence

import numpy as np

from xpcap.metrics.metric import Sums
from xpcap.threads import blas

RESAMPLES, SEED, LEVEL = 1000, 0, 95
Interval = tuple[float, float]


def resample(sums: Sequence[Sums]) -> dict[str, np.ndarray]:
    """Name to values (RESAMPLES,) over the same resamples for every score; and for other captions of as many pictures, so that pairs can be formed."""
    parts = np.hstack([one.parts for one in sums])  # (n, k)
    n, rng = len(parts), np.random.default_rng(SEED)
    with blas().turn():
        totals = np.stack([np.bincount(rng.integers(0, n, n), minlength=n) @ parts for _ in range(RESAMPLES)])
    ends = np.cumsum([one.parts.shape[1] for one in sums])[:-1]
    return {name: values for one, total in zip(sums, np.split(totals, ends, axis=1), strict=True) for name, values in one.values(total).items()}


def interval(values: np.ndarray) -> Interval:
    """The middle 95 % of values."""
    low, high = np.percentile(values, [50 - LEVEL / 2, 50 + LEVEL / 2]).tolist()
    return low, high


def intervals(sums: Sequence[Sums]) -> dict[str, Interval]:
    """Name of each score to its interval; none without pictures."""
    if not sums or not len(sums[0].parts):
        return {}
    return {name: interval(values) for name, values in resample(sums).items()}


def paired(ours: Sequence[Sums], theirs: Sequence[Sums]) -> dict[str, Interval]:
    """Interval of the difference, ours - theirs, of each score that both have: of the same resamples of the same pictures, in the same order."""
    if not ours or not theirs or not len(ours[0].parts):
        return {}
    one, other = resample(ours), resample(theirs)
    return {name: interval(values - other[name]) for name, values in one.items() if name in other}
