"""How the options of a run are chosen: those given, and the rest by what the run is of, goes on with, or starts from."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from xpcap.errors import OptionError
from xpcap.runs.folder import FIRST, read_config
from xpcap.runs.options import GENERATED, TrainOptions, check_agreement, default_out, options_of
from xpcap.runs.place import check_resumable, has_run
from xpcap.runs.stages import has_first
from xpcap.runs.starting import options_from
from xpcap.training.objectives import SELF_CRITICAL


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
