"""train_run: from options to a finished run folder, in one go or continuing a run that is there."""

import contextlib
import json
import os
import platform
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from xpcap.backend import get_backend
from xpcap.data import CaptionData, open_data
from xpcap.data.features import FeatureScaling, fit_scaling
from xpcap.data.hdf5 import stamped
from xpcap.distributed import SINGLE, Group
from xpcap.distributed.mpi import VARIABLE
from xpcap.errors import DataError, GroupError, OptionError
from xpcap.models import CaptioningRNN, ModelConfig, build_model
from xpcap.runs.folder import (
    CONFIG,
    DATA,
    FIRST,
    LAST,
    LOCK,
    OTHER_MASKS,
    Run,
    Saved,
    check_free,
    check_resumable,
    check_scaling,
    digest,
    has_run,
    load_saved,
    open_run,
    read_config,
    reserved,
    tidy,
)
from xpcap.runs.options import (
    TrainOptions,
    check_agreement,
    check_options,
    default_out,
    epochs_for,
    first_stage,
    is_staged,
    open_start,
    options_of,
    second_stage,
    settings_of,
)
from xpcap.runs.pages import write_run_page
from xpcap.runs.saver import Keeper, Saver, StopRequest, furnish, interval
from xpcap.runs.scoring import Evaluation, evaluate_run
from xpcap.shapes import generate
from xpcap.training.objectives import CROSS_ENTROPY, SELF_CRITICAL, Objective, SelfCritical, sharpen, smoothed_cross_entropy
from xpcap.training.solver import CaptioningSolver


class Trained(NamedTuple):
    """A finished run, opened with its best parameters, and its scores on the val split if the data has one."""

    run: Run
    evaluation: Evaluation | None


Hook = Callable[[CaptioningSolver], None]
Remark = Callable[[str], object]


def train_run(
    options: TrainOptions, *, on_epoch: Hook | None = None, progress: bool = False, on_resume: Hook | None = None, on_remark: Remark = warnings.warn,
    group: Group = SINGLE, on_stage: Callable[[TrainOptions], object] | None = None, on_begin: Hook | None = None, on_step: Hook | None = None,
) -> Trained:  # fmt: skip
    """Train a captioner, score it, and leave a run folder with its page.

    With `score_epochs` the run has two stages. The first, of cross entropy, is a run of its own in the folder ``cross-entropy`` there; where no epoch
    of the second has a higher CIDEr-D on the val split, the run keeps the parameters of the first. Meanwhile SIGINT and SIGTERM finish the step, save,
    and raise Stopped; a second SIGINT ends the process at once.

    Parameters
    ----------
    options : what to train, and where to. With `resume` the run at `out` is continued as if it had never stopped
    on_epoch : called with the solver at the end of each epoch, once its checkpoint is on its way to disk
    progress : show progress bars on a terminal
    on_resume : called with the solver when a run is continued, before its first step
    on_remark : called with a sentence where a run goes on otherwise than it began, in another xpcap or on other ranks
    group : the ranks that train together, from `xpcap.distributed.init()`; `options` are rank 0's. Rank 0 writes; all return the same
    on_stage : called with the options of the second stage before it begins or goes on
    on_begin : called with the solver before the first step of a stage, or before the stage goes on
    on_step : called with the solver after each step, and between the batches of a validation

    Raises
    ------
    GroupError : ranks that differ. DataError : the data is not what it should be; `out` exists, holds something else, or is being trained by another process.
    OptionError : a bad option, or options that contradict those of the run to continue. SaveError : a checkpoint could not be written.
    TrainingError : the loss or a gradient is no longer finite. Stopped : a signal asked to stop, and training is saved. OSError : `out`
        cannot be written to.
    """
    interval(options.save_every)  # complains before any work is done
    check_options(options)
    data = open_data(options.data) if group.rank and options.data else None  # before the folder is made: a rank without the data ends all
    out = Path(group.all_gather(str(options.out or default_out(options)))[0])
    hooks = Hooks(on_epoch, progress, on_resume, on_remark, group, on_begin, on_step)
    with _reserved(out, options.resume) if group.rank == 0 else contextlib.nullcontext():
        group.all_gather("the place is reserved")
        if not is_staged(options, out):
            return _train(replace(options, out=out), out, hooks, data)[0]
        first = first_stage(options, out)
        group.all_gather("the stage is known")
        if first is not None:
            with _reserved(out / FIRST, True) if group.rank == 0 else contextlib.nullcontext():
                _, data = _train(first, out / FIRST, hooks, data)
        second = second_stage(options, out)
        group.all_gather("the first stage is done")
        if on_stage is not None:
            on_stage(second)
        return _train(second, out, hooks, data)[0]


