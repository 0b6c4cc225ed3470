"""Scores of captions as tables, JSON and CSV, and two sides compared."""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from xpcap.data.dataset import evenly_spaced
from xpcap.data.vocabulary import TOKENISERS, UNICODE
from xpcap.errors import DataError
from xpcap.files import write_text
from xpcap.metrics import ALIASES, Bleu, Interval, Metric, Scored, intervals, paired
from xpcap.metrics.bleu import ORDERS
from xpcap.metrics.metric import Sums
from xpcap.report.records import PictureCaption
from xpcap.training.evaluate import PLAIN, PROTOCOL, TeacherForced


class Result(NamedTuple):
    """A metric and its scores."""

    metric: Metric
    scored: Scored


class HumanScores(NamedTuple):
    """Scores of human captions: of each picture the first reference in place of a caption.

    Metrics that compare with references get the picture's others, and pictures that have others.
    `protocol` says so in words.
    """

    results: Sequence[Result] = ()
    protocol: str = ""

    @property
    def scores(self) -> dict[str, float]:
        """Value by name, as in `Scores`; without what needs a second reference, if none has one."""
        return _by_name(self.results)

    @property
    def figures(self) -> dict[str, str]:
        """Title of each score to its value, as tables show it."""
        return {metric.title: _figures(scored) for metric, scored in self.results}


@dataclass(frozen=True)
class Scores:
    """Scores of captions, one a picture.

    Parameters
    ----------
    split : its name
    captions : one a picture, in the order of the pictures
    results : one a metric
    unscored : name of each requested metric that could not be computed to the reason
    seconds : time taken
    words : the tokenisation of captions and references, in words
    human : scores of what people wrote, by the same metrics
    """

    split: str
    captions: list[PictureCaption]
    results: list[Result]
    seconds: float
    unscored: dict[str, str] = field(default_factory=dict, kw_only=True)
    words: str = field(default=TOKENISERS[UNICODE], kw_only=True)
    human: HumanScores = field(default_factory=HumanScores, kw_only=True)

    @property
    def people(self) -> HumanScores:
        """The former name of `human`."""
        return self.human

    @property
    def n(self) -> int:
        """The number of pictures."""
        return len(self.captions)

    @property
    def summary(self) -> str:
        """Split, number of pictures and time, in a line."""
        return f"{self.split}: {self.n} pictures, {self.seconds:.1f} s"

    @property
    def scores(self) -> dict[str, float]:
        """Value by name: ``bleu1`` to ``bleu4``, ``unigram_bleu``, ``rouge_l``, ``cider``, ..."""
        return _by_name(self.results)

    @cached_property
    def intervals(self) -> dict[str, Interval]:
        """Ends of the 95 % interval by name of a score, if it has one: see `metrics.intervals`."""
        found = intervals(self.sums)
        return found | {alias: found[name] for alias, name in ALIASES.items() if name in found}

    @property
    def sums(self) -> list[Sums]:
        """Sums per picture of each metric that has them: intervals resample these."""
        return [scored.sums for _, scored in self.results if scored.sums]

    @property
    def per_picture(self) -> dict[str, list[float]]:
        """Name to one value for each of `captions`, of metrics that score single pictures."""
        return {metric.name: scored.pictures for metric, scored in self.results if scored.pictures}

    @property
    def protocol(self) -> dict[str, str]:
        """Name of a metric to how it is computed, in words; BLEU's with the tokenisation."""
        protocols = {metric.name: metric.protocol for metric, _ in self.results}
        if Bleu.name in protocols:
            protocols[Bleu.name] += f", {self.words}"
        return protocols

    @property
    def plain(self) -> dict[str, str]:
        """Title of a score to its meaning, for people who know no metric."""
        return {metric.title: metric.plain for metric, _ in self.results}

    def rows(self) -> list[tuple[str, str, str, str]]:
        """(title, value, half the interval's width or "", protocol) of each score, for tables."""
        return [
            (
                metric.title,
                _figures(scored),
                self._widths(scored.corpus),
                self.protocol[metric.name],
            )
            for metric, scored in self.results
        ]

    def _widths(self, names: Mapping[str, float]) -> str:
        ends = [self.intervals[name] for name in names if name in self.intervals]
        return "± " + "  ".join(figure((high - low) / 2) for low, high in ends) if ends else ""

    def spread(self, *, count: int = 10) -> list[PictureCaption]:
        """`count` of the captions, evenly spaced."""
        return [self.captions[i] for i in evenly_spaced(self.n, count).tolist()]

    def to_json(self) -> dict[str, Any]:
        """The scores as an object for JSON."""
        scores = self.scores
        return {
            "split": self.split,
            "n": self.n,
            "bleu": [scores[f"bleu{n}"] for n in ORDERS if f"bleu{n}" in scores] or None,
            "seconds": self.seconds,
            "protocol": self.protocol,
            "captions": {caption.image: caption.caption for caption in self.captions},
            "scores": scores,
            "intervals": {name: list(ends) for name, ends in self.intervals.items()},
            "unscored": self.unscored,
            "people": {"scores": self.human.scores, "protocol": self.human.protocol},
        }

    def write_csv(self, path: str | Path) -> None:
        """Write a table with one row a picture: ``image``, ``caption``, and each score per picture.

        OSError : it cannot be written.
        """
        scores = self.per_picture
        table = io.StringIO()
        rows = csv.writer(table, lineterminator="\n")
        rows.writerow(["image", "caption", *scores])
        for caption, *values in zip(self.captions, *scores.values(), strict=True):
            rows.writerow([caption.image, caption.caption, *values])
        write_text(Path(path), table.getvalue())


