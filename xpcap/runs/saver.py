"""Saving during training: signals, the run folder, and checkpoints written by another thread."""

import errno
import math
import os
import platform
import re
import shutil
import signal
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from types import FrameType, TracebackType
from typing import NamedTuple

import numpy as np

from xpcap.backend import Array, get_backend
from xpcap.data import CaptionData
from xpcap.data.features import FeatureScaling
from xpcap.data.hdf5 import write_fingerprinted
from xpcap.distributed import SINGLE, Group
from xpcap.errors import DataError, OptionError, SaveError
from xpcap.models import ModelConfig
from xpcap.progress import Pace
from xpcap.report import draw_loss
from xpcap.runs.folder import (
    BEST,
    DATA,
    HISTORY,
    LAST,
    PICTURES,
    PROJECTION,
    TIMES,
    VOCAB,
    best_digest,
    check_parameters,
    load_parameters,
    read_times,
    save_parameters,
    save_state,
    write_config,
    write_lines,
    write_projection,
    write_vocabulary,
)
from xpcap.runs.pages import whole_history, write_progress_page
from xpcap.runs.plan import Stage, settings_of
from xpcap.shapes import write_pictures
from xpcap.training.solver import CaptioningSolver
from xpcap.training.state import Record, TrainingState, best_of
from xpcap.training.watcher import Watcher

CURVE_SECONDS, PAGE_SECONDS = 10, 60  # between drawings of loss.png, and of the page
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)


# Stopping on a signal


class Stopped(KeyboardInterrupt):
    """Training was stopped by a signal, and is saved. A KeyboardInterrupt.

    Parameters
    ----------
    signum : int
        Number of the signal.
    iteration : int
        Steps done by then.
    epoch : int
        Epochs done by then.

    Attributes
    ----------
    signal, iteration, epoch : int
        The arguments.
    """

    def __init__(self, signum: int, iteration: int, epoch: int) -> None:
        super().__init__(signum, iteration, epoch)
        self.signal, self.iteration, self.epoch = signum, iteration, epoch

    def __str__(self) -> str:
        name = signal.Signals(self.signal).name
        return f"stopped by {name} after iteration {self.iteration}, and saved"


class StopRequest:
    """While entered, SIGINT and SIGTERM set `signal` instead of ending the process.

    A second SIGINT ends it at once, as if not caught. Python delivers signals to the main thread
    only, so on another thread this does nothing. A signal that the process ignores stays ignored.
    With `speaks` the first signal is reported on standard error.
    """

    def __init__(self, speaks: bool = True) -> None:
        self.signal: int | None = None
        self._speaks = speaks
        self._before: dict[int, Callable[[int, FrameType | None], object] | int | None] = {}

    def __enter__(self) -> "StopRequest":
        if threading.current_thread() is threading.main_thread():
            for signum in STOP_SIGNALS:
                if signal.getsignal(signum) is not signal.SIG_IGN:
                    self._before[signum] = signal.signal(signum, self._note)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for signum, handler in self._before.items():
            signal.signal(signum, handler)

    def _note(self, signum: int, frame: FrameType | None) -> None:
        if self.signal is not None and signum == signal.SIGINT:
            signal.signal(signum, signal.SIG_DFL)
            os.kill(os.getpid(), signum)
        if self.signal is None:
            self.signal = signum
            if self._speaks:
                name = signal.Signals(signum).name
                line = f"\n{name}: finishing this step and saving; Ctrl-C again exits at once\n"
                try:
                    os.write(2, line.encode())  # past buffers that the signal may have interrupted
                except OSError:
                    return  # standard error is closed


# The run folder


class ThrottledPlot:
    """A file that shows the history.

    It is drawn at the end of an epoch, at most once in `seconds`: a curve takes some 0.1 s and
    holds Python's lock, which stalls a thread that launches kernels.
    """

    def __init__(
        self, draw: Callable[[list[Record]], None], seconds: float, clock: Callable[[], float]
    ) -> None:
        self._draw, self._pace = draw, Pace(seconds, clock)
        self._shown = 0  # epochs

    def update(self, history: list[Record], now: bool = False) -> None:
        """Draw the history if it has new epochs and the interval is over, or `now` is set."""
        if len(history) > self._shown and (now or self._pace.due):
            self._draw(history)
            self._shown = len(history)
            self._pace.done()


