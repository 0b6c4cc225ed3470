"""What training leaves in its run folder, and takes up again from there."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from xpcap.data.scaling import FeatureScaling
from xpcap.errors import DataError
from xpcap.report import draw_loss
from xpcap.runs import folder as run_folder
from xpcap.runs.pages import write_progress_page
from xpcap.training.history import best_of
from xpcap.training.solver import CaptioningSolver
from xpcap.training.state import TrainingState


class Keeper:
    """Writes a run folder as training goes on.

    `last.safetensors` comes first, and alone decides how training goes on: it holds the history, and at the end of an epoch that is the best
    also the best parameters. So a process may be killed between any two writes; `go_on` makes up for those that are missing.

    Parameters
    ----------
    out : the run folder
    epochs : how many there are to be
    scaling, vocabulary : of the run; the digest of the latter
    """

    def __init__(self, out: Path, epochs: int, scaling: FeatureScaling, vocabulary: str) -> None:
        self._out, self._epochs, self._scaling, self._vocabulary = out, epochs, scaling, vocabulary

    def write(self, state: TrainingState, times: list[dict[str, Any]] | None) -> None:
        """Write where training stands; with the `times` of all epochs where one has just ended, and then all there is to say of it too."""
        run_folder.save_state(self._out / run_folder.LAST, state, self._scaling, self._vocabulary)
        if times is not None:
            self._write_epoch(state, times)

    def _write_epoch(self, state: TrainingState, times: list[dict[str, Any]]) -> None:
        record = state.history[-1]
        if best_of(state.history) is record:
            run_folder.save_parameters(self._out / run_folder.BEST, state.params, self._scaling, {**record, "vocabulary": self._vocabulary})
        run_folder.write_lines(self._out / run_folder.HISTORY, state.history)
        run_folder.write_lines(self._out / run_folder.TIMES, times)
        draw_loss(self._out / "loss.png", state.history)
        write_progress_page(self._out, self._epochs, state.history)

    def go_on(self, solver: CaptioningSolver, state: TrainingState) -> None:
        """Bring a solver to where training stood.

        Raises
        ------
        DataError : the best parameters are not there, or not those of the epoch that was the best.
        """
        between = state.order is None and state.history
        best = best_of(state.history)
        solver.restore(state, None if best is None or (between and best is state.history[-1]) else self._best(best, state))
        solver.times = run_folder.read_times(self._out, state.epoch)
        if between:
            self._write_epoch(state, solver.times)

    def _best(self, best: Mapping[str, Any], state: TrainingState) -> dict[str, np.ndarray]:
        path = self._out / run_folder.BEST
        tensors, _, meta = run_folder.load_parameters(path)
        if meta.get("epoch") != best["epoch"] or meta.get("vocabulary") != self._vocabulary:
            raise DataError(
                f"train: {path} is of epoch {str(meta.get('epoch'))[:20]}, expected epoch {best['epoch']}, the best of {run_folder.LAST}; from another run?"
            )
        run_folder.check_parameters(path, tensors, state.params.shapes)
        return tensors
