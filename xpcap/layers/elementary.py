"""Layers without a recurrent state: affine, word embedding, dropout, temporal softmax loss."""

from typing import Any, NamedTuple

import numpy as np

from xpcap.backend import Array, asarray, get_array_module
from xpcap.backend.shape_specs import check_range
from xpcap.errors import InvalidValueError, OptionError, one_of
from xpcap.layers.checks import check_arrays
from xpcap.layers.layer import gradient, layer
from xpcap.ops import LossTerms, get_ops, segments

# ---- Affine


class AffineCache(NamedTuple):
    """Cache of affine_forward and temporal_affine_forward."""

    x: Array
    w: Array
    b: Array


@layer("x:N,... w:D,M b:M -> out:N,M")
def affine_forward(x: Array, w: Array, b: Array) -> tuple[Array, AffineCache]:
    """Affine layer, out = x @ w + b, as in CS231n.

    All axes of x after the first are flattened into one of size D.

    Examples
    --------
    >>> x, w, b = np.array([[1.0, 2.0]]), np.eye(2), np.array([10.0, 20.0])
    >>> out, cache = affine_forward(x, w, b)
    >>> out
    array([[11., 22.]])
    >>> dx, dw, db = affine_backward(np.ones((1, 2)), cache)
    >>> dw
    array([[1., 1.],
           [2., 2.]])
    """
    cause = "D is the product of all axes of x after the first"
    check_arrays("affine_forward", "x:N,D w:D,M", _rows(x), w, cause=cause)
    return get_ops(x).matmul(_rows(x), w) + b, AffineCache(x, w, b)


@gradient(affine_forward)
def affine_backward(dout: Array, cache: AffineCache) -> tuple[Array, Array, Array]:
    """Gradients of affine_forward, from dout and the cache."""
    x, w, _ = cache
    matmul = get_ops(dout).matmul
    return matmul(dout, w.T).reshape(x.shape), matmul(_rows(x).T, dout), dout.sum(axis=0)


@layer("x:N,T,D w:D,M b:M -> out:N,T,M")
def temporal_affine_forward(x: Array, w: Array, b: Array) -> tuple[Array, AffineCache]:
    """Affine layer at each step, out[n, t] = x[n, t] @ w + b, as one product of N * T rows."""
    N, T, D = x.shape
    out = get_ops(x).matmul(x.reshape(N * T, D), w) + b
    return out.reshape(N, T, w.shape[1]), AffineCache(x, w, b)


@gradient(temporal_affine_forward)
def temporal_affine_backward(dout: Array, cache: AffineCache) -> tuple[Array, Array, Array]:
    """Gradients of temporal_affine_forward, from dout and the cache."""
    x, w, _ = cache
    matmul = get_ops(dout).matmul
    N, T, D = x.shape
    rows = dout.reshape(N * T, w.shape[1])
    dw = matmul(x.reshape(N * T, D).T, rows)
    return matmul(rows, w.T).reshape(x.shape), dw, rows.sum(axis=0)


def _rows(x: Array) -> Array:
    """Rows (N, D) of x (N, ...). D is explicit, since reshape cannot infer -1 if N is 0."""
    D = 1
    for size in x.shape[1:]:
        D *= size
    return x.reshape(x.shape[0], D)


# ---- Word embedding


class EmbeddingCache(NamedTuple):
    """Cache of word_embedding_forward."""

    x: Array  # (N, T) int
    W: Array  # (V, D)


@layer("x:...=i W:V,D -> out:...,D")
def word_embedding_forward(x: Array, W: Array) -> tuple[Array, EmbeddingCache]:
    """Word vectors, out[n, t] = W[x[n, t]].

    x holds word ids in 0..V-1, of shape (N, T) in the course. Row v of W is the vector of word v.

    Raises
    ------
    ValueError
        An id on the host is outside 0..V-1. Ids on a device are not checked, and CuPy wraps wrong
        ones silently; the model checks ids before it uploads them.

    Examples
    --------
    >>> out, cache = word_embedding_forward(np.array([[1, 0, 1]]), np.array([[0.0], [5.0]]))
    >>> out
    array([[[5.],
            [0.],
            [5.]]])
    """
    check_range("word_embedding_forward: x", x, W.shape[0], "from another vocabulary?")
    return W[x], EmbeddingCache(x, W)


@gradient(word_embedding_forward)
def word_embedding_backward(dout: Array, cache: EmbeddingCache) -> Array:
    """Gradient of W in word_embedding_forward, from dout and the cache.

    A word that occurs several times gets the sum of its gradients.
    """
    x, W = cache
    V, D = W.shape
    return get_ops(W).segment_sum(dout.reshape(x.size, D), segments(x.reshape(x.size), V))


# ---- Dropout


DROPOUT_KEYS = ("p", "mode", "seed")


class DropoutCache(NamedTuple):
    """Cache of dropout_forward."""

    mask: Array | None  # bool, shape of x; None if nothing was dropped
    p: float
    x: Array


