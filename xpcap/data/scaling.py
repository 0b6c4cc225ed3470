"""How raw image features are scaled before a model sees them; a run keeps its own and applies it wherever it is used."""

from typing import Any, NamedTuple

import numpy as np

from xpcap.errors import unknown

KINDS = ("standardize", "none")
CHUNK = 4096  # rows at a time, so that features on disk need never be held whole


class FeatureScaling(NamedTuple):
    """(x - mean) / scale for each of the D features, or x itself where there is no mean."""

    mean: np.ndarray | None = None  # (D,) float32
    scale: np.ndarray | None = None  # (D,) float32

    def __call__(self, features: np.ndarray) -> np.ndarray:
        """Scaled features (N, D), a copy: float32, or float64 where they are that."""
        x = features.astype(np.promote_types(features.dtype, np.float32))
        if self.mean is not None and self.scale is not None:
            x -= self.mean
            x /= self.scale
        return x


def fit_scaling(kind: str, features: Any) -> FeatureScaling:
    """The scaling of that `kind` for features (m, D), an array or an HDF5 data set.

    ``standardize``: mean 0 and standard deviation 1 for each feature over these m rows; a feature that never changes is only centred.
    ``none``: features as they are.
    """
    if kind not in KINDS:
        raise unknown("fit_scaling", "feature scaling", kind, KINDS)
    if kind == "none":
        return FeatureScaling()
    m, D = features.shape
    total, squares = np.zeros(D), np.zeros(D)
    for start in range(0, m, CHUNK):
        total += features[start : start + CHUNK].astype(np.float64).sum(axis=0)
    mean = total / m
    for start in range(0, m, CHUNK):
        squares += ((features[start : start + CHUNK].astype(np.float64) - mean) ** 2).sum(axis=0)
    scale = np.sqrt(squares / m)
    scale[scale <= np.maximum(1e-8 * np.abs(mean), np.finfo(np.float32).tiny)] = 1  # what is left of a constant by rounding
    return FeatureScaling(mean.astype(np.float32), scale.astype(np.float32))
