"""Packing of captions into rows: no step is computed for padding, no word is projected twice."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from xpcap.backend import Array, get_array_module
from xpcap.layers.checks import all_below
from xpcap.memory import Buffer, view
from xpcap.ops import Rows, Segments


class PackedCaptions(NamedTuple):
    """A batch of captions, or one part of it, as packed rows, longest caption first.

    N captions, R rows or live (caption, step) pairs, K distinct input words, L rows with a target.
    Index arrays are int32 on a device, of any integer type on the host.
    """

    rows: Rows
    order: Array  # (N,) caption number at each sorted position
    words: Array  # (K,) ids of the distinct input words
    inputs: Segments  # rows grouped by input word; ids index `words`
    kept: Array | None  # (L,) rows whose target is not NULL; None if all are
    targets: Array  # (L,) their target ids
    source: np.ndarray  # (L,) their positions in the list of live steps, caption by caption; host


def dealt(captions: np.ndarray, null: int, part: int, parts: int) -> np.ndarray:
    """Indices of the captions in part `part` of `parts`.

    They are dealt round-robin by length, longest first, so that parts cost the same.
    """
    return (-_lengths(captions, null)).argsort(kind="stable")[part::parts]


def _lengths(captions: np.ndarray, null: int) -> np.ndarray:
    """Steps of each caption: up to its last non-NULL target."""
    live = captions[:, 1:] != null
    return np.where(live.any(axis=1), live.shape[1] - live[:, ::-1].argmax(axis=1), 0)


def pack(captions: np.ndarray, null: int, part: int = 0, parts: int = 1, shard: np.ndarray | None = None) -> PackedCaptions:
    """Pack a batch of captions, or one part of it, on the host.

    Parameters
    ----------
    captions : array (N, T+1), int; inputs are all columns but the last, targets all but the first
    null : id of the padding word
    part, parts : pack part `part` of `parts`, as `dealt` makes them. `order` and `source` refer to
        the whole batch
    shard : (n,), int, the captions to pack, or to pack a part of. None: all

    Notes
    -----
    A caption ends with its last non-NULL target; later steps are left out. A step with a NULL
    target inside a caption stays, since later steps depend on it, but does not enter the loss.
    """
    T, lengths = captions.shape[1] - 1, _lengths(captions, null)
    shard = np.arange(len(captions)) if shard is None else shard
    order = shard[(-lengths[shard]).argsort(kind="stable")][part::parts]
    steps = np.bincount(lengths[order], minlength=1)  # captions of each length
    rows = Rows.of((len(order) - steps.cumsum()[:-1]).tolist(), len(order))
    caption = order[rows.caption]
    t = np.arange(len(rows.sizes)).repeat(rows.sizes)
    at, words = caption * (T + 1) + t, captions.ravel()
    distinct, segments = _grouped(words.take(at))
    targets, source, kept = words.take(at + 1), (lengths.cumsum() - lengths).take(caption) + t, None
    if not (has_target := targets != null).all():
        kept = has_target.nonzero()[0]
        targets, source = targets[kept], source[kept]
    return PackedCaptions(rows, order, distinct, segments, kept, targets, source)


def _grouped(words: np.ndarray) -> tuple[np.ndarray, Segments]:
    """Distinct words (K,) of rows (R,), sorted, and the rows grouped by them.

    That is np.unique and ops.segments with one sort.
    """
    R = len(words)
    if all_below(words, 1 << 16):
        words = words.astype(np.uint16)  # NumPy sorts 16 bits by counting, in a third of the time
    order = words.argsort(kind="stable")
    in_order = words.take(order)
    is_first = np.empty(R, bool)
    is_first[:1] = True
    np.not_equal(in_order[1:], in_order[:-1], out=is_first[1:])
    (firsts,) = is_first.nonzero()
    starts = np.empty(len(firsts) + 1, np.intp)
    starts[:-1], starts[-1] = firsts, R
    ids = np.empty(R, np.intp)
    ids[order] = is_first.cumsum() - 1
    return in_order.take(firsts), Segments(ids, order, starts)


def send(
    packed: PackedCaptions,
    like: Array,
    order: np.ndarray,
    more: Sequence[np.ndarray],
    buffer: Buffer,
) -> tuple[PackedCaptions, list[Array]]:
    """Send the index arrays, with `order` for the packing's own, and `more` of int32, to a device.

    It is the device of `like`, and all goes in one transfer.
    """
    rows, words, inputs, kept, targets, source = packed.rows, packed.words, packed.inputs, packed.kept, packed.targets, packed.source
    if get_array_module(like) is np:
        return PackedCaptions(rows, order, words, inputs, kept, targets, source), list(more)
    assert rows.caption is not None  # as pack() has made them both
    assert rows.firsts is not None
    optional = [x for x in (kept, rows.past) if x is not None]
    joined = send_joined([order, words, *inputs, targets, rows.caption, rows.firsts, *optional, *more], buffer)
    order, words, ids, by_word, starts, targets, caption, firsts, *rest = joined
    kept = None if kept is None else rest.pop(0)
    past = None if rows.past is None else rest.pop(0)
    return PackedCaptions(Rows(rows.sizes, rows.N, past, caption, firsts), order, words, Segments(ids, by_word, starts), kept, targets, source), rest


def send_joined(parts: Sequence[np.ndarray], buffer: Buffer) -> list[Array]:
    """Send index vectors as int32 in one transfer, as views of one array where `buffer` lies."""
    joined, views, start = buffer.upload("indices", np.concatenate(parts, dtype=np.int32, casting="same_kind")), [], 0
    for part in parts:
        views.append(view(joined, start, part.shape))
        start += part.size
    return views
