"""Update rules: the course's ``rule(w, dw, config)``, and in place on a flat buffer; clipping."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from xpcap.backend import Array, get_array_module
from xpcap.errors import InvalidValueError, unknown
from xpcap.memory import Buffer
from xpcap.ops import contiguous, get_ops
from xpcap.options import Kind, Names, Real, Whole

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
# Kinds of hyperparameters: of any other, a share of what came before
SHARE = Real(0, below=1)
KINDS: dict[str, Kind] = {
    "learning_rate": Real(0),
    "epsilon": Real(0),
    "t": Whole(0, cause="it is the number of steps done"),
}


def init(rule: str, w: Array, config: Mapping[str, Any] | None = None) -> Config:
    """Complete config for a rule: `config` over the course's defaults, and state arrays of zeros.

    Parameters
    ----------
    rule : str
        "sgd", "sgd_momentum", "rmsprop" or "adam".
    w : array, float, any shape
        The parameters to update; state arrays have its shape, dtype and library.
    config : mapping or None
        Hyperparameters, and state arrays of an earlier step.

    Returns
    -------
    config : dict
        All hyperparameters, as Python floats, and all state.

    Raises
    ------
    OptionError
        An unknown rule or key.
    ValueError
        A hyperparameter out of its range, or a state array of another shape.
    """
    Names(DEFAULTS).check("optim", "update rule", rule)
    known = (*DEFAULTS[rule], *STATE[rule], *(("t",) if rule == "adam" else ()))
    given = dict(config or {})
    for key in given:
        if key not in known:
            raise unknown(f"optim.{rule}", "config key", key, known)
    full: Config = {**DEFAULTS[rule], **given}
    for key in DEFAULTS[rule]:
        # A Python float: float32 weights stay float32
        full[key] = KINDS.get(key, SHARE).check(f"optim.{rule}", key, full[key])
    for key in STATE[rule]:
        if full.get(key) is None:
            full[key] = get_array_module(w).zeros_like(w)
        elif full[key].shape != w.shape:
            raise InvalidValueError(
                f"optim.{rule}", key, f"has shape {full[key].shape}", expected=f"w's {w.shape}"
            )
    if rule == "adam":
        full["t"] = KINDS["t"].check("optim.adam", "t", full.get("t", 0))
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
    updated = w, config["m"], config["v"]
    taken = [contiguous(x) for x in updated]
    flat, m, v = taken
    get_ops(w).adam_update(flat, contiguous(dw), m, v, alpha, b1, b2, config["epsilon"])
    for x, copy in zip(updated, taken, strict=True):
        if copy is not x:  # a view on a device was copied
            x[...] = copy


_IN_PLACE: dict[str, Callable[[Array, Array, Config], None]] = {
    "sgd": _sgd,
    "sgd_momentum": _sgd_momentum,
    "rmsprop": _rmsprop,
    "adam": _adam,
}


def update(rule: str, w: Array, dw: Array, config: Config) -> None:
    """A step of a rule in place, on w and on the state in `config`.

    Parameters
    ----------
    rule : str
        A name in DEFAULTS.
    w : array, float, any shape
        The parameters. They are overwritten.
    dw : array, shape and dtype of w
        Their gradient.
    config : dict
        As `init` returns it. Its state is overwritten.
    """
    _IN_PLACE[rule](w, dw, config)


def _pure(rule: str, w: Array, dw: Array, config: Config | None) -> tuple[Array, Config]:
    if np.shape(dw) != np.shape(w) or not hasattr(w, "dtype"):
        raise InvalidValueError(
            f"optim.{rule}",
            "w",
            f"has shape {np.shape(w)} and dw {np.shape(dw)}",
            expected="arrays of one shape",
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
    """Stochastic gradient descent, w -= learning_rate * dw.

    Parameters
    ----------
    w : array, float, any shape
        The parameters. They are unchanged.
    dw : array, shape and dtype of w
        Their gradient.
    config : dict or None
        ``learning_rate`` (1e-2 if missing).

    Returns
    -------
    next_w : array, shape and dtype of w
    config : dict
        `config` itself, completed in place, or a new one; to be passed to the next step.
    """
    return _pure("sgd", w, dw, config)


def sgd_momentum(w: Array, dw: Array, config: Config | None = None) -> tuple[Array, Config]:
    """Gradient descent with momentum.

    The velocity is a decaying sum of gradients::

        velocity = momentum * velocity - learning_rate * dw
        w += velocity

    Parameters
    ----------
    w : array, float, any shape
        The parameters. They are unchanged.
    dw : array, shape and dtype of w
        Their gradient.
    config : dict or None
        ``learning_rate`` (1e-2 if missing), ``momentum`` (0.9), and the state ``velocity``.

    Returns
    -------
    next_w : array, shape and dtype of w
    config : dict
        As in `sgd`.
    """
    return _pure("sgd_momentum", w, dw, config)


def rmsprop(w: Array, dw: Array, config: Config | None = None) -> tuple[Array, Config]:
    """RMSProp.

    Steps are divided by the root of a running mean of squared gradients::

        cache = decay_rate * cache + (1 - decay_rate) * dw**2
        w -= learning_rate * dw / (sqrt(cache) + epsilon)

    Parameters
    ----------
    w : array, float, any shape
        The parameters. They are unchanged.
    dw : array, shape and dtype of w
        Their gradient.
    config : dict or None
        ``learning_rate`` (1e-2 if missing), ``decay_rate`` (0.99), ``epsilon`` (1e-8), and the
        state ``cache``.

    Returns
    -------
    next_w : array, shape and dtype of w
    config : dict
        As in `sgd`.
    """
    return _pure("rmsprop", w, dw, config)


def adam(w: Array, dw: Array, config: Config | None = None) -> tuple[Array, Config]:
    """Adam.

    Kingma & Ba 2015, the efficient form at the end of section 2::

        t += 1; m = beta1 * m + (1 - beta1) * dw; v = beta2 * v + (1 - beta2) * dw**2
        w -= learning_rate * sqrt(1 - beta2**t) / (1 - beta1**t) * m / (sqrt(v) + epsilon)

    Parameters
    ----------
    w : array, float, any shape
        The parameters. They are unchanged.
    dw : array, shape and dtype of w
        Their gradient.
    config : dict or None
        ``learning_rate`` (1e-3 if missing), ``beta1`` (0.9), ``beta2`` (0.999), ``epsilon`` (1e-8),
        and the state ``m``, ``v`` and ``t``, the number of steps done.

    Returns
    -------
    next_w : array, shape and dtype of w
    config : dict
        As in `sgd`.
    """
    return _pure("adam", w, dw, config)


def clip_by_global_norm(grads: Array, max_norm: float, *, buffer: Buffer | None = None) -> Array:
    """Scale gradients down in place to the norm `max_norm` if theirs is larger.

    Parameters
    ----------
    grads : array (n,), float
        All gradients, flat.
    max_norm : float
        Largest Euclidean norm.
    buffer : Buffer or None
        Memory for the norm, which the next step overwrites. None allocates.

    Returns
    -------
    norm : array (), float
        The norm before clipping; not read from a device.

    Raises
    ------
    OptionError
        `max_norm` is not a positive number.

    Notes
    -----
    Pascanu et al. 2013, section 3.2. The captioner's loss is summed over time, so its gradient is
    that of a per-word mean times the words of a caption.
    """
    max_norm = Real(above=0).check("clip_by_global_norm", "max_norm", max_norm)
    most, taken = min(max_norm, float(np.finfo(grads.dtype).max)), contiguous(grads)
    norm = get_ops(grads).clip_by_norm(taken, most, buffer)
    if taken is not grads:  # a view on a device was copied
        grads[...] = taken
    return norm


# ---- An optimizer of a model's flat parameters

LINEAR = "linear"  # an lr_decay: to zero, step by step


class Optimizer:
    """An update rule with its state, for flat parameters.

    Parameters
    ----------
    rule : str
        A name in DEFAULTS.
    config : mapping
        Hyperparameters, as in `init`.
    like : array (n,), float
        Parameters with the layout of those to update.

    Attributes
    ----------
    config : dict
        Of the rule, with its state arrays.
    """

    def __init__(self, rule: str, config: Mapping[str, Any], like: Array) -> None:
        self.rule = rule
        self.config = init(rule, like, config)
        self._first_rate = self.config["learning_rate"]

    def update(self, params: Array, grads: Array) -> None:
        """Update parameters in place by their gradient.

        Parameters
        ----------
        params, grads : array (n,), float
        """
        update(self.rule, params, grads, self.config)

    def end_step(self, lr_decay: float | str, left: int) -> None:
        """Lower the learning rate after a step, if the decay is linear.

        Parameters
        ----------
        lr_decay : float or "linear"
            As in CaptioningSolver.
        left : int
            Steps that were left in training before this one was taken, it included.
        """
        if lr_decay == LINEAR:
            self.config["learning_rate"] *= (left - 1) / left

    def end_epoch(self, lr_decay: float | str) -> None:
        """Lower the learning rate after an epoch, if the decay is a factor.

        Parameters
        ----------
        lr_decay : float or "linear"
            As in CaptioningSolver.
        """
        if not isinstance(lr_decay, str):
            # As a float: a NumPy scalar would spread into the saved state
            self.config["learning_rate"] *= float(lr_decay)

    def begin_again(self, lr_decay: float | str) -> None:
        """Restore a learning rate that has fallen to zero, before more epochs than were planned.

        Parameters
        ----------
        lr_decay : float or "linear"
            As in CaptioningSolver.
        """
        if lr_decay == LINEAR:
            self.config["learning_rate"] = self._first_rate
