"""Read pictures of phones, cameras and drawing programs as RGB arrays; scale arrays to an area."""

import codecs
import contextlib
import functools
import importlib.util
import io
import logging
import math
import os
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeAlias

import numpy as np

from xpcap.backend.shape_specs import spec
from xpcap.errors import DataError, InvalidTypeError, InvalidValueError, XpcapError, install
from xpcap.files.file_types import AVIF, HEIC, PAGE, type_of_file
from xpcap.files.read_write import size_of

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

PictureSource: TypeAlias = (
    "str | os.PathLike[str] | bytes | bytearray | memoryview | BinaryIO | Picture | np.ndarray"
)
FORMATS = ("JPEG", "MPO", "PNG", "GIF", "WEBP", "AVIF", "HEIF", "BMP", "TIFF", "PPM")
MAX_BYTES = 256 << 20  # of a file; some formats are read completely
# Bytes of EXIF, the limit of a JPEG segment; Pillow may copy longer EXIF thousands of times
MAX_EXIF = 1 << 16
HEAD = 4096  # bytes that show the type of a file
LONGEST = 1024  # pixels of the longer side; no encoder uses more
STRIP = 1 << 20  # pixels converted at a time
DOUBLED = ("WEBP", "AVIF", "HEIF")  # formats that take twice the memory when decoded
WIDEST = 2.25  # aspect ratio of `letterbox`'s canvas; longer pictures are padded to it

# Our errors report what Pillow would log about a damaged picture
logging.getLogger("PIL").addHandler(logging.NullHandler())


_URL_REMEDIES = {  # by scheme
    "data": "base64.b64decode(url.partition(',')[2]) gives its bytes",
    "file": "give the path alone, without file://",
}


def scheme_of(text: object) -> str:
    """The scheme of a URL: ``https``, ``file``, ``data``; "" for anything else."""
    scheme = isinstance(text, str) and re.match(
        r"data(?=:[\w/+.=;-]*,)|[a-z][a-z0-9+.-]+(?=://)", text, re.I
    )
    return scheme[0].lower() if scheme else ""


def is_url(text: object) -> bool:
    """True for an http or https URL, False for a path or anything else."""
    return scheme_of(text) in ("http", "https")


def read_picture(source: PictureSource) -> np.ndarray:
    """Read a picture, upright, in colour, on white: array (height, width, 3), uint8, RGB.

    EXIF orientation is applied; grey, palette, 16-bit and CMYK pictures become RGB; transparent
    parts become white; the first of several frames is read; larger pictures are scaled down to 1024
    pixels on the longer side. The result of an RGB array of that size or less is equal to it.

    source : a path; the content of a file as bytes, or a file opened for reading bytes; a Pillow
        image, whose current frame is read; or an array, uint8, (height, width) grey, (height,
        width, 3) RGB or (height, width, 4) RGBA; for OpenCV's BGR, give ``picture[..., ::-1]``
    DataError : it is not a picture, is damaged, has an unknown format, has more than 256 MB, or is a
        folder, pipe, device, URL or closed file; or its header declares more pixels than Pillow's
        `PIL.Image.MAX_IMAGE_PIXELS`, 89 million. A JPEG may have twice as many, since it is decoded
        at a fraction of its size; a WebP or AVIF half as many, since it takes twice the memory.
    ValueError : an array has another shape, or no pixels. TypeError : an array has another dtype, a
        file gives no bytes, or the source has another type.

    Examples
    --------
    >>> from PIL import Image
    >>> read_picture(Image.new("L", (60, 40))).shape
    (40, 60, 3)
    """
    _load_modules()
    from PIL import Image

    if isinstance(source, np.ndarray):
        require_picture(source, "H,W,3|H,W,4|H,W")
        return _upright_rgb(Image.fromarray(source))
    if scheme := scheme_of(source):
        cause = _URL_REMEDIES.get(scheme, "download it first")
        address = str(source)
        if scheme == "data":
            address = address.partition(",")[0]
        raise DataError(f"{address} is a URL, expected a path, or bytes; {cause}")
    source = Path(os.fsdecode(source)) if isinstance(source, str | os.PathLike) else source
    name: object = source if isinstance(source, Path) else "the picture"
    if isinstance(source, bytes | bytearray | memoryview):
        source = io.BytesIO(source)
        _require_size(name, source.getbuffer().nbytes)
    elif hasattr(source, "read"):
        name = getattr(source, "name", None) or name  # a spooled upload has no name
    elif not isinstance(source, Path | Image.Image):
        got = f"is of type {type(source).__name__}"
        expected = "a path, bytes, a file opened for reading bytes, a Pillow image, or an array"
        raise InvalidTypeError(f"{name} {got}, expected {expected} of uint8")
    try:
        if isinstance(source, Path):
            _require_size(name, size_of(source, "a picture file"))
        with warnings.catch_warnings():
            # Pillow warns of large pictures and of harmless metadata
            warnings.simplefilter("ignore")
            if isinstance(source, Image.Image):
                _require_area(name, source, source.size)
                return _upright_rgb(source)
            if not isinstance(source, Path):
                _require_bytes(name, source)
            known = [kind for kind in FORMATS if kind in Image.OPEN]
            with Image.open(source, formats=known) as picture:
                width, height = full_size = picture.size
                # Decode a JPEG at an eighth, a quarter or half of its size if that is enough
                shrink = max(1.0, max(width, height) / LONGEST)
                picture.draft("RGB", (math.ceil(width / shrink), math.ceil(height / shrink)))
                _require_area(name, picture, full_size)
                return _upright_rgb(picture)
    except XpcapError:
        raise
    # Damaged pictures raise errors of many types, in Pillow and its libraries
    except Exception as error:
        raise DataError(f"{name} {_why_not(error, source, str(name))}") from error


