"""Update rules: the course's ``rule(w, dw, config)``, and in place on a flat buffer; clipping."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from xpcap.backend import Array, get_array_module
from xpcap.errors import check_number, check_whole, unknown
from xpcap.memory import Buffer
from xpcap.ops import adam_update, clip_by_norm

Config = dict[str, Any]
DEFAULTS: dict[str, Config] = {
    "sgd": {"learning_rate": 1e-2},
    "sgd_momentum": {"learning_rate": 1e-2, "momentum": 0.9},
    "rmsprop": {"learning_rate": 1e-2, "decay_rate": 0.99, "epsilon": 1e-8},
    "adam": {"learning_rate": 1e-3, "beta1": 0.9, "beta2": 0.999, "epsilon": 1e-8},
}
STATE: dict[str, tuple[str, ...]] = {
    "sgd": (),
    "sgd_momentum": ("velocity",),
    "rmsprop": ("cache",),
    "adam": ("m", "v"),
}


def init(rule: str, w: Array, config: Mapping[str, Any] | None = None) -> Config:
    """Complete config for `rule`: `config` over the course's defaults, and state arrays of zeros.

    OptionError : an unknown rule or key. ValueError : a hyperparameter out of its range.
    """
    if rule not in DEFAULTS:
        raise unknown("optim", "update rule", rule, DEFAULTS)
    known = (*DEFAULTS[rule], *STATE[rule], *(("t",) if rule == "adam" else ()))
    given = dict(config or {})
    for key in given:
        if key not in known:
            raise unknown(f"optim.{rule}", "config key", key, known)
    full: Config = {**DEFAULTS[rule], **given}
    for key in DEFAULTS[rule]:
        # A Python float: float32 weights stay float32
        top = math.inf if key in ("learning_rate", "epsilon") else 1.0
        full[key] = check_number(f"optim.{rule}", key, full[key], 0, below=top, error=ValueError)
    for key in STATE[rule]:
        if full.get(key) is None:
            full[key] = get_array_module(w).zeros_like(w)
        elif full[key].shape != w.shape:
            raise ValueError(
                f"optim.{rule}: {key} has shape {full[key].shape}, expected w's {w.shape}"
            )
    if rule == "adam":
        done = "; it is the number of steps done"
        full["t"] = check_whole("optim.adam", "t", full.get("t", 0), 0, hint=done, error=ValueError)
    return full


def _sgd(w: Array, dw: Array, config: Config) -> None:
    w -= config["learning_rate"] * dw


def _sgd_momentum(w: Array, dw: Array, config: Config) -> None:
    v = config["velocity"]
    v *= config["momentum"]
    v -= config["learning_rate"] * dw
    w += v


def _rmsprop(w: Array, dw: Array, config: Config) -> None:
    cache, decay = config["cache"], config["decay_rate"]
    cache *= decay
    cache += (1 - decay) * (dw * dw)
    w -= config["learning_rate"] * dw / (get_array_module(cache).sqrt(cache) + config["epsilon"])


def _adam(w: Array, dw: Array, config: Config) -> None:
    config["t"] += 1
    b1, b2 = config["beta1"], config["beta2"]
    alpha = config["learning_rate"] * math.sqrt(1 - b2 ** config["t"]) / (1 - b1 ** config["t"])
    adam_update(w, dw, config["m"], config["v"], alpha, b1, b2, config["epsilon"])


_IN_PLACE: dict[str, Callable[[Array, Array, Config], None]] = {
    "sgd": _sgd,
    "sgd_momentum": _sgd_momentum,
    "rmsprop": _rmsprop,
    "adam": _adam,
}


def update(rule: str, w: Array, dw: Array, config: Config) -> None:
    """A step of `rule` in place, on w and on the state in `config`, completed by `init`."""
    _IN_PLACE[rule](w, dw, config)


def _pure(rule: str, w: Array, dw: Array, config: Config | None) -> tuple[Array, Config]:
    if np.shape(dw) != np.shape(w) or not hasattr(w, "dtype"):
        raise ValueError(
            f"optim.{rule}: w has shape {np.shape(w)} and dw {np.shape(dw)}, expected arrays of one"
            " shape"
        )
    full = init(rule, w, config)
    for key in STATE[rule]:
        full[key] = full[key].copy()
    next_w = w.copy()
    update(rule, next_w, dw, full)
    if config is not None:
        config.update(full)  # callers of the course's rules may reuse the dict they passed
        full = config
    return next_w, full


def sgd(w: Array, dw: Array, config: Config | None = None) -> tuple[Array, Config]:
    """w -= learning_rate * dw (default 1e-2). Returns (next_w, config); w itself is unchanged."""
    return _pure("sgd", w, dw, config)


def sgd_momentum(w: Array, dw: Array, config: Config | None = None) -> tuple[Array, Config]:
    """velocity = momentum * velocity - learning_rate * dw; w += velocity.

    Defaults: learning_rate 1e-2, momentum 0.9.
    """
    return _pure("sgd_momentum", w, dw, config)


def rmsprop(w: Array, dw: Array, config: Config | None = None) -> tuple[Array, Config]:
    """cache = decay_rate * cache + (1 - decay_rate) * dw**2

    w -= learning_rate * dw / (sqrt(cache) + epsilon)

    Defaults: learning_rate 1e-2, decay_rate 0.99, epsilon 1e-8.
    """
    return _pure("rmsprop", w, dw, config)


def adam(w: Array, dw: Array, config: Config | None = None) -> tuple[Array, Config]:
    """Adam (Kingma & Ba 2015, the efficient form at the end of section 2).

    t += 1; m = beta1 * m + (1 - beta1) * dw; v = beta2 * v + (1 - beta2) * dw**2
    w -= learning_rate * sqrt(1 - beta2**t) / (1 - beta1**t) * m / (sqrt(v) + epsilon)

    Defaults: learning_rate 1e-3, beta1 0.9, beta2 0.999, epsilon 1e-8, t 0 (the steps done).
    """
    return _pure("adam", w, dw, config)


def clip_by_global_norm(grads: Array, max_norm: float, *, buffer: Buffer | None = None) -> Array:
    """Norm of `grads` (flat), which are scaled down in place to `max_norm` if it is larger.

    Returns
    -------
    norm : 0-d, before clipping; not read from a device. With a `buffer` it lies there, until the
        next step overwrites it

    Notes
    -----
    Pascanu et al. 2013, section 3.2. The captioner's loss is summed over time, so its gradient is
    that of a per-word mean times the words of a caption.
    """
    max_norm = check_number("clip_by_global_norm", "max_norm", max_norm, above=0)
    return clip_by_norm(grads, min(max_norm, float(np.finfo(grads.dtype).max)), buffer)


# ---- An optimizer of a model's flat parameters

LINEAR = "linear"  # an lr_decay: to zero, step by step


class Optimizer:
    """An update rule with its state, for flat parameters.

    Parameters
    ----------
    rule, config : as in init, for parameters laid out like `like`

    Attributes
    ----------
    config : of the rule, with its state arrays
    """

    def __init__(self, rule: str, config: Mapping[str, Any], like: Array) -> None:
        self.rule = rule
        self.config = init(rule, like, config)
        self._first_rate = self.config["learning_rate"]

    def update(self, params: Array, grads: Array) -> None:
        """Update flat parameters in place by a flat gradient."""
        update(self.rule, params, grads, self.config)

    def end_step(self, lr_decay: float | str, left: int) -> None:
        """Lower the learning rate after a step, one of `left` to the end of training."""
        if lr_decay == LINEAR:
            self.config["learning_rate"] *= (left - 1) / left

    def end_epoch(self, lr_decay: float | str) -> None:
        """Lower the learning rate after an epoch."""
        if not isinstance(lr_decay, str):
            # As a float: a NumPy scalar would spread into the saved state
            self.config["learning_rate"] *= float(lr_decay)

    def begin_again(self, lr_decay: float | str) -> None:
        """Restore a learning rate that has fallen to zero, before more epochs than were planned."""
        if lr_decay == LINEAR:
            self.config["learning_rate"] = self._first_rate
