"""Picture files to arrays, as they come from phones, cameras and drawing programs."""

import logging
import re
import stat
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from xpcap.errors import DataError

FORMATS = ("JPEG", "MPO", "PNG", "GIF", "WEBP", "AVIF", "BMP", "TIFF", "PPM")
SUFFIXES = (".jpg", ".jpeg", ".jfif", ".png", ".gif", ".webp", ".avif", ".bmp", ".tif", ".tiff", ".ppm", ".pgm", ".heic", ".heif")
MOST_PIXELS = 150_000_000  # of a file, some 600 MB once decoded; more is a mistake or a trap
LONGEST = 1024  # pixels of the longer side that is kept: no encoder looks at more

logging.getLogger("PIL").addHandler(logging.NullHandler())  # what it logs of a damaged picture is said by our error


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
    DataError : no picture, a damaged one, one of a kind that cannot be read here, one of more than 150 million pixels, which is refused
        before it is decoded, or a folder, pipe or device.
    """
    from PIL import Image

    name = source if isinstance(source, Path) else getattr(source, "name", "the picture")
    Image.init()
    try:
        if isinstance(source, Path) and not stat.S_ISREG(source.stat().st_mode):  # a pipe would be waited for
            kind = "a folder" if source.is_dir() else "a pipe or a device"
            raise DataError(f"read_picture: {name} is {kind}, expected a picture file; is the path right?")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of large pictures, refused below, and of odd metadata, not ours to mend
            with Image.open(source, formats=[kind for kind in FORMATS if kind in Image.OPEN]) as picture:
                width, height = picture.size
                if width * height > MOST_PIXELS:
                    raise DataError(f"read_picture: {name} has {width} x {height} pixels, expected at most {MOST_PIXELS:,}; scale it down first")
                picture.draft("RGB", (LONGEST, LONGEST))  # a JPEG is decoded at a fraction of its size
                return np.asarray(_on_white(_shrink(_plain(_upright(picture)))))
    except DataError:
        raise
    except MemoryError as error:
        raise DataError(f"read_picture: {name} takes more memory to decode than is free, expected a smaller picture; scale it down first") from error
    except Image.DecompressionBombError as error:
        counted = re.search(r"\((\d+) pixels\)", str(error))  # Pillow refuses these itself, before it tells width and height
        count = f"{int(counted[1]):,}" if counted else "too many"
        raise DataError(f"read_picture: {name} has {count} pixels, expected at most {MOST_PIXELS:,}; scale it down first") from error
    except FileNotFoundError as error:
        raise DataError(f"read_picture: {name} does not exist, expected a picture; is the path right?") from error
    except Exception as error:  # damaged pictures bring up errors of many types, from Pillow and from what it calls
        if isinstance(error, OSError) and error.strerror:
            raise DataError(f"read_picture: {name}: {error.strerror}, expected a picture file; is the path right, and may it be read?") from error
        hint = "convert it to JPEG first" if str(name).lower().endswith((".heic", ".heif")) else "damaged, or of another kind?"
        raise DataError(f"read_picture: {name} cannot be read as a picture, expected JPEG, PNG, GIF, WebP, BMP or TIFF; {hint}") from error


def find_pictures(paths: Iterable[Path]) -> list[Path]:
    """The files among `paths`, and for each folder among them the pictures directly in it, by name.

    Raises
    ------
    DataError : a folder without a picture, or one that cannot be read.
    """
    found: list[Path] = []
    for path in paths:
        try:
            inside = _inside(path) if path.is_dir() else [path]
        except OSError as error:
            raise DataError(f"find_pictures: {path}: {error.strerror}, expected pictures; is the path right, and may it be read?") from error
        if not inside:
            raise DataError(
                f"find_pictures: {path} holds no picture, expected files that end in {', '.join(SUFFIXES)}; folders in it are not searched"
            )
        found += inside
    return found


def _inside(folder: Path) -> list[Path]:
    """What is called like a picture; whether it is one shows when it is read."""
    return sorted(file for file in folder.iterdir() if file.suffix.lower() in SUFFIXES and not file.name.startswith(".") and not file.is_dir())


def _upright(picture: Any) -> Any:
    """Turned as its EXIF says. Pillow's exif_transpose also writes the EXIF anew, and so fails on odd entries that matter to nobody here."""
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
    picture.load()
    try:
        turn = turns.get(picture.getexif().get(Base.Orientation))
    except Exception:  # damaged EXIF, of as many types as damaged pictures; the picture itself has been read
        turn = None
    return picture if turn is None else picture.transpose(turn)


def _plain(picture: Any) -> Any:
    """Any mode as RGB, or as RGBA where something is transparent: modes that can be scaled."""
    from PIL import Image

    if picture.mode.startswith("I") or picture.mode == "F":
        levels = np.asarray(picture)
        grey = _eight_bits(levels, picture.mode)
        if isinstance(level := picture.info.get("transparency"), int):
            grey[levels == level] = 255
        return Image.fromarray(grey).convert("RGB")
    mode = "RGBA" if picture.has_transparency_data else "RGB"
    return picture if picture.mode == mode else picture.convert(mode)


def _eight_bits(grey: np.ndarray, mode: str) -> np.ndarray:
    """Finer greys as 8 bits. White is the most that 16 bits hold; of 32 bits and floats, the least of 1, 255 and 65535 that none exceeds."""
    levels = np.nan_to_num(grey.astype(np.float32), copy=False, posinf=0, neginf=0)
    most = float(levels.max(initial=0))
    white = 65535.0 if mode.startswith("I;16") else next((white for white in (1.0, 255.0, 65535.0) if most <= white), most)
    return np.clip(levels * np.float32(255 / white), 0, 255).round().astype(np.uint8)


def _shrink(picture: Any) -> Any:
    picture.thumbnail((LONGEST, LONGEST), reducing_gap=2.0)
    return picture


def _on_white(picture: Any) -> Any:
    from PIL import Image

    if picture.mode == "RGB":
        return picture
    return Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB")
