"""Update rules: the formulas, flat against per-parameter, state that carries on, clipping, and what
they refuse.
"""

import math
from typing import Any

import numpy as np
import pytest
from refusals import refuses

from xpcap import optim, to_numpy
from xpcap.ops import get_ops


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


@pytest.mark.parametrize("rule", list(optim.RULES))
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


@pytest.mark.parametrize("rule", list(optim.RULES))
def test_in_place_over_a_flat_buffer_is_the_same_rule(rule: str, rng: np.random.Generator) -> None:
    w, grads = rng.standard_normal(50), list(rng.standard_normal((4, 50)))
    flat, config = w.copy(), optim.init(rule, w)
    for dw in grads:
        optim.update(rule, flat, dw, config)
    np.testing.assert_allclose(flat, by_the_formula(rule, w, grads), rtol=1e-12)


@pytest.mark.parametrize("rule", list(optim.RULES))
def test_float32_stays_float32_whatever_the_learning_rate_is(rule: str) -> None:
    w, config = optim.sgd(
        np.ones(3, np.float32), np.ones(3, np.float32), {"learning_rate": np.float64(0.1)}
    )
    next_w, config = getattr(optim, rule)(w, w, {"learning_rate": np.float64(0.1)})
    assert next_w.dtype == np.float32
    assert all(config[key].dtype == np.float32 for key in optim.RULES[rule].state)


def test_the_callers_config_carries_the_state_on_as_in_the_course() -> None:
    config: dict[str, Any] = {"learning_rate": 1e-3}
    _, returned = optim.adam(np.ones(3), np.ones(3), config)
    assert returned is config
    assert config["t"] == 1
    before = config["m"].copy()
    optim.adam(np.ones(3), np.ones(3), dict(config))
    np.testing.assert_array_equal(config["m"], before)  # a copied dict keeps its own arrays


def test_clipping_scales_only_what_is_too_long(lib: Any) -> None:
    xp = lib.xp
    grads = xp.array([3.0, 4.0], xp.float32)
    assert float(optim.clip_by_global_norm(grads, 10.0)) == 5
    np.testing.assert_array_equal(to_numpy(grads), [3, 4])
    optim.clip_by_global_norm(grads, 1.0)
    np.testing.assert_allclose(to_numpy(grads), [0.6, 0.8], rtol=1e-6)
    assert grads.dtype == np.float32
    optim.clip_by_global_norm(grads, 1e300)  # beyond float32: nothing is too long
    np.testing.assert_allclose(to_numpy(grads), [0.6, 0.8], rtol=1e-6)
    zero = xp.zeros(2, xp.float32)
    optim.clip_by_global_norm(zero, 1.0)
    assert not to_numpy(zero).any()


def test_norms_of_millions_keep_their_digits_and_large_ones_are_finite(lib: Any) -> None:
    x = np.random.default_rng(0).standard_normal(2_600_000).astype("f4")
    for given, norm in (
        (x, np.linalg.norm(x.astype("f8"))),
        ([3e30, 4e30], 5e30),
        ([np.nan], np.nan),
    ):
        taken = lib(np.asarray(given, "f4"))
        found = float(get_ops(taken).global_norm(taken))
        assert found == pytest.approx(norm, rel=1e-6, nan_ok=True)


@pytest.mark.parametrize(
    ("call", "fields"),
    [
        (
            lambda w: optim.init("adamm", w),
            {
                "came": "'adamm'",
                "expected": "sgd, sgd_momentum, rmsprop, adam",
                "cause": "did you mean 'adam'",
            },
        ),
        (
            lambda w: optim.adam(w, w, {"learning_rat": 1}),
            {
                "function": "optim.adam",
                "came": "'learning_rat'",
                "cause": "did you mean 'learning_rate'",
            },
        ),
        (
            lambda w: optim.sgd(w, w, {"learning_rate": float("nan")}),
            {
                "function": "optim.sgd",
                "thing": "learning_rate",
                "came": "is nan",
                "expected": "finite number of at least 0",
            },
        ),
        (
            lambda w: optim.sgd(w, np.ones(4)),
            {"function": "optim.sgd", "came": ("(3,)", "dw (4,)")},
        ),
        (
            lambda w: optim.adam(w, w, {"m": np.zeros(2)}),
            {"function": "optim.adam", "thing": "m", "came": "has shape (2,)", "expected": "(3,)"},
        ),
        (
            lambda w: optim.adam(w, w, {"beta2": 1}),
            {"function": "optim.adam", "thing": "beta2", "came": "is 1", "expected": "[0, 1)"},
        ),
        (
            lambda w: optim.adam(w, w, {"t": -1}),
            {"function": "optim.adam", "thing": "t", "came": "is -1"},
        ),
        (
            lambda w: optim.rmsprop(w, w, {"learning_rate": "x"}),
            {"function": "optim.rmsprop", "thing": "learning_rate", "came": "is 'x'"},
        ),
        (lambda w: optim.sgd([1.0], [1.0]), {"function": "optim.sgd", "expected": "arrays"}),
        (
            lambda w: optim.clip_by_global_norm(w, 0),
            {"thing": "max_norm", "came": "is 0", "expected": "positive"},
        ),
    ],
)
def test_bad_arguments_are_named_with_what_was_wanted(call: Any, fields: dict[str, Any]) -> None:
    with refuses(ValueError, **fields):
        call(np.ones(3))
