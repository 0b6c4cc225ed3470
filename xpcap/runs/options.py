"""The options of `train`: their defaults, how those of a run are written and read back, and how they are completed by another run's."""

import hashlib
import math
from collections.abc import Mapping
from dataclasses import KW_ONLY, asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from xpcap.data import CaptionData
from xpcap.errors import DataError, OptionError, unknown
from xpcap.optim import LINEAR
from xpcap.runs.folder import BEST, DATA, FIRST, LARGEST, Run, check_resumable, digest, has_run, open_run, opened_folder, read_config, read_history
from xpcap.training.history import best_of
from xpcap.training.objectives import CROSS_ENTROPY, OBJECTIVES, SELF_CRITICAL


@dataclass(frozen=True)
class TrainOptions:
    """The options of `train`. Their defaults stand here, those for generated pictures in GENERATED.

    Parameters
    ----------
    data : dataset file or coco_captioning folder; None: that of the run `start`, or generated pictures
    start : run folder whose best parameters to start from; None: random ones
    objective : "cross-entropy", or "self-critical", which goes on from a run: see xpcap.training.objectives
    samples : captions of a picture that self-critical training samples
    sharpen : factor on the scores of words that self-critical training begins with
    out : run folder to make; None: a fresh folder under runs/
    cell : "lstm" or "rnn"
    hidden : H, size of the hidden state
    wordvec : W, size of a word vector
    epochs : passes over the training captions, in self-critical training over the training pictures; 0: see `epochs_for`
    score_epochs : epochs of self-critical training that follow, from the best parameters; 0: none
    batch_size : N, captions in a batch; in self-critical training those sampled, of batch_size // samples pictures
    lr : Adam's learning rate in the first epoch
    lr_decay : factor on the learning rate after each epoch; "linear": it falls with every step, to zero after the last
    select : what tells the best epoch: "loss" or "cider"; see CaptioningSolver
    clip : largest global norm of a gradient; 0: no clipping
    dropout : share of features, word vectors and hidden units dropped, in [0, 1)
    smoothing : share of each target word's probability that all words get alike, in [0, 1)
    inject : how the image enters, a name in xpcap.models.config.INJECT; "attention" and "attention+every-step" need a data set of grids
    feature_scaling : "standardize" or "none", fitted on the train split
    seed : of weights, order of captions, dropout and generated pictures
    patience : stop after this many epochs in a row without a better one; 0: never
    save_every : how often to save within an epoch, in seconds ("60s") or steps ("200")
    resume : continue the run at `out` if there is one
    """

    data: str | Path | None = None
    _: KW_ONLY
    out: str | Path | None = None
    start: str | Path | None = None
    objective: str = CROSS_ENTROPY
    samples: int = 5
    sharpen: float = 1.5
    cell: str = "lstm"
    hidden: int = 512
    wordvec: int = 256
    epochs: int = 0
    score_epochs: int = 5
    batch_size: int = 64
    lr: float = 1e-3
    lr_decay: float | str = LINEAR
    select: str = "cider"
    clip: float = 50.0
    dropout: float = 0.4
    smoothing: float = 0.1
    inject: str = "every-step"
    feature_scaling: str = "standardize"
    seed: int = 0
    patience: int = 0
    save_every: str = "60s"
    resume: bool = False


NO_SETTINGS = ("out", "save_every", "resume")  # they do not change what is learnt, and are not kept with a run
MAY_CHANGE = ("data", "start", "epochs", "patience")  # when a run is continued: what was learnt so far would have been the same


# Fifteen thousand scenes need few epochs, and none of what keeps a captioner from learning photographs by heart. Their features keep their scale:
# standardising would blow up rare ones, and a captioner that memorises those does not carry over to combinations it has not seen.
GENERATED = TrainOptions(
    hidden=256, wordvec=128, epochs=4, score_epochs=0, batch_size=32, lr=2e-3, lr_decay=0.5, select="loss", dropout=0.0, smoothing=0.0, inject="init",
    feature_scaling="none",
)  # fmt: skip


