"""Vocabulary layer and softmax loss in one, by blocks of rows, so that few scores exist at once."""

from dataclasses import replace

from xpcap.backend import Array, is_device_array
from xpcap.layers.checks import check_arrays
from xpcap.layers.layer import layer
from xpcap.memory import Buffer, allocator
from xpcap.ops import LossTerms, contiguous, get_ops
from xpcap.spec import check_range

BLOCK = 1 << 22  # scores in a block on the host: more would not stay in cache
DEVICE_BLOCK = 1 << 26  # on a GPU, where a block costs launches; 256 MB of float32
MIN_ROWS = 256  # rows in a block: each adds to all of dw


def blocks(L: int, V: int, like: Array) -> list[slice]:
    """Blocks of rows 0..L for scores over V words, on the device of `like`; at least one block."""
    n = max(MIN_ROWS, (DEVICE_BLOCK if is_device_array(like) else BLOCK) // V)
    return [slice(start, min(start + n, L)) for start in range(0, max(L, 1), n)]


@layer("h:L,H w:H,V b:V targets:L=i -> nll:L")
def vocabulary_loss(
    h: Array,
    w: Array,
    b: Array,
    targets: Array,
    terms: LossTerms,
    buffer: Buffer | None = None,
    out: tuple[Array, Array] | None = None,
) -> tuple[Array, tuple[Array, Array, Array]]:
    """Cross entropy of target words given hidden states, and gradients of h, w and b.

    affine_forward, the softmax loss of h @ w + b and affine_backward in one. Targets are words in
    0..V-1. `terms` are the terms of the loss, such as smoothing, and the weight `scale` of each
    row: gradients are those of ``(scale * nll).sum()``. Memory for them and for temporaries comes
    from `buffer` (None allocates); `out` is memory for the gradients of w and b alone.

    Raises
    ------
    ValueError
        A target on the host is outside 0..V-1.
    """
    if not isinstance(terms.scale, float):
        check_arrays("vocabulary_loss", "h:L,H scale:L", h, terms.scale)
        terms = replace(terms, scale=contiguous(terms.scale))
    check_range("vocabulary_loss", "targets", targets, len(b), "from another vocabulary?")
    ops, buffer = get_ops(h), buffer or allocator(h)
    dh, nll = buffer("dh", h.shape), buffer("nll", (len(h),))
    dw, db = out or (buffer("dw", w.shape), buffer("db", b.shape))
    for rows in blocks(len(h), len(b), h):
        states, words, block_terms, losses, dstates = h, targets, terms, nll, dh
        if len(h) > rows.stop - rows.start:  # a slice costs a device's host time
            states, words, losses, dstates = (array[rows] for array in (h, targets, nll, dh))
            block_terms = terms.rows(rows)
        dscores = buffer("scores", (len(states), len(b)))  # (n, V)
        ops.word_loss(states, w, b, words, block_terms, losses, dscores, dstates)
        if rows.start == 0:
            ops.matmul(states.T, dscores, out=dw)
            ops.column_sum(dscores, out=db)
        else:
            ops.matmul_add(states.T, dscores, dw, buffer)
            ops.add_rows(db, ops.column_sum(dscores, out=buffer("db_block", b.shape)))
    return nll, (dh, dw, db)
