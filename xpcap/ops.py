"""The handful of operations that have, or may come to have, a fast version.

Each states the contract for every version, asks the table of kernels once, and else runs the plain equations.
Arguments are trusted: the layer that calls has checked them.
"""

from typing import NamedTuple

from xpcap import kernels
from xpcap.backend import Array, get_array_module


def sigmoid(x: Array) -> Array:
    """1 / (1 + exp(-x)), as (1 + tanh(x / 2)) / 2: no overflow for either sign, and dtype in is dtype out."""
    xp = get_array_module(x)
    return 0.5 * (1 + xp.tanh(0.5 * x))


class Gates(NamedTuple):
    """What one LSTM step made of its pre-activations: state h and c, the gates i, f, o, g side by side, and tanh(c)."""

    h: Array  # (n, H)
    c: Array  # (n, H)
    gates: Array  # (n, 4H)
    tanh_c: Array  # (n, H)


def lstm_gates(a: Array, c_prev: Array) -> Gates:
    """The elementwise half of an LSTM step: pre-activations a (n, 4H), stacked i, f, o, g, and c_prev (n, H) to Gates.

    i, f, o = sigmoid(a_i), sigmoid(a_f), sigmoid(a_o);  g = tanh(a_g)
    c = f * c_prev + i * g;  h = o * tanh(c)
    """
    if fast := kernels.find("lstm_gates", a, c_prev):
        return fast(a, c_prev)
    xp = get_array_module(a, c_prev)
    H = c_prev.shape[1]
    gates = xp.empty_like(a)
    gates[:, : 3 * H] = sigmoid(a[:, : 3 * H])
    gates[:, 3 * H :] = xp.tanh(a[:, 3 * H :])
    i, f, o, g = split_gates(gates)
    c = f * c_prev + i * g
    tanh_c = xp.tanh(c)
    return Gates(o * tanh_c, c, gates, tanh_c)


def lstm_gates_backward(dh: Array, dc: Array, gates: Array, tanh_c: Array, c_prev: Array) -> tuple[Array, Array]:
    """Gradients of lstm_gates: upstream dh and dc (n, H) to da (n, 4H) and dc_prev (n, H). Both upstreams meet in the cell."""
    if fast := kernels.find("lstm_gates_backward", dh, dc, gates, tanh_c, c_prev):
        return fast(dh, dc, gates, tanh_c, c_prev)
    xp = get_array_module(dh, dc, gates)
    i, f, o, g = split_gates(gates)
    dc_all = dc + dh * o * (1 - tanh_c * tanh_c)  # (n, H)
    da = xp.empty_like(gates)
    di, df, do, dg = split_gates(da)
    di[...] = dc_all * g * i * (1 - i)
    df[...] = dc_all * c_prev * f * (1 - f)
    do[...] = dh * tanh_c * o * (1 - o)
    dg[...] = dc_all * i * (1 - g * g)
    return da, dc_all * f


def split_gates(gates: Array) -> tuple[Array, Array, Array, Array]:
    """Views of the four (n, H) blocks i, f, o, g of an (n, 4H) array."""
    H = gates.shape[1] // 4
    return gates[:, :H], gates[:, H : 2 * H], gates[:, 2 * H : 3 * H], gates[:, 3 * H :]


def log_softmax(scores: Array) -> Array:
    """log(exp(s) / sum(exp(s))) along the last axis of scores (R, V), with the row's maximum taken off first."""
    xp = get_array_module(scores)
    shifted = scores - scores.max(axis=-1, keepdims=True)
    return shifted - xp.log(xp.exp(shifted).sum(axis=-1, keepdims=True))


def softmax_loss(scores: Array, targets: Array) -> tuple[Array, Array]:
    """Negative log-likelihood nll (R,) of targets (R,) under scores (R, V), and the gradient dscores (R, V) of its sum."""
    if fast := kernels.find("softmax_loss", scores, targets):
        return fast(scores, targets)
    xp = get_array_module(scores, targets)
    rows = xp.arange(scores.shape[0])
    log_p = log_softmax(scores)
    dscores = xp.exp(log_p)
    dscores[rows, targets] -= 1
    return -log_p[rows, targets], dscores


def segment_sum(rows: Array, ids: Array, count: int) -> Array:
    """out[k] = the sum of rows[r] over all r with ids[r] == k: rows (R, C), ids (R,) in 0..count-1, out (count, C)."""
    if fast := kernels.find("segment_sum", rows, ids, count):
        return fast(rows, ids, count)
    xp = get_array_module(rows, ids)
    out = xp.zeros((count, rows.shape[1]), rows.dtype)
    xp.add.at(out, ids, rows)
    return out


def adam_update(w: Array, dw: Array, m: Array, v: Array, alpha: float, beta1: float, beta2: float, epsilon: float) -> None:
    """One Adam step, writing to w, m and v (all of one shape); alpha carries the bias correction.

    m = beta1 * m + (1 - beta1) * dw;  v = beta2 * v + (1 - beta2) * dw**2;  w -= alpha * m / (sqrt(v) + epsilon)
    """
    if fast := kernels.find("adam_update", w, dw, m, v):
        fast(w, dw, m, v, alpha, beta1, beta2, epsilon)
        return
    xp = get_array_module(w, dw, m, v)
    m[...] = beta1 * m + (1 - beta1) * dw
    v[...] = beta2 * v + (1 - beta2) * (dw * dw)
    w -= alpha * m / (xp.sqrt(v) + epsilon)
