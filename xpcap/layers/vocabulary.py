"""From states to the loss over the vocabulary and back: the last affine layer and the softmax as one, a block of rows at a time."""

from typing import NamedTuple

from xpcap.backend import Array
from xpcap.layers.checks import check_arrays, check_ids
from xpcap.ops import softmax_loss
from xpcap.workspace import New, fresh

BLOCK = 1 << 22  # scores held at a time; more than that would come from memory anyhow, and a large vocabulary's would fill it
LEAST = 256  # rows, at least: each block adds to dw as a whole


class VocabularyGrads(NamedTuple):
    """Gradients of vocabulary_loss, of scale times the sum of nll."""

    h: Array  # (L, H)
    w: Array  # (H, V)
    b: Array  # (V,)


def blocks(L: int, V: int) -> list[slice]:
    """Rows 0..L in blocks whose scores over V words are held together; one empty block where there is no row."""
    n = max(LEAST, BLOCK // V)
    return [slice(start, min(start + n, L)) for start in range(0, max(L, 1), n)]


def vocabulary_loss(
    h: Array, w: Array, b: Array, targets: Array, scale: float = 1.0, new: New | None = None, out: tuple[Array, Array] | None = None
) -> tuple[Array, VocabularyGrads]:
    """Negative log-likelihood of words under states, and its gradients: affine_forward, softmax_loss and affine_backward in one go.

    nll = -log softmax(h @ w + b)[targets]

    Parameters
    ----------
    h : array (L, H), float
    w : array (H, V), float
    b : array (V,), float
    targets : array (L,), int; words in 0..V-1
    scale : of the gradients
    new : where gradients and scratch are put; in fresh memory if None
    out : arrays for the gradients of w and b; from `new` if None

    Returns
    -------
    nll : array (L,), float
    grads : VocabularyGrads, of scale * nll.sum()

    Raises
    ------
    TypeError, ValueError : libraries, dtypes or shapes that do not fit together, or a host target outside 0..V-1.
    """
    xp = check_arrays("vocabulary_loss", "h:L,H w:H,V b:V", h, w, b)
    check_ids("vocabulary_loss", "targets", targets, len(b), h)
    new = new or fresh(h)
    dh, (dw, db) = new("dh", h.shape), out or (new("dw", w.shape), new("db", b.shape))
    found = []
    for rows in blocks(len(h), len(b)):
        x = h[rows]
        scores = xp.dot(x, w, out=new("scores", (len(x), len(b))))  # (n, V)
        scores += b
        nll, dscores = softmax_loss(scores, targets[rows], scale, out=scores)
        found.append(nll)
        xp.dot(dscores, w.T, out=dh[rows])
        if rows.start == 0:
            xp.dot(x.T, dscores, out=dw)
            dscores.sum(axis=0, out=db)
        else:
            dw += xp.dot(x.T, dscores, out=new("dw_block", w.shape))
            db += dscores.sum(axis=0)
    return found[0] if len(found) == 1 else xp.concatenate(found), VocabularyGrads(dh, dw, db)
