"""Scaling of raw image features. A run keeps the scaling that it was trained with, and applies it to all it captions."""

import math
from typing import Any, NamedTuple

import numpy as np

from xpcap.errors import unknown

KINDS = ("standardize", "none")
AT_ONCE = 3 << 22  # numbers: features on disk may not fit into memory
BLOCK = 1 << 17  # numbers scaled together: they stay in cache
CHUNK = 4096  # rows at a time, of features that are not long


class FeatureScaling(NamedTuple):
    """(x - mean) / scale for each of the D features; x itself if mean and scale are None."""

    mean: np.ndarray | None = None  # (D,) float32; each place of a grid is scaled alike
    scale: np.ndarray | None = None  # (D,) float32

    def __call__(self, features: np.ndarray) -> np.ndarray:
        """A scaled copy of features (N, D) or (N, P, D): float64 stays float64, other dtypes become float32."""
        scaled = np.empty(features.shape, np.promote_types(features.dtype, np.float32))
        step = max(1, BLOCK // max(1, math.prod(features.shape[1:])))
        for start in range(0, len(features), step):
            x = scaled[start : start + step]
            x[...] = features[start : start + step]
            if self.mean is not None and self.scale is not None:
                x -= self.mean
                x /= self.scale
        return scaled


def fit_scaling(kind: str, features: Any) -> FeatureScaling:
    """Fit a scaling to features (m, D) or grids (m, P, D), an array or an HDF5 data set.

    Parameters
    ----------
    kind : ``standardize``: mean 0 and standard deviation 1 for each feature over these m rows; a constant feature is only centred.
        ``none``: features as they are

    Raises
    ------
    OptionError : another kind. ValueError : a feature is not finite.
    """
    if not isinstance(kind, str) or kind not in KINDS:
        raise unknown("fit_scaling", "feature scaling", kind if isinstance(kind, str) else type(kind).__name__, KINDS)
    if kind == "none":
        return FeatureScaling()
    features = features if hasattr(features, "shape") else np.asarray(features)
    m, *shape = features.shape
    D, count = shape[-1], m * math.prod(shape[:-1])
    step = min(CHUNK, max(1, AT_ONCE // math.prod(shape)))
    total, squares = np.zeros(D), np.zeros(D)
    for start in range(0, m, step):
        block = np.asarray(features[start : start + step]).astype(np.float64)
        if not (finite := np.isfinite(block).reshape(len(block), -1).all(axis=1)).all():
            raise ValueError(
                f"fit_scaling: features of row {start + int(finite.argmin())} (of {m}) are not finite, expected numbers; extract them again"
            )
        total += block.reshape(-1, D).sum(axis=0)
    mean = total / count
    for start in range(0, m, step):
        squares += ((np.asarray(features[start : start + step]).astype(np.float64).reshape(-1, D) - mean) ** 2).sum(axis=0)
    scale = np.sqrt(squares / count)
    scale[scale <= np.maximum(1e-8 * np.abs(mean), np.finfo(np.float32).tiny)] = 1  # rounding errors of a constant feature
    return FeatureScaling(mean.astype(np.float32), scale.astype(np.float32))
