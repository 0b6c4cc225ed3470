"""Dot-product attention over the places of pictures, as the loops need it: a time step's work over whole buffers, and what comes before and after them.

Row i of a step belongs to sequence i, whose picture's places are A[i]. Like those in loops.py, the functions for a step choose their kernels once
for a sequence and return a function that takes one Step.
"""

from typing import Any

from xpcap.backend import Array, get_array_module
from xpcap.ops import dispatch
from xpcap.ops.equations import gather
from xpcap.ops.recurrent import TakeStep


def gather_places(table: Array, rows: Array, out: Array, mask: Array | None = None, keep: float = 1.0) -> Array:
    """out = table[rows]: table (m, P, D), rows (N,) int, out (N, P, D). With a mask (N, D), inverted dropout of those rows, alike at all their places."""
    if fast := dispatch.find("gather_places", table, rows, out, mask, keep):
        return fast(table, rows, out, mask, keep)
    N, P, D = out.shape
    gather(table.reshape(len(table), P * D), rows, out.reshape(N, P * D))
    if mask is not None:
        out *= mask[:, None]
        out *= 1 / keep
    return out


def attend_steps(h: Array, A: Array, weights: Array, context: Array) -> TakeStep:
    """weights[r] = softmax(A[i] . h_prev / sqrt(H)) over the places;  context[r] = weights[r] @ A[i], for row r of sequence i.

    h : the stack (., H) of states that steps start from; A (N, P, H); weights (R, P) and context (R, H), by row, are written to.
    """
    if fast := dispatch.find("attend_steps", h, A, weights, context):
        return fast(h, A, weights, context)
    xp, scale = get_array_module(A), A.shape[2] ** -0.5

    def take(step: Any) -> None:
        places, p = A[: step.n], weights[step.rows]
        xp.matmul(places, h[step.befores][:, :, None], out=p[:, :, None])  # (n, P)
        p *= scale
        p -= p.max(axis=1, keepdims=True)
        xp.exp(p, out=p)
        p /= p.sum(axis=1, keepdims=True)
        xp.matmul(p[:, None, :], places, out=context[step.rows][:, None, :])  # (n, H)

    return take


def attend_backward_steps(dcontext: Array, A: Array, weights: Array, dscores: Array, dh_next: Array) -> TakeStep:
    """Gradients of attend_steps for the states, later steps first:

    dweights = A[i] . dcontext[r];  dscores[r] = weights[r] * (dweights - weights[r] . dweights) / sqrt(H);  dh_next[i] += dscores[r] @ A[i]

    dcontext (R, H), by row; dscores (R, P), by row, and dh_next (N, H) are written to.
    """
    if fast := dispatch.find("attend_backward_steps", dcontext, A, weights, dscores, dh_next):
        return fast(dcontext, A, weights, dscores, dh_next)
    xp, scale = get_array_module(A), A.shape[2] ** -0.5

    def take(step: Any) -> None:
        places, p, d = A[: step.n], weights[step.rows], dscores[step.rows]
        xp.matmul(places, dcontext[step.rows][:, :, None], out=d[:, :, None])  # (n, P)
        d -= (p * d).sum(axis=1, keepdims=True)
        d *= p
        d *= scale
        dh_next[: step.n] += xp.matmul(d[:, None, :], places)[:, 0]

    return take


def attention_sum(weights: Array, dcontext: Array, dscores: Array, h: Array, rows: Any, out: Array) -> Array:
    """out[i] = sum over the rows r of sequence i of weights[r] (x) dcontext[r] + dscores[r] (x) h_prev[r]: the gradient of attend_steps for A, (N, P, H).

    `h` is the stack of states as in attend_steps, `rows` are layers.rows.Rows.
    """
    if fast := dispatch.find("attention_sum", weights, dcontext, dscores, h, rows, out):
        return fast(weights, dcontext, dscores, h, rows, out)
    xp, (N, P, H), T = get_array_module(out), out.shape, len(rows.steps)
    left, right = xp.zeros((N, 2 * T, P), out.dtype), xp.zeros((N, 2 * T, H), out.dtype)
    for t, step in enumerate(rows.steps):
        left[: step.n, t], right[: step.n, t] = weights[step.rows], dcontext[step.rows]
        left[: step.n, T + t], right[: step.n, T + t] = dscores[step.rows], h[step.befores]
    return xp.matmul(left.transpose(0, 2, 1), right, out=out)
