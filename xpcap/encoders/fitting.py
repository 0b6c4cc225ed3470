"""Scales pictures of any size to one area, without cropping or distortion."""

import math

import numpy as np

WIDEST = 2.25  # longer side over shorter; longer pictures are padded to it


def fit(picture: np.ndarray, side: int) -> np.ndarray:
    """Scale a picture to the area of a square of `side`, so that things are as large on a wide sheet as on a square one.

    A picture whose sides differ more than 2.25 times is padded to that ratio, evenly on both sides, in the commonest colour of its border.

    Parameters
    ----------
    picture : array (height, width, 3), uint8
    side : pixels

    Returns
    -------
    array (height, width, 3), uint8, of about side * side pixels; the picture itself if it has that size already

    Raises
    ------
    ValueError : not such an array, or one without pixels.
    """
    require_picture("fit", picture)
    height, width = picture.shape[:2]
    sheet, inner = fitted(height, width, side)
    if inner == (height, width) == sheet:
        return picture
    from PIL import Image

    shrinks = math.prod(inner) < height * width
    scaled = np.asarray(Image.fromarray(picture).resize(inner[::-1], Image.Resampling.BOX if shrinks else Image.Resampling.BICUBIC))
    if inner == sheet:
        return scaled
    padded = np.empty((*sheet, 3), np.uint8)
    padded[:] = border_colour(scaled)
    top, left = corner(sheet, inner)
    padded[top : top + inner[0], left : left + inner[1]] = scaled
    return padded


def fitted(height: int, width: int, side: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """Height and width of the sheet that `fit` makes, and of the scaled picture on it."""
    stretch = math.sqrt(min(max(height / width, 1 / WIDEST), WIDEST))
    sheet = round(side * stretch), round(side / stretch)
    scale = min(sheet[0] / height, sheet[1] / width)
    return sheet, (max(1, round(height * scale)), max(1, round(width * scale)))


def corner(sheet: tuple[int, int], inner: tuple[int, int]) -> tuple[int, int]:
    """Row and column of the sheet where the scaled picture begins."""
    return (sheet[0] - inner[0]) // 2, (sheet[1] - inner[1]) // 2


def require_picture(where: str, picture: np.ndarray) -> None:
    """ValueError : not an array (height, width, 3), uint8, or one without pixels."""
    if getattr(picture, "ndim", 0) != 3 or picture.shape[2] != 3 or picture.dtype != np.uint8 or not picture.size:
        came = f"shape {picture.shape} and dtype {picture.dtype}" if hasattr(picture, "dtype") else f"type {type(picture).__name__}"
        raise ValueError(f"{where}: a picture has {came}, expected uint8 (height, width, 3)")


def border_colour(picture: np.ndarray) -> np.ndarray:
    """The commonest colour (3,) along the border of a picture."""
    border = np.concatenate((picture[0], picture[-1], picture[:, 0], picture[:, -1]))
    _, first, counts = np.unique(border @ np.array([65536, 256, 1]), return_index=True, return_counts=True)
    return border[first[counts.argmax()]]
