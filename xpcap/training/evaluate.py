"""Evaluation while training: teacher-forced loss, perplexity and accuracy, CIDEr-D of greedy captions, and the figures that end an epoch."""

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from xpcap.backend import Array, to_numpy
from xpcap.data.dataset import CaptionData, evenly_spaced
from xpcap.data.feed import Feed
from xpcap.distributed import SINGLE, Group, batches
from xpcap.metrics.cider import CiderD
from xpcap.models import Policy
from xpcap.models.captioner import Captioner
from xpcap.models.transcript import Transcript
from xpcap.progress import bar

PLAIN = "as unsure as a choice among so many words, at each word that people wrote; the fewer the better"
PROTOCOL = "exp of the mean negative log-likelihood per target word, END included, captions uncut, words outside the vocabulary as UNK"


class TeacherForced(NamedTuple):
    """Scores of given captions."""

    loss: float  # as in training: summed over time, mean over captions
    perplexity: float  # see PROTOCOL
    accuracy: float  # share of target words that had the highest score
    n: int  # captions
    tokens: int  # target words, END included


def teacher_forced(
    model: Captioner,
    data: CaptionData | Feed,
    split: str,
    *,
    captions: np.ndarray | None = None,
    batch_size: int = 256,
    progress: bool = False,
    between: Callable[[], None] | None = None,
    group: Group = SINGLE,
) -> TeacherForced:
    """Score captions of a split, without dropout. Totals gather on the model's device and are read once.

    Parameters
    ----------
    captions : numbers of the captions to score (n,), int; None: all
    between : called after each batch; what it raises ends the scoring
    group : shares the captions out; every rank gets the scores of all
    """
    chosen = np.arange(len(data.split(split).captions)) if captions is None else captions
    nll, correct, tokens = 0.0, 0, 0  # the first two become arrays of the model's device
    for batch in bar(list(batches(group, len(chosen), batch_size)), progress, f"scoring {split}"):
        if len(numbers := chosen[batch]):
            score = model.score(*data.minibatch(split, numbers)[:2])
            nll, correct, tokens = nll + score.nll, correct + score.correct, tokens + score.tokens
        if between is not None:
            between()
    totals = np.array([to_numpy(nll), to_numpy(correct), tokens], np.float64)
    group.all_reduce(totals)
    total, right, tokens = float(totals[0]), int(totals[1]), int(totals[2])
    words = max(tokens, 1)
    return TeacherForced(total / max(len(chosen), 1), math.exp(min(total / words, 700.0)), right / words, len(chosen), tokens)


# Model selection


SELECT = ("loss", "cider")
MOST = 1000  # pictures, at most, that are captioned after an epoch
AT_ONCE = 250


@dataclass(frozen=True, kw_only=True)
class _HalfStop(Policy):
    """Greedy decoding in which every other caption leaves the batch after its first word, as captions do that end."""

    def finished(self, transcript: Transcript) -> np.ndarray:
        ended = transcript.ended
        return ended | ((transcript.lengths > 0) & (np.arange(len(ended)) % 2 == 1))


class CaptionScore:
    """CIDEr-D of a model's greedy captions of the val split, for at most 1,000 pictures, spread evenly over it.

    How common an n-gram is, is told from the captions of those pictures: for a split of up to 1,000 the score is `evaluate`'s ``cider_d``.
    The ranks of `group` share the pictures out.
    """

    def __init__(self, data: CaptionData, group: Group = SINGLE) -> None:
        self._data, self._group = data, group
        written = data.reference_words("val")
        self._pictures = np.array(list(written))[evenly_spaced(len(written), MOST)]
        self._score = CiderD([written[picture] for picture in self._pictures.tolist()])
        self._forbid = data.vocabulary.null, data.vocabulary.start, data.vocabulary.unk

    def __call__(self, model: Captioner, between: Callable[[], None]) -> dict[str, float]:
        """Of a model's captions now the score, the share that differs, and the mean of their words.

        `between` is called between batches; what it raises ends the scoring.
        """
        words, mine = self._data.vocabulary, []
        for batch in batches(self._group, len(self._pictures), AT_ONCE):
            if len(pictures := self._pictures[batch]):
                ids = model.sample(self._data.features("val", pictures), self._data.max_words, forbid=self._forbid)
                mine += [words.words(caption) for caption in ids]
            between()
        said = [caption for share in self._group.all_gather(json.dumps(mine)) for caption in json.loads(share)]
        n = len(said)
        return {
            "val_cider": float(self._score.scores(said).mean()),
            "val_distinct": len({tuple(words) for words in said}) / n,
            "val_length": sum(map(len, said)) / n,
        }

    def warm_up(self, model: Captioner) -> None:
        """Caption a batch for three words, the fewest after which one that has ended leaves the batch on a device, which reads a step late."""
        model.sample(self._data.features("val", self._pictures[:AT_ONCE]), policy=_HalfStop(max_length=3, forbid=self._forbid))


# The end of an epoch


ACCURACY_SAMPLE = 1000  # training captions, at most, that train_accuracy is measured on


class Judge:
    """Accuracy on training captions, and with a val split loss, perplexity and accuracy there, and the score of captions if that selects the best.

    Validation takes no more captions than there are to train on, spread evenly over the split, so that it stays a small part of an epoch.

    Parameters
    ----------
    feed : of `data`
    select : a name in SELECT
    group : shares the captions and pictures out
    """

    def __init__(self, data: CaptionData, feed: Feed, select: str, group: Group = SINGLE) -> None:
        self._data, self._feed, self._group = data, feed, group
        self._captions = CaptionScore(data, group) if select == "cider" and "val" in data.splits else None

    def __call__(self, model: Captioner, between: Callable[[], None]) -> dict[str, float]:
        """The figures of `model`. `between` is called between batches; what it raises ends the evaluation."""
        figures = {"train_accuracy": self._scored(model, "train", ACCURACY_SAMPLE, between).accuracy}
        if "val" in self._data.splits:
            val = self._scored(model, "val", len(self._data.split("train").captions), between)
            figures |= {"val_loss": val.loss, "val_perplexity": val.perplexity, "val_accuracy": val.accuracy}
        if self._captions is not None:
            figures |= self._captions(model, between)
        return figures

    def warm_up(self, model: Captioner) -> None:
        """Do once what captioning does on a device."""
        if self._captions is not None:
            self._captions.warm_up(model)

    def _scored(self, model: Captioner, split: str, most: int, between: Callable[[], None]) -> TeacherForced:
        captions = evenly_spaced(len(self._data.split(split).captions), most)
        return teacher_forced(model, self._feed, split, captions=captions, between=between, group=self._group)


def accuracy(model: Captioner, features: Array, captions: Array, most: int | None, batch_size: int) -> float:
    """Share of words guessed right, on at most `most` captions (N, T+1), spread evenly; None: on all."""
    rows = evenly_spaced(len(captions), most or len(captions))
    chunks = [rows[start : start + batch_size] for start in range(0, len(rows), batch_size)]
    scores = [model.score(features[chunk], captions[chunk]) for chunk in chunks]
    return sum(int(to_numpy(score.correct)) for score in scores) / max(sum(score.tokens for score in scores), 1)
