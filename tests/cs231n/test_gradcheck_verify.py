"""Numeric gradients; verify passes as the code is, and fails when a mistake is made in it."""

import inspect
import re
from collections import Counter
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from refusals import Refusal, refusals, refuses

from xpcap import CaptioningRNN, layers, ops, optim, to_numpy
from xpcap.cs231n.verify import Row, mixed_error, published, read_cases, verify
from xpcap.gradcheck import (
    directional_errors,
    eval_numerical_gradient,
    eval_numerical_gradient_array,
    grad_check_sparse,
    rel_error,
)
from xpcap.layers.lstm import LSTM


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
    with refuses(ValueError, function=error.__name__, got="(3, 3) and (3,)"):
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
        | thing: grads['x'] | got: has shape (12,) | expected: (3, 4)
    directional_errors(f, {"x": x}, {"x": x}, rng, directions=0)
        | thing: directions | got: is 0 | expected: at least 1
    grad_check_sparse(f, x, np.ones((7, 9)))
        | thing: analytic_grad | got: has shape (7, 9) | expected: (3, 4)
    """,
    error=ValueError,
)
def test_a_check_that_would_compare_other_elements_or_none_is_refused(
    refusal: Refusal, rng: np.random.Generator
) -> None:
    x = rng.standard_normal((3, 4))
    refusal.check({**globals(), "x": x, "rng": rng, "f": lambda *_: (x**2).sum()})


def test_verify_passes_every_row_on_numpy_and_leaves_the_legacy_stream_alone(
    verified: list[Row],
) -> None:
    assert [row for row in verified if not row.passed] == []
    labels = Counter((row.case, row.dtype) for row in verified)
    assert [label for label, rows in labels.items() if rows > 1] == [], "two rows have one label"
    assert len(verified) > 70
    assert {row.backend for row in verified} == {"numpy"}


def test_verify_makes_each_check_of_published() -> None:
    source = inspect.getsource(published) + inspect.getsource(verify)
    for name, check in inspect.getmembers(published, inspect.isfunction):
        if inspect.signature(check).return_annotation == Iterator[Row]:
            uses = len(re.findall(rf"\b{name}\(", source))
            assert uses > 1, (
                f"published.{name} makes rows, and xpcap.cs231n.verify.verify never calls it"
            )


@pytest.mark.gpu
def test_verify_passes_every_row_on_cupy() -> None:
    import xpcap

    with xpcap.use_backend("cupy"):
        assert [row for row in verify() if not row.passed] == []


def test_the_published_losses_are_among_the_cases() -> None:
    assert [case["published_loss"] for case in read_cases()["captioners"]] == [
        9.83235591003,
        9.82445935443,
    ]


def forgetful_backward(right: Any, ops: Any, cell: Any, grads: Any, *args: Any) -> Any:
    step_fn = right(ops, cell, grads, *args)
    if cell is not LSTM:
        return step_fn

    def forget(step: Any) -> None:
        step_fn(step)
        grads.dstate[1][...] *= 0.999

    return forget


def unscaled_scores(right: Any, self: Any, h: Any, A: Any, *args: Any) -> Any:
    return right(self, h * A.shape[2] ** 0.5, A, *args)


@pytest.mark.parametrize("case", ["lstm_backward dx", "attention_forward h"])
@pytest.mark.nightly
def test_verify_catches_a_mistake(
    case: str, lib: Any, verified: list[Row], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the part of `verify` that the mistake is for, no further than the first row that finds it;
    `verify` has that row, and it passes without.
    """
    owner, name, mistake, rows = {
        "lstm_backward dx": (
            layers.recurrent,
            "backward_steps",
            forgetful_backward,
            lambda: published.layer_gradients(layers, read_cases()),
        ),
        "attention_forward h": (
            type(ops.get_ops(lib(np.ones(1)))),
            "attend_steps",
            unscaled_scores,
            lambda: published.attention_rows(layers),
        ),
    }[case]
    assert {row.passed for row in verified if row.case == case} == {True}
    right = getattr(owner, name)
    monkeypatch.setattr(owner, name, lambda *args: mistake(right, *args))
    assert case in (row.case for row in rows() if not row.passed)


# Other people's modules


class TheirWrongCaptioner:
    """A captioner as the course's notebook leaves it: a plain dict of parameters, no dropout, no
    seed. The arithmetic is ours, but for one gradient.
    """

    def __init__(self, *sizes: Any) -> None:
        self._ours = CaptioningRNN(*sizes)
        self.params = {name: x.copy() for name, x in self._ours.params.items()}

    def loss(self, features: Any, captions: Any) -> Any:
        self._ours.params = self.params
        loss, grads = self._ours.loss(features, captions)
        return loss, {**grads, "W_proj": grads["W_proj"] * 1.01}


@pytest.mark.slow
def test_verify_grades_other_peoples_captioners() -> None:
    failed = {row.case for row in verify(captioner=TheirWrongCaptioner) if not row.passed}
    assert failed == {
        "captioner fixed rnn dW_proj (mixed)",
        "captioner fixed lstm dW_proj (mixed)",
        "captioner rnn dW_proj",
        "captioner lstm dW_proj (mixed)",
        "captioner rnn along 10 directions",
        "captioner lstm along 10 directions",
    }


def test_verify_grades_other_peoples_layers_and_rules() -> None:
    """Of theirs one layer and one rule are wrong; ours, which are not asked, are right."""

    def wrong_backward(dh: Any, cache: Any) -> Any:
        dx, *rest = layers.lstm_backward(dh, cache)
        return (dx + 1e-3, *rest)

    def wrong_adam(w: Any, dw: Any, config: Any = None) -> Any:
        next_w, config = optim.adam(w, dw, config)
        return next_w + 1e-3, config

    theirs = SimpleNamespace(**vars(layers) | {"lstm_backward": wrong_backward})
    rules = SimpleNamespace(**vars(optim) | {"adam": wrong_adam})
    failed = {row.case for row in verify(layers=theirs, optim=rules) if not row.passed}
    assert failed == {"lstm_backward dx", "adam next_w"}
