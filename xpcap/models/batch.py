"""Prepares a batch for the network, on the host: checks, packing without padding, dropout masks.

Start with `Batch`, `Part` and `prepare_parts`; device_batch.py sends a batch to a device.
"""

import functools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import DTypeLike

from xpcap.backend import Array, asarray, get_array_module, is_device_array, to_numpy
from xpcap.backend.memory import Workspace
from xpcap.backend.shape_specs import Spec, all_below, as_array, check_range, spec
from xpcap.errors import InvalidTypeError, InvalidValueError
from xpcap.models.config import ModelConfig
from xpcap.ops import LossTerms, PackedSequences, Segments, contiguous, get_ops
from xpcap.options import Real

NO_TERMS = LossTerms()
TOTAL = Real(above=0, optional=True)


class FeatureRows(NamedTuple):
    """Features of a batch as table[rows], with a table on the model's device."""

    table: Array  # (m, D), or grids (m, P, D)
    rows: np.ndarray  # (N,) int, on the host
    trusted: bool = False  # a loader sets it: the rows exist and are finite

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of table[rows]: (N, D) or (N, P, D)."""
        return len(self.rows), *self.table.shape[1:]

    def gather(self) -> Array:
        """table[rows], in the table's library."""
        return self.table[asarray(self.rows, like=self.table)]

    def checked_table(self, like: Array) -> Array:
        """The table in the dtype of `like`.

        TypeError : the library or dtype differs, or rows are not integers. ValueError : a row does
        not exist, or one on the host is not finite.
        """
        if self.trusted:
            return self.table
        dtype = self.table.dtype
        if get_array_module(self.table) is not get_array_module(like) or dtype != like.dtype:
            raise InvalidTypeError(
                f"the table of features is a {type(self.table).__module__} array of {dtype},"
                f" expected the model's library and {like.dtype}; was it made for another model?"
            )
        Spec.of({"feature rows": (len(self.rows),)}, "i").check(self.rows)
        check_range("feature rows", self.rows, len(self.table), "from another split?")
        if not is_device_array(self.table):
            check_finite(self.gather())
        return self.table


class Batch(NamedTuple):
    """A minibatch of N captions.

    Its loss is sum(weights * cross entropy of each caption, summed over words) / total. Ranks that
    share a batch get all of its captions, which number the rows of dropout masks; each rank computes
    those in `shard`.
    """

    features: Array | FeatureRows  # (N, D), or grids (N, P, D), host or device; n with `shard`
    captions: np.ndarray  # (N, T+1) int
    pictures: np.ndarray | None = None  # (N,) int, picture of each caption within its split
    weights: np.ndarray | None = None  # (N,) float, weight of each caption; None: 1 each
    total: float | None = None  # divisor of the loss; None: N
    shard: np.ndarray | None = None  # (n,) int, captions that this process computes; None: all
    step: int | None = None  # training step of the dropout masks, from 0; None: one after the last

    @property
    def options(self) -> dict[str, Any]:
        """Keywords of `CaptioningRNN.loss`; without `shard`, which not every model has, if it is None."""
        options: dict[str, Any] = {"weights": self.weights, "total": self.total, "step": self.step}
        return options if self.shard is None else {**options, "shard": self.shard}

    @property
    def computed(self) -> int:
        """Number of captions that this rank computes."""
        return len(self.captions if self.shard is None else self.shard)

    @property
    def scale(self) -> np.ndarray | float:
        """Factor of each caption's loss (N,), or one number for all."""
        total = len(self.captions) if self.total is None else self.total
        return 1 / total if self.weights is None else np.asarray(self.weights / total)

    def take(self, captions: slice) -> "Batch":
        """The features and captions of a slice of the batch."""
        return Batch(_rows_of(self.features, captions), self.captions[captions])

    def shared(self, shard: np.ndarray) -> "Batch":
        """The batch with only the features of a rank's `shard` (n,).

        ValueError : the numbers of features and captions differ.
        """
        features = self.features
        N = len(self.captions)
        if not isinstance(features, FeatureRows):
            features = as_array("features", features)
        if np.shape(features)[:1] != (N,):
            raise InvalidValueError(
                f"features have shape {np.shape(features)}, expected a row for each of {N} captions"
            )
        return self._replace(features=_rows_of(features, shard), shard=shard)

    def table(self, like: Array) -> tuple[Array, np.ndarray]:
        """Features as a table in the dtype of `like`, and the row of each caption (N,) in it.

        The table lies where the features lie. Errors are those of `checked_table` and
        `cast_features`.
        """
        features = self.features
        if isinstance(features, FeatureRows):
            table = features.checked_table(like)
            rows = features.rows
        else:
            table = cast_features(features, like)
            rows = np.arange(len(features))
        if self.shard is None:
            return table, rows
        batch_rows = np.zeros(len(self.captions), rows.dtype)
        batch_rows[self.shard] = rows
        return table, batch_rows

    def checked(self, config: ModelConfig) -> "Batch":
        """The batch with captions on the host, features as an array, and a float as `total`.

        TypeError, ValueError : the batch does not fit a model of this config.
        """
        captions = to_numpy(as_array("captions", self.captions))
        weights = self.weights
        if weights is not None:
            weights = np.asarray(as_array("weights", weights))
        arrays = spec("captions:N>0,T+1>1=i weights?:N=n! shard?:n=i")
        sizes = arrays.check(captions, weights, self.shard)
        n = sizes["N" if self.shard is None else "n"]
        features = self.features
        shape = config.feature_shape
        if not isinstance(features, FeatureRows):
            features = as_array("features", features)
            check_features(features, shape, N=n)
        elif np.shape(features) != (n, *shape):
            raise InvalidValueError(
                f"features have shape {np.shape(features)}, expected {(n, *shape)}"
            )
        shard = self.shard
        if shard is not None and (not all_below(shard, len(captions)) or len(np.unique(shard)) < n):
            raise InvalidValueError(
                f"shard holds {np.min(shard)}..{np.max(shard)}, expected distinct numbers of"
                f" {len(captions)} captions"
            )
        check_range("captions", captions, config.vocabulary, "from another vocabulary?")
        # A Python float: a NumPy scalar would change the dtype of a float32 model's loss
        total = TOTAL.check("total", self.total)
        return self._replace(features=features, captions=captions, weights=weights, total=total)