# Of training on the score itself, where they differ from those of the run that it starts from.
ON_SCORE: dict[str, Any] = {
    "objective": SELF_CRITICAL, "epochs": 5, "score_epochs": 0, "lr": 1e-4, "lr_decay": LINEAR, "select": "cider", "smoothing": 0.0, "patience": 0,
}  # fmt: skip


def check_options(options: TrainOptions) -> None:
    """OptionError : an option is out of range that would be noticed late, after a first stage, or not at all."""
    if options.objective not in OBJECTIVES:
        raise unknown("train_run", "`objective`", options.objective, OBJECTIVES)
    for name, least in (("epochs", 0), ("score_epochs", 0), ("patience", 0), ("seed", 0), ("samples", 2)):
        value = getattr(options, name)
        if not (isinstance(value, int | np.integer) and value >= least):
            raise OptionError(f"train_run: `{name}` is {value!r}, expected a whole number of at least {least}")
    if not (isinstance(options.sharpen, int | float) and 0 < options.sharpen < math.inf):
        raise OptionError(f"train_run: `sharpen` is {options.sharpen!r}, expected a positive number")


def epochs_for(captions: int, batch_size: int) -> int:
    """The epochs of cross entropy for a train split of so many captions, where none are given: 8, or up to 60 if that few steps would be below 1,200."""
    return max(8, min(60, math.ceil(1200 / math.ceil(captions / batch_size))))


def default_out(options: TrainOptions) -> Path:
    """The first of runs/NAME-CELL, runs/NAME-CELL-2, ... that does not exist; NAME is the data's."""
    name = f"{Path(options.data).resolve().stem if options.data else 'pictures'}-{options.cell}"
    k = 1
    while (path := Path("runs") / (name if k == 1 else f"{name}-{k}")).exists():
        k += 1
    return path


def settings_of(options: TrainOptions) -> dict[str, Any]:
    """The options as a run's config stores them: without NO_SETTINGS, `data` and `start` as paths, which are absolute unless they lie in the run."""
    settings = {key: value for key, value in asdict(options).items() if key not in NO_SETTINGS}
    data, start = (_kept(path, options.out) for path in (options.data, options.start))
    return {**settings, "data": data or DATA, "start": start}


def _kept(path: str | Path | None, out: str | Path | None) -> str:
    if path is None:
        return ""
    whole = Path(path).resolve()
    inside = out is not None and whole.is_relative_to(Path(out).resolve())
    return whole.relative_to(Path(out).resolve()).as_posix() if inside and out is not None else str(whole)


def options_of(config: Mapping[str, Any], out: Path) -> TrainOptions:
    """The options that the run at `out` was trained with, from its config: the inverse of settings_of.

    Raises
    ------
    DataError : a setting is missing, or has a value of the wrong kind.
    """
    kept: dict[str, Any] = {"data": None if config["data"] == DATA else out / config["data"], "out": out}
    kept["start"] = out / config["start"] if config["start"] else None
    for name, default in asdict(TrainOptions()).items():
        if name in (*kept, *NO_SETTINGS):
            continue
        value, kind = config.get(name), type(default)
        if name == "lr_decay":
            kind = str if value == LINEAR else float
        if kind is float and type(value) is int and abs(value) <= LARGEST:
            value = float(value)
        if type(value) is not kind or (isinstance(value, int | float) and not 0 <= value < math.inf):
            raise DataError(f"train_run: the config of {out} has {name} {str(value)[:60]!r}, expected {kind.__name__} from 'train'; damaged?")
        kept[name] = value
    return TrainOptions(**kept)


