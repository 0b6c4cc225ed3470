"""CUDA kernels: the CUDA C files of cuda/, launched on CuPy arrays. equations.py, recurrent.py and attention.py state what they compute.

Those of the time loops are launches of one step over whole buffers, with everything that stays the same prepared.
"""

import numpy as np

from xpcap.backend import get_array_module, is_device_array
from xpcap.ops import cublas
from xpcap.ops.launch import BLOCK, INT_MAX, THREADS, are_indices, blocks, fits, i32, kernel, launch

NORM_BLOCKS = 256  # in the first pass of a norm; fixed, so that the order of summation is the same on every GPU


def supports_lstm_gates(a, r, c_prev, out):
    return fits(a, r, c_prev, *out)


def lstm_gates(a, r, c_prev, out):
    n, H = c_prev.shape
    launch("lstm_gates", "lstm_gates", a, blocks(n * H), a, r, c_prev, *out, i32(0), i32(0), i32(0), i32(n), i32(H))
    return out


def supports_lstm_gates_backward(dh, dh_next, dc, gates, tanh_c, c_prev, out):
    return fits(dh, dh_next, dc, gates, tanh_c, c_prev, *out)


def lstm_gates_backward(dh, dh_next, dc, gates, tanh_c, c_prev, out):
    n, H = c_prev.shape
    arrays = dh, dh_next, dc, gates, tanh_c, c_prev, *out
    launch("lstm_gates", "lstm_gates_backward", dh, blocks(n * H), *arrays, i32(0), i32(0), i32(n), i32(n), i32(H))
    return out


def supports_rnn_cell(a, r, out):
    return fits(a, r, out)


def rnn_cell(a, r, out):
    launch("rnn_cell", "rnn_cell", a, blocks(a.size), a, r, out, i32(0), i32(0), *map(i32, a.shape))
    return out


def supports_rnn_cell_backward(dh, dh_next, h, out):
    return fits(dh, dh_next, h, out)


def rnn_cell_backward(dh, dh_next, h, out):
    n, H = dh.shape
    launch("rnn_cell", "rnn_cell_backward", dh, blocks(dh.size), dh, dh_next, h, out, i32(0), i32(0), i32(n), i32(n), i32(H))
    return out


def _scale(scale, like):
    """A scale per row, or one for all, as a kernel takes it: an array (any, if it is not read), the number, and whether there is one per row."""
    return (like, np.float64(scale), i32(0)) if isinstance(scale, float) else (scale, np.float64(0), i32(1))


def _fits_scale(scale, x):
    return isinstance(scale, float) or fits(x, scale)


def supports_softmax_loss(scores, targets, scale, out, *_):
    return fits(scores, out) and are_indices(targets) and _fits_scale(scale, scores)


def softmax_loss(scores, targets, scale, out, smoothing=0.0):
    nll = get_array_module(scores).empty(len(scores), scores.dtype)
    _softmax_loss(scores, None, targets, scale, nll, out, smoothing)
    return nll, out


def _softmax_loss(scores, bias, targets, scale, nll, out, smoothing):
    """nll and gradient of softmax(scores + bias)."""
    (R, V), (array, number, each) = scores.shape, _scale(scale, nll)
    biased = (scores, i32(0)) if bias is None else (bias, i32(1))
    numbers = number, np.float64(smoothing)
    launch("softmax_loss", "softmax_loss", scores, R, scores, biased[0], targets, array, *numbers, nll, out, biased[1], each, i32(V))


def supports_word_loss(h, w, b, targets, scale, nll, dscores, dh, *_):
    there = fits(h, w, b, nll, dscores, dh) and are_indices(targets) and _fits_scale(scale, h)
    return there and cublas.supports_product(h, w, dscores)


def word_loss(h, w, b, targets, scale, nll, dscores, dh, smoothing=0.0):
    cublas.product(h, w, dscores)
    _softmax_loss(dscores, b, targets, scale, nll, dscores, smoothing)
    cublas.product(dscores, w.T, dh)


def supports_weighted_sum(x, scale, out):
    return fits(x, out) and _fits_scale(scale, x) and x.size <= INT_MAX


