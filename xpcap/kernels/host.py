"""Fast NumPy versions: each has a row in docs/benchmarks.md, and does what the plain equations in ops.py say."""

import itertools
import math

import numpy as np

BLOCK = 1 << 15  # elements: a block of w, dw, m, v and two scratch rows stays in the second-level cache


def supports_adam_update(w, dw, m, v, *_):
    return all(isinstance(a, np.ndarray) and a.ndim == 1 and a.flags.c_contiguous and a.dtype == w.dtype for a in (w, dw, m, v))


def adam_update(w, dw, m, v, alpha, beta1, beta2, epsilon):
    """ops.adam_update in blocks that stay in cache, without a temporary of the whole size."""
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


def supports_global_norm(x):
    return isinstance(x, np.ndarray) and x.ndim == 1


def global_norm(x):
    """ops.global_norm block by block: a block is short enough for its own dtype, unless its squares overflow; the blocks are added in double."""
    total = 0.0
    for start in range(0, x.size, BLOCK):
        block = x[start : start + BLOCK]
        square = float(np.vdot(block, block))
        total += square if math.isfinite(square) else float(np.vdot(block, block.astype(np.float64)))
    return np.asarray(math.sqrt(total), x.dtype)


def supports_segment_sum(rows, groups, out):
    return isinstance(rows, np.ndarray) and rows.ndim == 2 and rows.size > 0


def segment_sum(rows, groups, out):
    """ops.segment_sum id by id: the rows of one are gathered and added in one pass, in their old order."""
    starts = groups.starts.tolist()
    for k, (start, end) in enumerate(itertools.pairwise(starts)):
        if end > start:
            np.add.reduce(rows[groups.order[start:end]], axis=0, out=out[k])
        else:
            out[k] = 0
    return out
