"""The plan of a training: options with their defaults, open data, and stages.

The default of an option comes from the run that is continued or, in a new run, from the run
`start`, then from the preset that fits the data, then from the preset "usual". `plan_training`
resolves all options and refuses contradictions before training writes anything.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from xpcap.backend.plain_code import check_code
from xpcap.data import CaptionData
from xpcap.errors import DataError, OptionError
from xpcap.files.read_write import first_free
from xpcap.runs.config import Config
from xpcap.runs.folder import CONFIG, DATA, LAST, load_earlier
from xpcap.runs.recipe import FIXED, LENGTH, MODEL, OPTIONS, PRESETS, Recipe, different, preset_for
from xpcap.training.objectives import CROSS_ENTROPY, OBJECTIVES, SELF_CRITICAL
from xpcap.training.optimizer import LINEAR


class Plan(NamedTuple):
    """Everything that determines a training, before it writes anything."""

    options: Recipe  # complete; `out` is the run folder
    config: Config | None  # of the run to continue; None: a new run
    stages: list[Recipe]  # options of one stage, or of two; the second is self-critical
    data: CaptionData

    @property
    def out(self) -> Path:
        """The run folder."""
        return Path(self.options.out or "")


def plan_training(given: Recipe, open_path: Callable[[Path | None, int], CaptionData]) -> Plan:
    """Plan a training at `given.out` from the given options and an existing run.

    open_path : opens the data set at a path; if the path is None, generates one from a seed
    DataError : the data cannot be opened, or is not the run's; `start` is no run. OptionError :
        options contradict the run or the model of `start`; an option that no stage uses is given;
        self-critical training has no `start`; the run was trained with the other of plain and fast
        code.
    """
    out = Path(given.out or "")
    config = Config.read(out) if (out / CONFIG).is_file() else None
    if config is not None:
        check_agreement(given, config.recipe)
    options = given.settled(*_sources(given, config))
    _require_start(options)
    generated = out / DATA if (out / DATA).exists() else None
    path = options.data or generated
    seed = options.settled(PRESETS["usual"]).seed
    data = open_path(Path(path) if path else None, seed)
    preset = preset_for(len(data.split("train").captions), options.batch_size)
    options = options.settled(preset, PRESETS["usual"])
    stages = [options]
    if options.objective == CROSS_ENTROPY and options.score_epochs:
        changed = {**PRESETS["score"], "epochs": options.score_epochs, "start": None}
        stages.append(replace(options, **changed))
    unused: dict[str, Any] = dict.fromkeys(_unused(given, stages))
    options = replace(options, **unused)
    if config is not None:
        check_code(out, config.code)
        if config.data_stamp != data.fingerprint:
            raise DataError(
                f"{path or out / DATA} is not the data that {out} began with, expected the same"
                " data, unchanged; give its path as `data`, or begin another run"
            )
    return Plan(options, config, stages, data)


def default_out(given: Recipe) -> Path:
    """The first free path of runs/NAME-CELL, runs/NAME-CELL-2, ..., with NAME from the data.

    OptionError : `resume` is set, which requires `out`.
    """
    if given.resume:
        raise OptionError("`resume` requires `out`; the run to continue")
    options = given.settled(*_sources(given, None), PRESETS["usual"])
    data = Path(options.data).resolve() if options.data else None
    generated = data is None or (data.name == DATA and (data.parent / CONFIG).is_file())
    name = f"{'pictures' if generated or data is None else data.stem}-{options.cell}"
    return first_free(Path("runs"), name)


# Defaults of options


def _sources(given: Recipe, config: Config | None) -> list[dict[str, Any]]:
    """Defaults: the options of the run to continue, or those of a preset and of the run `start`.

    OptionError, DataError : as in `plan_training`.
    """
    if config is not None:
        return [vars(config.recipe)]
    if given.start is None:
        return [] if given.data else [PRESETS["generated"]]
    start = Path(given.start)
    run = Config.read(start)
    if names := different(given, run.recipe, (MODEL,)):
        raise OptionError(
            f"{_compared(names, given, run.recipe)} given with `start`, expected the model of"
            f" {start}; leave these options out, or train without `start`"
        )
    options = vars(run.recipe) | {"data": run.data, "out": None, "seed": None}
    options |= {"objective": CROSS_ENTROPY, "score_epochs": 0}
    if given.objective == SELF_CRITICAL:
        return [PRESETS["score"], options]
    if given.data and Path(given.data).resolve() != run.data.resolve():
        return [PRESETS["warm"], options]
    return [options]


# Contradictions


def _require_start(options: Recipe) -> None:
    """Raise OptionError if self-critical training has no `start`, or `score_epochs` is given."""
    if options.objective != SELF_CRITICAL:
        return
    if options.score_epochs:
        raise OptionError(
            "`score_epochs` is given with self-critical training, which has no second stage,"
            " expected `epochs`"
        )
    if options.start is None:
        raise OptionError(
            "`objective` is self-critical without `start`, expected the run folder of a trained"
            " captioner: train one by cross entropy first, then start from it"
        )


def _unused(given: Recipe, stages: Sequence[Recipe]) -> list[str]:
    """Options of objectives that no stage has. OptionError : one of them is given."""
    roles = {*OBJECTIVES} - {stage.objective for stage in stages}
    names = [name for name, entry in OPTIONS.items() if entry.role in roles]
    for name in names:
        if name in given.given:
            raise OptionError(
                f"`{name}` is given, but no stage of this training uses it, expected"
                f" {OPTIONS[name].role} training; leave it out"
            )
    return names


def check_agreement(given: Recipe, run: Recipe) -> None:
    """Raise OptionError, which names all options that contradict those of the run to continue.

    More epochs, or another patience, are allowed unless the first of two stages is done, or the
    learning rate falls to zero in the last epoch: then each step depends on the number of epochs.
    """
    names = different(given, run, FIXED)
    lengths = different(given, run, (LENGTH,))
    if lengths and load_earlier(Path(run.out or "") / LAST):
        names += lengths
    if given.start is not None and _absolute(given.start) != _absolute(run.start):
        names.append("start")
    epochs = given.given.get("epochs", run.epochs)
    if epochs != run.epochs and run.lr_decay == LINEAR and not names:
        raise OptionError(
            f"`epochs` {epochs} given with `resume`, expected the {run.epochs} of {run.out}: its"
            f" learning rate falls to zero over these epochs (`lr_decay` {LINEAR}), so each step"
            " depends on their number; leave `epochs` out, or start a new run from this one, with"
            " `start` and another `out`"
        )
    if epochs < run.epochs and "epochs" not in names:
        names.append("epochs")
    if names:
        raise OptionError(
            f"{_compared(names, given, run)} given with `resume`, expected the options of"
            f" {run.out}; leave them out, or begin another run with another `out`"
        )


def _absolute(path: str | Path | None) -> Path | None:
    return None if path is None else Path(path).resolve()


def _shown(value: object) -> str:
    return "none" if value is None else str(value)


def _compared(names: Sequence[str], options: Recipe, run: Recipe) -> str:
    return ", ".join(
        f"`{name}` {_shown(getattr(options, name))} (the run has {_shown(getattr(run, name))})"
        for name in names
    )