@layer("x:... -> out:...")
def dropout_forward(x: Array, dropout_param: dict[str, Any]) -> tuple[Array, DropoutCache]:
    """Keep each unit with probability p and scale it by 1 / p; in test mode return a copy of x.

    dropout_param is the course's dictionary: ``p``, the probability of *keeping* a unit (the `dropout`
    of CaptioningRNN is the share to drop); ``mode``, "train" or "test"; optionally ``seed``, an int.
    The mask is ``rand(*x.shape) < p``, as in the course, from NumPy's global legacy generator, or from
    a new one with the seed.

    Raises
    ------
    ValueError
        p or mode is missing, or p is outside (0, 1].
    OptionError
        The mode, or a key of dropout_param, is unknown.

    Notes
    -----
    Srivastava et al. 2014, section 4, as inverted dropout.

    Examples
    --------
    >>> out, cache = dropout_forward(np.ones(4), {"p": 0.5, "mode": "train", "seed": 1})
    >>> out
    array([2., 0., 2., 2.])
    """
    if missing := [key for key in ("p", "mode") if key not in dropout_param]:
        raise InvalidValueError(
            f"dropout_forward: dropout_param lacks {', '.join(missing)}, expected p and mode, and a"
            " seed for a repeatable mask"
        )
    for key in dropout_param:
        if key not in DROPOUT_KEYS:
            raise OptionError(
                f"dropout_forward: dropout_param {key!r} does not exist, expected {one_of(DROPOUT_KEYS, key)}"
            )
    p = dropout_param["p"]
    mode = dropout_param["mode"]
    if not 0 < p <= 1:
        raise InvalidValueError(
            f"dropout_forward: p is {p}, expected a probability of keeping a unit in (0, 1]"
        )
    if mode not in ("train", "test"):
        raise OptionError(
            f"dropout_forward: mode {mode!r} does not exist, expected {one_of(('train', 'test'), mode)}"
        )
    if mode == "test":
        return x.copy(), DropoutCache(None, p, x)
    seed = dropout_param.get("seed")
    draws = np.random.rand(*x.shape) if seed is None else np.random.RandomState(seed).rand(*x.shape)
    mask = asarray(draws < p, like=x)
    return apply_mask(x, mask, p), DropoutCache(mask, p, x)


@gradient(dropout_forward)
def dropout_backward(dout: Array, cache: DropoutCache) -> Array:
    """Gradient of dropout_forward, from dout and the cache."""
    return dout.copy() if cache.mask is None else apply_mask(dout, cache.mask, cache.p)


def apply_mask(x: Array, mask: Array | None, p: float) -> Array:
    """x / p where `mask` is true, else 0; x itself without a mask. Also its own gradient."""
    return x if mask is None else get_ops(x).dropout(x, mask, p)


# ---- Loss


@layer("x:N>0,T,V y:N,T=i mask:N,T=b -> loss:() dx:N,T,V")
def temporal_softmax_loss(
    x: Array, y: Array, mask: Array, verbose: bool = False
) -> tuple[Array, Array]:
    """Softmax cross entropy of a batch of sequences, and its gradient dx.

    Summed over time, averaged over sequences::

        loss = 1/N * sum over n, t with mask[n, t] of -log softmax(x[n, t])[y[n, t]]

    x holds the scores of V words at each step, y the target words in 0..V-1. Steps whose mask is
    False add no loss and get no gradient. The loss stays on the device of x. `verbose` prints the
    shape of the gradient, as in the course.

    Raises
    ------
    ValueError
        There are no sequences, so that the mean is undefined, or a target on the host is outside
        0..V-1.

    Notes
    -----
    This is CS231n's function in log-softmax form, so that a confident wrong word gives a large loss
    instead of inf.

    Examples
    --------
    >>> x, y = np.zeros((1, 2, 4)), np.array([[3, 0]])  # two steps, four equally likely words
    >>> loss, dx = temporal_softmax_loss(x, y, np.array([[True, False]]))
    >>> bool(np.isclose(loss, np.log(4))), dx[0]
    (True, array([[ 0.25,  0.25,  0.25, -0.75],
           [ 0.  ,  0.  ,  0.  ,  0.  ]]))
    """
    N, T, V = x.shape
    check_range("temporal_softmax_loss: y", y, V, "from another vocabulary?")
    xp = get_array_module(x)
    terms = LossTerms(1 / N)
    nll, dx = get_ops(x).softmax_loss(x.reshape(N * T, V), y.reshape(N * T), terms)
    row_mask = mask.reshape(N * T)
    loss = xp.where(row_mask, nll, 0).sum() / N
    dx = xp.where(
        row_mask[:, None], dx, 0
    )  # `where` instead of a product, since a masked step may hold inf
    if verbose:
        print("dx_flat:", dx.shape)
    return loss, dx.reshape(N, T, V)
