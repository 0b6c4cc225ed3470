"""Saving training as it goes: stopping on a signal, when a checkpoint is due, writing it on another thread, and what the run folder gets."""

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
from typing import Any, NamedTuple

import numpy as np

from xpcap.backend import get_backend
from xpcap.data import CaptionData
from xpcap.data.features import FeatureScaling
from xpcap.data.hdf5 import write_stamped
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
from xpcap.runs.options import TrainOptions, digest_of, settings_of
from xpcap.runs.pages import whole_history, write_progress_page
from xpcap.shapes import write_pictures
from xpcap.training.history import best_of
from xpcap.training.solver import CaptioningSolver
from xpcap.training.state import TrainingState

ASKED = (signal.SIGINT, signal.SIGTERM)


class Stopped(KeyboardInterrupt):
    """A signal asked training to stop, and it is saved.

    Attributes
    ----------
    signal : number of the signal
    iteration, epoch : steps and epochs done by then
    """

    def __init__(self, signum: int, iteration: int, epoch: int) -> None:
        super().__init__(signum, iteration, epoch)
        self.signal, self.iteration, self.epoch = signum, iteration, epoch

    def __str__(self) -> str:
        return f"stopped by {signal.Signals(self.signal).name} after iteration {self.iteration}, and saved"


class StopRequest:
    """While entered, SIGINT and SIGTERM set `signal` instead of ending the process; a second SIGINT ends it at once, as if not caught.

    Python delivers signals to the main thread only, so on another thread this does nothing. A signal that the process ignores stays ignored.

    Parameters
    ----------
    speaks : says on standard error that the signal has come
    """

    def __init__(self, speaks: bool = True) -> None:
        self.signal: int | None = None
        self._speaks = speaks
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "StopRequest":
        if threading.current_thread() is threading.main_thread():
            for asked in ASKED:
                if signal.getsignal(asked) is not signal.SIG_IGN:
                    self._before[asked] = signal.signal(asked, self._note)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        for asked, handler in self._before.items():
            signal.signal(asked, handler)

    def _note(self, signum: int, frame: FrameType | None) -> None:
        if self.signal is not None and signum == signal.SIGINT:
            signal.signal(signum, signal.SIG_DFL)
            os.kill(os.getpid(), signum)
        if self.signal is None:
            self.signal = signum
            if self._speaks:
                _say(f"\n{signal.Signals(signum).name}: finishing this step and saving; Ctrl-C again exits at once\n")


def _say(line: str) -> None:
    """Write to standard error, past buffers that the signal may have interrupted."""
    try:
        os.write(2, line.encode())
    except OSError:
        return  # standard error is closed


# When, and on which thread


class Interval(NamedTuple):
    """How often training is saved within an epoch: in seconds, or in steps."""

    seconds: float = math.inf
    steps: float = math.inf


def interval(text: str) -> Interval:
    """``"30s"`` is 30 seconds, ``"200"`` is 200 steps.

    Raises
    ------
    OptionError : neither, or not above zero. It names `save_every`.
    """
    match = re.fullmatch(r"(\d{1,9}(?:\.\d{1,9})?)s|(\d{1,9})", text) if isinstance(text, str) else None
    made = Interval() if match is None else Interval(seconds=float(match[1])) if match[1] else Interval(steps=int(match[2]))
    if match is None or not min(made) > 0:
        raise OptionError(f"train_run: `save_every` is {text!r}, expected seconds, as in 30s, or steps, as in 200")
    return made