class RunWriter:
    """Writes a run folder during training.

    `last.safetensors` is written first, and alone decides how training continues: it holds the
    history and, at the end of an epoch that is the best so far, also the best parameters. So the
    process may be killed between any two writes; `restore` repeats those that are missing. Scored
    parameters of the start are written before all checkpoints. Pictures of the history may lag by
    their intervals; `finish` brings them up to date.

    Parameters
    ----------
    out : the run folder
    epochs : of the stage
    scaling : of the run's features
    vocabulary : its digest
    writes : this process writes; of several ranks rank 0 does
    clock : returns the time in seconds
    """

    def __init__(
        self,
        out: Path,
        epochs: int,
        scaling: FeatureScaling,
        vocabulary: str,
        writes: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.out, self._scaling, self._vocabulary, self._writes = out, scaling, vocabulary, writes
        self._records: list[Record] = []  # as they were last saved

        def draw_curve(records: list[Record]) -> None:
            draw_loss(out / "loss.png", whole_history(out, records)[0])

        def write_page(records: list[Record]) -> None:
            write_progress_page(out, epochs, records)

        self._plots = (
            ThrottledPlot(draw_curve, CURVE_SECONDS, clock),
            ThrottledPlot(write_page, PAGE_SECONDS, clock),
        )

    def begin(self, solver: CaptioningSolver) -> None:
        """Write the parameters that training starts from, if scored: they are the best so far."""
        if self._writes and solver.start is not None:
            self._write_best(solver.start, solver.best_params)

    def write(self, state: TrainingState, times: list[Record] | None) -> None:
        """Write a checkpoint, then curves and page if they are due.

        After an epoch, with the `times` of all epochs, also best parameters and history.
        """
        save_state(self.out / LAST, state, scaling=self._scaling, vocabulary=self._vocabulary)
        if times is not None:
            self._write_epoch(state, times)
        self._draw(state.records)

    def finish(self) -> None:
        """Bring curves and page up to date. OSError : a file cannot be written."""
        self._draw(self._records, now=True)

    def restore(self, solver: CaptioningSolver, state: TrainingState) -> None:
        """Restore a solver, and repeat the writes of an epoch that may not have been finished.

        DataError : the best parameters are missing, or not from the epoch that was the best.
        """
        best = best_of(state.records)
        in_file = best is not None and not state.is_best
        solver.restore(
            state, best_params=self._read_best(best, state) if best and in_file else None
        )
        solver.times = read_times(self.out, state.epoch)
        if not self._writes:
            return
        if state.order is None and state.history:
            self._write_epoch(state, solver.times)
        self._draw(state.records)

    def _draw(self, records: list[Record], now: bool = False) -> None:
        self._records = records
        for plot in self._plots:
            plot.update(records, now)

    def _write_epoch(self, state: TrainingState, times: list[Record]) -> None:
        if state.is_best:
            self._write_best(state.history[-1], state.params)
        write_lines(self.out / HISTORY, state.records)
        write_lines(self.out / TIMES, times)

    def _write_best(self, record: Record, params: Mapping[str, Array]) -> None:
        meta = {**record, "vocabulary": self._vocabulary}
        save_parameters(self.out / BEST, params, self._scaling, meta)

    def _read_best(self, best: Record, state: TrainingState) -> dict[str, np.ndarray]:
        path = self.out / BEST
        tensors, _, meta = load_parameters(path)
        if meta.get("epoch") != best["epoch"] or meta.get("vocabulary") != self._vocabulary:
            raise DataError(
                "train_run",
                path,
                f"is of epoch {str(meta.get('epoch'))[:20]}",
                expected=f"epoch {best['epoch']}, the best of {LAST}",
                cause="from another run?",
            )
        check_parameters(path, tensors, state.params.shapes)
        return tensors


def write_start(stage: Stage, data: CaptionData, model: ModelConfig) -> None:
    """Write the files of a run folder that precede training; on resume those missing or changed."""
    out, options, settings = stage.folder, stage.options, settings_of(stage.options)
    if stage.config is None:
        start = {} if options.start is None else {"start_digest": best_digest(options.start)}
        projected = {} if data.projection is None else {"projected_from": len(data.projection.mean)}
        made_with = {
            "python": platform.python_version(),
            "numpy": np.__version__,
            "backend": get_backend(),
            "max_words": data.max_words,
            "tokeniser": data.vocabulary.tokeniser,
            "data_stamp": data.fingerprint,
            "source": data.source.to_json(),
        }
        write_config(out, {**asdict(model), **settings, **start, **made_with, **projected})
    elif any(stage.config.get(key) != value for key, value in settings.items()):
        write_config(out, {**stage.config, **settings})
    if not (out / VOCAB).exists():
        write_vocabulary(out, data.vocabulary)
    if data.projection is not None and not (out / PROJECTION).exists():
        write_projection(out, data.projection)
    if options.data is None and not (out / DATA).exists():
        write_fingerprinted(out / DATA, data)
    if options.data is None and not (out / PICTURES).exists():
        write_pictures(out / PICTURES, data, "val")


# Checkpoints: when, and on which thread


class Interval(NamedTuple):
    """Time between checkpoints within an epoch: in seconds, or in steps."""

    seconds: float = math.inf
    steps: float = math.inf


def interval(text: str) -> Interval:
    """Parse `save_every`, such as "30s" (seconds) or "200" (steps). OptionError : neither, or 0."""
    pattern = r"(\d{1,9}(?:\.\d{1,9})?)s|(\d{1,9})"
    match = re.fullmatch(pattern, text) if isinstance(text, str) else None
    if match is not None:
        found = Interval(seconds=float(match[1])) if match[1] else Interval(steps=int(match[2]))
        if min(found) > 0:
            return found
    raise OptionError(
        "train_run",
        "`save_every`",
        f"is {text!r}",
        expected="seconds, as in 30s, or steps, as in 200",
    )


class Checkpointer(Watcher):
    """Saves training on time, at epochs' ends and on signals.

    Enter it while the solver trains that it watches.
    The training thread copies the state; another thread writes it. One write is under way at a
    time: a checkpoint within an epoch that is due meanwhile waits for a later step, but the end of
    an epoch waits for the writer.

    Parameters
    ----------
    every : interval within an epoch; the end of each epoch is always saved
    writer : writes the checkpoints, on another thread; its `finish` is called on exit, after the
        last write, unless that failed
    stop : read after each step; after a signal, training is saved and Stopped raised
    group : the ranks that train together; rank 0 writes, and a signal to one of them stops all
        after the same step
    """

    def __init__(
        self, every: Interval, writer: RunWriter, stop: StopRequest, group: Group = SINGLE
    ) -> None:
        self._every, self._writer, self._stop, self._group = every, writer, stop, group
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None
        self._saved: int | None = None  # the iteration that is safe on disk
        self._seconds = 0.0  # that saving has taken from training since the last epoch
        self._count_from(0)

    def __enter__(self) -> "Checkpointer":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.wait()
        if isinstance(error, SaveError) or self._group.rank:
            return  # another write would fail as well, and hide the reason
        try:
            self._writer.finish()
        except OSError as problem:
            raise self._explain(problem) from problem

    def begin(self, solver: CaptioningSolver) -> None:
        """Start at an iteration that is on disk, unless it is 0."""
        self._saved = solver.iteration or None
        self._count_from(solver.iteration)

    def step(self, solver: CaptioningSolver) -> None:
        """Save if a checkpoint is due, and stop after a signal. Raises Stopped, SaveError."""
        if signum := self._signal():
            self._save(solver)
            self._end(signum, solver)
        if self._thread is not None and not self._thread.is_alive():
            self.wait()  # raises if the write failed
        steps, seconds = solver.iteration - self._first, time.monotonic() - self._since
        if self._thread is None and (steps >= self._every.steps or seconds >= self._every.seconds):
            self._save(solver)

    def epoch(self, solver: CaptioningSolver) -> None:
        """Save the end of an epoch. SaveError : the write before it failed."""
        solver.times[-1]["save_seconds"], self._seconds = self._seconds, 0.0
        self._save(solver, [dict(record) for record in solver.times])  # counts in the next epoch

    def check_stop(self, solver: CaptioningSolver) -> None:
        """Stopped : a signal has come, and training is on disk as it stands."""
        if signum := self._signal():
            self._end(signum, solver)

    def wait(self) -> None:
        """Wait for the write under way.

        SaveError : it failed for lack of room or permission; the checkpoint before it is intact.
        """
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._error is not None:
            error, self._error = self._error, None
            raise self._explain(error) if isinstance(error, OSError) else error

    def _save(self, solver: CaptioningSolver, times: list[Record] | None = None) -> None:
        if self._group.rank:
            return
        start = time.perf_counter()
        self.wait()
        state = solver.state()
        self._count_from(state.iteration)
        job = state, times
        self._thread = threading.Thread(target=self._write, args=job, name="xpcap checkpoint")
        self._thread.start()
        self._seconds += time.perf_counter() - start

    def _write(self, state: TrainingState, times: list[Record] | None) -> None:
        try:
            self._writer.write(state, times)
            self._saved = state.iteration
        except BaseException as error:  # raised on the training thread, by wait
            self._error = error

    def _count_from(self, iteration: int) -> None:
        """Restart the interval."""
        self._since, self._first = time.monotonic(), iteration

    def _signal(self) -> int:
        """The signal that has come to this rank or another; 0: none."""
        return self._group.max(self._stop.signal or 0)

    def _end(self, signum: int, solver: CaptioningSolver) -> None:
        self.wait()
        # A process that ends may end the others: none leaves before rank 0 has saved
        self._group.barrier()
        raise Stopped(signum, solver.iteration, solver.epoch)

    def _explain(self, error: OSError) -> SaveError:
        reason, out = error.strerror or str(error), self._writer.out
        saved = "nothing was saved before"
        if self._saved is not None:
            saved = f"iteration {self._saved} is saved; `resume` continues from there"
        return SaveError(
            "train_run",
            error.filename or out,
            f"could not be written: {reason}",
            cause=f"{_advice(error, out)}; {saved}",
        )


def _advice(error: OSError, folder: Path) -> str:
    """Advice on a write that failed."""
    if error.errno in (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)):
        try:
            megabytes = shutil.disk_usage(folder).free / 1e6
            free = f"{megabytes:,.1f} MB are free on the disk of {folder}"
        except OSError as problem:
            free = f"free space unknown: {problem.strerror}"
        return (
            f"expected room for the new checkpoint next to the old one ({free}); free some, or raise"
            " your quota"
        )
    if error.errno == errno.EFBIG:
        return "expected a limit on file sizes above the checkpoint's; raise it (ulimit -f)"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return (
            f"expected a folder that may be written to; did the permissions of {os.fspath(folder)}"
            " change, or is its disk mounted read-only?"
        )
    return "expected a working disk; is it failing, or was it removed?"
