"""Keeper: writes a run folder while training goes on, and brings a solver back to where the folder says it stood."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from xpcap.data.scaling import FeatureScaling
from xpcap.errors import DataError
from xpcap.report import draw_loss
from xpcap.runs.folder import BEST, HISTORY, LAST, TIMES, check_parameters, load_parameters, read_times, save_parameters, save_state, write_lines
from xpcap.runs.pages import write_progress_page
from xpcap.training.history import best_of
from xpcap.training.solver import CaptioningSolver
from xpcap.training.state import TrainingState


class Keeper:
    """Writes a run folder as training goes on.

    `last.safetensors` is written first, and alone decides how training continues: it holds the history and, at the end of an epoch that is the
    best so far, also the best parameters. So the process may be killed between any two writes; `restore` repeats those that are missing.

    Parameters
    ----------
    out : the run folder
    epochs : how many there will be
    scaling : of the run's features
    vocabulary : its digest
    """

    def __init__(self, out: Path, epochs: int, scaling: FeatureScaling, vocabulary: str) -> None:
        self._out, self._epochs, self._scaling, self._vocabulary = out, epochs, scaling, vocabulary

    def write(self, state: TrainingState, times: list[dict[str, Any]] | None) -> None:
        """Write a checkpoint. After an epoch, with the `times` of all epochs, also write best parameters, history, curves and page."""
        save_state(self._out / LAST, state, self._scaling, self._vocabulary)
        if times is not None:
            self._write_epoch(state, times)

    def _write_epoch(self, state: TrainingState, times: list[dict[str, Any]]) -> None:
        record = state.history[-1]
        if best_of(state.history) is record:
            save_parameters(self._out / BEST, state.params, self._scaling, {**record, "vocabulary": self._vocabulary})
        write_lines(self._out / HISTORY, state.history)
        write_lines(self._out / TIMES, times)
        draw_loss(self._out / "loss.png", state.history)
        write_progress_page(self._out, self._epochs, state.history)

    def restore(self, solver: CaptioningSolver, state: TrainingState) -> None:
        """Bring a solver to where training stood, and repeat the writes of an epoch that may not have been finished.

        Raises
        ------
        DataError : the best parameters are missing, or not from the epoch that was the best.
        """
        between = state.order is None and state.history
        best = best_of(state.history)
        solver.restore(state, None if best is None or (between and best is state.history[-1]) else self._best(best, state))
        solver.times = read_times(self._out, state.epoch)
        if between:
            self._write_epoch(state, solver.times)

    def _best(self, best: Mapping[str, Any], state: TrainingState) -> dict[str, np.ndarray]:
        path = self._out / BEST
        tensors, _, meta = load_parameters(path)
        if meta.get("epoch") != best["epoch"] or meta.get("vocabulary") != self._vocabulary:
            raise DataError(
                f"train_run: {path} is of epoch {str(meta.get('epoch'))[:20]}, expected epoch {best['epoch']}, the best of {LAST}; from another run?"
            )
        check_parameters(path, tensors, state.params.shapes)
        return tensors
