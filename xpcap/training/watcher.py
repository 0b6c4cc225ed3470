"""Watcher: observers that training calls, such as checkpoints, printed lines and users' code."""

from collections.abc import Iterable
from typing import Any

from xpcap.errors import InvalidTypeError
from xpcap.progress import say


class Watcher:
    """Base class of observers of training; each method does nothing by default.

    Watchers are called in their order. An exception from one ends training; when it continues, the
    epoch is reported again. Each rank calls its watchers, which must make the same decisions.
    """

    def stage(self, options: Any) -> None:
        """A stage of `train_run` begins or continues.

        Parameters
        ----------
        options : Recipe
            The complete options of the stage.
        """

    def begin(self, solver: Any) -> None:
        """Training begins or, if ``solver.iteration`` is not 0, continues; called before a step.

        `train_run` also calls it for a finished run: ``solver.finished`` is then true.

        Parameters
        ----------
        solver : CaptioningSolver
        """

    def step(self, solver: Any) -> None:
        """A training step or a batch of validation is done; ``solver.state()`` may be called now.

        Parameters
        ----------
        solver : CaptioningSolver
        """

    def epoch(self, solver: Any) -> None:
        """An epoch is done and recorded; in `train_run` it is also saved.

        Parameters
        ----------
        solver : CaptioningSolver
        """


class EpochLines(Watcher):
    """Prints a line with the figures of each epoch, and the reason if training ends early."""

    def epoch(self, solver: Any) -> None:
        record = solver.history[-1]
        times = solver.times[-1]
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
    """The watchers of a function's argument. InvalidTypeError : it is no list of watchers."""
    listed = tuple(watchers) if isinstance(watchers, Iterable) else None
    if listed is None or not all(isinstance(watcher, Watcher) for watcher in listed):
        raise InvalidTypeError(
            f"`watchers` is {watchers!r:.100}, expected a list of Watcher objects"
        )
    return listed
