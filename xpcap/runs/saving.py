"""Checkpoints while training goes on: when one is due, and writing it on another thread."""

import errno
import math
import os
import re
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

from xpcap.distributed import SINGLE, Group
from xpcap.errors import OptionError, SaveError
from xpcap.runs.stopping import Stopped, StopRequest
from xpcap.training.solver import CaptioningSolver
from xpcap.training.state import TrainingState


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
