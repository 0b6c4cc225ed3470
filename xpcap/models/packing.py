"""Packs captions into rows, so that no step is computed for padding and no word is projected twice."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from xpcap.backend import Array, get_array_module
from xpcap.layers.rows import Rows
from xpcap.ops import Segments
from xpcap.workspace import Buffer, view


class PackedCaptions(NamedTuple):
    """A batch of captions, or one part of it, as packed rows, longest caption first. Index arrays are int32 on a device, of any integer type on the host.

    N captions, R rows or live (caption, step) pairs, K distinct input words, L rows with a target.
    """

    rows: Rows
    order: Array  # (N,) caption number at each sorted position
    words: Array  # (K,) ids of the distinct input words
    inputs: Segments  # rows grouped by input word; ids index `words`
    kept: Array | None  # (L,) rows whose target is not NULL; None if all are
    targets: Array  # (L,) their target ids
    source: np.ndarray  # (L,) position of each row with a target in the caption-by-caption, unsorted list of live steps; always on the host


def pack(captions: np.ndarray, null: int, part: int = 0, parts: int = 1) -> PackedCaptions:
    """Pack a batch of captions, or one part of it, on the host.

    Parameters
    ----------
    captions : array (N, T+1), int; inputs are all columns but the last, targets all but the first
    null : id of the padding word
    part, parts : pack part `part` of `parts`; captions are dealt round-robin by length, so parts cost the same. `order` and `source` refer to
        the whole batch

    Notes
    -----
    A caption ends with its last non-NULL target; later steps contribute nothing and are left out. A step with a NULL target inside a caption
    stays, since later steps depend on it, but does not enter the loss.
    """
    inputs, targets = captions[:, :-1], captions[:, 1:]
    T = targets.shape[1]
    live = targets != null
    lengths = np.where(live.any(axis=1), T - live[:, ::-1].argmax(axis=1), 0)
    order = (-lengths).argsort(kind="stable")[part::parts]
    t, place = (np.arange(T)[:, None] < lengths[order]).nonzero()  # time-major
    caption = order[place]
    words, segments = _grouped(inputs[caption, t])
    row_targets, source = targets[caption, t], (lengths.cumsum() - lengths)[caption] + t
    kept = None
    if not (has_target := row_targets != null).all():
        kept = has_target.nonzero()[0]
        row_targets, source = row_targets[kept], source[kept]
    return PackedCaptions(Rows.of_steps(t, place, len(order)), order, words, segments, kept, row_targets, source)


def _grouped(words: np.ndarray) -> tuple[np.ndarray, Segments]:
    """The distinct words (K,) of rows (R,), sorted, and the rows grouped by them: np.unique and ops.segments with one sort."""
    R, order = len(words), words.argsort(kind="stable")
    in_order = words[order]
    is_first = np.empty(R, bool)
    is_first[:1] = True
    np.not_equal(in_order[1:], in_order[:-1], out=is_first[1:])
    starts = np.empty(is_first.sum() + 1, np.intp)
    starts[:-1], starts[-1] = is_first.nonzero()[0], R
    ids = np.empty(R, np.intp)
    ids[order] = is_first.cumsum() - 1
    return in_order[starts[:-1]], Segments(ids, order, starts)


def send(
    packed: PackedCaptions, like: Array, order: np.ndarray, more: Sequence[np.ndarray], buffer: Buffer
) -> tuple[PackedCaptions, list[Array]]:  # fmt: skip
    """Send the index arrays to the device of `like`, with `order` replacing the packing's own, and `more` int32 arrays, all in one transfer."""
    rows, words, inputs, kept, targets, source = packed.rows, packed.words, packed.inputs, packed.kept, packed.targets, packed.source
    if get_array_module(like) is np:
        return PackedCaptions(rows, order, words, inputs, kept, targets, source), list(more)
    optional = [x for x in (kept, rows.past) if x is not None]
    joined = send_joined([order, words, *inputs, targets, rows.caption, *optional, *more], buffer)
    order, words, ids, by_word, starts, targets, caption, *rest = joined
    kept = None if kept is None else rest.pop(0)
    past = None if rows.past is None else rest.pop(0)
    return PackedCaptions(Rows(rows.sizes, rows.N, past, caption), order, words, Segments(ids, by_word, starts), kept, targets, source), rest


def send_joined(parts: Sequence[np.ndarray], buffer: Buffer) -> list[Array]:
    """Send index vectors as int32 to the device where `buffer` lies in one transfer, as views of one array."""
    joined, views, start = buffer.upload("indices", np.concatenate(parts, dtype=np.int32, casting="same_kind")), [], 0
    for part in parts:
        views.append(view(joined, start, part.shape))
        start += part.size
    return views
