"""Scores of captions, whoever made them: by every metric, with intervals and protocols, for a split or picture by picture."""

import csv
import io
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from xpcap.data import CaptionData
from xpcap.data.dataset import spread
from xpcap.data.tokens import TOKENISERS, UNICODE
from xpcap.data.vocabulary import SPECIAL, Vocabulary
from xpcap.errors import DataError
from xpcap.files import write_text
from xpcap.metrics import ALIASES, METRICS, Bleu, Interval, Metric, Novel, Scored, intervals
from xpcap.metrics.bleu import ORDERS
from xpcap.metrics.java import JavaError, java_metrics
from xpcap.runs.captioning import PictureCaption, captioned
from xpcap.shapes import metrics_of

TAKEN = {*ALIASES, "perplexity", "loss", "accuracy"}  # names of scores that no metric gives


class Result(NamedTuple):
    """One metric and what it says."""

    metric: Metric
    scored: Scored


@dataclass(frozen=True)
class Scores:
    """Scores of captions, one a picture.

    Parameters
    ----------
    split : its name
    captions : one a picture, in the order of the pictures
    results : one a metric
    unscored : name of each metric that could not be computed here to the reason; only of those that were asked for
    seconds : taken
    words : how captions and references were made into words
    """

    split: str
    captions: list[PictureCaption]
    results: list[Result]
    seconds: float
    unscored: dict[str, str] = field(default_factory=dict, kw_only=True)
    words: str = field(default=TOKENISERS[UNICODE], kw_only=True)

    @property
    def n(self) -> int:
        """The number of pictures."""
        return len(self.captions)

    @property
    def made(self) -> str:
        """What was scored and how long that took, in a line."""
        return f"{self.split}: {self.n} pictures, {self.seconds:.1f} s"

    @property
    def scores(self) -> dict[str, float]:
        """Name to value: ``bleu1`` to ``bleu4``, ``unigram_bleu``, ``rouge_l``, ``cider`` and so on, and what the data adds."""
        scores = {name: value for result in self.results for name, value in result.scored.corpus.items()}
        return scores | {alias: scores[name] for alias, name in ALIASES.items() if name in scores}

    @cached_property
    def intervals(self) -> dict[str, Interval]:
        """Name to the ends of the score's 95 % interval: see `metrics.bootstrap`. Scores that count different things have none."""
        found = intervals([result.scored.sums for result in self.results if result.scored.sums])
        return found | {alias: found[name] for alias, name in ALIASES.items() if name in found}

    @property
    def per_picture(self) -> dict[str, list[float]]:
        """Name of a metric to one value for each of `captions`, for metrics that say something of a single picture."""
        return {metric.name: scored.pictures for metric, scored in self.results if scored.pictures}

    @property
    def protocol(self) -> dict[str, str]:
        """Name of a metric to how it is computed, in words; that of BLEU says how text was made into words."""
        return {metric.name: f"{metric.protocol}, {self.words}" if metric.name == Bleu.name else metric.protocol for metric, _ in self.results}

    @property
    def plain(self) -> dict[str, str]:
        """Title of a score to what it says, for people who know no metric."""
        return {metric.title: metric.plain for metric, _ in self.results}

    def rows(self) -> list[tuple[str, str, str, str]]:
        """(title, value, half the width of its interval or an empty string, protocol) of each score, as tables show them."""
        return [
            (metric.title, "  ".join(map(figure, scored.corpus.values())), self._widths(scored.corpus), self.protocol[metric.name])
            for metric, scored in self.results
        ]

    def _widths(self, names: Mapping[str, float]) -> str:
        ends = [self.intervals[name] for name in names if name in self.intervals]
        return "± " + "  ".join(figure((high - low) / 2) for low, high in ends) if ends else ""

    def spread(self, *, count: int = 10) -> list[PictureCaption]:
        """`count` of the captions, spread evenly."""
        return [self.captions[i] for i in spread(self.n, count).tolist()]

    def to_json(self) -> dict[str, Any]:
        """All of it as one object for JSON."""
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
        }

    def write_csv(self, path: str | Path) -> None:
        """Write a table with one row a picture: ``image``, ``caption``, and every score that a picture has. OSError : it cannot be written."""
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


