"""Update rules, the course's functions ``rule(w, dw, config)``, and clipping.

Start with `UpdateRule` and RULES: solver, checkpoints and tests know a rule by its fields alone.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np

from xpcap.backend import Array, get_array_module
from xpcap.backend.memory import Workspace
from xpcap.backend.shape_specs import check_float, require_array
from xpcap.errors import InvalidTypeError, InvalidValueError, OptionError, one_of
from xpcap.ops import contiguous, get_ops
from xpcap.options import Names, OptionKind, Real, Whole

Config = dict[str, Any]
StateArrays = Mapping[str, Array]  # the state arrays of one parameter array, by name
Shape = tuple[int, ...]

AS_W: Callable[[Shape], Shape | None] = tuple  # a state array has the shape of w


@dataclass(frozen=True)
class UpdateRule:
    """An update rule: its step, the numbers it takes, and the state it keeps.

    Pass a custom instance wherever a rule's name is accepted.

    Parameters
    ----------
    name : str
        The rule's name in messages and checkpoints.
    update : callable
        ``update(w, dw, state, config)`` changes the parameters w and their `state`, arrays by name,
        in place, and returns None; dw is the gradient, and config holds the numbers.
    numbers : dict of str to (float, OptionKind)
        Default and kind of each number. ``learning_rate`` is required. ``t``, if present, counts
        the steps from 1.
    state : dict of str to callable
        A function for each state array, from the shape of w to the array's, or to None if w needs
        no such array; AS_W keeps the shape. State starts as zeros in the dtype of w.
    squares : tuple of str
        State arrays that are means of squares, so never negative.
    elementwise : bool
        An element's step depends on that element alone, so all parameters are updated at once, as
        one flat array.

    Raises
    ------
    OptionError
        No ``learning_rate``, a square that is not a state array, or an elementwise rule whose state
        has another shape than w.

    Examples
    --------
    >>> from xpcap import optim
    >>> from xpcap.options import Real
    >>> def sign_update(w, dw, state, config):
    ...     w -= config["learning_rate"] * np.sign(dw)
    >>> rule = optim.UpdateRule("sign", sign_update, {"learning_rate": (0.5, Real(0))})
    >>> w = np.array([1.0, 2.0])
    >>> optim.update(rule, w, np.array([3.0, -4.0]), {})
    >>> w
    array([0.5, 2.5])
    """

    name: str
    update: Callable[[Array, Array, StateArrays, Config], object]
    numbers: Mapping[str, tuple[float, OptionKind]]
    state: Mapping[str, Callable[[Shape], Shape | None]] = field(default_factory=dict)
    squares: tuple[str, ...] = ()
    elementwise: bool = False

    def __post_init__(self) -> None:
        if "learning_rate" not in self.numbers:
            raise OptionError(
                f"rule {self.name!r}: `numbers` has {', '.join(self.numbers) or 'none'}, expected a learning_rate; the"
                " solver lowers it"
            )
        if unknown_squares := [key for key in self.squares if key not in self.state]:
            raise OptionError(
                f"rule {self.name!r}: `squares` has {unknown_squares[0]!r}, expected some of"
                f" {', '.join(self.state) or 'none'}, as in `state`"
            )
        reshaped = [key for key, shape_of in self.state.items() if shape_of is not AS_W]
        if self.elementwise and reshaped:
            raise OptionError(
                f"rule {self.name!r}: `elementwise` is set with the state {reshaped[0]!r}, expected all state as AS_W;"
                " one flat array holds all parameters, and their state is laid out like them"
            )

    def state_shapes(self, shape: Shape) -> dict[str, Shape]:
        """Shapes of the state arrays, by name, of a parameter array.

        Parameters
        ----------
        shape : tuple of int

        Returns
        -------
        shapes : dict of str to tuple of int
        """
        shapes = {key: shape_of(shape) for key, shape_of in self.state.items()}
        return {key: shape for key, shape in shapes.items() if shape is not None}

    def step(self, arrays: Iterable[tuple[Array, Array, StateArrays]], config: Config) -> None:
        """Take one step of several arrays in place; ``t`` grows by 1 unless an error ends the step.

        Parameters
        ----------
        arrays : iterable of (w, dw, state)
        config : dict

        Raises
        ------
        TypeError
            The rule returns a value, or assigns a state array instead of writing to it.
        """
        before = dict(config)
        try:
            if "t" in self.numbers:
                config["t"] += 1
            for w, dw, state in arrays:
                result = self.update(w, dw, MappingProxyType(state), config)
                if result is not None:
                    raise InvalidTypeError(
                        f"rule {self.name!r}: `update` returned a {type(result).__name__}, expected None: it changes w"
                        " in place; a rule that computes the new w writes w[...] = next_w"
                    )
        except BaseException:
            config.update(before)  # the caller may repeat an interrupted step
            raise

    def complete(self, config: Mapping[str, Any], *arrays: str) -> Config:
        """The numbers in `config`, completed by defaults.

        Parameters
        ----------
        config : mapping
        *arrays : str
            Other keys that `config` may have; they are left out.

        Returns
        -------
        numbers : dict
            Python floats, which keep float32 weights float32; ``t`` is an int.

        Raises
        ------
        OptionError
            An unknown key, or a number out of its range.
        """
        known = (*self.numbers, *arrays)
        for key in config:
            if key not in known:
                raise OptionError(
                    f"{self.name} has no config key {key!r}, expected {one_of(known, key)}"
                )
        return {
            key: kind.check(key, config.get(key, default))
            for key, (default, kind) in self.numbers.items()
        }


# ---- The rules

RATE = Real(0)
DECAY = Real(0, below=1)  # share of the running sum or mean that a step keeps
STEPS = Whole(0, 2**53, cause="it is the number of steps done")
MAX_NORM = Real(above=0)


def _sgd(w: Array, dw: Array, state: StateArrays, config: Config) -> None:
    w -= config["learning_rate"] * dw


def _sgd_momentum(w: Array, dw: Array, state: StateArrays, config: Config) -> None:
    v = state["velocity"]
    v *= config["momentum"]
    v -= config["learning_rate"] * dw
    w += v


def _rmsprop(w: Array, dw: Array, state: StateArrays, config: Config) -> None:
    cache = state["cache"]
    decay = config["decay_rate"]
    cache *= decay
    cache += (1 - decay) * (dw * dw)
    w -= config["learning_rate"] * dw / (get_array_module(cache).sqrt(cache) + config["epsilon"])


def _adam(w: Array, dw: Array, state: StateArrays, config: Config) -> None:
    b1 = config["beta1"]
    b2 = config["beta2"]
    t = config["t"]
    alpha = config["learning_rate"] * math.sqrt(1 - b2**t) / (1 - b1**t)
    arrays = w, state["m"], state["v"]
    contiguous_arrays = [contiguous(x) for x in arrays]
    flat, m, v = contiguous_arrays
    get_ops(w).adam_update(flat, contiguous(dw), m, v, alpha, b1, b2, config["epsilon"])
    for x, copy in zip(arrays, contiguous_arrays, strict=True):
        if copy is not x:  # a view on a device was copied
            x[...] = copy


RULES: dict[str, UpdateRule] = {
    rule.name: rule
    for rule in (
        UpdateRule("sgd", _sgd, {"learning_rate": (1e-2, RATE)}, elementwise=True),
        UpdateRule(
            "sgd_momentum",
            _sgd_momentum,
            {"learning_rate": (1e-2, RATE), "momentum": (0.9, DECAY)},
            {"velocity": AS_W},
            elementwise=True,
        ),
        UpdateRule(
            "rmsprop",
            _rmsprop,
            {
                "learning_rate": (1e-2, RATE),
                "decay_rate": (0.99, DECAY),
                "epsilon": (1e-8, Real(0)),
            },
            {"cache": AS_W},
            squares=("cache",),
            elementwise=True,
        ),
        UpdateRule(
            "adam",
            _adam,
            {
                "learning_rate": (1e-3, RATE),
                "beta1": (0.9, DECAY),
                "beta2": (0.999, DECAY),
                "epsilon": (1e-8, Real(0)),
                "t": (0, STEPS),
            },
            {"m": AS_W, "v": AS_W},
            squares=("v",),
            elementwise=True,
        ),
    )
}


def as_rule(rule: str | UpdateRule) -> UpdateRule:
    """The rule that a name in RULES stands for, or the rule itself.

    Parameters
    ----------
    rule : str or UpdateRule

    Returns
    -------
    rule : UpdateRule
    """
    if isinstance(rule, UpdateRule):
        return rule
    return RULES[Names(RULES).check("update rule", rule)]


def init(rule: str | UpdateRule, w: Array, config: Mapping[str, Any] | None = None) -> Config:
    """Complete config for a rule: `config` over its defaults, and state arrays of zeros.

    Parameters
    ----------
    rule : str or UpdateRule
        A name in RULES, or a rule.
    w : array, float, any shape
        The parameters to update; state arrays have its dtype and library.
    config : mapping or None
        Hyperparameters, and state arrays of an earlier step.

    Returns
    -------
    config : dict
        All hyperparameters, as Python floats, and all state.

    Raises
    ------
    OptionError
        An unknown rule or key, or a hyperparameter out of its range.
    ValueError
        A state array of another shape.
    TypeError
        `w` or a state array is no array, or their dtypes or libraries differ.

    Examples
    --------
    >>> from xpcap import optim
    >>> optim.init("sgd_momentum", np.zeros(2), {"momentum": 0.5})
    {'momentum': 0.5, 'learning_rate': 0.01, 'velocity': array([0., 0.])}
    """
    rule = as_rule(rule)
    require_array("w", w)
    numbers = dict(config or {})
    shapes = rule.state_shapes(w.shape)
    full = {**numbers, **rule.complete(numbers, *shapes)}
    for key, shape in shapes.items():
        if full.get(key) is None:
            full[key] = get_array_module(w).zeros(shape, w.dtype)
            continue
        check_float(key, full[key], "w", w)
        if full[key].shape != shape:
            raise InvalidValueError(f"{key} has shape {full[key].shape}, expected {shape}")
    return full


def update(rule: str | UpdateRule, w: Array, dw: Array, config: Config) -> None:
    """Take a step of a rule: change w and the state in `config` in place.

    Parameters
    ----------
    rule : str or UpdateRule
        A name in RULES, or a rule.
    w : array, float, any shape
        The parameters. They are overwritten.
    dw : array, shape and dtype of w
        Their gradient.
    config : dict
        As `init` returns it; missing entries are added. Its state is overwritten.

    Raises
    ------
    OptionError, TypeError, ValueError
        As of `init`, or `dw` is no array or has another shape.

    Examples
    --------
    >>> from xpcap import optim
    >>> w, config = np.array([1.0, 2.0]), {"learning_rate": 0.5}
    >>> for _ in range(2):
    ...     optim.update("sgd", w, 2 * w, config)
    >>> w
    array([0., 0.])
    """
    rule = as_rule(rule)
    require_array("dw", dw)
    config.update(init(rule, w, config))
    if dw.shape != w.shape:
        raise InvalidValueError(
            f"w has shape {w.shape} and dw {dw.shape}, expected arrays of the same shape"
        )
    rule.step([(w, dw, {key: config[key] for key in rule.state_shapes(w.shape)})], config)


def _pure(rule: str, w: Array, dw: Array, config: Config | None) -> tuple[Array, Config]:
    full = init(rule, w, config)
    for key in RULES[rule].state_shapes(w.shape):
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
        `config` itself, completed in place, or a new one. Pass it to the next step.

    Examples
    --------
    >>> from xpcap import optim
    >>> w, config = optim.sgd(np.array([1.0]), np.array([2.0]), {"learning_rate": 0.25})
    >>> w
    array([0.5])
    """
    return _pure("sgd", w, dw, config)


