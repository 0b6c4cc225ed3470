"""A batch on a device: padded to a layout, sent in one transfer, its step recorded and repeated.

`DeviceNetwork` is the network of a model whose parameters lie on a device.
"""

import operator
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from xpcap.backend import Array
from xpcap.device.replay import Replay
from xpcap.device.transfers import Waiting
from xpcap.memory import Workspace, view
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
from xpcap.ops import (
    NO_TARGET,
    DeviceOps,
    LossTerms,
    Segments,
    contiguous,
    has_kernels,
)

# On a device a step of a small batch takes as long as the host needs to launch it. Steps of one
# layout make the same launches, so they are recorded once. One layout, with few rows of padding, is
# enough, because all batches are drawn from the same captions: if a share s of them is longer than t
# steps, n * s of a batch are, up to some standard deviations. The same holds for distinct words.
DEVIATIONS = 3.0  # standard deviations above the mean: 98 % of random batches fit
WORD_MULTIPLE = 64


class Layout(NamedTuple):
    """Shape to which a device pads batches of n captions."""

    sizes: tuple[int, ...]  # captions alive at each step, n at the first
    words: int  # distinct input words; all of a smaller vocabulary

    @classmethod
    def of(cls, captions: np.ndarray, null: int, n: int) -> "Layout":
        """Layout for batches of n captions, drawn from these (m, T+1)."""
        lengths, (m, columns) = caption_lengths(captions, null), captions.shape
        alive = lengths > np.arange(columns - 1)[:, None]  # (T, m)
        mean = n * alive.mean(axis=1)
        bounds = mean + DEVIATIONS * np.sqrt(mean * (1 - mean / n))
        sizes = np.minimum(np.rint(bounds), n).astype(int)
        sizes[0] = n  # every caption takes a step, even one without a target
        sizes = np.minimum.accumulate(sizes)

        # A batch has a word unless all its n captions lack it
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
        """Some captions of a batch as of `batch.pack`, padded; None if they do not fit.

        V : words of the vocabulary
        """
        sizes, (n, T) = sizes_of(lengths[order]), (len(order), captions.shape[1] - 1)
        fits = n == self.sizes[0] and len(sizes) <= len(self.sizes) <= T
        if not fits or any(map(operator.gt, sizes, self.sizes)):
            return None
        rows, t = laid_out(self.sizes, n)
        caption, words = order[rows.sequence], captions.ravel()
        positions = caption * (T + 1) + t
        # A padding row reads a word of the batch, so that it adds no distinct word
        is_live = t < lengths.take(caption)
        inputs = np.where(is_live, words.take(positions), captions[order[0], 0])
        distinct, segments = _distinct_words(inputs, V, min(self.words, V))
        if len(distinct) > min(self.words, V):
            return None
        targets = words.take(positions + 1)
        targets = np.where(targets != null, targets, NO_TARGET)
        return Packed(order, (len(captions), T), rows, distinct, segments, None, targets)


def _distinct_words(words: np.ndarray, V: int, count: int) -> tuple[np.ndarray, Segments]:
    """Distinct words of rows (R,) and rows grouped by them, as of `batch.distinct_words`.

    If there are fewer than `count`, other words of the V, which no row reads, fill them up.
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
    """Memory of training steps on a device, with the record of what they launch.

    layout : shape to which batches are padded; None: none is padded, so none is recorded

    replay : record of the work of padded steps
    """

    def __init__(
        self, like: Array, layout: Layout | None = None, *, waiting: Waiting = nullcontext
    ) -> None:
        super().__init__(like, waiting=waiting)
        self.layout, self.replay = layout, Replay[Any]()


class DevicePart(NamedTuple):
    """A batch on a device but for its index arrays, which lie there joined, as int32.

    Padded to a layout, captions have more steps than words, and all rows are among `targets`, with
    NO_TARGET where there is none. `words` then has ids besides that no row reads. Losses and
    gradients are those without padding, up to rounding.
    """

    part: Part  # its `packed` on the host
    joined: Array  # the index arrays of `packed`
    padded: bool

    def on_device(self) -> Part:
        """The part with index arrays on the device.

        Its views cost the host a microsecond each, and a repeated record needs none.
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
    """All index arrays of words, targets and rows, as a `DevicePart` joins them."""
    _, _, *indices_of_rows = packed.rows
    return packed.words, *packed.inputs, packed.target_rows, packed.targets, *indices_of_rows