def _require_bytes(name: object, file: Any) -> None:
    """Raise InvalidTypeError if an open file gives no bytes, ValueError if it is closed."""
    if not isinstance(file.read(0), bytes):
        raise InvalidTypeError(
            f"{name} gives no bytes, expected a file opened for reading bytes; use open(path,"
            " 'rb'); for FastAPI's UploadFile, give picture.file"
        )


def _require_size(name: object, size: int) -> None:
    if size > MAX_BYTES:
        raise DataError(
            f"{name} has {size:,} bytes, expected at most {MAX_BYTES >> 20} MB; is it a picture?"
        )


def _require_area(name: object, picture: "Picture", full_size: tuple[int, int]) -> None:
    """Raise DataError if there are too many pixels to decode; `full_size` is for the message."""
    from PIL import Image

    times = 2 if picture.format in DOUBLED else 1
    if times * math.prod(picture.size) > (max_pixels := Image.MAX_IMAGE_PIXELS or math.inf):
        got = f"has {full_size[0]} x {full_size[1]} pixels"
        got += f", which count double in {picture.format}" if times == 2 else ""
        raise DataError(f"{name} {got}, expected at most {max_pixels:,}; scale it down first")


# Kind of an array's dtype to how to convert it to levels of 0 to 255
LEVELS = {
    "f": "if its levels are 0 to 1, give (255 * picture).round().astype('uint8'); if they are 0 to"
    " 255, picture.round().astype('uint8')",
    "u": "if its levels have 16 bits, give (picture // 257).astype('uint8'); if they are 0 to 255,"
    " picture.astype('uint8')",
    "i": "if its levels are 0 to 255, give picture.astype('uint8')",
    "b": "give 255 * picture.astype('uint8'): True becomes white",
}


def require_picture(picture: np.ndarray, forms: str = "H,W,3") -> None:
    """Raise InvalidTypeError unless it is uint8, InvalidValueError if its shape is wrong."""
    match getattr(picture, "shape", ()):
        case (_,):
            note = "the bytes of a file? give picture.tobytes()"
        case (_, _, 1):
            note = "give picture[..., 0]"
        case (_, _, _, _):
            note = "several pictures? picture[0] is the first"
        case _:
            note = "are its channels the first axis? give picture.transpose(1, 2, 0)"
    if isinstance(picture, np.ndarray) and picture.dtype != np.uint8:
        raise InvalidTypeError(
            f"picture has dtype {picture.dtype}, expected uint8;"
            f" {LEVELS.get(picture.dtype.kind, '')}"
        )
    spec(f"picture:{forms}=u1").check(picture, cause=note)
    if not picture.size:
        raise InvalidValueError(
            f"picture has shape {picture.shape}, expected at least a pixel; an empty crop?"
        )


@functools.cache
def _load_modules() -> None:
    """Import Pillow and its formats."""
    from PIL import ExifTags, Image, ImageOps  # noqa: F401

    Image.init()
    reads_heic()


@functools.cache
def reads_heic() -> bool:
    """True if pillow-heif is installed; Pillow then reads HEIC from now on."""
    if importlib.util.find_spec("pillow_heif") is None:
        return False
    import pillow_heif

    pillow_heif.register_heif_opener(thumbnails=False)
    return True


