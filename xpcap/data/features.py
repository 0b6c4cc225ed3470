"""Features of many pictures as rows: lazy rows, scaling, and PCA projection.

A run stores its scaling and applies it to every picture that it captions. The index of similar photos
stores a projection.
"""

import hashlib
import math
from collections.abc import Callable, Iterator
from typing import NamedTuple, Protocol

import numpy as np

from xpcap.backend import Array, asarray
from xpcap.backend.threads import one_blas_thread, parallel_map, split_evenly
from xpcap.errors import InvalidValueError, OptionError, one_of

BLOCK_BYTES = 16 << 20
IN_MEMORY = 64 << 20  # bytes; larger tables stay on disk while a data set is built from them
Function = Callable[[np.ndarray], np.ndarray]


class RowSource(Protocol):
    """Features (m, *shape), read by slice or row numbers: array, HDF5 or LazyRows."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> np.dtype: ...

    def __len__(self) -> int: ...

    def __getitem__(self, which: slice | np.ndarray, /) -> np.ndarray: ...


class LazyRows:
    """Lazy rows: rows `numbers` (n,) of a row source, mapped by `then` when they are read."""

    def __init__(self, rows: RowSource, numbers: np.ndarray, then: Function | None = None) -> None:
        self._rows = rows
        self._numbers = numbers
        self._then = then
        like = self[:1]
        self.shape = (len(numbers), *like.shape[1:])
        self.dtype = like.dtype

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, which: slice | np.ndarray) -> np.ndarray:
        rows: np.ndarray = self._rows[self._numbers[which]]
        return rows if self._then is None else self._then(rows)


def blocks(rows: RowSource, numbers: int | None = None) -> Iterator[tuple[slice, np.ndarray]]:
    """All rows, a block at a time: (slice, rows). The blocks depend only on shape and dtype.

    A block has at most `numbers` numbers, but at least a row. None: 16 MB of them.
    """
    numbers = BLOCK_BYTES // rows.dtype.itemsize if numbers is None else numbers
    step = max(1, numbers // max(1, math.prod(rows.shape[1:])))
    for start in range(0, len(rows), step):
        where = slice(start, min(start + step, len(rows)))
        yield where, rows[where]


def materialise(rows: RowSource) -> np.ndarray:
    """All rows as one array."""
    array = np.empty(rows.shape, rows.dtype)
    for where, block in blocks(rows):
        array[where] = block
    return array


def row_digests(rows: RowSource) -> list[bytes]:
    """A digest of 16 bytes of each row, in its own dtype: equal features have equal digests."""
    return [
        hashlib.blake2b(row.tobytes(), digest_size=16).digest()
        for _, block in blocks(rows)
        for row in block
    ]


SCALINGS = ("standardize", "none")
# Largest block of a sum, in elements and rows; other sizes round the sum differently
FIT_NUMBERS = 3 << 22
FIT_ROWS = 4096
SCALE_NUMBERS = 1 << 17  # numbers of a block that is scaled, which fit in the cache


class FeatureScaling(NamedTuple):
    """(x - mean) / scale for each of the D features; x itself if mean and scale are None."""

    mean: np.ndarray | None = None  # (D,) float32; all regions of a grid are scaled alike
    scale: np.ndarray | None = None  # (D,) float32

    def __call__(self, features: RowSource) -> np.ndarray:
        """A scaled copy of features (N, D) or (N, P, D), in float64 if they are float64, else float32.

        ValueError : mean and scale are not both (D,), or None.
        """
        wanted = features.shape[-1:]
        shapes = [getattr(x, "shape", None) for x in self]
        if shapes not in ([wanted, wanted], [None, None]):
            raise InvalidValueError(
                f"mean and scale have shapes {' and '.join(map(str, shapes))}, expected {wanted}"
                " for both, or None; fitted to other features?"
            )
        scaled = np.empty(features.shape, np.promote_types(features.dtype, np.float32))
        for rows, block in blocks(features, SCALE_NUMBERS):
            x = scaled[rows]
            x[...] = block
            if self.mean is not None and self.scale is not None:
                x -= self.mean
                x /= self.scale
        return scaled


def fit_scaling(kind: str, features: RowSource) -> FeatureScaling:
    """Fit a scaling to features of pictures.

    Parameters
    ----------
    kind : str
        ``standardize``: mean 0 and standard deviation 1 for each feature over these m rows; a
        constant feature is only centred. ``none``: features as they are.
    features : array (m, D) or (m, P, D), float, or HDF5 data set
        Grids have P regions.

    Returns
    -------
    scaling : FeatureScaling

    Raises
    ------
    OptionError
        There is no such kind.
    ValueError
        A feature is not finite, or there is none.

    Examples
    --------
    >>> fit_scaling("standardize", np.array([[1.0, 5.0], [3.0, 5.0]]))(np.array([[4.0, 6.0]]))
    array([[2., 1.]])
    """
    if not isinstance(kind, str) or kind not in SCALINGS:
        name = kind if isinstance(kind, str) else type(kind).__name__
        raise OptionError(
            f"feature scaling {name!r} does not exist, expected {one_of(SCALINGS, name)}"
        )
    if kind == "none":
        return FeatureScaling()
    features = features if hasattr(features, "shape") else np.asarray(features)
    m, *shape = features.shape
    if not m:
        raise InvalidValueError(
            "features have no row, expected at least one; an empty train split?"
        )
    D = shape[-1]
    count = m * math.prod(shape[:-1])
    numbers = min(FIT_NUMBERS, FIT_ROWS * math.prod(shape))
    total = np.zeros(D)
    squares = np.zeros(D)
    for rows, block in blocks(features, numbers):
        if not (finite := np.isfinite(block).reshape(len(block), -1).all(axis=1)).all():
            raise InvalidValueError(
                f"features of row {rows.start + int(finite.argmin())} (of {m}) are not finite,"
                " expected numbers; extract them again"
            )
        total += block.reshape(-1, D).astype(np.float64).sum(axis=0)
    mean = total / count
    for _, block in blocks(features, numbers):
        squares += ((block.reshape(-1, D) - mean) ** 2).sum(axis=0)
    scale = np.sqrt(squares / count)
    rounding = np.maximum(1e-8 * np.abs(mean), np.finfo(np.float32).tiny)
    scale[scale <= rounding] = 1  # a constant feature
    return FeatureScaling(mean.astype(np.float32), scale.astype(np.float32))


# The covariance matrix is computed in this many stripes, so that bits do not depend on the cores
STRIPES = 8
NEGLIGIBLE = 1e-9  # smaller fractions of the largest variance are rounding


class Projection(NamedTuple):
    """``(x - mean) @ components`` for each feature, or each region of a grid."""

    mean: np.ndarray  # (D,) float32
    components: np.ndarray  # (D, d) float32, orthonormal columns, largest variance first

    @one_blas_thread()
    def __call__(self, features: Array) -> Array:
        """Project features (..., D), float, on any device, to (..., d) float32."""
        mean, components = (asarray(x, like=features) for x in self)
        # dot, since @ reports floating-point flags, which OpenBLAS may raise on finite numbers
        return (features.astype(np.float32, copy=False) - mean).dot(components)


def fit_projection(features: RowSource, d: int) -> Projection:
    """Fit a projection onto the `d` principal components of features, or onto all if fewer.

    features : (m, D); read twice, a block at a time

    Components are eigenvectors of the covariance matrix, in float64, with signs that make the largest
    entry positive.
    """
    m, D = features.shape
    total = np.zeros(D)
    for _, block in blocks(features):
        total += block.sum(axis=0, dtype=np.float64)
    mean = total / m
    covariance = np.zeros((D, D))
    for _, block in blocks(features):
        centred = block - mean  # float64

        def add(columns: slice, centred: np.ndarray = centred) -> None:
            covariance[:, columns] += centred.T @ centred[:, columns]

        parallel_map(add, split_evenly(D, STRIPES))
    with one_blas_thread():
        variances, vectors = np.linalg.eigh(covariance)  # in rising order
    rank = int(np.count_nonzero(variances > NEGLIGIBLE * variances[-1]))
    d = min(d, rank)
    components = vectors[:, : -d - 1 : -1]
    components = components * np.sign(components[np.abs(components).argmax(axis=0), np.arange(d)])
    return Projection(mean.astype(np.float32), np.ascontiguousarray(components, np.float32))
