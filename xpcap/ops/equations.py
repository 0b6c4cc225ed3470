"""The few operations that have, or may get, a fast version.

Each docstring is the contract for all versions. The function asks the kernel table once and otherwise runs the plain equations. Arguments are
trusted, since the calling layer has checked them. `out` gives arrays to write to; None allocates them.
"""

from typing import NamedTuple

from xpcap.backend import Array, get_array_module
from xpcap.memory import Buffer, fresh
from xpcap.ops import dispatch
from xpcap.threads import in_turn


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
    if fast := dispatch.find("lstm_gates", a, r, c_prev, out):
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
    if fast := dispatch.find("lstm_gates_backward", dh, dh_next, dc, gates, tanh_c, c_prev, out):
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
    if fast := dispatch.find("rnn_cell", a, r, out):
        return fast(a, r, out)
    xp = get_array_module(a, r)
    out[...] = xp.tanh(a + r)
    return out


def rnn_cell_backward(dh: Array, dh_next: Array, h: Array, out: Array | None = None) -> Array:
    """Gradient of rnn_cell: da (n, H), for a and r alike, given dh from the layer above and dh_next from the next time step, each (n, H)."""
    if out is None:
        out = get_array_module(h).empty_like(h)
    if fast := dispatch.find("rnn_cell_backward", dh, dh_next, h, out):
        return fast(dh, dh_next, h, out)
    out[...] = (dh + dh_next) * (1 - h * h)
    return out


def log_softmax(scores: Array) -> Array:
    """log(exp(s) / sum(exp(s))) along the last axis of scores (R, V), after subtracting each row's maximum."""
    xp = get_array_module(scores)
    shifted = scores - scores.max(axis=-1, keepdims=True)
    return shifted - xp.log(xp.exp(shifted).sum(axis=-1, keepdims=True))


def softmax_loss(scores: Array, targets: Array, scale: Array | float, out: Array | None = None, smoothing: float = 0.0) -> tuple[Array, Array]:
    """Cross entropy nll (R,) of scores (R, V) with q, and the gradient dscores (R, V) of sum(scale * nll).

    q[r] = (1 - smoothing) * onehot(targets[r]) + smoothing / V;  nll[r] = -sum(q[r] * log softmax(scores[r]))
    dscores[r] = scale[r] * (softmax(scores[r]) - q[r]), with scale (R,), or one number for all rows

    Without smoothing nll is the negative log-likelihood of the targets. `out` receives dscores and may be scores itself.
    """
    if out is None:
        out = get_array_module(scores).empty_like(scores)
    if fast := dispatch.find("softmax_loss", scores, targets, scale, out):
        return fast(scores, targets, scale, out, smoothing)
    xp = get_array_module(scores, targets)
    rows = xp.arange(scores.shape[0])
    log_p = log_softmax(scores)
    xp.exp(log_p, out=out)
    out[rows, targets] -= 1 - smoothing
    nll = (smoothing - 1) * log_p[rows, targets]
    if smoothing:
        out -= smoothing / scores.shape[1]
        nll -= smoothing * log_p.mean(axis=1)
    out *= scale if isinstance(scale, float) else scale[:, None]
    return nll, out


def word_loss(
    h: Array, w: Array, b: Array, targets: Array, scale: Array | float, nll: Array, dscores: Array, dh: Array, smoothing: float = 0.0
) -> None:
    """softmax_loss of the scores h @ w + b, with h (R, H), w (H, V): nll (R,), dscores (R, V) and dh = dscores @ w.T (R, H), all written to."""
    if fast := dispatch.find("word_loss", h, w, b, targets, scale, nll, dscores, dh):
        fast(h, w, b, targets, scale, nll, dscores, dh, smoothing)
        return
    scores = product(h, w, out=dscores)
    scores += b
    nll[...], _ = softmax_loss(scores, targets, scale, dscores, smoothing)
    product(dscores, w.T, out=dh)


def weighted_sum(x: Array, scale: Array | float, out: Array) -> Array:
    """out = sum(scale * x), 0-d: x (R,), scale (R,) or one number. Returns `out`, or on the host a number, which no later step overwrites."""
    if fast := dispatch.find("weighted_sum", x, scale, out):
        return fast(x, scale, out)
    return x.sum() * scale if isinstance(scale, float) else (x * scale).sum()


def gather(table: Array, rows: Array | None, out: Array, mask: Array | None = None, keep: float = 1.0) -> Array:
    """out = table[rows]: table (K, C), rows (R,) int, or None for all K, out (R, C). With a mask (R, C), inverted dropout: `drop`, of those rows."""
    if fast := dispatch.find("gather", table, rows, out, mask, keep):
        return fast(table, rows, out, mask, keep)
    xp = get_array_module(table)
    if rows is None:
        out[...] = table
    else:
        xp.take(table, rows, axis=0, out=out)
    if mask is not None:
        out[...] = drop(out, mask, keep)
    return out


