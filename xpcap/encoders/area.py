"""The part of a picture that a grid of features lies over."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np


class Area(NamedTuple):
    """A rectangle, in shares of a picture's height and width from its upper left.

    It may reach beyond the picture, as where an encoder pads it.
    """

    top: float
    left: float
    bottom: float
    right: float


WHOLE_PICTURE = Area(0, 0, 1, 1)


def traced_area(transform: Callable[[np.ndarray], np.ndarray], height: int, width: int) -> Area:
    """The area that a preprocessing keeps of pictures of a size, found by a picture whose levels are its rows and columns.

    Parameters
    ----------
    transform : maps a picture (height, width, 3), uint8, to the network's input as levels (h, w, 3) from 0 to 255;
        it may scale, crop and pad
    """
    levels = np.zeros((height, width, 3), np.uint8)
    rows, columns = (np.linspace(0, 255, side).round().astype(np.uint8) for side in (height, width))
    levels[..., 0], levels[..., 1] = rows[:, None], columns
    seen = transform(levels)
    (top, bottom), (left, right) = _ends(seen[:, seen.shape[1] // 2, 0], height), _ends(seen[seen.shape[0] // 2, :, 1], width)
    return Area(top, left, bottom, right)


def _ends(line: np.ndarray, side: int) -> tuple[float, float]:
    """Begin and end of a line of levels in a picture's side, extrapolated from its middle half, which is not padded."""
    n = len(line)
    middle = slice(n // 4, n - n // 4)
    at = (line[middle] * ((side - 1) / 255) + 0.5) / side  # shares, of the middles of pixels
    slope, start = np.polyfit(np.arange(n)[middle] + 0.5, at, 1)
    return float(start), float(start + slope * n)
