"""Attention over a picture, as a black overlay that is clear where a word's weight is largest."""

from collections.abc import Sequence
from dataclasses import astuple

import numpy as np

from xpcap.encoders.grid import WHOLE_PICTURE, Area
from xpcap.encoders.pictures import require_picture
from xpcap.errors import InvalidValueError

DIMMEST = 0.75  # largest opacity
ROUNDING = 1e-3  # tolerance of the sum of a word's weights


def check_weights(name: str, weights: np.ndarray, words: Sequence[str]) -> None:
    """Raise ValueError unless attention has shape (T, P), for T words, and rows that sum to 1."""
    if weights.ndim != 2 or len(weights) != len(words):
        raise InvalidValueError(
            f"picture {name!r} has weights of shape {weights.shape}, expected (T, P) with T ="
            f" {len(words)} words"
        )
    is_valid = (np.abs(weights.sum(axis=1) - 1) <= ROUNDING) & (weights.min(axis=1) >= 0)
    if not is_valid.all():
        raise InvalidValueError(
            f"picture {name!r}: the attention weights of {words[int(is_valid.argmin())]!r} do not add"
            " up to 1, or some are below 0; apply a softmax over the regions"
        )


def overlay_alpha(weights: np.ndarray) -> np.ndarray:
    """Opacity of each region (K, K), uint8: from 255 at weight 0 linearly to 0 at the largest."""
    alpha: np.ndarray = np.round(255 * (1 - weights / weights.max())).astype(np.uint8)
    return alpha


def overlay(picture: np.ndarray, weights: np.ndarray, area: Area = WHOLE_PICTURE) -> np.ndarray:
    """A picture under the black overlay of a word's attention.

    picture : (h, w, 3) uint8
    weights : (K, K), of the regions into which `area` is cut; the overlay fades between centres
    ValueError, TypeError : the picture has another shape or dtype, or weights are not finite, below
        0, or all 0.

    Examples
    --------
    >>> picture = np.full((4, 4, 3), 200, np.uint8)
    >>> overlay(picture, np.array([[1.0, 0.0], [0.0, 0.0]]))[[0, 3], [0, 3], 0].tolist()
    [200, 50]
    """
    from PIL import Image

    require_picture(picture)
    is_valid = np.ndim(weights) == 2 and np.isfinite(weights).all() and np.min(weights) >= 0
    if not is_valid or not np.max(weights) > 0:
        raise InvalidValueError(
            f"weights are {np.array2string(np.asarray(weights), threshold=9)}, expected an array"
            " (K, K) of finite numbers, none below 0 and not all 0; give the softmax over the"
            " regions"
        )

    height, width = picture.shape[:2]
    top, left, bottom, right = (
        round(share * side) for share, side in zip(astuple(area), (height, width) * 2, strict=True)
    )
    mask = Image.new("L", (width, height), 255)
    size = max(1, right - left), max(1, bottom - top)
    alpha = Image.fromarray(overlay_alpha(weights)).resize(size, Image.Resampling.BILINEAR)
    mask.paste(alpha, (left, top))
    light = 1 - np.asarray(mask)[..., None] * (DIMMEST / 255)
    dimmed: np.ndarray = np.round(picture * light).astype(np.uint8)
    return dimmed


def heaviest(weights: np.ndarray) -> tuple[int, int, float]:
    """Row and column, counted from 1, of the region with the largest weight (K, K), and the weight."""
    row, column = divmod(int(weights.argmax()), weights.shape[1])
    return row + 1, column + 1, float(weights[row, column])
