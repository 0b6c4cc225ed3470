"""Explanation of a reranked caption: similar photos, candidates, and the parts of their scores."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from xpcap.data.vocabulary import UNK
from xpcap.report.text import NOTHING, signed

SMALL = 0.05  # smaller differences of parts, relative to the largest, are left out
# Heading of each part of a score, and its name in a sentence on a gain or a loss; the parts are
# those of reranking.FEATURES
PARTS = {
    "consensus": ("agreement", "agreement with the captions of similar photos"),
    "log_probability": ("likelihood", "likelihood"),
    "words": ("words", "words that suit the photo"),
    "length": ("length", "length"),
    "unseen": ("pairs", "pairs of words that people wrote"),
    "repeats": ("repeats", "repetition"),
    "borrowed": ("person", "a person's wording"),
}


@dataclass(frozen=True)
class Neighbour:
    """A training photo similar to the captioned one, and its captions."""

    image: str
    similarity: float  # cosine of their features, at most 1
    captions: list[str]


@dataclass(frozen=True)
class CandidateCaption:
    """A caption that was reranked."""

    caption: str
    log_probability: float  # per word, END included
    score: float  # the sum of `parts`
    parts: Mapping[str, float]  # name in reranking.FEATURES to its part of the score
    image: str = ""  # training photo whose caption it is; empty: the model generated it


@dataclass(frozen=True)
class Explanation:
    """Neighbours and candidates that decided the choice of a reranked caption."""

    neighbours: list[Neighbour]  # the nearest first
    candidates: list[CandidateCaption]  # the best first

    @property
    def likeliest(self) -> CandidateCaption:
        """The generated candidate, or else any, of the highest log-probability per word.

        ValueError : there is no candidate.
        """
        generated = [candidate for candidate in self.candidates if not candidate.image]
        return max(generated or self.candidates, key=lambda x: x.log_probability)


def sample_caption(neighbour: Neighbour) -> str:
    """The caption of a training photo with the fewest unknown words, each shown as an ellipsis."""
    fewest = min(neighbour.captions, key=lambda text: text.count(UNK), default="")
    return fewest.replace(UNK, "…")


class CandidateDifference(NamedTuple):
    """A candidate, and the differences of its score from the likeliest candidate's."""

    candidate: CandidateCaption
    origin: str  # "caption of PHOTO", "likeliest", or empty
    score: float  # difference of the scores
    parts: dict[str, float]  # key of PARTS to the difference of that part


def compare_candidates(explanation: Explanation, count: int = 5) -> list[CandidateDifference]:
    """Compare the `count` best candidates, and the likeliest, with the likeliest.

    All have the same `parts`: those with a large difference in at least one of them.
    """
    if not explanation.candidates:
        return []
    likeliest = explanation.likeliest
    shown = explanation.candidates[:count]
    if not any(candidate is likeliest for candidate in shown):
        shown = [*shown, likeliest]
    differences = [_difference(candidate, likeliest) for candidate in shown]
    large = set().union(*map(_large, differences))
    return [
        CandidateDifference(
            candidate,
            _origin(candidate, likeliest),
            candidate.score - likeliest.score,
            {name: x for name, x in parts.items() if name in large},
        )
        for candidate, parts in zip(shown, differences, strict=True)
    ]


def _origin(candidate: CandidateCaption, likeliest: CandidateCaption) -> str:
    if candidate.image:
        return f"caption of {candidate.image}"
    return "likeliest" if candidate is likeliest else ""


def _difference(candidate: CandidateCaption, other: CandidateCaption) -> dict[str, float]:
    return {name: candidate.parts[name] - other.parts[name] for name in PARTS}


def _large(difference: Mapping[str, float]) -> list[str]:
    """Names of the parts with a large difference, the largest first."""
    names = sorted(difference, key=lambda name: -abs(difference[name]))
    limit = SMALL * abs(difference[names[0]])
    return [name for name in names if difference[name] and abs(difference[name]) >= limit]


def decision(explanation: Explanation) -> str:
    """The reason for the choice, in one to three sentences.

    They name the parts of the score in which the best candidate is behind the likeliest, and the
    fewest parts in which it is ahead that outweigh these.
    """
    if not explanation.candidates:
        return "No caption satisfies the limits."
    best = explanation.candidates[0]
    likeliest = explanation.likeliest
    origin = ""
    if best.image:
        similarity = [x.similarity for x in explanation.neighbours if x.image == best.image]
        similar = f" (similarity {similarity[0]:.2f})" if similarity else ""
        origin = f"A person wrote it for the training photo {best.image}{similar}. "
    if len(explanation.candidates) == 1:
        return f"{origin}There was no other candidate."
    if best is likeliest:
        return f"{origin}It is also the model's likeliest candidate."
    parts = _difference(best, likeliest)
    ahead = [name for name in _large(parts) if parts[name] > 0]
    behind = [name for name in _large(parts) if parts[name] < 0]
    fewest = 1
    while sum(parts[name] for name in [*ahead[:fewest], *behind]) <= 0 and fewest < len(ahead):
        fewest += 1
    outcome = [
        f"{verb} on {_listed([f'{PARTS[name][1]} ({signed(parts[name])})' for name in names])}"
        for verb, names in (("wins", ahead[:fewest]), ("loses", behind))
        if names
    ]
    return (
        f"{origin}The model's likeliest candidate is “{likeliest.caption or NOTHING}”. This caption"
        f" {', and '.join(outcome) or 'scores the same'}."
    )


def _listed(names: Sequence[str]) -> str:
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last