def sgd_momentum(w: Array, dw: Array, config: Config | None = None) -> tuple[Array, Config]:
    """Gradient descent with momentum.

    The velocity is a decaying sum of gradients::

        velocity = momentum * velocity - learning_rate * dw
        w += velocity

    Parameters
    ----------
    w, dw : array
        As in `sgd`.
    config : dict or None
        ``learning_rate`` (1e-2 if missing), ``momentum`` (0.9), and the state ``velocity``.

    Returns
    -------
    next_w, config : array, dict
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
    w, dw : array
        As in `sgd`.
    config : dict or None
        ``learning_rate`` (1e-2 if missing), ``decay_rate`` (0.99), ``epsilon`` (1e-8), and the
        state ``cache``.

    Returns
    -------
    next_w, config : array, dict
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
    w, dw : array
        As in `sgd`.
    config : dict or None
        ``learning_rate`` (1e-3 if missing), ``beta1`` (0.9), ``beta2`` (0.999), ``epsilon`` (1e-8),
        and the state ``m``, ``v`` and ``t``, the number of steps done.

    Returns
    -------
    next_w, config : array, dict
        As in `sgd`.
    """
    return _pure("adam", w, dw, config)


def clip_by_global_norm(grads: Array, max_norm: float, *, memory: Workspace | None = None) -> Array:
    """Scale gradients down in place to the norm `max_norm` if theirs is larger and finite.

    Parameters
    ----------
    grads : array (n,), float
        All gradients, flat.
    max_norm : float
        Largest Euclidean norm.
    memory : Workspace or None
        Holds the norm, which the next step overwrites. None: a new array.

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
    that of a mean over words, times the number of words in a caption.

    Examples
    --------
    >>> from xpcap import optim
    >>> grads = np.array([3.0, 4.0])
    >>> norm = optim.clip_by_global_norm(grads, 1.0)
    >>> float(norm), grads.round(6)
    (5.0, array([0.6, 0.8]))
    """
    max_norm = MAX_NORM.check("max_norm", max_norm)
    largest = float(np.finfo(grads.dtype).max)
    flat = contiguous(grads)
    norm = get_ops(grads).clip_by_norm(flat, min(max_norm, largest), memory)
    if flat is not grads:  # a view on a device was copied
        grads[...] = flat
    return norm
