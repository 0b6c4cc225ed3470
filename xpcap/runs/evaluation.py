"""Scores of a run on a split: its captions by every metric, and what it makes of the references."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xpcap.data import CaptionData
from xpcap.groups import ALONE, Group
from xpcap.metrics import METRICS, Metric, TeacherForced, teacher_forced
from xpcap.metrics.teacher_forced import PLAIN, PROTOCOL
from xpcap.models import Policy
from xpcap.runs.captioning import caption_chosen, captioned, data_of
from xpcap.runs.folder import Run
from xpcap.runs.scoring import Scores, score_words, words_of


@dataclass(frozen=True)
class Evaluation(Scores):
    """Scores of a run on a split, with the captions they are of.

    Parameters
    ----------
    forced : teacher-forced scores of the references
    decoding : how the words were chosen, in words
    """

    forced: TeacherForced
    decoding: str

    @property
    def scores(self) -> dict[str, float]:
        """As `Scores.scores`, and ``perplexity``, ``loss``, ``accuracy``."""
        return {**super().scores, "perplexity": self.forced.perplexity, "loss": self.forced.loss, "accuracy": self.forced.accuracy}

    @property
    def protocol(self) -> dict[str, str]:
        """As `Scores.protocol`, with perplexity."""
        return {**super().protocol, "perplexity": PROTOCOL}

    @property
    def plain(self) -> dict[str, str]:
        """As `Scores.plain`, with perplexity."""
        return {**super().plain, "perplexity": PLAIN}

    @property
    def made(self) -> str:
        """As `Scores.made`, with how the words were chosen."""
        return f"{super().made}, {self.decoding}"

    def rows(self) -> list[tuple[str, str, str, str]]:
        """As `Scores.rows`, with perplexity."""
        return [*super().rows(), ("perplexity", f"{self.forced.perplexity:.2f}", "", PROTOCOL)]

    def to_json(self) -> dict[str, Any]:
        """All of it as one object for JSON. Scores that only generated pictures have are None for other data."""
        scores = self.scores
        return {
            **super().to_json(),
            "decoding": self.decoding,
            **{name: scores.get(name) for name in ("unigram_bleu", "perplexity", "loss", "accuracy")},
            "named": scores.get("named"),
        }


def evaluate_run(
    run: Run, data: CaptionData | str | Path | None = None, split: str = "val", *, progress: bool = False, java: bool = False,
    policy: Policy | None = None, group: Group = ALONE, metrics: Sequence[Metric] = METRICS,
) -> Evaluation:  # fmt: skip
    """Score a run on a split: its captions against all references, and the likelihood it gives the references.

    Parameters
    ----------
    data : as in `data_of`: an open data set, a path, or None for the run's own
    java : METEOR and SPICE too, if they can be computed here
    policy : chooses the words, as in `caption_features`. None: greedy
    group : ranks that share the pictures out; each returns the same, but for what `java` adds on rank 0 alone
    metrics : objects that score captions against references, such as (*xpcap.metrics.METRICS, Mine()); see xpcap.metrics.Metric. What the data
        adds, and teacher-forced scores, come besides

    Raises
    ------
    DataError : the data set, or the split, is not there or does not fit the run. TypeError, ValueError : something in `metrics` is no metric, or has
        the name of another.
    """
    start = time.perf_counter()
    seen = data_of(run, data)
    words = seen.words(split)
    forced = teacher_forced(run.model, seen.encoded_with(run.vocabulary, split, words), split, progress=progress, group=group)
    captions = caption_chosen(run, seen, split, captioned(seen, split), progress=progress, policy=policy, group=group)
    same = seen.split(split).text is None or run.vocabulary.tokeniser == seen.vocabulary.tokeniser
    said = [caption.words if same else seen.vocabulary.tokenize(caption.caption) for caption in captions]
    results, unscored = score_words(seen, split, words, run.vocabulary, said, java and group.rank == 0, metrics)
    decoding = (policy or Policy()).title + (f", probabilities averaged over {len(run.paths)} models" if run.others else "")
    seconds = time.perf_counter() - start
    return Evaluation(split, captions, results, seconds, forced, decoding, unscored=unscored, words=words_of(seen, split))
