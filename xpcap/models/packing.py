"""Captions to packed rows: no step is computed for padding, and no word is projected twice."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from xpcap.backend import Array, asarray, get_array_module
from xpcap.layers.rows import Rows
from xpcap.ops import Segments, segments


class PackedCaptions(NamedTuple):
    """A batch of captions, or one part of it, as packed rows, longest caption first. Index arrays are int32, host or device.

    N captions, R live (caption, step) pairs, K distinct input words, L rows with a target.
    """

    rows: Rows
    order: Array  # (N,) the caption in each sorted place
    words: Array  # (K,) ids of the distinct input words
    inputs: Segments  # the rows grouped by input word; ids are places in `words`
    kept: Array | None  # (L,) rows whose target is not NULL; None where that is all of them
    targets: Array  # (L,) their target ids
    source: np.ndarray  # (R,) each row's place when live steps are listed caption by caption, unsorted; on the host always


def pack(captions: np.ndarray, null: int, part: int = 0, parts: int = 1) -> PackedCaptions:
    """Pack a batch of captions, or one of the parts that it is cut into, on the host.

    Parameters
    ----------
    captions : array (N, T+1), int; inputs are all columns but the last, targets all but the first
    null : id of the padding word
    part, parts : pack part number `part` of `parts`. Captions are dealt round-robin by length, so that parts cost the same. `order` and
        `source` number the captions of the whole batch

    Notes
    -----
    A caption's length is the position of its last non-NULL target plus one. Later steps contribute nothing and are left out. A NULL
    target inside a caption keeps its step, since later steps depend on it, but has no row in the loss.
    """
    inputs, targets = captions[:, :-1], captions[:, 1:]
    T = targets.shape[1]
    live = targets != null
    lengths = np.where(live.any(axis=1), T - np.argmax(live[:, ::-1], axis=1), 0)
    order = np.argsort(-lengths, kind="stable")[part::parts]
    t, place = np.nonzero(np.arange(T)[:, None] < lengths[order])  # time-major
    caption = order[place]
    words, input_places = np.unique(inputs[caption, t], return_inverse=True)
    row_targets = targets[caption, t]
    has_target = row_targets != null
    starts = np.cumsum(lengths) - lengths
    return PackedCaptions(
        rows=Rows.of([int(n) for n in np.bincount(t)], len(order)),
        order=order.astype(np.int32),
        words=words.astype(np.int32),
        inputs=segments(input_places.astype(np.int32), len(words)),
        kept=None if has_target.all() else np.flatnonzero(has_target).astype(np.int32),
        targets=row_targets[has_target].astype(np.int32),
        source=(starts[caption] + t).astype(np.int32),
    )


def send(packed: PackedCaptions, like: Array, order: np.ndarray) -> PackedCaptions:
    """The same packing with its index arrays in the library of `like`, and `order` in place of its own: one transfer for all of them."""
    packed = packed._replace(order=order)
    if get_array_module(like) is np:
        return packed
    rows, words, kept, targets = packed.rows, packed.words, packed.kept, packed.targets
    optional = [x for x in (kept, rows.past) if x is not None]
    order, words, ids, by_word, starts, targets, caption, *rest = send_joined([order, words, *packed.inputs, targets, rows.caption, *optional], like)
    kept = None if kept is None else rest.pop(0)
    past = None if rows.past is None else rest.pop(0)
    return packed._replace(
        rows=rows._replace(past=past, caption=caption),
        order=order,
        words=words,
        inputs=Segments(ids, by_word, starts),
        targets=targets,
        kept=kept,
    )


def send_joined(parts: Sequence[np.ndarray], like: Array) -> list[Array]:
    """Host arrays of one dtype as views of one array on the device of `like`: one transfer. Where that is the host they stay as they are."""
    if get_array_module(like) is np:
        return list(parts)
    ends = np.cumsum([part.size for part in parts]).tolist()
    joined = asarray(np.concatenate([part.reshape(part.size) for part in parts]), like=like)
    return [joined[end - part.size : end].reshape(part.shape) for part, end in zip(parts, ends, strict=True)]
