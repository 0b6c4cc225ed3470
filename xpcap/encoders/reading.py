"""Reads picture files, as they come from phones, cameras and drawing programs, into arrays."""

import codecs
import contextlib
import logging
import math
import re
import stat
import warnings
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from xpcap.encoders.plain import LONGEST, plain
from xpcap.errors import DataError
from xpcap.signatures import AVIF, HEIC, PAGE, kind_of_file

FORMATS = ("JPEG", "MPO", "PNG", "GIF", "WEBP", "AVIF", "BMP", "TIFF", "PPM")
MOST_PIXELS = 50_000_000  # of a file: about 200 MB once decoded; more is a mistake or a trap
MOST_BY_ROWS = 150_000_000  # of a JPEG that is decoded row by row, scaled down as it goes
MOST_IN_COPIES = 16_000_000  # of formats that take several copies to decode, or are decoded pixel by pixel, which is slow
IN_COPIES, BY_PIXEL = ("WEBP", "AVIF"), ("ppm", "ppm_plain", "bmp_rle")
HEAD = 4096  # bytes that say what a file is which is no picture
MOST_BYTES = 256 << 20  # of a file; some formats are read whole
STARTS_OF_FRAME = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}

logging.getLogger("PIL").addHandler(logging.NullHandler())  # our error says what Pillow would log about a damaged picture


def read_picture(source: str | Path | BinaryIO) -> np.ndarray:
    """Read a picture file as a person sees it: upright, in colour, on white.

    EXIF orientation is applied; grey, palette, 16-bit and CMYK pictures become RGB; transparent parts become white; the first of several
    frames is read; larger pictures are scaled down to 1024 pixels on the longer side.

    Parameters
    ----------
    source : a path, or a file opened for reading bytes

    Returns
    -------
    array (height, width, 3), uint8, RGB

    Raises
    ------
    DataError : not a picture, a damaged one, a format that cannot be read here, too many pixels (refused before decoding), more than 256 MB,
        or a folder, pipe or device. The limit is 50 million pixels; 150 million in a JPEG that is not progressive; 25 million in a progressive
        one without chroma subsampling; 16 million in WebP, AVIF, and TIFF in one piece. So about 300 MB of memory are enough.
    """
    from PIL import Image

    source = Path(source) if isinstance(source, str) else source
    name = source if isinstance(source, Path) else getattr(source, "name", "the picture")
    Image.init()
    try:
        if isinstance(source, Path) and not stat.S_ISREG(source.stat().st_mode):  # opening a pipe would wait for a writer
            kind = "a folder" if source.is_dir() else "a pipe or a device"
            raise DataError(f"read_picture: {name} is {kind}, expected a picture file; is the path right?")
        if isinstance(source, Path) and (size := source.stat().st_size) > MOST_BYTES:
            raise DataError(f"read_picture: {name} has {size:,} bytes, expected at most {MOST_BYTES >> 20} MB; is it a picture?")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of large pictures, refused below, and of odd metadata, which does no harm
            with Image.open(source, formats=[kind for kind in FORMATS if kind in Image.OPEN]) as picture:
                width, height = picture.size
                if width * height > MOST_IN_COPIES and width * height > (most := _limit(picture))[0]:
                    raise DataError(
                        f"read_picture: {name} has {width} x {height} pixels, expected at most {most[0]:,} {most[1]}; scale it down first"
                    )
                _draft(picture)
                return plain(picture)
    except DataError:
        raise
    except MemoryError as error:
        raise DataError(f"read_picture: {name} takes more memory to decode than is free, expected a smaller picture; scale it down first") from error
    except Image.DecompressionBombError as error:
        counted = re.search(r"\((\d+) pixels\)", str(error))  # Pillow refuses these before it gives width and height
        count = f"{int(counted[1]):,}" if counted else "too many"
        raise DataError(
            f"read_picture: {name} has {count} pixels, expected at most {MOST_BY_ROWS:,} in a JPEG and fewer in others; scale it down first"
        ) from error
    except FileNotFoundError as error:
        raise DataError(f"read_picture: {name} does not exist, expected a picture; is the path right?") from error
    except Exception as error:  # damaged pictures raise errors of many types, from Pillow and from what it calls
        if isinstance(error, OSError) and error.strerror:
            raise DataError(f"read_picture: {name}: {error.strerror}, expected a picture file; is the path right, and may it be read?") from error
        raise DataError(f"read_picture: {name} {_why_not(source, str(name))}") from error


