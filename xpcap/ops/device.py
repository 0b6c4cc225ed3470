"""CUDA kernels: versions of operations that launch the CUDA C files of cuda/ on CuPy's arrays.

In the time loops each launch is a step over whole buffers; everything that stays the same is
prepared. Matrix products are in cublas.py.
"""

from collections.abc import Sequence

import numpy as np

from xpcap.backend import Array, get_array_module, is_device_array
from xpcap.memory import Buffer
from xpcap.ops import attention, base, choosing, cublas, packed, random
from xpcap.ops.base import Segments
from xpcap.ops.choosing import BeamRows
from xpcap.ops.dispatch import cuda_kernel
from xpcap.ops.launch import (
    CONSTANTS,
    INT_MAX,
    THREADS,
    are_indices,
    are_reals,
    blocks,
    kernel,
    launch,
)
from xpcap.ops.packed import Gates, PackedSequences, Step, StepFn

# Most sequences for which an LSTM's step is one launch each way, product and gates together. Not
# yet timed on a card
FUSED = 128
NORM_BLOCKS, SUM_COLUMNS = CONSTANTS["NORM_BLOCKS"], CONSTANTS["SUM_COLUMNS"]
FORWARD_UNITS, BACKWARD_UNITS = CONSTANTS["FORWARD_UNITS"], CONSTANTS["BACKWARD_UNITS"]
SEGMENT_COLUMNS = THREADS // CONSTANTS["SEGMENT_PARTS"]
REGIONS, SLAB = CONSTANTS["REGIONS"], CONSTANTS["SLAB"]


# ---- Losses


def _scale(scale: Array | float, like: Array) -> tuple[Array, float, int]:
    """Scale for a kernel: an array, a number, and 1 to read the array, which else is any."""
    if isinstance(scale, float):
        return like, scale, 0
    return scale, 0, 1


def _fits_scale(scale: Array | float, x: Array) -> bool:
    return isinstance(scale, float) or are_reals(x, scale)


def _fits_softmax_loss(scores: Array, targets: Array, scale: Array | float, out: Array) -> bool:
    return are_reals(scores, out) and are_indices(targets) and _fits_scale(scale, scores)


@cuda_kernel(base.softmax_loss, fits=_fits_softmax_loss)
def softmax_loss(
    scores: Array, targets: Array, scale: Array | float, out: Array, smoothing: float = 0.0
) -> tuple[Array, Array]:
    nll = get_array_module(scores).empty(len(scores), scores.dtype)
    _softmax_loss(scores, None, targets, scale, nll, out, smoothing)
    return nll, out


def _softmax_loss(
    scores: Array,
    bias: Array | None,
    targets: Array,
    scale: Array | float,
    nll: Array,
    out: Array,
    smoothing: float,
) -> None:
    """Loss nll and gradient of softmax(scores + bias), written to nll and out."""
    (R, V), (array, number, each) = scores.shape, _scale(scale, nll)
    b, biased = (scores, 0) if bias is None else (bias, 1)
    mix = 1 - smoothing, smoothing / V
    args = scores, b, targets, array, number, *mix, nll, out, biased, each, V
    launch("softmax_loss", "softmax_loss", scores, R, *args)


def _fits_word_loss(
    h: Array,
    w: Array,
    b: Array,
    targets: Array,
    scale: Array | float,
    nll: Array,
    dscores: Array,
    dh: Array,
) -> bool:
    fits = are_reals(h, w, b, nll, dscores, dh) and are_indices(targets) and _fits_scale(scale, h)
    return fits and cublas.fits_matmul(h, w, dscores)


@cuda_kernel(base.word_loss, fits=_fits_word_loss)
def word_loss(
    h: Array,
    w: Array,
    b: Array,
    targets: Array,
    scale: Array | float,
    nll: Array,
    dscores: Array,
    dh: Array,
    smoothing: float = 0.0,
) -> None:
    cublas.matmul(h, w, dscores)
    _softmax_loss(dscores, b, targets, scale, nll, dscores, smoothing)
    cublas.matmul(dscores, w.T, dh)


