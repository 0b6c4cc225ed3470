"""Training from options to a run folder."""

import contextlib
import platform
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from xpcap import checkpoint
from xpcap.backend import get_backend
from xpcap.data import CaptionData, open_data, write_dataset
from xpcap.data.hdf5 import stamp_of
from xpcap.data.pictures import generate, write_pictures
from xpcap.data.scaling import fit_scaling
from xpcap.models import CaptioningRNN
from xpcap.report import draw_loss
from xpcap.runs.evaluation import Evaluation, evaluate_run
from xpcap.runs.options import DATA, PICTURES, TrainOptions, with_out
from xpcap.runs.pages import write_progress_page, write_run_page
from xpcap.solver import CaptioningSolver


class Trained(NamedTuple):
    """A finished run, opened with its best parameters, and its scores on the val split where the data has one."""

    run: checkpoint.Run
    evaluation: Evaluation | None


def train_run(options: TrainOptions, on_epoch: Callable[[CaptioningSolver], None] | None = None, progress: bool = False) -> Trained:
    """Train a captioner, score it, and leave a run folder with its page.

    Parameters
    ----------
    options : what to train, and where to
    on_epoch : called with the solver after each epoch, once the epoch is on disk

    Raises
    ------
    DataError : the data is not what it should be, or the folder exists. OSError : the place cannot be written to.
    """
    out = with_out(options).out
    assert out is not None
    checkpoint.check_free(out)  # before any work is done
    made = [folder for folder in (out, *out.parents) if not folder.exists()]
    try:
        history = _fit(options, out, on_epoch, progress)
    except BaseException:
        if made and not (out / checkpoint.BEST).exists():
            _remove(made)  # nothing in there to keep, and the same command may be given again
        raise
    run = checkpoint.open_run(out)
    evaluation = evaluate_run(run, split="val", progress=progress) if "val_loss" in history[-1] else None
    write_run_page(run, history, evaluation)
    return Trained(run, evaluation)


def _fit(options: TrainOptions, out: Path, on_epoch: Callable[[CaptioningSolver], None] | None, progress: bool) -> list[dict[str, Any]]:
    """Train, with everything on disk after each epoch, and return the history. What training held in memory is free afterwards."""
    data = open_data(options.data) if options.data else _generated(options.seed)
    data.scaling = fit_scaling(options.feature_scaling, data.split("train").features)
    model = CaptioningRNN(
        data.vocabulary.word_to_idx, data.feature_dim, options.wordvec, options.hidden, options.cell, dropout=options.dropout, seed=options.seed
    )  # fmt: skip

    def save(solver: CaptioningSolver) -> None:
        record = {**solver.history[-1], "vocabulary": checkpoint.digest(data.vocabulary)}
        checkpoint.save_parameters(out / checkpoint.LAST, model.params, data.scaling, record)
        if solver.best_epoch == solver.epoch:
            checkpoint.save_parameters(out / checkpoint.BEST, model.params, data.scaling, record)
        checkpoint.write_lines(out / checkpoint.HISTORY, solver.history)
        checkpoint.write_lines(out / checkpoint.TIMES, solver.times)
        draw_loss(out / "loss.png", solver.history)
        write_progress_page(out, options.epochs, solver.history)
        if on_epoch is not None:
            on_epoch(solver)

    solver = CaptioningSolver(
        model, data, update_rule="adam", optim_config={"learning_rate": options.lr}, lr_decay=options.lr_decay, batch_size=options.batch_size,
        num_epochs=options.epochs, clip_norm=options.clip or None, seed=options.seed, verbose=False, progress=progress, on_epoch=save,
    )  # fmt: skip
    checkpoint.create_run(out, _config(options, data), data.vocabulary)
    if options.data is None:
        write_dataset(out / DATA, data)
        write_pictures(out / PICTURES, data, "val")
    with np.errstate(all="ignore"):  # a loss that is not finite is an error of the solver's, with more to say
        solver.train()
    return solver.history


def _generated(seed: int) -> CaptionData:
    """Generated pictures with the stamp that their file will have."""
    data = generate(seed)
    data.stamp = stamp_of(data)
    return data


def _remove(made: list[Path]) -> None:
    """Remove the run folder that was just made, made[0], and the parents made for it, as far as they are empty."""
    shutil.rmtree(made[0], ignore_errors=True)
    for parent in made[1:]:
        with contextlib.suppress(OSError):  # not made yet, or in use by somebody else by now
            parent.rmdir()


def _config(options: TrainOptions, data: CaptionData) -> dict[str, Any]:
    settings = {key: value for key, value in asdict(options).items() if key != "out"}
    settings["data"] = str(options.data.resolve()) if options.data else DATA
    made = {"backend": get_backend(), "feature_dim": data.feature_dim, "max_words": data.max_words, "vocabulary": len(data.vocabulary)}
    versions = {"python": platform.python_version(), "numpy": np.__version__}
    return {**settings, **made, **versions, "data_stamp": data.stamp, "source": dict(data.source)}
