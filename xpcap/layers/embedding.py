"""Word embedding: ids to rows of a table, and gradients added back to those rows."""

from typing import NamedTuple

from xpcap.backend import Array
from xpcap.layers.checks import check_arrays, check_ids
from xpcap.ops import segment_sum


class EmbeddingCache(NamedTuple):
    x: Array
    V: int


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
    TypeError : x is not integer, or of another library than W. ValueError : a host id outside 0..V-1 (CuPy would wrap it in
        silence; device ids are not read here, the model checks them before they travel).
    """
    check_arrays("word_embedding_forward", "W:V,D", W)
    check_ids("word_embedding_forward", "x", x, W.shape[0], W)
    return W[x], EmbeddingCache(x, W.shape[0])


def word_embedding_backward(dout: Array, cache: EmbeddingCache) -> Array:
    """Gradient of the table: dout (N, T, D) to dW (V, D). A word that occurs twice gets both gradients added."""
    x, V = cache
    check_arrays("word_embedding_backward", "dout:...,D", dout)
    if dout.shape[:-1] != x.shape:
        raise ValueError(f"word_embedding_backward: dout has shape {dout.shape}, expected {x.shape} and D")
    return segment_sum(dout.reshape(x.size, dout.shape[-1]), x.reshape(x.size), V)
