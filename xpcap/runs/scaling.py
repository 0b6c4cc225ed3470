"""A run's feature scaling as tensors of its files, and back, checked."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from xpcap.data.features import FeatureScaling
from xpcap.errors import DataError

_MEAN, _SCALE = "feature_scaling.mean", "feature_scaling.scale"


def check_scaling(path: Path, scaling: FeatureScaling, config: Mapping[str, Any]) -> None:
    """DataError : a feature scaling read from `path` does not fit a run with that config."""
    expected = None if config["feature_scaling"] == "none" else tuple(config["feature_shape"][-1:])  # places are scaled alike
    for name, values in (("mean", scaling.mean), ("scale", scaling.scale)):
        shape = None if values is None else values.shape
        fits = shape == expected and (values is None or (values.dtype == np.float32 and bool(np.isfinite(values).all())))
        if not fits or (name == "scale" and values is not None and not (values > 0).all()):
            raise DataError(
                f"open_run: {path} has a feature scaling whose {name} has shape {shape}, expected {expected} for "
                f"{config['feature_scaling']!r}, finite float32, a scale above 0; damaged?"
            )


def scaling_tensors(scaling: FeatureScaling) -> dict[str, np.ndarray]:
    """A scaling as tensors of a file."""
    if scaling.mean is None or scaling.scale is None:
        return {}
    return {_MEAN: scaling.mean, _SCALE: scaling.scale}


def pop_scaling(tensors: dict[str, np.ndarray]) -> FeatureScaling:
    """Take the scaling out of what was read from a file."""
    return FeatureScaling(tensors.pop(_MEAN, None), tensors.pop(_SCALE, None))