def formats() -> str:
    """The formats that can be read: ``JPEG, PNG, GIF, WebP, AVIF, BMP or TIFF``."""
    from PIL import features

    def is_built(name: str) -> bool:  # some builds of Pillow lack formats
        return name in features.modules and bool(features.check(name))

    optional = [name for name in ("WebP", "AVIF") if is_built(name.lower())]
    optional += ["HEIC"] if reads_heic() else []
    return f"{', '.join(['JPEG', 'PNG', 'GIF', *optional, 'BMP'])} or TIFF"


def _why_not(error: Exception, source: "Path | BinaryIO | Picture", name: str) -> str:
    """The type of a file by its first bytes, what was expected, and a remedy."""
    from PIL import Image

    if isinstance(error, MemoryError):
        return (
            "takes more memory to decode than is free, expected a smaller picture; scale it down"
            " first"
        )
    if isinstance(error, Image.DecompressionBombError):
        return f"has too many pixels; scale it down first ({error})"
    if isinstance(error, ValueError) and "closed" in str(error):  # Python's and Pillow's word
        return "is closed, expected an open file; has its `with` block ended?"
    if isinstance(error, OSError) and error.strerror:
        return (
            f"cannot be read: {error.strerror}, expected a picture file; check the path and its"
            " permissions"
        )
    content = _head(source)
    if content == b"":
        return f"is empty, expected {formats()}; copied or downloaded only in part?"
    file_type = type_of_file(content or b"")
    is_heic = file_type == HEIC or (file_type is None and name.lower().endswith((".heic", ".heif")))
    if is_heic and not reads_heic():
        return (
            f"is a HEIC picture, as iPhones make them, expected {formats()}; {install('heic')}"
            " installs pillow-heif, which reads it; or export it as JPEG from the program that"
            " shows it; an iPhone makes JPEG with Settings, Camera, Formats, Most Compatible"
        )
    hint = "damaged, or of another kind?"
    if file_type == AVIF and "AVIF" not in formats():
        hint = "it is an AVIF picture, which this Pillow cannot read; a newer Pillow can"
    elif file_type is not None and file_type.family != "picture":
        hint = f"it is {file_type.name}"
        if file_type.family in ("raw", "document") and file_type != PAGE:
            hint += "; export it as JPEG"
    # A PPM begins like text
    elif (
        file_type is None and content and not re.match(rb"P[1-6]\s", content) and _is_text(content)
    ):
        hint = "it is text"
    return f"cannot be read as a picture, expected {formats()}; {hint}"


def _head(source: "Path | BinaryIO | Picture") -> bytes | None:
    """The first bytes of a file, also of an open one; None if it cannot be read."""
    try:
        opened = source.open("rb") if isinstance(source, Path) else contextlib.nullcontext(source)
        with opened as file:
            file.seek(0)
            content: bytes = file.read(HEAD)  # type: ignore[union-attr]
            return content
    # The file was deleted, its name is invalid, or it is a Pillow image
    except (OSError, ValueError, AttributeError):
        return None


def _is_text(content: bytes) -> bool:
    """True if bytes are UTF-8 text without control characters; the last character may be cut."""
    try:
        text = codecs.getincrementaldecoder("utf-8")().decode(content)
    except UnicodeDecodeError:
        return False
    return all(sign.isprintable() or sign in "\t\n\r\f\ufeff" for sign in text)


# Convert pixels of any mode to RGB in strips: 89 million pixels of 16 bits take 0.2 GB, not 1.1


