"""Checks of a vocabulary and of a batch, before a captioner computes anything."""

import operator
from collections.abc import Mapping
from typing import Any

import numpy as np

from xpcap.backend import Array
from xpcap.layers.checks import all_below
from xpcap.models.batch import FeatureRows


def check_batch(
    where: str, features: Array | FeatureRows, captions: np.ndarray, shape: tuple[int, ...], V: int, weights: np.ndarray | None,
    mine: np.ndarray | None = None,
) -> None:  # fmt: skip
    """TypeError, ValueError : a batch is not what CaptioningRNN.loss takes."""
    n = len(captions) if mine is None else len(mine)
    if captions.dtype.kind not in "iu":
        raise TypeError(f"{where}: captions have dtype {captions.dtype}, expected integer word ids")
    if captions.ndim != 2 or captions.shape[0] < 1 or captions.shape[1] < 2 or np.shape(features) != (n, *shape):
        raise ValueError(
            f"{where}: features have shape {np.shape(features)} and captions {captions.shape}, "
            f"expected ({', '.join(map(str, ('N' if mine is None else n, *shape)))}) and (N, T+1), at least one caption of one step"
        )
    if mine is not None and (not all_below(mine, len(captions)) or len(np.unique(mine)) < n):
        raise ValueError(f"{where}: mine holds {np.min(mine)}..{np.max(mine)}, expected distinct numbers of {len(captions)} captions")
    if not all_below(captions, V):
        raise ValueError(f"{where}: captions hold ids {captions.min()}..{captions.max()}, expected 0..{V - 1}; are they from another vocabulary?")
    if weights is not None and (weights.shape != (len(captions),) or weights.dtype.kind != "f"):
        raise ValueError(f"{where}: weights have shape {weights.shape}, expected one real number for each of {len(captions)} captions")


def check_words(word_to_idx: Mapping[str, int]) -> None:
    """Ids must be distinct whole numbers. Ids from V on are allowed, as the course's fixture has one, but not for <NULL>."""
    ids = list(word_to_idx.values())
    if odd := [(word, i) for word, i in word_to_idx.items() if not isinstance(i, int | np.integer) or i < 0]:
        raise ValueError(f"CaptioningRNN: word_to_idx gives {odd[0][0]!r} the id {odd[0][1]!r}, expected a whole number of at least 0")
    if len(set(ids)) < len(ids):
        raise ValueError(f"CaptioningRNN: word_to_idx gives {len(ids)} words only {len(set(ids))} ids, expected one each")
    if word_to_idx.get("<NULL>", len(ids)) >= len(ids):
        raise ValueError(f"CaptioningRNN: word_to_idx has {len(ids)} words but no <NULL> with an id below that, expected one: it marks padding")


def check_counter(where: str, name: str, value: Any) -> int:
    """A seed or a step as an int. ValueError : not in 0..2**63-1. TypeError : no whole number."""
    number = operator.index(value) if hasattr(value, "__index__") else None
    if number is None:
        raise TypeError(f"{where}: {name} is a {type(value).__name__}, expected a whole number")
    if not 0 <= number < 2**63:
        raise ValueError(f"{where}: {name} is {number}, expected a whole number in 0..2**63-1")
    return number
