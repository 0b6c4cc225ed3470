"""Scores of captions as tables, JSON and CSV, and two sides compared."""

import csv
import io
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from xpcap.data.dataset import evenly_spaced
from xpcap.errors import DataError
from xpcap.files import write_text
from xpcap.metrics import ALIASES, Interval, Metric, Scored, Sums, bootstrap_intervals, paired
from xpcap.metrics.bleu import ORDERS
from xpcap.runs.records import PictureCaption

Value = TypeVar("Value")
# Scores to name first: of each group the first that was measured
HEADLINE = (("named", "distinct"), ("cider",), ("bleu4",))
TITLES = {"cider": "CIDEr-D", "bleu4": "BLEU-4"}  # where the metric's title says more
FORCED = ("perplexity", "loss", "accuracy")  # scores of the references, which need a model


class Result(NamedTuple):
    """A metric's scores of captions, and of human captions."""

    metric: Metric
    scored: Scored
    human: Scored | None = None  # of the first reference of each picture
    shown: str = ""  # the values in tables; empty: all of them, with three decimals


class Row(NamedTuple):
    """A result in tables, whose texts may be empty."""

    title: str
    value: str
    width: str  # half of the interval's, after ±
    human: str
    protocol: str
    plain: str


@dataclass(frozen=True)
class Scores:
    """Scores of captions, one a picture.

    split : its name
    captions : one a picture, in the order of the pictures
    results : one a metric, and perplexity if a run said the captions
    seconds : time taken
    unscored : name of each metric that could not be computed to the reason
    human_protocol : how human captions were scored, in words, or why they were not
    people : False: too few pictures have different captions for a column of human ones
    decoding : the run's decoding policy, in words; empty: the captions come from elsewhere
    """

    split: str
    captions: list[PictureCaption]
    results: list[Result]
    seconds: float
    unscored: dict[str, str] = field(default_factory=dict)
    human_protocol: str = ""
    people: bool = True
    decoding: str = ""

    def __repr__(self) -> str:
        return f"Scores({self.summary!r}, {self.scores})"

    @property
    def n(self) -> int:
        """The number of pictures."""
        return len(self.captions)

    @property
    def summary(self) -> str:
        """Split, number of pictures, time and decoding, in a line."""
        line = f"{self.split}: {self.n} pictures, {self.seconds:.1f} s"
        return f"{line}, {self.decoding}" if self.decoding else line

    @property
    def scores(self) -> dict[str, float]:
        """Value by name: ``bleu1`` to ``bleu4``, ``unigram_bleu``, ``rouge_l``, ``cider``, ..."""
        return _by_name(one.scored for one in self.results)

    @property
    def human_scores(self) -> dict[str, float]:
        """As `scores`, of human captions.

        Without perplexity; and without scores that need references, if too few pictures have two.
        """
        return _by_name(one.human for one in self.results if one.human)

    @cached_property
    def intervals(self) -> dict[str, Interval]:
        """Ends of the 95 % interval by name of a score, if it has one: see `bootstrap_intervals`."""
        return _with_aliases(bootstrap_intervals(self.sums))

    @property
    def sums(self) -> list[Sums]:
        """Sums per picture of each metric that has them: intervals resample these."""
        return [one.scored.sums for one in self.results if one.scored.sums]

    @property
    def per_picture(self) -> dict[str, list[float]]:
        """Name to one value for each of `captions`, of metrics that score single pictures."""
        return {one.metric.name: one.scored.pictures for one in self.results if one.scored.pictures}

    @property
    def protocol(self) -> dict[str, str]:
        """Name of a metric to how it is computed, in words."""
        return {one.metric.name: one.metric.protocol for one in self.results}

    def rows(self) -> list[Row]:
        """The results for tables."""
        return [
            Row(
                one.metric.title,
                one.shown or _figures(one.scored),
                self._width(one.scored),
                _figures(one.human) if one.human and self.people else "",
                one.metric.protocol,
                one.metric.plain,
            )
            for one in self.results
        ]

    def headline(self) -> list[Row]:
        """Three scores at most, each one number, without intervals and protocols."""
        values, human = self.scores, self.human_scores
        of = {name: one.metric for one in self.results for name in one.scored.corpus}
        found = [next((name for name in group if name in of), "") for group in HEADLINE]
        return [
            Row(
                TITLES.get(name, of[name].title),
                figure(values[name]),
                "",
                figure(human[name]) if name in human and self.people else "",
                "",
                of[name].plain,
            )
            for name in found
            if name
        ]

    def _width(self, scored: Scored) -> str:
        ends = [self.intervals[name] for name in scored.corpus if name in self.intervals]
        return "± " + "  ".join(figure((high - low) / 2) for low, high in ends) if ends else ""

    def spread(self, *, count: int = 10) -> list[PictureCaption]:
        """`count` of the captions, evenly spaced."""
        return [self.captions[i] for i in evenly_spaced(self.n, count).tolist()]

    def to_json(self) -> dict[str, Any]:
        """The scores as an object for JSON; of a run also those that readers look for by name."""
        scores = self.scores
        content = {
            "split": self.split,
            "n": self.n,
            "bleu": [scores[f"bleu{n}"] for n in ORDERS if f"bleu{n}" in scores] or None,
            "seconds": self.seconds,
            "protocol": self.protocol,
            "captions": {caption.image: caption.caption for caption in self.captions},
            "scores": scores,
            "intervals": {name: list(ends) for name, ends in self.intervals.items()},
            "unscored": self.unscored,
            "people": {"scores": self.human_scores, "protocol": self.human_protocol},
        }
        if self.decoding:
            content["decoding"] = self.decoding
            content |= {name: scores.get(name) for name in ("unigram_bleu", *FORCED, "named")}
        return content

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


