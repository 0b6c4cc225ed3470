"""Options of `train`: defaults, their record in a run, and the training plan that results."""

import math
from collections.abc import Callable, Mapping
from dataclasses import KW_ONLY, asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from xpcap.data import CaptionData
from xpcap.errors import DataError, OptionError, unknown
from xpcap.prepare.dataset import TINY_CAPTIONS
from xpcap.runs.folder import (
    CONFIG,
    DATA,
    FIRST,
    LARGEST,
    LAST,
    Config,
    check_resumable,
    opened_folder,
    read_config,
)
from xpcap.training.objectives import CROSS_ENTROPY, OBJECTIVES, SELF_CRITICAL
from xpcap.training.optimizer import LINEAR


@dataclass(frozen=True)
class TrainOptions:
    """The options of `train`, with their defaults; those of generated pictures are in GENERATED.

    `suited_to` chooses what depends on the number of captions; the help of `xpcap train` lists it.

    Parameters
    ----------
    data : str, Path or None
        Dataset file or coco_captioning folder. None: that of the run `start`, or generated
        pictures.
    out : str, Path or None
        Run folder to create. None: a fresh folder under runs/.
    start : str, Path or None
        Run folder whose best parameters to start from. None: random ones.
    objective : str
        "cross-entropy", or "self-critical", which continues a run: see xpcap.training.objectives.
    samples : int
        Captions sampled per picture in self-critical training.
    sharpen : float
        Factor on the logits at the start of self-critical training.
    cell : str
        "lstm", "gru" or "rnn".
    hidden : int
        H, size of the hidden state.
    wordvec : int
        W, size of a word vector.
    epochs : int
        Passes over the training captions, in self-critical training over the training pictures. 0:
        chosen by the number of captions.
    score_epochs : int or None
        Epochs of self-critical training that follow, from the best parameters. 0: none. None:
        chosen by the number of captions.
    batch_size : int or None
        N, captions in a batch; in self-critical training those sampled, of batch_size // samples
        pictures. None: chosen by the number of captions.
    lr : float
        Adam's learning rate in the first epoch.
    lr_decay : float or "linear"
        Factor on the learning rate after each epoch; "linear": a linear fall to zero.
    select : str or None
        Criterion of the best epoch: "loss", "cider" or "last"; see CaptioningSolver. None:
        chosen by the number of captions.
    clip : float
        Largest global norm of a gradient. 0: no clipping.
    dropout : float
        Share of features, word vectors and hidden units dropped, in [0, 1).
    smoothing : float or None
        Share of the target probability spread evenly over all words, in [0, 1). None:
        chosen by the number of captions.
    inject : str
        Entry of the image, a name in xpcap.models.config.INJECT; "attention" and
        "attention+every-step" need a data set of grids.
    feature_scaling : str
        "standardize" or "none", fitted on the train split.
    seed : int
        Of weights, order of captions, dropout and generated pictures.
    patience : int
        Stop after this many epochs in a row without a better one. 0: never.
    neighbours : bool
        When training ends, index the training photos and fit the ranking of captions by those that
        look alike; see xpcap.ranking. Off: captions are greedy by default.
    save_every : str
        Interval between checkpoints within an epoch, in seconds ("60s") or steps ("200").
    resume : bool
        Continue the run at `out` if there is one.
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
    score_epochs: int | None = None
    batch_size: int | None = None
    lr: float = 1e-3
    lr_decay: float | str = LINEAR
    select: str | None = None
    clip: float = 50.0
    dropout: float = 0.4
    smoothing: float | None = None
    inject: str = "every-step"
    feature_scaling: str = "standardize"
    seed: int = 0
    patience: int = 0
    neighbours: bool = True
    save_every: str = "60s"
    resume: bool = False


NO_SETTINGS = ("out", "save_every", "resume")  # no effect on the parameters; not in the config
MAY_CHANGE = (
    "data",
    "start",
    "epochs",
    "patience",
    "neighbours",
)  # on resume: no effect on training so far
OF_MODEL = ("cell", "hidden", "wordvec", "inject", "feature_scaling")  # fixed by the parameters


# Fifteen thousand scenes need few epochs, and no regularisation. Their features stay unscaled:
# standardising would blow up rare ones, and a captioner that memorises those does not generalise
# to new combinations. Nor do neighbours help: a scene is said in one way.
GENERATED = TrainOptions(
    hidden=256,
    wordvec=128,
    epochs=4,
    score_epochs=0,
    batch_size=32,
    lr=2e-3,
    lr_decay=0.5,
    select="loss",
    dropout=0.0,
    smoothing=0.0,
    inject="init",
    feature_scaling="none",
    neighbours=False,
)


# Defaults of self-critical training; other options are those of the run that it starts from
SELF_CRITICAL_DEFAULTS: Config = {
    "objective": SELF_CRITICAL,
    "epochs": 5,
    "score_epochs": 0,
    "lr": 1e-4,
    "lr_decay": LINEAR,
    "select": "cider",
    "smoothing": 0.0,
    "patience": 0,
}


# Defaults of a warm start: cross entropy from a run, on other data than its own
WARM_START_DEFAULTS: Config = {
    "objective": CROSS_ENTROPY,
    "epochs": 60,
    "score_epochs": 0,
    "batch_size": 64,
    "lr": 1e-3,
    "lr_decay": LINEAR,
    "select": "cider",
    "dropout": 0.4,
    "smoothing": 0.1,
    "patience": 10,
    "neighbours": True,
}


def check_options(options: TrainOptions) -> None:
    """OptionError : an option out of range that would be noticed after a first stage, or never."""
    if options.objective not in OBJECTIVES:
        raise unknown("train_run", "`objective`", options.objective, OBJECTIVES)
    least_of = {"epochs": 0, "score_epochs": 0, "patience": 0, "seed": 0, "samples": 2}
    for name, least in least_of.items():
        value = getattr(options, name)
        if value is None and name in LARGE:
            continue
        if not (isinstance(value, int | np.integer) and value >= least):
            raise OptionError(
                "train_run",
                f"`{name}`",
                f"is {value!r}",
                expected=f"a whole number of at least {least}",
            )
    if not (isinstance(options.sharpen, int | float) and 0 < options.sharpen < math.inf):
        raise OptionError(
            "train_run", "`sharpen`", f"is {options.sharpen!r}", expected="a positive number"
        )


# Options that depend on the number of training captions
LARGE: Config = {"batch_size": 64, "smoothing": 0.1, "score_epochs": 5, "select": "cider"}
SMALL: Config = {"batch_size": 16, "smoothing": 0.0, "score_epochs": 0, "select": "last"}
SMALL_BELOW = 1000  # training captions
LEAST_STEPS = {"small": 1700, "large": 1200}
LEAST_EPOCHS = 8
MOST_EPOCHS = 300  # whatever the steps: a handful of captions is known by heart long before


def is_tiny(captions: int) -> bool:
    """True if so few captions teach no captioner that is better than the neighbours' captions."""
    return captions < TINY_CAPTIONS


