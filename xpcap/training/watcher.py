"""Watcher: what training tells while it goes on, to checkpoints, printed lines and code of users."""

from collections.abc import Iterable
from typing import Any

from xpcap.errors import InvalidTypeError
from xpcap.progress import say


class Watcher:
    """Base class of observers of training; each method does nothing by default.

    Watchers are told in their order. An exception from one ends training; training that continues
    tells the epoch again. Of several ranks each tells its own watchers, which have to decide alike.
    """

    def stage(self, options: Any) -> None:
        """A stage of `train_run` begins or continues.

        Parameters
        ----------
        options : Recipe
            Complete.
        """

    def begin(self, solver: Any) -> None:
        """Training begins, or continues where ``solver.iteration`` is not 0; before its first step.

        `train_run` tells it of a finished run too: ``solver.finished`` is then true.

        Parameters
        ----------
        solver : CaptioningSolver
        """

    def step(self, solver: Any) -> None:
        """A step is done, or a batch of a validation: a moment when ``solver.state()`` may be called.

        Parameters
        ----------
        solver : CaptioningSolver
        """

    def epoch(self, solver: Any) -> None:
        """An epoch is done, recorded, and by `train_run` saved.

        Parameters
        ----------
        solver : CaptioningSolver
        """


class EpochLines(Watcher):
    """Prints the figures of each epoch in a line, and why training ends before its last."""

    def epoch(self, solver: Any) -> None:
        record, times = solver.history[-1], solver.times[-1]
        self_critical = "train_reward" in record
        line = f"epoch {record['epoch']:2}  "
        if self_critical:
            line += f"train reward {record['train_reward']:.3f}"
        else:
            line += f"train loss {record['train_loss']:6.2f}"
        if "val_loss" in record:
            line += (
                f"  val loss {record['val_loss']:6.2f}  perplexity {record['val_perplexity']:6.2f}"
            )
        if "val_cider" in record:
            line += f"  CIDEr {record['val_cider']:.3f}"
        if self_critical and "val_distinct" in record:
            line += f"  distinct {record['val_distinct']:.0%}  words {record['val_length']:.1f}"
        say(f"{line}  {times['train_seconds'] + times['check_seconds']:5.1f} s")
        if solver.ending is not None:
            say(f"training ends: {solver.ending}")


def checked_watchers(function: str, watchers: Iterable[Watcher]) -> tuple[Watcher, ...]:
    """The watchers given to a function. Raise InvalidTypeError unless they are a list of them."""
    listed = tuple(watchers) if isinstance(watchers, Iterable) else None
    if listed is None or not all(isinstance(watcher, Watcher) for watcher in listed):
        got, expected = f"is {watchers!r:.100}", "a list of Watcher objects"
        raise InvalidTypeError(function, "`watchers`", got, expected)
    return listed