def _rows_of(features: Array | FeatureRows, rows: slice | np.ndarray) -> Any:
    """The features of some rows of a batch."""
    if isinstance(features, FeatureRows):
        return features._replace(rows=features.rows[rows])
    return features[rows if isinstance(rows, slice) else asarray(rows, like=features)]


class Packed(NamedTuple):
    """Captions as packed rows, longest caption first; made on the host.

    It has N captions, R rows (pairs of a caption and a step), K distinct input words, and L rows with a
    target.
    """

    order: np.ndarray  # (N,) number of each sorted caption in the batch
    shape: tuple[int, int]  # numbers of captions and steps of the batch
    rows: PackedSequences
    words: Array  # (K,) ids of the distinct input words
    inputs: Segments  # rows grouped by input word; ids index `words`
    target_rows: Array | None  # (L,) rows whose target is not NULL; None if all are
    targets: Array  # (L,) target ids of those rows

    def by_target(self, scale: np.ndarray | float, dtype: DTypeLike) -> np.ndarray | float:
        """The captions' factors for the rows with a target (L,); a single number stays one."""
        if isinstance(scale, float):
            return scale
        by_row = scale[self.order][self.rows.sequence]
        return (by_row if self.target_rows is None else by_row[self.target_rows]).astype(dtype)

    def unpack(self, values: np.ndarray, rows: Array | None = None) -> np.ndarray:
        """Values of packed rows by caption and step, (N, T, ...); 0 for pairs without a row.

        values : array (n, ...)
        rows : array (n,), int, the values' rows, such as `target_rows`. None: all rows in order
        """
        positions = slice(None) if rows is None else to_numpy(rows)
        caption = self.order[to_numpy(self.rows.sequence)]
        steps = np.arange(len(self.rows.batch_sizes)).repeat(self.rows.batch_sizes)
        unpacked = np.zeros((*self.shape, *values.shape[1:]), values.dtype)
        unpacked[caption[positions], steps[positions]] = values
        return unpacked


class Masks(NamedTuple):
    """Dropout masks of a part, which are true for the units to keep; None without dropout."""

    features: Array | None = None  # (N, D); a grid has the same units in all regions
    words: Array | None = None  # (K, W), one row for each distinct input word
    hidden: Array | None = None  # (L, H), one row for each row with a target


class Part(NamedTuple):
    """A batch or a part of it, with arrays in the model's library and on its device."""

    packed: Packed
    table: Array  # (m, D) or (m, P, D), features
    pictures: Array  # (N,) each sorted caption's row in the table
    masks: Masks
    terms: LossTerms  # with a factor for each row with a target (L,), or one for all
    memory: Workspace  # memory to compute the part in