@cuda_kernel(
    base.weighted_sum,
    fits=lambda x, scale, out: are_reals(x, out) and _fits_scale(scale, x) and x.size <= INT_MAX,
)
def weighted_sum(x: Array, scale: Array | float, out: Array) -> Array:
    array, number, each = _scale(scale, x)
    launch("weighted_sum", "weighted_sum", x, 1, x, array, number, out, each, x.size)
    return out


# ---- Choices of words


@cuda_kernel(choosing.log_softmax_, fits=are_reals)
def log_softmax_(scores: Array) -> Array:
    launch("choosing", "log_softmax", scores, len(scores), scores, scores.shape[1])
    return scores


@cuda_kernel(
    choosing.forbid,
    fits=lambda scores, words: (
        are_reals(scores) and are_indices(words) and len(scores) * len(words) <= INT_MAX
    ),
)
def forbid(scores: Array, words: Array) -> None:
    (n, V), count = scores.shape, len(words)
    launch("choosing", "forbid", scores, blocks(n * count), scores, words, n, count, V)


@cuda_kernel(choosing.argmax, fits=are_reals)
def argmax(scores: Array) -> Array:
    words = get_array_module(scores).empty(len(scores), np.int32)
    launch("choosing", "argmax", scores, len(scores), scores, words, scores.shape[1])
    return words


@cuda_kernel(choosing.sample_words, fits=lambda x, u, temperature: are_reals(x, u))
def sample_words(x: Array, u: Array, temperature: float | None = None) -> Array:
    words = get_array_module(x).empty(len(x), np.int32)
    soft, degree = temperature is not None, temperature or 1
    launch("choosing", "sample_words", x, len(x), x, u, words, degree, soft, x.shape[1])
    return words


def _fits_beams(ranked: Array, scores: Array, totals: Array, beams: BeamRows, null: int) -> bool:
    return are_reals(ranked, scores, totals) and are_indices(beams.rows)


@cuda_kernel(choosing.beam_step, fits=_fits_beams)
def beam_step(
    ranked: Array, scores: Array, totals: Array, beams: BeamRows, null: int
) -> tuple[Array, Array, Array]:
    empty, (n, V), m = get_array_module(scores).empty, scores.shape, len(beams.next_rows)
    words, parents, new_totals = empty(m, np.int32), empty(m, np.int32), empty(m, scores.dtype)
    args = ranked, scores, totals, beams.rows, words, parents, new_totals
    numbers = n, m // n, beams.size, null, V
    launch("choosing", "beam_step", scores, n, *args, *numbers)
    return words, parents, new_totals


# ---- Rows of tables


def _is_mask(mask: Array, x: Array) -> bool:
    return mask.dtype == bool and mask.shape == x.shape and mask.flags.c_contiguous


def _fits_table(table: Array, rows: Array | None, out: Array, mask: Array | None) -> bool:
    """True if the kernels of gather.cu take these."""
    fits = are_reals(table, out) and table.ndim == out.ndim == 2 and out.size <= INT_MAX
    return fits and (rows is None or are_indices(rows)) and (mask is None or _is_mask(mask, out))


def _fits_gather(
    table: Array, rows: Array | None, out: Array, mask: Array | None, keep: float
) -> bool:
    return _fits_table(table, rows, out, mask) and not (rows is None and mask is None)


@cuda_kernel(base.gather, fits=_fits_gather)
def gather(
    table: Array, rows: Array | None, out: Array, mask: Array | None = None, keep: float = 1.0
) -> Array:
    size, grid = (out.size, out.shape[1]), blocks(out.size)
    scale = 1 / keep
    if rows is None:
        launch("dropout", "dropout", out, grid, table, mask, out, scale, out.size)
    elif mask is None:
        launch("gather", "gather", out, grid, table, rows, out, *size)
    else:
        launch("gather", "gather_drop", out, grid, table, rows, mask, out, scale, *size)
    return out


