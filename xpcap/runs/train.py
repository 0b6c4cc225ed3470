"""`train_run`: from options to a finished run folder, new or resumed."""

import contextlib
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from xpcap.data import CaptionData, open_data
from xpcap.data.hdf5 import with_fingerprint
from xpcap.distributed import SINGLE, Group
from xpcap.errors import DataError, OptionError
from xpcap.models import CaptioningRNN, ModelConfig, build_model
from xpcap.models.config import has_attention
from xpcap.runs.captions import captioned
from xpcap.runs.card import write_run_card
from xpcap.runs.folder import (
    LAST,
    Checkpoint,
    check_scaling,
    digest,
    load_checkpoint,
    reserved,
)
from xpcap.runs.pages import write_run_page
from xpcap.runs.plan import Stage, default_out, plan_training
from xpcap.runs.ranks import check_ranks, fitted_scaling
from xpcap.runs.recipe import Recipe
from xpcap.runs.rerank import drop_ranking, fit_ranking
from xpcap.runs.run import Run, open_run
from xpcap.runs.saver import Checkpointer, RunWriter, StopRequest, write_start
from xpcap.runs.scores import Scores, evaluate_run
from xpcap.runs.start import (
    MIN_GAIN,
    data_from,
    first_parameters,
    inverse_temperature,
    open_base,
    write_inherited,
)
from xpcap.runs.trained_on import trained_on, write_trained_on
from xpcap.selfcheck import computing
from xpcap.shapes import generate
from xpcap.training.objectives import (
    CROSS_ENTROPY,
    SELF_CRITICAL,
    CrossEntropy,
    Objective,
    SelfCritical,
    scale_logits,
)
from xpcap.training.solver import CaptioningSolver
from xpcap.training.state import Record
from xpcap.training.watcher import Watcher, checked_watchers
from xpcap.work import current, notice, work


class Trained(NamedTuple):
    """A finished run, opened with its best parameters, and its scores on val if there is one."""

    run: Run
    evaluation: Scores | None


def train_run(
    options: Recipe,
    *,
    watchers: Iterable[Watcher] = (),
    progress: bool | None = None,
    group: Group | None = None,
) -> Trained:
    """Train a captioner, score it, and write its run folder, page and model card.

    With `score_epochs` the run has two stages. The first, of cross entropy, is a run of its own in
    the subfolder ``cross-entropy``; if no epoch of the second has a higher CIDEr-D on the val
    split, the run keeps the parameters of the first. Meanwhile SIGINT, SIGTERM and SIGHUP finish
    the step, save, and raise Stopped; a second SIGINT ends the process at once.

    Parameters
    ----------
    options : Recipe
        With `resume` the run at `out` is continued as if it had never stopped.
    watchers : iterable of Watcher
        Told of stages, steps and epochs; each epoch once it is saved. ``solver.stop(why)`` ends the
        stage after an epoch, and the run is scored and written as it is.
    progress : bool or None
        Show progress bars on a terminal. None: as the work in hand does, by default not.
    group : Group or None
        The ranks that train together, from `xpcap.distributed.init()`; `options` are rank 0's. Rank
        0 writes; all return the same. None: those of the work in hand, by default this process.

    Returns
    -------
    trained : Trained
        The run, opened with its best parameters, and its scores on val if there is such a split.

    Raises
    ------
    GroupError
        Ranks that differ.
    DataError
        The data does not fit; `out` exists, holds something else, or is being trained by another
        process.
    OptionError
        Options that contradict those of the run to continue, or do not fit the data.
    TypeError
        `watchers` are no list of watchers.
    SaveError
        A checkpoint could not be written.
    TrainingError
        The loss or a gradient is no longer finite.
    Stopped
        A signal stopped training, which is saved.
    OSError
        `out` cannot be written to.
    """
    told = checked_watchers("train_run", watchers)
    with work(group=group, progress=progress) as group:
        # A rank without the data ends all, before the folder is created
        opened = open_data(options.data) if group.rank and options.data else None
        out = Path(group.gather(str(options.out or default_out(options)))[0])

        def open_path(path: Path | None) -> CaptionData:
            if opened is not None:
                return opened
            return open_data(path) if path else with_fingerprint(generate(options.seed))

        def reserve(folder: Path, resume: bool) -> contextlib.AbstractContextManager[None]:
            return contextlib.nullcontext() if group.rank else reserved(folder, resume)

        with reserve(out, options.resume):
            group.barrier()  # the folder is reserved
            plan = plan_training(replace(options, out=out), open_path)
            check_ranks(out, plan)
            for stage in plan.stages:
                for watcher in told:
                    watcher.stage(stage.options)
                first = stage.folder != out
                with reserve(stage.folder, True) if first else contextlib.nullcontext():
                    records = _train(stage, plan.data, told)
                    group.barrier()  # all is written
                    rerank = stage.options.neighbours and stage is plan.stages[-1]
                    trained = _finish(stage.folder, records, plan.data, rerank)
            return trained


def _finish(folder: Path, records: list[Record], data: CaptionData, rerank: bool) -> Trained:
    """Rerank captions if `rerank`, score them, and draw what people read of a stage that is trained."""
    if not rerank:
        drop_ranking(folder)
    run, evaluation = open_run(folder), None
    with computing(run.config.way):
        if rerank:
            fit_ranking(run, run.data(data))
            run = open_run(folder)
        if "val_loss" in records[-1]:
            evaluation = evaluate_run(run, data, "val")
        if current().group.rank == 0:
            with work(group=SINGLE):
                write_run_page(run, records, evaluation, data)
                write_run_card(run, evaluation, data)
    return Trained(run, evaluation)


