"""A batch on its way into the network. Start with `Batch`, `Layout`, `Part` and `prepare_batch`.

A batch is checked, packed without padding, given dropout masks, and sent to the device in one
transfer.
"""

import functools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import DTypeLike

from xpcap.backend import Array, asarray, get_array_module, is_device_array, to_numpy
from xpcap.errors import InvalidTypeError, InvalidValueError
from xpcap.memory import Buffer, view
from xpcap.models.config import ModelConfig
from xpcap.ops import NO_TARGET, LossTerms, PackedSequences, Segments, contiguous, get_ops
from xpcap.options import Real
from xpcap.spec import Spec, all_below, as_array, check_range, spec

NO_TERMS = LossTerms()
TOTAL = Real(above=0, optional=True)


class FeatureRows(NamedTuple):
    """Features of a batch as table[rows], for a table that is already on the model's device."""

    table: Array  # (m, D), or grids (m, P, D)
    rows: np.ndarray  # (N,) int, on the host
    # Set by a loader: the rows are there and finite, and a table on the host may be sent
    trusted: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of table[rows]: (N, D) or (N, P, D)."""
        return len(self.rows), *self.table.shape[1:]

    def gather(self) -> Array:
        """table[rows], of the table's library."""
        return self.table[asarray(self.rows, like=self.table)]

    def on_device(self, caller: str, like: Array, buffer: Buffer) -> Array:
        """The table on the device of `like`, in its dtype.

        TypeError : another library or dtype, or rows that are no integers. ValueError : no such
        row; one of the host is not finite.
        """
        if self.trusted:
            return to_device(caller, self.table, like, buffer, finite=True)
        xp, dtype = get_array_module(self.table), self.table.dtype
        if xp is not get_array_module(like) or dtype != like.dtype:
            got = f"is a {type(self.table).__module__} array of {dtype}"
            expected = f"the model's library and {like.dtype}"
            cause = "was it made for another model?"
            raise InvalidTypeError(caller, "the table of features", got, expected, cause)
        Spec.of({"feature rows": (len(self.rows),)}, "i").check(caller, self.rows)
        check_range(caller, "feature rows", self.rows, len(self.table), "from another split?")
        if not is_device_array(self.table):
            check_finite(caller, self.gather())
        return contiguous(self.table)


# On a device a step of a small batch takes as long as the host needs to launch it. Steps of one
# layout make the same launches, so they are recorded once. One layout, with few rows of padding, is
# enough, because captions are drawn from one set: of a batch of n some n * s are longer than t
# steps, s the share of longer captions, give or take some deviations; likewise its distinct words.
DEVIATIONS = 3.0  # above the mean: of batches that are drawn at random, 98 % fit
WORD_MULTIPLE = 64