def _upright_rgb(picture: "Picture") -> np.ndarray:
    """The pixels (height, width, 3), uint8: upright, on white, at most `LONGEST` wide and high."""
    from PIL import ExifTags, Image, ImageOps

    picture.load()
    # RGB and RGBA can be scaled; a large picture is first reduced by a whole factor
    factor = max(1, max(picture.size) // (2 * LONGEST))
    finer = picture.mode.startswith("I") or picture.mode == "F"  # grey of 16 or 32 bits
    mode = "RGBA" if picture.has_transparency_data and not finer else "RGB"
    small = Image.new(mode, (-(-picture.width // factor), -(-picture.height // factor)))
    white = _white_level(picture) if finer else 0.0
    for top, strip in _strips(picture, factor):
        rgb = _grey_as_rgb(strip, white) if finer else strip.convert(mode)
        small.paste(rgb.reduce(factor), (0, top // factor))
    small.thumbnail((LONGEST, LONGEST), reducing_gap=2.0)
    small.getexif()[ExifTags.Base.Orientation] = _orientation(picture)
    ImageOps.exif_transpose(small, in_place=True)
    if mode == "RGBA":
        small = Image.alpha_composite(Image.new("RGBA", small.size, "white"), small).convert("RGB")
    return np.asarray(small)


def _strips(picture: "Picture", factor: int = 1) -> Iterator[tuple[int, "Picture"]]:
    """Strips of a picture, each with its first row; they have a multiple of `factor` rows."""
    width, height = picture.size
    rows = factor * max(1, STRIP // (width * factor))
    for top in range(0, height, rows):
        box = (0, top, width, min(height, top + rows))
        yield top, picture if rows >= height else picture.crop(box)


def _orientation(picture: "Picture") -> int:
    """The EXIF orientation, 1 to 8, or 1 if EXIF is missing, too long or damaged."""
    from PIL import ExifTags

    # pillow-heif stores None for a picture without EXIF
    exif, in_hex = (picture.info.get(key) or "" for key in ("exif", "Raw profile type exif"))
    if len(exif) > MAX_EXIF or len(in_hex) > 2 * MAX_EXIF:
        return 1
    try:
        orientation = picture.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # damaged EXIF raises errors of many types, but the picture can be used
        return 1
    return next((turn for turn in range(2, 9) if turn == orientation), 1)


def _white_level(picture: "Picture") -> float:
    """The level of white: 65535 for 16 bits, else the first of 1, 255, 65535 above all pixels."""
    if picture.mode.startswith("I;16"):
        return 65535.0
    highest = max(float(_finite(np.asarray(strip)).max(initial=0)) for _, strip in _strips(picture))
    return next((white for white in (1.0, 255.0, 65535.0) if highest <= white), highest)


def _grey_as_rgb(strip: "Picture", white: float) -> "Picture":
    from PIL import Image

    levels = np.asarray(strip)
    grey = np.clip(_finite(levels) * np.float32(255 / white), 0, 255).round().astype(np.uint8)
    if isinstance(level := strip.info.get("transparency"), int):
        grey[levels == level] = 255
    return Image.fromarray(grey).convert("RGB")


def _finite(levels: np.ndarray) -> np.ndarray:
    return np.nan_to_num(levels.astype(np.float32), copy=False, posinf=0, neginf=0)


# Scale arrays to an area


def letterbox(picture: np.ndarray, side: int) -> np.ndarray:
    """Scale a picture to the area of a square, so that objects of wide pictures do not get smaller.

    A picture (height, width, 3), uint8, becomes another of about side * side pixels; one that has the
    right size is returned unchanged. A picture with an aspect ratio above 2.25 is padded to that
    ratio, evenly on both sides, in the commonest colour of its border.

    ValueError : it is not such an array, or has no pixels.
    """
    require_picture(picture)
    height, width = picture.shape[:2]
    canvas, content = letterbox_sizes(height, width, side)
    if content == (height, width) == canvas:
        return picture
    from PIL import Image

    shrinks = math.prod(content) < height * width
    resampling = Image.Resampling.BOX if shrinks else Image.Resampling.BICUBIC
    scaled = np.asarray(Image.fromarray(picture).resize(content[::-1], resampling))
    if content == canvas:
        return scaled
    padded = np.empty((*canvas, 3), np.uint8)
    padded[:] = border_colour(scaled)
    top, left = corner(canvas, content)
    padded[top : top + content[0], left : left + content[1]] = scaled
    return padded


def letterbox_sizes(height: int, width: int, side: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """Height and width of the canvas that `letterbox` returns, and of the scaled picture on it."""
    stretch = math.sqrt(min(max(height / width, 1 / WIDEST), WIDEST))
    canvas = round(side * stretch), round(side / stretch)
    scale = min(canvas[0] / height, canvas[1] / width)
    return canvas, (max(1, round(height * scale)), max(1, round(width * scale)))


def corner(canvas: tuple[int, int], content: tuple[int, int]) -> tuple[int, int]:
    """Row and column of the canvas where the scaled picture begins."""
    return (canvas[0] - content[0]) // 2, (canvas[1] - content[1]) // 2


def border_colour(picture: np.ndarray) -> np.ndarray:
    """The commonest colour (3,) along the border of a picture."""
    border = np.concatenate((picture[0], picture[-1], picture[:, 0], picture[:, -1]))
    codes = border @ np.array([65536, 256, 1])
    _, first, counts = np.unique(codes, return_index=True, return_counts=True)
    return border[first[counts.argmax()]]
