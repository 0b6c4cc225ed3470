"""Grids of regions of a picture: pooling, and the area that they cover."""

from dataclasses import dataclass

import numpy as np

from xpcap.errors import DataError


@dataclass(frozen=True)
class Area:
    """A rectangle in fractions of a picture's sides, from its upper left; padding may be outside."""

    top: float
    left: float
    bottom: float
    right: float


WHOLE_PICTURE = Area(0, 0, 1, 1)


MAX_REGIONS = 64  # regions along a side


def grid_of(name: str, text: str | None) -> int | None:
    """K of the option ``grid=K`` in an encoder's name, if given. DataError : K is invalid."""
    if text is not None and not (text.isdecimal() and 1 <= int(text) <= MAX_REGIONS):
        raise DataError(
            f"encoder {name!r} has grid={text}, expected grid=K with K regions along a side, 1 to"
            f" {MAX_REGIONS}"
        )
    return None if text is None else int(text)


def require_grid(name: str, shape: tuple[int, ...], grid: int) -> None:
    """Raise DataError if a map (height, width, D) is coarser than the grid."""
    height, width = shape[:2]
    if grid > min(height, width):
        raise DataError(
            f"encoder {name!r} has only {height} x {width} regions, expected at least {grid} x"
            f" {grid}; choose a grid of at most {min(height, width)}"
        )


def pool(features: np.ndarray, grid: int) -> np.ndarray:
    """Average a map (height, width, D) over K x K regions, row by row: (K*K, D).

    Region i of K covers rows floor(i * height / K) to ceil((i + 1) * height / K), as PyTorch's
    AdaptiveAvgPool2d does: neighbours may share a row if K does not divide the height.
    """
    down, across = (
        pooling_weights(side, grid).astype(features.dtype) for side in features.shape[:2]
    )
    pooled: np.ndarray = np.einsum("ih,jw,hwd->ijd", down, across, features, optimize=True)
    return pooled.reshape(grid * grid, -1)


def pooling_weights(side: int, grid: int) -> np.ndarray:
    """Weights of `side` rows in the average of each of `grid` regions: (grid, side)."""
    weights = np.zeros((grid, side))
    for i in range(grid):
        start = i * side // grid
        stop = -(-(i + 1) * side // grid)
        weights[i, start:stop] = 1 / (stop - start)
    return weights
