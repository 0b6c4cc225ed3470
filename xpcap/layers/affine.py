"""Affine layers: x @ w + b on rows, or at every time step of a sequence."""

from typing import NamedTuple

from xpcap.backend import Array
from xpcap.layers.checks import check_arrays, check_upstream
from xpcap.threads import in_turn


class AffineCache(NamedTuple):
    x: Array
    w: Array
    b: Array


@in_turn
def affine_forward(x: Array, w: Array, b: Array) -> tuple[Array, AffineCache]:
    """out = x @ w + b, with all axes of x after the first flattened into one.

    Parameters
    ----------
    x : array (N, d1, ..., dk), float; D = d1 * ... * dk
    w : array (D, M), float
    b : array (M,), float

    Returns
    -------
    out : array (N, M), float
    cache : for affine_backward

    Raises
    ------
    TypeError, ValueError : libraries, dtypes or shapes do not match.

    Notes
    -----
    CS231n's affine layer: same name and arguments.
    """
    check_arrays("affine_forward", "x:...,K w:D,M b:M", x, w, b)
    check_arrays("affine_forward", "x:N,D w:D,M", _rows(x), w, note="D is the product of all axes of x after the first")
    return _rows(x) @ w + b, AffineCache(x, w, b)


@in_turn
def affine_backward(dout: Array, cache: AffineCache) -> tuple[Array, Array, Array]:
    """Gradients of affine_forward: dout (N, M) to dx (shape of x), dw (D, M), db (M,)."""
    x, w, _ = cache
    check_upstream("affine_backward", "dout", dout, (x.shape[0], w.shape[1]), x)
    return (dout @ w.T).reshape(x.shape), _rows(x).T @ dout, dout.sum(axis=0)


@in_turn
def temporal_affine_forward(x: Array, w: Array, b: Array) -> tuple[Array, AffineCache]:
    """out[n, t] = x[n, t] @ w + b, computed as one product over all N * T rows.

    Parameters
    ----------
    x : array (N, T, D), float
    w : array (D, M), float
    b : array (M,), float

    Returns
    -------
    out : array (N, T, M), float
    cache : for temporal_affine_backward

    Raises
    ------
    TypeError, ValueError : libraries, dtypes or shapes do not match.
    """
    check_arrays("temporal_affine_forward", "x:N,T,D w:D,M b:M", x, w, b)
    N, T, D = x.shape
    return (x.reshape(N * T, D) @ w + b).reshape(N, T, w.shape[1]), AffineCache(x, w, b)


@in_turn
def temporal_affine_backward(dout: Array, cache: AffineCache) -> tuple[Array, Array, Array]:
    """Gradients of temporal_affine_forward: dout (N, T, M) to dx (N, T, D), dw (D, M), db (M,)."""
    x, w, _ = cache
    N, T, D = x.shape
    check_upstream("temporal_affine_backward", "dout", dout, (N, T, w.shape[1]), x)
    rows = dout.reshape(N * T, w.shape[1])
    return (rows @ w.T).reshape(x.shape), x.reshape(N * T, D).T @ rows, rows.sum(axis=0)


def _rows(x: Array) -> Array:
    """Reshape x (N, ...) to (N, D). D is explicit, since reshape cannot infer -1 if N is 0."""
    D = 1
    for size in x.shape[1:]:
        D *= size
    return x.reshape(x.shape[0], D)
