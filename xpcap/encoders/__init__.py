"""Encoders: pictures to features. Open pictures.py first, then histogram.py, an encoder."""

from collections.abc import Callable, Iterable
from typing import Protocol

import numpy as np

from xpcap.encoders.efficientnet import PACKAGE, efficientnet_lite2
from xpcap.encoders.extras import split_options
from xpcap.encoders.finding import find_pictures
from xpcap.encoders.grid import WHOLE_PICTURE, Area, grid_of
from xpcap.encoders.histogram import HistogramEncoder, drawn_area
from xpcap.encoders.onnx import onnx_file
from xpcap.encoders.pictures import PictureSource, read_picture
from xpcap.encoders.timm_model import TimmEncoder, seen_area
from xpcap.encoders.url import image_from_url, is_url, read_url
from xpcap.errors import DataError, unknown

PHOTOGRAPHS = "efficientnet-lite2"  # the encoder for photographs where none is named

__all__ = [
    "PHOTOGRAPHS",
    "Area",
    "Encoder",
    "HistogramEncoder",
    "PictureSource",
    "TimmEncoder",
    "find_encoder",
    "find_pictures",
    "grid_area",
    "image_from_url",
    "is_url",
    "read_picture",
    "read_url",
]


class Encoder(Protocol):
    """Turns pictures into features."""

    # Stored with a data set, so that new pictures can be encoded the same way: other weights,
    # another name
    name: str
    shape: tuple[int, ...]  # (D,), or (K*K, D) for a grid

    def encode(self, pictures: Iterable[np.ndarray]) -> np.ndarray:
        """Encode pictures, each (height, width, 3) uint8 RGB of any size, as features (n, *shape),
        float32.

        Several threads may call it at a time, each with pictures of its own.
        """


ENCODERS: dict[str, Callable[..., Encoder]] = {
    "histogram": HistogramEncoder,
    PHOTOGRAPHS: efficientnet_lite2,
}
LICENCES = {  # kind of an encoder to the licence of its weights, as their package states it
    "histogram": "none needed, it has no weights",
    PHOTOGRAPHS: f"Apache 2.0, as the package {PACKAGE} states",
    "timm": "not stated here; timm's page of the model has it",
    "onnx": "not stated; it is a file of your own",
}
ENCODER_SCHEMES: dict[str, Callable[[str], Encoder]] = {"timm": TimmEncoder, "onnx": onnx_file}


def find_encoder(name: str) -> Encoder:
    """The encoder of that name: ``"histogram"``, ``"efficientnet-lite2"``, ``"timm:MODEL"`` or
    ``"onnx:FILE"``.

    ``:grid=K`` behind any of these asks for a grid: features of K x K regions, (K*K, D), row by
    row. The encoder's own `name` may say more, so that it finds the same weights again: ``timm:``
    and ``onnx:`` end in their digest.

    Raises
    ------
    DataError : there is none; a package is missing, and the message has the line that installs it;
        or its weights do not fit.
    """
    plain, _, rest = name.partition(":")
    if plain in ENCODERS and (rest or name == plain):
        _, options = split_options(name, ("grid",))
        if name == ":".join((plain, *(f"{key}={value}" for key, value in options.items()))):
            return ENCODERS[plain](grid=grid_of(name, options))
    if ":" in name and plain in ENCODER_SCHEMES:
        return ENCODER_SCHEMES[plain](name)
    known = [*ENCODERS, *(f"{scheme}:..." for scheme in ENCODER_SCHEMES)]
    raise unknown("find_encoder", "encoder", name, known, DataError)


def grid_area(name: str | None, picture: np.ndarray) -> Area | None:
    """The part of a picture (height, width, 3), uint8, that an encoder's grid lies over; None: it
    is not known here.

    The encoder is not loaded. Without a name, features were given, and are taken to be of the whole
    picture.
    """
    kind = (name or "").partition(":")[0]
    if kind == "timm":
        return seen_area(str(name), picture)
    return drawn_area(picture) if kind == "histogram" else WHOLE_PICTURE
