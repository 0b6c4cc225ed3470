"""Checks that a data set must pass before anyone trains on it: all that are cheap."""

import numpy as np

from xpcap.data.dataset import CaptionData, Split, check_finite
from xpcap.data.vocabulary import Vocabulary
from xpcap.errors import DataError


def check_data(where: str, data: CaptionData, start: bool = True) -> None:
    """Check every split, and that the splits agree in feature size and caption length.

    Parameters
    ----------
    where : name of the data set in messages
    start : require each caption to begin with ``<START>``, as in our dataset files and the course's folder

    Raises
    ------
    DataError : the first fault found.
    """
    if not data.splits:
        raise DataError(f"{where} has no split, expected at least one, such as train")
    for name, split in data.splits.items():
        _check_split(f"{where}, split {name!r}", split, data.vocabulary, start)
    for thing, sizes in (
        ("features", [s.features.shape[1:] for s in data.splits.values()]),
        ("captions", [s.captions.shape[1:] for s in data.splits.values()]),
    ):
        if len(set(sizes)) > 1:
            raise DataError(
                f"{where}: {thing} of the splits {', '.join(map(repr, data.splits))} have shapes {sizes}, expected one; made by two extractors?"
            )
    _check_projection(where, data)


def _check_split(where: str, split: Split, vocabulary: Vocabulary, start: bool) -> None:
    m = len(split.images)
    n = len(split.captions) if np.ndim(split.captions) else 0
    if n == 0 or m == 0:
        raise DataError(f"{where} is empty: {n} captions of {m} pictures, expected at least one of each")
    if split.captions.ndim != 2 or split.captions.shape[1] < 3 or split.captions.dtype.kind not in "iu":
        raise DataError(
            f"{where}: captions have shape {split.captions.shape} and dtype {split.captions.dtype}, expected integers (n, T+1), T+1 at least 3"
        )
    shape = split.features.shape
    if len(shape) not in (2, 3) or shape[0] != split.views * m or min(shape) < 1 or split.features.dtype.kind != "f":
        raise DataError(
            f"{where}: features have shape {shape} and dtype {split.features.dtype}, "
            f"expected floats (m, D), or grids (m, P, D), D at least 1, {'one row' if split.views == 1 else f'{split.views} views'} for each of {m} pictures; made for others?"
        )
    if split.image_idxs.shape != (n,) or split.image_idxs.dtype.kind not in "iu":
        raise DataError(f"{where}: image_idxs have shape {split.image_idxs.shape} and dtype {split.image_idxs.dtype}, expected {n} integers")
    _check_range(f"{where}: image_idxs hold numbers", split.image_idxs, m)
    _check_range(f"{where}: captions hold ids", split.captions, len(vocabulary))
    if start and (without := np.flatnonzero(split.captions[:, 0] != vocabulary.start)).size:
        raise DataError(
            f"{where}: {without.size} captions, number {without[0]} among them, do not begin with <START>, expected it in the first column"
        )
    if split.text is not None and len(split.text) != n:
        raise DataError(f"{where}: {len(split.text)} texts for {n} captions, expected one each")
    if isinstance(split.features, np.ndarray):
        check_finite(where, split.features, [*split.images] * split.views)


def _check_projection(where: str, data: CaptionData) -> None:
    if data.projection is None:
        return
    mean, components = data.projection
    fits = mean.ndim == 1 and components.shape == (len(mean), data.feature_dim) and mean.dtype == components.dtype == np.float32
    if not fits or not np.isfinite(mean).all() or not np.isfinite(components).all():
        raise DataError(
            f"{where}: its PCA has a mean of shape {mean.shape} and components of {components.shape}, "
            f"expected (D,) and (D, {data.feature_dim}), finite float32; damaged?"
        )


def _check_range(what: str, numbers: np.ndarray, count: int) -> None:
    low, high = int(numbers.min()), int(numbers.max())
    if low < 0 or high >= count:
        raise DataError(f"{what} {low}..{high}, expected 0..{count - 1}; made for other data?")
