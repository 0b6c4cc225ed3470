"""Pads a batch to a layout, sends it to a device, and records or repeats the launches of its step.

`DeviceNetwork` is the network of a model whose parameters lie on a device.
"""

import operator
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from xpcap.backend import Array
from xpcap.backend.memory import Workspace, view
from xpcap.backend.replay import Replay
from xpcap.backend.transfers import Waiting
from xpcap.models.batch import (
    NO_TERMS,
    Batch,
    FeatureRows,
    Masks,
    Packed,
    Part,
    caption_lengths,
    deal,
    draw_masks,
    laid_out,
    mask_rows_of,
    pack,
    sizes_of,
)
from xpcap.models.network import Network
from xpcap.models.parameters import Parameters
from xpcap.ops import NO_TARGET, DeviceOps, LossTerms, Segments, contiguous, has_kernels

# For a small batch, a device's step takes as long as the host needs to launch it. Steps of one layout
# make the same launches, so these are recorded once. A single layout with little padding is enough,
# since captions are drawn from one set: if a share s of them is longer than t steps, then about n * s
# of a batch of n are, with a binomial deviation. The same holds for the distinct words.
DEVIATIONS = 3.0  # standard deviations above the mean: 98 % of random batches fit
WORD_MULTIPLE = 64


class Layout(NamedTuple):
    """The shape to which batches of n captions are padded on a device."""

    sizes: tuple[int, ...]  # captions at each step; n at the first
    words: int  # distinct input words, or more than the vocabulary has

    @classmethod
    def of(cls, captions: np.ndarray, null: int, n: int) -> "Layout":
        """The layout for batches of n of the captions (m, T+1), so that one record serves them all."""
        m, columns = captions.shape
        alive = caption_lengths(captions, null) > np.arange(columns - 1)[:, None]  # (T, m)
        mean = n * alive.mean(axis=1)
        bounds = mean + DEVIATIONS * np.sqrt(mean * (1 - mean / n))
        sizes = np.minimum(np.rint(bounds), n).astype(int)
        sizes[0] = n  # every caption has a step, even without a target
        sizes = np.minimum.accumulate(sizes)

        # A batch contains a word unless all n captions lack it
        step, caption = alive.nonzero()
        pairs = np.unique(captions[caption, step].astype(np.int64) * m + caption)
        share = np.bincount(pairs // m) / m
        chances = 1 - (1 - share) ** n
        word_bound = chances.sum() + DEVIATIONS * np.sqrt((chances * (1 - chances)).sum())
        words = -(-int(word_bound) // WORD_MULTIPLE) * WORD_MULTIPLE
        return cls(tuple(sizes[sizes > 0].tolist()), words)

    def pack(
        self, captions: np.ndarray, null: int, order: np.ndarray, lengths: np.ndarray, V: int
    ) -> Packed | None:
        """Captions of a batch, packed as by `batch.pack` and padded; None if they do not fit.

        V : size of the vocabulary
        """
        sizes = sizes_of(lengths[order])
        n, T = len(order), captions.shape[1] - 1
        fits = n == self.sizes[0] and len(sizes) <= len(self.sizes) <= T
        if not fits or any(map(operator.gt, sizes, self.sizes)):
            return None
        rows, t = laid_out(self.sizes, n)
        caption = order[rows.sequence]
        words = captions.ravel()
        positions = caption * (T + 1) + t
        # A padding row reads a word of the batch, so that there are no more distinct words
        is_live = t < lengths.take(caption)
        inputs = np.where(is_live, words.take(positions), captions[order[0], 0])
        distinct, segments = _distinct_words(inputs, V, min(self.words, V))
        if len(distinct) > min(self.words, V):
            return None
        targets = words.take(positions + 1)
        targets = np.where(targets != null, targets, NO_TARGET)
        return Packed(order, (len(captions), T), rows, distinct, segments, None, targets)


def _distinct_words(words: np.ndarray, V: int, count: int) -> tuple[np.ndarray, Segments]:
    """Distinct words of rows (R,), and the rows grouped by them, as in `batch.distinct_words`.

    If there are fewer than `count`, other words of the V are added, which no row reads.
    """
    sizes = np.bincount(words, minlength=V)
    is_listed = sizes > 0
    missing = max(0, count - np.count_nonzero(is_listed))
    is_listed[(~is_listed).nonzero()[0][:missing]] = True
    (distinct,) = is_listed.nonzero()
    ids = (is_listed.cumsum() - 1).take(words)
    starts = np.zeros(len(distinct) + 1, np.intp)
    sizes.take(distinct).cumsum(out=starts[1:])
    # NumPy sorts 16 bits by counting, in a third of the time
    order = (words.astype(np.uint16) if V <= 1 << 16 else words).argsort(kind="stable")
    return distinct, Segments(ids, order, starts)


class DeviceWorkspace(Workspace):
    """Memory of training steps on a device, with the record of their launches.

    layout : shape to which batches are padded; None: steps are neither padded nor recorded
    replay : the record of padded steps
    """

    def __init__(
        self, like: Array, layout: Layout | None = None, *, waiting: Waiting = nullcontext
    ) -> None:
        super().__init__(like, waiting=waiting)
        self.layout = layout
        self.replay = Replay[Any]()


class DevicePart(NamedTuple):
    """A batch on a device, with its index arrays concatenated there, as int32.

    In a padded batch, captions have extra steps, `targets` has all rows, with NO_TARGET for padding,
    and `words` has extra ids that no row reads. Loss and gradients equal those without padding, up to
    rounding.
    """

    part: Part  # the part, with `packed` on the host
    joined: Array  # the index arrays of `packed`
    padded: bool

    def on_device(self) -> Part:
        """The part with its index arrays on the device.

        Making a view costs the host a microsecond, and a repeated record needs no views.
        """
        packed = self.part.packed
        arrays = views(self.joined, _index_arrays(packed))
        words, ids, by_word, starts, target_rows, targets, previous, sequence, firsts = arrays
        rows = packed.rows._replace(previous=previous, sequence=sequence, firsts=firsts)
        inputs = Segments(ids, by_word, starts)
        packed = packed._replace(
            rows=rows, words=words, inputs=inputs, target_rows=target_rows, targets=targets
        )
        return self.part._replace(packed=packed)


def _index_arrays(packed: Packed) -> tuple[Array | None, ...]:
    """All index arrays of words, targets and rows, in the order of `DevicePart.joined`."""
    _, _, *indices_of_rows = packed.rows
    return packed.words, *packed.inputs, packed.target_rows, packed.targets, *indices_of_rows


def views(joined: Array, arrays: Sequence[np.ndarray | None]) -> list[Array]:
    """Views of concatenated arrays; None for a missing array."""
    array_views = []
    start = 0
    for array in arrays:
        array_views.append(None if array is None else view(joined, start, array.shape))
        start += 0 if array is None else len(array)
    return array_views


class DeviceNetwork(Network):
    """A network on a device, which computes a batch as one part.

    The launches of a padded part are recorded in the workspace and repeated for the next ones, which
    differ only in the uploaded arrays.
    """

    def gradients(
        self,
        batch: Batch,
        null: int,
        *,
        seed: int | None = None,
        terms: LossTerms = NO_TERMS,
    ) -> tuple[Array, Parameters]:
        sent = self._sent(batch, null, seed, terms)
        part = sent.part
        network = self.within(sent.part.memory)
        workspace = self.memory
        if not (sent.padded and isinstance(workspace, DeviceWorkspace)):
            return network.part_gradients(sent.on_device())
        # A record keeps its arrays alive, so no other array can have their addresses
        addresses = self.params.flat.data.ptr, part.table.data.ptr, len(part.table)
        key = addresses, self.config, seed is None, part.terms.key
        return workspace.replay.run(key, lambda: network.part_gradients(sent.on_device()))

    def part(self, batch: Batch, null: int) -> Part:
        return self._sent(batch, null, None, NO_TERMS).on_device()

    @property
    def _layout(self) -> Layout | None:
        """The shape to pad batches to; None if steps cannot be recorded."""
        is_recorded = isinstance(self._ops, DeviceOps) and has_kernels(self.cell)
        memory = self.memory
        return memory.layout if is_recorded and isinstance(memory, DeviceWorkspace) else None

    def _sent(self, batch: Batch, null: int, seed: int | None, terms: LossTerms) -> DevicePart:
        """A checked batch on the device, with dropout masks, as in `prepare_parts`."""
        captions = batch.captions
        like = self.params.flat
        memory = self.memory
        lengths = caption_lengths(captions, null)
        (order,) = deal(lengths, shard=batch.shard)
        packed = None
        layout = self._layout
        if layout is not None:
            packed = layout.pack(captions, null, order, lengths, self.config.vocabulary)
        if padded := packed is not None:
            memory = memory.scope("padded")
        packed = packed or pack(captions, null, order, lengths)

        table, pictures = batch.table(like)
        if isinstance(table, np.ndarray):
            table = memory.send("features", table)
        elif padded and not isinstance(batch.features, FeatureRows):
            copy = memory.take(
                "features", table.shape
            )  # a record contains the address of one table
            copy[...] = table
            table = copy
        rows: list[np.ndarray] = [pictures[order]]
        counts: Sequence[int] = ()
        if seed is not None:
            (mask_rows,), counts = mask_rows_of([packed], captions, lengths)
            rows += _padded_mask_rows(packed, *mask_rows) if padded else mask_rows

        # One transfer for all index arrays
        vectors = [x for x in (*rows, *_index_arrays(packed)) if x is not None]
        joined = np.concatenate(vectors, dtype=np.int32, casting="same_kind")
        joined = memory.send("indices", joined)
        pictures, *mask_rows = views(joined, rows)
        start = sum(map(len, rows))
        scale = packed.by_target(batch.scale, like.dtype)
        masks = Masks()
        if isinstance(scale, np.ndarray):
            scale = memory.send("scale", scale)
        if seed is not None:
            assert batch.step is not None
            (masks,) = draw_masks(self.config, seed, batch.step, [mask_rows], counts, [memory])
        part = Part(packed, contiguous(table), pictures, masks, replace(terms, scale=scale), memory)
        return DevicePart(part, view(joined, start, (len(joined) - start,)), padded)


def _padded_mask_rows(
    packed: Packed, features: np.ndarray, words: np.ndarray, hidden: np.ndarray
) -> list[np.ndarray]:
    """Numbers of mask rows; -1 for words that no row reads, and for rows without a target."""
    is_read = packed.inputs.starts[1:] > packed.inputs.starts[:-1]
    has_target = packed.targets != NO_TARGET
    return [features, np.where(is_read, words, -1), np.where(has_target, hidden, -1)]
