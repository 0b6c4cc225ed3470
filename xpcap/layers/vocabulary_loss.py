"""Vocabulary layer and softmax loss in one, by blocks of rows, so that memory holds few scores."""

from xpcap.backend import Array, is_device_array
from xpcap.backend.memory import Workspace
from xpcap.ops import LossTerms, get_ops

BLOCK = 1 << 22  # scores in a block on the host: more would not fit in cache
DEVICE_BLOCK = 1 << 26  # scores on a GPU, where each block costs launches; 256 MB of float32
MIN_ROWS = 256  # least rows in a block, since each block adds to all of dw


def blocks(L: int, V: int, like: Array) -> list[slice]:
    """Blocks of rows 0..L for scores over V words, on the device of `like`; at least one block."""
    n = max(MIN_ROWS, (DEVICE_BLOCK if is_device_array(like) else BLOCK) // V)
    return [slice(start, min(start + n, L)) for start in range(0, max(L, 1), n)]


def vocabulary_loss(
    h: Array,
    w: Array,
    b: Array,
    targets: Array,
    terms: LossTerms,
    memory: Workspace,
    out: tuple[Array, Array],
) -> tuple[Array, Array]:
    """Cross entropy (L,) of target words given hidden states, and the gradient of h.

    It combines affine_forward, the softmax loss of h @ w + b and affine_backward: h (L, H), w (H, V),
    b (V,), targets (L,) in 0..V-1. `terms` has the terms of the loss, such as smoothing, and the
    weight `scale` of each row; gradients are those of ``(scale * nll).sum()``. The gradients of w and b
    are written to `out`. Arguments are not checked.
    """
    ops = get_ops(h)
    dh = memory.take("dh", h.shape)
    nll = memory.take("nll", (len(h),))
    dw, db = out
    for rows in blocks(len(h), len(b), h):
        states = h
        words = targets
        block_terms = terms
        losses = nll
        dstates = dh
        if len(h) > rows.stop - rows.start:  # slicing a device array costs host time
            states, words, losses, dstates = (array[rows] for array in (h, targets, nll, dh))
            block_terms = terms.rows(rows)
        dscores = memory.take("scores", (len(states), len(b)))  # (n, V)
        ops.word_loss(states, w, b, words, block_terms, losses, dscores, dstates)
        if rows.start == 0:
            ops.matmul(states.T, dscores, out=dw)
            ops.column_sum(dscores, out=db)
        else:
            ops.matmul_add(states.T, dscores, dw, memory)
            ops.add_rows(db, ops.column_sum(dscores, out=memory.take("db_block", b.shape)))
    return nll, dh
