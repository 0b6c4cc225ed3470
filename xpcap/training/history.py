"""Records of the epochs of a training: which was the best, and whether it is time to stop."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from xpcap.backend import Array
from xpcap.models.parameters import Parameters

Record = dict[str, Any]


def best_of(history: Sequence[Record]) -> Record | None:
    """The record with the best captions of the val split by CIDEr-D, of equals the one with the lowest validation loss.

    Where captions are not scored, loss alone decides; without validation it is the latest record. The first of equals; None of no records.
    """
    figures = history[-1] if history else {}
    if "val_cider" in figures:
        return max(history, key=lambda record: (record["val_cider"], -record["val_loss"]))
    if "val_loss" in figures:
        return min(history, key=lambda record: record["val_loss"])
    return history[-1] if history else None


def with_start(start: Record | None, history: Sequence[Record]) -> list[Record]:
    """All records that the best is chosen from."""
    return [*([] if start is None else [start]), *history]


class EpochHistory:
    """The epochs done so far: a record and times for each, and the parameters of the best.

    Parameters
    ----------
    num_epochs : to be trained
    patience : the most epochs in a row without a better one; None: any number
    collapse : from the latest record to why training should stop there, or None

    Attributes
    ----------
    start : the record of the parameters that training starts from, as epoch 0, where they were scored; else None
    history : one dict an epoch: epoch, iteration, learning_rate, train_loss or train_reward, train_accuracy, with a val split val_loss,
        val_perplexity, val_accuracy, and where captions select the best, val_cider, val_distinct, val_length
    times : one dict an epoch: epoch, steps, train_seconds, check_seconds
    best_params : the parameters of the best record, in a buffer of their own; empty before the first
    """

    def __init__(self, num_epochs: int, patience: int | None, collapse: Callable[[Record], str | None]) -> None:
        self.num_epochs, self.patience, self._collapse = num_epochs, patience, collapse
        self._last_epoch = num_epochs
        self.start: Record | None = None
        self.history: list[Record] = []
        self.times: list[Record] = []
        self.best_params: Parameters | dict[str, Array] = {}

    @property
    def epoch(self) -> int:
        """Epochs done."""
        return len(self.history)

    @property
    def records(self) -> list[Record]:
        """The record of the start, where it was scored, and those of the epochs."""
        return with_start(self.start, self.history)

    @property
    def finished(self) -> bool:
        """Whether all epochs are done, patience has ended, or captions have collapsed."""
        impatient = self.patience is not None and self.epoch - self.best_epoch >= self.patience
        return self.epoch >= self._last_epoch or impatient or self.collapse is not None

    @property
    def collapse(self) -> str | None:
        """Why training ends after the latest epoch, before all are done; None: captions have not collapsed."""
        return self._collapse(self.history[-1]) if self.history else None

    @property
    def best_epoch(self) -> int:
        """Number of the best epoch, from 1; 0 before the first, and while none is better than the start."""
        return self._best.get("epoch", 0)

    @property
    def best_val_loss(self) -> float:
        """Validation loss of the best epoch; infinity if there is none."""
        return self._best.get("val_loss", float("inf"))

    @property
    def best_val_acc(self) -> float:
        """Validation accuracy of the best epoch; 0 if there is none."""
        return self._best.get("val_accuracy", 0.0)

    @property
    def train_acc_history(self) -> list[float]:
        """Share of training words guessed right after each epoch, on at most 1,000 captions."""
        return [record["train_accuracy"] for record in self.history]

    @property
    def val_acc_history(self) -> list[float]:
        """Share of validation words guessed right after each epoch; empty without a val split."""
        return [record["val_accuracy"] for record in self.history if "val_accuracy" in record]

    @property
    def _best(self) -> Mapping[str, Any]:
        return best_of(self.records) or {}

    def _begin_at(self, figures: Record, params: Parameters) -> None:
        """Take in what the parameters that training starts from score: they are the best until an epoch is better."""
        self.start, self.best_params = {"epoch": 0, "iteration": 0, **figures}, params.copy()

    def _add_epoch(self, record: Record, times: Record, params: Parameters) -> None:
        """Take in a finished epoch, and copy its parameters if it is the best so far."""
        if best_of([*self.records, record]) is record:
            self.best_params = params.copy()
        self.times.append(times)
        self.history.append(record)

    def _restore_epochs(self, start: Record | None, history: Sequence[Record], best_params: Parameters | None) -> None:
        """Start from the records of epochs done before, and the parameters of the best of them, if they are known."""
        self.start, self.history, self.times = start and dict(start), [dict(record) for record in history], []
        self.best_params = {} if best_params is None else best_params
        self._last_epoch = self.num_epochs
