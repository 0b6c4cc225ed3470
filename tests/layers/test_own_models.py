"""The models of docs/howto/own-models.md, as the page shows them, in float64: those of single steps
and finite differences.
"""

import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest

from xpcap.gradcheck import directional_errors
from xpcap.layers import lstm_step_forward

PAGE = (Path(__file__).parents[2] / "docs" / "howto" / "own-models.md").read_text(encoding="utf-8")
N, T, D, H, V = 5, 9, 3, 6, 4
LENGTHS = np.array([3, 9, 1, 7, 7])
Arrays = dict[str, np.ndarray]


def page(heading: str) -> SimpleNamespace:
    """The functions of the section's first program, without what it does as a program."""
    block = re.search(r"```python\n(.*?)```", re.split(rf"\n##+ {heading}\n", PAGE)[1], re.DOTALL)
    assert block
    names: dict[str, Any] = {"__name__": heading}
    exec(compile(block[1], heading, "exec"), names)
    return SimpleNamespace(**names)


TEXT, LAYERS, WAYS, ROWS = (
    page(heading)
    for heading in ("Character-level text", "Two layers", "Both directions", "Different lengths")
)


def steps(
    x: np.ndarray, h: np.ndarray, c: np.ndarray, params: Arrays, suffix: str = ""
) -> tuple[np.ndarray, np.ndarray]:
    """The state h (N, T, H) after each step and c (N, H) after the last, step by step."""
    states, weights = [], [params[name + suffix] for name in ("Wx", "Wh", "b")]
    for t in range(x.shape[1]):
        h, c, _ = lstm_step_forward(np.ascontiguousarray(x[:, t]), h, c, *weights)
        states.append(h)
    return np.stack(states, axis=1), c


def nats(scores: np.ndarray, y: np.ndarray) -> float:
    """Mean cross entropy of scores (..., V) with classes y (...)."""
    right = np.take_along_axis(scores, y[..., None], axis=-1)[..., 0]
    return float(np.mean(np.log(np.exp(scores).sum(axis=-1)) - right))


class Case(NamedTuple):
    """A model of the page with its arguments, and its loss by single steps."""

    model: SimpleNamespace
    params: Arrays
    arguments: tuple[Any, ...]
    by_steps: Callable[[], float]


def text(rng: np.random.Generator) -> Case:
    params = TEXT.initial(V, D, H, rng, "float64")
    characters, state = rng.integers(0, V, (N, T + 1)), tuple(rng.standard_normal((2, N, H)))

    def by_steps() -> float:
        h, _ = steps(params["W_embed"][characters[:, :-1]], *state, params)
        return nats(h @ params["W_vocab"] + params["b_vocab"], characters[:, 1:])

    return Case(TEXT, params, (characters, state), by_steps)


def two_layers(rng: np.random.Generator) -> Case:
    params, zeros = LAYERS.initial(D, H, V, rng, "float64"), np.zeros((N, H))
    x, y = rng.standard_normal((N, T, D)), rng.integers(0, V, N)

    def by_steps() -> float:
        h1, _ = steps(x, zeros, zeros, params, "1")
        h2, _ = steps(h1, zeros, zeros, params, "2")
        return nats(h2[:, -1] @ params["W_out"] + params["b_out"], y)

    return Case(LAYERS, params, (x, y), by_steps)


def both_directions(rng: np.random.Generator) -> Case:
    params, zeros = WAYS.initial(D, H, V, rng, "float64"), np.zeros((N, H))
    x, y = rng.standard_normal((N, T, D)), rng.integers(0, V, (N, T))

    def by_steps() -> float:
        ahead, _ = steps(x, zeros, zeros, params)
        back, _ = steps(x[:, ::-1], zeros, zeros, params, "_back")
        h = np.concatenate((ahead, back[:, ::-1]), axis=2)
        return nats(h @ params["W_out"] + params["b_out"], y)

    return Case(WAYS, params, (x, y), by_steps)


def lengths(rng: np.random.Generator) -> Case:
    params, zeros = ROWS.initial(D, H, V, rng, "float64"), np.zeros((1, H))
    x, y = rng.standard_normal((N, T, D)), rng.integers(0, V, N)
    x[np.arange(T) >= LENGTHS[:, None]] = np.nan  # padding

    def by_steps() -> float:
        pieces = [x[[n], :length] for n, length in enumerate(LENGTHS)]
        last = [steps(piece, zeros, zeros, params)[0][0, -1] for piece in pieces]
        return nats(np.stack(last) @ params["W_out"] + params["b_out"], y)

    return Case(ROWS, params, (x, LENGTHS, y), by_steps)


@pytest.mark.parametrize("draw", [text, two_layers, both_directions, lengths])
def test_loss_is_that_of_single_steps_and_gradients_those_of_finite_differences(
    draw: Callable[[np.random.Generator], Case], rng: np.random.Generator
) -> None:
    case = draw(rng)
    loss, grads, *_ = case.model.loss_and_grads(case.params, *case.arguments)
    assert loss == pytest.approx(case.by_steps(), rel=1e-13)
    assert set(grads) == set(case.params)
    for name, x in case.params.items():
        errors = directional_errors(
            lambda: case.model.loss_and_grads(case.params, *case.arguments)[0],
            {name: x},
            {name: grads[name]},
            rng,
            directions=3,
        )
        assert max(errors) < 1e-6, name


def test_text_in_pieces_has_the_loss_and_the_state_of_the_whole(rng: np.random.Generator) -> None:
    case = text(rng)
    characters, state = case.arguments
    whole, _, last = TEXT.loss_and_grads(case.params, characters, state)
    one, _, between = TEXT.loss_and_grads(
        case.params, characters[:, :4], state
    )  # three characters are predicted, then six
    other, _, end = TEXT.loss_and_grads(case.params, characters[:, 3:], between)
    assert (3 * one + 6 * other) / 9 == pytest.approx(whole, rel=1e-13)
    np.testing.assert_allclose(np.stack(end), np.stack(last), rtol=1e-12)


def test_sampled_text_follows_the_probabilities_of_the_model(rng: np.random.Generator) -> None:
    """Weights that make character k + 1 follow k whatever came before."""
    params = {name: np.zeros_like(x) for name, x in TEXT.initial(V, V, V, rng, "float64").items()}
    params["W_embed"] += np.eye(V)
    params["Wx"][:, 3 * V :] = 20 * np.eye(V)  # g is 1 for the character's own unit
    params["b"][:] = np.repeat([20.0, -20.0, 20.0, 0.0], V)  # i, f, o: nothing is remembered
    params["W_vocab"] += 50 * np.roll(np.eye(V), 1, axis=1)
    assert TEXT.sample(params, 2, 6, rng) == [3, 0, 1, 2, 3, 0]
