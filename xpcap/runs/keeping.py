"""Writing a run folder: what it holds before training begins, what changes as training goes on, and what a solver goes on from."""

import platform
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from xpcap.backend import get_backend
from xpcap.data import CaptionData
from xpcap.data.features import FeatureScaling
from xpcap.data.hdf5 import write_stamped
from xpcap.data.pictures import write_pictures
from xpcap.errors import DataError
from xpcap.models import ModelConfig
from xpcap.progress import Pace
from xpcap.report import draw_loss
from xpcap.runs.checkpoint import save_state
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
    write_config,
    write_lines,
    write_projection,
    write_vocabulary,
)  # fmt: skip
from xpcap.runs.options import TrainOptions, settings_of
from xpcap.runs.pages import whole_history, write_progress_page
from xpcap.runs.starting import digest_of
from xpcap.training.history import best_of
from xpcap.training.solver import CaptioningSolver
from xpcap.training.state import TrainingState

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
