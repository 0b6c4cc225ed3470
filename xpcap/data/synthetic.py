"""A random data set, without pictures or meaning: for timings, and for comparing runs."""

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

    n, D, V : captions, size of a feature, or of a grid (P, D), words in the vocabulary (the four
        special ones among them)
    seed : equal seeds draw equal data
    lengths : of the captions, which have lengths.high + 2 columns, ``<START>`` first, ``<END>``
        after the last word, then ``<NULL>``

    The word of rank k has a frequency proportional to 1 / k, as in text. Features are standard
    normal.
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
