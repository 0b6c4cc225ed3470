"""HTML pages in a single file: templates, escaping of untrusted text, pictures as data URIs."""

import base64
import functools
import io
from importlib import resources
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from xpcap.errors import InvalidValueError
from xpcap.report.text import escape_control

if TYPE_CHECKING:
    from jinja2 import Environment
    from PIL import Image

# A flat picture, of at most FLAT pixels a side and COLOURS colours, is stored as PNG and enlarged
FLAT = 128
COLOURS = 256
ENLARGED = 256  # limit of a flat picture's displayed pixels; the factor is a whole number
MAX_SIDE = 320  # pixels of any other picture's long side
QUALITY = 80  # of JPEG


class Embedded(NamedTuple):
    """A picture embedded in a page."""

    uri: str
    width: int  # displayed pixels
    height: int
    flat: bool


def render(template: str, **values: object) -> bytes:
    """Fill a template of this folder, and return the page in UTF-8.

    Text is escaped, control and bidi characters are spelt out, and long text is cut.
    """
    page = _environment().get_template(template).render(**values)
    return page.encode("utf-8")


@functools.cache
def _environment() -> "Environment":
    from jinja2 import Environment, FunctionLoader, StrictUndefined

    def load(name: str) -> str:
        return resources.files("xpcap.report").joinpath(name).read_text(encoding="utf-8")

    # finalize gets every value that the template prints, before autoescape
    return Environment(
        autoescape=True,
        finalize=_finalize,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
        loader=FunctionLoader(load),
    )


def _finalize(value: object) -> object:
    is_markup = hasattr(value, "__html__")
    return escape_control(value) if isinstance(value, str) and not is_markup else value


def embed(name: str, picture: np.ndarray | Embedded, max_side: int = MAX_SIDE) -> Embedded:
    """Embed a picture: a flat one as PNG, enlarged by a whole factor, any other as JPEG.

    A JPEG has at most `max_side` pixels on its long side. An Embedded is returned as it is.
    ValueError : the picture is not uint8 of shape (h, w, 3).
    """
    if isinstance(picture, Embedded):
        return picture
    from PIL import Image

    if picture.ndim != 3 or picture.shape[2] != 3 or picture.dtype != np.uint8 or not picture.size:
        raise InvalidValueError(
            f"picture {name!r} has shape {picture.shape} and dtype {picture.dtype}, expected uint8"
            " (h, w, 3)"
        )
    image = Image.fromarray(picture)
    longest = max(image.size)
    if longest <= FLAT and image.getcolors(COLOURS):
        uri = image_uri("png", image, optimize=True)
        factor = ENLARGED // longest
        return Embedded(uri, image.width * factor, image.height * factor, True)
    if longest > max_side:
        size = [max(1, round(side * max_side / longest)) for side in image.size]
        image = image.resize((size[0], size[1]), Image.Resampling.LANCZOS)
    uri = image_uri("jpeg", image, quality=QUALITY, optimize=True)
    return Embedded(uri, image.width, image.height, False)


def image_uri(kind: str, image: "Image.Image", **options: int) -> str:
    """An image as a data URI of `kind`, png or jpeg."""
    from markupsafe import Markup

    file = io.BytesIO()
    image.save(file, format=kind, **options)
    content = base64.b64encode(file.getvalue()).decode("ascii")
    return Markup(f"data:image/{kind};base64,{content}")  # noqa: S704 - base64
