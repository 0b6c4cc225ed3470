"""Colour and edge histograms on a grid: features that need nothing but NumPy, for pictures of plain shapes."""

import numpy as np

GRID = 4  # cells across and down
LEVELS = 3  # of each colour channel
DIRECTIONS = 4  # of an edge: along 0, 45, 90 and 135 degrees


class HistogramEncoder:
    """For each cell of a 4 x 4 grid, the share of its pixels in each of 27 colours, and its edge strength in four directions."""

    dim = GRID * GRID * (LEVELS**3 + DIRECTIONS)

    def encode(self, pictures: np.ndarray) -> np.ndarray:
        """Pictures (n, height, width, 3), uint8, height and width multiples of 4, to features (n, 496), float32."""
        if pictures.ndim != 4 or pictures.shape[3] != 3 or pictures.dtype != np.uint8 or pictures.shape[1] % GRID or pictures.shape[2] % GRID:
            raise ValueError(
                f"HistogramEncoder: pictures have shape {pictures.shape} and dtype {pictures.dtype}, expected uint8 (n, height, width, 3), sides multiples of {GRID}"
            )
        return np.concatenate([self._encode_one(picture) for picture in pictures]).reshape(len(pictures), self.dim)

    def _encode_one(self, picture: np.ndarray) -> np.ndarray:
        level = picture.astype(np.int32) * LEVELS // 256
        colour = (level[..., 0] * LEVELS + level[..., 1]) * LEVELS + level[..., 2]  # (height, width)
        grey = picture.astype(np.float32).mean(axis=2) / 255
        down, across = np.gradient(grey)
        strength = np.hypot(down, across)
        direction = np.round(np.arctan2(down, across) / (np.pi / DIRECTIONS)).astype(np.int32) % DIRECTIONS
        return np.concatenate((_cells(colour, LEVELS**3), _cells(direction, DIRECTIONS, strength)), axis=1).ravel()


def _cells(bins: np.ndarray, count: int, weights: np.ndarray | None = None) -> np.ndarray:
    """Histogram of `bins` (height, width) in each grid cell, per pixel of a cell: (16, count) float32."""
    height, width = bins.shape
    row, column = np.indices(bins.shape)
    cell = row * GRID // height * GRID + column * GRID // width
    flat = np.bincount((cell * count + bins).ravel(), None if weights is None else weights.ravel(), GRID * GRID * count)
    return (flat / (height * width / GRID**2)).astype(np.float32).reshape(GRID * GRID, count)