def is_small(captions: int) -> bool:
    """True if a train split of so many captions wants the options of SMALL."""
    return captions < SMALL_BELOW


def suited_to(captions: int, options: TrainOptions) -> TrainOptions:
    """The options, with those left open chosen for a train split of `captions` captions.

    Few captions are learnt in small batches, without smoothing and without training on the score,
    which would learn them by heart, and the last epoch counts, since their val split is too small
    to tell. There are 8 epochs of cross entropy, or as many as make 1,700 steps of few captions,
    1,200 of many, at most 300.
    """
    chosen = SMALL if is_small(captions) else LARGE
    left = {name: value for name, value in chosen.items() if getattr(options, name) is None}
    options = replace(options, **left)
    if not options.epochs:
        steps = LEAST_STEPS["small" if is_small(captions) else "large"]
        each = math.ceil(captions / (options.batch_size or 1))
        epochs = min(max(math.ceil(steps / each), LEAST_EPOCHS), MOST_EPOCHS)
        options = replace(options, epochs=epochs)
    return options


def default_out(options: TrainOptions) -> Path:
    """The first free one of runs/NAME-CELL, runs/NAME-CELL-2, ...; NAME is the data's."""
    name = f"{Path(options.data).resolve().stem if options.data else 'pictures'}-{options.cell}"
    k = 1
    while (path := Path("runs") / (name if k == 1 else f"{name}-{k}")).exists():
        k += 1
    return path


def settings_of(options: TrainOptions) -> Config:
    """The options as a run's config stores them, without NO_SETTINGS.

    `data` and `start` are absolute paths, or relative if they lie in the run.
    """
    settings = {key: value for key, value in asdict(options).items() if key not in NO_SETTINGS}
    data, start = (_stored_path(path, options.out) for path in (options.data, options.start))
    return {**settings, "data": data or DATA, "start": start}


def _stored_path(path: str | Path | None, out: str | Path | None) -> str:
    if path is None:
        return ""
    whole = Path(path).resolve()
    folder = None if out is None else Path(out).resolve()
    if folder is not None and whole.is_relative_to(folder):
        return whole.relative_to(folder).as_posix()
    return str(whole)


