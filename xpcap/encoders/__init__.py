"""Encoders: pictures to features. One has a `name`, a feature size `dim`, and `encode(pictures) -> (n, dim) float32`."""

from collections.abc import Iterable
from typing import Protocol

import numpy as np

from xpcap.encoders.histogram import HistogramEncoder
from xpcap.encoders.reading import find_pictures, read_picture
from xpcap.encoders.url import image_from_url, is_url, read_url
from xpcap.errors import DataError, unknown

__all__ = ["Encoder", "HistogramEncoder", "find_encoder", "find_pictures", "image_from_url", "is_url", "read_picture", "read_url"]


class Encoder(Protocol):
    """Turns pictures into features."""

    name: str  # stored with a data set, so that new pictures can be encoded the same way
    dim: int

    def encode(self, pictures: Iterable[np.ndarray]) -> np.ndarray:
        """Encode pictures, each (height, width, 3) uint8 RGB of any size, as features (n, dim), float32."""


def find_encoder(name: str) -> Encoder:
    """The encoder of that name. DataError : there is none."""
    encoders: dict[str, type[Encoder]] = {HistogramEncoder.name: HistogramEncoder}
    if name not in encoders:
        raise unknown("find_encoder", "encoder", name, encoders, DataError)
    return encoders[name]()