class Hooks(NamedTuple):
    """How training is followed, and the ranks that share it; see train_run."""

    on_epoch: Hook | None
    progress: bool
    on_resume: Hook | None
    on_remark: Remark
    group: Group
    on_begin: Hook | None
    on_step: Hook | None


def _train(options: TrainOptions, out: Path, hooks: Hooks, opened: CaptionData | None) -> tuple[Trained, CaptionData]:
    """Train in a folder that is reserved, on data that may be open already; it is returned as well."""
    hooks.group.all_gather("the folder is there")
    records, data = _fit(options, out, hooks, opened)
    hooks.group.all_gather("all is written")
    run = open_run(out)
    evaluation = evaluate_run(run, data, "val", progress=hooks.progress, group=hooks.group) if "val_loss" in records[-1] else None
    if hooks.group.rank == 0:
        write_run_page(run, records, evaluation, data)
    return Trained(run, evaluation), data


@contextlib.contextmanager
def _reserved(out: Path, resume: bool) -> Iterator[None]:
    """The run folder, made if need be, kept from other trainers, and tidied up."""
    if resume:
        check_resumable(out)
    else:
        check_free(out)
    with reserved(out, may_exist=resume):
        tidy(out)
        yield


def _fit(options: TrainOptions, out: Path, hooks: Hooks, opened: CaptionData | None) -> tuple[list[dict[str, Any]], CaptionData]:
    """Train to the end; return the records and the data. What training itself held in memory is free afterwards."""
    on_epoch, progress, on_resume, on_remark, group, on_begin, on_step = hooks
    first = group.rank == 0
    config = read_config(out) if has_run(out) else None
    data = _data(options, out, config, opened, progress)
    if not options.epochs:
        options = replace(options, epochs=epochs_for(len(data.split("train").captions), options.batch_size))
    if config is not None:
        check_agreement(options, options_of(config, out))
    model = build_model(_model_config(options, data), data.vocabulary.word_to_idx, seed=options.seed)
    saved = None if config is None else _saved(out, config, data, model, on_remark)
    check_agreement_of_ranks(group, out, settings_of(options), data.stamp, 0 if saved is None else saved.state.iteration)
    data.scaling = scaling = _begin(options, model, data, saved, config, group)
    keeper = Keeper(out, options.epochs, scaling, digest(data.vocabulary), first)
    stop = StopRequest(first)
    saver = Saver(interval(options.save_every), keeper.write, out, stop, keeper.finish, group)
    solver = _solver(options, model, data, progress, _both(saver.on_step, on_step), _both(saver.on_epoch, on_epoch), group)
    if saved is None and options.start is not None:
        _score_start(solver, options)
    if first:
        furnish(options, out, data, model.config, config)
    if saved is None:
        keeper.begin(solver)
    else:
        keeper.restore(solver, saved.state)
        _remark_ranks(solver, out, on_remark)
        if on_resume is not None:
            on_resume(solver)
    if not solver.finished:
        if on_begin is not None:
            on_begin(solver)
        solver.warm_up()
        saver.begin(solver.iteration)
        with stop, saver, np.errstate(all="ignore"):  # a loss that is not finite is an error of the solver's, with more to say
            solver.train()
        saver.check_stop(solver)
    return solver.records, data


