"""The models of docs/howto/own-models.md, as the page shows them, in float64: those of PyTorch, and
everywhere those of single steps and finite differences.
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
    block = re.search(r"```python\n(.*?)```", PAGE.split(f"\n## {heading}\n")[1], re.DOTALL)
    assert block
    names: dict[str, Any] = {"__name__": heading}
    exec(compile(block[1], heading, "exec"), names)
    return SimpleNamespace(**names)


TEXT, LAYERS, WAYS, ROWS = (
    page(heading)
    for heading in ("Text by the character", "Two layers", "Both directions", "Different lengths")
)


def steps(
    x: np.ndarray, h: np.ndarray, c: np.ndarray, params: Arrays, suffix: str = ""
) -> tuple[np.ndarray, np.ndarray]:
    """The state h (N, T, H) after each step and c (N, H) after the last, step by step."""
    states = []
    for t in range(x.shape[1]):
        h, c, _ = lstm_step_forward(
            np.ascontiguousarray(x[:, t]),
            h,
            c,
            *(params[name + suffix] for name in ("Wx", "Wh", "b")),
        )
        states.append(h)
    return np.stack(states, axis=1), c


def nats(scores: np.ndarray, y: np.ndarray) -> float:
    """Mean cross entropy of scores (..., V) with classes y (...)."""
    return float(
        np.mean(
            np.log(np.exp(scores).sum(axis=-1))
            - np.take_along_axis(scores, y[..., None], axis=-1)[..., 0]
        )
    )


class Case(NamedTuple):
    """A model of the page with its arguments, the same by single steps, and the same by PyTorch."""

    model: SimpleNamespace
    params: Arrays
    arguments: tuple[Any, ...]
    by_steps: Callable[[], float]  # the loss
    names: dict[str, str]  # from PyTorch's suffixes for a layer and direction to the page's
    options: dict[str, Any]  # of nn.LSTM
    by_torch: Callable[
        ..., Any
        # given torch, the nn.LSTM and the other parameters: the loss, and what is to be read after
        # backward: the results
    ]


def text(rng: np.random.Generator) -> Case:
    params, characters, state = (
        TEXT.initial(V, D, H, rng, "float64"),
        rng.integers(0, V, (N, T + 1)),
        tuple(rng.standard_normal((2, N, H))),
    )

    def by_steps() -> float:
        h, _ = steps(params["W_embed"][characters[:, :-1]], *state, params)
        return nats(h @ params["W_vocab"] + params["b_vocab"], characters[:, 1:])

    def by_torch(torch: Any, lstm: Any, leaves: Any) -> Any:
        ids = torch.from_numpy(characters)
        h, (_, c_T) = lstm(
            leaves["W_embed"][ids[:, :-1]], tuple(torch.from_numpy(part)[None] for part in state)
        )
        loss = torch.nn.functional.cross_entropy(
            (h @ leaves["W_vocab"] + leaves["b_vocab"]).reshape(-1, V), ids[:, 1:].reshape(-1)
        )
        return loss, lambda: ((h[:, -1].detach(), c_T[0].detach()),)

    return Case(TEXT, params, (characters, state), by_steps, {"l0": ""}, {}, by_torch)


def two_layers(rng: np.random.Generator) -> Case:
    params, x, y, zeros = (
        LAYERS.initial(D, H, V, rng, "float64"),
        rng.standard_normal((N, T, D)),
        rng.integers(0, V, N),
        np.zeros((N, H)),
    )

    def by_steps() -> float:
        h1, _ = steps(x, zeros, zeros, params, "1")
        h2, _ = steps(h1, zeros, zeros, params, "2")
        return nats(h2[:, -1] @ params["W_out"] + params["b_out"], y)

    def by_torch(torch: Any, lstm: Any, leaves: Any) -> Any:
        h, _ = lstm(torch.from_numpy(x))
        return (
            torch.nn.functional.cross_entropy(
                h[:, -1] @ leaves["W_out"] + leaves["b_out"], torch.from_numpy(y)
            ),
            tuple,
        )

    return Case(
        LAYERS, params, (x, y), by_steps, {"l0": "1", "l1": "2"}, {"num_layers": 2}, by_torch
    )


def both_directions(rng: np.random.Generator) -> Case:
    params, x, y, zeros = (
        WAYS.initial(D, H, V, rng, "float64"),
        rng.standard_normal((N, T, D)),
        rng.integers(0, V, (N, T)),
        np.zeros((N, H)),
    )

    def by_steps() -> float:
        ahead, back = (
            steps(x, zeros, zeros, params)[0],
            steps(x[:, ::-1], zeros, zeros, params, "_back")[0],
        )
        return nats(
            np.concatenate((ahead, back[:, ::-1]), axis=2) @ params["W_out"] + params["b_out"], y
        )

    def by_torch(torch: Any, lstm: Any, leaves: Any) -> Any:
        theirs = torch.tensor(x, requires_grad=True)
        scores = lstm(theirs)[0] @ leaves["W_out"] + leaves["b_out"]
        return torch.nn.functional.cross_entropy(
            scores.reshape(-1, V), torch.from_numpy(y).reshape(-1)
        ), lambda: (theirs.grad,)

    return Case(
        WAYS,
        params,
        (x, y),
        by_steps,
        {"l0": "", "l0_reverse": "_back"},
        {"bidirectional": True},
        by_torch,
    )


def lengths(rng: np.random.Generator) -> Case:
    params, x, y, zeros = (
        ROWS.initial(D, H, V, rng, "float64"),
        rng.standard_normal((N, T, D)),
        rng.integers(0, V, N),
        np.zeros((1, H)),
    )
    x[np.arange(T) >= LENGTHS[:, None]] = np.nan  # padding

    def by_steps() -> float:
        last = [
            steps(x[n : n + 1, :length], zeros, zeros, params)[0][0, -1]
            for n, length in enumerate(LENGTHS)
        ]
        return nats(np.stack(last) @ params["W_out"] + params["b_out"], y)

    def by_torch(torch: Any, lstm: Any, leaves: Any) -> Any:
        packed = torch.nn.utils.rnn.pack_padded_sequence(
            torch.from_numpy(x), torch.from_numpy(LENGTHS), batch_first=True, enforce_sorted=False
        )
        _, (h_T, _) = lstm(packed)
        return (
            torch.nn.functional.cross_entropy(
                h_T[0] @ leaves["W_out"] + leaves["b_out"], torch.from_numpy(y)
            ),
            tuple,
        )

    return Case(ROWS, params, (x, LENGTHS, y), by_steps, {"l0": ""}, {}, by_torch)


each_model = pytest.mark.parametrize("draw", [text, two_layers, both_directions, lengths])


@each_model
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


@each_model
def test_model_is_pytorchs(
    draw: Callable[[np.random.Generator], Case], rng: np.random.Generator
) -> None:
    torch = pytest.importorskip(
        "torch", reason="torch is not installed: no autograd to compare with"
    )
    case = draw(rng)
    loss, grads, *results = case.model.loss_and_grads(case.params, *case.arguments)
    lstm = lstm_of(torch, case)
    leaves = {
        name: torch.tensor(x, requires_grad=True)
        for name, x in case.params.items()
        if not is_recurrent(case, name)
    }
    theirs, read = case.by_torch(torch, lstm, leaves)
    theirs.backward()
    expected = {name: leaf.grad.numpy() for name, leaf in leaves.items()}
    for suffix, ours in case.names.items():
        for name, key in RECURRENT.items():
            expected[key + ours] = turned(getattr(lstm, f"{name}_{suffix}").grad.numpy().T)
    assert float(loss) == pytest.approx(theirs.item(), abs=1e-10)
    assert set(expected) == set(grads)
    for name, grad in grads.items():
        np.testing.assert_allclose(grad, expected[name], rtol=0, atol=1e-10, err_msg=name)
    for got, wanted in zip(results, read(), strict=True):
        np.testing.assert_allclose(np.stack(got), np.stack(wanted), rtol=0, atol=1e-10)


RECURRENT = {"weight_ih": "Wx", "weight_hh": "Wh", "bias_ih": "b"}


def is_recurrent(case: Case, name: str) -> bool:
    return name in {key + suffix for key in RECURRENT.values() for suffix in case.names.values()}


def turned(x: np.ndarray) -> np.ndarray:
    """Gates i, f, o, g in PyTorch's order i, f, g, o, or the other way, along the last axis."""
    i, f, o, g = np.split(x, 4, axis=-1)
    return np.concatenate((i, f, g, o), axis=-1)


def lstm_of(torch: Any, case: Case) -> Any:
    """PyTorch's LSTM with the parameters of a case."""
    lstm = torch.nn.LSTM(D, H, batch_first=True, dtype=torch.float64, **case.options)
    with torch.no_grad():
        for suffix, ours in case.names.items():
            for name, key in RECURRENT.items():
                getattr(lstm, f"{name}_{suffix}").copy_(
                    torch.from_numpy(turned(case.params[key + ours]).T)
                )
            getattr(lstm, f"bias_hh_{suffix}").zero_()
    return lstm


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
