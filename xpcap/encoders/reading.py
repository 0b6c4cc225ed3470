"""Picture files to arrays, as they come from phones, cameras and drawing programs."""

import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from xpcap.errors import DataError

FORMATS = ("JPEG", "MPO", "PNG", "GIF", "WEBP", "AVIF", "BMP", "TIFF", "PPM")
SUFFIXES = (".jpg", ".jpeg", ".png", ".gif", ".webp", ".avif", ".bmp", ".tif", ".tiff", ".ppm", ".pgm", ".heic", ".heif")
MOST_PIXELS = 150_000_000  # of a file, some 450 MB once decoded; more is a mistake or a trap
LONGEST = 1024  # pixels of the longer side that is kept: no encoder looks at more


def read_picture(source: Path | BinaryIO) -> np.ndarray:
    """Read a picture file the way a person would see it: upright, in colour, on white.

    EXIF orientation is applied; grey, palette, 16-bit and CMYK pictures become RGB; transparent parts become white; of several frames
    the first is taken; larger pictures are scaled down to 1024 pixels on the longer side.

    Parameters
    ----------
    source : a path, or a file opened for reading bytes

    Returns
    -------
    array (height, width, 3), uint8, RGB

    Raises
    ------
    DataError : no picture, a damaged one, one of a kind that cannot be read here, or one of more than 150 million pixels, which is
        refused before it is decoded.
    """
    from PIL import Image, ImageOps

    name = source if isinstance(source, Path) else getattr(source, "name", "the picture")
    Image.init()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of large pictures, refused below, and of odd metadata, not ours to mend
            with Image.open(source, formats=[kind for kind in FORMATS if kind in Image.OPEN]) as picture:
                width, height = picture.size
                if width * height > MOST_PIXELS:
                    raise DataError(f"read_picture: {name} has {width} x {height} pixels, expected at most {MOST_PIXELS:,}; scale it down first")
                picture.draft("RGB", (LONGEST, LONGEST))  # a JPEG is decoded at a fraction of its size
                return np.asarray(_shrink(_colour(ImageOps.exif_transpose(picture))))
    except (DataError, MemoryError):
        raise
    except Image.DecompressionBombError as error:
        raise DataError(f"read_picture: {name} is refused undecoded ({error}), expected at most {MOST_PIXELS:,} pixels; scale it down") from error
    except FileNotFoundError as error:
        raise DataError(f"read_picture: {name} does not exist, expected a picture; is the path right?") from error
    except Exception as error:  # damaged pictures bring up errors of many types, from Pillow and from what it calls
        hint = "convert it to JPEG first" if str(name).lower().endswith((".heic", ".heif")) else "damaged, or of another kind?"
        reason = error.strerror if isinstance(error, OSError) and error.strerror else "cannot be read as a picture"
        raise DataError(f"read_picture: {name}: {reason}, expected JPEG, PNG, GIF, WebP, BMP or TIFF; {hint}") from error


def find_pictures(paths: Iterable[Path]) -> list[Path]:
    """The files among `paths`, and for each folder among them the pictures directly in it, by name.

    Raises
    ------
    DataError : a folder without a picture.
    """
    found: list[Path] = []
    for path in paths:
        if not path.is_dir():
            found.append(path)
            continue
        inside = sorted(file for file in path.iterdir() if file.suffix.lower() in SUFFIXES and not file.name.startswith(".") and file.is_file())
        if not inside:
            raise DataError(f"find_pictures: {path} holds no picture, expected files that end in {', '.join(SUFFIXES)}")
        found += inside
    return found


def _colour(picture: Any) -> Any:
    """Any mode as RGB, on white where it is transparent."""
    from PIL import Image

    if picture.mode.startswith("I") or picture.mode == "F":  # more than 8 bits of grey
        grey = np.asarray(picture, np.float64)
        grey = grey / 257 if grey.max(initial=0) > 255 else grey
        return Image.fromarray(np.clip(grey, 0, 255).round().astype(np.uint8)).convert("RGB")
    if picture.has_transparency_data:
        white = Image.new("RGBA", picture.size, "white")
        return Image.alpha_composite(white, picture.convert("RGBA")).convert("RGB")
    return picture.convert("RGB")


def _shrink(picture: Any) -> Any:
    picture.thumbnail((LONGEST, LONGEST), reducing_gap=2.0)
    return picture