def prepare_parts(
    batch: Batch,
    config: ModelConfig,
    like: Array,
    null: int,
    memories: Sequence[Workspace],
    *,
    seed: int | None = None,
    terms: LossTerms = NO_TERMS,
) -> list[Part]:
    """The parts of a checked batch on the host: packed, with dropout masks.

    batch : as `Batch.checked` returns it
    like : the model's flat buffer
    null : id of the padding word
    memories : memory for each part
    seed : seed of the dropout masks, with `batch.step`; None: no dropout
    terms : terms of the loss; the batch sets their scale
    """
    captions = batch.captions
    lengths = caption_lengths(batch.captions, null)
    orders = deal(lengths, len(memories), batch.shard)
    packs = [pack(captions, null, order, lengths) for order in orders]
    table, pictures = batch.table(like)
    masks = [Masks()] * len(packs)
    if seed is not None:
        assert batch.step is not None
        mask_rows, counts = mask_rows_of(packs, captions, lengths)
        masks = draw_masks(config, seed, batch.step, mask_rows, counts, memories)
    return [
        Part(
            packed,
            table,
            pictures[packed.order],
            part_masks,
            replace(terms, scale=packed.by_target(batch.scale, like.dtype)),
            memory,
        )
        for packed, part_masks, memory in zip(packs, masks, memories, strict=True)
    ]


def prepare_features(
    features: Array, shape: tuple[int, ...], like: Array, *, read: bool = True
) -> Array:
    """Features (N, *shape), checked, on the device of `like` and in its dtype.

    ValueError : features are not finite; on a device this is checked only if `read`.
    """
    features = as_array("features", features)
    check_features(features, shape)
    if read and is_device_array(features):
        check_finite(features)
    return contiguous(asarray(cast_features(features, like), like=like))


def cast_features(features: Array, like: Array) -> Array:
    """Features in the dtype of `like`; host features stay on the host.

    ValueError : host features are not finite in that dtype. Features on a device are not checked.
    """
    if is_device_array(features):
        return asarray(features, dtype=like.dtype, like=like)
    with np.errstate(over="ignore"):
        cast = np.asarray(features, like.dtype)
    check_finite(cast, features)
    return cast


# ---- Packing


def deal(lengths: np.ndarray, parts: int = 1, shard: np.ndarray | None = None) -> list[np.ndarray]:
    """The numbers (n,) of each part's captions, longest first.

    Captions are dealt round-robin by length, so that parts cost the same.

    lengths : array (N,), int, as from `caption_lengths`
    shard : array (m,), int, numbers of the captions to deal. None: all
    """
    shard = np.arange(len(lengths)) if shard is None else shard
    order = shard[(-lengths[shard]).argsort(kind="stable")]
    return [order[part::parts] for part in range(parts)]


def pack(captions: np.ndarray, null: int, order: np.ndarray, lengths: np.ndarray) -> Packed:
    """Pack some captions of a batch.

    captions : array (N, T+1), int; inputs are all columns but the last, targets all but the first
    null : id of the padding word
    order : array (n,), int, numbers of the captions to pack, as from `deal`
    lengths : array (N,), int, as from `caption_lengths`

    A caption ends with its last non-NULL target; there are no rows for later steps. A step with a NULL
    target inside a caption has a row, since later steps depend on it, but does not enter the loss.
    """
    rows, t = laid_out(sizes_of(lengths[order]), len(order))
    words = captions.ravel()
    T = captions.shape[1] - 1
    positions = order[rows.sequence] * (T + 1) + t
    targets = words.take(positions + 1)
    target_rows = None
    has_target = targets != null
    if not has_target.all():
        (target_rows,) = has_target.nonzero()
        targets = targets[target_rows]
    distinct, inputs = distinct_words(words.take(positions))
    return Packed(order, (len(captions), T), rows, distinct, inputs, target_rows, targets)


def caption_lengths(captions: np.ndarray, null: int) -> np.ndarray:
    """Number of steps of each caption, up to its last non-NULL target."""
    live = captions[:, 1:] != null
    return np.where(live.any(axis=1), live.shape[1] - live[:, ::-1].argmax(axis=1), 0)


def sizes_of(lengths: np.ndarray) -> tuple[int, ...]:
    """Number of captions at each step, for captions of these lengths."""
    ended = np.bincount(lengths, minlength=1).cumsum()[:-1]  # captions that ended before each step
    return tuple((len(lengths) - ended).tolist())