def check_agreement(options: TrainOptions, run: TrainOptions) -> None:
    """Check that options do not contradict those of the run to continue. More epochs, or another patience, are no contradiction.

    With a learning rate that falls to zero in the last epoch, other epochs are one: every step would have been another.

    Raises
    ------
    OptionError : they do; it names all that differ.
    """
    names = [field.name for field in fields(TrainOptions) if field.name not in (*NO_SETTINGS, *MAY_CHANGE)]
    different = [name for name in names if getattr(options, name) != getattr(run, name)]
    if not different and options.epochs != run.epochs and run.lr_decay == LINEAR:
        raise OptionError(
            f"train_run: `epochs` {options.epochs} given with `resume`, expected the {run.epochs} of {run.out}: its learning rate falls to zero over "
            f"them (`lr_decay` {LINEAR}), so that with others every step would have been another; leave `epochs` out, or begin another run with another "
            "`out`, and this one as its `start`"
        )
    if options.epochs < run.epochs or (options.epochs != run.epochs and run.lr_decay == LINEAR):
        different.append("epochs")
    if different:
        listed = ", ".join(f"`{name}` {getattr(options, name)} (the run has {getattr(run, name)})" for name in different)
        raise OptionError(
            f"train_run: {listed} given with `resume`, expected the options of {run.out}; leave them out, or begin another run with another `out`"
        )


# Choosing


def choose(data: str | Path | None, given: Mapping[str, Any]) -> TrainOptions:
    """Complete the options that were given: with the defaults, with `resume` by those of the run at `out`, or with `start` by those of that run.

    Raises
    ------
    OptionError : `resume` without `out`, self-critical training without `start`, or options that contradict the run's. DataError : something
        other than a run is at `out` or `start`.
    """
    options = _defaults(data, given)
    options = replace(options, data=data or options.data, **given)
    if options.objective == SELF_CRITICAL and options.score_epochs:
        raise OptionError("train_run: `score_epochs` is given with self-critical training, expected `epochs`: there is no second stage to come")
    return replace(options, out=options.out or default_out(options))


def _defaults(data: str | Path | None, given: Mapping[str, Any]) -> TrainOptions:
    """What options are where they are not given."""
    out, start = given.get("out"), given.get("start")
    if given.get("resume"):
        if out is None:
            raise OptionError("train_run: `resume` is given without `out`, expected both: which run should continue?")
        check_resumable(Path(out))
        folder = Path(out) / FIRST if has_first(Path(out)) else Path(out)
        if has_run(folder):
            options = replace(options_of(read_config(folder), folder), out=out)
            check_agreement(replace(options, **given), options)
            if folder.name == FIRST and has_run(Path(out)) and given.get("epochs", options.epochs) != options.epochs:
                raise OptionError(
                    f"train_run: `epochs` {given['epochs']} given with `resume`, but the first stage of {out} is done after {options.epochs}; leave it out"
                )
            return options
    if start is not None:
        return options_from(start, given)
    if given.get("objective") == SELF_CRITICAL:
        raise OptionError(
            "train_run: `objective` is self-critical without `start`, expected the run folder of a captioner that speaks already: train one by cross "
            "entropy first, then start from it"
        )
    return replace(GENERATED if data is None else TrainOptions(), data=data)


# Starting from another run


OF_MODEL = ("cell", "hidden", "wordvec", "inject", "feature_scaling")  # options that the parameters decide


def options_from(start: str | Path, given: Mapping[str, Any]) -> TrainOptions:
    """The options of training that starts from a run: those of its model and data, then the objective's defaults, then those given.

    Raises
    ------
    OptionError : one given contradicts the model. DataError : `start` is no run folder.
    """
    start = opened_folder(start)
    run = options_of(read_config(start), start)
    different = [name for name in OF_MODEL if given.get(name, getattr(run, name)) != getattr(run, name)]
    if different:
        listed = ", ".join(f"`{name}` {given[name]} (the run has {getattr(run, name)})" for name in different)
        raise OptionError(f"train_run: {listed} given with `start`, expected the model of {start}; leave them out, or train from the beginning")
    chosen = ON_SCORE if given.get("objective") == SELF_CRITICAL else {"objective": CROSS_ENTROPY, "score_epochs": 0}
    data = start / DATA if run.data is None else run.data
    return replace(run, **{"out": None, "start": start, "data": data, "seed": TrainOptions.seed, **chosen})


