"""Layers without state: affine, word embedding, dropout, temporal softmax loss."""

from typing import Any, NamedTuple

import numpy as np

from xpcap.backend import Array, asarray, get_array_module
from xpcap.errors import InvalidValueError, unknown
from xpcap.layers.checks import check_arrays, check_ids, check_mask, check_upstream
from xpcap.ops import contiguous, get_ops, segments
from xpcap.threads import in_turn

# ---- Affine


class AffineCache(NamedTuple):
    """Cache of affine_forward and temporal_affine_forward."""

    x: Array
    w: Array
    b: Array


@in_turn
def affine_forward(x: Array, w: Array, b: Array) -> tuple[Array, AffineCache]:
    """An affine layer, out = x @ w + b, with all axes of x after the first flattened into one.

    Parameters
    ----------
    x : array (N, d1, ..., dk), float
        D = d1 * ... * dk.
    w : array (D, M), float
    b : array (M,), float

    Returns
    -------
    out : array (N, M), float
    cache : AffineCache
        For affine_backward.

    Raises
    ------
    TypeError, ValueError
        Libraries, dtypes or shapes do not match.

    Notes
    -----
    CS231n's affine layer: same name and arguments.
    """
    check_arrays("affine_forward", "x:...,K w:D,M b:M", x, w, b)
    note = "D is the product of all axes of x after the first"
    check_arrays("affine_forward", "x:N,D w:D,M", _rows(x), w, note=note)
    return _rows(x) @ w + b, AffineCache(x, w, b)


@in_turn
def affine_backward(dout: Array, cache: AffineCache) -> tuple[Array, Array, Array]:
    """Gradients of affine_forward.

    Parameters
    ----------
    dout : array (N, M), float
    cache : AffineCache
        Of affine_forward.

    Returns
    -------
    dx : array (N, d1, ..., dk), float
    dw : array (D, M), float
    db : array (M,), float

    Raises
    ------
    TypeError, ValueError
        Libraries, dtypes or shapes do not match.
    """
    x, w, _ = cache
    check_upstream("affine_backward", "dout", dout, (x.shape[0], w.shape[1]), x)
    return (dout @ w.T).reshape(x.shape), _rows(x).T @ dout, dout.sum(axis=0)


@in_turn
def temporal_affine_forward(x: Array, w: Array, b: Array) -> tuple[Array, AffineCache]:
    """An affine layer at each step, out[n, t] = x[n, t] @ w + b, as one product over N * T rows.

    Parameters
    ----------
    x : array (N, T, D), float
    w : array (D, M), float
    b : array (M,), float

    Returns
    -------
    out : array (N, T, M), float
    cache : AffineCache
        For temporal_affine_backward.

    Raises
    ------
    TypeError, ValueError
        Libraries, dtypes or shapes do not match.
    """
    check_arrays("temporal_affine_forward", "x:N,T,D w:D,M b:M", x, w, b)
    N, T, D = x.shape
    return (x.reshape(N * T, D) @ w + b).reshape(N, T, w.shape[1]), AffineCache(x, w, b)


@in_turn
def temporal_affine_backward(dout: Array, cache: AffineCache) -> tuple[Array, Array, Array]:
    """Gradients of temporal_affine_forward.

    Parameters
    ----------
    dout : array (N, T, M), float
    cache : AffineCache
        Of temporal_affine_forward.

    Returns
    -------
    dx : array (N, T, D), float
    dw : array (D, M), float
    db : array (M,), float

    Raises
    ------
    TypeError, ValueError
        Libraries, dtypes or shapes do not match.
    """
    x, w, _ = cache
    N, T, D = x.shape
    check_upstream("temporal_affine_backward", "dout", dout, (N, T, w.shape[1]), x)
    rows = dout.reshape(N * T, w.shape[1])
    return (rows @ w.T).reshape(x.shape), x.reshape(N * T, D).T @ rows, rows.sum(axis=0)


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


def word_embedding_forward(x: Array, W: Array) -> tuple[Array, EmbeddingCache]:
    """Word vectors, out[n, t] = W[x[n, t]].

    Parameters
    ----------
    x : array (N, T), int
        Word ids in 0..V-1.
    W : array (V, D), float
        The table of word vectors.

    Returns
    -------
    out : array (N, T, D), float
    cache : EmbeddingCache
        For word_embedding_backward.

    Raises
    ------
    TypeError
        x is not integer, or in another library than W.
    ValueError
        An id on the host is outside 0..V-1. Ids on a device are not read here, and CuPy wraps bad
        ones silently; the model checks ids before it sends them.
    """
    check_arrays("word_embedding_forward", "W:V,D", W)
    check_ids("word_embedding_forward", "x", x, W.shape[0], W)
    return W[x], EmbeddingCache(x, W)


def word_embedding_backward(dout: Array, cache: EmbeddingCache) -> Array:
    """Gradient of the table of word_embedding_forward.

    Parameters
    ----------
    dout : array (N, T, D), float
    cache : EmbeddingCache
        Of word_embedding_forward.

    Returns
    -------
    dW : array (V, D), float
        The gradients of a repeated word are added up.

    Raises
    ------
    TypeError, ValueError
        Libraries, dtypes or shapes do not match.
    """
    x, W = cache
    V, D = W.shape
    check_upstream("word_embedding_backward", "dout", dout, (*x.shape, D), W)
    rows = contiguous(dout.reshape(x.size, D))
    return get_ops(W).segment_sum(rows, segments(x.reshape(x.size), V))


