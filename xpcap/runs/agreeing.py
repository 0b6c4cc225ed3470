"""What ranks must have in common before they train together: checked at the start, so that a mistake in one place is named and not trained on."""

import json
import os
import platform
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from xpcap.backend import get_backend
from xpcap.data import CaptionData
from xpcap.data.features import FeatureScaling, fit_scaling
from xpcap.distributed import Group
from xpcap.distributed.mpi import VARIABLE
from xpcap.errors import DataError, GroupError
from xpcap.runs.folder import CONFIG, LOCK

OWN = (VARIABLE, "XPCAP_BACKEND")  # of our variables those that ranks may differ in: a backend's name is compared without its device


def check_agreement_of_ranks(group: Group, out: Path, settings: Mapping[str, Any], stamp: str, iteration: int) -> None:
    """Compare versions, environment, options, data and run folder of all ranks. Every rank raises the same error.

    Parameters
    ----------
    settings : the options, as the config stores them
    stamp : of the data
    iteration : of the checkpoint to go on from; 0: none

    Raises
    ------
    GroupError : a rank differs from rank 0 in one of them. DataError : a rank does not see the run folder as rank 0 does.
    """
    if group.size == 1:
        return
    ours = {
        "xpcap": sys.modules["xpcap"].__version__,
        "Python": platform.python_version(),
        "NumPy": np.__version__,
        "backend": get_backend().partition(":")[0],
        "environment": {name: value for name, value in sorted(os.environ.items()) if name.startswith("XPCAP_") and name not in OWN},
        "option": {name: value for name, value in sorted(settings.items()) if name != "data"},  # a path may differ from machine to machine
        "data's stamp": stamp,
        "run folder": (out / LOCK).exists() or (out / CONFIG).exists(),
        "checkpoint's iteration": iteration,
    }
    everyone = [json.loads(text) for text in group.all_gather(json.dumps(ours))]
    for rank, theirs in enumerate(everyone):
        _compare(rank, theirs, everyone[0], out)


def scaling_of_first(group: Group, kind: str, data: CaptionData) -> FeatureScaling:
    """The scaling of a kind that rank 0 fits to the train split, the same bits on every rank."""
    fitted = fit_scaling(kind, data.split("train").features) if group.rank == 0 else FeatureScaling()
    if group.size == 1:
        return fitted
    told = json.loads(group.all_gather(json.dumps([numbers.tolist() for numbers in fitted if numbers is not None]))[0])
    return FeatureScaling(*(np.array(numbers, np.float32) for numbers in told))


def _compare(rank: int, theirs: Mapping[str, Any], first: Mapping[str, Any], out: Path) -> None:
    if not theirs["run folder"] or theirs["checkpoint's iteration"] != first["checkpoint's iteration"]:
        raise DataError(
            f"train_run: rank {rank} does not see {out} as rank 0 does, expected one folder for all ranks; is `out` on a disk that its machine shares?"
        )
    for thing, value in theirs.items():
        if value != first[thing]:
            if isinstance(value, dict):
                name = next(name for name in {**value, **first[thing]} if value.get(name) != first[thing].get(name))
                thing, value, other = f"{thing} {name}", value.get(name), first[thing].get(name)
            else:
                other = first[thing]
            raise GroupError(f"train_run: rank {rank} has {thing} {value!r:.80}, rank 0 has {other!r:.80}, expected the same on every rank")
