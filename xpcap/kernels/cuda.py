"""CUDA kernels: the CUDA C files beside this one, launched on CuPy arrays. ops.py states what they compute."""

import numpy as np

from xpcap.backend import get_array_module
from xpcap.kernels.launching import are_indices, blocks, fits, i32, launch

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


def supports_softmax_loss(scores, targets, scale, out):
    return fits(scores, scale, out) and are_indices(targets)


def softmax_loss(scores, targets, scale, out):
    rows, V = scores.shape
    nll = get_array_module(scores).empty(rows, scores.dtype)
    launch("softmax_loss", "softmax_loss", scores, rows, scores, targets, scale, nll, out, i32(V))
    return nll, out


def supports_segment_sum(rows, groups, out):
    return fits(rows, out) and are_indices(groups.order, groups.starts)


def segment_sum(rows, groups, out):
    count, C = out.shape
    launch("segment_sum", "segment_sum", rows, (count, blocks(C)), rows, groups.order, groups.starts, out, i32(C))
    return out


def supports_drop(x, mask, keep):
    return fits(x) and mask.dtype == bool and mask.shape == x.shape and mask.flags.c_contiguous


def drop(x, mask, keep):
    out = get_array_module(x).empty_like(x)
    launch("dropout", "dropout", x, blocks(x.size), x, mask, out, np.float64(keep), np.int64(x.size))
    return out


def supports_global_norm(x):
    return fits(x)


def global_norm(x):
    xp = get_array_module(x)
    partial, norm = xp.empty(NORM_BLOCKS, np.float64), xp.empty((), x.dtype)
    launch("norm", "squares", x, NORM_BLOCKS, x, partial, np.int64(x.size))
    launch("norm", "root", x, 1, partial, norm)
    return norm


def supports_clip_to_norm(x, norm, most):
    return fits(x, norm)


def clip_to_norm(x, norm, most):
    launch("norm", "clip", x, blocks(x.size), x, norm, np.float64(most), np.int64(x.size))


def supports_adam_update(w, dw, m, v, *_):
    return fits(w, dw, m, v)


def adam_update(w, dw, m, v, alpha, beta1, beta2, epsilon):
    numbers = [np.float64(number) for number in (alpha, beta1, beta2, epsilon)]
    launch("adam", "adam_update", w, blocks(w.size), w, dw, m, v, *numbers, np.int64(w.size))


def supports_record_step(record, i, loss, norm):
    return fits(record, loss, norm)


def record_step(record, i, loss, norm):
    launch("record", "record_step", record, 1, record, loss, norm, i32(i))
