"""Pictures to features. An encoder has `dim`, the size D of a feature, and `encode(pictures) -> (n, D) float32`."""

from xpcap.encoders.histogram import HistogramEncoder
from xpcap.encoders.url import image_from_url

__all__ = ["HistogramEncoder", "image_from_url"]
