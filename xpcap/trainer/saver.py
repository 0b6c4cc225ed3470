"""Saving during training: stopping on signals, the files of the run folder, and checkpoints."""

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import FrameType

import numpy as np

from xpcap.captioning.pages import write_progress_page
from xpcap.data import CaptionData
from xpcap.data.hdf5 import write_fingerprinted
from xpcap.distributed.work import current, notice
from xpcap.drawings import GENERATOR, write_pictures
from xpcap.errors import DataError, SaveError
from xpcap.files.read_write import write_advice
from xpcap.models import ModelConfig
from xpcap.progress import Pace
from xpcap.runs.config import Config
from xpcap.runs.folder import (
    BEST,
    DATA,
    HISTORY,
    LAST,
    PICTURES,
    TIMES,
    VOCAB,
    check_parameters,
    digest,
    load_parameters,
    read_times,
    save_parameters,
    save_state,
    write_lines,
    write_vocabulary,
)
from xpcap.runs.recipe import SaveInterval
from xpcap.trainer.plan import Plan
from xpcap.training.solver import CaptioningSolver
from xpcap.training.state import Record, TrainingState, best_of
from xpcap.training.watcher import Watcher

PAGE_SECONDS = 60  # between two updates of the page during training
# A terminal that is closed sends SIGHUP, which Windows lacks
STOP_SIGNALS = [
    signum for name in ("SIGINT", "SIGTERM", "SIGHUP") if (signum := getattr(signal, name, None))
]


# Stopping on a signal


class Stopped(KeyboardInterrupt):
    """Training was stopped by a signal, after saving. A KeyboardInterrupt.

    Parameters
    ----------
    signum : int
        Number of the signal.
    iteration : int
        Steps done.
    epoch : int
        Epochs done.

    Attributes
    ----------
    signal, iteration, epoch : int
        The arguments.
    """

    def __init__(self, signum: int, iteration: int, epoch: int) -> None:
        super().__init__(signum, iteration, epoch)
        self.signal = signum
        self.iteration = iteration
        self.epoch = epoch

    def __str__(self) -> str:
        name = signal.Signals(self.signal).name
        return f"stopped by {name} after iteration {self.iteration}, and saved"