@cuda_kernel(
    base.gather_plus,
    fits=lambda table, rows, b, out: _fits_table(table, rows, out, None) and are_reals(b, out),
)
def gather_plus(table: Array, rows: Array, b: Array, out: Array) -> Array:
    size = out.size, out.shape[1]
    launch("gather", "gather_plus", out, blocks(out.size), table, rows, b, out, *size)
    return out


@cuda_kernel(base.add_rows, fits=lambda x, b: are_reals(x, b) and x.size <= INT_MAX)
def add_rows(x: Array, b: Array) -> Array:
    launch("add_rows", "add_rows", x, blocks(x.size), x, b, x.size, b.size)
    return x


def _fits_image(
    table: Array, ids: Array, b: Array, image: Array, rows: PackedSequences, out: Array
) -> bool:
    indexed = rows.sequence is not None and are_indices(ids, rows.sequence)
    fits = indexed and are_reals(table, b, image, out)
    return fits and table.ndim == image.ndim == out.ndim == 2 and out.size <= INT_MAX


@cuda_kernel(packed.gather_plus_image, fits=_fits_image)
def gather_plus_image(
    table: Array, ids: Array, b: Array, image: Array, rows: PackedSequences, out: Array
) -> Array:
    args = table, ids, b, image, rows.sequence, out, out.size, out.shape[1]
    launch("gather", "gather_plus_image", out, blocks(out.size), *args)
    return out


@cuda_kernel(
    base.scatter,
    fits=lambda x, rows, out, mask, keep: _fits_table(out, rows, x, mask) and out.size <= INT_MAX,
)
def scatter(
    x: Array, rows: Array, out: Array, mask: Array | None = None, keep: float = 1.0
) -> Array:
    size = len(rows), out.size, out.shape[1]
    if mask is None:
        launch("gather", "scatter", x, blocks(out.size), x, rows, out, *size)
    else:
        args = x, rows, mask, out, 1 / keep, *size
        launch("gather", "scatter_drop", x, blocks(out.size), *args)
    return out


