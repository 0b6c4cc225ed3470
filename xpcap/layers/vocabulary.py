"""The vocabulary layer fused with the softmax loss, a block of rows at a time, so that the scores of all rows never exist at once."""

from typing import NamedTuple

from xpcap.backend import Array
from xpcap.layers.checks import check_arrays, check_ids
from xpcap.ops import add_product, product, word_loss
from xpcap.workspace import Buffer, fresh

BLOCK = 1 << 22  # scores in a block: more would not stay in cache, and with a large vocabulary fill memory
LEAST = 256  # rows in a block, at least, since each block adds to all of dw


class VocabularyGrads(NamedTuple):
    """Gradients of sum(scale * nll) of vocabulary_loss."""

    h: Array  # (L, H)
    w: Array  # (H, V)
    b: Array  # (V,)


def blocks(L: int, V: int) -> list[slice]:
    """Rows 0..L cut into blocks, for scores over V words. No rows give one empty block."""
    n = max(LEAST, BLOCK // V)
    return [slice(start, min(start + n, L)) for start in range(0, max(L, 1), n)]


def vocabulary_loss(
    h: Array, w: Array, b: Array, targets: Array, scale: Array, buffer: Buffer | None = None, out: tuple[Array, Array] | None = None
) -> tuple[Array, VocabularyGrads]:
    """Negative log-likelihood of words given hidden states, with gradients: affine_forward, softmax_loss and affine_backward in one.

    nll = -log softmax(h @ w + b)[targets]

    Parameters
    ----------
    h : array (L, H), float
    w : array (H, V), float
    b : array (V,), float
    targets : array (L,), int; words in 0..V-1
    scale : array (L,), float; weight of each row in the gradients
    buffer : memory for gradients and temporaries; None allocates
    out : arrays for the gradients of w and b; None takes them from `buffer`

    Returns
    -------
    nll : array (L,), float
    grads : VocabularyGrads, of (scale * nll).sum()

    Raises
    ------
    TypeError, ValueError : libraries, dtypes or shapes do not match, or a target on the host is outside 0..V-1.
    """
    xp = check_arrays("vocabulary_loss", "h:L,H w:H,V b:V scale:L", h, w, b, scale)
    check_ids("vocabulary_loss", "targets", targets, len(b), h)
    buffer = buffer or fresh(h)
    dh, (dw, db) = buffer("dh", h.shape), out or (buffer("dw", w.shape), buffer("db", b.shape))
    found = []
    for rows in blocks(len(h), len(b)):
        x = h[rows]
        dscores = buffer("scores", (len(x), len(b)))  # (n, V)
        found.append(word_loss(x, w, b, targets[rows], scale[rows], dscores, dh[rows]))
        if rows.start == 0:
            product(x.T, dscores, out=dw)
            dscores.sum(axis=0, out=db)
        else:
            add_product(x.T, dscores, dw, buffer("dw_block", w.shape))
            db += dscores.sum(axis=0)
    return found[0] if len(found) == 1 else xp.concatenate(found), VocabularyGrads(dh, dw, db)
