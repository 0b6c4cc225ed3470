"""Word embedding: a table of vectors, looked up by id."""

from typing import NamedTuple

from xpcap.backend import Array
from xpcap.layers.checks import check_arrays, check_ids, check_upstream
from xpcap.ops import segment_sum, segments


class EmbeddingCache(NamedTuple):
    """Cache of word_embedding_forward."""

    x: Array  # (N, T) int
    W: Array  # (V, D)


def word_embedding_forward(x: Array, W: Array) -> tuple[Array, EmbeddingCache]:
    """out[n, t] = W[x[n, t]].

    Parameters
    ----------
    x : array (N, T), int; word ids in 0..V-1
    W : array (V, D), float

    Returns
    -------
    out : array (N, T, D), float
    cache : for word_embedding_backward

    Raises
    ------
    TypeError : x is not integer, or in another library than W. ValueError : an id on the host is
        outside 0..V-1. Ids on a device are not read here, and CuPy wraps bad ones silently; the
        model checks ids before it sends them.
    """
    check_arrays("word_embedding_forward", "W:V,D", W)
    check_ids("word_embedding_forward", "x", x, W.shape[0], W)
    return W[x], EmbeddingCache(x, W)


def word_embedding_backward(dout: Array, cache: EmbeddingCache) -> Array:
    """Gradient of the table: dout (N, T, D) to dW (V, D). Gradients of a repeated word add up."""
    x, W = cache
    V, D = W.shape
    check_upstream("word_embedding_backward", "dout", dout, (*x.shape, D), W)
    return segment_sum(dout.reshape(x.size, D), segments(x.reshape(x.size), V))
