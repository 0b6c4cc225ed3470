"""Inverted dropout."""

from typing import Any, NamedTuple

import numpy as np

from xpcap.backend import Array, asarray
from xpcap.errors import unknown
from xpcap.layers.checks import check_arrays, check_upstream
from xpcap.ops import drop


class DropoutCache(NamedTuple):
    """Cache of dropout_forward."""

    mask: Array | None  # bool, shape of x; None if nothing was dropped
    p: float
    x: Array


def apply_mask(x: Array, mask: Array | None, p: float) -> Array:
    """x / p where `mask` is true, else 0; x itself if mask is None. Its gradient is itself."""
    return x if mask is None else drop(x, mask, p)


def dropout_forward(x: Array, dropout_param: dict[str, Any]) -> tuple[Array, DropoutCache]:
    """Keep each unit with probability p and scale it by 1 / p; in test mode return a copy of x.

    Parameters
    ----------
    x : array, float, any shape
    dropout_param : ``p``, the probability of *keeping* a unit (as in the course; CaptioningRNN's
        `dropout` is the share dropped); ``mode``, "train" or "test"; optionally ``seed``, an int.
        The mask is the course's: ``rand(*x.shape) < p`` from NumPy's legacy generator, the global
        one or, given a seed, a fresh one

    Returns
    -------
    out : array, shape and dtype of x
    cache : for dropout_backward

    Raises
    ------
    ValueError : p is missing or outside (0, 1]. OptionError : the mode is unknown.

    Notes
    -----
    Srivastava et al. 2014, section 4, in the inverted form.
    """
    check_arrays("dropout_forward", "x:...", x)
    if missing := [key for key in ("p", "mode") if key not in dropout_param]:
        raise ValueError(f"dropout_forward: dropout_param lacks {', '.join(missing)}, expected p and mode, and a seed for a repeatable mask")
    p, mode = dropout_param["p"], dropout_param["mode"]
    if not 0 < p <= 1:
        raise ValueError(f"dropout_forward: p is {p}, expected a probability of keeping a unit in (0, 1]")
    if mode not in ("train", "test"):
        raise unknown("dropout_forward", "mode", mode, ("train", "test"))
    if mode == "test":
        return x.copy(), DropoutCache(None, p, x)
    seed = dropout_param.get("seed")
    draws = np.random.rand(*x.shape) if seed is None else np.random.RandomState(seed).rand(*x.shape)
    mask = asarray(draws < p, like=x)
    return apply_mask(x, mask, p), DropoutCache(mask, p, x)


def dropout_backward(dout: Array, cache: DropoutCache) -> Array:
    """Gradient of dropout_forward: dx, in the shape of dout."""
    check_upstream("dropout_backward", "dout", dout, cache.x.shape, cache.x)
    return dout.copy() if cache.mask is None else apply_mask(dout, cache.mask, cache.p)
