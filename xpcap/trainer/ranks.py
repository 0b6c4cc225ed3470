"""Comparison of ranks before they train, so that a difference is an error that names it."""

import os
import platform
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from xpcap.backend import get_backend
from xpcap.backend.plain_code import current_code
from xpcap.data import CaptionData
from xpcap.data.features import FeatureScaling, fit_scaling
from xpcap.distributed.mpi import VARIABLE
from xpcap.distributed.work import current
from xpcap.errors import DataError, GroupError
from xpcap.files.safetensors_file import read_tensors
from xpcap.runs.folder import CONFIG, LAST, LOCK
from xpcap.trainer.plan import Plan

# Environment variables in which ranks may differ; the effect of the last two is compared instead
RANK_VARIABLES = (VARIABLE, "XPCAP_BACKEND", "XPCAP_PLAIN")


def check_ranks(plan: Plan) -> None:
    """Compare versions, environment, plan, data and run folder of all ranks; all raise alike.

    GroupError : a rank differs from rank 0. DataError : a rank sees another run folder than rank 0.
    """
    group = current().group
    out = plan.out
    if group.size == 1:
        return
    names = [
        name
        for name in sorted(os.environ)
        if name.startswith("XPCAP_") and name not in RANK_VARIABLES
    ]
    facts: dict[str, object] = {
        "xpcap": sys.modules["xpcap"].__version__,
        "Python": platform.python_version(),
        "NumPy": np.__version__,
        "backend": get_backend().partition(":")[0],
        "code": current_code(),
        "environment": {name: os.environ[name] for name in names},
        "data's stamp": plan.data.fingerprint,
        "run folder": (out / LOCK).exists() or (out / CONFIG).exists(),
        "checkpoint's iteration": _iteration(out),
        # `data` is a path, which may differ from machine to machine
        "option": {k: x for k, x in plan.options.to_config().items() if k != "data"},
    }
    rank_facts = group.gather(facts)
    for rank, other_facts in enumerate(rank_facts):
        _compare(rank, other_facts, rank_facts[0], out)


def _compare(rank: int, facts: Mapping[str, Any], first: Mapping[str, Any], out: Path) -> None:
    iteration = "checkpoint's iteration"
    if not facts["run folder"] or facts[iteration] != first[iteration]:
        raise DataError(
            f"rank {rank} does not see {out} as rank 0 does, expected the same folder on all ranks;"
            " is `out` on a disk that all machines share?"
        )
    for thing, value in facts.items():
        other = first[thing]
        if value != other:
            if isinstance(value, dict):
                name = next(n for n in {**value, **other} if value.get(n) != other.get(n))
                thing = f"{thing} {name}"
                value = value.get(name)
                other = other.get(name)
            raise GroupError(
                f"rank {rank} has {thing} {value!r:.80}, rank 0 has {other!r:.80}, expected the"
                " same on every rank"
            )


def _iteration(folder: Path) -> object:
    """Iteration of the checkpoint in a folder; 0 without a checkpoint."""
    path = folder / LAST
    return read_tensors(path)[1].get("iteration") if path.exists() else 0


def fitted_scaling(kind: str, data: CaptionData) -> FeatureScaling:
    """The scaling that rank 0 fits to the train split; every rank gets the same bits."""
    group = current().group
    fitted = FeatureScaling()
    if group.rank == 0:
        fitted = fit_scaling(kind, data.split("train").features)
    arrays = [array.tolist() for array in fitted if array is not None]
    return FeatureScaling(*(np.array(numbers, np.float32) for numbers in group.gather(arrays)[0]))
