"""Update rules: the course's formulas, clipping, and what they refuse. What holds of every rule is its
contract, in tests/testing/test_update_rule.py.
"""

import math
from typing import Any

import numpy as np
import pytest
from refusals import Refusal, refusals
from update_rules import ROW_ADAGRAD  # noqa: F401 - in a row

from xpcap import optim, to_numpy
from xpcap.ops import get_ops
from xpcap.optim import UpdateRule


def by_the_formula(rule: str, w: np.ndarray, grads: list[np.ndarray]) -> np.ndarray:
    """Each rule written out with the course's defaults, from zero state."""
    v, m = np.zeros_like(w), np.zeros_like(w)
    for t, dw in enumerate(grads, start=1):
        if rule == "sgd":
            w = w - 1e-2 * dw
        elif rule == "sgd_momentum":
            v = 0.9 * v - 1e-2 * dw
            w = w + v
        elif rule == "rmsprop":
            v = 0.99 * v + 0.01 * dw**2
            w = w - 1e-2 * dw / (np.sqrt(v) + 1e-8)
        else:
            m, v = 0.9 * m + 0.1 * dw, 0.999 * v + 0.001 * dw**2
            w = w - 1e-3 * math.sqrt(1 - 0.999**t) / (1 - 0.9**t) * m / (np.sqrt(v) + 1e-8)
    return w


COURSE = ("sgd", "sgd_momentum", "rmsprop", "adam")


@pytest.mark.parametrize("rule", COURSE)
def test_rule_follows_its_formula_over_steps_and_leaves_w_alone(
    rule: str, lib: Any, rng: np.random.Generator
) -> None:
    w, grads = rng.standard_normal((3, 4)), list(rng.standard_normal((5, 3, 4)))
    x, config = lib(w), None
    for dw in grads:
        x, config = getattr(optim, rule)(x, lib(dw), config)
    np.testing.assert_allclose(to_numpy(x), by_the_formula(rule, w, grads), rtol=1e-12)
    getattr(optim, rule)(start := lib(w), lib(grads[0]))
    np.testing.assert_array_equal(to_numpy(start), w)


def test_the_callers_config_carries_the_state_on_as_in_the_course() -> None:
    config: dict[str, Any] = {"learning_rate": 1e-3}
    _, returned = optim.adam(np.ones(3), np.ones(3), config)
    assert returned is config
    assert config["t"] == 1
    before = config["m"].copy()
    optim.adam(np.ones(3), np.ones(3), dict(config))
    np.testing.assert_array_equal(config["m"], before)  # a copied dict keeps its own arrays


def test_clipping_scales_only_what_is_too_long_and_finite(lib: Any) -> None:
    for given, most, norm, expected in (
        ([3, 4], 10.0, 5, [3, 4]),
        ([3, 4], 1.0, 5, [0.6, 0.8]),
        ([3, 4], 1e300, 5, [3, 4]),  # beyond float32: nothing is too long
        ([3, np.nan, 4], 1.0, np.nan, [3, np.nan, 4]),
        ([0, 0], 1.0, 0, [0, 0]),
    ):
        grads = lib.xp.array(given, lib.xp.float32)
        found = float(optim.clip_by_global_norm(grads, most))
        assert found == pytest.approx(norm, nan_ok=True)
        assert grads.dtype == np.float32
        np.testing.assert_allclose(to_numpy(grads), expected, rtol=1e-6)


def test_norms_of_millions_keep_their_digits_and_large_ones_are_finite(lib: Any) -> None:
    x = np.random.default_rng(0).standard_normal(2_600_000).astype("f4")
    cases = (x, np.linalg.norm(x.astype("f8"))), ([3e30, 4e30], 5e30), ([np.nan], np.nan)
    for given, norm in cases:
        taken = lib(np.asarray(given, "f4"))
        found = float(get_ops(taken).global_norm(taken))
        assert found == pytest.approx(norm, rel=1e-6, nan_ok=True)


def rule(update: Any = lambda w, dw, state, config: None, **changed: Any) -> UpdateRule:
    fields: dict[str, Any] = {"numbers": {"learning_rate": (0.1, optim.RATE)}}
    fields |= {"state": {"m": optim.AS_W}, **changed}
    return UpdateRule("own", update, **fields)


@refusals(
    """
    optim.init("adamm", w) | OptionError | 'adamm' | one of sgd | did you mean 'adam'
    optim.adam(w, w, {"learning_rat": 1}) | OptionError | 'learning_rat' | did you mean 'learning_rate'
    optim.sgd(w, w, {"learning_rate": float("nan")}) | OptionError | learning_rate | is nan | finite number of at least 0
    optim.adam(w, w, {"m": np.zeros(2)}) | ValueError | m | has shape (2,) | (3,)
    optim.adam(w, w, {"beta2": 1}) | OptionError | beta2 | is 1 | [0, 1)
    optim.init(ROW_ADAGRAD, w[None], {"row": np.zeros(3)}) | ValueError | row | (1,)
    optim.adam(w, w, {"t": -1}) | OptionError | t | is -1
    optim.update("sgd", w[None], w, {}) | ValueError | (1, 3) | dw (3,) | the same shape
    optim.update("sgd", w, w, {"momentum": 0.9}) | OptionError | config key | 'momentum'
    optim.update("sgd", w, w, {"learning_rate": float("nan")}) | OptionError | learning_rate | is nan
    optim.sgd([1.0], [1.0]) | TypeError | w | is a list
    optim.sgd(w, np.ma.array(w)) | TypeError | dw | is a masked array | dw.filled
    optim.update("sgd", w[0], w[0], {}) | TypeError | dw | is a float64
    optim.sgd_momentum(w, w, {"velocity": np.zeros(3, int)}) | TypeError | velocity | has dtype int64 | float32 or float64
    optim.sgd_momentum(w, w, {"velocity": np.zeros(3, "f4")}) | TypeError | velocity | has dtype float32 | float64, as w has
    rule(numbers={}) | OptionError | rule 'own' | numbers | has none | learning_rate
    rule(squares=("v",)) | OptionError | rule 'own' | squares | has 'v' | some of m
    rule(state={"m": lambda shape: shape[:1]}, elementwise=True) | OptionError | rule 'own' | elementwise | the state 'm' | AS_W
    optim.update(rule(lambda w, dw, state, config: (w - dw, config)), w, w, {}) | TypeError | rule 'own' | update | returned a tuple | w[...] = next_w
    optim.clip_by_global_norm(w, 0) | OptionError | max_norm | is 0 | positive
    """
)
def test_bad_arguments_are_named_with_what_was_wanted(refusal: Refusal) -> None:
    refusal.check({**globals(), "w": np.ones(3)})