class StopRequest:
    """While entered, SIGINT, SIGTERM and SIGHUP set `signal` instead of ending the process.

    A second SIGINT ends the process at once. Python delivers signals to the main thread only, so on
    another thread this does nothing. A signal that the process ignores stays ignored, as SIGHUP
    under nohup. Rank 0 reports the first signal on standard error.
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        self._reports = current().group.rank == 0
        self._before: dict[int, Callable[[int, FrameType | None], object] | int | None] = {}

    def __enter__(self) -> "StopRequest":
        if threading.current_thread() is threading.main_thread():
            for signum in STOP_SIGNALS:
                if signal.getsignal(signum) is not signal.SIG_IGN:
                    self._before[signum] = signal.signal(signum, self._handle)
        return self

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        for signum, handler in self._before.items():
            signal.signal(signum, handler)

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        if self.signal is not None and signum == signal.SIGINT:
            signal.signal(signum, signal.SIG_DFL)
            os.kill(os.getpid(), signum)
        if self.signal is None:
            self.signal = signum
            if self._reports:
                name = signal.Signals(signum).name
                line = f"\n{name}: finishing this step and saving; Ctrl-C again exits at once\n"
                # The signal may have interrupted a write to a buffer, so this bypasses it. If
                # standard error is closed, descriptor 2 may belong to a file, so it is asked for
                with contextlib.suppress(OSError, ValueError, AttributeError):
                    os.write(sys.stderr.fileno(), line.encode())


# The run folder


class RunWriter:
    """Writes a run folder during training, on rank 0.

    `last.safetensors` is written first, and alone determines how training continues: it holds the
    history and, after the best epoch so far, the best parameters. The process may therefore be
    killed between any two writes; `restore` repeats the missing ones. The scored parameters of a
    start are written before all checkpoints. If no epoch of a second stage is better,
    `best.safetensors` keeps the first stage's parameters. `saved` is the last iteration on disk, or
    0; `times` has a record for each epoch of the run.

    out : the run folder
    epochs : number in all stages
    data : the run's data, with its scaling
    earlier : records of the stage before the current one
    clock : returns the time in seconds
    """

    def __init__(
        self,
        out: Path,
        epochs: int,
        data: CaptionData,
        earlier: Sequence[Record] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.out = out
        self._scaling = data.scaling
        self._vocabulary = digest(data.vocabulary)
        self.earlier = earlier
        self._writes = current().group.rank == 0
        self.saved = 0
        self.times: list[Record] = []
        self._epochs = epochs
        self._pace = Pace(PAGE_SECONDS, clock)
        self._history: list[Record] = []  # of the last checkpoint
        self._shown = 0  # records that the page shows
        self._page_failed = False

    def begin(self, solver: CaptioningSolver) -> None:
        """Write the scored parameters that the run starts from: they are the best so far."""
        if self._writes and not self.earlier:
            self._write_best(solver)

    def write(self, solver: CaptioningSolver, epoch_ended: bool) -> None:
        """Write a checkpoint; at the end of an epoch also best parameters, history and times.

        OSError : a file cannot be written.
        """
        state = solver.state()
        save_state(
            self.out / LAST,
            state,
            scaling=self._scaling,
            vocabulary=self._vocabulary,
            earlier=self.earlier,
        )
        self.saved = solver.iteration
        self._history = history_of(self.earlier, solver.records)
        if epoch_ended:
            self._write_epoch(solver)

    def update_page(self, now: bool = False) -> None:
        """Write the page if it lacks an epoch and a minute has passed, or `now` is set.

        If it cannot be written, there is a notice, and training continues.
        """
        if not self._writes or len(self._history) <= self._shown or not (now or self._pace.due):
            return
        self._pace.done()
        try:
            write_progress_page(self.out, self._epochs, self._history)
            self._shown = len(self._history)
        except OSError as error:
            if not self._page_failed:
                notice(
                    f"train_run: {error.filename} could not be written: {error.strerror}; training"
                    " continues"
                )
            self._page_failed = True

    def restore(self, solver: CaptioningSolver, state: TrainingState) -> None:
        """Restore a solver, and repeat the writes of its last epoch, which may be incomplete.

        DataError : the best parameters are missing, or from another epoch than the best.
        """
        best = best_of(state.records)
        if self.earlier and best is state.records[0]:  # the start is the first stage's best
            best = best_of(self.earlier)
        best_params = self._read_best(best, solver) if best and not state.is_best else None
        solver.restore(state, best_params=best_params)
        self.times = read_times(self.out, solver.epoch)
        self.saved = solver.iteration
        self._history = history_of(self.earlier, solver.records)
        if self._writes and solver.epoch:
            self._write_epoch(solver)
        self.update_page()
        now = current().group.size
        before = self.times[-1].get("ranks", 1) if self.times else now
        if before != now:
            notice(
                f"train_run: {self.out} was trained on {_ranks(before)} and continues on"
                f" {_ranks(now)}: batches and dropout stay the same, sums are rounded differently"
            )

    def _write_epoch(self, solver: CaptioningSolver) -> None:
        if solver.history and solver.best_epoch == solver.epoch:
            self._write_best(solver)
        write_lines(self.out / HISTORY, self._history)
        write_lines(self.out / TIMES, self.times)

    def _write_best(self, solver: CaptioningSolver) -> None:
        meta = {**(best_of(solver.records) or {}), "vocabulary": self._vocabulary}
        save_parameters(self.out / BEST, solver.best_params, self._scaling, meta)

    def _read_best(self, best: Record, solver: CaptioningSolver) -> dict[str, np.ndarray]:
        path = self.out / BEST
        tensors, _, meta = load_parameters(path)
        if meta.get("epoch") != best["epoch"] or meta.get("vocabulary") != self._vocabulary:
            raise DataError(
                f"{path} is of epoch {str(meta.get('epoch'))[:20]}, expected epoch {best['epoch']},"
                f" the best of {LAST}; from another run?"
            )
        check_parameters(path, tensors, solver.model.params.shapes)
        return tensors


def _ranks(count: int) -> str:
    return "1 rank" if count == 1 else f"{count} ranks"


def history_of(earlier: Sequence[Record], records: Sequence[Record]) -> list[Record]:
    """The records of both stages.

    The best epoch of the first stage gets the val scores that it has as the start of the second.
    """
    if not earlier:
        return [*records]
    start, *epochs = records
    best = best_of(earlier)
    scores = {name: figure for name, figure in start.items() if name.startswith("val_")}
    return [*(scores | record if record is best else record for record in earlier), *epochs]


def write_start(plan: Plan, data: CaptionData, model: ModelConfig) -> None:
    """Write the files of a run folder that precede training, if they are missing or changed."""
    out = plan.out
    recipe = plan.options
    config = plan.config
    if config is None:
        Config.of(recipe, model, data).write(out)
    elif config.recipe.to_config() != recipe.to_config():
        replace(config, recipe=recipe).write(out)
    if not (out / VOCAB).exists():
        write_vocabulary(out, data.vocabulary)
    if recipe.data is None and not (out / DATA).exists():
        write_fingerprinted(out / DATA, data)
    drawn_here = recipe.data is None and data.source.generated == GENERATOR
    if drawn_here and not (out / PICTURES).exists():
        write_pictures(out / PICTURES, data, "val")


# Checkpoints, and when they are due


class Checkpointer(Watcher):
    """Saves training at intervals, after each epoch, and on a signal to any rank, which stops all.

    every : interval within an epoch
    writer : writes the checkpoints
    stop : read after each step; after a signal, training is saved and Stopped raised
    """

    def __init__(self, every: SaveInterval, writer: RunWriter, stop: StopRequest) -> None:
        self._every = every
        self._writer = writer
        self._stop = stop
        self._group = current().group
        self._seconds = 0.0  # spent on saving since the last epoch
        self._count_from(0)

    def begin(self, solver: CaptioningSolver) -> None:
        """Start the first interval."""
        self._count_from(solver.iteration)

    def step(self, solver: CaptioningSolver) -> None:
        """Save if a checkpoint is due, and stop after a signal. Raises Stopped, SaveError."""
        if signum := self._signal():
            self._save(solver)
            self._end(signum, solver)
        steps = solver.iteration - self._first
        seconds = time.monotonic() - self._since
        if steps >= self._every.steps or seconds >= self._every.seconds:
            self._save(solver)

    def epoch(self, solver: CaptioningSolver) -> None:
        """Save the end of an epoch. Raises SaveError."""
        self._writer.times.append({**solver.times[-1], "save_seconds": self._seconds})
        self._seconds = 0.0
        self._save(solver, epoch_ended=True)  # its seconds count in the next epoch

    def check_stop(self, solver: CaptioningSolver) -> None:
        """Raise Stopped if a signal has arrived; the last epoch is saved already."""
        if signum := self._signal():
            self._end(signum, solver)

    def _save(self, solver: CaptioningSolver, epoch_ended: bool = False) -> None:
        """Write a checkpoint. SaveError : it could not be written; the last one is intact."""
        if self._group.rank:
            return
        start = time.perf_counter()
        try:
            self._writer.write(solver, epoch_ended)
        except OSError as error:
            raise self._explain(error) from error
        self._writer.update_page()
        self._count_from(solver.iteration)
        self._seconds += time.perf_counter() - start

    def _count_from(self, iteration: int) -> None:
        """Restart the interval."""
        self._since = time.monotonic()
        self._first = iteration

    def _signal(self) -> int:
        """The signal that this rank or another has received; 0: none."""
        return self._group.max(self._stop.signal or 0)

    def _end(self, signum: int, solver: CaptioningSolver) -> None:
        # A rank that ends may end the others, so all wait until rank 0 has saved
        self._group.barrier()
        raise Stopped(signum, solver.iteration, solver.epoch)

    def _explain(self, error: OSError) -> SaveError:
        reason = error.strerror or str(error)
        out = self._writer.out
        saved = "nothing was saved before; the same command starts from the beginning"
        if self._writer.saved:
            saved = f"iteration {self._writer.saved} is saved; `resume` continues from there"
        return SaveError(
            f"{error.filename or out} could not be written: {reason}; {write_advice(error, out)};"
            f" {saved}"
        )
