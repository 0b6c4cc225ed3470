"""The few operations that have, or may get, a fast version.

Each docstring is the contract for all versions. The function asks the kernel table once and otherwise runs the plain equations. Arguments are
trusted, since the calling layer has checked them. `out` gives arrays to write to; None allocates them.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from xpcap import kernels
from xpcap.backend import Array, asarray, get_array_module


def sigmoid(x: Array) -> Array:
    """1 / (1 + exp(-x)) without overflow and with full relative accuracy for either sign; dtype in is dtype out."""
    xp = get_array_module(x)
    z = xp.exp(-xp.abs(x))  # in (0, 1]
    return xp.where(x >= 0, 1, z) / (1 + z)


class Gates(NamedTuple):
    """Results of an LSTM step: state h and c, the gates i, f, o, g side by side, and tanh(c)."""

    h: Array  # (n, H)
    c: Array  # (n, H)
    gates: Array  # (n, 4H)
    tanh_c: Array  # (n, H)


def lstm_gates(a: Array, r: Array, c_prev: Array, out: Gates | None = None) -> Gates:
    """The elementwise half of an LSTM step: a (n, 4H) comes from the input, r (n, 4H) from the previous state.

    i, f, o = sigmoid((a + r)_i), sigmoid((a + r)_f), sigmoid((a + r)_o);  g = tanh((a + r)_g)
    c = f * c_prev + i * g;  h = o * tanh(c)

    The four blocks are stacked i, f, o, g. `out.gates` may be a or r itself.
    """
    if out is None:
        xp = get_array_module(a, c_prev)
        out = Gates(xp.empty_like(c_prev), xp.empty_like(c_prev), xp.empty_like(a), xp.empty_like(c_prev))
    if fast := kernels.find("lstm_gates", a, r, c_prev, out):
        return fast(a, r, c_prev, out)
    xp, H = get_array_module(a, r, c_prev), c_prev.shape[1]
    h, c, gates, tanh_c = out
    a = a + r  # (n, 4H)
    gates[:, : 3 * H] = sigmoid(a[:, : 3 * H])
    gates[:, 3 * H :] = xp.tanh(a[:, 3 * H :])
    i, f, o, g = split_gates(gates)
    c[...] = f * c_prev + i * g
    tanh_c[...] = xp.tanh(c)
    h[...] = o * tanh_c
    return out


def lstm_gates_backward(
    dh: Array, dh_next: Array, dc: Array, gates: Array, tanh_c: Array, c_prev: Array, out: tuple[Array, Array] | None = None
) -> tuple[Array, Array]:
    """Gradients of lstm_gates: da (n, 4H), for a and r alike, and dc_prev (n, H).

    Upstream gradients, each (n, H): dh from the layer above, dh_next and dc from the next time step. dc_prev may be dc itself.
    """
    if out is None:
        xp = get_array_module(gates, dc)
        out = xp.empty_like(gates), xp.empty_like(dc)
    if fast := kernels.find("lstm_gates_backward", dh, dh_next, dc, gates, tanh_c, c_prev, out):
        return fast(dh, dh_next, dc, gates, tanh_c, c_prev, out)
    i, f, o, g = split_gates(gates)
    da, dc_prev = out
    dh_all = dh + dh_next  # (n, H)
    dc_all = dc + dh_all * o * (1 - tanh_c * tanh_c)  # (n, H)
    di, df, do, dg = split_gates(da)
    di[...] = dc_all * g * i * (1 - i)
    df[...] = dc_all * c_prev * f * (1 - f)
    do[...] = dh_all * tanh_c * o * (1 - o)
    dg[...] = dc_all * i * (1 - g * g)
    dc_prev[...] = dc_all * f
    return out


def split_gates(gates: Array) -> tuple[Array, Array, Array, Array]:
    """Views of the four (n, H) blocks i, f, o, g of an (n, 4H) array."""
    H = gates.shape[1] // 4
    return gates[:, :H], gates[:, H : 2 * H], gates[:, 2 * H : 3 * H], gates[:, 3 * H :]


def rnn_cell(a: Array, r: Array, out: Array | None = None) -> Array:
    """The elementwise half of an RNN step: h = tanh(a + r), each (n, H); a comes from the input, r from the previous state. `out` may be a or r."""
    if out is None:
        out = get_array_module(a).empty_like(a)
    if fast := kernels.find("rnn_cell", a, r, out):
        return fast(a, r, out)
    xp = get_array_module(a, r)
    out[...] = xp.tanh(a + r)
    return out


def rnn_cell_backward(dh: Array, dh_next: Array, h: Array, out: Array | None = None) -> Array:
    """Gradient of rnn_cell: da (n, H), for a and r alike, given dh from the layer above and dh_next from the next time step, each (n, H)."""
    if out is None:
        out = get_array_module(h).empty_like(h)
    if fast := kernels.find("rnn_cell_backward", dh, dh_next, h, out):
        return fast(dh, dh_next, h, out)
    out[...] = (dh + dh_next) * (1 - h * h)
    return out


def log_softmax(scores: Array) -> Array:
    """log(exp(s) / sum(exp(s))) along the last axis of scores (R, V), after subtracting each row's maximum."""
    xp = get_array_module(scores)
    shifted = scores - scores.max(axis=-1, keepdims=True)
    return shifted - xp.log(xp.exp(shifted).sum(axis=-1, keepdims=True))