def weighted_sum(x, scale, out):
    array, number, each = _scale(scale, x)
    launch("weighted_sum", "weighted_sum", x, 1, x, array, number, out, each, i32(x.size))
    return out


def _fits_rows(table, rows, out, mask):
    """Whether the kernels of gather.cu take these."""
    there = fits(table, out) and table.ndim == out.ndim == 2 and out.size <= INT_MAX and (rows is None or are_indices(rows))
    return there and (mask is None or _is_mask(mask, out))


def _is_mask(mask, x):
    return mask.dtype == bool and mask.shape == x.shape and mask.flags.c_contiguous


def supports_gather(table, rows, out, mask, keep):
    return _fits_rows(table, rows, out, mask) and not (rows is None and mask is None)


def gather(table, rows, out, mask, keep):
    size = i32(out.size), i32(out.shape[1])
    if rows is None:
        launch("dropout", "dropout", out, blocks(out.size), table, mask, out, np.float64(keep), np.int64(out.size))
    elif mask is None:
        launch("gather", "gather", out, blocks(out.size), table, rows, out, *size)
    else:
        launch("gather", "gather_drop", out, blocks(out.size), table, rows, mask, out, np.float64(keep), *size)
    return out


def supports_gather_plus(table, rows, b, out):
    return _fits_rows(table, rows, out, None) and fits(b, out)


def gather_plus(table, rows, b, out):
    launch("gather", "gather_plus", out, blocks(out.size), table, rows, b, out, i32(out.size), i32(out.shape[1]))
    return out


def supports_scatter(x, rows, out, mask, keep):
    return _fits_rows(out, rows, x, mask) and out.size <= INT_MAX


def scatter(x, rows, out, mask, keep):
    size = i32(len(rows)), i32(out.size), i32(out.shape[1])
    if mask is None:
        launch("gather", "scatter", x, blocks(out.size), x, rows, out, *size)
    else:
        launch("gather", "scatter_drop", x, blocks(out.size), x, rows, mask, out, np.float64(keep), *size)
    return out


def supports_segment_sum(rows, groups, out):
    return fits(rows, out) and are_indices(groups.order, groups.starts)


def segment_sum(rows, groups, out):
    count, C = out.shape
    launch("segment_sum", "segment_sum", rows, (count, blocks(C)), rows, groups.order, groups.starts, out, i32(C))
    return out


def supports_drop(x, mask, keep):
    return fits(x) and _is_mask(mask, x)


def drop(x, mask, keep):
    out = get_array_module(x).empty_like(x)
    launch("dropout", "dropout", x, blocks(x.size), x, mask, out, np.float64(keep), np.int64(x.size))
    return out


def supports_global_norm(x):
    return fits(x)


def global_norm(x, buffer):
    partial, norm = _squares(x, buffer)
    launch("norm", "root", x, 1, partial, norm)
    return norm


def _squares(x, buffer):
    """Partial sums of squares, and where the norm goes."""
    partial = buffer("squares", (NORM_BLOCKS,), np.float64)
    launch("norm", "squares", x, NORM_BLOCKS, x, partial, np.int64(x.size))
    return partial, buffer("norm", ())


def supports_clip_by_norm(x, most):
    return fits(x)


def clip_by_norm(x, most, buffer):
    partial, norm = _squares(x, buffer)
    launch("norm", "clip", x, NORM_BLOCKS, x, partial, norm, np.float64(most), np.int64(x.size))
    return norm


def supports_adam_update(w, dw, m, v, *_):
    return fits(w, dw, m, v)


def adam_update(w, dw, m, v, alpha, beta1, beta2, epsilon):
    numbers = [np.float64(number) for number in (alpha, beta1, beta2, epsilon)]
    launch("adam", "adam_update", w, blocks(w.size), w, dw, m, v, *numbers, np.int64(w.size))


def supports_record_step(record, i, loss, norm):
    return fits(record, loss, norm)


def record_step(record, i, loss, norm):
    launch("record", "record_step", record, 1, record, loss, norm, i32(i))


