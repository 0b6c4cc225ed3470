"""Vocabulary layer and softmax loss in one, by blocks of rows, so that few scores exist at once."""

from typing import NamedTuple

from xpcap.backend import Array, is_device_array
from xpcap.layers.checks import check_arrays, check_ids
from xpcap.layers.layer import layer
from xpcap.memory import Buffer, allocator
from xpcap.ops import contiguous, get_ops

BLOCK = 1 << 22  # scores in a block on the host: more would not stay in cache
DEVICE_BLOCK = 1 << 26  # on a GPU, where a block costs launches; 256 MB of float32
LEAST = 256  # rows in a block, at least, since each block adds to all of dw


class VocabularyGrads(NamedTuple):
    """Gradients of sum(scale * nll) of vocabulary_loss."""

    h: Array  # (L, H)
    w: Array  # (H, V)
    b: Array  # (V,)


def blocks(L: int, V: int, like: Array) -> list[slice]:
    """Blocks of rows 0..L for scores over V words, on the device of `like`; at least one block."""
    n = max(LEAST, (DEVICE_BLOCK if is_device_array(like) else BLOCK) // V)
    return [slice(start, min(start + n, L)) for start in range(0, max(L, 1), n)]


@layer("h:L,H w:H,V b:V targets:L=i -> nll:L")
def vocabulary_loss(
    h: Array,
    w: Array,
    b: Array,
    targets: Array,
    scale: Array | float,
    buffer: Buffer | None = None,
    out: tuple[Array, Array] | None = None,
    smoothing: float = 0.0,
) -> tuple[Array, VocabularyGrads]:
    """Negative log-likelihood of words given hidden states, and its gradients.

    It is affine_forward, softmax_loss and affine_backward in one::

        nll = -(1 - smoothing) * log_p[targets] - smoothing * mean(log_p)
        log_p = log softmax(h @ w + b)

    targets: Words in 0..V-1.
    scale : array (L,), float, or a number
        Weight of each row in the gradients; a number is that of all.
    buffer: Memory for gradients and temporaries. None allocates.
    out : tuple of arrays (H, V) and (V,), or None
        Memory for the gradients of w and b. None takes it from `buffer`.
    smoothing: Probability that a target gives up to all words alike: label smoothing, Szegedy et
        al. 2016, section 7.
    grads : VocabularyGrads
        Of (scale * nll).sum().
    ValueError: A target on the host is outside 0..V-1.
    """
    if not isinstance(scale, float):
        check_arrays("vocabulary_loss", "h:L,H scale:L", h, scale)
    check_ids("vocabulary_loss", "targets", targets, len(b))
    scale = scale if isinstance(scale, float) else contiguous(scale)
    ops, buffer = get_ops(h), buffer or allocator(h)
    dh, nll = buffer("dh", h.shape), buffer("nll", (len(h),))
    dw, db = out or (buffer("dw", w.shape), buffer("db", b.shape))
    for rows in blocks(len(h), len(b), h):
        x, words, weights, losses, dx = _rows(rows, h, targets, scale, nll, dh)
        dscores = buffer("scores", (len(x), len(b)))  # (n, V)
        ops.word_loss(x, w, b, words, weights, losses, dscores, dx, smoothing)
        if rows.start == 0:
            ops.matmul(x.T, dscores, out=dw)
            ops.column_sum(dscores, out=db)
        else:
            ops.matmul_add(x.T, dscores, dw, buffer)
            ops.add_rows(db, ops.column_sum(dscores, out=buffer("db_block", b.shape)))
    return nll, VocabularyGrads(dh, dw, db)


def _rows(rows: slice, *arrays: Array) -> tuple[Array, ...]:
    """The given rows of each array; a number is the same for every row."""
    # All rows are the arrays themselves: a slice costs a device's host time
    if rows.start == 0 and rows.stop == len(arrays[0]):
        return arrays
    return tuple(x if isinstance(x, float) else x[rows] for x in arrays)
