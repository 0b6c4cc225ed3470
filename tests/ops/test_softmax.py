"""Softmax against its equations, and every term of the loss, those to come included: the fields of
LossTerms that have a kind.
"""

from dataclasses import dataclass

import numpy as np
import pytest
from emulated import Emulator
from operations import TERMS

import xpcap
from xpcap.backend.memory import Workspace
from xpcap.gradcheck import eval_numerical_gradient_array, rel_error
from xpcap.layers.vocabulary_loss import vocabulary_loss
from xpcap.ops import DeviceOps, HostOps, LossTerms, Ops, log_softmax
from xpcap.ops.softmax import softmax, softmax_backward
from xpcap.options import Real, option

R, V, H = 5, 7, 4
TARGETS = np.array([3, 0, 6, 6, 2])
EACH_TERM = pytest.mark.parametrize(
    "weights",
    [*TERMS, {name: weight for one in TERMS for name, weight in one.items()}],
    ids="+".join,
)
# Loss of a row, of its log-probabilities, target and the term's weight
EQUATIONS = {"smoothing": lambda log_p, y, weight: -(1 - weight) * log_p[y] - weight * log_p.mean()}


@dataclass(frozen=True, eq=False)
class MoreTerms(LossTerms):
    """Terms with one that no version computes."""

    surprise: float = option(Real(0), 0.0)


def test_softmax_and_its_gradient_are_those_of_the_logarithm(rng: np.random.Generator) -> None:
    scores, dp = 3 * rng.standard_normal((2, R, V))
    p = softmax(scores)
    np.testing.assert_allclose(p, np.exp(log_softmax(scores)), rtol=1e-14)
    numeric = eval_numerical_gradient_array(softmax, scores, dp)
    np.testing.assert_allclose(softmax_backward(dp, p), numeric, atol=1e-9)


@EACH_TERM
def test_gradients_of_each_term_match_finite_differences(
    weights: dict[str, float], rng: np.random.Generator
) -> None:
    """A row of scale 0 has none."""
    scores, scale = rng.standard_normal((R, V)), rng.standard_normal(R)
    scale[2] = 0
    terms = LossTerms(scale, **weights)
    for version in (Ops(), HostOps()):
        _, dscores = version.softmax_loss(scores, TARGETS, terms)
        assert not dscores[2].any()
        numeric = eval_numerical_gradient_array(
            lambda x, version=version: version.softmax_loss(x, TARGETS, terms)[0], scores, scale
        )
        assert rel_error(dscores, numeric) < 1e-7
    arrays = h, w, b = *(rng.standard_normal(shape) for shape in ((R, H), (H, V))), scores[0]
    memory, (dw, db) = Workspace.fresh(h), (np.empty_like(x) for x in (w, b))
    nll = lambda _=None: vocabulary_loss(h, w, b, TARGETS, terms, memory, (dw, db))  # noqa: E731
    for x, dx in zip(arrays, (nll()[1], dw.copy(), db.copy()), strict=True):
        numeric = eval_numerical_gradient_array(lambda _: nll()[0], x, scale)
        assert rel_error(dx, numeric) < 1e-7


@pytest.mark.parametrize("term", EQUATIONS)
def test_a_term_is_its_equation(term: str, rng: np.random.Generator) -> None:
    scores = rng.standard_normal((R, V))
    log_p = np.log(np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True))
    expected = [EQUATIONS[term](*row, 0.1) for row in zip(log_p, TARGETS, strict=True)]
    nll, _ = HostOps().softmax_loss(scores, TARGETS, LossTerms(**{term: 0.1}))
    np.testing.assert_allclose(nll, expected, rtol=1e-14)


def test_a_fast_version_leaves_a_term_that_it_does_not_know_to_the_equation(
    rng: np.random.Generator, device: Emulator
) -> None:
    h, w, b = (rng.standard_normal(shape) for shape in ((R, H), (H, V), V))
    terms = MoreTerms(0.5, smoothing=0.1, surprise=0.1)
    assert terms.beyond("smoothing")
    assert not MoreTerms(0.5, smoothing=0.1).beyond("smoothing")
    scores, plain = h @ w + b, Ops().softmax_loss(h @ w + b, TARGETS, terms)
    for ours, equation in zip(HostOps().softmax_loss(scores, TARGETS, terms), plain, strict=True):
        np.testing.assert_array_equal(ours, equation)
    with xpcap.use_backend("cupy"), device.counting() as counts:
        arrays = [xpcap.asarray(x) for x in (h, w, b, TARGETS.astype(np.int32))]
        made = [xpcap.asarray(np.zeros(shape)) for shape in (R, (R, V), (R, H))]
        DeviceOps().word_loss(*arrays, terms, *made)
        nll, dscores = DeviceOps().softmax_loss(xpcap.asarray(scores), arrays[-1], terms)
        for x, y in zip((nll, dscores, *made), plain * 2, strict=False):
            np.testing.assert_allclose(xpcap.to_numpy(x), y, rtol=1e-12, atol=1e-14)
    assert "raw softmax_loss" not in counts.names()
