"""Single operations that have, or may get, a fast version: contracts and plain equations.

Each docstring is the contract of every version. A function looks for a kernel once (`find`) and
runs the plain equations if there is none. Arguments are trusted: the calling layer has checked
them. Results are written to `out`; None allocates.
"""

from typing import NamedTuple

from xpcap.backend import Array, get_array_module, is_device_array
from xpcap.memory import Buffer, allocator
from xpcap.ops.dispatch import find
from xpcap.threads import in_turn


def sigmoid(x: Array) -> Array:
    """The logistic function 1 / (1 + exp(-x)), without overflow and accurate for either sign.

    Parameters
    ----------
    x : array, float, any shape

    Returns
    -------
    y : array, shape and dtype of x
    """
    xp = get_array_module(x)
    z = xp.exp(-xp.abs(x))  # in (0, 1]
    return xp.where(x >= 0, 1, z) / (1 + z)


# ---- Products


def matmul(x: Array, w: Array, out: Array) -> Array:
    """out = x @ w: x (n, k), w (k, m), out (n, m) C-contiguous."""
    if fast := find(matmul, x, w, out):
        return fast(x, w, out)
    return get_array_module(x, w).dot(x, w, out=out)


def matmul_add(x: Array, w: Array, out: Array, buffer: Buffer | None = None) -> Array:
    """out += x @ w: x (n, k), w (k, m), out (n, m) C-contiguous; memory for x @ w from `buffer`."""
    if fast := find(matmul_add, x, w, out):
        return fast(x, w, out)
    out += matmul(x, w, out=(buffer or allocator(out))("product", out.shape))
    return out


def matmul_nt(x: Array, w: Array, out: Array) -> Array:
    """out = x @ w.T: x (n, k), w (m, k), out (n, m)."""
    if fast := find(matmul_nt, x, w, out):
        return fast(x, w, out)
    return get_array_module(x, w).dot(x, w.T, out=out)


# ---- Losses

# Target of a row of padding, int32, on a device. No wrong target is likely to be it: neither -1, nor
# -100, which PyTorch ignores, nor the smallest integer, which NaN becomes.
NO_TARGET = 1 - 2**31


def log_softmax(scores: Array) -> Array:
    """log(exp(s) / sum(exp(s))) of each row s of scores (R, V), after subtracting its maximum."""
    xp = get_array_module(scores)
    shifted = scores - scores.max(axis=-1, keepdims=True)
    return shifted - xp.log(xp.exp(shifted).sum(axis=-1, keepdims=True))


def softmax_loss(
    scores: Array,
    targets: Array,
    scale: Array | float,
    out: Array | None = None,
    smoothing: float = 0.0,
) -> tuple[Array, Array]:
    """Cross entropy nll (R,) of scores (R, V) with q, and the gradient dscores of sum(scale * nll).

    q[r] = (1 - smoothing) * onehot(targets[r]) + smoothing / V
    nll[r] = -sum(q[r] * log softmax(scores[r]))
    dscores[r] = scale[r] * (softmax(scores[r]) - q[r]), with scale (R,), or one number for all rows

    Without smoothing nll is the negative log-likelihood of the targets. `out` receives dscores and
    may be scores itself. On a device a row may have NO_TARGET: its nll and dscores are 0.
    """
    if out is None:
        out = get_array_module(scores).empty_like(scores)
    if fast := find(softmax_loss, scores, targets, scale, out):
        return fast(scores, targets, scale, out, smoothing)
    xp = get_array_module(scores, targets)
    rows = xp.arange(scores.shape[0])
    log_p = log_softmax(scores)
    padded = is_device_array(targets) and targets.dtype == xp.int32
    if padded:
        has_target = targets != NO_TARGET
        targets = xp.where(has_target, targets, 0)
    xp.exp(log_p, out=out)
    out[rows, targets] -= 1 - smoothing
    nll = (smoothing - 1) * log_p[rows, targets]
    if smoothing:
        out -= smoothing / scores.shape[1]
        nll -= smoothing * log_p.mean(axis=1)
    out *= scale if isinstance(scale, float) else scale[:, None]
    if padded:
        out *= has_target[:, None]
        nll *= has_target
    return nll, out


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
    """Softmax loss of the scores h @ w + b, with h (R, H), w (H, V), and the gradient of h.

    nll (R,), dscores (R, V) and dh = dscores @ w.T (R, H) are written to.
    """
    if fast := find(word_loss, h, w, b, targets, scale, nll, dscores, dh):
        fast(h, w, b, targets, scale, nll, dscores, dh, smoothing)
        return
    scores = matmul(h, w, out=dscores)
    scores += b
    nll[...], _ = softmax_loss(scores, targets, scale, dscores, smoothing)
    matmul(dscores, w.T, out=dh)


def weighted_sum(x: Array, scale: Array | float, out: Array) -> Array:
    """sum(scale * x), 0-d: x (R,), scale (R,) or one number.

    On a device the result is in `out`; on the host it is a number that no later step overwrites.
    """
    if fast := find(weighted_sum, x, scale, out):
        return fast(x, scale, out)
    return x.sum() * scale if isinstance(scale, float) else (x * scale).sum()


# ---- Rows of tables, and their gradients


