"""Captions to packed rows: no step is computed for padding, and no word is projected twice."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from xpcap.backend import Array, asarray, get_array_module
from xpcap.layers.rows import past_rows
from xpcap.ops import Segments, segments


class FeatureRows(NamedTuple):
    """Features of a batch as rows of a table that lies on the model's device already: table[rows]."""

    table: Array  # (m, D)
    rows: np.ndarray  # (N,) int, on the host

    @property
    def shape(self) -> tuple[int, int]:
        """(N, D), as if they were gathered."""
        return len(self.rows), self.table.shape[1]

    def checked(self, function: str, like: Array) -> Array:
        """The table, once it is known to be of the library and dtype of `like` and to have all the rows."""
        if get_array_module(self.table) is not get_array_module(like) or self.table.dtype != like.dtype:
            raise TypeError(
                f"{function}: the table of features is a {type(self.table).__module__} array of {self.table.dtype}, "
                f"expected the model's library and {like.dtype}; made for another model?"
            )
        if self.rows.min() < 0 or self.rows.max() >= len(self.table):
            raise ValueError(
                f"{function}: feature rows are {self.rows.min()}..{self.rows.max()}, expected 0..{len(self.table) - 1}; another split's?"
            )
        return self.table


class PackedCaptions(NamedTuple):
    """A batch of captions, or a part of one, as rows, time-major, longest caption first. Index arrays are small integers, host or device.

    N captions, R live (caption, step) pairs, K distinct input words, L rows with a target.
    """

    sizes: list[int]  # captions alive at each step; on the host always
    N: int
    order: Array  # (N,) caption of each sorted place
    words: Array  # (K,) ids of the distinct input words
    inputs: Segments  # the rows grouped by input word; ids are places in `words`
    kept: Array | None  # (L,) rows whose target is not NULL; None where that is all of them
    targets: Array  # (L,) their target ids
    past: Array | None  # (R,) place of the state that each row starts from, as layers.rows.past_rows has it
    source: np.ndarray  # (R,) each row's place when live steps are listed caption by caption, unsorted; on the host always


def pack(captions: np.ndarray, null: int, part: int = 0, parts: int = 1) -> PackedCaptions:
    """Pack a batch of captions on the host, or one part of it.

    Parameters
    ----------
    captions : array (N, T+1), int; inputs are all columns but the last, targets all but the first
    null : id of the padding word
    part, parts : take this one of so many parts, dealt out by length: each has as much to do as another. `order` and `source` go by the whole batch

    Notes
    -----
    A caption's length is the position of its last non-NULL target plus one. Steps beyond it contribute nothing and are left out. A NULL
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
    sizes = [int(n) for n in np.bincount(t)]
    return PackedCaptions(
        sizes=sizes,
        N=len(order),
        order=order.astype(np.int32),
        words=words.astype(np.int32),
        inputs=segments(input_places.astype(np.int32), len(words)),
        kept=None if has_target.all() else np.flatnonzero(has_target).astype(np.int32),
        targets=row_targets[has_target].astype(np.int32),
        past=past_rows(sizes, len(order)),
        source=(starts[caption] + t).astype(np.int32),
    )


def send(packed: PackedCaptions, like: Array, order: np.ndarray) -> PackedCaptions:
    """The same packing with its index arrays, and `order` for its order, in the library of `like`: one transfer for all of them."""
    packed = packed._replace(order=order)
    if get_array_module(like) is np:
        return packed
    words, kept, targets, past = packed.words, packed.kept, packed.targets, packed.past
    moved = send_joined([order, words, *packed.inputs, targets, *(x for x in (kept, past) if x is not None)], like)
    order, words, ids, by_word, starts, targets, *rest = moved
    return packed._replace(
        order=order,
        words=words,
        inputs=Segments(ids, by_word, starts),
        targets=targets,
        kept=None if kept is None else rest.pop(0),
        past=None if past is None else rest.pop(0),
    )


def send_joined(parts: Sequence[np.ndarray], like: Array) -> list[Array]:
    """Host arrays of one dtype as views of one array on the device of `like`: one transfer. Where that is the host they stay as they are."""
    if get_array_module(like) is np:
        return list(parts)
    ends = np.cumsum([part.size for part in parts]).tolist()
    joined = asarray(np.concatenate([part.reshape(part.size) for part in parts]), like=like)
    return [joined[end - part.size : end].reshape(part.shape) for part, end in zip(parts, ends, strict=True)]
