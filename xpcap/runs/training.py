"""Training from options to a run folder, and going on with one."""

import contextlib
import platform
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from xpcap.backend import get_backend
from xpcap.data import CaptionData, open_data
from xpcap.data.hdf5 import stamped, write_stamped
from xpcap.data.pictures import generate, write_pictures
from xpcap.data.scaling import fit_scaling
from xpcap.errors import DataError
from xpcap.files import PART, remove_parts
from xpcap.models import CaptioningRNN
from xpcap.runs import folder as run_folder
from xpcap.runs.evaluation import Evaluation, evaluate_run
from xpcap.runs.keeping import Keeper
from xpcap.runs.options import DATA, NO_SETTINGS, PICTURES, TrainOptions, agree, options_of, with_out
from xpcap.runs.pages import write_run_page
from xpcap.runs.saving import Saver, interval
from xpcap.runs.stopping import StopRequest
from xpcap.training.solver import CaptioningSolver


class Trained(NamedTuple):
    """A finished run, opened with its best parameters, and its scores on the val split where the data has one."""

    run: run_folder.Run
    evaluation: Evaluation | None


Hook = Callable[[CaptioningSolver], None]


def train_run(options: TrainOptions, on_epoch: Hook | None = None, progress: bool = False, on_resume: Hook | None = None) -> Trained:
    """Train a captioner, score it, and leave a run folder with its page.

    While it trains, SIGINT and SIGTERM make it finish the step and save; a second SIGINT ends the process at once.

    Parameters
    ----------
    options : what to train, and where to. With `resume` a run that is there already is gone on with, as if it had never been broken off
    on_epoch : called with the solver after each epoch, when that is about to be written
    on_resume : called with the solver when it has been brought to where the run stood

    Raises
    ------
    DataError : the data is not what it should be, or the folder exists, holds something else, or is being trained by another process.
    OptionError : options that contradict those of the run to go on with. SaveError : a checkpoint could not be written.
    TrainingError : a number is no longer finite. Stopped : a signal asked to stop, and training is saved. OSError : the place cannot be
        written to.
    """
    interval(options.save_every)
    options = with_out(options)
    out = options.out
    assert out is not None
    if options.resume:
        run_folder.is_begun(out)
    else:
        run_folder.check_free(out)  # before any work is done
    made = _make(out, options.resume)
    with run_folder.lock(out):
        try:
            history, data = _fit(options, out, on_epoch, progress, on_resume)
            run = run_folder.open_run(out)
            evaluation = evaluate_run(run, data, "val", progress) if "val_loss" in history[-1] else None
            write_run_page(run, history, evaluation)
        except BaseException:
            if made and not (out / run_folder.LAST).exists():
                shutil.rmtree(out, ignore_errors=True)  # nothing in there to keep, and the same command may be given again
                _remove_empty(made)
            raise
    return Trained(run, evaluation)


def _fit(options: TrainOptions, out: Path, on_epoch: Hook | None, progress: bool, on_resume: Hook | None) -> tuple[list[dict[str, Any]], CaptionData]:
    """Train to the end; return the history and the data. What training itself held in memory is free afterwards."""
    _tidy(out)
    config = run_folder.read_config(out) if (out / run_folder.CONFIG).is_file() else None
    if config is not None:
        agree(options, options_of(config, out))
    data = _data(options, out, config)
    model = CaptioningRNN(
        data.vocabulary.word_to_idx, data.feature_dim, options.wordvec, options.hidden, options.cell, dropout=options.dropout, seed=options.seed
    )  # fmt: skip
    saved = _saved(out, config, data, model) if config is not None else None
    data.scaling = saved.scaling if saved is not None else fit_scaling(options.feature_scaling, data.split("train").features)
    keeper = Keeper(out, options.epochs, data.scaling, run_folder.digest(data.vocabulary))
    stop = StopRequest()
    saver = Saver(interval(options.save_every), keeper.write, out, stop)

    def ended(solver: CaptioningSolver) -> None:
        saver.on_epoch(solver)
        if on_epoch is not None:
            on_epoch(solver)

    solver = CaptioningSolver(
        model, data, update_rule="adam", optim_config={"learning_rate": options.lr}, lr_decay=options.lr_decay, batch_size=options.batch_size,
        num_epochs=options.epochs, patience=options.patience or None, clip_norm=options.clip or None, seed=options.seed, verbose=False,
        progress=progress, on_step=saver.on_step, on_epoch=ended,
    )  # fmt: skip
    _furnish(options, out, data, config)
    if saved is not None:
        keeper.go_on(solver, saved.state)
        if on_resume is not None:
            on_resume(solver)
    if not solver.finished:
        saver.begin(solver.iteration)
        with stop, saver, np.errstate(all="ignore"):  # a loss that is not finite is an error of the solver's, with more to say
            solver.train()
        saver.heed(solver)
    return solver.history, data


