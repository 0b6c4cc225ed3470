"""What a run is made with: the options of `train`, their defaults, and the names of what a run on generated pictures keeps."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from xpcap.errors import DataError, OptionError
from xpcap.runs import folder as run_folder

DATA, PICTURES = "data.h5", "pictures"  # of generated pictures: captions and features, and the val split as PNGs


@dataclass(frozen=True)
class TrainOptions:
    """The options of `train`; their defaults are stated here, those for generated pictures in GENERATED, and nowhere else."""

    data: Path | None = None  # None: generated pictures
    out: Path | None = None  # None: a fresh folder under runs/
    cell: str = "lstm"
    hidden: int = 512
    wordvec: int = 256
    epochs: int = 12
    batch_size: int = 64
    lr: float = 1e-3
    lr_decay: float = 0.9
    clip: float = 50.0
    dropout: float = 0.5
    feature_scaling: str = "standardize"
    seed: int = 0
    patience: int = 0  # epochs; 0: never stop early
    save_every: str = "60s"  # or steps: "200"
    resume: bool = False


NO_SETTINGS = ("out", "save_every", "resume")  # they do not change what is learnt, and are not kept with a run
MAY_CHANGE = ("data", "epochs", "patience")  # from one start to the next: what was learnt so far would have been the same


# Fifteen thousand scenes want few passes and no dropout. Their features keep their scale: standardising would blow up the rare ones,
# and a captioner that learns by heart from those does not carry over to combinations it has not seen.
GENERATED = TrainOptions(hidden=256, wordvec=128, epochs=4, batch_size=32, lr=2e-3, lr_decay=0.5, dropout=0.0, feature_scaling="none")


def defaults(data: Path | None) -> TrainOptions:
    """The options that `train` has where none are given."""
    return replace(GENERATED if data is None else TrainOptions(), data=data)


def choose(data: Path | None, given: Mapping[str, Any]) -> TrainOptions:
    """What to train, from what was given on the command line: the rest are defaults, or with `resume` the options of the run that is there.

    Raises
    ------
    OptionError : `resume` without `out`. DataError : what is at `out` is no run.
    """
    options, out = defaults(data), given.get("out")
    if given.get("resume"):
        if out is None:
            raise OptionError("train: --resume is given without --out, expected the run to go on with, as in --out runs/pictures-lstm --resume")
        if run_folder.is_begun(out):
            options = options_of(run_folder.read_config(out), out)
            agree(replace(options, **given), options)
    return with_out(replace(options, data=data or options.data, **given))


def with_out(options: TrainOptions) -> TrainOptions:
    """The options with a place to write to: where none is given, the first of runs/NAME, runs/NAME-2, ... that does not exist."""
    if options.out is not None:
        return options
    name = f"{options.data.resolve().stem if options.data else 'pictures'}-{options.cell}"
    k = 1
    while (path := Path("runs") / (name if k == 1 else f"{name}-{k}")).exists():
        k += 1
    return replace(options, out=path)


def options_of(config: Mapping[str, Any], out: Path) -> TrainOptions:
    """The options that the run at `out`, with that config, was made with.

    Raises
    ------
    DataError : a setting is missing, or of a kind that no option has.
    """
    kept: dict[str, Any] = {"data": None if config["data"] == DATA else Path(config["data"]), "out": out}
    for name, default in asdict(TrainOptions()).items():
        if name in (*kept, *NO_SETTINGS):
            continue
        value, kind = config.get(name), type(default)
        if kind is float and type(value) is int and abs(value) <= run_folder.LARGEST:
            value = float(value)
        if type(value) is not kind or (isinstance(value, int | float) and not 0 <= value < math.inf):
            raise DataError(f"train: the config of {out} has {name} {str(value)[:60]!r}, expected {kind.__name__} from 'train'; damaged?")
        kept[name] = value
    return TrainOptions(**kept)


def agree(options: TrainOptions, run: TrainOptions) -> None:
    """Check that options to go on with do not contradict those of the run.

    Raises
    ------
    OptionError : they do; it names all that differ. More epochs, or another patience, are no contradiction.
    """
    names = [field.name for field in fields(TrainOptions) if field.name not in (*NO_SETTINGS, *MAY_CHANGE)]
    different = [name for name in names if getattr(options, name) != getattr(run, name)]
    if options.epochs < run.epochs:
        different.append("epochs")
    if different:
        told = ", ".join(f"--{name.replace('_', '-')} {getattr(options, name)} (the run has {getattr(run, name)})" for name in different)
        raise OptionError(f"train: {told} given with --resume, expected those of {run.out}; leave them away, or begin another run with another --out")
