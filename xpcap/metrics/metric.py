"""What a metric is: a name, a protocol in words, and a score of captions against references."""

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import numpy as np

Words = Sequence[str]
References = Sequence[Sequence[Words]]  # for each picture its captions, each a list of words


class Sums(NamedTuple):
    """Corpus values as functions of sums over pictures, so that they can be had for any resample of the pictures: see `bootstrap`."""

    parts: np.ndarray  # (n, k) float, what each picture adds
    values: Callable[[np.ndarray], dict[str, np.ndarray]]  # sums (b, k) to name and values (b,)


class Scored(NamedTuple):
    """What a metric says of a set of captions."""

    corpus: dict[str, float]  # over all pictures; a metric may have several values, such as BLEU-1 to BLEU-4
    pictures: list[float]  # one value a picture, in the order of the references; empty if a picture alone has none
    sums: Sums | None = None  # None: no interval


class Metric(Protocol):
    """Scores captions against references.

    Attributes
    ----------
    name : key of its protocol and of its values a picture
    title : as tables show it
    plain : what it says, for people who know no metric
    protocol : how it is computed, in words
    known_only : references without the words that are not in the model's vocabulary; else as people wrote them
    """

    name: str
    title: str
    plain: str
    protocol: str
    known_only: bool

    def score(self, references: References, hypotheses: Sequence[Words]) -> Scored:
        """Score one hypothesis a picture.

        Parameters
        ----------
        references : for each picture its captions as lists of words
        hypotheses : for each picture, in the same order, one caption as a list of words; it may be empty
        """


def averaged(name: str, pictures: Sequence[float] | np.ndarray, *, weights: Sequence[float] | np.ndarray | None = None) -> Scored:
    """A score whose corpus value is the mean over pictures, weighted if `weights` are given; 0 without any picture."""
    values = np.asarray(pictures, np.float64)
    weight = np.ones(len(values)) if weights is None else np.asarray(weights, np.float64)
    sums = Sums(np.stack([values * weight, weight], axis=1), lambda total: {name: total[:, 0] / total[:, 1]})
    return Scored({name: float(np.average(values, weights=weight)) if len(values) else 0.0}, values.tolist(), sums)