def formats() -> str:
    """The formats that the Pillow of this machine reads, in words: ``JPEG, PNG, GIF, WebP, AVIF, BMP or TIFF``."""
    from PIL import features

    optional = [name for name in ("WebP", "AVIF") if name.lower() in features.modules and features.check(name.lower())]  # not in every build
    return f"{', '.join(['JPEG', 'PNG', 'GIF', *optional, 'BMP'])} or TIFF"


def _why_not(source: Path | BinaryIO, name: str) -> str:
    """The reason for which a file cannot be read as a picture, as the end of a message: its kind by its first bytes, and a remedy."""
    try:
        with source.open("rb") if isinstance(source, Path) else contextlib.nullcontext(source) as file:
            file.seek(0)
            content = file.read(HEAD)
    except (OSError, ValueError):  # gone meanwhile, or a name that no file can have
        content = None
    if content == b"":
        return f"is empty, expected {formats()}; copied or downloaded only in part?"
    kind = kind_of_file(content or b"")
    if kind == HEIC or (kind is None and name.lower().endswith((".heic", ".heif"))):
        return (
            f"is a HEIC picture, as iPhones make, expected {formats()}; convert it to JPEG first: export it from the program that shows it, or "
            "run heif-convert; an iPhone makes JPEG with Settings, Camera, Formats, Most Compatible"
        )
    hint = "damaged, or of another kind?"
    if kind == AVIF and "AVIF" not in formats():
        hint = "it is an AVIF picture, which this Pillow cannot read; a newer Pillow can"
    elif kind is not None and kind.family != "picture":
        hint = f"it is {kind.name}" + ("; export it as JPEG" if kind.family in ("raw", "document") and kind != PAGE else "")
    elif kind is None and content and not re.match(rb"P[1-6]\s", content) and _is_text(content):  # a PPM begins as text
        hint = "it is text"
    return f"cannot be read as a picture, expected {formats()}; {hint}"


def _is_text(content: bytes) -> bool:
    """True for the bytes of a text, cut anywhere: no control characters, and UTF-8 but for a last character in part."""
    try:
        text = codecs.getincrementaldecoder("utf-8")().decode(content)
    except UnicodeDecodeError:
        return False
    return all(sign.isprintable() or sign in "\t\n\r\f\ufeff" for sign in text)


def _limit(picture: Any) -> tuple[int, str]:
    """The most pixels that a picture may have, and in what format: as many as take about 300 MB to decode."""
    kind = picture.format
    if kind in ("JPEG", "MPO"):
        if _is_read_by_rows(picture.fp):
            return MOST_BY_ROWS, "in such a JPEG"
        sampled = [across * down for _, across, down, _ in picture.layer]  # chroma subsampling shrinks the buffers
        return MOST_PIXELS if sum(sampled) <= 2 * max(sampled) else MOST_PIXELS // 2, "in a JPEG that is progressive or in several scans"
    decoder = picture.tile[0][0] if picture.tile else ""
    copied = kind in IN_COPIES or decoder in BY_PIXEL or (decoder == "libtiff" and not _has_small_strips(picture))
    return (MOST_IN_COPIES if copied else MOST_PIXELS), f"in such a {kind}"


def _has_small_strips(tiff: Any) -> bool:
    rows, tiled = tiff.tag_v2.get(278), 322 in tiff.tag_v2
    return isinstance(rows, int) and rows * tiff.width <= MOST_IN_COPIES // 4 and not tiled


def _is_read_by_rows(file: BinaryIO) -> bool:
    """Whether a JPEG is decoded row by row: baseline, with all components in the first scan. Anything unusual counts as no."""
    place, colours = file.tell(), 0
    file.seek(2)
    try:
        while len(head := file.read(4)) == 4 and head[0] == 0xFF and (size := int.from_bytes(head[2:], "big") - 2) > 5:
            segment = file.read(size)
            if head[1] == 0xDA:
                return segment[0] == colours > 0
            if head[1] in STARTS_OF_FRAME:
                if head[1] not in (0xC0, 0xC1) or colours:
                    return False
                colours = segment[5] if len(segment) == size else 0
        return False
    finally:
        file.seek(place)


def _draft(picture: Any) -> None:
    """Have a JPEG decoded at an eighth, a quarter or half of its size if that is enough; other formats ignore this."""
    shrink = max(1.0, max(picture.size) / LONGEST)
    picture.draft("RGB", tuple(math.ceil(side / shrink) for side in picture.size))
