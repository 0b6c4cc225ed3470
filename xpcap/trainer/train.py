"""`train_run`: trains a run, new or resumed, and writes its folder.

`last.safetensors` determines how training continues:

| state        | last.safetensors                  | next                                             |
|--------------|-----------------------------------|--------------------------------------------------|
| new          | missing                           | first stage, from fresh parameters or `start`    |
| first stage  | a checkpoint without `earlier`    | its other epochs, then a planned second stage    |
| second stage | a checkpoint with `earlier`       | its other epochs                                 |
| done         | a checkpoint after the last epoch | reranker, scores and pages, which are made again |

The second stage, self-critical training, starts from the best parameters of the first stage, cross
entropy, in `best.safetensors`, and continues its count of epochs. It scores these parameters
(`score_start`) and replaces them if an epoch has a higher CIDEr-D on val. Otherwise
`best.safetensors` keeps the first stage's parameters and epoch, and `provenance_text` says so.
"""

import contextlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from xpcap.backend.selfcheck import computing
from xpcap.captioning.captions import captioned
from xpcap.captioning.model_card import write_model_card
from xpcap.captioning.pages import write_run_page
from xpcap.captioning.scores import Scores, evaluate_run
from xpcap.data import CaptionData, open_data
from xpcap.data.hdf5 import with_fingerprint
from xpcap.distributed import SINGLE, Group
from xpcap.distributed.work import current, notice, work
from xpcap.drawings import generate
from xpcap.errors import DataError, OptionError
from xpcap.models import ModelConfig, build_model
from xpcap.models.config import has_attention
from xpcap.options import Flag
from xpcap.report.markup import render
from xpcap.reranking.file import write_reranker
from xpcap.runs.folder import (
    BEST,
    LAST,
    START_RERANKING,
    Checkpoint,
    check_scaling,
    digest,
    load_checkpoint,
    load_parameters,
    reserved,
)
from xpcap.runs.recipe import Recipe
from xpcap.runs.run import Run, open_run
from xpcap.runs.trained_on import trained_on, write_trained_on
from xpcap.trainer.plan import Plan, default_out, plan_training
from xpcap.trainer.ranks import check_ranks, fitted_scaling
from xpcap.trainer.reranking import drop_reranking, fit_reranking
from xpcap.trainer.saver import Checkpointer, RunWriter, StopRequest, history_of, write_start
from xpcap.trainer.start import Start, open_base, start_from, with_words
from xpcap.training.objectives import (
    CROSS_ENTROPY,
    CrossEntropy,
    Objective,
    SelfCritical,
    scale_logits,
)
from xpcap.training.solver import CaptioningSolver
from xpcap.training.state import Record
from xpcap.training.watcher import EpochLines, Watcher, checked_watchers


class Trained(NamedTuple):
    """A finished run, opened with its best parameters, and its scores on val if there is a val split."""

    run: Run
    evaluation: Scores | None

    def _repr_html_(self) -> str:
        """The folder and the table of scores, as a notebook shows them."""
        return render("scores.html", run=str(self.run.path), scores=self.evaluation).decode()


