"""Encoders: pictures to features. One has a `name`, a feature size `dim`, and `encode(pictures) -> (n, dim) float32`."""

from collections.abc import Callable, Iterable
from typing import Protocol

import numpy as np

from xpcap.encoders.efficientnet import efficientnet_lite2
from xpcap.encoders.histogram import HistogramEncoder
from xpcap.encoders.onnx_file import onnx_file
from xpcap.encoders.reading import find_pictures, read_picture
from xpcap.encoders.timm_model import TimmEncoder
from xpcap.encoders.url import image_from_url, is_url, read_url
from xpcap.errors import DataError, unknown

PHOTOGRAPHS = "efficientnet-lite2"  # the encoder for photographs where none is named

__all__ = [
    "PHOTOGRAPHS",
    "Encoder",
    "HistogramEncoder",
    "TimmEncoder",
    "find_encoder",
    "find_pictures",
    "image_from_url",
    "is_url",
    "read_picture",
    "read_url",
]


class Encoder(Protocol):
    """Turns pictures into features."""

    name: str  # stored with a data set, so that new pictures can be encoded the same way; other weights, another name
    dim: int

    def encode(self, pictures: Iterable[np.ndarray]) -> np.ndarray:
        """Encode pictures, each (height, width, 3) uint8 RGB of any size, as features (n, dim), float32.

        Several threads may call it at a time, each with pictures of its own.
        """


WHOLE: dict[str, Callable[[], Encoder]] = {HistogramEncoder.name: HistogramEncoder, "efficientnet-lite2": efficientnet_lite2}
BEGINNINGS: dict[str, Callable[[str], Encoder]] = {"timm": TimmEncoder, "onnx": onnx_file}


def find_encoder(name: str) -> Encoder:
    """The encoder of that name: ``"histogram"``, ``"efficientnet-lite2"``, ``"timm:MODEL"`` or ``"onnx:FILE"``.

    The encoder's own `name` may say more, so that it finds the same weights again: those of ``timm:`` and ``onnx:`` end in a digest of them.

    Raises
    ------
    DataError : there is none; a package that it needs is missing, and the message says the line that installs it; or its weights do not fit.
    """
    if name in WHOLE:
        return WHOLE[name]()
    if ":" in name and (beginning := name.partition(":")[0]) in BEGINNINGS:
        return BEGINNINGS[beginning](name)
    raise unknown("find_encoder", "encoder", name, [*WHOLE, *(f"{beginning}:..." for beginning in BEGINNINGS)], DataError)
