"""Metrics: names, protocols, scores of captions against references, and their intervals.

Intervals are of 95 %, from resampled pictures (Efron 1979). A resample draws as many pictures as
there are, with replacement. Every score that is a function of sums over pictures is computed anew
for each of 1,000 resamples; 95 % of the values lie in the interval. It covers other pictures of the
same kind, not other seeds of training. The same resamples serve for the difference between two sets
of captions of the same pictures.
"""

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from xpcap.errors import InvalidTypeError, InvalidValueError, unknown
from xpcap.threads import one_blas_thread

# What a score may depend on, besides the captions that it is of
BASES = ("references", "vocabulary", "train captions")
Words = Sequence[str]
References = Sequence[Sequence[Words]]  # for each picture its captions, each a list of words


def require_words(caller: str, name: str, sentences: Iterable[Words]) -> None:
    """Raise InvalidTypeError if a sentence is text, whose letters would be taken for words."""
    for words in sentences:
        if isinstance(words, str):
            got, cause = f"is the text {words[:40]!r}", "text.split() makes one"
            raise InvalidTypeError(caller, name, got, "a list of words", cause)


def require_references(caller: str, references: Sequence[Words], caption: Words) -> None:
    """Raise InvalidValueError if a picture has no reference; then check as `require_words`."""
    if not len(references):
        raise InvalidValueError(caller, "a picture", "has no reference", "at least one")
    require_words(caller, "a reference", references)
    require_words(caller, "a caption", [caption])


class Sums(NamedTuple):
    """Corpus values as functions of sums over pictures, so that `resample` can compute them."""

    parts: np.ndarray  # (n, k) float, what each picture adds
    values: Callable[[np.ndarray], dict[str, np.ndarray]]  # sums (b, k) to name and values (b,)


class Scored(NamedTuple):
    """Scores of a set of captions by one metric."""

    corpus: dict[str, float]  # over all pictures; one or more values, such as BLEU-1 to BLEU-4
    pictures: list[float]  # one a picture, in order of the references; empty without such values
    sums: Sums | None = None  # None: no interval


class Hub(NamedTuple):
    """A score as the model cards of Hugging Face's hub name it."""

    score: str  # its name in `Scored.corpus`
    metric: str  # the hub's identifier
    title: str


@dataclass(frozen=True)
class Metric:
    """A score of captions; `per_caption`, `per_picture` and `of_corpus` make one of a function.

    Any other object with a name, a title, a protocol and `score` will do, too.

    name : key of its protocol and of its values a picture
    title : as tables show it
    meaning : its meaning, for people who know no metric; ``share`` or ``1 at best`` in it, or in the
        protocol, promises values in 0..1
    protocol : the computation, in words
    score : takes each picture's references, lists of words, and one hypothesis a picture, a list of
        words that may be empty, in the same order
    depends_on : of BASES; only scores with equal bases are compared. Without references people's
        captions are scored like a captioner's, all of them; with the vocabulary the references
        are without the words that the captioner does not know
    hub : its entry in a model card; None: it has none
    ValueError : `depends_on` has another name.
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
    """The mean over pictures of a value of the caption."""

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
    """The mean over pictures of a value of the references and the caption."""

    def score(references: References, hypotheses: Sequence[Words]) -> Scored:
        pairs = zip(references, hypotheses, strict=True)
        return averaged(name, [value(captions, words) for captions, words in pairs])

    return Metric(name, title, meaning, protocol, score, hub=hub)


def of_corpus(
    name: str, title: str, meaning: str, protocol: str, value: Callable[[Sequence[Words]], float]
) -> Metric:
    """A value of all captions. No interval: resamples repeat pictures, and so captions."""

    def score(_: References, hypotheses: Sequence[Words]) -> Scored:
        return Scored({name: value(hypotheses)}, [])

    return Metric(name, title, meaning, protocol, score, depends_on=())


def averaged(
    name: str,
    pictures: Sequence[float] | np.ndarray,
    *,
    weights: Sequence[float] | np.ndarray | None = None,
) -> Scored:
    """A score whose corpus value is the mean over pictures, perhaps weighted; 0 without any."""
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
    """Name to values (RESAMPLES,), of equal resamples for all scores of as many pictures.

    Empty without scores or pictures.
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
    """Name of each score to its interval; none without pictures."""
    return {name: interval(values) for name, values in resample(sums).items()}


def paired(ours: Sequence[Sums], theirs: Sequence[Sums]) -> dict[str, Interval]:
    """Intervals of the differences ours - theirs, by pairs of equal resamples of the pictures.

    InvalidValueError : they are of different numbers of pictures.
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