# ---- Dropout


class DropoutCache(NamedTuple):
    """Cache of dropout_forward."""

    mask: Array | None  # bool, shape of x; None if nothing was dropped
    p: float
    x: Array


def dropout_forward(x: Array, dropout_param: dict[str, Any]) -> tuple[Array, DropoutCache]:
    """Keep each unit with probability p and scale it by 1 / p; in test mode return a copy of x.

    Parameters
    ----------
    x : array, float, any shape
    dropout_param : dict
        ``p``, the probability of *keeping* a unit (as in the course; CaptioningRNN's `dropout` is
        the share dropped); ``mode``, "train" or "test"; optionally ``seed``, an int. The mask is
        the course's: ``rand(*x.shape) < p`` from NumPy's legacy generator, the global one or, given
        a seed, a fresh one.

    Returns
    -------
    out : array, shape and dtype of x
    cache : DropoutCache
        For dropout_backward.

    Raises
    ------
    ValueError
        p is missing or outside (0, 1].
    OptionError
        The mode is unknown.

    Notes
    -----
    Srivastava et al. 2014, section 4, in the inverted form.
    """
    check_arrays("dropout_forward", "x:...", x)
    if missing := [key for key in ("p", "mode") if key not in dropout_param]:
        raise InvalidValueError(
            "dropout_forward",
            "dropout_param",
            f"lacks {', '.join(missing)}",
            expected="p and mode, and a seed for a repeatable mask",
        )
    p, mode = dropout_param["p"], dropout_param["mode"]
    if not 0 < p <= 1:
        wanted = "a probability of keeping a unit in (0, 1]"
        raise InvalidValueError("dropout_forward", "p", f"is {p}", expected=wanted)
    if mode not in ("train", "test"):
        raise unknown("dropout_forward", "mode", mode, ("train", "test"))
    if mode == "test":
        return x.copy(), DropoutCache(None, p, x)
    seed = dropout_param.get("seed")
    draws = np.random.rand(*x.shape) if seed is None else np.random.RandomState(seed).rand(*x.shape)
    mask = asarray(draws < p, like=x)
    return apply_mask(x, mask, p), DropoutCache(mask, p, x)


def dropout_backward(dout: Array, cache: DropoutCache) -> Array:
    """Gradient of dropout_forward.

    Parameters
    ----------
    dout : array, shape and dtype of x
    cache : DropoutCache
        Of dropout_forward.

    Returns
    -------
    dx : array, shape and dtype of x

    Raises
    ------
    TypeError, ValueError
        Libraries, dtypes or shapes do not match.
    """
    check_upstream("dropout_backward", "dout", dout, cache.x.shape, cache.x)
    return dout.copy() if cache.mask is None else apply_mask(dout, cache.mask, cache.p)


def apply_mask(x: Array, mask: Array | None, p: float) -> Array:
    """x / p where `mask` is true, else 0; x itself without a mask. Also its own gradient."""
    return x if mask is None else get_ops(x).dropout(contiguous(x), contiguous(mask), p)


# ---- Loss


def temporal_softmax_loss(
    x: Array, y: Array, mask: Array, verbose: bool = False
) -> tuple[Array, Array]:
    """Softmax cross entropy of a batch of sequences.

    Summed over time, averaged over sequences::

        loss = 1/N * sum over n, t with mask[n, t] of -log softmax(x[n, t])[y[n, t]]

    Parameters
    ----------
    x : array (N, T, V), float
        Scores.
    y : array (N, T), int
        Target words in 0..V-1.
    mask : array (N, T), bool
        True for steps that count. The others add no loss and get no gradient.
    verbose : bool
        Print the shape of the gradient, as the course does.

    Returns
    -------
    loss : array (), float
        Stays on the device.
    dx : array (N, T, V), float

    Raises
    ------
    TypeError, ValueError
        Libraries, dtypes or shapes do not match, or a target on the host is outside 0..V-1.

    Notes
    -----
    CS231n's function, in log-softmax form: a confident wrong word gives a large loss, not inf.
    """
    check_arrays("temporal_softmax_loss", "x:N,T,V", x)
    N, T, V = x.shape
    check_ids("temporal_softmax_loss", "y", y, V, x)
    check_mask("temporal_softmax_loss", mask, (N, T), x)
    if y.shape != (N, T):
        raise InvalidValueError(
            "temporal_softmax_loss",
            "y",
            f"has shape {y.shape}",
            expected=f"(N, T) = {(N, T)}, as in x",
        )
    xp = get_array_module(x)
    scale = xp.full(N * T, 1 / max(N, 1), x.dtype)
    scores, targets = contiguous(x.reshape(N * T, V)), contiguous(y.reshape(N * T))
    nll, dx = get_ops(x).softmax_loss(scores, targets, scale)
    counts = mask.reshape(N * T)
    loss = xp.where(counts, nll, 0).sum() / N
    dx = xp.where(counts[:, None], dx, 0)  # not a product: a masked step may hold inf
    if verbose:
        print("dx_flat:", dx.shape)
    return loss, dx.reshape(N, T, V)
