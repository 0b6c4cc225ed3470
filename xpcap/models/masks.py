"""Dropout masks: drawn on the host for a whole batch, then divided among its parts."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from xpcap.backend import Array
from xpcap.layers.dropout import draw_mask
from xpcap.models.config import ModelConfig
from xpcap.models.packing import PackedCaptions, send_joined


class Masks(NamedTuple):
    """Boolean masks of the units to keep; all None without dropout."""

    features: Array | None = None  # (N, D)
    words: Array | None = None  # (K, W), one row for each distinct input word
    hidden: Array | None = None  # (L, H), one row for each row with a target


def draw_masks(rng: np.random.Generator, config: ModelConfig, parts: Sequence[PackedCaptions], like: Array) -> list[Masks]:
    """Draw the masks of each part, in the order of its rows, on the device of `like`.

    Drawing covers the whole batch, features by caption, words by id, hidden units by (caption, time), so the masks do not depend on the parts.
    """
    keep, (D,) = 1 - config.dropout, config.feature_shape
    words = np.unique(np.concatenate([part.words for part in parts]))  # sorted
    features = draw_mask(rng, (sum(part.rows.N for part in parts), D), keep)
    vectors = draw_mask(rng, (len(words), config.wordvec), keep)
    hidden = draw_mask(rng, (sum(part.rows.R for part in parts), config.hidden), keep)
    drawn = [(features[part.order], vectors[np.searchsorted(words, part.words)], hidden[part.source]) for part in parts]
    return [Masks(*send_joined(masks, like=like)) for masks in drawn]