def train_run(
    options: Recipe,
    *,
    watchers: Iterable[Watcher] = (),
    verbose: bool = True,
    progress: bool | None = None,
    group: Group | None = None,
) -> Trained:
    """Train a captioner, score it, and write its run folder, page and model card.

    With `score_epochs`, a stage of self-critical training follows cross entropy. If none of its
    epochs has a higher CIDEr-D on the val split, the run keeps the best parameters of the first
    stage. During training, SIGINT, SIGTERM and SIGHUP finish the step, save, and raise Stopped; a
    second SIGINT ends the process at once.

    Parameters
    ----------
    options : Recipe
        With `resume` the run at `out` is continued as if it had never stopped.
    watchers : iterable of Watcher
        They are called at stages, steps and epochs, and at an epoch after it is saved.
        ``solver.stop(why)`` ends the stage after the current epoch; the run is then scored.
    verbose : bool
        Print a line for each epoch, on rank 0.
    progress : bool or None
        Show progress bars on a terminal. None: as the current work does, by default not.
    group : Group or None
        The ranks that train together, from `xpcap.distributed.init()`. Rank 0's `options` are used,
        and rank 0 writes; all return the same. None: the ranks of the current work, by default
        this process.

    Returns
    -------
    trained : Trained
        The run, opened with its best parameters, and its scores on val if there is such a split.

    Raises
    ------
    GroupError
        The ranks differ.
    DataError
        The data does not fit; `out` exists, holds something else, or is being trained by another
        process.
    OptionError
        Options contradict the run to continue, or do not fit the data.
    TypeError
        `watchers` is no list of watchers.
    SaveError
        A checkpoint could not be written.
    TrainingError
        The loss or a gradient is no longer finite.
    Stopped
        A signal stopped training, which is saved.
    OSError
        `out` cannot be written to.

    Examples
    --------
    >>> import tempfile
    >>> from xpcap import write_dataset
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     data, out = f"{folder}/own.h5", f"{folder}/run"
    ...     write_dataset(data, generate(train=40, val=10, progress=False))
    ...     run, scores = train_run(Recipe(data, out=out, hidden=8, epochs=1), verbose=False)
    ...     len(scores.captions)
    10
    """
    watchers = checked_watchers("train_run", watchers)
    verbose = Flag().check("`verbose`", verbose)
    with work(group=group, progress=progress) as group:
        if verbose and group.rank == 0:
            watchers += (EpochLines(),)
        # If a rank lacks the data, all end here, before the folder is created
        opened = open_data(options.data) if group.rank and options.data else None
        out = Path(group.gather(str(options.out or default_out(options)))[0])

        def open_path(path: Path | None, seed: int) -> CaptionData:
            if opened is not None:
                return opened
            if path:
                return open_data(path)
            return with_fingerprint(generate(seed))

        with contextlib.nullcontext() if group.rank else reserved(out, options.resume):
            group.barrier()  # the folder is reserved
            plan = plan_training(replace(options, out=out), open_path)
            check_ranks(plan)
            return _train_stages(plan, watchers)


def _train_stages(plan: Plan, watchers: Sequence[Watcher]) -> Trained:
    """Train the stages that are not done, then rerank, score and write the pages."""
    options = plan.options
    out = plan.out
    group = current().group
    path = out / LAST
    base = open_base(plan) if options.start is not None and not path.exists() else None
    data = plan.data if options.start is None else with_words(plan.data, out, base)
    config = _model_config(options, data)
    checkpoint = _checkpoint(path, options, data, config) if path.exists() else None
    is_warm = base is not None and base.config.data_stamp != data.fingerprint
    start = None
    if checkpoint is not None:
        data.scaling = checkpoint.scaling
    elif base is not None:
        data.scaling = base.scaling
        start = start_from(base, plan, config, is_warm)
        if is_warm and "val" in data.splits:
            trained_on(base, data, "val", captioned(data, "val"))
    else:
        data.scaling = fitted_scaling(options.feature_scaling, data)

    def write_files() -> None:
        """Write the files that precede training, once plain or fast code has been chosen."""
        write_start(plan, data, config)
        if checkpoint is None:
            write_trained_on(out, data, base)
        if base is not None and is_warm and base.reranker is not None:
            write_reranker(
                out / START_RERANKING, base.reranker, {}
            )  # after training it is extended

    earlier = [] if checkpoint is None else checkpoint.earlier
    writer = RunWriter(out, sum(stage.epochs for stage in plan.stages), data, earlier)
    stage, *later = plan.stages[bool(earlier) :]
    records = _train(stage, data, config, writer, checkpoint or start, watchers, write_files)
    if later:
        group.barrier()  # the first stage's best is written
        params, _, _ = load_parameters(out / BEST)
        start = Start(params, records[-1]["epoch"], later[0].sharpen)
        writer.earlier = records
        records = _train(later[0], data, config, writer, start, watchers)
    group.barrier()  # all files are written
    return _finish(out, history_of(writer.earlier, records), data, options.neighbours)


