"""The plan of a training: its recipe completed, its folder named, and its stages."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from xpcap.data import CaptionData
from xpcap.errors import DataError, OptionError, unknown
from xpcap.files import first_free
from xpcap.runs.config import Config
from xpcap.runs.folder import CONFIG, DATA, FIRST, LAST, check_resumable, opened_folder
from xpcap.runs.recipe import FIXED, MODEL, OPTIONS, PRESETS, Recipe, different, preset_for
from xpcap.training.objectives import CROSS_ENTROPY, OBJECTIVES, SELF_CRITICAL
from xpcap.training.optimizer import LINEAR
from xpcap.way import check_way

# Completing the options that a user gives


def complete(data: str | Path | None, given: Mapping[str, Any]) -> Recipe:
    """The recipe of the options that are given, and of others: a run's, a preset's, or defaults.

    The run is the one at `out` with `resume`, or the one at `start`. What stays open, such as the
    batch size, depends on the data: see `plan_training`.

    OptionError : an option is unknown, or not of its kind; `resume` without `out`, self-critical
        training without `start`, options that contradict the model of `start`, or one that no
        stage uses. DataError : something other than a run is at `out` or `start`.
    """
    given = {**given, "data": data} if data else {**given}
    for name in given:
        if name not in OPTIONS:
            raise unknown("train_run", "option", name, OPTIONS)
    Recipe.of(given)  # a bad value is refused before a run is opened
    if begun := _options_to_resume(given):
        sources = [begun]
    elif given.get("start") is not None:
        sources = _sources_at_start(given)
    else:
        sources = [] if given.get("data") else [PRESETS["generated"]]
    recipe = Recipe.of(given, *sources)
    _require_start(recipe)
    stages = {recipe.objective, *([] if recipe.score_epochs == 0 else [SELF_CRITICAL])}
    for name in given:
        if OPTIONS[name].role in {*OBJECTIVES} - stages:
            got = "is given, but no stage of this training uses it"
            expected = f"{OPTIONS[name].role} training"
            raise OptionError("train_run", f"`{name}`", got, expected, "leave it out")
    return replace(recipe, out=recipe.out or default_out(recipe))


def _options_to_resume(given: Mapping[str, Any]) -> dict[str, Any]:
    """The options of the run to resume; of two stages the first's. Empty: no run has begun."""
    if not given.get("resume"):
        return {}
    if given.get("out") is None:
        cause = "the run to continue"
        raise OptionError("train_run", "`resume`", "requires `out`", cause=cause)
    out = Path(given["out"])
    check_resumable(out)
    last, first = _run_at(out), _run_at(out / FIRST)
    if begun := first or last:
        return {**vars(begun.options), "neighbours": (last or begun).options.neighbours}
    return {}


