"""Encoders: pictures to features. One has a `name`, the `shape` of a feature, and `encode(pictures) -> (n, *shape) float32`."""

from collections.abc import Callable, Iterable
from typing import Protocol

import numpy as np

from xpcap.encoders.area import WHOLE_PICTURE, Area
from xpcap.encoders.efficientnet import efficientnet_lite2
from xpcap.encoders.extras import split_options
from xpcap.encoders.finding import find_pictures
from xpcap.encoders.grid import grid_of
from xpcap.encoders.histogram import HistogramEncoder, drawn_area
from xpcap.encoders.onnx_file import onnx_file
from xpcap.encoders.reading import read_picture
from xpcap.encoders.timm_model import TimmEncoder, seen_area
from xpcap.encoders.url import image_from_url, is_url, read_url
from xpcap.errors import DataError, unknown

PHOTOGRAPHS = "efficientnet-lite2"  # the encoder for photographs where none is named

__all__ = [
    "PHOTOGRAPHS",
    "Area",
    "Encoder",
    "HistogramEncoder",
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

    name: str  # stored with a data set, so that new pictures can be encoded the same way; other weights, another name
    shape: tuple[int, ...]  # (D,), or (K*K, D) for a grid

    def encode(self, pictures: Iterable[np.ndarray]) -> np.ndarray:
        """Encode pictures, each (height, width, 3) uint8 RGB of any size, as features (n, *shape), float32.

        Several threads may call it at a time, each with pictures of its own.
        """


WHOLE: dict[str, Callable[..., Encoder]] = {"histogram": HistogramEncoder, PHOTOGRAPHS: efficientnet_lite2}
BEGINNINGS: dict[str, Callable[[str], Encoder]] = {"timm": TimmEncoder, "onnx": onnx_file}


def find_encoder(name: str) -> Encoder:
    """The encoder of that name: ``"histogram"``, ``"efficientnet-lite2"``, ``"timm:MODEL"`` or ``"onnx:FILE"``.

    ``:grid=K`` behind any of these asks for a grid: features of K x K places, (K*K, D), row by row. The encoder's own `name` may say more, so that
    it finds the same weights again: those of ``timm:`` and ``onnx:`` end in a digest of them.

    Raises
    ------
    DataError : there is none; a package that it needs is missing, and the message says the line that installs it; or its weights do not fit.
    """
    plain, _, rest = name.partition(":")
    if plain in WHOLE and (rest or name == plain):
        _, options = split_options(name, ("grid",))
        if name == ":".join((plain, *(f"{key}={value}" for key, value in options.items()))):
            return WHOLE[plain](grid=grid_of(name, options))
    if ":" in name and (beginning := name.partition(":")[0]) in BEGINNINGS:
        return BEGINNINGS[beginning](name)
    raise unknown("find_encoder", "encoder", name, [*WHOLE, *(f"{beginning}:..." for beginning in BEGINNINGS)], DataError)


def grid_area(name: str | None, picture: np.ndarray) -> Area | None:
    """The part of a picture (height, width, 3), uint8, that the grid of the encoder of that name lies over; found without its weights.

    Features that were given, with None as the name of an encoder, are taken to be of the whole picture. None: it is not known here.
    """
    kind = (name or "").partition(":")[0]
    if kind == "timm":
        return seen_area(str(name), picture)
    return drawn_area(picture) if kind == "histogram" else WHOLE_PICTURE
