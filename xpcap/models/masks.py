"""Dropout masks of a batch and its parts."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from xpcap.backend import Array
from xpcap.memory import Buffer
from xpcap.models.config import ModelConfig
from xpcap.models.packing import PackedCaptions
from xpcap.ops import draw_masks


class Masks(NamedTuple):
    """Boolean masks of the units to keep; all None without dropout."""

    features: Array | None = None  # (N, D); of a grid the same units in all regions
    words: Array | None = None  # (K, W), one row for each distinct input word
    hidden: Array | None = None  # (L, H), one row for each row with a target


class Draw(NamedTuple):
    """Key of the masks of a training step."""

    seed: int
    step: int


class RowNumbers(NamedTuple):
    """Row numbers of masks within the whole batch, for each mask of draws.draw_masks."""

    parts: Sequence[Sequence[np.ndarray]]  # of each part, for each mask: (n,) int
    counts: Sequence[int]  # for each mask: rows of the whole batch


def row_numbers(parts: Sequence[PackedCaptions], whole: Sequence[PackedCaptions] | None = None) -> RowNumbers:
    """Number the rows of masks, so that masks depend on neither packing nor parts.

    Captions count as they come, distinct words by id, and live steps caption by caption.

    Parameters
    ----------
    parts : those to number
    whole : parts that make up the whole batch, where `parts` do not
    """
    whole = parts if whole is None else whole
    counts = sum(part.rows.N for part in whole), sum(part.rows.R for part in whole)
    if len(whole) == 1 and whole is parts:
        (part,) = parts
        K = len(part.words)  # sorted, so each is its own number
        return RowNumbers([[part.order, np.arange(K), part.source]], (counts[0], K, counts[1]))
    words = np.unique(np.concatenate([part.words for part in whole]))  # sorted
    numbers = [[part.order, np.searchsorted(words, part.words), part.source] for part in parts]
    return RowNumbers(numbers, (counts[0], len(words), counts[1]))


def masks_of(
    config: ModelConfig,
    draw: Draw,
    numbers: Sequence[Sequence[Array]],
    counts: Sequence[int],
    buffers: Sequence[Buffer],
) -> list[Masks]:
    """Draw the masks of each part into its buffer; the numbers of RowNumbers lie on the device.

    The regions of a grid share a caption's mask: W_proj reads them all alike, and a unit kept in
    other regions would give away what was dropped (Gal & Ghahramani 2016 share masks over time
    steps for the same reason). And a grid costs no more draws than a feature.
    """
    (*_, D), W, H = config.feature_shape, config.wordvec, config.hidden
    masks = []
    for (order, words, source), buffer in zip(numbers, buffers, strict=True):
        features, vectors = buffer("mask of features", (len(order), D), bool), buffer("mask of words", (len(words), W), bool)
        masks.append(Masks(features, vectors, buffer("mask of hidden", (len(source), H), bool)))
    draw_masks(masks, numbers, counts, draw.seed, draw.step, 1 - config.dropout)
    return masks