class Layout(NamedTuple):
    """Shape to which a device pads batches of n captions."""

    sizes: tuple[int, ...]  # captions alive at each step, n at the first
    words: int  # distinct input words; all of a smaller vocabulary

    @classmethod
    def of(cls, captions: np.ndarray, null: int, n: int) -> "Layout":
        """Layout for batches of n of these captions (m, T+1). It depends on nothing else."""
        lengths, (m, columns) = caption_lengths(captions, null), captions.shape
        alive = lengths > np.arange(columns - 1)[:, None]  # (T, m)
        mean = n * alive.mean(axis=1)
        bounds = mean + DEVIATIONS * np.sqrt(mean * (1 - mean / n))
        sizes = np.minimum(np.rint(bounds), n).astype(int)
        sizes[0] = n  # every caption has a step, if need be without a target
        sizes = np.minimum.accumulate(sizes)

        # A word comes unless all n captions lack it
        step, caption = alive.nonzero()
        pairs = np.unique(captions[caption, step].astype(np.int64) * m + caption)
        share = np.bincount(pairs // m) / m
        chances = 1 - (1 - share) ** n
        word_bound = chances.sum() + DEVIATIONS * np.sqrt((chances * (1 - chances)).sum())
        words = -(-int(word_bound) // WORD_MULTIPLE) * WORD_MULTIPLE
        return cls(tuple(sizes[sizes > 0].tolist()), words)

    def fits(self, sizes: Sequence[int], n: int, T: int) -> bool:
        """True if n captions of at most T steps, sizes[t] alive at step t, can be padded to it."""
        if n != self.sizes[0] or not len(sizes) <= len(self.sizes) <= T:
            return False
        return all(alive <= limit for alive, limit in zip(sizes, self.sizes, strict=False))


class Batch(NamedTuple):
    """A minibatch of N captions.

    Its loss is sum(weights * cross entropy of each caption, summed over words) / total. Where
    processes share a batch, each has all captions, which number the rows of dropout masks, and
    computes those in `shard`.
    """

    features: Array | FeatureRows  # (N, D), or grids (N, P, D), host or device; n with `shard`
    captions: np.ndarray  # (N, T+1) int
    # (N,) int, picture number of each caption within its split, whose features a loader knows to be
    # finite; None: the features are a caller's own
    pictures: np.ndarray | None = None
    weights: np.ndarray | None = None  # (N,) float, weight of each caption; None: 1 each
    total: float | None = None  # divisor of the loss; None: N
    shard: np.ndarray | None = None  # (n,) int, captions that this process computes; None: all
    step: int | None = None  # training step of the dropout masks, from 0; None: one after the last

    @property
    def options(self) -> dict[str, Any]:
        """Keywords of `CaptioningRNN.loss`; those that not every model has, only if they are used."""
        options: dict[str, Any] = {"weights": self.weights, "total": self.total, "step": self.step}
        return options if self.shard is None else {**options, "shard": self.shard}

    @property
    def computed(self) -> int:
        """Captions that this process computes."""
        return len(self.captions if self.shard is None else self.shard)

    @property
    def scale(self) -> np.ndarray | float:
        """Factor of each caption's loss (N,), or one number for all."""
        total = len(self.captions) if self.total is None else self.total
        return 1 / total if self.weights is None else np.asarray(self.weights / total)

    def take(self, captions: slice) -> "Batch":
        """Features and captions of some captions alone."""
        return Batch(_rows_of(self.features, captions), self.captions[captions])

    def shared(self, caller: str, shard: np.ndarray) -> "Batch":
        """The batch with the features of a process's `shard` (n,) alone.

        ValueError : there are not as many features as captions; `caller` begins the message.
        """
        features, N = self.features, len(self.captions)
        if not isinstance(features, FeatureRows):
            features = as_array(caller, "features", features)
        if np.shape(features)[:1] != (N,):
            got = f"have shape {np.shape(features)}"
            raise InvalidValueError(caller, "features", got, f"a row for each of {N} captions")
        return self._replace(features=_rows_of(features, shard), shard=shard)

    def checked(self, caller: str, config: ModelConfig) -> "Batch":
        """The batch with captions on the host, features as an array, and a float as `total`.

        TypeError, ValueError : it is no batch for a model of this config; `caller` begins messages.
        """
        captions, weights = to_numpy(as_array(caller, "captions", self.captions)), self.weights
        if weights is not None:
            weights = np.asarray(as_array(caller, "weights", weights))
        arrays = spec("captions:N>0,T+1>1=i weights?:N=n! shard?:n=i")
        sizes = arrays.check(caller, captions, weights, self.shard)
        n = sizes["N" if self.shard is None else "n"]
        features, shape = self.features, config.feature_shape
        if not isinstance(features, FeatureRows):
            features = as_array(caller, "features", features)
            check_features(caller, features, shape, N=n)
        elif np.shape(features) != (n, *shape):
            raise InvalidValueError(
                caller, "features", f"have shape {np.shape(features)}", expected=f"{(n, *shape)}"
            )
        shard = self.shard
        if shard is not None and (not all_below(shard, len(captions)) or len(np.unique(shard)) < n):
            got = f"holds {np.min(shard)}..{np.max(shard)}"
            expected = f"distinct numbers of {len(captions)} captions"
            raise InvalidValueError(caller, "shard", got, expected)
        check_range(caller, "captions", captions, config.vocabulary, "from another vocabulary?")
        # A Python float: a NumPy scalar would change the dtype of a float32 model's loss
        total = TOTAL.check(caller, "total", self.total)
        return self._replace(features=features, captions=captions, weights=weights, total=total)


def _rows_of(features: Array | FeatureRows, rows: slice | np.ndarray) -> Any:
    """Features of some rows of a batch."""
    if isinstance(features, FeatureRows):
        return features._replace(rows=features.rows[rows])
    return features[rows if isinstance(rows, slice) else asarray(rows, like=features)]


class Part(NamedTuple):
    """A minibatch, or one part of it, as packed rows, longest caption first.

    N captions, R rows or live (caption, step) pairs, K distinct input words, L rows with a target.
    `pack` makes it, on the host; `prepare_batch` adds what comes from `table` on, on the model's
    device, where index arrays are int32.

    Padded to a layout, captions have more steps than words, and all rows have a place in `targets`:
    NO_TARGET where there is none. `words` then has ids besides that no row reads. Losses and
    gradients are those without padding, up to rounding.
    """

    # Always on the host
    order: np.ndarray  # (N,) number of each sorted caption in the batch
    shape: tuple[int, int]  # of the batch's targets: captions and steps
    padded: bool
    # Brought to the device by `on_device`
    rows: PackedSequences
    words: Array  # (K,) ids of the distinct input words
    inputs: Segments  # rows grouped by input word; ids index `words`
    target_rows: Array | None  # (L,) rows whose target is not NULL; None if all are
    targets: Array  # (L,) their target ids

    table: Array = None  # (m, D) or (m, P, D), features
    pictures: Array = None  # (N,) row of the table of each sorted caption
    # Dropout masks, true for the units to keep; None without dropout
    feature_mask: Array | None = None  # (N, D); of a grid the same units in all regions
    word_mask: Array | None = None  # (K, W), one row for each distinct input word
    hidden_mask: Array | None = None  # (L, H), one row for each row with a target
    terms: LossTerms = NO_TERMS  # with the factor of each row with a target (L,); or one for all
    buffer: Buffer | None = None  # memory to compute it in
    indices: Array | None = None  # index arrays joined on the device; None: they are in place

    @property
    def index_arrays(self) -> tuple[Array | None, ...]:
        """All index arrays of rows, words and targets, as `indices` joins them."""
        _, _, *of_rows = self.rows
        return self.words, *self.inputs, self.target_rows, self.targets, *of_rows

    def on_device(self) -> "Part":
        """The part with index arrays on the device.

        Its views of `indices` cost the host a microsecond each, and a repeated record needs none.
        """
        if self.indices is None:
            return self
        arrays = views(self.indices, self.index_arrays)
        words, ids, by_word, starts, target_rows, targets, previous, sequence, firsts = arrays
        return self._replace(
            rows=self.rows._replace(previous=previous, sequence=sequence, firsts=firsts),
            words=words,
            inputs=Segments(ids, by_word, starts),
            target_rows=target_rows,
            targets=targets,
            indices=None,
        )

    def unpack(self, values: np.ndarray, rows: Array | None = None) -> np.ndarray:
        """Values of packed rows by caption and step, (N, T, ...); 0 where there is no row.

        values : array (n, ...), on the host
        rows : array (n,), int, their rows, such as `target_rows`. None: all rows in order
        """
        positions = slice(None) if rows is None else to_numpy(rows)
        caption = self.order[to_numpy(self.rows.sequence)]
        steps = np.arange(len(self.rows.batch_sizes)).repeat(self.rows.batch_sizes)
        unpacked = np.zeros((*self.shape, *values.shape[1:]), values.dtype)
        unpacked[caption[positions], steps[positions]] = values
        return unpacked


# ---- From a batch to parts on the device


def prepare_batch(
    caller: str,
    batch: Batch,
    config: ModelConfig,
    like: Array,
    null: int,
    buffers: Sequence[Buffer],
    *,
    layout: Layout | None = None,
    seed: int | None = None,
    terms: LossTerms = NO_TERMS,
) -> list[Part]:
    """Parts of a checked batch on the device: packed, with dropout masks drawn there.

    caller : name of the method that was called, for messages
    batch : as `Batch.checked` returns it
    like : the model's flat buffer, with the library, device and dtype of the parts
    null : id of the padding word
    buffers : memory for each part
    layout : pads a batch of one part that fits it, in memory of its own
    seed : of the dropout masks of `batch.step`; None: no dropout
    terms : of the loss; their scale comes from the batch
    """
    features, captions, shard = batch.features, batch.captions, batch.shard

    # On the host: the captions of each part, their order, and the numbers of its mask rows
    lengths, V = caption_lengths(captions, null), config.vocabulary
    orders = _dealt(lengths, len(buffers), shard)
    packed = [pack(captions, null, order, layout, V, lengths=lengths) for order in orders]
    padded = packed[0].padded
    if padded:
        buffers = [buffers[0].scope("padded")]
    mask_rows: Sequence[Sequence[np.ndarray]] = [()] * len(packed)
    counts: Sequence[int] = ()
    if seed is not None:
        mask_rows, counts = mask_rows_of(packed, captions, lengths)

    # Features: a table on the device, and the row of each caption in it
    if isinstance(features, FeatureRows):
        table, pictures = features.on_device(caller, like, buffers[0]), features.rows
    else:
        table, pictures = to_device(caller, features, like, buffers[0]), np.arange(len(features))
        if padded and is_device_array(features):
            copy = buffers[0]("features", table.shape)  # a record has the address of one table
            copy[...] = table
            table = copy
    if shard is not None:  # features are those of its captions alone
        all_pictures = np.zeros(len(captions), pictures.dtype)
        all_pictures[shard] = pictures
        pictures = all_pictures

    # To the device: index arrays, masks, and the factors of the rows with a target
    sent = [
        send(part, like, [pictures[part.order], *rows], buffer)
        for part, rows, buffer in zip(packed, mask_rows, buffers, strict=True)
    ]
    masks: Sequence[Sequence[Array]] = [(None, None, None)] * len(packed)
    if seed is not None:
        assert batch.step is not None
        sent_rows = [rows for _, (_, *rows) in sent]
        masks = masks_of(config, seed, batch.step, sent_rows, counts, buffers)
    parts = [
        part._replace(
            table=table,
            pictures=table_rows,
            feature_mask=feature_mask,
            word_mask=word_mask,
            hidden_mask=hidden_mask,
            buffer=buffer,
        )
        for (part, (table_rows, *_)), (feature_mask, word_mask, hidden_mask), buffer in zip(
            sent, masks, buffers, strict=True
        )
    ]

    scales: Sequence[Array | float] = [scale := batch.scale] * len(parts)
    if not isinstance(scale, float):
        scales = [
            _by_target(scale, *given, like.dtype) for given in zip(packed, buffers, strict=True)
        ]
    return [
        part._replace(terms=replace(terms, scale=scale))
        for part, scale in zip(parts, scales, strict=True)
    ]


def _by_target(scale: np.ndarray, part: Part, buffer: Buffer, dtype: DTypeLike) -> Array:
    """Factors of captions (N,), for the rows with a target (L,), in `buffer`."""
    by_row = scale[part.order][part.rows.sequence]
    by_target = by_row if part.target_rows is None else by_row[part.target_rows]
    return buffer.upload("scale", by_target.astype(dtype))


def prepare_features(
    caller: str, features: Array, shape: tuple[int, ...], like: Array, *, read: bool = True
) -> Array:
    """Features (N, *shape), checked, on the device of `like` and in its dtype.

    ValueError : features that are not finite; without `read`, those of a device are not checked.
    """
    features = as_array(caller, "features", features)
    check_features(caller, features, shape)
    if read and is_device_array(features):
        check_finite(caller, features)
    return to_device(caller, features, like)


def to_device(
    caller: str,
    features: Array,
    like: Array,
    buffer: Buffer | None = None,
    *,
    finite: bool = False,
) -> Array:
    """Features on the device of `like`, in its dtype; those of the host in memory from `buffer`.

    ValueError : features of the host are not finite in that dtype, unless they are known to be
    `finite`. Nothing is read from a device.
    """
    if is_device_array(features):
        return contiguous(asarray(features, dtype=like.dtype, like=like))
    with np.errstate(over="ignore"):
        cast = np.asarray(features, like.dtype)
    if not finite:
        check_finite(caller, cast, features)
    return asarray(cast, like=like) if buffer is None else buffer.upload("features", cast)


# ---- Packing


def deal(
    captions: np.ndarray, null: int, parts: int = 1, shard: np.ndarray | None = None
) -> list[np.ndarray]:
    """Numbers of captions (n,) for each of so many parts, the longest first.

    They are dealt by length, so that parts cost the same.

    captions : array (N, T+1), int
    shard : array (m,), int, numbers of the captions to deal. None: all
    """
    return _dealt(caption_lengths(captions, null), parts, shard)


def _dealt(lengths: np.ndarray, parts: int, shard: np.ndarray | None) -> list[np.ndarray]:
    shard = np.arange(len(lengths)) if shard is None else shard
    order = shard[(-lengths[shard]).argsort(kind="stable")]
    return [order[part::parts] for part in range(parts)]


def pack(
    captions: np.ndarray,
    null: int,
    order: np.ndarray | None = None,
    layout: Layout | None = None,
    V: int = 0,
    *,
    lengths: np.ndarray | None = None,
) -> Part:
    """Pack a batch of captions, or one part of it, on the host.

    captions : array (N, T+1), int; inputs are all columns but the last, targets all but the first
    null : id of the padding word
    order : array (n,), int, numbers of the captions to pack, as from `deal`. None: all
    layout, V : pad to it, if they fit, for a vocabulary of V words
    lengths : array (N,), int, the `caption_lengths`. None: they are counted

    A caption ends with its last non-NULL target; later steps are left out. A step with a NULL
    target inside a caption stays, since later steps depend on it, but does not enter the loss.
    """
    if lengths is None:
        lengths = caption_lengths(captions, null)
    if order is None:
        (order,) = _dealt(lengths, 1, None)
    n, T = len(order), captions.shape[1] - 1
    ended = np.bincount(lengths[order], minlength=1).cumsum()[:-1]  # captions, before each step
    sizes = tuple((n - ended).tolist())
    if layout is not None and not layout.fits(sizes, n, T):
        layout = None
    rows, t = _laid_out(sizes if layout is None else layout.sizes, n)
    caption, words, target_rows = order[rows.sequence], captions.ravel(), None
    positions = caption * (T + 1) + t
    inputs, targets = words.take(positions), words.take(positions + 1)
    has_target = targets != null
    if layout is None:
        distinct, segments = grouped(inputs, V)
        if not has_target.all():
            (target_rows,) = has_target.nonzero()
            targets = targets[target_rows]
    else:
        # A row of padding reads a word that the batch has anyway: it may not count among the distinct
        inputs = np.where(t < lengths.take(caption), inputs, captions[order[0], 0])
        count = min(layout.words, V)
        distinct, segments = grouped(inputs, V, count)
        if len(distinct) > count:
            return pack(captions, null, order, lengths=lengths)
        targets = np.where(has_target, targets, NO_TARGET)
    shape, padded = (len(captions), T), layout is not None
    return Part(order, shape, padded, rows, distinct, segments, target_rows, targets)


@functools.lru_cache(maxsize=64)
def _laid_out(sizes: tuple[int, ...], n: int) -> tuple[PackedSequences, np.ndarray]:
    """Rows of n captions, sizes[t] alive at step t, and the step of each; read-only."""
    rows, t = PackedSequences.of(sizes, n), np.arange(len(sizes)).repeat(sizes)
    for indices in (rows.previous, rows.sequence, rows.firsts, t):
        if indices is not None:
            indices.flags.writeable = False
    return rows, t


def caption_lengths(captions: np.ndarray, null: int) -> np.ndarray:
    """Steps of each caption: up to its last non-NULL target."""
    live = captions[:, 1:] != null
    return np.where(live.any(axis=1), live.shape[1] - live[:, ::-1].argmax(axis=1), 0)


def grouped(words: np.ndarray, V: int = 0, count: int = 0) -> tuple[np.ndarray, Segments]:
    """Distinct words (K,) of rows (R,), sorted, and rows grouped by them: np.unique in one sort.

    Fewer than `count` are filled up with others of V words, which no row reads.
    """
    R = len(words)
    if 0 < V <= 1 << 16 or all_below(words, 1 << 16):
        words = words.astype(np.uint16)  # NumPy sorts 16 bits by counting, in a third of the time
    order = words.argsort(kind="stable")
    if count:  # by a table of all V words, which takes longer than the sort if V is large
        sizes = np.bincount(words, minlength=V)
        is_listed = sizes > 0
        missing = max(0, count - np.count_nonzero(is_listed))
        is_listed[(~is_listed).nonzero()[0][:missing]] = True
        (distinct,) = is_listed.nonzero()
        ids = (is_listed.cumsum() - 1).take(words)
        starts = np.zeros(len(distinct) + 1, np.intp)
        sizes.take(distinct).cumsum(out=starts[1:])
        return distinct, Segments(ids, order, starts)
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
    part: Part, like: Array, more: Sequence[np.ndarray], buffer: Buffer
) -> tuple[Part, list[Array]]:
    """The part, and `more` index arrays, on the device, in one transfer.

    Of a padded part, which may repeat a record, the arrays are left in `indices`.
    """
    if get_array_module(like) is np:
        return part, list(more)
    vectors = [x for x in (*more, *part.index_arrays) if x is not None]
    joined = buffer.upload("indices", np.concatenate(vectors, dtype=np.int32, casting="same_kind"))
    start = sum(map(len, more))
    indices = view(joined, start, (len(joined) - start,))
    sent = part._replace(indices=indices)
    return sent if part.padded else sent.on_device(), views(joined, more)


def views(joined: Array, arrays: Sequence[np.ndarray | None]) -> list[Array]:
    """Views of what begins with these arrays, one after the other; None where there is none."""
    array_views, start = [], 0
    for array in arrays:
        array_views.append(None if array is None else view(joined, start, array.shape))
        start += 0 if array is None else len(array)
    return array_views


# ---- Dropout masks


def mask_rows_of(
    parts: Sequence[Part], captions: np.ndarray, lengths: np.ndarray
) -> tuple[list[list[np.ndarray]], tuple[int, ...]]:
    """Numbers (n,) of each part's rows of masks: of features, of words and of hidden states.

    They depend on neither packing nor parts: captions (N, T+1) count as they come, distinct words
    of the batch by id, and live steps caption by caption. Padding has -1. Also returns, for each
    mask, how many rows the whole batch has.
    """
    words, starts, rows_of_parts = None, lengths.cumsum() - lengths, []
    if len(parts[0].order) < len(captions):
        is_live = np.arange(captions.shape[1] - 1) < lengths[:, None]
        (words,) = np.bincount(captions[:, :-1][is_live]).nonzero()
    for part in parts:
        rows, inputs = part.rows, part.inputs
        is_read = inputs.starts[1:] > inputs.starts[:-1]
        word_rows = is_read.cumsum() - 1 if words is None else words.searchsorted(part.words)
        _, t = _laid_out(tuple(rows.batch_sizes), rows.N)
        hidden_rows = starts.take(part.order[rows.sequence]) + t
        if part.target_rows is not None:
            hidden_rows = hidden_rows[part.target_rows]
        if part.padded:
            word_rows = np.where(is_read, word_rows, -1)
            hidden_rows = np.where(part.targets != NO_TARGET, hidden_rows, -1)
        rows_of_parts.append([part.order, word_rows, hidden_rows])
    distinct = parts[0].words if words is None else words
    # Where no step is live, rows of padding read a mask as well
    return rows_of_parts, (len(captions), len(distinct), max(1, int(lengths.sum())))


def masks_of(
    config: ModelConfig,
    seed: int,
    step: int,
    mask_rows: Sequence[Sequence[Array]],
    counts: Sequence[int],
    buffers: Sequence[Buffer],
) -> list[list[Array]]:
    """Dropout masks of each part, drawn into its buffer; `mask_rows` of mask_rows_of lie on the device.

    The regions of a grid share a caption's mask: W_proj reads them all alike, and a unit kept in
    another region would give away the dropped one (Gal & Ghahramani 2016 share masks over time
    steps for the same reason). A grid then costs no more draws than a feature.
    """
    widths = config.feature_shape[-1], config.wordvec, config.hidden
    names = "mask of features", "mask of words", "mask of hidden"
    masks = [
        [
            buffer(name, (len(rows), width), bool)
            for name, rows, width in zip(names, rows_of_part, widths, strict=True)
        ]
        for rows_of_part, buffer in zip(mask_rows, buffers, strict=True)
    ]
    ops = get_ops(masks[0][0])
    ops.dropout_masks(masks, mask_rows, counts, seed, step, 1 - config.dropout)
    return masks


# ---- Checks


def check_features(
    caller: str, features: Array, shape: tuple[int, ...], N: int | None = None
) -> None:
    """TypeError : features are not real numbers. ValueError : their shape is not (N, *shape)."""
    fits = features.shape[1:] == shape
    note = "one for each caption" if fits else "are they from another encoder?"
    axes = ",".join(map(str, ("N", *shape)))
    spec(f"features:{axes}=n").check(
        caller, features, note=note, sizes={} if N is None else {"N": N}
    )


def check_finite(caller: str, features: Array, original: Array | None = None) -> None:
    """ValueError, with the first bad row: features are not finite. Reads one flag from a device."""
    if get_array_module(features).isfinite(features).all():
        return
    values = to_numpy(features)
    row, *at = np.argwhere(~np.isfinite(values))[0].tolist()
    value = values[(row, *at)] if original is None else original[(row, *at)]
    axes = zip(("region", "column")[-len(at) :], at, strict=False)
    position = ", ".join(f"{name} {number}" for name, number in axes)
    thing = f"features of row {row} (of {len(values)})"
    got = f"hold {value} at {position}"
    expected = f"finite {values.dtype} numbers"
    raise InvalidValueError(caller, thing, got, expected, "extract them again")