def softmax_loss(scores: Array, targets: Array, scale: Array, out: Array | None = None) -> tuple[Array, Array]:
    """Negative log-likelihood nll (R,) of targets (R,) under scores (R, V), and the gradient dscores (R, V) of sum(scale * nll).

    dscores[r] = scale[r] * (softmax(scores[r]) - onehot(targets[r])), with scale (R,). `out` receives dscores and may be scores itself.
    """
    if out is None:
        out = get_array_module(scores).empty_like(scores)
    if fast := kernels.find("softmax_loss", scores, targets, scale, out):
        return fast(scores, targets, scale, out)
    xp = get_array_module(scores, targets)
    rows = xp.arange(scores.shape[0])
    log_p = log_softmax(scores)
    xp.exp(log_p, out=out)
    out[rows, targets] -= 1
    out *= scale[:, None]
    return -log_p[rows, targets], out


def word_loss(h: Array, w: Array, b: Array, targets: Array, scale: Array, dscores: Array, dh: Array) -> Array:
    """nll (R,) of targets (R,) under the scores h @ w + b, with h (R, H), w (H, V), and its gradients: dscores (R, V) and dh (R, H), written to.

    dscores, as in softmax_loss, is the gradient of sum(scale * nll);  dh = dscores @ w.T
    """
    if fast := kernels.find("word_loss", h, w, b, targets, scale, dscores, dh):
        return fast(h, w, b, targets, scale, dscores, dh)
    scores = product(h, w, out=dscores)
    scores += b
    nll, _ = softmax_loss(scores, targets, scale, out=dscores)
    product(dscores, w.T, out=dh)
    return nll


def gather(table: Array, rows: Array, out: Array) -> Array:
    """out = table[rows]: table (K, C), rows (R,) int, out (R, C)."""
    if fast := kernels.find("gather", table, rows, out):
        return fast(table, rows, out)
    get_array_module(table, rows).take(table, rows, axis=0, out=out)
    return out


def product(x: Array, w: Array, out: Array) -> Array:
    """out = x @ w: x (n, k), w (k, m), out (n, m) C-contiguous."""
    if fast := kernels.find("product", x, w, out):
        return fast(x, w, out)
    return get_array_module(x, w).dot(x, w, out=out)


def times_transpose(x: Array, w: Array, out: Array, scratch: Array) -> Array:
    """out = x @ w.T: x (n, k), w (m, k), out (n, m). `scratch` is a flat array of at least n * m elements; it is overwritten."""
    if fast := kernels.find("times_transpose", x, w, out, scratch):
        return fast(x, w, out, scratch)
    return get_array_module(x, w).dot(x, w.T, out=out)


class Segments(NamedTuple):
    """Rows grouped by id 0..K-1. `order` lists row numbers sorted by id, ties in their original order; those of id k start at starts[k]."""

    ids: Array  # (R,) int
    order: Array  # (R,) int
    starts: Array  # (K+1,) int


def segments(ids: Array, count: int) -> Segments:
    """Group rows by ids (R,), each in 0..count-1. Never waits for a device."""
    xp = get_array_module(ids)
    ids = ids.astype(xp.int32)  # `count` may not fit a narrower type
    order = xp.argsort(ids, kind="stable")
    starts = xp.searchsorted(ids[order], xp.arange(count + 1, dtype=xp.int32))
    return Segments(ids, order.astype(xp.int32), starts.astype(xp.int32))


def segment_sum(rows: Array, groups: Segments, out: Array | None = None) -> Array:
    """out[k] = sum of rows[r] over all r with ids[r] == k: rows (R, C), out (K, C)."""
    if out is None:
        out = get_array_module(rows).empty((len(groups.starts) - 1, rows.shape[1]), rows.dtype)
    if fast := kernels.find("segment_sum", rows, groups, out):
        return fast(rows, groups, out)
    xp = get_array_module(rows, groups.ids)
    out[...] = 0
    xp.add.at(out, groups.ids, rows)
    return out


