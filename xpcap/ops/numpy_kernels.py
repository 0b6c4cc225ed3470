"""NumPy kernels: each does what the plain equations in ops.py say, and has a row in docs/benchmarks.md.

Elementwise work runs in place, in blocks that fit in cache. Adam updates a share of the parameters on each core.

In the time loops everything that stays the same is prepared: with small batches NumPy's calls cost more than their arithmetic. A pass over whole rows,
which are contiguous, takes half as long as one over the columns of three gates, so whatever the gates share is done to all four.
"""

import functools
import math

import numpy as np

from xpcap.threads import cores, crowding, free_cores, side_by_side, split_evenly

BLOCK = 1 << 17  # elements: small enough to stay in cache, large enough that threads rarely wait for Python's lock between calls
NORM_BLOCK = 1 << 15  # elements whose squares are summed in their own dtype
FEW = 128  # rows, at most, of a small product: `product` keeps it whole, `times_transpose` computes its transpose
SMALL = 1 << 27  # multiplications: fewer are done before another thread has woken
ROUNDS = 4  # ids with more rows than this are summed separately
SHARE = 1 << 18  # elements, at least, for Adam to use another core


def on_host(first, *arrays):
    return isinstance(first, np.ndarray) and all(isinstance(a, np.ndarray) for a in arrays)


