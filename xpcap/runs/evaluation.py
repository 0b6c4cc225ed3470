"""Scores of a run on a split: its captions by every metric, and what it makes of the references."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from xpcap.data import CaptionData
from xpcap.data.dataset import spread
from xpcap.data.pictures import metrics_of
from xpcap.data.vocabulary import SPECIAL, Vocabulary
from xpcap.metrics import METRICS, Metric, Scored, TeacherForced, teacher_forced
from xpcap.metrics.bleu import ORDERS
from xpcap.metrics.teacher_forced import PROTOCOL
from xpcap.runs.captioning import PictureCaption, caption_chosen, captioned, data_of
from xpcap.runs.folder import Run


class Result(NamedTuple):
    """One metric and what it says."""

    metric: Metric
    scored: Scored


@dataclass(frozen=True)
class Evaluation:
    """Scores of a run on a split, with the captions they are of.

    Parameters
    ----------
    split : its name
    captions : one a picture, in the order of the pictures
    results : one a metric
    forced : teacher-forced scores of the references
    seconds : taken
    """

    split: str
    captions: list[PictureCaption]
    results: list[Result]
    forced: TeacherForced
    seconds: float

    @property
    def n(self) -> int:
        """The number of pictures."""
        return len(self.captions)

    @property
    def scores(self) -> dict[str, float]:
        """Name to value: ``bleu1`` to ``bleu4``, ``unigram_bleu``, what the data adds, ``perplexity``, ``loss``, ``accuracy``."""
        of_captions = {name: value for result in self.results for name, value in result.scored.corpus.items()}
        return {**of_captions, "perplexity": self.forced.perplexity, "loss": self.forced.loss, "accuracy": self.forced.accuracy}

    @property
    def per_picture(self) -> dict[str, list[float]]:
        """Name of a metric to one value for each of `captions`."""
        return {metric.name: scored.pictures for metric, scored in self.results}

    @property
    def protocol(self) -> dict[str, str]:
        """Name of a metric to how it is computed, in words."""
        return {**{metric.name: metric.protocol for metric, _ in self.results}, "perplexity": PROTOCOL}

    def rows(self) -> list[tuple[str, str, str]]:
        """(title, value, protocol) of each score, as tables show them."""
        rows = [(metric.title, _figures(list(scored.corpus.values())), metric.protocol) for metric, scored in self.results]
        return [*rows, ("perplexity", f"{self.forced.perplexity:.2f}", PROTOCOL)]

    def spread(self, count: int = 10) -> list[PictureCaption]:
        """`count` of the captions, spread evenly."""
        return [self.captions[i] for i in spread(self.n, count).tolist()]

    def to_json(self) -> dict[str, Any]:
        """All of it as one object for JSON. Scores that only generated pictures have are None for other data."""
        scores = self.scores
        return {
            "split": self.split,
            "n": self.n,
            "bleu": [scores[f"bleu{n}"] for n in ORDERS],
            **{name: scores[name] for name in ("unigram_bleu", "perplexity", "loss", "accuracy")},
            "seconds": self.seconds,
            "protocol": self.protocol,
            "captions": {caption.image: caption.caption for caption in self.captions},
            "named": scores.get("named"),
            "best_bleu": [scores[f"best_bleu{n}"] for n in ORDERS] if "best_bleu1" in scores else None,
            "scores": scores,
        }


def _figures(scores: Sequence[float]) -> str:
    return "  ".join(f"{score:.3f}" for score in scores)


def evaluate_run(run: Run, data: CaptionData | str | Path | None = None, split: str = "val", progress: bool = False) -> Evaluation:
    """Score a run on a split: greedy captions against all references, and the likelihood it gives the references.

    Parameters
    ----------
    data : as in `data_of`: an open data set, a path, or None for the run's own

    Raises
    ------
    DataError : the data set, or the split, is not there or does not fit the run.
    """
    start = time.perf_counter()
    seen = data_of(run, data)
    words = seen.words(split)
    forced = teacher_forced(run.model, seen.encoded_with(run.vocabulary, split, words), split, progress=progress)
    captions = caption_chosen(run, seen, split, captioned(seen, split), progress)
    written = list(seen.reference_words(split, words).values())
    results = _score(_metrics(seen, split), written, run.vocabulary, [caption.caption.split() for caption in captions])
    return Evaluation(split, captions, results, forced, time.perf_counter() - start)


def _metrics(data: CaptionData, split: str) -> list[Metric]:
    """METRICS, and those that the data set brings, right below the first, BLEU, which they are there to compare with."""
    first, *others = METRICS
    return [first, *metrics_of(data, split), *others]


def _score(metrics: Sequence[Metric], written: list[list[list[str]]], vocabulary: Vocabulary, said: list[list[str]]) -> list[Result]:
    known = set(vocabulary.idx_to_word) - set(SPECIAL)
    in_vocabulary = [[[word for word in caption if word in known] for caption in captions] for captions in written]
    return [Result(metric, metric.score(in_vocabulary if metric.known_only else written, said)) for metric in metrics]
