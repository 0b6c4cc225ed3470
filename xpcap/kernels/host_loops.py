"""NumPy kernels of the time loops: a step in place, in blocks of rows that fit in cache, with everything that stays the same prepared.

loops.py states what they compute. With small batches NumPy's calls cost more than their arithmetic. A pass over whole rows, which are contiguous, takes
half as long as one over the columns of three gates, so whatever the gates share is done to all four.
"""

import functools

import numpy as np

from xpcap.kernels.host import BLOCK, FEW, on_host, product, supports_product
from xpcap.threads import crowding, free_cores


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
