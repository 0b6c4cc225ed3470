"""Metric: the name, protocol and function of a score, and bootstrap intervals.

The 95 % intervals come from the bootstrap (Efron 1979): each of 1,000 resamples draws n of the n
pictures with replacement, and each score that is a function of sums over pictures is computed for
it. 95 % of these values lie in the interval. It covers other pictures of the same kind, not other
seeds of training. The same resamples give the intervals of differences between two sets of
captions.
"""

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from xpcap.backend.threads import one_blas_thread
from xpcap.errors import InvalidTypeError, InvalidValueError, unknown

# Data that a score may depend on, in addition to the captions
BASES = ("references", "vocabulary", "train captions")
Words = Sequence[str]
References = Sequence[Sequence[Words]]  # captions of each picture, as lists of words


def require_words(caller: str, name: str, sentences: Iterable[Words]) -> None:
    """Raise InvalidTypeError if a sentence is text, whose letters would count as words."""
    for words in sentences:
        if isinstance(words, str):
            got, cause = f"is the text {words[:40]!r}", "text.split() returns a list"
            raise InvalidTypeError(caller, name, got, "a list of words", cause)


def require_references(caller: str, references: Sequence[Words], caption: Words) -> None:
    """Raise InvalidValueError if a picture has no reference; then check as `require_words`."""
    if not len(references):
        raise InvalidValueError(caller, "a picture", "has no reference", "at least one")
    require_words(caller, "a reference", references)
    require_words(caller, "a caption", [caption])


class Sums(NamedTuple):
    """Corpus values as functions of sums over pictures, which `resample` draws."""

    parts: np.ndarray  # (n, k) float, summands of each picture
    values: Callable[[np.ndarray], dict[str, np.ndarray]]  # sums (b, k) to name and values (b,)


class Scored(NamedTuple):
    """Scores of a set of captions by a metric."""

    corpus: dict[str, float]  # over all pictures; one or more values, such as BLEU-1 to BLEU-4
    pictures: list[float]  # one per picture, in order of the references, or empty
    sums: Sums | None = None  # None: there is no interval


class Hub(NamedTuple):
    """Names of a score in model cards of the Hugging Face hub."""

    score: str  # name in `Scored.corpus`
    metric: str  # identifier in the hub
    title: str


@dataclass(frozen=True)
class Metric:
    """A score of captions; `per_caption`, `per_picture` and `of_corpus` make one from a function.

    Any other object with a name, a title, a protocol and `score` can be used, too.

    name : key of the protocol and of the values per picture
    title : title in tables
    meaning : description for people who know no metrics; ``share`` or ``1 at best`` here or in the
        protocol means that values are from 0 to 1
    protocol : description of the computation
    score : function of each picture's references, as lists of words, and one hypothesis per
        picture, a list of words that may be empty, in the same order
    depends_on : names in BASES; scores are compared only if these are equal. Without "references",
        all of people's captions are scored; with "vocabulary", references lack the words that the
        captioner does not know
    hub : entry in model cards; None: it has none
    ValueError : `depends_on` has a name that is not in BASES.
    """

    name: str
    title: str
    meaning: str
    protocol: str
    score: Callable[[References, Sequence[Words]], Scored]
    depends_on: Collection[str] = ("references",)
    hub: Hub | None = None

    def __post_init__(self) -> None:
        for name in self.depends_on:
            if name not in BASES:
                raise unknown("metrics", "`depends_on`", name, BASES, InvalidValueError)


def per_caption(
    name: str, title: str, meaning: str, protocol: str, value: Callable[[Words], float]
) -> Metric:
    """A metric that averages a value of the caption over pictures.

    Examples
    --------
    >>> metric = per_caption("length", "length", "words", "mean number of words", len)
    >>> metric.score([[["a", "dog"]]], [["a", "red", "dog"]]).corpus
    {'length': 3.0}
    """

    def score(_: References, hypotheses: Sequence[Words]) -> Scored:
        return averaged(name, [value(words) for words in hypotheses])

    return Metric(name, title, meaning, protocol, score, depends_on=())


def per_picture(
    name: str,
    title: str,
    meaning: str,
    protocol: str,
    value: Callable[[Sequence[Words], Words], float],
    *,
    hub: Hub | None = None,
) -> Metric:
    """A metric that averages a value of references and caption over pictures."""

    def score(references: References, hypotheses: Sequence[Words]) -> Scored:
        pairs = zip(references, hypotheses, strict=True)
        return averaged(name, [value(captions, words) for captions, words in pairs])

    return Metric(name, title, meaning, protocol, score, hub=hub)


def of_corpus(
    name: str, title: str, meaning: str, protocol: str, value: Callable[[Sequence[Words]], float]
) -> Metric:
    """A metric that is a value of all captions; it has no interval, as resamples repeat captions."""

    def score(_: References, hypotheses: Sequence[Words]) -> Scored:
        return Scored({name: value(hypotheses)}, [])

    return Metric(name, title, meaning, protocol, score, depends_on=())


def averaged(
    name: str,
    pictures: Sequence[float] | np.ndarray,
    *,
    weights: Sequence[float] | np.ndarray | None = None,
) -> Scored:
    """A score whose corpus value is the (weighted) mean over pictures, or 0 without pictures."""
    values = np.asarray(pictures)
    if values.size and values.dtype.kind not in "biuf":
        got = f"have dtype {values.dtype}"
        raise InvalidTypeError("metrics", f"the values of {name!r}", got, "numbers")
    values = values.astype(np.float64)
    weight = np.ones(len(values)) if weights is None else np.asarray(weights, np.float64)
    parts = np.stack([values * weight, weight], axis=1)
    mean = float(np.average(values, weights=weight)) if len(values) else 0.0
    sums = Sums(parts, lambda total: {name: total[:, 0] / total[:, 1]})
    return Scored({name: mean}, values.tolist(), sums)


RESAMPLES, SEED, LEVEL = 1000, 0, 95
Interval = tuple[float, float]


@one_blas_thread()
def resample(sums: Sequence[Sums]) -> dict[str, np.ndarray]:
    """Name of each score to its values (RESAMPLES,); resamples depend on the number of pictures.

    It is empty without scores or pictures.
    """
    if not sums or not len(sums[0].parts):
        return {}
    parts = np.hstack([metric_sums.parts for metric_sums in sums])  # (n, k)
    n, rng = len(parts), np.random.default_rng(SEED)
    totals = np.stack(
        [np.bincount(rng.integers(0, n, n), minlength=n) @ parts for _ in range(RESAMPLES)]
    )
    ends = np.cumsum([metric_sums.parts.shape[1] for metric_sums in sums])[:-1]
    return {
        name: values
        for metric_sums, total in zip(sums, np.split(totals, ends, axis=1), strict=True)
        for name, values in metric_sums.values(total).items()
    }


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
        got = f"are of {' and '.join(map(str, sizes))} pictures"
        raise InvalidValueError("paired", "scores", got, "scores of the same pictures")
    our_values, their_values = resample(ours), resample(theirs)
    return {
        name: interval(values - their_values[name])
        for name, values in our_values.items()
        if name in their_values
    }
