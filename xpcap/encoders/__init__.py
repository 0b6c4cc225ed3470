"""Pictures to features. An encoder has `dim`, the size D of a feature, and `encode(pictures) -> (n, D) float32`."""

from xpcap.encoders.histogram import HistogramEncoder

__all__ = ["HistogramEncoder"]