def figure(value: float, sign: str = "") -> str:
    """A score, or with "+" a difference, as tables show it: three decimals, a count without."""
    return f"{value:{sign}}" if isinstance(value, int) else f"{value:{sign}.3f}"


def _figures(scored: Scored) -> str:
    return "  ".join(map(figure, scored.corpus.values()))


def _by_name(found: Iterable[Scored]) -> dict[str, float]:
    """All values by name: metrics', second names, then those that need a model."""
    scores = {name: value for scored in found for name, value in scored.corpus.items()}
    forced = {name: scores.pop(name) for name in FORCED if name in scores}
    return _with_aliases(scores) | forced


def _with_aliases(found: dict[str, Value]) -> dict[str, Value]:
    return found | {alias: found[name] for alias, name in ALIASES.items() if name in found}


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
                figure(difference, "+"),
                " to ".join(figure(end, "+") for end in self.intervals.get(name, ())),
            )
            for name, difference in self.differences.items()
        ]

    def to_json(self) -> dict[str, Any]:
        """The other side's scores and the differences as an object for JSON."""
        ends = {name: list(interval) for name, interval in self.intervals.items()}
        return {"scores": self.theirs.scores, "differences": self.differences, "intervals": ends}


def compare(ours: Scores, theirs: Scores) -> Comparison:
    """Paired differences of all scores that both sides have, with bootstrap intervals.

    Both sides are resampled alike, so that what makes a picture easy for both cancels out:
    intervals of paired differences are narrower than those of two scores. If an interval excludes
    0, other pictures of this kind would most likely show a difference too.

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
        got = f"have {what} in split {ours.split!r}"
        cause = "if they were trained on different files, give one of them as `data`"
        raise DataError("compare", "the two sides", got, "the same pictures and references", cause)
    one, other = ours.scores, theirs.scores
    differences = {name: value - other[name] for name, value in one.items() if name in other}
    return Comparison(ours, theirs, differences, _with_aliases(paired(ours.sums, theirs.sums)))
