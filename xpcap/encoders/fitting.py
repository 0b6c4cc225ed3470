"""Pictures of any size made square, whole and undistorted."""

import numpy as np


def fit(picture: np.ndarray, side: int) -> np.ndarray:
    """Scale a picture so that its longer side is `side`, and pad it evenly to a square in the colour that is commonest along its border.

    Parameters
    ----------
    picture : array (height, width, 3), uint8
    side : pixels

    Returns
    -------
    array (side, side, 3), uint8; the picture itself where it has that size already

    Raises
    ------
    ValueError : no such array, or one without pixels.
    """
    if getattr(picture, "ndim", 0) != 3 or picture.shape[2] != 3 or picture.dtype != np.uint8 or not picture.size:
        came = f"shape {picture.shape} and dtype {picture.dtype}" if hasattr(picture, "dtype") else f"type {type(picture).__name__}"
        raise ValueError(f"fit: a picture has {came}, expected uint8 (height, width, 3)")
    height, width = picture.shape[:2]
    if (height, width) == (side, side):
        return picture
    from PIL import Image

    longer = max(height, width)
    inner = (max(1, round(width * side / longer)), max(1, round(height * side / longer)))
    scaled = np.asarray(Image.fromarray(picture).resize(inner, Image.Resampling.BOX if longer > side else Image.Resampling.BICUBIC))
    border = np.concatenate((scaled[0], scaled[-1], scaled[:, 0], scaled[:, -1]))
    colours, counts = np.unique(border, axis=0, return_counts=True)
    square = np.empty((side, side, 3), np.uint8)
    square[:] = colours[counts.argmax()]
    top, left = (side - inner[1]) // 2, (side - inner[0]) // 2
    square[top : top + inner[1], left : left + inner[0]] = scaled
    return square