def supports_draw_masks(masks, numbers, *_):
    for part, rows in zip(masks, numbers, strict=True):
        for mask in part:
            if not (is_device_array(mask) and mask.dtype == bool and mask.flags.c_contiguous):
                return False
        if not are_indices(*rows):
            return False
    return True


def draw_masks(masks, numbers, counts, seed, step, keep):
    scalars = i32(round(65536 * keep)), np.int64(seed), np.int64(step)
    for part, rows in zip(masks, numbers, strict=True):
        (N, D), (K, W), (L, H) = (mask.shape for mask in part)
        threads = N * -(-D // 16) + K * -(-W // 16) + L * -(-H // 16)
        launch("philox", "draw_masks", part[0], blocks(threads), *rows, *part, i32(N), i32(D), i32(K), i32(W), i32(L), i32(H), *scalars)


FUSED = 128  # with at most so many sequences, a step of an LSTM is one launch each way: product and gates together. Not yet timed on a card
FORWARD_UNITS, BACKWARD_UNITS = 8, 16  # of a block in lstm_step.cu; its rows are the rest of its threads


def supports_start_states(h0, c0, h, c):
    return fits(h0, h, c) and (c0 is None or fits(h0, c0))


def start_states(h0, c0, h, c):
    launch("start", "start_states", h0, blocks(h0.size), h0, h0 if c0 is None else c0, h, c, i32(c0 is not None), i32(h0.size))


def supports_lstm_gate_steps(a, r, c_prev, out):
    return fits(a, r, c_prev, *out)


def lstm_gate_steps(a, r, c_prev, out):
    gates, H = kernel("lstm_gates", "lstm_gates", a), c_prev.shape[1]
    arrays, width = (a, r, c_prev, *out), i32(H)

    def take(step):
        first, before, after, n, _ = step
        gates((blocks(n * H),), BLOCK, (*arrays, i32(first), i32(before), i32(after), i32(n), width))

    return take


def supports_lstm_gate_backward_steps(dh, dh_next, dc, out, da, dc_T=None):
    return fits(dh, dh_next, dc, *out, da)


def lstm_gate_backward_steps(dh, dh_next, dc, out, da, dc_T=None):
    """With dc_T, dh_next and dc hold what comes from after the last step, too: every sequence reads them."""
    backward, H, carried = kernel("lstm_gates", "lstm_gates_backward", dh), dc.shape[1], dc_T is not None
    arrays, width = (dh, dh_next, dc, out.gates, out.tanh_c, out.c, da, dc), i32(H)
    if carried:
        dh_next[...], dc[...] = 0, dc_T

    def take(step):
        first, before, _, n, more = step
        backward((blocks(n * H),), BLOCK, (*arrays, i32(first), i32(before), i32(n), i32(n if carried else more), width))

    return take


def supports_rnn_cell_steps(a, h):
    return fits(a, h)


def rnn_cell_steps(a, h):
    cell, H = kernel("rnn_cell", "rnn_cell", a), h.shape[1]
    arrays, width = (a, h, h), i32(H)

    def take(step):
        first, _, after, n, _ = step
        cell((blocks(n * H),), BLOCK, (*arrays, i32(first), i32(after), i32(n), width))

    return take


def supports_rnn_cell_backward_steps(dh, dh_next, h, da):
    return fits(dh, dh_next, h, da)


def rnn_cell_backward_steps(dh, dh_next, h, da):
    backward, H = kernel("rnn_cell", "rnn_cell_backward", dh), h.shape[1]
    arrays, width = (dh, dh_next, h, da), i32(H)

    def take(step):
        first, _, after, n, more = step
        backward((blocks(n * H),), BLOCK, (*arrays, i32(first), i32(after), i32(n), i32(more), width))

    return take


def _grid(n, H, units):
    """Blocks of (row, unit) pairs, with so many units each."""
    return -(-H // units), -(-n // (THREADS // units))


def supports_lstm_steps(a, Wh, state, out):
    h, c = state
    N = len(h) - len(a) or len(h)  # a stack holds N more than there are rows; a single step has arrays of its own
    return N <= FUSED and fits(a, Wh, h, c, *out)


def lstm_steps(a, Wh, state, out):
    fused, H = kernel("lstm_step", "lstm_step", a), len(Wh)
    arrays, width = (a, Wh, *state, *out), i32(H)

    def take(step):
        first, before, after, n, _ = step
        fused(_grid(n, H, FORWARD_UNITS), BLOCK, (*arrays, i32(first), i32(before), i32(after), i32(n), width))

    return take


def supports_lstm_backward_steps(dh, dh_next, dc, out, Wh, da, scratch):
    return len(dc) <= FUSED and fits(dh, dh_next, dc, *out, Wh, da) and cublas.supports_row_products_transpose(da, Wh, dh_next, scratch)


def lstm_backward_steps(dh, dh_next, dc, out, Wh, da, scratch):
    """Each step multiplies the da of its next one itself, so dh_next is written only at the end: by the first step."""
    fused, H = kernel("lstm_step", "lstm_step_backward", dh), len(Wh)
    arrays, width = (dh, out.gates, out.tanh_c, out.c, Wh, da, dc), i32(H)
    multiply = cublas.row_products_transpose(da, Wh, dh_next, scratch)

    def take(step):
        first, before, _, n, more = step
        fused(_grid(n, H, BACKWARD_UNITS), BLOCK, (*arrays, i32(first), i32(before), i32(n), i32(more), width))
        if not first:
            multiply(0, 0, n)

    return take


def supports_gather_plus_image(table, ids, b, image, rows, out):
    there = rows.caption is not None and are_indices(ids, rows.caption)
    return there and fits(table, b, image, out) and table.ndim == image.ndim == out.ndim == 2 and out.size <= INT_MAX


def gather_plus_image(table, ids, b, image, rows, out):
    size = i32(out.size), i32(out.shape[1])
    launch("gather", "gather_plus_image", out, blocks(out.size), table, ids, b, image, rows.caption, out, *size)
    return out


def supports_sequence_sum(x, rows, out):
    return rows.firsts is not None and are_indices(rows.firsts) and fits(x, out)


def sequence_sum(x, rows, out):
    N, C = out.shape
    launch("segment_sum", "sequence_sum", x, (N, blocks(C)), x, rows.firsts, out, i32(len(rows.firsts) - 1), i32(C))
    return out


PLACES = 1024  # of a picture, at most, as in attention.cu
SLAB = 16  # places for a thread of attention_sum


def _fits(A, *others):
    return A.ndim == 3 and A.shape[1] <= PLACES and fits(A, *others)


def supports_attend_steps(h, A, weights, context):
    return _fits(A, h, weights, context)


def attend_steps(h, A, weights, context):
    attend, (_, P, H) = kernel("attention", "attend_step", A), A.shape
    arrays, sizes = (h, A, weights, context), (i32(P), i32(H))

    def take(step):
        first, before, _, n, _ = step
        attend((n,), BLOCK, (*arrays, i32(first), i32(before), *sizes))

    return take


def supports_attend_backward_steps(dcontext, A, weights, dscores, dh_next):
    return _fits(A, dcontext, weights, dscores, dh_next)


def attend_backward_steps(dcontext, A, weights, dscores, dh_next):
    backward, (_, P, H) = kernel("attention", "attend_step_backward", A), A.shape
    arrays, sizes = (dcontext, A, weights, dscores, dh_next), (i32(P), i32(H))

    def take(step):
        backward((step.n,), BLOCK, (*arrays, i32(step.first), *sizes))

    return take


def supports_attention_sum(weights, dcontext, dscores, h, rows, out):
    return rows.firsts is not None and are_indices(rows.firsts) and _fits(out, weights, dcontext, dscores, h)


def attention_sum(weights, dcontext, dscores, h, rows, out):
    N, P, H = out.shape
    sizes = map(i32, (N, len(rows.firsts) - 1, P, H))
    launch("attention", "attention_sum", out, (N, blocks(H), -(-P // SLAB)), weights, dcontext, dscores, h, rows.firsts, out, *sizes)
    return out