def gather_plus(table: Array, rows: Array, b: Array, out: Array) -> Array:
    """out = table[rows] + b: table (K, C), rows (R,) int, b (C,), out (R, C). The table may be overwritten."""
    if fast := dispatch.find("gather_plus", table, rows, b, out):
        return fast(table, rows, b, out)
    table += b
    return gather(table, rows, out)


def scatter(x: Array, rows: Array, out: Array, mask: Array | None = None, keep: float = 1.0) -> Array:
    """The gradient of gather for distinct rows that ascend: out (K, C) = 0, then out[rows] = x (R, C), after inverted dropout if there is a mask (R, C)."""
    if fast := dispatch.find("scatter", x, rows, out, mask, keep):
        return fast(x, rows, out, mask, keep)
    out[...] = 0
    out[rows] = x if mask is None else drop(x, mask, keep)
    return out


def product(x: Array, w: Array, out: Array) -> Array:
    """out = x @ w: x (n, k), w (k, m), out (n, m) C-contiguous."""
    if fast := dispatch.find("product", x, w, out):
        return fast(x, w, out)
    return get_array_module(x, w).dot(x, w, out=out)


def add_product(x: Array, w: Array, out: Array, scratch: Array) -> Array:
    """out += x @ w: x (n, k), w (k, m), out (n, m) C-contiguous. `scratch` has the shape of out; it is overwritten."""
    if fast := dispatch.find("add_product", x, w, out, scratch):
        return fast(x, w, out, scratch)
    out += product(x, w, out=scratch)
    return out


def times_transpose(x: Array, w: Array, out: Array, scratch: Array) -> Array:
    """out = x @ w.T: x (n, k), w (m, k), out (n, m). `scratch` is a flat array of at least n * m elements; it is overwritten."""
    if fast := dispatch.find("times_transpose", x, w, out, scratch):
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
    if fast := dispatch.find("segment_sum", rows, groups, out):
        return fast(rows, groups, out)
    xp = get_array_module(rows, groups.ids)
    out[...] = 0
    xp.add.at(out, groups.ids, rows)
    return out


def drop(x: Array, mask: Array, keep: float) -> Array:
    """Inverted dropout: x / keep where `mask` (bool, shape of x) is true, else 0. The gradient is the same function of dout."""
    if fast := dispatch.find("drop", x, mask, keep):
        return fast(x, mask, keep)
    out = x * mask
    out *= 1 / keep
    return out


@in_turn
def global_norm(x: Array, buffer: Buffer | None = None) -> Array:
    """Euclidean norm of x (n,): 0-d, in x's dtype, on a device in memory from `buffer`. Squares are summed in double: float32 would lose digits."""
    if fast := dispatch.find("global_norm", x):
        return fast(x, buffer or fresh(x))
    xp = get_array_module(x)
    wide = x.astype(xp.float64)
    return xp.sqrt(xp.vdot(wide, wide)).astype(x.dtype)


@in_turn
def clip_by_norm(x: Array, most: float, buffer: Buffer | None = None) -> Array:
    """Scale x (n,) in place to Euclidean norm `most` if its norm is larger, and return the norm it had, as global_norm does."""
    if fast := dispatch.find("clip_by_norm", x, most):
        return fast(x, most, buffer or fresh(x))
    norm = global_norm(x, buffer)
    x *= most / get_array_module(x).maximum(norm, most)
    return norm


def adam_update(w: Array, dw: Array, m: Array, v: Array, alpha: float, beta1: float, beta2: float, epsilon: float) -> None:
    """One Adam step, updating w, m and v (all of one shape) in place; alpha includes the bias correction.

    m = beta1 * m + (1 - beta1) * dw;  v = beta2 * v + (1 - beta2) * dw**2;  w -= alpha * m / (sqrt(v) + epsilon)
    """
    if fast := dispatch.find("adam_update", w, dw, m, v):
        fast(w, dw, m, v, alpha, beta1, beta2, epsilon)
        return
    xp = get_array_module(w, dw, m, v)
    m[...] = beta1 * m + (1 - beta1) * dw
    v[...] = beta2 * v + (1 - beta2) * (dw * dw)
    w -= alpha * m / (xp.sqrt(v) + epsilon)


def record_step(record: Array, i: int, loss: Array, norm: Array) -> None:
    """Write loss and gradient norm (both 0-d) of step i to row 1 + i of record (n+1, 2). record[0, 0] starts at 1 and turns 0 if any is not finite."""
    if fast := dispatch.find("record_step", record, i, loss, norm):
        fast(record, i, loss, norm)
        return
    xp = get_array_module(record, loss, norm)
    record[1 + i, 0] = loss
    record[1 + i, 1] = norm
    record[0, 0] *= xp.isfinite(loss) & xp.isfinite(norm)