@cuda_kernel(
    base.segment_sum,
    fits=lambda rows, groups, out: (
        are_reals(rows, out) and are_indices(groups.order, groups.starts)
    ),
)
def segment_sum(rows: Array, groups: Segments, out: Array) -> Array:
    count, C = out.shape
    args = rows, groups.order, groups.starts, out, C
    launch("segment_sum", "segment_sum", rows, (count, -(-C // SEGMENT_COLUMNS)), *args)
    return out


@cuda_kernel(base.column_sum, fits=are_reals)
def column_sum(x: Array, out: Array) -> Array:
    R, C = x.shape
    launch("column_sum", "column_sum", x, -(-C // SUM_COLUMNS), x, out, R, C)
    return out


@cuda_kernel(
    packed.sequence_sum,
    fits=lambda x, rows, out: (
        rows.firsts is not None and are_indices(rows.firsts) and are_reals(x, out)
    ),
)
def sequence_sum(x: Array, rows: PackedSequences, out: Array) -> Array:
    assert rows.firsts is not None
    N, C = out.shape
    args = x, rows.firsts, out, len(rows.firsts) - 1, C
    launch("segment_sum", "sequence_sum", x, (N, blocks(C)), *args)
    return out


@cuda_kernel(base.dropout, fits=lambda x, mask, keep: are_reals(x) and _is_mask(mask, x))
def dropout(x: Array, mask: Array, keep: float) -> Array:
    out = get_array_module(x).empty_like(x)
    args = x, mask, out, 1 / keep, x.size
    launch("dropout", "dropout", x, blocks(x.size), *args)
    return out


def _fits_masks(
    masks: Sequence[Sequence[Array]], mask_rows: Sequence[Sequence[Array]], *_: object
) -> bool:
    for part, rows in zip(masks, mask_rows, strict=True):
        for mask in part:
            if not (is_device_array(mask) and mask.dtype == bool and mask.flags.c_contiguous):
                return False
        if not are_indices(*rows):
            return False
    return True


@cuda_kernel(random.dropout_masks, fits=_fits_masks)
def dropout_masks(
    masks: Sequence[Sequence[Array]],
    mask_rows: Sequence[Sequence[Array]],
    counts: Sequence[int],
    seed: int,
    step: int,
    keep: float,
) -> None:
    scalars = round(65536 * keep), seed, step
    for part, rows in zip(masks, mask_rows, strict=True):
        (N, D), (K, W), (L, H) = (mask.shape for mask in part)
        threads = N * -(-D // 16) + K * -(-W // 16) + L * -(-H // 16)
        args = *rows, *part, N, D, K, W, L, H, *scalars
        launch("philox", "dropout_masks", part[0], blocks(threads), *args)


# ---- The update of a training step


def _squares(x: Array, buffer: Buffer) -> tuple[Array, Array]:
    """Partial sums of squares, and memory for the norm."""
    partial = buffer("squares", (NORM_BLOCKS,), np.float64)
    launch("norm", "squares", x, NORM_BLOCKS, x, partial, x.size)
    return partial, buffer("norm", ())


@cuda_kernel(base.global_norm, fits=are_reals)
def global_norm(x: Array, buffer: Buffer) -> Array:
    partial, norm = _squares(x, buffer)
    launch("norm", "root", x, 1, partial, norm)
    return norm


@cuda_kernel(base.clip_by_norm, fits=lambda x, most: are_reals(x))
def clip_by_norm(x: Array, most: float, buffer: Buffer) -> Array:
    partial, norm = _squares(x, buffer)
    launch("norm", "clip", x, NORM_BLOCKS, x, partial, norm, most, x.size)
    return norm


@cuda_kernel(base.adam_update, fits=are_reals)
def adam_update(
    w: Array,
    dw: Array,
    m: Array,
    v: Array,
    alpha: float,
    beta1: float,
    beta2: float,
    epsilon: float,
) -> None:
    numbers = alpha, beta1, 1 - beta1, beta2, 1 - beta2, epsilon
    launch("adam", "adam_update", w, blocks(w.size), w, dw, m, v, *numbers, w.size)


@cuda_kernel(base.record_step, fits=lambda record, i, loss, norm: are_reals(record, loss, norm))
def record_step(record: Array, i: int, loss: Array, norm: Array) -> None:
    launch("record", "record_step", record, 1, record, loss, norm, i)


# ---- Steps of the time loops: the product, by cuBLAS, and one launch


def _fits_start(h0: Array, c0: Array | None, h: Array, c: Array | None) -> bool:
    return are_reals(*(x for x in (h0, c0, h, c) if x is not None))


@cuda_kernel(packed.start_states, fits=_fits_start)
def start_states(h0: Array, c0: Array | None, h: Array, c: Array | None) -> None:
    given = c is None or c0 is not None
    if c is None:
        c0, c = h0, h  # then both write the same
    args = h0, h0 if c0 is None else c0, h, c, given, h0.size
    launch("start", "start_states", h0, blocks(h0.size), *args)


@cuda_kernel(packed.lstm_gate_steps, fits=lambda a, r, c_prev, out: are_reals(a, r, c_prev, *out))
def lstm_gate_steps(a: Array, r: Array, c_prev: Array, out: Gates) -> StepFn:
    gates, H = kernel("lstm_gates", "lstm_gates", a), c_prev.shape[1]
    arrays = a, r, c_prev, *out

    def step_fn(step: Step) -> None:
        first, before, after, n, _ = step
        gates((blocks(n * H),), *arrays, first, before, after, n, H)

    return step_fn


@cuda_kernel(
    packed.lstm_gate_backward_steps,
    fits=lambda dh, dh_next, dc, out, da, dc_T: are_reals(dh, dh_next, dc, *out, da),
)
def lstm_gate_backward_steps(
    dh: Array, dh_next: Array, dc: Array, out: Gates, da: Array, dc_T: Array | None = None
) -> StepFn:
    """With dc_T, every sequence of a step reads dh_next and dc: they begin as 0 and dc_T."""
    backward, H = kernel("lstm_gates", "lstm_gates_backward", dh), dc.shape[1]
    carried = dc_T is not None
    arrays = dh, dh_next, dc, out.gates, out.tanh_c, out.c, da, dc
    if carried:
        dh_next[...], dc[...] = 0, dc_T

    def step_fn(step: Step) -> None:
        first, before, _, n, n_next = step
        n_next = n if carried else n_next
        backward((blocks(n * H),), *arrays, first, before, n, n_next, H)

    return step_fn


@cuda_kernel(packed.rnn_cell_steps, fits=are_reals)
def rnn_cell_steps(a: Array, h: Array) -> StepFn:
    cell, H = kernel("rnn_cell", "rnn_cell", a), h.shape[1]
    arrays = a, h, h

    def step_fn(step: Step) -> None:
        first, _, after, n, _ = step
        cell((blocks(n * H),), *arrays, first, after, n, H)

    return step_fn


@cuda_kernel(packed.rnn_cell_backward_steps, fits=are_reals)
def rnn_cell_backward_steps(dh: Array, dh_next: Array, h: Array, da: Array) -> StepFn:
    backward, H = kernel("rnn_cell", "rnn_cell_backward", dh), h.shape[1]
    arrays = dh, dh_next, h, da

    def step_fn(step: Step) -> None:
        first, _, after, n, n_next = step
        backward((blocks(n * H),), *arrays, first, after, n, n_next, H)

    return step_fn


# ---- Steps of an LSTM in one launch: product and gates together


def _grid(n: int, H: int, units: int) -> tuple[int, int]:
    """Blocks of (row, unit) pairs, with `units` units each."""
    return -(-H // units), -(-n // (THREADS // units))


def _fits_lstm_steps(a: Array, Wh: Array, state: tuple[Array, Array], out: Gates) -> bool:
    h, c = state
    # A stack holds N more than there are rows; a single step has separate arrays
    N = len(h) - len(a) or len(h)
    return N <= FUSED and are_reals(a, Wh, h, c, *out)


@cuda_kernel(packed.lstm_steps, fits=_fits_lstm_steps)
def lstm_steps(a: Array, Wh: Array, state: tuple[Array, Array], out: Gates) -> StepFn:
    fused, H = kernel("lstm_step", "lstm_step", a), len(Wh)
    arrays = a, Wh, *state, *out

    def step_fn(step: Step) -> None:
        first, before, after, n, _ = step
        fused(_grid(n, H, FORWARD_UNITS), *arrays, first, before, after, n, H)

    return step_fn


def _fits_lstm_backward_steps(
    dh: Array, dh_next: Array, dc: Array, out: Gates, Wh: Array, da: Array
) -> bool:
    fits = len(dc) <= FUSED and are_reals(dh, dh_next, dc, *out, Wh, da)
    return fits and cublas.fits_row_matmul_nt(da, Wh, dh_next)


@cuda_kernel(packed.lstm_backward_steps, fits=_fits_lstm_backward_steps)
def lstm_backward_steps(
    dh: Array, dh_next: Array, dc: Array, out: Gates, Wh: Array, da: Array
) -> StepFn:
    """Each step multiplies the da of its next one itself: only the first step writes dh_next."""
    fused, H = kernel("lstm_step", "lstm_step_backward", dh), len(Wh)
    arrays = dh, out.gates, out.tanh_c, out.c, Wh, da, dc
    multiply = cublas.row_matmul_nt(da, Wh, dh_next)

    def step_fn(step: Step) -> None:
        first, before, _, n, n_next = step
        fused(_grid(n, H, BACKWARD_UNITS), *arrays, first, before, n, n_next, H)
        if not first:
            multiply(0, 0, n)

    return step_fn


# ---- Attention


@cuda_kernel(
    attention.gather_regions,
    fits=lambda table, rows, out, mask, keep: (
        are_reals(table, out)
        and are_indices(rows)
        and out.size <= INT_MAX
        and (mask is None or (mask.dtype == bool and mask.flags.c_contiguous))
    ),
)
def gather_regions(
    table: Array, rows: Array, out: Array, mask: Array | None = None, keep: float = 1.0
) -> Array:
    _, P, D = out.shape
    if mask is None:
        launch("gather", "gather", out, blocks(out.size), table, rows, out, out.size, P * D)
    else:
        args = table, rows, mask, out, 1 / keep, out.size, P, D
        launch("gather", "gather_regions", out, blocks(out.size), *args)
    return out


@cuda_kernel(attention.mean_regions, fits=are_reals)
def mean_regions(A: Array, out: Array) -> Array:
    _, P, H = A.shape
    launch("attention", "mean_regions", A, blocks(out.size), A, out, out.size, P, H)
    return out


@cuda_kernel(attention.add_to_regions, fits=are_reals)
def add_to_regions(dA: Array, dmean: Array) -> Array:
    _, P, H = dA.shape
    launch("attention", "add_to_regions", dA, blocks(dmean.size), dA, dmean, dmean.size, P, H)
    return dA


def _fits_attention(A: Array, *others: Array) -> bool:
    return A.ndim == 3 and A.shape[1] <= REGIONS and are_reals(A, *others)


@cuda_kernel(
    attention.attend_steps,
    fits=lambda h, A, weights, context: _fits_attention(A, h, weights, context),
)
def attend_steps(h: Array, A: Array, weights: Array, context: Array) -> StepFn:
    attend, (_, P, H) = kernel("attention", "attend_step", A), A.shape
    arrays = h, A, weights, context

    def step_fn(step: Step) -> None:
        first, before, _, n, _ = step
        attend((n,), *arrays, first, before, P, H)

    return step_fn


@cuda_kernel(
    attention.attend_backward_steps,
    fits=lambda dcontext, A, weights, dscores, dh_next: _fits_attention(
        A, dcontext, weights, dscores, dh_next
    ),
)
def attend_backward_steps(
    dcontext: Array, A: Array, weights: Array, dscores: Array, dh_next: Array
) -> StepFn:
    backward, (_, P, H) = kernel("attention", "attend_step_backward", A), A.shape
    arrays = dcontext, A, weights, dscores, dh_next

    def step_fn(step: Step) -> None:
        backward((step.n,), *arrays, step.first, P, H)

    return step_fn


def _fits_attention_sum(
    weights: Array, dcontext: Array, dscores: Array, h: Array, rows: PackedSequences, out: Array
) -> bool:
    fits = rows.firsts is not None and are_indices(rows.firsts)
    return fits and _fits_attention(out, weights, dcontext, dscores, h)


@cuda_kernel(attention.attention_sum, fits=_fits_attention_sum)
def attention_sum(
    weights: Array, dcontext: Array, dscores: Array, h: Array, rows: PackedSequences, out: Array
) -> Array:
    assert rows.firsts is not None
    N, P, H = out.shape
    sizes = N, len(rows.firsts) - 1, P, H
    grid, arrays = (N, blocks(H), -(-P // SLAB)), (weights, dcontext, dscores, h, rows.firsts, out)
    launch("attention", "attention_sum", out, grid, *arrays, *sizes)
    return out