class Saver:
    """Saves training as it goes: give `on_step` and `on_epoch` to the solver, and enter the saver while the solver trains.

    The training thread copies the state; another thread writes it. One write is under way at a time: a checkpoint within an epoch that is due
    meanwhile waits for a later step, but the end of an epoch waits for the writer.

    Parameters
    ----------
    every : how often within an epoch; the end of each epoch is always saved
    write : called on another thread with the state, and with the times of all epochs if one has just ended
    place : the run folder, for messages
    stop : looked at after each step; if a signal has come, training is saved and Stopped raised
    finish : called when the saver is left, after the last write, unless that failed
    group : the ranks that train together; rank 0 writes, and a signal to one of them stops all after the same step
    """

    def __init__(
        self,
        every: Interval,
        write: Callable[[TrainingState, list[dict[str, Any]] | None], None],
        place: Path,
        stop: StopRequest,
        finish: Callable[[], None] = lambda: None,
        group: Group = SINGLE,
    ) -> None:
        self._every, self._write, self._place, self._stop, self._finish, self._group = every, write, place, stop, finish, group
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None
        self._saved: int | None = None  # the iteration that is safe on disk
        self._seconds = 0.0
        self._mark(0)

    def _mark(self, iteration: int) -> None:
        """Count from here until the next checkpoint is due."""
        self._since, self._from = time.monotonic(), iteration

    def __enter__(self) -> "Saver":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self.wait()
        if isinstance(error, SaveError) or self._group.rank:
            return  # what was to be written next would fail as well, and hide why
        try:
            self._finish()
        except OSError as problem:
            raise self._explain(problem) from problem

    def begin(self, iteration: int) -> None:
        """Training begins at `iteration`, which is on disk unless it is 0."""
        self._saved = iteration or None
        self._mark(iteration)

    def on_step(self, solver: CaptioningSolver) -> None:
        """Save if a checkpoint is due, and stop if a signal has come.

        Raises
        ------
        Stopped, SaveError
        """
        if signal := self._signal():
            self._submit(solver)
            self._end(signal, solver)
        if self._thread is not None and not self._thread.is_alive():
            self.wait()  # raises if the write failed
        due = solver.iteration - self._from >= self._every.steps or time.monotonic() - self._since >= self._every.seconds
        if due and self._thread is None:
            self._submit(solver)

    def check_stop(self, solver: CaptioningSolver) -> None:
        """Stopped : a signal has come, and training is on disk as it stands."""
        if signal := self._signal():
            self._end(signal, solver)

    def _signal(self) -> int:
        """The signal that has come to this rank or another; 0: none."""
        return self._group.max(self._stop.signal or 0)

    def _end(self, signal: int, solver: CaptioningSolver) -> None:
        self.wait()
        self._group.all_gather("saved")  # no rank leaves before rank 0 has saved: that one process ends may end all
        raise Stopped(signal, solver.iteration, solver.epoch)

    def on_epoch(self, solver: CaptioningSolver) -> None:
        """Save the end of an epoch. SaveError : the write before it failed."""
        solver.times[-1]["save_seconds"], self._seconds = self._seconds, 0.0  # the copy made now counts in the next epoch
        self._submit(solver, [dict(record) for record in solver.times])

    def _submit(self, solver: CaptioningSolver, times: list[dict[str, Any]] | None = None) -> None:
        if self._group.rank:
            return
        start = time.perf_counter()
        self.wait()
        state = solver.state()
        self._mark(state.iteration)
        self._thread = threading.Thread(target=self._run, args=(state, times), name="xpcap checkpoint")
        self._thread.start()
        self._seconds += time.perf_counter() - start

    def _run(self, state: TrainingState, times: list[dict[str, Any]] | None) -> None:
        try:
            self._write(state, times)
            self._saved = state.iteration
        except BaseException as error:  # raised on the training thread, by wait
            self._error = error

    def wait(self) -> None:
        """Wait for the write under way. SaveError : it failed for lack of room or permission; the checkpoint before it is intact."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._error is not None:
            error, self._error = self._error, None
            raise self._explain(error) if isinstance(error, OSError) else error

    def _explain(self, error: OSError) -> SaveError:
        reason = error.strerror or str(error)
        kept = "nothing was saved before" if self._saved is None else f"iteration {self._saved} is saved; `resume` continues from there"
        return SaveError(f"train_run: {error.filename or self._place} could not be written: {reason}; {_advice(error, self._place)}; {kept}")


def _advice(error: OSError, place: Path) -> str:
    """What to do about a write that failed."""
    if error.errno in (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)):
        try:
            free = f"{shutil.disk_usage(place).free / 1e6:,.1f} MB are free on the disk of {place}"
        except OSError as problem:
            free = f"free space unknown: {problem.strerror}"
        return f"expected room for the new checkpoint beside the old one ({free}); free some, or raise your quota"
    if error.errno == errno.EFBIG:
        return "expected a limit on file sizes above the checkpoint's; raise it (ulimit -f)"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"expected a folder that may be written to; did the permissions of {os.fspath(place)} change, or is its disk mounted read-only?"
    return "expected a working disk; is it failing, or was it removed?"


# Writing the run folder


CURVE_SECONDS, PAGE_SECONDS = 10, 60  # between two drawings of loss.png, and of the page with its four curves
History = list[dict[str, Any]]


class Picture:
    """A file that shows the history. It is drawn at the end of an epoch, but no sooner than `seconds` after the last time.

    A curve takes some 0.1 s, and holds Python's lock: a thread that launches kernels for a device stands still meanwhile.
    """

    def __init__(self, draw: Callable[[History], None], seconds: float, clock: Callable[[], float]) -> None:
        self._draw, self._pace = draw, Pace(seconds, clock)
        self._shown = 0  # epochs

    def update(self, history: History, now: bool = False) -> None:
        """Draw a history if it has epochs that are not shown, and it is time or has to be `now`."""
        if len(history) > self._shown and (now or self._pace.due):
            self._draw(history)
            self._shown = len(history)
            self._pace.done()


class Keeper:
    """Writes a run folder as training goes on.

    `last.safetensors` is written first, and alone decides how training continues: it holds the history and, at the end of an epoch that is the
    best so far, also the best parameters. So the process may be killed between any two writes; `restore` repeats those that are missing. The
    parameters that training starts from, where they were scored, are written before all checkpoints.
    Pictures of the history may stay behind by their intervals while training goes on; `finish` draws what is missing.

    Parameters
    ----------
    out : the run folder
    epochs : how many there will be
    scaling : of the run's features
    vocabulary : its digest
    writes : whether this process is the one that writes; of several ranks rank 0 is
    clock : gives the time in seconds
    """

    def __init__(
        self, out: Path, epochs: int, scaling: FeatureScaling, vocabulary: str, writes: bool = True, clock: Callable[[], float] = time.monotonic
    ) -> None:  # fmt: skip
        self._out, self._scaling, self._vocabulary, self._writes = out, scaling, vocabulary, writes
        self._records: History = []  # as they were last saved
        self._pictures = (
            Picture(lambda history: draw_loss(out / "loss.png", whole_history(out, history)[0]), CURVE_SECONDS, clock),
            Picture(lambda history: write_progress_page(out, epochs, history), PAGE_SECONDS, clock),
        )

    def begin(self, solver: CaptioningSolver) -> None:
        """Write the parameters that training starts from, if they were scored: they are the best so far."""
        if self._writes and solver.start is not None:
            self._write_best(solver.start, solver.best_params)

    def write(self, state: TrainingState, times: list[dict[str, Any]] | None) -> None:
        """Write a checkpoint. After an epoch, with the `times` of all epochs, also best parameters and history. Curves and page if they are due."""
        save_state(self._out / LAST, state, scaling=self._scaling, vocabulary=self._vocabulary)
        if times is not None:
            self._write_epoch(state, times)
        self._show(state.records)

    def finish(self) -> None:
        """Draw what curves and page do not show yet. OSError : a file cannot be written."""
        self._show(self._records, now=True)

    def _show(self, records: History, now: bool = False) -> None:
        self._records = records
        for picture in self._pictures:
            picture.update(records, now)

    def _write_epoch(self, state: TrainingState, times: list[dict[str, Any]]) -> None:
        if state.is_best:
            self._write_best(state.history[-1], state.params)
        write_lines(self._out / HISTORY, state.records)
        write_lines(self._out / TIMES, times)

    def _write_best(self, record: Mapping[str, Any], params: Mapping[str, Any]) -> None:
        save_parameters(self._out / BEST, params, self._scaling, {**record, "vocabulary": self._vocabulary})

    def restore(self, solver: CaptioningSolver, state: TrainingState) -> None:
        """Bring a solver to where training stood, and repeat the writes of an epoch that may not have been finished.

        Raises
        ------
        DataError : the best parameters are missing, or not from the epoch that was the best.
        """
        between = state.order is None and state.history
        best = best_of(state.records)
        solver.restore(state, best_params=None if best is None or state.is_best else self._best(best, state))
        solver.times = read_times(self._out, state.epoch)
        if between and self._writes:
            self._write_epoch(state, solver.times)
        if self._writes:
            self._show(state.records)

    def _best(self, best: Mapping[str, Any], state: TrainingState) -> dict[str, np.ndarray]:
        path = self._out / BEST
        tensors, _, meta = load_parameters(path)
        if meta.get("epoch") != best["epoch"] or meta.get("vocabulary") != self._vocabulary:
            raise DataError(
                f"train_run: {path} is of epoch {str(meta.get('epoch'))[:20]}, expected epoch {best['epoch']}, the best of {LAST}; from another run?"
            )
        check_parameters(path, tensors, state.params.shapes)
        return tensors


def furnish(options: TrainOptions, out: Path, data: CaptionData, model: ModelConfig, config: Mapping[str, Any] | None) -> None:
    """Write what a run folder holds before training begins; in one that is there already, what is missing or has changed."""
    settings = settings_of(options)
    if config is None:
        start = {} if options.start is None else {"start_digest": digest_of(options.start)}
        write_config(out, {**asdict(model), **settings, **start, **_made_with(data)})
    elif any(config.get(key) != value for key, value in settings.items()):
        write_config(out, {**config, **settings})
    if not (out / VOCAB).exists():
        write_vocabulary(out, data.vocabulary)
    if data.projection is not None and not (out / PROJECTION).exists():
        write_projection(out, data.projection)
    if options.data is None and not (out / DATA).exists():
        write_stamped(out / DATA, data)
    if options.data is None and not (out / PICTURES).exists():
        write_pictures(out / PICTURES, data, "val")


def _made_with(data: CaptionData) -> dict[str, Any]:
    projected = {} if data.projection is None else {"projected_from": len(data.projection.mean)}
    versions = {"python": platform.python_version(), "numpy": np.__version__, "backend": get_backend()}
    captions = {"max_words": data.max_words, "tokeniser": data.vocabulary.tokeniser}
    return {**versions, **captions, "data_stamp": data.stamp, "source": data.source.to_json(), **projected}
