"""A random data set without pictures, for timings and for comparing runs."""

from typing import NamedTuple

import numpy as np

from xpcap.data.dataset import CaptionData, Source, Split
from xpcap.data.vocabulary import SPECIAL, Vocabulary


class Lengths(NamedTuple):
    """Words in a caption: normal, rounded, clipped to low..high."""

    mean: float
    deviation: float
    low: int
    high: int


LIKE_COCO = Lengths(10.5, 2.3, 6, 15)


def draw_data(
    n: int, D: int | tuple[int, int], V: int, seed: int, lengths: Lengths = LIKE_COCO
) -> CaptionData:
    """Draw a train split of n captions, each of its own picture.

    n : captions
    D : size of a feature, or (P, D) of a grid
    V : words in the vocabulary, including the four special ones
    seed : equal seeds draw equal data
    lengths : lengths of the captions, which have lengths.high + 2 columns: ``<START>``, words,
        ``<END>``, then ``<NULL>``

    The frequency of the k-th word is proportional to 1 / k, as in text. Features are standard normal.

    Examples
    --------
    >>> draw_data(n=5, D=3, V=10, seed=0).features("train", [0, 1]).shape
    (2, 3)
    """
    rng = np.random.default_rng(seed)
    vocabulary = Vocabulary([*SPECIAL, *(f"word{rank}" for rank in range(1, V - len(SPECIAL) + 1))])
    words = np.clip(
        np.rint(rng.normal(lengths.mean, lengths.deviation, n)), lengths.low, lengths.high
    ).astype(np.int32)
    frequency = 1 / np.arange(1, V - len(SPECIAL) + 1)
    captions = len(SPECIAL) + rng.choice(
        len(frequency), (n, lengths.high + 2), p=frequency / frequency.sum()
    ).astype(np.int32)
    column = np.arange(lengths.high + 2)
    captions[:, 0] = vocabulary.start
    captions[column == words[:, None] + 1] = vocabulary.end
    captions[column > words[:, None] + 1] = vocabulary.null
    features = rng.standard_normal((n, *(D if isinstance(D, tuple) else (D,))), dtype=np.float32)
    split = Split(
        captions, np.arange(n, dtype=np.int32), features, [f"picture{i}" for i in range(n)]
    )
    return CaptionData(
        vocabulary, {"train": split}, source=Source(seed=int(seed), record={"drawn": "at random"})
    )