def _sources_at_start(given: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The preset of a training that starts from a run, if there is one, and the run's options.

    OptionError : one given contradicts the model. DataError : `start` is no run folder.
    """
    start = opened_folder(given["start"])
    run = Config.read(start).recipe
    run_data = _data_of(run, start)
    _require_model(Recipe.of(given, vars(run)), run, start)
    options = {**vars(run), "out": None, "data": run_data, "seed": Recipe.seed}
    options |= {"objective": CROSS_ENTROPY, "score_epochs": 0}
    data = given.get("data")
    if given.get("objective") == SELF_CRITICAL:
        return [PRESETS["score"], options]
    if data and Path(data).resolve() != run_data.resolve():
        return [PRESETS["warm"], options]
    return [options]


def _data_of(run: Recipe, folder: Path) -> Path:
    """The data that the run in a folder was trained on."""
    return Path(folder / DATA if run.data is None else run.data)


def _require_model(recipe: Recipe, run: Recipe, start: Path) -> None:
    """Raise OptionError if a recipe's model is not that of the run at `start`."""
    if names := different(recipe, run, (MODEL,)):
        got = "given with `start`"
        expected = f"the model of {start}"
        cause = "leave out what differs, or train from the beginning"
        raise OptionError("train_run", _compared(names, recipe, run), got, expected, cause)


def _require_start(recipe: Recipe) -> None:
    """Raise OptionError if a new self-critical run starts from nothing, or asks for two stages."""
    begun = recipe.out is not None and (Path(recipe.out) / LAST).exists()
    if recipe.objective != SELF_CRITICAL or begun:
        return
    if recipe.score_epochs:
        got = "is given with self-critical training"
        expected = "`epochs`: there is no second stage to come"
        raise OptionError("train_run", "`score_epochs`", got, expected)
    if recipe.start is None:
        raise OptionError(
            "train_run",
            "`objective`",
            "is self-critical without `start`",
            expected="the run folder of a captioner that speaks already: train one by cross entropy"
            " first, then start from it",
        )


def default_out(recipe: Recipe) -> Path:
    """The first free one of runs/NAME-CELL, runs/NAME-CELL-2, ...; NAME is the data's."""
    data = Path(recipe.data).resolve() if recipe.data else None
    generated = data is None or (data.name == DATA and (data.parent / CONFIG).is_file())
    name = f"{'pictures' if generated or data is None else data.stem}-{recipe.cell}"
    return first_free(Path("runs"), name)


# The plan of training


class Stage(NamedTuple):
    """One training in one folder."""

    options: Recipe  # complete: `out` is the stage's folder, `epochs` is known
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


def plan_training(options: Recipe, open_path: Callable[[Path | None], CaptionData]) -> Plan:
    """Plan a training at `options.out`, from the options and the run that is there.

    What the options leave open is the run's, or else suits the number of captions.

    open_path : opens the data set at a path; None: generates one
    DataError : the data cannot be opened, or is not the run's. OptionError : options contradict the
        run, or are of self-critical training without a start; or the run began another way.
    """
    out = Path(options.out or "")
    options, begun = replace(options, out=out), _run_at(out)
    first = _run_at(out / FIRST) or begun
    if first:
        run = replace(first.options, out=out)
        options = Recipe.of(options.settled, vars(run))
        check_agreement(options, run)
    elif options.start is not None:
        start = opened_folder(options.start)
        run = Config.read(start).recipe
        _require_model(options, run, start)
        options = replace(options, data=options.data or _data_of(run, start))
    _require_start(options)

    generated = (file for file in (out / DATA, out / FIRST / DATA) if file.exists())
    path = options.data or (begun and begun.options.data) or next(generated, None)
    data = open_path(Path(path) if path else None)
    captions = len(data.split("train").captions)
    options = Recipe.of(options.settled, preset_for(captions, options.batch_size))

    if (
        options.objective == SELF_CRITICAL
        or not options.score_epochs
        or (begun and begun.options.objective == CROSS_ENTROPY)
    ):
        stages = [Stage(options, first and first.config)]
    elif first and begun:  # the first stage is done
        if options.epochs != first.options.epochs:
            raise OptionError(
                "train_run",
                f"`epochs` {options.epochs}",
                f"given with `resume`, but the first stage of {out} is done after"
                f" {first.options.epochs}",
                cause="leave it out",
            )
        changed = {name: getattr(options, name) for name in ("save_every", "neighbours")}
        changed |= {"data": options.data or begun.options.data, "resume": True}
        stages = [Stage(replace(begun.options, **changed), begun.config)]
    else:
        folder = out / FIRST
        second: dict[str, Any] = {
            "start": folder,
            "data": options.data or folder / DATA,
            "epochs": options.score_epochs,
            "resume": True,
        }
        stages = [
            Stage(replace(options, out=folder), first and first.config),
            Stage(Recipe.of(second, PRESETS["score"], vars(options)), None),
        ]
    for stage in stages:
        if stage.config is None:
            continue
        check_way("train_run", stage.folder, stage.config.way)
        if stage.config.data_stamp != data.fingerprint:
            got = f"is not the data that {stage.folder} began with"
            expected = "the same, unchanged"
            cause = "give its path as `data`, or begin another run"
            raise DataError("train_run", path or stage.folder / DATA, got, expected, cause)
    return Plan(stages, data)


def _run_at(folder: Path) -> Stage | None:
    """The run in a folder, from its config; None: there is none."""
    if not (folder / CONFIG).is_file():
        return None
    config = Config.read(folder)
    return Stage(config.recipe, config)


def check_agreement(options: Recipe, run: Recipe) -> None:
    """Raise OptionError if options contradict those of the run to continue; it names them all.

    More epochs, or another patience, are no contradiction. But with a learning rate that falls to
    zero in the last epoch, other epochs are one, since each step depends on their number.
    """
    names = different(options, run, FIXED)
    if _absolute(options.start) != _absolute(run.start):
        names.append("start")
    other_decay = options.epochs != run.epochs and run.lr_decay == LINEAR
    if other_decay and not names:
        raise OptionError(
            "train_run",
            f"`epochs` {options.epochs}",
            "given with `resume`",
            expected=f"the {run.epochs} of {run.out}: its learning rate falls to zero over these"
            f" epochs (`lr_decay` {LINEAR}), so each step depends on their number",
            cause="leave `epochs` out, or start a new run from this one, with `start` and another"
            " `out`",
        )
    if other_decay or options.epochs < run.epochs:
        names.append("epochs")
    if names:
        got = "given with `resume`"
        expected = f"the options of {run.out}"
        cause = "leave them out, or begin another run with another `out`"
        raise OptionError("train_run", _compared(names, options, run), got, expected, cause)


def _absolute(path: str | Path | None) -> Path | None:
    return None if path is None else Path(path).resolve()


def _shown(value: object) -> str:
    return "none" if value is None else str(value)


def _compared(names: Sequence[str], options: Recipe, run: Recipe) -> str:
    return ", ".join(
        f"`{name}` {_shown(getattr(options, name))} (the run has {_shown(getattr(run, name))})"
        for name in names
    )