def _blocks(n, width):
    """Rows 0..n in blocks of about BLOCK elements of `width` each."""
    step = max(1, BLOCK // width)
    return [slice(start, min(start + step, n)) for start in range(0, n, step)]


def _is_scale(scale):
    return isinstance(scale, float | np.ndarray)


def _part(scale, rows):
    """The scale of some rows: its part of an array, or the number that counts for all."""
    return scale if isinstance(scale, float) else scale[rows]


def supports_softmax_loss(scores, targets, scale, out, *_):
    return on_host(scores, targets, out) and _is_scale(scale) and scores.ndim == 2 and scores.shape[1] > 0


def softmax_loss(scores, targets, scale, out, smoothing=0.0):
    """ops.softmax_loss in place, a block of rows at a time, with one exp per score for both the probabilities and their sum."""
    nll = np.empty(len(scores), scores.dtype)
    for rows in _blocks(*scores.shape):
        p, chosen = out[rows], (np.arange(rows.stop - rows.start), targets[rows])
        np.subtract(scores[rows], scores[rows].max(axis=1, keepdims=True), out=p)
        score = (1 - smoothing) * p[chosen]  # of the target, above the row's maximum
        if smoothing:
            score += smoothing * p.mean(axis=1)
        np.exp(p, out=p)
        total = p.sum(axis=1)
        np.subtract(np.log(total), score, out=nll[rows])
        weight = np.asarray(_part(scale, rows), scores.dtype)
        p *= (weight / total)[:, None]
        if smoothing:
            p -= (weight * smoothing / p.shape[1])[..., None]
        p[chosen] -= (1 - smoothing) * weight
    return nll, out


def supports_adam_update(w, dw, m, v, *_):
    return all(isinstance(a, np.ndarray) and a.ndim == 1 and a.flags.c_contiguous and a.dtype == w.dtype for a in (w, dw, m, v))


def adam_update(w, dw, m, v, alpha, beta1, beta2, epsilon):
    """ops.adam_update in blocks that stay in cache, without full-size temporaries, on all cores."""
    parts = split_evenly(w.size, min(cores(), w.size // SHARE))
    side_by_side(lambda part: _adam_stretch(w[part], dw[part], m[part], v[part], alpha, beta1, beta2, epsilon), parts)


def _adam_stretch(w, dw, m, v, alpha, beta1, beta2, epsilon):
    """Update one core's share of w, m and v."""
    step, scratch = np.empty((2, min(BLOCK, w.size)), w.dtype)
    for start in range(0, w.size, BLOCK):
        block = slice(start, start + BLOCK)
        g = dw[block]
        s, t = step[: g.size], scratch[: g.size]
        m[block] *= beta1
        np.multiply(g, 1 - beta1, out=t)
        m[block] += t
        v[block] *= beta2
        np.multiply(g, g, out=t)
        t *= 1 - beta2
        v[block] += t
        np.sqrt(v[block], out=t)
        t += epsilon
        np.multiply(m[block], alpha, out=s)
        s /= t
        w[block] -= s


def supports_global_norm(x, *_):
    return isinstance(x, np.ndarray) and x.ndim == 1


def global_norm(x, *_):
    """ops.global_norm block by block: squares are summed in their own dtype, in double if that overflows; blocks are summed in double."""
    total = 0.0
    for start in range(0, x.size, NORM_BLOCK):
        block = x[start : start + NORM_BLOCK]
        square = float(np.vdot(block, block))
        total += square if math.isfinite(square) else float(np.vdot(block, block.astype(np.float64)))
    return np.asarray(math.sqrt(total), x.dtype)


def supports_clip_by_norm(x, most):
    return isinstance(x, np.ndarray) and x.ndim == 1


def clip_by_norm(x, most, *_):
    """ops.clip_by_norm that skips the scaling if x is short enough; on the host, reading the norm costs nothing."""
    norm = global_norm(x)
    if not norm <= most:
        x *= most / norm
    return norm


def supports_gather(table, rows, out, mask, keep):
    return on_host(table, out) and out.flags.c_contiguous


def gather(table, rows, out, mask, keep):
    """ops.gather straight into `out`. mode="clip" avoids NumPy's temporary; it clips nothing, as the caller has checked the rows."""
    if rows is not None:
        table = np.take(table, rows, axis=0, out=out, mode="clip")
    elif mask is None:
        out[...] = table
    if mask is not None:
        np.multiply(table, mask, out=out)
        out *= 1 / keep
    return out


def supports_gather_places(table, rows, out, mask, keep):
    return on_host(table, out) and mask is not None


def gather_places(table, rows, out, mask, keep):
    """attending.gather_places in one pass: a picture's places are dropped as they are read."""
    scales = mask.astype(out.dtype)
    scales *= 1 / keep
    for row, scale, places in zip(rows.tolist(), scales, out, strict=True):
        np.multiply(table[row], scale, out=places)
    return out


def supports_product(x, w, out):
    return on_host(x, w, out) and x.size > 0 and w.size > 0 and free_cores() > 1


def product(x, w, out):
    """ops.product with threads that do not wait for one another: a small product by blas.Crowding, a large one split among the cores."""
    n, m = out.shape
    if n <= FEW or x.size * m < SMALL:
        return crowding().dot(x, w, out)
    if n > m:
        side_by_side(lambda rows: np.matmul(x[rows], w, out=out[rows]), split_evenly(n, free_cores()))
    else:  # each core packs its share of w, and x is the smaller one to pack twice
        side_by_side(lambda columns: np.matmul(x, w[:, columns], out=out[:, columns]), split_evenly(m, free_cores()))
    return out


def supports_word_loss(h, w, b, targets, scale, nll, dscores, dh, *_):
    return on_host(h, w, b, targets, dscores, dh) and _is_scale(scale) and h.size * len(b) >= SMALL and free_cores() > 1


def word_loss(h, w, b, targets, scale, nll, dscores, dh, smoothing=0.0):
    """ops.word_loss with its rows split among the cores."""

    def work(rows):
        scores = np.dot(h[rows], w, out=dscores[rows])
        scores += b
        nll[rows], _ = softmax_loss(scores, targets[rows], _part(scale, rows), scores, smoothing)
        np.dot(scores, w.T, out=dh[rows])

    side_by_side(work, split_evenly(len(h), free_cores()))


def supports_segment_sum(rows, groups, out):
    return on_host(rows, out) and rows.ndim == 2 and rows.size > 0


def segment_sum(rows, groups, out):
    """ops.segment_sum: the few ids with many rows are summed one by one; for the rest, all first rows at once, then all second rows, and so on."""
    starts, counts = groups.starts[:-1], np.diff(groups.starts)
    by_count = np.argsort(-counts, kind="stable")  # ids with the most rows first
    starts, counts = starts[by_count], counts[by_count]
    many, some = (int((counts > most).sum()) for most in (ROUNDS, 0))
    for k, start, count in zip(by_count[:many], starts, counts, strict=False):
        np.add.reduce(rows[groups.order[start : start + count]], axis=0, out=out[k])
    out[by_count[many:some]] = rows[groups.order[starts[many:some]]]
    for turn in range(1, ROUNDS):
        more = int((counts > turn).sum())
        if more > many:
            out[by_count[many:more]] += rows[groups.order[starts[many:more] + turn]]
    out[by_count[some:]] = 0
    return out


def supports_row_products(x, w, out):
    return on_host(x, w, out)


def row_products(x, w, out):
    dot = product if supports_product(x, w, out) else np.dot

    def multiply(i, o, n):
        dot(x[i : i + n], w, out[o : o + n])

    return multiply


def supports_row_products_transpose(x, w, out, scratch):
    return on_host(x, w, out, scratch)


def row_products_transpose(x, w, out, scratch):
    """Few rows are computed as (w @ x.T).T.

    OpenBLAS packs the right factor on each call, and packing the large strided w.T costs almost as much as the product.
    """
    m, turned = len(w), w.T
    dot = crowding().dot if free_cores() > 1 and x.size > 0 and w.size > 0 else np.dot

    def multiply(i, o, n):
        rows, to = x[i : i + n], out[o : o + n]
        if n > FEW:
            np.dot(rows, turned, to)
            return
        transposed = scratch[: n * m].reshape(m, n)
        dot(w, rows.T, transposed)
        to[...] = transposed.T

    return multiply


def supports_lstm_gate_steps(a, r, c_prev, out):
    return on_host(a, r, c_prev, *out)


def lstm_gate_steps(a, r, c_prev, out):
    """A sigmoid is (1 + tanh(x / 2)) / 2, so that one tanh serves all four gates."""
    (h, c, gates, tanh_c), H = out, c_prev.shape[1]
    most = _rows_of_a_block(4 * H)
    half, shift = _halves(most, H, gates.dtype)
    i, f, o, g = _columns(gates)

    def take(step):
        first, before, after, n, _ = step
        for k in range(0, n, most):
            m = min(most, n - k)
            rows, afters = slice(first + k, first + k + m), slice(after + k, after + k + m)
            x, cell, t = gates[rows], c[afters], tanh_c[rows]
            np.add(a[rows], r[rows], x)
            np.multiply(x, half[:m], x)
            np.tanh(x, x)
            np.multiply(x, half[:m], x)
            np.add(x, shift[:m], x)
            np.multiply(f[rows], c_prev[before + k : before + k + m], cell)
            np.multiply(i[rows], g[rows], t)
            np.add(cell, t, cell)
            np.tanh(cell, t)
            np.multiply(o[rows], t, h[afters])

    return take


def supports_lstm_gate_backward_steps(dh, dh_next, dc, out, da, dc_T=None):
    return on_host(dh, dh_next, dc, *out, da)


def lstm_gate_backward_steps(dh, dh_next, dc, out, da, dc_T=None):
    dh_next[...], dc[...] = 0, 0 if dc_T is None else dc_T
    (_, c, gates, tanh_c), (N, H) = out, dc.shape
    most = min(_rows_of_a_block(4 * H), max(N, 1))
    (i, f, o, g), (di, df, do, dg) = _columns(gates), _columns(da)
    (totals, scratch, products), factors = np.empty((3, most, H), da.dtype), np.empty((most, 4 * H), da.dtype)
    factors_g = factors[:, 3 * H :]

    def take(step):
        first, before, _, n, _ = step
        for k in range(0, n, most):
            m = min(most, n - k)
            rows, own = slice(first + k, first + k + m), slice(k, k + m)
            dh_all, t, factor, dx, dc_all, tanh = totals[:m], scratch[:m], factors[:m], da[rows], dc[own], tanh_c[rows]
            np.add(dh[rows], dh_next[own], dh_all)
            np.multiply(tanh, tanh, t)
            np.subtract(1, t, t)
            np.multiply(dh_all, o[rows], products[:m])
            np.multiply(products[:m], t, t)
            np.add(dc_all, t, dc_all)
            np.multiply(dc_all, g[rows], di[rows])
            np.multiply(dc_all, c[before + k : before + k + m], df[rows])
            np.multiply(dh_all, tanh, do[rows])
            np.multiply(dc_all, i[rows], dg[rows])
            np.copyto(factor, gates[rows])
            factors_g[:m] = 1
            np.multiply(dx, factor, dx)  # by i, f, o and 1
            np.multiply(g[rows], g[rows], factors_g[:m])
            np.subtract(1, factor, factor)
            np.multiply(dx, factor, dx)  # by 1 - i, 1 - f, 1 - o and 1 - g * g
            np.multiply(dc_all, f[rows], dc_all)

    return take


def supports_rnn_cell_steps(a, h):
    return on_host(a, h)


def rnn_cell_steps(a, h):
    def take(step):
        first, _, after, n, _ = step
        r = h[after : after + n]
        np.add(a[first : first + n], r, r)
        np.tanh(r, r)

    return take


def supports_rnn_cell_backward_steps(dh, dh_next, h, da):
    return on_host(dh, dh_next, h, da)


def rnn_cell_backward_steps(dh, dh_next, h, da):
    dh_next[...] = 0
    scratch = np.empty_like(dh_next)

    def take(step):
        first, _, after, n, _ = step
        rows, state, t = slice(first, first + n), h[after : after + n], scratch[:n]
        total = da[rows]
        np.add(dh[rows], dh_next[:n], total)
        np.multiply(state, state, t)
        np.subtract(1, t, t)
        np.multiply(total, t, total)

    return take


def supports_lstm_gates(a, r, c_prev, out):
    return on_host(a, r, c_prev, *out)


def lstm_gates(a, r, c_prev, out):
    lstm_gate_steps(a, r, c_prev, out)((0, 0, 0, len(a), 0))
    return out


def supports_times_transpose(x, w, out, scratch):
    return on_host(x, w, out, scratch) and len(x) <= FEW


def times_transpose(x, w, out, scratch):
    row_products_transpose(x, w, out, scratch)(0, 0, len(x))
    return out


@functools.lru_cache(maxsize=8)
def _halves(rows, H, dtype):
    """Factors and terms (rows, 4H) that turn x to x / 2 and tanh to a sigmoid: 0.5 each. For g 1 and -0.0, which leave any number as it is."""
    half, shift = np.full((2, rows, 4 * H), 0.5, dtype)
    half[:, 3 * H :], shift[:, 3 * H :] = 1, -0.0
    for x in (half, shift):
        x.flags.writeable = False
    return half, shift


def _columns(gates):
    """Views of the four (R, H) blocks i, f, o, g of (R, 4H)."""
    H = gates.shape[1] // 4
    return [gates[:, k * H : (k + 1) * H] for k in range(4)]


def _rows_of_a_block(width):
    """Rows of `width` elements in a block that stays in cache, at least 1."""
    return max(1, BLOCK // max(1, width))
