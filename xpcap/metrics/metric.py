"""Metric: the name, protocol and function of a score."""

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from xpcap.errors import InvalidTypeError, InvalidValueError, one_of

# Data that a score may depend on, in addition to the captions
BASES = ("references", "vocabulary", "train captions")
Words = Sequence[str]
References = Sequence[Sequence[Words]]  # captions of each picture, as lists of words


def require_words(name: str, sentences: Iterable[Words]) -> None:
    """Raise InvalidTypeError if a sentence is text, whose letters would count as words."""
    for words in sentences:
        if isinstance(words, str):
            raise InvalidTypeError(
                f"{name} is the text {words[:40]!r}, expected a list of words; text.split() returns"
                " a list"
            )


def require_references(references: Sequence[Words], caption: Words) -> None:
    """Raise InvalidValueError if a picture has no reference; then check as `require_words`."""
    if not len(references):
        raise InvalidValueError("a picture has no reference, expected at least one")
    require_words("a reference", references)
    require_words("a caption", [caption])


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
                raise InvalidValueError(
                    f"`depends_on` {name!r} does not exist, expected {one_of(BASES, name)}"
                )


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
        raise InvalidTypeError(
            f"the values of {name!r} have dtype {values.dtype}, expected numbers"
        )
    values = values.astype(np.float64)
    weight = np.ones(len(values)) if weights is None else np.asarray(weights, np.float64)
    parts = np.stack([values * weight, weight], axis=1)
    mean = float(np.average(values, weights=weight)) if len(values) else 0.0
    sums = Sums(parts, lambda total: {name: total[:, 0] / total[:, 1]})
    return Scored({name: mean}, values.tolist(), sums)