def open_start(start: str | Path, data: CaptionData, recorded: str | None) -> Run:
    """Open the run that training starts from.

    Parameters
    ----------
    recorded : the digest of its parameters when the new run began; None: it begins now

    Raises
    ------
    DataError : its vocabulary or its features are not the data's, or its parameters have changed since.
    """
    run = open_run(start)
    if digest(run.vocabulary) != digest(data.vocabulary):
        raise DataError(
            f"train_run: {start} has {len(run.vocabulary):,} words and the data {len(data.vocabulary):,}, expected the same vocabulary; "
            "was the data prepared anew, or from other captions?"
        )
    ours, theirs = data.feature_shape, run.model.config.feature_shape
    if ours != theirs:
        raise DataError(
            f"train_run: {start} takes features of shape {theirs}, the data has {ours}, expected the same; were pictures encoded otherwise?"
        )
    if recorded is not None and recorded != digest_of(start):
        raise DataError(f"train_run: {Path(start) / BEST} has changed since the run that starts from it began; begin another run")
    return run


def digest_of(start: str | Path) -> str:
    """A digest of the parameters that a run keeps."""
    return hashlib.sha256((opened_folder(start) / BEST).read_bytes()).hexdigest()


# Two stages


def has_first(out: Path) -> bool:
    """Whether the folder `out` is a run of two stages, of which the first has begun."""
    return has_run(out / FIRST)


def is_staged(options: TrainOptions, out: Path) -> bool:
    """Whether training with these options has two stages: where the options ask for a second one and `out` is no run of cross entropy alone."""
    wanted = options.score_epochs > 0 and options.objective == CROSS_ENTROPY
    return wanted and not (has_run(out) and read_config(out)["objective"] == CROSS_ENTROPY)


def first_stage(options: TrainOptions, out: Path) -> TrainOptions | None:
    """The options of the first stage of training that has two. It goes on where it was; None if it is done, as the second has begun."""
    return None if has_run(out) else replace(options, out=out / FIRST, resume=True)


def second_stage(options: TrainOptions, out: Path) -> TrainOptions:
    """The options of the second stage, once the first is done: its own, if it has begun."""
    if has_run(out):
        begun = options_of(read_config(out), out)
        return replace(begun, data=options.data or begun.data, save_every=options.save_every, resume=True)
    chosen = options_from(out / FIRST, {"objective": SELF_CRITICAL})
    kept = {name: getattr(options, name) for name in ("samples", "sharpen", "seed", "save_every")}
    return replace(chosen, out=out, epochs=options.score_epochs, data=options.data or chosen.data, resume=True, **kept)


def learnt(run: Run) -> tuple[list[dict[str, Any]], Any]:
    """The records of the training that a run's parameters are from, and the number of their epoch: those of the first stage where it is the better."""
    kept = run.meta.get("epoch")
    first = read_history(run.path / FIRST) if kept == 0 else []
    best = best_of(first)
    return (read_history(run.path), kept) if best is None else (first, best.get("epoch"))


def origin(run: Run) -> str:
    """The epoch, and of two stages the stage, that a run's parameters are from, in a sentence."""
    records, kept = read_history(run.path), run.meta.get("epoch")
    epochs = max((record.get("epoch", 0) for record in records), default=kept)
    first = read_history(run.path / FIRST)
    if not first:
        if kept == 0:
            return f"Captions are those of {run.config['start']}, which training started from: none of {epochs} epochs made them better."
        return f"Captions come from epoch {kept} of {epochs}."
    best = best_of(first) or {}
    before = next((record for record in records if record.get("epoch") == 0), best).get("val_cider")
    if kept == 0:
        reached = max((record["val_cider"] for record in records if record.get("epoch") and "val_cider" in record), default=None)
        return (
            f"Captions come from the first of two stages, cross entropy (epoch {best.get('epoch')} of {len(first)}{_cider(before)}): the second, training "
            f"on the score, made them no better{_cider(reached)}."
        )
    return (
        f"Captions come from the second of two stages, training on the score (epoch {kept} of {epochs}{_cider(run.meta.get('val_cider'))}), after "
        f"{len(first)} epochs of cross entropy{_cider(before)}."
    )


def _cider(value: float | None) -> str:
    return "" if value is None else f", CIDEr {value:.3f} on val"
