"""Evaluation during training: teacher-forced scores, CIDEr-D of greedy captions, epoch figures."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain
from typing import NamedTuple

import numpy as np

from xpcap.backend import Array, to_numpy
from xpcap.backend.shape_specs import as_numbers
from xpcap.data.dataset import CaptionData, evenly_spaced
from xpcap.data.loader import BatchLoader
from xpcap.decoding.hypotheses import Hypotheses
from xpcap.distributed import SINGLE, Group
from xpcap.errors import InvalidValueError
from xpcap.metrics.cider import CiderD
from xpcap.models import CaptioningRNN, Policy
from xpcap.options import Whole
from xpcap.progress import bar
from xpcap.training.state import EPOCHS, EVERY, figures_with

# The epoch to keep has the lowest val loss, or the highest val CIDEr-D, or is the last
SELECT = ("loss", "cider", "last")
MEANING = "average number of equally likely next words, given human captions; the lower the better"
PROTOCOL = (
    "exp of the mean negative log-likelihood per target word, END included, captions uncut, words"
    " outside the vocabulary as UNK"
)
ACCURACY_SAMPLE = 1000  # limit of training captions that train_accuracy is measured on
MAX_VAL_PICTURES = 1000  # limit of val pictures that are captioned after an epoch
BATCH_PICTURES = 250  # pictures of a batch


# ---- Teacher-forced scores


class TeacherForced(NamedTuple):
    """Scores of reference captions, each word predicted from the words before it."""

    loss: float  # as in training: summed over time, mean over captions
    perplexity: float  # see PROTOCOL
    accuracy: float  # share of target words that were the likeliest
    n: int  # captions
    tokens: int  # target words, END included


def teacher_forced(
    model: CaptioningRNN,
    data: CaptionData | BatchLoader,
    split: str,
    *,
    captions: np.ndarray | None = None,
    batch_size: int = 256,
    between: Callable[[], None] | None = None,
    group: Group = SINGLE,
) -> TeacherForced:
    """Score the reference captions of a split by teacher forcing, without dropout.

    Sums stay on the model's device and are read once.

    captions : numbers of the captions to score (n,), int; None: all
    between : called after each batch; an exception from it ends the scoring
    group : ranks that share the captions; every rank returns the scores of all
    TypeError : the numbers are no integers. ValueError : a caption does not exist. OptionError :
        bad batch size.
    """
    count = len(data.split(split).captions)
    batch_size = Whole(1).check("`batch_size`", batch_size)
    chosen = np.arange(count)
    if captions is not None:
        chosen = as_numbers("captions", captions, count, "from another split?")
    nll, correct, tokens = 0.0, 0, 0  # nll and correct become arrays on the model's device
    shards = list(group.batches(len(chosen), batch_size))
    for batch in bar(shards, f"scoring {split}"):
        if len(numbers := chosen[batch]):
            score = model.score(*data.minibatch(split, numbers)[:2])
            nll = nll + score.nll
            correct = correct + score.correct
            tokens = tokens + score.tokens
        if between is not None:
            between()
    totals = np.array([to_numpy(nll), to_numpy(correct), tokens], np.float64)
    group.all_reduce(totals)
    total = float(totals[0])
    right = int(totals[1])
    tokens = int(totals[2])
    words = max(tokens, 1)
    n = len(chosen)
    perplexity = math.exp(min(total / words, 700.0))
    return TeacherForced(total / max(n, 1), perplexity, right / words, n, tokens)


def accuracy(
    model: CaptioningRNN, features: Array, captions: Array, limit: int | None, batch_size: int
) -> float:
    """Share of correct words in at most `limit` captions (N, T+1), spread evenly; None: all."""
    count = len(captions)
    if len(features) != count:
        raise InvalidValueError(f"X has {len(features)} rows, expected {count}, as y has")
    limit = Whole(1, optional=True).check("`num_samples`", limit)
    batch_size = Whole(1).check("`batch_size`", batch_size)
    rows = evenly_spaced(count, count if limit is None else limit)
    chunks = [rows[start : start + batch_size] for start in range(0, len(rows), batch_size)]
    scores = [model.score(features[chunk], captions[chunk]) for chunk in chunks]
    tokens = sum(score.tokens for score in scores)
    return sum(int(to_numpy(score.correct)) for score in scores) / max(tokens, 1)


# ---- Scores of greedy captions


class CaptionScore:
    """CIDEr-D of greedy captions of at most 1,000 pictures, spread evenly over the val split.

    Document frequencies come from the references of those pictures, so for a split of up to 1,000
    the score equals `evaluate`'s ``cider_d``. The ranks of `group` share the pictures.
    """

    def __init__(self, data: CaptionData, group: Group = SINGLE) -> None:
        self._data = data
        self._group = group
        references = data.reference_words("val")
        self._pictures = np.array(list(references))[
            evenly_spaced(len(references), MAX_VAL_PICTURES)
        ]
        self._score = CiderD([references[picture] for picture in self._pictures.tolist()])
        self._forbid = data.vocabulary.null, data.vocabulary.start, data.vocabulary.unk

    def __call__(self, model: CaptioningRNN, between: Callable[[], None]) -> dict[str, float]:
        """CIDEr-D, share of distinct captions, mean length. Calls `between` after each batch."""
        words = self._data.vocabulary
        shard = []
        for batch in self._group.batches(len(self._pictures), BATCH_PICTURES):
            if len(pictures := self._pictures[batch]):
                features = self._data.features("val", pictures)
                ids = model.sample(features, self._data.max_words, forbid=self._forbid)
                shard += [words.words(caption) for caption in ids]
            between()
        captions = list(chain.from_iterable(self._group.gather(shard)))
        n = len(captions)
        return {
            "val_cider": float(self._score.scores(captions).mean()),
            "val_distinct": len({tuple(words) for words in captions}) / n,
            "val_length": sum(map(len, captions)) / n,
        }

    def warm_up(self, model: CaptioningRNN) -> None:
        """Caption a batch for three words, so that a device also drops finished captions once."""
        policy = _HalfStop(max_length=3, forbid=self._forbid)
        model.sample(self._data.features("val", self._pictures[:BATCH_PICTURES]), policy=policy)


@dataclass(frozen=True, kw_only=True)
class _HalfStop(Policy):
    """Greedy decoding in which every other caption leaves the batch after its first word."""

    def finished(self, hypotheses: Hypotheses) -> np.ndarray:
        ended = hypotheses.ended
        return ended | ((hypotheses.lengths > 0) & (np.arange(len(ended)) % 2 == 1))


# ---- The end of an epoch


class EpochEvaluator:
    """Evaluates a model at the end of an epoch.

    It measures training accuracy; with a val split also its loss, perplexity and accuracy; and
    CIDEr-D unless `select` is "loss". Validation uses at most as many captions as the train split
    has, spread evenly, so that it stays a small part of an epoch.

    loader : loader of `data`
    select : a name in SELECT
    group : ranks that share the captions and pictures
    """

    def __init__(
        self, data: CaptionData, loader: BatchLoader, select: str, group: Group = SINGLE
    ) -> None:
        self._data = data
        self._loader = loader
        self._group = group
        scored = select != "loss" and "val" in data.splits
        self._captions = CaptionScore(data, group) if scored else None

    def __call__(self, model: CaptioningRNN, between: Callable[[], None]) -> dict[str, float]:
        """Figures of `model`. `between` is called after each batch; an exception ends it."""
        accuracy = self._scored(model, "train", ACCURACY_SAMPLE, between).accuracy
        figures = {"train_accuracy": accuracy}
        if "val" in self._data.splits:
            val = self.validation(model, between)
            figures |= {"val_loss": val.loss, "val_perplexity": val.perplexity}
            figures["val_accuracy"] = val.accuracy
        if self._captions is not None:
            figures |= self._captions(model, between)
        return figures

    @property
    def names(self) -> set[str]:
        """Names of the figures in an epoch's record, without those of the objective."""
        validated = "val" in self._data.splits
        captioned = self._captions is not None
        return figures_with(EVERY, EPOCHS, "val_loss" * validated, "val_cider" * captioned)

    def validation(self, model: CaptioningRNN, between: Callable[[], None]) -> TeacherForced:
        """Teacher-forced scores of the val split."""
        return self._scored(model, "val", len(self._data.split("train").captions), between)

    def warm_up(self, model: CaptioningRNN) -> None:
        """Run captioning once on a device, which compiles its kernels."""
        if self._captions is not None:
            self._captions.warm_up(model)

    def _scored(
        self, model: CaptioningRNN, split: str, limit: int, between: Callable[[], None]
    ) -> TeacherForced:
        captions = evenly_spaced(len(self._data.split(split).captions), limit)
        return teacher_forced(
            model, self._loader, split, captions=captions, between=between, group=self._group
        )