def options_of(config: Config, out: Path) -> TrainOptions:
    """The options that the run at `out` was trained with: the inverse of `settings_of`.

    Raises
    ------
    DataError : a setting is missing, or has a value of the wrong kind.
    """
    data = None if config["data"] == DATA else out / config["data"]
    start = out / config["start"] if config["start"] else None
    settings: Config = {"data": data, "out": out, "start": start}
    for name, default in asdict(TrainOptions(**LARGE)).items():
        if name in (*settings, *NO_SETTINGS):
            continue
        value, kind = config.get(name), type(default)
        if name == "lr_decay":
            kind = str if value == LINEAR else float
        if kind is float and type(value) is int and abs(value) <= LARGEST:
            value = float(value)
        if type(value) is not kind or (
            isinstance(value, int | float) and not 0 <= value < math.inf
        ):
            raise DataError(
                "train_run",
                f"the config of {out}",
                f"has {name} {str(value)[:60]!r}",
                expected=f"{kind.__name__} from 'train'",
                cause="damaged?",
            )
        settings[name] = value
    return TrainOptions(**settings)


# Completing the options that a user gives


def choose(data: str | Path | None, given: Mapping[str, Any]) -> TrainOptions:
    """Complete the given options by those of a run, or by the defaults.

    The run is the one at `out` with `resume`, or the one at `start`.

    Raises
    ------
    OptionError : `resume` without `out`, self-critical training without `start`, or options that
        contradict the model of `start`. DataError : something other than a run is at `out` or
        `start`.
    """
    options = _defaults(data, given)
    options = replace(options, data=data or options.data, **given)
    if options.objective == SELF_CRITICAL and given.get("score_epochs"):
        raise OptionError(
            "train_run",
            "`score_epochs`",
            "is given with self-critical training",
            expected="`epochs`: there is no second stage to come",
        )
    return replace(options, out=options.out or default_out(options))


def _defaults(data: str | Path | None, given: Mapping[str, Any]) -> TrainOptions:
    """Values of the options that are not given."""
    out, start = given.get("out"), given.get("start")
    if given.get("resume"):
        if out is None:
            raise OptionError(
                "train_run",
                "`resume`",
                "is given without `out`",
                expected="both: which run should continue?",
            )
        check_resumable(Path(out))
        own, first = _run_at(Path(out)), _run_at(Path(out) / FIRST)
        if begun := first or own:
            neighbours = (own or begun).options.neighbours
            return replace(begun.options, out=out, neighbours=neighbours)
    if start is not None:
        return _options_from(start, data, given)
    if given.get("objective") == SELF_CRITICAL:
        raise OptionError(
            "train_run",
            "`objective`",
            "is self-critical without `start`",
            expected="the run folder of a captioner that speaks already: train one by cross entropy"
            " first, then start from it",
        )
    return replace(GENERATED if data is None else TrainOptions(), data=data)


def _options_from(
    start: str | Path, data: str | Path | None, given: Mapping[str, Any]
) -> TrainOptions:
    """Options of training that starts from a run: its model and data, then those chosen for it.

    OptionError : one given contradicts the model. DataError : `start` is no run folder.
    """
    start = opened_folder(start)
    run = options_of(read_config(start), start)
    different = [
        name for name in OF_MODEL if given.get(name, getattr(run, name)) != getattr(run, name)
    ]
    if different:
        listed = ", ".join(
            f"`{name}` {given[name]} (the run has {getattr(run, name)})" for name in different
        )
        raise OptionError(
            "train_run",
            listed,
            "given with `start`",
            expected=f"the model of {start}",
            cause="leave them out, or train from the beginning",
        )
    own = Path(start / DATA if run.data is None else run.data)
    chosen: Config = {"objective": CROSS_ENTROPY, "score_epochs": 0}
    if given.get("objective") == SELF_CRITICAL:
        chosen = SELF_CRITICAL_DEFAULTS
    elif data is not None and Path(data).resolve() != own.resolve():
        chosen = WARM_START_DEFAULTS
    chosen = {"out": None, "start": start, "data": own, "seed": TrainOptions.seed, **chosen}
    return replace(run, **chosen)


# The plan of training


class Stage(NamedTuple):
    """One training in one folder."""

    options: TrainOptions  # complete: `out` is the stage's folder, `epochs` is known
    config: Config | None  # of the run to continue there; None: a new run

    @property
    def folder(self) -> Path:
        """The run folder of the stage."""
        return Path(self.options.out or "")


class Plan(NamedTuple):
    """All stages of a training, and their data, known before anything is written.

    Two stages are cross entropy in the subfolder FIRST, a run of its own, then self-critical
    training from its best parameters. A first stage that is done is left out.
    """

    stages: list[Stage]
    data: CaptionData