def gather(
    table: Array, rows: Array | None, out: Array, mask: Array | None = None, keep: float = 1.0
) -> Array:
    """out = table[rows]: table (K, C), rows (R,) int, or None for all K, out (R, C).

    With a mask (R, C), inverted dropout of those rows, as in `dropout`.
    """
    if fast := find(gather, table, rows, out, mask, keep):
        return fast(table, rows, out, mask, keep)
    xp = get_array_module(table)
    if rows is None:
        out[...] = table
    else:
        xp.take(table, rows, axis=0, out=out)
    if mask is not None:
        out[...] = dropout(out, mask, keep)
    return out


def gather_plus(table: Array, rows: Array, b: Array, out: Array) -> Array:
    """out = table[rows] + b: table (K, C), overwritten, rows (R,) int, b (C,), out (R, C)."""
    if fast := find(gather_plus, table, rows, b, out):
        return fast(table, rows, b, out)
    table += b
    return gather(table, rows, out)


def scatter(
    x: Array, rows: Array, out: Array, mask: Array | None = None, keep: float = 1.0
) -> Array:
    """Gradient of `gather` for rows that are distinct and ascend.

    out (K, C) = 0, then out[rows] = x (R, C), after inverted dropout if there is a mask (R, C).
    """
    if fast := find(scatter, x, rows, out, mask, keep):
        return fast(x, rows, out, mask, keep)
    out[...] = 0
    out[rows] = x if mask is None else dropout(x, mask, keep)
    return out


class Segments(NamedTuple):
    """Rows grouped by id 0..K-1: those of id k are order[starts[k] : starts[k + 1]]."""

    ids: Array  # (R,) int
    order: Array  # (R,) int, row numbers sorted by id, ties in their original order
    starts: Array  # (K+1,) int


def segments(ids: Array, count: int) -> Segments:
    """Rows grouped by ids (R,), each in 0..count-1. Never waits for a device."""
    xp = get_array_module(ids)
    ids = ids.astype(xp.int32)  # `count` may not fit a narrower type
    order = xp.argsort(ids, kind="stable")
    starts = xp.searchsorted(ids[order], xp.arange(count + 1, dtype=xp.int32))
    return Segments(ids, order.astype(xp.int32), starts.astype(xp.int32))


def segment_sum(rows: Array, groups: Segments, out: Array | None = None) -> Array:
    """out[k] = sum of rows[r] over all r with ids[r] == k: rows (R, C), out (K, C)."""
    if out is None:
        out = get_array_module(rows).empty((len(groups.starts) - 1, rows.shape[1]), rows.dtype)
    if fast := find(segment_sum, rows, groups, out):
        return fast(rows, groups, out)
    xp = get_array_module(rows, groups.ids)
    out[...] = 0
    xp.add.at(out, groups.ids, rows)
    return out


def column_sum(x: Array, out: Array) -> Array:
    """out (C,) = sum of the rows of x (R, C)."""
    if fast := find(column_sum, x, out):
        return fast(x, out)
    return x.sum(axis=0, out=out)


def add_rows(x: Array, b: Array) -> Array:
    """x += b, in place: x (R, C); b (C,), added to every row, or (R, C)."""
    if fast := find(add_rows, x, b):
        return fast(x, b)
    x += b
    return x


def dropout(x: Array, mask: Array, keep: float) -> Array:
    """Inverted dropout: x / keep where `mask` (bool, as x) is true, else 0. Its own gradient."""
    if fast := find(dropout, x, mask, keep):
        return fast(x, mask, keep)
    out = x * mask
    out *= 1 / keep
    return out


# ---- The update of a training step


@in_turn
def global_norm(x: Array, buffer: Buffer | None = None) -> Array:
    """Euclidean norm of x (n,), 0-d, in x's dtype, summed in double; on a device in `buffer`."""
    if fast := find(global_norm, x):
        return fast(x, buffer or allocator(x))
    xp = get_array_module(x)
    wide = x.astype(xp.float64)
    return xp.sqrt(xp.vdot(wide, wide)).astype(x.dtype)


@in_turn
def clip_by_norm(x: Array, most: float, buffer: Buffer | None = None) -> Array:
    """Norm of x (n,), which is scaled in place to the norm `most` if its own is larger."""
    if fast := find(clip_by_norm, x, most):
        return fast(x, most, buffer or allocator(x))
    norm = global_norm(x, buffer)
    x *= most / get_array_module(x).maximum(norm, most)
    return norm


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
    """An Adam step, on w, m and v in place; alpha includes the bias correction.

    m = beta1 * m + (1 - beta1) * dw
    v = beta2 * v + (1 - beta2) * dw**2
    w -= alpha * m / (sqrt(v) + epsilon)
    """
    if fast := find(adam_update, w, dw, m, v):
        fast(w, dw, m, v, alpha, beta1, beta2, epsilon)
        return
    xp = get_array_module(w, dw, m, v)
    m[...] = beta1 * m + (1 - beta1) * dw
    v[...] = beta2 * v + (1 - beta2) * (dw * dw)
    w -= alpha * m / (xp.sqrt(v) + epsilon)


def record_step(record: Array, i: int, loss: Array, norm: Array) -> None:
    """Write loss and gradient norm (both 0-d) of step i to row 1 + i of record (n+1, 2).

    record[0, 0] starts at 1 and becomes 0 when any of them is not finite.
    """
    if fast := find(record_step, record, i, loss, norm):
        fast(record, i, loss, norm)
        return
    xp = get_array_module(record, loss, norm)
    record[1 + i, 0] = loss
    record[1 + i, 1] = norm
    record[0, 0] *= xp.isfinite(loss) & xp.isfinite(norm)
