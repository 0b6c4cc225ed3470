"""Captions to packed rows: no step is computed for padding, and no word is projected twice."""

from typing import NamedTuple

import numpy as np

from xpcap.backend import Array, asarray, get_array_module


class PackedCaptions(NamedTuple):
    """A batch of captions as rows, time-major, longest caption first. Index arrays are small integers, host or device.

    N captions, R live (caption, step) pairs, K distinct input words, L rows with a target.
    """

    sizes: list[int]  # captions alive at each step; on the host always
    N: int
    order: Array  # (N,) caption of each sorted place
    words: Array  # (K,) ids of the distinct input words
    inputs: Array  # (R,) each row's input word, as a place in `words`
    kept: Array | None  # (L,) rows whose target is not NULL; None where that is all of them
    targets: Array  # (L,) their target ids
    source: Array  # (R,) each row's place when live steps are listed caption by caption, unsorted


def pack(captions: np.ndarray, null: int) -> PackedCaptions:
    """Pack a batch of captions on the host.

    Parameters
    ----------
    captions : array (N, T+1), int; inputs are all columns but the last, targets all but the first
    null : id of the padding word

    Notes
    -----
    A caption's length is the position of its last non-NULL target plus one. Steps beyond it contribute nothing and are left out. A NULL
    target inside a caption keeps its step, since later steps depend on it, but has no row in the loss.
    """
    inputs, targets = captions[:, :-1], captions[:, 1:]
    N, T = targets.shape
    live = targets != null
    lengths = np.where(live.any(axis=1), T - np.argmax(live[:, ::-1], axis=1), 0)
    order = np.argsort(-lengths, kind="stable")
    t, place = np.nonzero(np.arange(T)[:, None] < lengths[order])  # time-major
    caption = order[place]
    words, input_places = np.unique(inputs[caption, t], return_inverse=True)
    row_targets = targets[caption, t]
    has_target = row_targets != null
    starts = np.cumsum(lengths) - lengths
    return PackedCaptions(
        sizes=[int(n) for n in np.bincount(t)],
        N=N,
        order=order.astype(np.int32),
        words=words.astype(np.int32),
        inputs=input_places.astype(np.int32),
        kept=None if has_target.all() else np.flatnonzero(has_target).astype(np.int32),
        targets=row_targets[has_target].astype(np.int32),
        source=(starts[caption] + t).astype(np.int32),
    )


def send(packed: PackedCaptions, like: Array) -> PackedCaptions:
    """The same packing with its index arrays in the library of `like`: one transfer for all of them."""
    if get_array_module(like) is np:
        return packed
    names = [name for name in packed._fields if isinstance(getattr(packed, name), np.ndarray)]
    parts = [getattr(packed, name) for name in names]
    ends = np.cumsum([part.size for part in parts])
    joined = asarray(np.concatenate(parts), like=like)
    return packed._replace(**{name: joined[end - part.size : end] for name, part, end in zip(names, parts, ends.tolist(), strict=True)})
