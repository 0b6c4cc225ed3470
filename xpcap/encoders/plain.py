"""Turns decoded pictures of any mode into RGB as a person sees them, strip by strip: a whole copy would double the memory."""

from collections.abc import Iterator
from typing import Any

import numpy as np

LONGEST = 1024  # pixels of the longer side; no encoder uses more
STRIP = 1 << 20  # pixels converted at once
MOST_EXIF = 1 << 16  # bytes, what a segment of a JPEG holds; longer EXIF could make Pillow copy it thousands of times


def plain(picture: Any) -> np.ndarray:
    """Make a picture upright, RGB, on white, and at most `LONGEST` long: array (height, width, 3), uint8."""
    picture.load()
    turn = _turn(picture)
    small = _small(picture)
    small.thumbnail((LONGEST, LONGEST), reducing_gap=2.0)
    return np.asarray(_on_white(small if turn is None else small.transpose(turn)))


def _turn(picture: Any) -> Any:
    """The turn that makes the picture upright. Pillow's exif_transpose also rewrites the EXIF, and fails on odd entries that do no harm here."""
    from PIL.ExifTags import Base
    from PIL.Image import Transpose

    turns = {
        2: Transpose.FLIP_LEFT_RIGHT,
        3: Transpose.ROTATE_180,
        4: Transpose.FLIP_TOP_BOTTOM,
        5: Transpose.TRANSPOSE,
        6: Transpose.ROTATE_270,
        7: Transpose.TRANSVERSE,
        8: Transpose.ROTATE_90,
    }
    if len(picture.info.get("exif", "")) > MOST_EXIF or len(picture.info.get("Raw profile type exif", "")) > 2 * MOST_EXIF:
        return None
    try:
        return turns.get(picture.getexif().get(Base.Orientation))
    except Exception:  # damaged EXIF raises errors of many types; the picture itself has been read
        return None


def _small(picture: Any) -> Any:
    """The picture as RGB, or RGBA if anything is transparent, modes that can be scaled; a large one at a whole fraction of its size."""
    from PIL import Image

    factor = max(1, max(picture.size) // (2 * LONGEST))
    white = _white(picture, factor)
    small = Image.new(_mode(picture), tuple(-(-side // factor) for side in picture.size))
    for top, strip in _strips(picture, factor):
        small.paste(_converted(strip, white).reduce(factor), (0, top // factor))
    return small


def _strips(picture: Any, factor: int) -> Iterator[tuple[int, Any]]:
    """Strips of the picture, of a multiple of `factor` rows, each with its first row."""
    width, height = picture.size
    rows = factor * max(1, STRIP // (width * factor))
    for top in range(0, height, rows):
        yield top, picture if rows >= height else picture.crop((0, top, width, min(height, top + rows)))


def _is_finer(picture: Any) -> bool:
    return picture.mode.startswith("I") or picture.mode == "F"


def _mode(picture: Any) -> str:
    return "RGBA" if picture.has_transparency_data and not _is_finer(picture) else "RGB"


def _converted(strip: Any, white: float) -> Any:
    from PIL import Image

    if not _is_finer(strip):
        return strip if strip.mode == _mode(strip) else strip.convert(_mode(strip))
    levels = np.asarray(strip)
    grey = np.clip(_finite(levels) * np.float32(255 / white), 0, 255).round().astype(np.uint8)
    if isinstance(level := strip.info.get("transparency"), int):
        grey[levels == level] = 255
    return Image.fromarray(grey).convert("RGB")


def _white(picture: Any, factor: int) -> float:
    """The value of white in a finer grey: 65535 of 16 bits; of 32 bits and floats, the least of 1, 255 and 65535 that no pixel exceeds."""
    if not _is_finer(picture) or picture.mode.startswith("I;16"):
        return 65535.0
    most = max(float(_finite(np.asarray(strip)).max(initial=0)) for _, strip in _strips(picture, factor))
    return next((white for white in (1.0, 255.0, 65535.0) if most <= white), most)


def _finite(levels: np.ndarray) -> np.ndarray:
    return np.nan_to_num(levels.astype(np.float32), copy=False, posinf=0, neginf=0)


def _on_white(picture: Any) -> Any:
    from PIL import Image

    if picture.mode == "RGB":
        return picture
    return Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB")