@functools.lru_cache(maxsize=64)
def laid_out(sizes: tuple[int, ...], n: int) -> tuple[PackedSequences, np.ndarray]:
    """Rows of n captions, sizes[t] of them at step t, and the step of each row; read-only."""
    rows = PackedSequences.of(sizes, n)
    t = np.arange(len(sizes)).repeat(sizes)
    for indices in (rows.previous, rows.sequence, rows.firsts, t):
        if indices is not None:
            indices.flags.writeable = False
    return rows, t


def distinct_words(words: np.ndarray) -> tuple[np.ndarray, Segments]:
    """Sorted distinct words (K,) of rows (R,), and the rows grouped by them, with a single sort."""
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
    starts[:-1] = firsts
    starts[-1] = R
    ids = np.empty(R, np.intp)
    ids[order] = is_first.cumsum() - 1
    return in_order.take(firsts), Segments(ids, order, starts)


# ---- Dropout masks


def mask_rows_of(
    parts: Sequence[Packed], captions: np.ndarray, lengths: np.ndarray
) -> tuple[list[list[np.ndarray]], tuple[int, ...]]:
    """For each part the numbers (n,) of its mask rows for features, words and hidden states.

    They depend on neither packing nor parts: captions (N, T+1) are numbered in order, distinct words
    of the batch by id, and steps caption by caption. Also returns the number of rows of each mask in
    the whole batch.
    """
    is_live = np.arange(captions.shape[1] - 1) < lengths[:, None]
    (words,) = np.bincount(captions[:, :-1][is_live]).nonzero()
    starts = lengths.cumsum() - lengths
    rows_of_parts = []
    for part in parts:
        _, t = laid_out(tuple(part.rows.batch_sizes), part.rows.N)
        hidden_rows = starts.take(part.order[part.rows.sequence]) + t
        if part.target_rows is not None:
            hidden_rows = hidden_rows[part.target_rows]
        rows_of_parts.append([part.order, words.searchsorted(part.words), hidden_rows])
    return rows_of_parts, (len(captions), len(words), int(lengths.sum()))


def draw_masks(
    config: ModelConfig,
    seed: int,
    step: int,
    mask_rows: Sequence[Sequence[Array]],
    counts: Sequence[int],
    memories: Sequence[Workspace],
) -> list[Masks]:
    """Dropout masks of each part, in its memory; `mask_rows` are those of mask_rows_of, on the device.

    The regions of a grid share a caption's mask. W_proj reads all regions alike, so a unit that is
    kept in one region would reveal the dropped one of another (Gal & Ghahramani 2016 share masks over
    time steps for the same reason). A grid then needs no more draws than a single feature.
    """
    widths = config.feature_shape[-1], config.wordvec, config.hidden
    masks = [
        Masks(
            *(
                memory.take(f"mask of {name}", (len(rows), width), bool)
                for name, rows, width in zip(Masks._fields, part_rows, widths, strict=True)
            )
        )
        for part_rows, memory in zip(mask_rows, memories, strict=True)
    ]
    ops = get_ops(masks[0].features)
    ops.dropout_masks(masks, mask_rows, counts, seed, step, 1 - config.dropout)
    return masks


# ---- Checks


def check_features(features: Array, shape: tuple[int, ...], N: int | None = None) -> None:
    """TypeError : features are not real numbers. ValueError : the shape is not (N, *shape)."""
    fits = features.shape[1:] == shape
    cause = "one for each caption" if fits else "are they from another encoder?"
    axes = ",".join(map(str, ("N", *shape)))
    spec(f"features:{axes}=n").check(features, cause=cause, sizes={} if N is None else {"N": N})


def check_finite(features: Array, original: Array | None = None) -> None:
    """ValueError : features are not finite; it names the first such row. Reads one flag of a device."""
    if get_array_module(features).isfinite(features).all():
        return
    values = to_numpy(features)
    row, *at = np.argwhere(~np.isfinite(values))[0].tolist()
    value = values[(row, *at)] if original is None else original[(row, *at)]
    axes = zip(("region", "column")[-len(at) :], at, strict=False)
    position = ", ".join(f"{name} {number}" for name, number in axes)
    raise InvalidValueError(
        f"features of row {row} (of {len(values)}) hold {value} at {position}, expected finite"
        f" {values.dtype} numbers; extract them again"
    )
