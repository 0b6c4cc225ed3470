"""How a model does on captions that people wrote: the figures that end an epoch, and the course's accuracy."""

from collections.abc import Callable
from typing import Any

from xpcap.backend import Array, to_numpy
from xpcap.data.dataset import CaptionData, spread
from xpcap.data.feed import Feed
from xpcap.metrics import TeacherForced, teacher_forced

ACCURACY_SAMPLE = 1000  # training captions, at most, that train_accuracy is measured on


def evaluate(model: Any, data: CaptionData, feed: Feed, between: Callable[[], None]) -> dict[str, float]:
    """Accuracy on training captions, and with a val split loss, perplexity and accuracy there.

    Validation takes no more captions than there are to train on, spread evenly over the split, so that it stays a small part of an epoch.

    Parameters
    ----------
    feed : of `data`
    between : called between batches; what it raises ends the evaluation
    """

    def scored(split: str, most: int) -> TeacherForced:
        return teacher_forced(model, feed, split, spread(len(data.split(split).captions), most), between=between)

    figures = {"train_accuracy": scored("train", ACCURACY_SAMPLE).accuracy}
    if "val" in data.splits:
        val = scored("val", len(data.split("train").captions))
        figures |= {"val_loss": val.loss, "val_perplexity": val.perplexity, "val_accuracy": val.accuracy}
    return figures


def accuracy(model: Any, features: Array, captions: Array, most: int | None, batch_size: int) -> float:
    """Share of words guessed right, on at most `most` captions (N, T+1), spread evenly; None: on all."""
    rows = spread(len(captions), most or len(captions))
    chunks = [rows[start : start + batch_size] for start in range(0, len(rows), batch_size)]
    scores = [model.score(features[chunk], captions[chunk]) for chunk in chunks]
    return sum(int(to_numpy(score.correct)) for score in scores) / max(sum(score.tokens for score in scores), 1)