def _both(first: Hook, second: Hook | None) -> Hook:
    """A hook that calls two, one after the other."""

    def both(solver: CaptioningSolver) -> None:
        first(solver)
        if second is not None:
            second(solver)

    return both


def _begin(
    options: TrainOptions, model: CaptioningRNN, data: CaptionData, saved: Saved | None, config: Mapping[str, Any] | None, group: Group
) -> FeatureScaling:  # fmt: skip
    """The scaling of features. Of a run that starts from another, and has no checkpoint yet, the model gets the other's parameters."""
    if saved is not None:
        return saved.scaling
    if options.start is None and options.objective == SELF_CRITICAL:
        raise OptionError("train_run: `objective` is self-critical without `start`, expected the run folder of a captioner that speaks already")
    if options.start is None:
        return scaling_of_first(group, options.feature_scaling, data)
    start = open_start(options.start, data, None if config is None else config.get("start_digest"))
    model.params = start.model.params
    return start.scaling


def _score_start(solver: CaptioningSolver, options: TrainOptions) -> None:
    """Score the run that training starts from, as it is; training on the score then begins with its scores sharpened."""
    if "val" in solver.data.splits:
        solver.score_start()
    if options.objective == SELF_CRITICAL:
        sharpen(solver.model.params, options.sharpen)


def _solver(
    options: TrainOptions, model: CaptioningRNN, data: CaptionData, progress: bool, on_step: Hook, on_epoch: Hook, group: Group
) -> CaptioningSolver:  # fmt: skip
    objective, batch_size = _objective(options, data, group)
    return CaptioningSolver(
        model, data, update_rule="adam", optim_config={"learning_rate": options.lr}, lr_decay=options.lr_decay,
        select=options.select, batch_size=batch_size, num_epochs=options.epochs, patience=options.patience or None,
        clip_norm=options.clip or None, seed=options.seed, verbose=False, progress=progress, on_step=on_step, on_epoch=on_epoch,
        objective=objective, group=group,
    )  # fmt: skip


