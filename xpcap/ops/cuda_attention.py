"""CUDA kernels of attention over the places of pictures, prepared for a loop as in cuda_loops.py. attending.py states what they compute."""

from xpcap.ops.launch import BLOCK, are_indices, blocks, fits, i32, kernel, launch

PLACES = 1024  # of a picture, at most, as in attention.cu
SLAB = 16  # places for a thread of attention_sum


def _fits(A, *others):
    return A.ndim == 3 and A.shape[1] <= PLACES and fits(A, *others)


def supports_attend_steps(h, A, weights, context):
    return _fits(A, h, weights, context)


def attend_steps(h, A, weights, context):
    attend, (_, P, H) = kernel("attention", "attend_step", A), A.shape
    arrays, sizes = (h, A, weights, context), (i32(P), i32(H))

    def take(step):
        first, before, _, n, _ = step
        attend((n,), BLOCK, (*arrays, i32(first), i32(before), *sizes))

    return take


def supports_attend_backward_steps(dcontext, A, weights, dscores, dh_next):
    return _fits(A, dcontext, weights, dscores, dh_next)


def attend_backward_steps(dcontext, A, weights, dscores, dh_next):
    backward, (_, P, H) = kernel("attention", "attend_step_backward", A), A.shape
    arrays, sizes = (dcontext, A, weights, dscores, dh_next), (i32(P), i32(H))

    def take(step):
        backward((step.n,), BLOCK, (*arrays, i32(step.first), *sizes))

    return take


def supports_attention_sum(weights, dcontext, dscores, h, rows, out):
    return rows.firsts is not None and are_indices(rows.firsts) and _fits(out, weights, dcontext, dscores, h)


def attention_sum(weights, dcontext, dscores, h, rows, out):
    N, P, H = out.shape
    sizes = map(i32, (N, len(rows.firsts) - 1, P, H))
    launch("attention", "attention_sum", out, (N, blocks(H), -(-P // SLAB)), weights, dcontext, dscores, h, rows.firsts, out, *sizes)
    return out
