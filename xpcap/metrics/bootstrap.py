"""Bootstrap intervals of scores, and of differences between scores.

The 95 % intervals come from the bootstrap (Efron 1979): each of 1,000 resamples draws n of the n
pictures with replacement, and each score that is a function of sums over pictures is computed for
it. 95 % of these values lie in the interval. It covers other pictures of the same kind, not other
seeds of training. The same resamples give the intervals of differences between two sets of
captions.
"""

from collections.abc import Sequence

import numpy as np

from xpcap.backend.threads import one_blas_thread
from xpcap.errors import InvalidValueError
from xpcap.metrics.metric import Sums

RESAMPLES = 1000
SEED = 0
LEVEL = 95
Interval = tuple[float, float]


@one_blas_thread()
def resample(sums: Sequence[Sums]) -> dict[str, np.ndarray]:
    """Name of each score to its values (RESAMPLES,); resamples depend on the number of pictures.

    It is empty without scores or pictures.
    """
    if not sums or not len(sums[0].parts):
        return {}
    parts = np.hstack([metric_sums.parts for metric_sums in sums])  # (n, k)
    n = len(parts)
    rng = np.random.default_rng(SEED)
    totals = np.stack(
        [np.bincount(rng.integers(0, n, n), minlength=n) @ parts for _ in range(RESAMPLES)]
    )
    ends = np.cumsum([metric_sums.parts.shape[1] for metric_sums in sums])[:-1]
    values: dict[str, np.ndarray] = {}
    for metric_sums, total in zip(sums, np.split(totals, ends, axis=1), strict=True):
        values |= metric_sums.values(total)
    return values


def interval(values: np.ndarray) -> Interval:
    """The middle 95 % of values."""
    low, high = np.percentile(values, [50 - LEVEL / 2, 50 + LEVEL / 2]).tolist()
    return low, high


def bootstrap_intervals(sums: Sequence[Sums]) -> dict[str, Interval]:
    """Name of each score to its interval; empty without pictures."""
    return {name: interval(values) for name, values in resample(sums).items()}


def paired(ours: Sequence[Sums], theirs: Sequence[Sums]) -> dict[str, Interval]:
    """Intervals of the differences ours - theirs, from the same resamples of the pictures.

    InvalidValueError : the numbers of pictures differ.
    """
    if len(sizes := {len(metric_sums.parts): None for metric_sums in (*ours, *theirs)}) > 1:
        raise InvalidValueError(
            f"scores are of {' and '.join(map(str, sizes))} pictures, expected scores of the same"
            " pictures"
        )
    our_values = resample(ours)
    their_values = resample(theirs)
    return {
        name: interval(values - their_values[name])
        for name, values in our_values.items()
        if name in their_values
    }