def _objective(options: TrainOptions, data: CaptionData, group: Group) -> tuple[Objective, int]:
    """The objective, and how much a step visits: captions, or the pictures that so many captions are sampled of."""
    if options.objective == CROSS_ENTROPY:
        return smoothed_cross_entropy(options.smoothing), options.batch_size
    return SelfCritical(data, samples=options.samples, group=group), max(1, options.batch_size // options.samples)


def _model_config(options: TrainOptions, data: CaptionData) -> ModelConfig:
    grid, attends = len(data.feature_shape) > 1, "attention" in options.inject
    if grid and not attends:
        raise OptionError(
            f"train_run: `inject` is {options.inject}, for one feature a picture, and the data has grids of {data.feature_shape[0]} places, expected "
            "`inject` attention, or attention+every-step; or prepare the data without a grid"
        )
    if attends and not grid:
        raise OptionError(
            f"train_run: `inject` is {options.inject}, for grids, and the data has one feature a picture, of size {data.feature_dim}, expected places to "
            "attend to: prepare the data with `grid` 5, or give `inject` every-step"
        )
    sizes = len(data.vocabulary), data.feature_shape, options.wordvec, options.hidden
    return ModelConfig(*sizes, cell=options.cell, dropout=options.dropout, inject=options.inject)


def _data(options: TrainOptions, out: Path, config: Mapping[str, Any] | None, opened: CaptionData | None, progress: bool) -> CaptionData:
    """What to train on, which may be `opened` already. For a run to continue it must be the data that the run began with, wherever that is by now."""
    path = Path(options.data or out / DATA)
    data = opened or (open_data(path) if options.data or path.exists() else stamped(generate(options.seed, progress=progress)))
    if config is not None and config["data_stamp"] != data.stamp:
        raise DataError(
            f"train_run: {path} is not the data that {out} began with, expected the same, unchanged; give its path as `data`, or begin another run"
        )
    return data


def _saved(out: Path, config: Mapping[str, Any], data: CaptionData, model: CaptioningRNN, on_remark: Remark) -> Saved | None:
    """The checkpoint of a run; None if it ended before the first."""
    path = out / LAST
    if not path.exists():
        return None
    saved = load_saved(path, model.params.shapes)
    if saved.vocabulary != digest(data.vocabulary):
        raise DataError(f"train_run: {path} was trained with another vocabulary than that of its data, expected the same; from another run?")
    check_scaling(path, saved.scaling, config)
    if saved.drew_masks_in_turn and model.dropout:
        on_remark(f"train_run: {path} {OTHER_MASKS}")
    return saved


def _remark_ranks(solver: CaptioningSolver, out: Path, on_remark: Remark) -> None:
    before, now = (solver.times[-1] if solver.times else {}).get("ranks", 1), solver.group.size
    if solver.times and before != now:
        on_remark(
            f"train_run: {out} was trained by {before} process(es) and goes on with {now}: same batches, same dropout; sums are rounded differently"
        )


# What ranks must have in common


OWN = (VARIABLE, "XPCAP_BACKEND")  # of our variables those that ranks may differ in: a backend's name is compared without its device


def check_agreement_of_ranks(group: Group, out: Path, settings: Mapping[str, Any], stamp: str, iteration: int) -> None:
    """Compare versions, environment, options, data and run folder of all ranks. Every rank raises the same error.

    Parameters
    ----------
    settings : the options, as the config stores them
    stamp : of the data
    iteration : of the checkpoint to go on from; 0: none

    Raises
    ------
    GroupError : a rank differs from rank 0 in one of them. DataError : a rank does not see the run folder as rank 0 does.
    """
    if group.size == 1:
        return
    ours = {
        "xpcap": sys.modules["xpcap"].__version__,
        "Python": platform.python_version(),
        "NumPy": np.__version__,
        "backend": get_backend().partition(":")[0],
        "environment": {name: value for name, value in sorted(os.environ.items()) if name.startswith("XPCAP_") and name not in OWN},
        "option": {name: value for name, value in sorted(settings.items()) if name != "data"},  # a path may differ from machine to machine
        "data's stamp": stamp,
        "run folder": (out / LOCK).exists() or (out / CONFIG).exists(),
        "checkpoint's iteration": iteration,
    }
    everyone = [json.loads(text) for text in group.all_gather(json.dumps(ours))]
    for rank, theirs in enumerate(everyone):
        _compare(rank, theirs, everyone[0], out)


def scaling_of_first(group: Group, kind: str, data: CaptionData) -> FeatureScaling:
    """The scaling of a kind that rank 0 fits to the train split, the same bits on every rank."""
    fitted = fit_scaling(kind, data.split("train").features) if group.rank == 0 else FeatureScaling()
    if group.size == 1:
        return fitted
    told = json.loads(group.all_gather(json.dumps([numbers.tolist() for numbers in fitted if numbers is not None]))[0])
    return FeatureScaling(*(np.array(numbers, np.float32) for numbers in told))


def _compare(rank: int, theirs: Mapping[str, Any], first: Mapping[str, Any], out: Path) -> None:
    if not theirs["run folder"] or theirs["checkpoint's iteration"] != first["checkpoint's iteration"]:
        raise DataError(
            f"train_run: rank {rank} does not see {out} as rank 0 does, expected one folder for all ranks; is `out` on a disk that its machine shares?"
        )
    for thing, value in theirs.items():
        if value != first[thing]:
            if isinstance(value, dict):
                name = next(name for name in {**value, **first[thing]} if value.get(name) != first[thing].get(name))
                thing, value, other = f"{thing} {name}", value.get(name), first[thing].get(name)
            else:
                other = first[thing]
            raise GroupError(f"train_run: rank {rank} has {thing} {value!r:.80}, rank 0 has {other!r:.80}, expected the same on every rank")