def _train(stage: Stage, data: CaptionData, watchers: Sequence[Watcher]) -> list[Record]:
    """Train a stage to its end; return its records. The memory of training is free afterwards."""
    options, folder, group = stage.options, stage.folder, current().group
    resumed = stage.config is not None and (folder / LAST).exists()
    base = None if options.start is None or resumed else open_base(stage, data)
    if options.start is not None:
        data = data_from(stage, data, base)
    # Of other data, as in a warm start
    warm = base if base is not None and base.config.data_stamp != data.fingerprint else None
    if warm is not None and "val" in data.splits:
        trained_on(warm, data, "val", captioned(data, "val"))
    config, words = _model_config(options, data), data.vocabulary.word_to_idx
    model = build_model(config, words, seed=options.seed)
    checkpoint = _checkpoint(stage, data, model) if resumed else None
    if checkpoint is not None:
        scaling = checkpoint.scaling
    elif base is not None:
        scaling, model.params = base.scaling, first_parameters(base, config)
    else:
        scaling = fitted_scaling(options.feature_scaling, data)
    data.scaling = scaling
    writer = RunWriter(folder, options.epochs, scaling, digest(data.vocabulary))
    stop = StopRequest()
    saver = Checkpointer(options.save_interval, writer, stop)
    objective, batch_size = _objective(options, data, group)
    select, patience = _choice(options, data)
    solver = CaptioningSolver(
        model,
        data,
        update_rule="adam",
        optim_config={"learning_rate": options.lr},
        lr_decay=options.lr_decay,
        select=select,
        batch_size=batch_size,
        num_epochs=options.epochs,
        patience=patience,
        clip_norm=options.clip or None,
        seed=options.seed,
        verbose=False,
        watchers=[saver, *watchers],
        objective=objective,
        group=group,
    )
    solver.warm_up()
    with computing(solver.way):
        if base is not None:
            if "val" in data.splits:
                solver.score_start()
            if options.objective == SELF_CRITICAL:
                scale_logits(model.params, options.sharpen)
            elif warm is not None:
                scale_logits(model.params, 1 / inverse_temperature(warm))
                if solver.start is not None:
                    solver.require_gain(MIN_GAIN)
        if group.rank == 0:
            write_start(stage, data, model.config)
            if checkpoint is None:
                write_trained_on(folder, data, base)
            if warm is not None:
                write_inherited(folder, warm)
        if checkpoint is None:
            writer.begin(solver)
        else:
            writer.restore(solver, checkpoint.state)
            _warn_if_ranks_changed(writer)
        if solver.finished:
            for watcher in watchers:
                watcher.begin(solver)
        else:
            # The solver itself reports a loss that is not finite
            with stop, np.errstate(all="ignore"):
                try:
                    solver.train()
                finally:
                    writer.update_page(now=True)
            saver.check_stop(solver)
    return solver.records


def _objective(options: Recipe, data: CaptionData, group: Group) -> tuple[Objective, int]:
    """The objective, and its batch size: in captions, or in pictures to sample captions of."""
    assert options.batch_size is not None  # as `plan_training` settles it
    if options.objective == CROSS_ENTROPY:
        return CrossEntropy(options.smoothing or 0.0), options.batch_size
    objective = SelfCritical(data, samples=options.samples, group=group)
    return objective, max(1, options.batch_size // options.samples)


def _choice(options: Recipe, data: CaptionData) -> tuple[str, int | None]:
    """The solver's `select` and `patience`; notices on options that the data has no use for."""
    select, patience = options.select or "cider", options.patience or None
    lacks_val = "val" not in data.splits
    if lacks_val and select == "cider":
        notice("train_run: the data has no val split to score: the last epoch is kept")
        select = "loss"  # whose records are those of the last without a val split
    if patience is not None and (lacks_val or select == "last"):
        why = "the data has no val split" if lacks_val else "the last epoch is kept"
        notice(f"train_run: patience {patience} ends nothing, as {why}")
        patience = None
    return select, patience


def _model_config(options: Recipe, data: CaptionData) -> ModelConfig:
    grid, attends = len(data.feature_shape) > 1, has_attention(options.inject)
    if grid and not attends:
        raise OptionError(
            "train_run",
            "`inject`",
            f"is {options.inject}, which takes one feature per picture, but the data has grids of"
            f" {data.feature_shape[0]} regions",
            expected="`inject` attention, or attention+every-step",
            cause="or prepare the data without a grid",
        )
    if attends and not grid:
        raise OptionError(
            "train_run",
            "`inject`",
            f"is {options.inject}, which needs a grid, but the data has one feature per picture, of"
            f" size {data.feature_dim}",
            expected="data prepared with a grid, such as 5, or `inject` every-step",
        )
    sizes = len(data.vocabulary), data.feature_shape, options.wordvec, options.hidden
    return ModelConfig(*sizes, cell=options.cell, dropout=options.dropout, inject=options.inject)


def _checkpoint(stage: Stage, data: CaptionData, model: CaptioningRNN) -> Checkpoint:
    """The checkpoint to continue from."""
    path = stage.folder / LAST
    checkpoint = load_checkpoint(path, model.params.shapes)
    if checkpoint.vocabulary != digest(data.vocabulary):
        got = "was trained with another vocabulary than that of its data"
        raise DataError("train_run", path, got, "the same", "from another run?")
    check_scaling(path, checkpoint.scaling, stage.options.feature_scaling, data.feature_shape[-1])
    return checkpoint


def _warn_if_ranks_changed(writer: RunWriter) -> None:
    now = current().group.size
    before = writer.times[-1].get("ranks", 1) if writer.times else now
    if before != now:
        notice(
            f"train_run: {writer.out} was trained by {before} process(es) and continues with {now}: same"
            " batches, same dropout; sums are rounded differently"
        )
