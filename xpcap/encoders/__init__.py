"""Encoders: pictures to features. Open kinds.py first, then histogram.py, an encoder."""

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
from xpcap.errors import DataError, unknown

PHOTOGRAPHS = EFFICIENTNET.name  # the encoder for photographs where none is named

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

# by what their names begin with
ENCODERS = {kind.name.partition(":")[0]: kind for kind in (HISTOGRAM, EFFICIENTNET, TIMM, ONNX)}


def find_encoder(name: str) -> Encoder:
    """The encoder of that name: ``"histogram"``, ``"efficientnet-lite2"``, ``"timm:MODEL"`` or
    ``"onnx:FILE"``.

    ``:grid=K`` behind any of these asks for a grid: features of K x K regions, (K*K, D), row by
    row. The encoder's own `name` may say more, so that it finds the same weights again: ``timm:``
    and ``onnx:`` end in their digest.

    DataError : there is none; a package is missing, and the message has the line that installs it;
        or its weights do not fit.
    """
    if kind := ENCODERS.get(name.partition(":")[0]):
        asked, options = split_options(name, kind.options)
        if asked == kind.name or (":" in kind.name and ":" in name):
            grid = grid_of(name, options.pop("grid", None))
            kind.require_packages(name)
            return kind.build(asked, grid=grid, **options)
    known = [kind.name for kind in ENCODERS.values()]
    raise unknown("find_encoder", "encoder", name, known, DataError)


def grid_area(name: str | None, picture: np.ndarray) -> Area | None:
    """The part of a picture (height, width, 3), uint8, that an encoder's grid lies over; None: it
    is not known here.

    The encoder is not loaded. Without a name, features were given, and are taken to be of the whole
    picture.
    """
    kind = ENCODERS.get((name or "").partition(":")[0])
    return kind.area(str(name), picture) if kind else WHOLE_PICTURE