def _finish(out: Path, history: list[Record], data: CaptionData, rerank: bool) -> Trained:
    """Fit the reranker if `rerank`, score the captions, and write the page and the model card."""
    if not rerank:
        drop_reranking(out)
    with work(on_notice=lambda sentence: None):  # an old reranker, which is fitted anew below
        run = open_run(out)
        evaluation = None
    with computing(run.config.code):
        if rerank:
            fit_reranking(run, run.data(data))
            run = open_run(out)
        if "val" in data.splits:
            evaluation = evaluate_run(run, data, "val")
        if current().group.rank == 0:
            with work(group=SINGLE):
                write_run_page(run, history, evaluation, data)
                write_model_card(run, evaluation, data)
    return Trained(run, evaluation)


def _train(
    options: Recipe,
    data: CaptionData,
    config: ModelConfig,
    writer: RunWriter,
    origin: Checkpoint | Start | None,
    watchers: Sequence[Watcher],
    write_files: Callable[[], None] | None = None,
) -> list[Record]:
    """Train a stage, and return its records. The memory of training is free afterwards.

    origin : the checkpoint to continue, or the parameters to start from; None: fresh parameters
    write_files : called by rank 0 before training
    """
    group = current().group
    for watcher in watchers:
        watcher.stage(options)
    model = build_model(config, data.vocabulary.word_to_idx, seed=options.seed)
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
    with computing(solver.code):
        if write_files is not None and group.rank == 0:
            write_files()
        if isinstance(origin, Checkpoint):
            writer.restore(solver, origin.state)
        elif origin is not None:
            _score_start(solver, origin)
            writer.begin(solver)
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


def _score_start(solver: CaptioningSolver, start: Start) -> None:
    """Score the parameters that a stage starts from; then scale them as `start` says."""
    params = solver.model.params
    solver.model.params = start.params
    solver.score_start(start.epoch)
    if start.factor != 1:
        scale_logits(params, start.factor)
    if start.min_gain is not None:
        solver.require_gain(start.min_gain)


def _objective(options: Recipe, data: CaptionData, group: Group) -> tuple[Objective, int]:
    """The objective, and its batch size in captions or, if it samples captions, in pictures."""
    if options.objective == CROSS_ENTROPY:
        return CrossEntropy(options.smoothing), options.batch_size
    objective = SelfCritical(data, samples=options.samples, group=group)
    return objective, max(1, options.batch_size // options.samples)


def _choice(options: Recipe, data: CaptionData) -> tuple[str, int | None]:
    """The solver's `select` and `patience`; a notice names an option that is ignored."""
    select = options.select
    patience = options.patience or None
    lacks_val = "val" not in data.splits
    if lacks_val and select == "cider":
        notice("train_run: the data has no val split to score: the last epoch is kept")
        select = "loss"  # without a val split it keeps the last epoch, too
    if patience is not None and (lacks_val or select == "last"):
        why = "the data has no val split" if lacks_val else "the last epoch is kept"
        notice(f"train_run: `patience` {patience} is ignored: {why}")
        patience = None
    return select, patience


def _model_config(options: Recipe, data: CaptionData) -> ModelConfig:
    grid = len(data.feature_shape) > 1
    attends = has_attention(options.inject)
    if grid and not attends:
        raise OptionError(
            f"`inject` is {options.inject}, which needs one feature per picture, but the data has"
            f" grids of {data.feature_shape[0]} regions, expected `inject` attention, or"
            " attention+every-step; or prepare the data without a grid"
        )
    if attends and not grid:
        raise OptionError(
            f"`inject` is {options.inject}, which needs a grid, but the data has one feature per"
            f" picture, of size {data.feature_dim}, expected data prepared with a grid, such as 5,"
            " or `inject` every-step"
        )
    sizes = len(data.vocabulary), data.feature_shape, options.wordvec, options.hidden
    return ModelConfig(*sizes, cell=options.cell, dropout=options.dropout, inject=options.inject)


def _checkpoint(path: Path, options: Recipe, data: CaptionData, config: ModelConfig) -> Checkpoint:
    """The checkpoint to continue from."""
    checkpoint = load_checkpoint(path, config.shapes())
    if checkpoint.vocabulary != digest(data.vocabulary):
        raise DataError(
            f"{path} was trained with another vocabulary than the data's, expected the same"
            " vocabulary; from another run?"
        )
    check_scaling(path, checkpoint.scaling, options.feature_scaling, data.feature_shape[-1])
    return checkpoint
