"""Numeric gradients, and the errors by which they are compared."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from refusals import Refusal, refusals, refuses

from xpcap import to_numpy
from xpcap.cs231n.verify import mixed_error
from xpcap.gradcheck import (
    directional_errors,
    eval_numerical_gradient,
    eval_numerical_gradient_array,
    grad_check_sparse,
    rel_error,
)


def test_numeric_gradients_are_right_and_leave_x_as_it_was(
    lib: Any, rng: np.random.Generator
) -> None:
    host, df = rng.standard_normal((3, 4)), rng.standard_normal((3, 4))
    x = lib.xp.array(host)  # numeric gradients write to x, read-only or not elsewhere
    slopes = eval_numerical_gradient(lambda x: (x**3).sum(), x, verbose=False)
    np.testing.assert_allclose(to_numpy(slopes), 3 * host**2, rtol=1e-8, atol=1e-8)
    slopes = eval_numerical_gradient_array(lambda x: x**2, x, lib.xp.array(df))
    np.testing.assert_allclose(to_numpy(slopes), 2 * host * df, rtol=1e-8, atol=1e-8)
    np.testing.assert_array_equal(to_numpy(x), host)


def test_checks_print_what_they_compared_when_asked(capsys: pytest.CaptureFixture[str]) -> None:
    eval_numerical_gradient(lambda x: x.sum(), np.zeros(2), verbose=False)
    assert capsys.readouterr().out == ""
    eval_numerical_gradient(lambda x: x.sum(), np.zeros(2))
    assert len(capsys.readouterr().out.splitlines()) == 2
    np.random.seed(0)
    x = np.arange(6.0).reshape(2, 3)
    grad_check_sparse(lambda x: (x**2).sum(), x, 2 * x + 1, num_checks=4)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4
    numeric, analytic = float(lines[0].split()[1]), float(lines[0].split()[3].rstrip(","))
    assert analytic - numeric == pytest.approx(1, abs=1e-4)


def test_directions_find_one_wrong_element_among_many(lib: Any, rng: np.random.Generator) -> None:
    host = {"a": rng.standard_normal((20, 30)), "b": rng.standard_normal(40)}
    params = {name: lib.xp.array(x) for name, x in host.items()}
    grads = {name: lib.xp.array(3 * x**2) for name, x in host.items()}

    def f() -> Any:
        return sum((x**3).sum() for x in params.values())

    assert max(directional_errors(f, params, grads, rng)) < 1e-7
    grads["b"][7] += 1.0
    assert max(directional_errors(f, params, grads, rng)) > 1e-4
    for name, x in params.items():
        np.testing.assert_array_equal(to_numpy(x), host[name])


def test_a_direction_across_the_gradient_does_not_fail_a_right_one() -> None:
    """Its slope is 1e-7 of the other's, and the error of a finite difference is as large as ever."""
    x, draws = np.zeros(2), iter([np.array([1, 1]), np.array([1, 1e-7 - 1])])
    drawn: Any = SimpleNamespace(standard_normal=lambda shape: next(draws))
    grads = {"x": np.ones(2)}
    errors = directional_errors(lambda: np.exp(x[0]) + x[1], {"x": x}, grads, drawn, directions=2)
    assert max(errors) < 1e-9


def test_one_slope_that_is_not_a_number_fails_all_directions(rng: np.random.Generator) -> None:
    losses = iter([0.0, 0.0, np.nan, 0.0])
    x = {"x": np.zeros(2)}
    errors = directional_errors(lambda: next(losses), x, x, rng, directions=2)
    assert not max(errors) <= 1


@pytest.mark.parametrize("error", [rel_error, mixed_error])
def test_errors_are_of_arrays_of_one_shape(error: Callable[..., float]) -> None:
    with refuses(ValueError, "(3, 3) and (3,)"):
        error(np.ones((3, 3)), np.ones(3))


@pytest.mark.parametrize(
    ("dtype", "x", "y", "error"),
    [("float32", 3e38, 1e38, 0.5), ("int8", 100, -100, 1), ("uint8", 1, 2, 1 / 3)],
)
def test_relative_error_neither_overflows_nor_wraps(
    dtype: str, x: float, y: float, error: float
) -> None:
    found = rel_error(np.array([x], dtype), np.array([y], dtype))
    assert found == pytest.approx(error, rel=1e-6)


@refusals(
    """
    directional_errors(f, {"x": x}, {"x": x.ravel()}, rng)
        | grads['x'] | has shape (12,) | (3, 4)
    directional_errors(f, {"x": x}, {"x": x}, rng, directions=0)
        | directions | is 0 | at least 1
    grad_check_sparse(f, x, np.ones((7, 9)))
        | analytic_grad | has shape (7, 9) | (3, 4)
    """,
    error=ValueError,
)
def test_a_check_that_would_compare_other_elements_or_none_is_refused(
    refusal: Refusal, rng: np.random.Generator
) -> None:
    x = rng.standard_normal((3, 4))
    refusal.check({**globals(), "x": x, "rng": rng, "f": lambda *_: (x**2).sum()})
