"""Inverted dropout with masks drawn on the host, so that a run drops the same units on either device."""

from typing import Any, NamedTuple

import numpy as np

from xpcap.backend import Array, asarray
from xpcap.errors import unknown
from xpcap.layers.checks import check_arrays, check_upstream
from xpcap.ops import drop


class DropoutCache(NamedTuple):
    """What dropout_backward needs."""

    mask: Array | None  # bool, shape of x; None where nothing was dropped
    p: float
    x: Array


def draw_mask(rng: np.random.Generator, shape: tuple[int, ...], p: float) -> np.ndarray:
    """A host mask, bool: each unit is kept with probability p."""
    return rng.random(shape, dtype=np.float32) < p


def apply_mask(x: Array, mask: Array | None, p: float) -> Array:
    """x with the units outside `mask` at zero and the others scaled by 1 / p; x itself where mask is None. Its own gradient."""
    return x if mask is None else drop(x, mask, p)


def dropout_forward(x: Array, dropout_param: dict[str, Any]) -> tuple[Array, DropoutCache]:
    """Inverted dropout: in training each unit is kept with probability p and scaled by 1 / p; in testing out = x.

    Parameters
    ----------
    x : array, float, any shape
    dropout_param : ``p``, probability of *keeping* a unit (the course's meaning; CaptioningRNN's `dropout` is the share dropped);
        ``mode``, "train" or "test"; optional ``seed``, an int. The mask is what the course draws: ``rand(*x.shape) < p`` on NumPy's
        legacy stream, the global one, or one of its own where there is a seed

    Returns
    -------
    out : array, shape and dtype of x
    cache : for dropout_backward

    Raises
    ------
    ValueError : p outside (0, 1]. OptionError : an unknown mode.

    Notes
    -----
    Srivastava et al. 2014, section 4, in the inverted form.
    """
    check_arrays("dropout_forward", "x:...", x)
    if missing := [key for key in ("p", "mode") if key not in dropout_param]:
        raise ValueError(f"dropout_forward: dropout_param lacks {', '.join(missing)}, expected p and mode, and seed where it is to be repeated")
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
    """Gradient of dropout_forward: dout to dx, of the same shape."""
    check_upstream("dropout_backward", "dout", dout, cache.x.shape, cache.x)
    return dout.copy() if cache.mask is None else apply_mask(dout, cache.mask, cache.p)
