"""What is timed: the kinds of work, the named sizes, their data, and the settings of a training step."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from xpcap.data.dataset import CaptionData
from xpcap.data.synthetic import LIKE_COCO, draw_data

LEARNING_RATE = 1e-3
CLIP = 50.0  # the default of `train`
SEED = 0
TRAINING = "training step"  # loss, gradients, clipping, Adam; float32
SAMPLING = "greedy sampling"  # PICTURES pictures, at most MOST_WORDS words each
BESIDE = "training step beside a busy process of another login"  # the same step
WORKS = (TRAINING, SAMPLING)
WIDTH, LENGTH_PENALTY = 5, 0.7
BEAMS = f"beam search, {WIDTH} hypotheses"  # of the same pictures and most words; the best caption by log-probability / words**LENGTH_PENALTY
PICTURES = 1000
MOST_WORDS = LIKE_COCO.high + 1  # END included


@dataclass(frozen=True)
class Config:
    """Sizes of an LSTM captioner and its step: N captions, D image feature, W word vector, H hidden, V vocabulary; and its dropout.

    With P each picture has so many places of D numbers, to which every step attends. Only training is timed then.
    """

    name: str
    N: int
    D: int = 512
    W: int = 256
    H: int = 512
    V: int = 1004
    dropout: float = 0.0
    P: int = 0

    @property
    def features(self) -> int | tuple[int, int]:
        """Size of a feature, or of a grid."""
        return (self.P, self.D) if self.P else self.D

    @property
    def inject(self) -> str:
        """How the image enters."""
        return "attention" if self.P else "init"

    def data(self, batches: int) -> CaptionData:
        """`batches` batches of captions of 6 to 15 words, a few words very common. Every call draws the same data."""
        return draw_data(batches * self.N, self.features, self.V, SEED)

    def pictures(self) -> np.ndarray:
        """Standard normal features (PICTURES, D) of the pictures to caption. Every call draws the same ones."""
        return np.random.default_rng(SEED).standard_normal((PICTURES, self.D), dtype=np.float32)


_EVERYWHERE = (
    Config("notebook", 25),
    Config("coco", 128),
    Config("flickr8k", 128, D=1280, V=2539),
    Config("large", 512),
    Config("vocab10k", 128, W=512, V=10000),
)
_ON_A_GPU = (  # the first four and those above: N = 25, 64, 128, 512 for each of two vocabularies
    Config("coco-n64", 64),
    Config("vocab10k-n25", 25, W=512, V=10000),
    Config("vocab10k-n64", 64, W=512, V=10000),
    Config("vocab10k-n512", 512, W=512, V=10000),
    Config("coco-dropout", 128, dropout=0.4),  # the default of `train`
    Config("flickr8k-v2540", 128, D=1280, V=2540),  # rows of V numbers begin at multiples of 16 bytes, unlike those of flickr8k's 2539
)
_WHEN_ASKED = (Config("flickr8k-grid", 128, D=1280, V=2539, P=25),)
CONFIGS = {config.name: config for config in _EVERYWHERE + _ON_A_GPU + _WHEN_ASKED}


def works_of(config: Config, works: Sequence[str]) -> list[str]:
    """Those kinds of work that are timed at a configuration."""
    return [work for work in works if not config.P or work in (TRAINING, BESIDE)]


def usual(backend: str) -> list[str]:
    """Names of the configurations that `bench` times on a backend by default."""
    return [config.name for config in _EVERYWHERE + (() if backend == "numpy" else _ON_A_GPU)]


def scaling(base: Config) -> dict[str, list[Config]]:
    """Variations of `base` in a single size, keyed by that size: the batch N or the vocabulary V."""
    sizes = {"N": (8, 16, 32, 64, 128, 256, 512, 1024), "V": (1000, 2000, 5000, 10_000, 20_000, 50_000)}
    return {key: [replace(base, name=f"{key}={value}", **{key: value}) for value in values] for key, values in sizes.items()}