def drop(x: Array, mask: Array, keep: float) -> Array:
    """Inverted dropout: x / keep where `mask` (bool, shape of x) is true, else 0. The gradient is the same function of dout."""
    if fast := kernels.find("drop", x, mask, keep):
        return fast(x, mask, keep)
    out = x * mask
    out *= 1 / keep
    return out


def draw_masks(
    masks: Sequence[Sequence[Array]], numbers: Sequence[Sequence[Array]], counts: Sequence[int], seed: int, step: int, keep: float
) -> None:
    """Draw the dropout masks of a training step: which units of image features (place 0), words (1) and hidden states (2) are kept.

    Unit u of row number r of a place is kept if 16 bits are below round(65536 * keep), at most 65536: bits 16 * (u % 16) and up of the 256 that
    Philox 4x64-10 makes of the key (seed, place) and the counter (1 + r * ceil(width / 16) + u // 16, 0, 0, step), low words and low bits first.
    So a mask is a function of seed, place, step, row number and unit, and ``numpy.random.Philox(key=[seed, place], counter=[0, 0, 0,
    step]).random_raw(...).view(numpy.uint16)`` has the bits of row 0, of row 1, and so on: NumPy counts up before it makes a block.

    Parameters
    ----------
    masks : of each part of the batch, for each place: array (n, width), bool, written to
    numbers : likewise: array (n,), int32, the row number of each row
    counts : for each place, the rows of the whole batch; its numbers are 0..count-1
    seed, step : int in 0..2**63-1

    Notes
    -----
    Salmon et al. 2011, *Parallel random numbers: as easy as 1, 2, 3*.
    """
    if fast := kernels.find("draw_masks", masks, numbers, counts, seed, step, keep):
        fast(masks, numbers, counts, seed, step, keep)
        return
    for place, count in enumerate(counts):
        kept = _draw_rows(seed, place, step, (count, masks[0][place].shape[1]), keep)
        for part, rows in zip(masks, numbers, strict=True):
            gather(asarray(kept, like=part[place]), rows[place], out=part[place])


def _draw_rows(seed: int, place: int, step: int, shape: tuple[int, int], keep: float) -> np.ndarray:
    """Rows 0, 1, ... of one place, on the host."""
    count, width = shape
    blocks = -(-width // 16)  # of 16 units, a row
    key, counter = np.array([seed, place], np.uint64), np.array([0, 0, 0, step], np.uint64)
    words = np.random.Philox(key=key, counter=counter).random_raw(4 * count * blocks)
    bits = words.astype("<u8", copy=False).view("<u2")
    return (bits < round(65536 * keep)).reshape(count, 16 * blocks)[:, :width]


def global_norm(x: Array) -> Array:
    """Euclidean norm of x (n,): 0-d, in x's dtype. Squares are summed in double: over millions, float32 would lose two or three digits."""
    if fast := kernels.find("global_norm", x):
        return fast(x)
    xp = get_array_module(x)
    wide = x.astype(xp.float64)
    return xp.sqrt(xp.vdot(wide, wide)).astype(x.dtype)


def clip_to_norm(x: Array, norm: Array, most: float) -> None:
    """Scale x (n,) in place to Euclidean norm `most` if its norm, given as `norm` (0-d), is larger."""
    if fast := kernels.find("clip_to_norm", x, norm, most):
        fast(x, norm, most)
        return
    xp = get_array_module(x)
    x *= most / xp.maximum(norm, most)


def adam_update(w: Array, dw: Array, m: Array, v: Array, alpha: float, beta1: float, beta2: float, epsilon: float) -> None:
    """One Adam step, updating w, m and v (all of one shape) in place; alpha includes the bias correction.

    m = beta1 * m + (1 - beta1) * dw;  v = beta2 * v + (1 - beta2) * dw**2;  w -= alpha * m / (sqrt(v) + epsilon)
    """
    if fast := kernels.find("adam_update", w, dw, m, v):
        fast(w, dw, m, v, alpha, beta1, beta2, epsilon)
        return
    xp = get_array_module(w, dw, m, v)
    m[...] = beta1 * m + (1 - beta1) * dw
    v[...] = beta2 * v + (1 - beta2) * (dw * dw)
    w -= alpha * m / (xp.sqrt(v) + epsilon)


def record_step(record: Array, i: int, loss: Array, norm: Array) -> None:
    """Write loss and gradient norm (both 0-d) of step i to row 1 + i of record (n+1, 2). record[0, 0] starts at 1 and turns 0 if any is not finite."""
    if fast := kernels.find("record_step", record, i, loss, norm):
        fast(record, i, loss, norm)
        return
    xp = get_array_module(record, loss, norm)
    record[1 + i, 0] = loss
    record[1 + i, 1] = norm
    record[0, 0] *= xp.isfinite(loss) & xp.isfinite(norm)
