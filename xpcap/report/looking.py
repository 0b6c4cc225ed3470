"""Where a model looked for each word: a veil over the picture, thin where it looked."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from xpcap.encoders.area import WHOLE_PICTURE, Area

DIMMEST = 0.75  # opacity of the black veil where it is densest
ROUNDING = 1e-3  # the weights of a word may add up to so much more or less than 1


class Looked(NamedTuple):
    """Where a model looked for each of T words."""

    weights: np.ndarray  # (T, K, K): what each place weighed, row by row; those of a word add up to 1
    area: Area  # of the picture, that the K x K places share out evenly


def check_looked(function: str, name: str, looked: Looked, words: Sequence[str]) -> None:
    """ValueError : not a square of places for each word, with weights that add up to 1."""
    weights = looked.weights
    if weights.ndim != 3 or weights.shape[0] != len(words) or not 0 < weights.shape[1] == weights.shape[2]:
        raise ValueError(f"{function}: picture {name!r} has weights of shape {weights.shape}, expected (T, K, K) with T = {len(words)} words")
    odd = [word for word, total, least in zip(words, weights.sum(axis=(1, 2)), weights.min(axis=(1, 2)), strict=True)
           if not (abs(total - 1) <= ROUNDING and least >= 0)]  # fmt: skip
    if odd:
        raise ValueError(f"{function}: picture {name!r}: weights of {odd[0]!r} do not add up to 1, or some are below 0; a softmax over the places?")


def veil(weights: np.ndarray) -> np.ndarray:
    """How dense it is over each place (K, K), as uint8: 0 where the weight is largest, 255 where it is 0, and between them in proportion."""
    density: np.ndarray = np.round(255 * (1 - weights / weights.max())).astype(np.uint8)
    return density


def dim(picture: np.ndarray, weights: np.ndarray, area: Area = WHOLE_PICTURE) -> np.ndarray:
    """A picture under the veil of one word.

    Parameters
    ----------
    picture : (h, w, 3) uint8
    weights : (K, K), of the places, which share the `area` out evenly; the veil fades from the middle of a place to the next

    Returns
    -------
    (h, w, 3) uint8
    """
    from PIL import Image

    height, width = picture.shape[:2]
    top, left, bottom, right = (round(share * side) for share, side in zip(area, (height, width) * 2, strict=True))
    over = Image.new("L", (width, height), 255)
    size = max(1, right - left), max(1, bottom - top)
    over.paste(Image.fromarray(veil(weights)).resize(size, Image.Resampling.BILINEAR), (left, top))
    dimmed: np.ndarray = np.round(picture * (1 - np.asarray(over)[..., None] * (DIMMEST / 255))).astype(np.uint8)
    return dimmed


def peak(weights: np.ndarray) -> tuple[int, int, float]:
    """Row and column, from 1, of the place (K, K) that weighs most, and its weight."""
    row, column = divmod(int(weights.argmax()), weights.shape[1])
    return row + 1, column + 1, float(weights[row, column])