def figure(value: float) -> str:
    """A score as tables show it: three decimals, a count without."""
    return str(value) if isinstance(value, int) else f"{value:.3f}"


def _figures(scored: Scored) -> str:
    return "  ".join(map(figure, scored.corpus.values()))


def _by_name(results: Sequence[Result]) -> dict[str, float]:
    """All scores by name, aliases last."""
    scores: dict[str, float] = {}
    for _, scored in results:
        scores |= scored.corpus
    return scores | {alias: scores[name] for alias, name in ALIASES.items() if name in scores}


# A run on a split


@dataclass(frozen=True)
class Evaluation(Scores):
    """Scores of a run on a split, with its captions.

    Parameters
    ----------
    forced : teacher-forced scores of the references
    decoding : the decoding policy, in words
    """

    forced: TeacherForced
    decoding: str

    @property
    def scores(self) -> dict[str, float]:
        """As `Scores.scores`, and ``perplexity``, ``loss``, ``accuracy``."""
        return {
            **super().scores,
            "perplexity": self.forced.perplexity,
            "loss": self.forced.loss,
            "accuracy": self.forced.accuracy,
        }

    @property
    def protocol(self) -> dict[str, str]:
        """As `Scores.protocol`, with perplexity."""
        return {**super().protocol, "perplexity": PROTOCOL}

    @property
    def plain(self) -> dict[str, str]:
        """As `Scores.plain`, with perplexity."""
        return {**super().plain, "perplexity": PLAIN}

    @property
    def summary(self) -> str:
        """As `Scores.summary`, with the decoding."""
        return f"{super().summary}, {self.decoding}"

    def rows(self) -> list[tuple[str, str, str, str]]:
        """As `Scores.rows`, with perplexity."""
        return [*super().rows(), ("perplexity", f"{self.forced.perplexity:.2f}", "", PROTOCOL)]

    def to_json(self) -> dict[str, Any]:
        """As `Scores.to_json`, with decoding; scores of generated pictures may be None."""
        scores, names = self.scores, ("unigram_bleu", "perplexity", "loss", "accuracy", "named")
        return {
            **super().to_json(),
            "decoding": self.decoding,
            **{name: scores.get(name) for name in names},
        }


# Two sides


@dataclass(frozen=True)
class Comparison:
    """Scores of both sides, and their paired differences."""

    ours: Scores
    theirs: Scores
    differences: dict[str, float]  # name of each score of both to ours - theirs
    intervals: dict[str, Interval]  # name to the ends of the difference's 95 % interval, if any

    def rows(self) -> list[tuple[str, str, str, str, str]]:
        """(name, ours, theirs, difference, interval or "") of each score, for tables."""
        ours, theirs = self.ours.scores, self.theirs.scores
        return [
            (
                name,
                figure(ours[name]),
                figure(theirs[name]),
                signed(difference),
                " to ".join(map(signed, self.intervals.get(name, ()))),
            )
            for name, difference in self.differences.items()
        ]

    def to_json(self) -> dict[str, Any]:
        """The other side's scores and the differences as an object for JSON."""
        ends = {name: list(interval) for name, interval in self.intervals.items()}
        return {"scores": self.theirs.scores, "differences": self.differences, "intervals": ends}


def signed(value: float) -> str:
    """A difference as tables show it."""
    return f"{value:+}" if isinstance(value, int) else f"{value:+.3f}"


def compare(ours: Scores, theirs: Scores) -> Comparison:
    """Paired differences of all scores that both sides have, with bootstrap intervals.

    Both sides are resampled alike, so that what makes a picture easy for both cancels out:
    intervals of paired differences are narrower than those of two scores. If an interval excludes
    0, other pictures of this kind would most likely show a difference too.

    Raises
    ------
    DataError : they are not of the same pictures with the same references.
    """
    odd = [
        one.image
        for one, other in zip(ours.captions, theirs.captions, strict=False)
        if (one.image, one.references) != (other.image, other.references)
    ]
    if odd or ours.n != theirs.n:
        what = (
            f"{ours.n:,} and {theirs.n:,} pictures"
            if ours.n != theirs.n
            else f"other pictures or references, from {odd[0][:100]!r} on"
        )
        raise DataError(
            "compare",
            "the two sides",
            f"have {what} in split {ours.split!r}",
            expected="the same pictures and references",
            cause="if they were trained on different files, give one of them as `data`",
        )
    one, other = ours.scores, theirs.scores
    differences = {name: value - other[name] for name, value in one.items() if name in other}
    found = paired(ours.sums, theirs.sums)
    found |= {alias: found[name] for alias, name in ALIASES.items() if name in found}
    return Comparison(ours, theirs, differences, found)
