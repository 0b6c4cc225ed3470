"""The seams of the loop and of decoding carry more than what rides on them today: the extra term of
a step, and a policy of one's own.
"""

from typing import Any

import numpy as np
import pytest

from xpcap import CaptioningRNN, to_numpy
from xpcap.gradcheck import eval_numerical_gradient_array
from xpcap.layers import CELLS, sigmoid
from xpcap.models import Choice, Policy
from xpcap.ops import PackedSequences

SIZES, N, H = [3, 2, 2, 1], 4, 5


class SecondProduct:
    """Adds tanh(h_prev) @ U to the pre-activation: the plainest thing that a step can take from its
    state besides h @ Wh.
    """

    def __init__(self, U: Any) -> None:
        self.U, self.dU, self._seen = U, np.zeros_like(U), {}

    def forward_steps(self, h: Any, r: Any) -> Any:
        def step_fn(step: Any) -> None:
            self._seen[step.first] = np.tanh(h[step.states_before])
            r[step.rows] += self._seen[step.first] @ self.U

        return step_fn

    def backward_steps(self, da: Any, dh_prev: Any) -> Any:
        def step_fn(step: Any) -> None:
            x = self._seen[step.first]
            self.dU += x.T @ da[step.rows]
            dh_prev[: step.n] += (da[step.rows] @ self.U.T) * (1 - x * x)

        return step_fn


@pytest.mark.parametrize("cell", list(CELLS))
def test_the_extra_term_of_a_step_gets_and_gives_gradients(
    cell: str, rng: np.random.Generator
) -> None:
    kind, rows = CELLS[cell], PackedSequences.of(SIZES, N)
    G = kind.shapes(1, H)["b"][0]
    a, Wh, U = (rng.standard_normal(shape) for shape in ((rows.R, G), (H, G), (H, G)))
    state0, dh = (
        tuple(rng.standard_normal((N, H)) for _ in range(kind.states)),
        rng.standard_normal((rows.R, H)),
    )
    extra_term = SecondProduct(U)
    _, cache = kind.rows_forward(a, state0, {"Wh": Wh}, rows, extra_term=extra_term)
    da, dstate0, grads = kind.rows_backward(dh, cache)
    for x, dx in (
        (a, da),
        (Wh, grads["Wh"]),
        (U, extra_term.dU),
        *zip(state0, dstate0, strict=True),
    ):
        numeric = eval_numerical_gradient_array(
            lambda _: kind.rows_forward(a, state0, {"Wh": Wh}, rows, extra_term=SecondProduct(U))[
                0
            ],
            x,
            dh,
        )
        np.testing.assert_allclose(dx, numeric, rtol=1e-6, atol=1e-9)  # differences round at 1e-10


class SecondBest(Policy):
    """Says the second likeliest word at every step, and adds up scores as it goes."""

    seen: list[Any]

    def choose(self, scores: Any, totals: Any, t: int) -> Choice:
        words = scores.argsort(axis=1)[:, -2]
        said = scores[np.arange(len(words)), words]
        self.seen.append((t, None if totals is None else totals.copy()))
        return Choice(words, totals=said if totals is None else totals + said)


def test_a_policy_of_ones_own_chooses_the_words_and_keeps_its_totals(
    word_to_idx: dict[str, int], rng: np.random.Generator
) -> None:
    model = CaptioningRNN(word_to_idx, 6, 7, 8, "lstm", np.float64, seed=1)
    for name, value in model.params.items():
        model.params[name] = rng.standard_normal(value.shape)
    features = rng.standard_normal((9, 6))
    policy = SecondBest(max_length=5)
    object.__setattr__(policy, "seen", [])
    said = model.sample(features, policy=policy)
    state, words, totals = model.start(features), np.full(9, word_to_idx["<START>"]), np.zeros(9)
    alive = np.full(9, True)
    for t in range(5):
        scores, state = model.step(words, state)
        words = np.where(alive, scores.argsort(axis=1)[:, -2], word_to_idx["<NULL>"])
        np.testing.assert_array_equal(said[:, t], words)
        if t + 1 < len(policy.seen):
            totals = totals + scores[np.arange(9), words]
            still = alive & (words != word_to_idx["<END>"])
            assert policy.seen[t + 1][0] == t + 1
            np.testing.assert_allclose(policy.seen[t + 1][1], totals[still], rtol=1e-12)
        alive &= words != word_to_idx["<END>"]


class Swap(Policy):
    """Greedy for the first picture; from the third word on, both hypotheses continue the first
    one.
    """

    def choose(self, scores: Any, totals: Any, t: int) -> Choice:
        parents = np.zeros(len(scores), int) if t == 2 else None
        return Choice(
            scores.argmax(axis=1) if parents is None else scores[parents].argmax(axis=1), parents
        )


def test_hypotheses_go_on_from_the_parents_that_a_policy_names(
    word_to_idx: dict[str, int], rng: np.random.Generator
) -> None:
    model = CaptioningRNN(word_to_idx, 6, 7, 8, "lstm", np.float64, seed=1)
    for name, value in model.params.items():
        model.params[name] = rng.standard_normal(value.shape)
    model.params["b_vocab"][word_to_idx["<END>"]] = -1e9  # both captions last to the end
    features = 5 * rng.standard_normal((2, 6))
    greedy, p = model.sample_with_probabilities(features, 6)
    assert (greedy[0] != greedy[1]).any()
    said, q = (found[:, 0] for found in model.decode(features, Swap(max_length=6))[:2])
    np.testing.assert_array_equal(said, greedy[[0, 0]])
    np.testing.assert_allclose(q, p[[0, 0]], rtol=1e-12)


@pytest.mark.parametrize(("dtype", "low"), [("float32", -87.0), ("float64", -700.0)])
def test_sigmoid_is_accurate_far_below_zero(dtype: str, low: float, lib: Any) -> None:
    """Where (1 + tanh(x / 2)) / 2 is already 0: float32 below -17, float64 below -37."""
    x = np.linspace(low, 40, 301).astype(dtype)
    wide = x.astype(np.longdouble)
    got = to_numpy(sigmoid(lib(x)))
    assert got.dtype == dtype
    np.testing.assert_allclose(got, 1 / (1 + np.exp(-wide)), rtol=8 * np.finfo(dtype).eps)
    with np.errstate(over="raise", invalid="raise"):
        assert to_numpy(sigmoid(lib(np.array([-1e30, 1e30], dtype)))).tolist() == [0, 1]
