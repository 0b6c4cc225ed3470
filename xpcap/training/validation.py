"""How a model does on captions that people wrote: the figures that end an epoch, and the course's accuracy."""

from collections.abc import Callable
from typing import Any

from xpcap.backend import Array, to_numpy
from xpcap.data.dataset import CaptionData, spread
from xpcap.data.feed import Feed
from xpcap.distributed import SINGLE, Group
from xpcap.metrics import TeacherForced, teacher_forced
from xpcap.training.selection import CaptionScore

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

    def __call__(self, model: Any, between: Callable[[], None]) -> dict[str, float]:
        """The figures of `model`. `between` is called between batches; what it raises ends the evaluation."""
        figures = {"train_accuracy": self._scored(model, "train", ACCURACY_SAMPLE, between).accuracy}
        if "val" in self._data.splits:
            val = self._scored(model, "val", len(self._data.split("train").captions), between)
            figures |= {"val_loss": val.loss, "val_perplexity": val.perplexity, "val_accuracy": val.accuracy}
        if self._captions is not None:
            figures |= self._captions(model, between)
        return figures

    def warm_up(self, model: Any) -> None:
        """Do once what captioning does on a device."""
        if self._captions is not None:
            self._captions.warm_up(model)

    def _scored(self, model: Any, split: str, most: int, between: Callable[[], None]) -> TeacherForced:
        captions = spread(len(self._data.split(split).captions), most)
        return teacher_forced(model, self._feed, split, captions=captions, between=between, group=self._group)


def accuracy(model: Any, features: Array, captions: Array, most: int | None, batch_size: int) -> float:
    """Share of words guessed right, on at most `most` captions (N, T+1), spread evenly; None: on all."""
    rows = spread(len(captions), most or len(captions))
    chunks = [rows[start : start + batch_size] for start in range(0, len(rows), batch_size)]
    scores = [model.score(features[chunk], captions[chunk]) for chunk in chunks]
    return sum(int(to_numpy(score.correct)) for score in scores) / max(sum(score.tokens for score in scores), 1)