def score_captions(
    data: CaptionData, split: str, captions: Mapping[str, str], *, java: bool = False, metrics: Sequence[Metric] = METRICS
) -> Scores:  # fmt: skip
    """Score captions that anything made of the pictures of a split, by the words that the split's own captions are made of: see `CaptionData.words`.

    Parameters
    ----------
    captions : name of a picture to its caption; one for each picture of the split that has references
    java : METEOR and SPICE too, if they can be computed here
    metrics : as in `evaluate_run`

    Raises
    ------
    DataError : the split is not there, or a picture has no caption.
    """
    start = time.perf_counter()
    chosen = data.split(split)
    names = [chosen.images[i] for i in captioned(data, split).tolist()]
    if missing := [name for name in names if name not in captions]:
        raise DataError(
            f"score_captions: {len(missing):,} of the {len(names):,} pictures of split {split!r} have no caption, {missing[0][:100]!r} among them, "
            "expected one of each; are the captions of another split?"
        )
    said = [captions[name].split() if chosen.text is None else data.vocabulary.tokenize(captions[name]) for name in names]
    of_each = zip(names, data.references(split).values(), said, strict=True)
    shown = [PictureCaption(name, captions[name], [], references, words=words) for name, references, words in of_each]
    results, unscored = score_words(data, split, data.words(split), data.vocabulary, said, java, metrics)
    return Scores(split, shown, results, time.perf_counter() - start, unscored=unscored, words=words_of(data, split))


def words_of(data: CaptionData, split: str) -> str:
    """The sentence of a protocol about how the captions of a split are made into words."""
    return "words as the data set has them" if data.split(split).text is None else TOKENISERS[data.vocabulary.tokeniser]


def score_words(
    data: CaptionData,
    split: str,
    words: Sequence[list[str]],
    vocabulary: Vocabulary,
    said: Sequence[Sequence[str]],
    java: bool,
    metrics: Sequence[Metric],
) -> tuple[list[Result], dict[str, str]]:
    """What each metric says of one caption a picture, and why some say nothing.

    Parameters
    ----------
    words : the split's captions, the references, as `CaptionData.words` gives them
    vocabulary : of the captioner, for metrics that score only words it knows
    said : the words of the captions, in the order of the pictures that have references
    metrics : those to ask besides what the data and `java` add

    Raises
    ------
    TypeError, ValueError : something among them is no Metric, returns something else than a Scored of these pictures, or has the name of another.
    """
    written = list(data.reference_words(split, words).values())
    known = set(vocabulary.idx_to_word) - set(SPECIAL)
    in_vocabulary = [[[word for word in caption if word in known] for caption in captions] for captions in written]
    results: list[Result] = []
    usable, unscored = java_metrics() if java else ([], {})
    for metric in (*_metrics(data, split, metrics), *usable):
        try:
            scored = metric.score(in_vocabulary if metric.known_only else written, said)
        except JavaError as error:
            unscored[metric.name] = str(error)
            continue
        results.append(_result(metric, scored, results, len(said)))
    return results, unscored


def _metrics(data: CaptionData, split: str, metrics: Sequence[Metric]) -> list[Metric]:
    """`metrics`; those that generated pictures bring, right below BLEU, which they are there to compare with; and what the train split allows."""
    for metric in metrics:
        if lacking := [name for name in ("name", "title", "protocol", "known_only", "score") if not hasattr(metric, name)]:
            what = f"the class {metric.__name__}" if isinstance(metric, type) else f"a {type(metric).__name__}"
            raise TypeError(f"metrics: {what} lacks {', '.join(lacking)}, expected a metric: see xpcap.metrics.Metric")
        if isinstance(metric, type):
            raise TypeError(f"metrics: got the class {metric.__name__}, expected an object: {metric.__name__}()")
    below = 1 + next((k for k, metric in enumerate(metrics) if metric.name == Bleu.name), -1)
    novel = [Novel(lambda: _train_captions(data))] if "train" in data.splits else []
    return [*metrics[:below], *metrics_of(data), *metrics[below:], *novel]


def _result(metric: Metric, scored: Any, others: Sequence[Result], n: int) -> Result:
    """What a metric returned, in Python's own numbers. TypeError, ValueError : no Scored of n pictures, or a name that is taken."""
    if not isinstance(scored, Scored):
        raise TypeError(f"{type(metric).__name__}.score returned a {type(scored).__name__}, expected a Scored; `averaged` in xpcap.metrics makes one")
    if len(scored.pictures) not in (0, n):
        raise ValueError(f"{type(metric).__name__}.score returned {len(scored.pictures)} values, expected one for each of {n} pictures, or none")
    taken = {name for other in others for name in (other.metric.name, *other.scored.corpus)} | TAKEN
    if twice := sorted(taken & {metric.name, *scored.corpus}):
        raise ValueError(f"metrics: the name {twice[0]!r} of {type(metric).__name__} is taken, expected one of its own; is a metric given twice?")
    corpus = {name: value.item() if isinstance(value, np.generic | np.ndarray) else value for name, value in scored.corpus.items()}
    return Result(metric, scored._replace(corpus=corpus, pictures=np.asarray(scored.pictures).tolist()))


def _train_captions(data: CaptionData) -> Iterator[list[str]]:
    """Captions of the train split as the file encodes them, ``<UNK>`` included; tokenising them anew would take longer than all other scores."""
    words, silent = data.vocabulary.idx_to_word, {data.vocabulary.null, data.vocabulary.start, data.vocabulary.end}
    return ([words[i] for i in row if i not in silent] for row in map(np.ndarray.tolist, data.split("train").captions))
