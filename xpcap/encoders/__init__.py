"""Encoders turn pictures into features. Open kinds.py first, then histogram.py, an encoder."""

import numpy as np

from xpcap.encoders.efficientnet import EFFICIENTNET
from xpcap.encoders.finding import find_pictures
from xpcap.encoders.grid import WHOLE_PICTURE, Area, grid_of
from xpcap.encoders.histogram import HISTOGRAM, HistogramEncoder
from xpcap.encoders.kinds import Encoder, EncoderSpec, split_options
from xpcap.encoders.onnx import ONNX
from xpcap.encoders.pictures import PictureSource, is_url, read_picture, scheme_of
from xpcap.encoders.timm_model import TIMM, TimmEncoder
from xpcap.encoders.url import image_from_url, read_url
from xpcap.errors import DataError, one_of

PHOTOGRAPHS = EFFICIENTNET.name  # the default encoder of photographs

__all__ = [
    "ENCODERS",
    "PHOTOGRAPHS",
    "Area",
    "Encoder",
    "EncoderSpec",
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
    "scheme_of",
]

# By the first part of their names
ENCODERS = {kind.name.partition(":")[0]: kind for kind in (HISTOGRAM, EFFICIENTNET, TIMM, ONNX)}


def find_encoder(name: str) -> Encoder:
    """The encoder of that name: ``"histogram"``, ``"efficientnet-lite2"``, ``"timm:MODEL"`` or
    ``"onnx:FILE"``.

    ``:grid=K`` at the end of a name gives features of K x K regions, (K*K, D), row by row. The
    encoder's `name` may be longer: those of ``timm:`` and ``onnx:`` end in the digest of the weights,
    so that they find the same weights again.

    DataError : there is no such encoder; a package is missing, and the message has the command that
        installs it; or its weights are wrong.

    Examples
    --------
    >>> find_encoder("histogram").shape
    (2101,)
    >>> find_encoder("histogram:grid=3").encode([np.zeros((40, 60, 3), np.uint8)]).shape
    (1, 9, 209)
    """
    if kind := ENCODERS.get(name.partition(":")[0]):
        base_name, options = split_options(name, kind.options)
        if base_name == kind.name or (":" in kind.name and ":" in name):
            grid = grid_of(name, options.pop("grid", None))
            kind.require_packages(name)
            return kind.build(base_name, grid=grid, **options)
    known = [kind.name for kind in ENCODERS.values()]
    raise DataError(f"encoder {name!r} does not exist, expected {one_of(known, name)}")


def grid_area(name: str | None, picture: np.ndarray) -> Area | None:
    """The area of a picture (height, width, 3), uint8, that an encoder's grid covers; None: unknown.

    The encoder is not loaded. Without a name, it is the whole picture.
    """
    kind = ENCODERS.get((name or "").partition(":")[0])
    return kind.area(str(name), picture) if kind else WHOLE_PICTURE
