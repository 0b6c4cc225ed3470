"""Grids of features: the map that a network makes of a picture, averaged over K x K regions."""

from collections.abc import Mapping

import numpy as np

from xpcap.errors import DataError

MOST = 64  # regions along a side


def grid_of(name: str, options: Mapping[str, str]) -> int | None:
    """K of the option ``grid=K`` in an encoder's name; None: pooled features. DataError : it is no such number."""
    grid = options.get("grid")
    if grid is not None and not (grid.isdecimal() and 1 <= int(grid) <= MOST):
        raise DataError(f"find_encoder: encoder {name!r} has grid={grid}, expected places along a side, 1 to {MOST}")
    return None if grid is None else int(grid)


def grid_name(name: str, grid: int | None) -> str:
    """An encoder's name with its grid: ``histogram:grid=3``."""
    return name if grid is None else f"{name}:grid={grid}"


def require_regions(name: str, shape: tuple[int, ...], grid: int) -> None:
    """DataError : a map (height, width, D) is coarser than the grid."""
    height, width = shape[:2]
    if grid > min(height, width):
        raise DataError(f"find_encoder: encoder {name!r} sees {height} x {width} places, expected at least the {grid} x {grid} of its grid")


def pool(features: np.ndarray, grid: int) -> np.ndarray:
    """Average a map (height, width, D) over K x K regions, row by row: (K*K, D).

    Region i of K covers rows floor(i * height / K) to ceil((i + 1) * height / K): neighbours share a row where K
    does not divide the height.

    Notes
    -----
    PyTorch's AdaptiveAvgPool2d.
    """
    down, across = (_shares(side, grid).astype(features.dtype) for side in features.shape[:2])
    pooled: np.ndarray = np.einsum("ih,jw,hwd->ijd", down, across, features, optimize=True)
    return pooled.reshape(grid * grid, -1)


def _shares(side: int, grid: int) -> np.ndarray:
    """Weights of `side` rows in the average of each of `grid` regions: (grid, side)."""
    shares = np.zeros((grid, side))
    for i in range(grid):
        start, stop = i * side // grid, -(-(i + 1) * side // grid)
        shares[i, start:stop] = 1 / (stop - start)
    return shares
