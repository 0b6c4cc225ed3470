"""Projection of features onto their principal components (PCA): fitted on the train split, kept with the data and with every run on it."""

from typing import Any, NamedTuple

import numpy as np

from xpcap.data.features import blocks
from xpcap.data.features import FeatureScaling
from xpcap.errors import DataError
from xpcap.threads import blas, side_by_side, stretches

STRIPES = 8  # of the covariance matrix that are computed side by side; fixed, so that the bits do not depend on the number of cores
NEGLIGIBLE = 1e-9  # of the largest variance: what is below it is rounding


class Projection(NamedTuple):
    """``(x - mean) @ components`` for each feature, or each place of a grid."""

    mean: np.ndarray  # (D,) float32
    components: np.ndarray  # (D, d) float32, orthonormal columns, the one with the largest variance first

    def __call__(self, features: np.ndarray) -> np.ndarray:
        """Features (..., D), float, projected: (..., d) float32."""
        with blas().turn():
            projected: np.ndarray = (features.astype(np.float32) - self.mean) @ self.components
        return projected

    def is_like(self, other: "Projection | None") -> bool:
        """Whether another projection has the same bits."""
        return other is not None and all(x.shape == y.shape and x.tobytes() == y.tobytes() for x, y in zip(self, other, strict=True))


class Preprocessing(NamedTuple):
    """What a run does to raw features: projection, then scaling."""

    projection: Projection | None
    scaling: FeatureScaling

    def __call__(self, features: np.ndarray) -> np.ndarray:
        """A copy of features (n, ..., D), projected and scaled."""
        return self.scaling(features if self.projection is None else self.projection(features))


def fit_projection(features: Any, d: int) -> tuple[Projection, float]:
    """Fit a projection onto the `d` directions in which features vary most.

    Parameters
    ----------
    features : (m, D) or (m, P, D), an array or what is indexed like one; read twice, a block at a time

    Returns
    -------
    the projection, and the share of the variance that it keeps

    Raises
    ------
    DataError : the features do not vary in so many directions.

    Notes
    -----
    Eigenvectors of the covariance matrix in float64. Of the two signs that each may have, the one is taken that makes its largest entry positive.
    """
    D = features.shape[-1]
    count = int(np.prod(features.shape[:-1]))
    mean = sum((block.reshape(-1, D).sum(axis=0, dtype=np.float64) for _, block in blocks(features)), np.zeros(D)) / count
    covariance = np.zeros((D, D))
    for _, block in blocks(features):
        centred = block.reshape(-1, D) - mean  # float64

        def add(columns: slice, centred: np.ndarray = centred) -> None:
            covariance[:, columns] += centred.T @ centred[:, columns]

        side_by_side(add, stretches(D, STRIPES))
    with blas().on_one_thread():
        variances, vectors = np.linalg.eigh(covariance)  # in rising order
    rank = int(np.count_nonzero(variances > NEGLIGIBLE * variances[-1]))
    if d > rank:
        raise DataError(
            f"fit_projection: {len(features):,} pictures with features of {D:,} numbers vary in {rank:,} directions, expected at least {d:,}; "
            "choose a smaller `pca`"
        )
    components = vectors[:, : -d - 1 : -1]
    components = components * np.sign(components[np.abs(components).argmax(axis=0), np.arange(d)])
    share = float(variances[: -d - 1 : -1].sum() / variances.sum())
    return Projection(mean.astype(np.float32), np.ascontiguousarray(components, np.float32)), share