def resolve(options: TrainOptions, open_path: Callable[[Path | None], CaptionData]) -> Plan:
    """Plan a training at `options.out`, from the options and the run that is there.

    Parameters
    ----------
    open_path : opens the data set at a path; None: generates one

    Raises
    ------
    DataError : the data cannot be opened, or is not the run's. OptionError : options contradict the
        run, or are of self-critical training without a start.
    """
    out = Path(options.out or "")
    begun = _run_at(out)
    first = _run_at(out / FIRST) or begun
    options = replace(options, out=out)
    if first:
        options = _completed_by(first.options, options)
        check_agreement(options, replace(first.options, out=out))
    if options.objective == SELF_CRITICAL and options.start is None and not (out / LAST).exists():
        raise OptionError(
            "train_run",
            "`objective`",
            "is self-critical without `start`",
            expected="the run folder of a captioner that speaks already",
        )

    generated = (file for file in (out / DATA, out / FIRST / DATA) if file.exists())
    path = options.data or (begun and begun.options.data) or next(generated, None)
    data = open_path(Path(path) if path else None)
    options = suited_to(len(data.split("train").captions), options)

    staged = options.objective == CROSS_ENTROPY and bool(options.score_epochs)
    staged = staged and not (begun and begun.options.objective == CROSS_ENTROPY)
    folder = out / FIRST if staged else out
    if first and begun and staged and options.epochs != first.options.epochs:
        raise OptionError(
            "train_run",
            f"`epochs` {options.epochs}",
            f"given with `resume`, but the first stage of {out} is done after"
            f" {first.options.epochs}",
            cause="leave it out",
        )
    stages = [Stage(replace(options, out=folder), first and first.config)]
    if staged:
        changed: Config = {"save_every": options.save_every, "resume": True}
        if begun:
            changed["data"] = options.data or begun.options.data
            changed["neighbours"] = options.neighbours
            stages = [Stage(replace(begun.options, **changed), begun.config)]
        else:
            changed["data"] = options.data or folder / DATA
            changed |= {**SELF_CRITICAL_DEFAULTS, "epochs": options.score_epochs}
            stages.append(Stage(replace(options, start=folder, **changed), None))
    for stage in stages:
        if stage.config is not None and stage.config["data_stamp"] != data.fingerprint:
            raise DataError(
                "train_run",
                path or stage.folder / DATA,
                f"is not the data that {stage.folder} began with",
                expected="the same, unchanged",
                cause="give its path as `data`, or begin another run",
            )
    return Plan(stages, data)


def _completed_by(run: TrainOptions, options: TrainOptions) -> TrainOptions:
    """The options, with those left open as in a run's."""
    left = {name: getattr(run, name) for name in LARGE if getattr(options, name) is None}
    return replace(options, epochs=options.epochs or run.epochs, **left)


def _run_at(folder: Path) -> Stage | None:
    """The run in a folder, from its config; None: there is none."""
    if not (folder / CONFIG).is_file():
        return None
    config = read_config(folder)
    return Stage(options_of(config, folder), config)


def check_agreement(options: TrainOptions, run: TrainOptions) -> None:
    """OptionError : options contradict those of the run to continue; it names all that differ.

    More epochs, or another patience, are no contradiction. But with a learning rate that falls to
    zero in the last epoch, other epochs are one, since each step depends on their number.
    """
    names = [field.name for field in fields(TrainOptions)]
    fixed = [name for name in names if name not in (*NO_SETTINGS, *MAY_CHANGE)]
    different = [name for name in fixed if getattr(options, name) != getattr(run, name)]
    if not different and options.epochs != run.epochs and run.lr_decay == LINEAR:
        raise OptionError(
            "train_run",
            f"`epochs` {options.epochs}",
            "given with `resume`",
            expected=f"the {run.epochs} of {run.out}: its learning rate falls to zero over these"
            f" epochs (`lr_decay` {LINEAR}), so each step depends on their number",
            cause="leave `epochs` out, or start a new run from this one, with `start` and another"
            " `out`",
        )
    if options.epochs < run.epochs or (options.epochs != run.epochs and run.lr_decay == LINEAR):
        different.append("epochs")
    if different:
        listed = ", ".join(
            f"`{name}` {getattr(options, name)} (the run has {getattr(run, name)})"
            for name in different
        )
        raise OptionError(
            "train_run",
            listed,
            "given with `resume`",
            expected=f"the options of {run.out}",
            cause="leave them out, or begin another run with another `out`",
        )
