"""Starting from another run's best parameters: which options come from it, and whether it fits the data."""

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from xpcap.data import CaptionData
from xpcap.errors import DataError, OptionError
from xpcap.runs.folder import BEST, DATA, Run, digest, open_run, opened_folder, read_config
from xpcap.runs.options import ON_SCORE, TrainOptions, options_of
from xpcap.training.objectives import CROSS_ENTROPY, SELF_CRITICAL

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
