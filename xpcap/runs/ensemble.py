"""Several runs opened as one, to caption and to be scored together."""

import warnings
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from xpcap.data.dataset import size
from xpcap.errors import DataError
from xpcap.models import Captioner, CaptioningRNN, Ensemble
from xpcap.runs.captioning import source_of
from xpcap.runs.folder import CONFIG, VOCAB, Run, digest, open_run, opened_folder


def is_run(path: str | Path) -> bool:
    """Whether a run folder is at `path`, or one with its first stage alone. It may be damaged. What may not be looked at, or has a name that no file can have, is none."""
    try:
        return all((opened_folder(path) / name).is_file() for name in (CONFIG, VOCAB))
    except (OSError, ValueError):
        return False


def open_runs(paths: Sequence[str | Path], *, on_remark: Callable[[str], object] = warnings.warn) -> Run[Captioner]:
    """Open run folders as one run, whose model is the Ensemble of theirs; one alone as `open_run` does.

    Its data, config and record are those of the first. `on_remark` is as in `open_run`.

    Raises
    ------
    DataError : as in `open_run`; or the runs do not have the same vocabulary, `max_words`, and encoder, projection and scaling of features.
        ValueError : no path.
    """
    if not paths:
        raise ValueError("open_runs: got no run folder, expected at least one")
    first, *others = (open_run(path, on_remark=on_remark) for path in paths)
    for other in others:
        if what := _difference(first, other):
            raise DataError(
                f"open_runs: {first.path} and {other.path} {what}, expected the same of runs that caption together; were they trained on the same data?"
            )
    if not others:
        return first
    model = Ensemble([run.model for run in (first, *others)])
    return Run(first.path, first.config, first.vocabulary, first.scaling, model, first.meta, first.projection, tuple(run.path for run in others))


def _difference(first: Run[CaptioningRNN], other: Run[CaptioningRNN]) -> str:
    """What keeps two runs from captioning together, in words; empty: nothing does."""
    runs = first, other
    if digest(first.vocabulary) != digest(other.vocabulary):
        return f"have different vocabularies, of {_both(f'{len(run.vocabulary):,}' for run in runs)} words"
    if first.config["max_words"] != other.config["max_words"]:
        return f"say at most {_both(run.config['max_words'] for run in runs)} words"
    if first.raw_shape != other.raw_shape:
        return f"take features of size {_both(size(run.raw_shape) for run in runs)}"
    if source_of(first).encoder != source_of(other).encoder:
        return f"take features from different encoders: {_both(source_of(run).encoder or 'features that were given' for run in runs)}"
    if not _alike(first.projection, other.projection):
        return "project features by different PCAs"
    if not _alike(first.scaling, other.scaling):
        return f"scale features differently, {_both(run.config['feature_scaling'] for run in runs)}"
    return ""


def _both(texts: Iterable[object]) -> str:
    return " and ".join(map(str, texts))


def _alike(one: Any, other: Any) -> bool:
    """Whether two projections or scalings have the same arrays, or neither has any."""
    return (one is None) == (other is None) and all(map(np.array_equal, one or (), other or ()))