def _data(options: TrainOptions, out: Path, config: Mapping[str, Any] | None) -> CaptionData:
    """What to train on: for a run to go on with, the very data that it began with, wherever that lies by now."""
    path = options.data or out / DATA
    data = open_data(path) if options.data or path.exists() else stamped(generate(options.seed))
    if config is not None and config["data_stamp"] != data.stamp:
        raise DataError(f"train: {path} is not the data that {out} began with, expected the same, unchanged; name it, or begin another run")
    return data


def _saved(out: Path, config: Mapping[str, Any], data: CaptionData, model: CaptioningRNN) -> run_folder.Saved | None:
    """Where a run stood; None where it was broken off before anything was saved."""
    path = out / run_folder.LAST
    if not path.exists():
        return None
    saved = run_folder.load_saved(path, model.params.shapes)
    if saved.vocabulary != run_folder.digest(data.vocabulary):
        raise DataError(f"train: {path} was trained with another vocabulary than that of its data, expected the same; from another run?")
    run_folder.check_scaling(path, saved.scaling, config)
    return saved


def _tidy(out: Path) -> None:
    """Remove what a killed process was writing."""
    remove_parts(out)
    pictures = out / f".{PICTURES}{PART}"
    if pictures.is_dir() and not pictures.is_symlink():
        shutil.rmtree(pictures)


def _furnish(options: TrainOptions, out: Path, data: CaptionData, config: Mapping[str, Any] | None) -> None:
    """What a run folder holds before training begins; of one that is there already, what is missing or has changed."""
    settings = _settings(options)
    if config is None:
        run_folder.write_config(out, {**settings, **_made_with(data)})
    elif any(config.get(key) != value for key, value in settings.items()):
        run_folder.write_config(out, {**config, **settings})
    if not (out / run_folder.VOCAB).exists():
        run_folder.write_vocabulary(out, data.vocabulary)
    if options.data is None and not (out / DATA).exists():
        write_stamped(out / DATA, data)
    if options.data is None and not (out / PICTURES).exists():
        write_pictures(out / PICTURES, data, "val")


def _settings(options: TrainOptions) -> dict[str, Any]:
    settings = {key: value for key, value in asdict(options).items() if key not in NO_SETTINGS}
    return {**settings, "data": str(options.data.resolve()) if options.data else DATA}


def _made_with(data: CaptionData) -> dict[str, Any]:
    made = {"backend": get_backend(), "feature_dim": data.feature_dim, "max_words": data.max_words, "vocabulary": len(data.vocabulary)}
    versions = {"python": platform.python_version(), "numpy": np.__version__}
    return {**made, **versions, "data_stamp": data.stamp, "source": data.source.to_json()}


def _make(out: Path, may_exist: bool) -> list[Path]:
    """Make a folder and its parents, and return those that were not there; what another process makes meanwhile is its own."""
    missing = [folder for folder in (out, *out.parents) if not folder.exists()]
    try:
        out.mkdir(parents=True, exist_ok=may_exist)
    except OSError:
        _remove_empty(missing)
        raise
    return missing


def _remove_empty(folders: list[Path]) -> None:
    for folder in folders:
        with contextlib.suppress(OSError):  # not made yet, or in use by somebody else by now
            folder.rmdir()