def views(joined: Array, arrays: Sequence[np.ndarray | None]) -> list[Array]:
    """Views of what begins with these arrays, one after the other; None where there is none."""
    array_views, start = [], 0
    for array in arrays:
        array_views.append(None if array is None else view(joined, start, array.shape))
        start += 0 if array is None else len(array)
    return array_views


class DeviceNetwork(Network):
    """A network on a device, whose cores share a batch: it has one part.

    What a padded part launches is recorded in the workspace, and repeated for the next ones: all
    that differs lies in what was uploaded.
    """

    def gradients(
        self,
        caller: str,
        batch: Batch,
        null: int,
        *,
        seed: int | None = None,
        terms: LossTerms = NO_TERMS,
    ) -> tuple[Array, Parameters]:
        sent = self._sent(caller, batch, null, seed, terms)
        part, network, workspace = sent.part, self.within(sent.part.memory), self.memory
        if not (sent.padded and isinstance(workspace, DeviceWorkspace)):
            return network.part_gradients(sent.on_device())
        # A record keeps its arrays alive, so no other ones have their addresses
        addresses = self.params.flat.data.ptr, part.table.data.ptr, len(part.table)
        key = addresses, self.config, seed is None, part.terms.key
        return workspace.replay.run(key, lambda: network.part_gradients(sent.on_device()))

    def part(self, caller: str, batch: Batch, null: int) -> Part:
        return self._sent(caller, batch, null, None, NO_TERMS).on_device()

    @property
    def _layout(self) -> Layout | None:
        """Shape to pad batches to; None where steps cannot be recorded."""
        is_recorded = isinstance(self._ops, DeviceOps) and has_kernels(self.cell)
        memory = self.memory
        return memory.layout if is_recorded and isinstance(memory, DeviceWorkspace) else None

    def _sent(
        self, caller: str, batch: Batch, null: int, seed: int | None, terms: LossTerms
    ) -> DevicePart:
        """A checked batch on the device, with dropout masks drawn there; as of `prepare_parts`."""
        captions, like, memory = batch.captions, self.params.flat, self.memory
        lengths = caption_lengths(captions, null)
        (order,) = deal(lengths, shard=batch.shard)
        packed, layout = None, self._layout
        if layout is not None:
            packed = layout.pack(captions, null, order, lengths, self.config.vocabulary)
        if padded := packed is not None:
            memory = memory.scope("padded")
        packed = packed or pack(captions, null, order, lengths)

        table, pictures = batch.table(caller, like)
        if isinstance(table, np.ndarray):
            table = memory.send("features", table)
        elif padded and not isinstance(batch.features, FeatureRows):
            copy = memory.take("features", table.shape)  # a record has the address of one table
            copy[...] = table
            table = copy
        more: list[np.ndarray] = [pictures[order]]
        counts: Sequence[int] = ()
        if seed is not None:
            (mask_rows,), counts = mask_rows_of([packed], captions, lengths)
            more += _padded_mask_rows(packed, *mask_rows) if padded else mask_rows

        # One transfer for all index arrays
        vectors = [x for x in (*more, *_index_arrays(packed)) if x is not None]
        joined = np.concatenate(vectors, dtype=np.int32, casting="same_kind")
        joined = memory.send("indices", joined)
        (pictures, *mask_rows), start = views(joined, more), sum(map(len, more))
        scale, masks = packed.by_target(batch.scale, like.dtype), Masks()
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
    """Numbers of rows of masks, -1 for a word that no row reads, and for a row without a target."""
    is_read = packed.inputs.starts[1:] > packed.inputs.starts[:-1]
    has_target = packed.targets != NO_TARGET
    return [features, np.where(is_read, words, -1), np.where(has_target, hidden, -1)]
