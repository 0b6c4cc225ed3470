"""Dot-product attention over the regions of pictures, in the time loops and around them.

Row i of a step belongs to sequence i, whose picture's regions are A[i]. As in packed.py, the
functions of a step choose their kernels once for a sequence and return a function of one Step.
"""

from xpcap.backend import Array, get_array_module
from xpcap.ops.base import gather
from xpcap.ops.dispatch import find
from xpcap.ops.packed import PackedSequences, Step, StepFn


def gather_regions(
    table: Array, rows: Array, out: Array, mask: Array | None = None, keep: float = 1.0
) -> Array:
    """out = table[rows]: table (m, P, D), rows (N,) int, out (N, P, D).

    With a mask (N, D), inverted dropout of those rows, the same in all their regions.
    """
    if fast := find(gather_regions, table, rows, out, mask, keep):
        return fast(table, rows, out, mask, keep)
    N, P, D = out.shape
    gather(table.reshape(len(table), P * D), rows, out.reshape(N, P * D))
    if mask is not None:
        out *= mask[:, None]
        out *= 1 / keep
    return out


def mean_regions(A: Array, out: Array) -> Array:
    """out (N, H) = mean over the regions of A (N, P, H)."""
    if fast := find(mean_regions, A, out):
        return fast(A, out)
    return A.mean(axis=1, out=out)


def add_to_regions(dA: Array, dmean: Array) -> Array:
    """dA (N, P, H) += dmean / P, in place: the gradient of mean_regions. dmean may be overwritten."""
    if fast := find(add_to_regions, dA, dmean):
        return fast(dA, dmean)
    dmean /= dA.shape[1]
    dA += dmean[:, None]
    return dA


def attend_steps(h: Array, A: Array, weights: Array, context: Array) -> StepFn:
    """A step of attention, for each row r of sequence i:

    weights[r] = softmax(A[i] . h_prev / sqrt(H)) over the regions
    context[r] = weights[r] @ A[i]

    h is the stack (., H) of the states before; A (N, P, H); weights (R, P) and context (R, H), by
    row, are written to.
    """
    if fast := find(attend_steps, h, A, weights, context):
        return fast(h, A, weights, context)
    xp, scale = get_array_module(A), A.shape[2] ** -0.5

    def step_fn(step: Step) -> None:
        regions, p = A[: step.n], weights[step.rows]
        xp.matmul(regions, h[step.states_before][:, :, None], out=p[:, :, None])  # (n, P)
        p *= scale
        p -= p.max(axis=1, keepdims=True)
        xp.exp(p, out=p)
        p /= p.sum(axis=1, keepdims=True)
        xp.matmul(p[:, None, :], regions, out=context[step.rows][:, None, :])  # (n, H)

    return step_fn


def attend_backward_steps(
    dcontext: Array, A: Array, weights: Array, dscores: Array, dh_next: Array
) -> StepFn:
    """Gradients of attend_steps for the states, later steps first:

    dweights = A[i] . dcontext[r]
    dscores[r] = weights[r] * (dweights - weights[r] . dweights) / sqrt(H)
    dh_next[i] += dscores[r] @ A[i]

    dcontext (R, H), by row; dscores (R, P), by row, and dh_next (N, H) are written to.
    """
    if fast := find(attend_backward_steps, dcontext, A, weights, dscores, dh_next):
        return fast(dcontext, A, weights, dscores, dh_next)
    xp, scale = get_array_module(A), A.shape[2] ** -0.5

    def step_fn(step: Step) -> None:
        regions, p, d = A[: step.n], weights[step.rows], dscores[step.rows]
        xp.matmul(regions, dcontext[step.rows][:, :, None], out=d[:, :, None])  # dweights (n, P)
        d -= (p * d).sum(axis=1, keepdims=True)
        d *= p
        d *= scale
        dh_next[: step.n] += xp.matmul(d[:, None, :], regions)[:, 0]

    return step_fn


def attention_sum(
    weights: Array, dcontext: Array, dscores: Array, h: Array, rows: PackedSequences, out: Array
) -> Array:
    """Gradient of attend_steps for A, (N, P, H), after the loop:

    out[i] = sum over the rows r of sequence i of
        weights[r] (x) dcontext[r] + dscores[r] (x) h_prev[r]

    `h` is the stack of states as in attend_steps.
    """
    if fast := find(attention_sum, weights, dcontext, dscores, h, rows, out):
        return fast(weights, dcontext, dscores, h, rows, out)
    xp, (N, P, H), T = get_array_module(out), out.shape, len(rows.steps)

    # One product a sequence, of the factors of all its rows; zeros after its end
    left, right = xp.zeros((N, 2 * T, P), out.dtype), xp.zeros((N, 2 * T, H), out.dtype)
    for t, step in enumerate(rows.steps):
        left[: step.n, t], right[: step.n, t] = weights[step.rows], dcontext[step.rows]
        left[: step.n, T + t], right[: step.n, T + t] = dscores[step.rows], h[step.states_before]
    return xp.matmul(left.transpose(0, 2, 1), right, out=out)
