"""CuPy kernels: the CUDA C files beside this one, each loaded by name when first used. ops.py states what they compute.

A macro compiles each file for float32 or float64. Scalar arguments are NumPy scalars of the C type that the kernel expects: CuPy passes a Python
number as eight bytes, whatever the kernel expects.
"""

import functools
from importlib import resources

import numpy as np

from xpcap.backend import get_array_module, is_device_array

THREADS = 256  # per block, in every kernel
NORM_BLOCKS = 256  # in the first pass of a norm; fixed, so that the order of summation is the same on every GPU
REALS = {"float32": "float", "float64": "double"}


@functools.cache
def _function(xp, device, file, name, dtype):
    """A kernel for one device. `device` only keys the cache: a module loads on the current device. Another `dtype` than a float: the file has no reals."""
    code = resources.files("xpcap.kernels").joinpath(f"{file}.cu").read_text(encoding="utf-8")
    return xp.RawModule(code=code, options=(f"-DREAL={REALS.get(dtype, 'float')}",)).get_function(name)


def _launch(file, name, like, grid, *args):
    """Launch a kernel with `grid` blocks, in the dtype and on the device of `like`."""
    function = _function(get_array_module(like), like.device.id, file, name, like.dtype.name)
    function(grid if isinstance(grid, tuple) else (grid,), (THREADS,), args)


def _blocks(n):
    return -(-n // THREADS)


def _fits(*arrays):
    """Whether kernels can index these arrays: on a device, non-empty, C-contiguous, all of the same float dtype."""
    first = arrays[0]
    return is_device_array(first) and first.dtype.name in REALS and all(a.size and a.dtype == first.dtype and a.flags.c_contiguous for a in arrays)


def _indexes(*arrays):
    return all(a.dtype == np.int32 and a.flags.c_contiguous for a in arrays)


def supports_lstm_gates(a, r, c_prev, out):
    return _fits(a, r, c_prev, *out)


def lstm_gates(a, r, c_prev, out):
    n, H = c_prev.shape
    _launch("lstm_gates", "lstm_gates", a, _blocks(n * H), a, r, c_prev, *out, np.int32(n), np.int32(H))
    return out


def supports_lstm_gates_backward(dh, dh_next, dc, gates, tanh_c, c_prev, out):
    return _fits(dh, dh_next, dc, gates, tanh_c, c_prev, *out)


def lstm_gates_backward(dh, dh_next, dc, gates, tanh_c, c_prev, out):
    n, H = c_prev.shape
    _launch("lstm_gates", "lstm_gates_backward", dh, _blocks(n * H), dh, dh_next, dc, gates, tanh_c, c_prev, *out, np.int32(n), np.int32(H))
    return out


def supports_rnn_cell(a, r, out):
    return _fits(a, r, out)


def rnn_cell(a, r, out):
    _launch("rnn_cell", "rnn_cell", a, _blocks(a.size), a, r, out, np.int64(a.size))
    return out


def supports_rnn_cell_backward(dh, dh_next, h, out):
    return _fits(dh, dh_next, h, out)


def rnn_cell_backward(dh, dh_next, h, out):
    _launch("rnn_cell", "rnn_cell_backward", dh, _blocks(dh.size), dh, dh_next, h, out, np.int64(dh.size))
    return out


def supports_softmax_loss(scores, targets, scale, out):
    return _fits(scores, scale, out) and _indexes(targets)


def softmax_loss(scores, targets, scale, out):
    rows, V = scores.shape
    nll = get_array_module(scores).empty(rows, scores.dtype)
    _launch("softmax_loss", "softmax_loss", scores, rows, scores, targets, scale, nll, out, np.int32(V))
    return nll, out


def supports_segment_sum(rows, groups, out):
    return _fits(rows, out) and _indexes(groups.order, groups.starts)


def segment_sum(rows, groups, out):
    count, C = out.shape
    _launch("segment_sum", "segment_sum", rows, (count, _blocks(C)), rows, groups.order, groups.starts, out, np.int32(C))
    return out


def supports_drop(x, mask, keep):
    return _fits(x) and mask.dtype == bool and mask.shape == x.shape and mask.flags.c_contiguous


def drop(x, mask, keep):
    out = get_array_module(x).empty_like(x)
    _launch("dropout", "dropout", x, _blocks(x.size), x, mask, out, np.float64(keep), np.int64(x.size))
    return out


def supports_global_norm(x):
    return _fits(x)


def global_norm(x):
    xp = get_array_module(x)
    partial, norm = xp.empty(NORM_BLOCKS, np.float64), xp.empty((), x.dtype)
    _launch("norm", "squares", x, NORM_BLOCKS, x, partial, np.int64(x.size))
    _launch("norm", "root", x, 1, partial, norm)
    return norm


def supports_clip_to_norm(x, norm, most):
    return _fits(x, norm)


def clip_to_norm(x, norm, most):
    _launch("norm", "clip", x, _blocks(x.size), x, norm, np.float64(most), np.int64(x.size))


def supports_adam_update(w, dw, m, v, *_):
    return _fits(w, dw, m, v)


def adam_update(w, dw, m, v, alpha, beta1, beta2, epsilon):
    numbers = [np.float64(number) for number in (alpha, beta1, beta2, epsilon)]
    _launch("adam", "adam_update", w, _blocks(w.size), w, dw, m, v, *numbers, np.int64(w.size))


def supports_record_step(record, i, loss, norm):
    return _fits(record, loss, norm)


def record_step(record, i, loss, norm):
    _launch("record", "record_step", record, 1, record, loss, norm, np.int32(i))


def supports_draw_masks(masks, numbers, *_):
    places = [x for part in masks for x in part]
    return all(is_device_array(x) and x.dtype == bool and x.flags.c_contiguous for x in places) and all(_indexes(*rows) for rows in numbers)


def draw_masks(masks, numbers, counts, seed, step, keep):
    scalars = np.int32(round(65536 * keep)), np.int64(seed), np.int64(step)
    for part, rows in zip(masks, numbers, strict=True):
        sizes = [np.int32(size) for mask in part for size in mask.shape]
        blocks = sum(len(mask) * -(-mask.shape[1] // 16) for mask in part)
        _launch("philox", "draw_masks", part[0], _blocks(blocks), *rows, *part, *sizes, *scalars)
