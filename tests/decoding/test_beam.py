"""Beam search beside the plainest one, which prunes nothing and knows one hypothesis at a time; its
groups and limits.
"""

from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import pytest
from reference_beam import END, NULL, SILENT, START, make, pictures, reference_beam

from xpcap import CaptioningRNN
from xpcap.models import Beam
from xpcap.ops import topk


def check(model: CaptioningRNN, beam: Beam, features: np.ndarray) -> int:
    """Every caption of `beam` equals that of the plain one. Returns how many there were."""
    said, count = model.decode(features, beam), 0
    for feature, captions, probabilities, totals in zip(features, *said, strict=True):
        wanted = reference_beam(model, feature, beam)[: beam.n_best]
        count += len(wanted)
        for j, one in enumerate(wanted):
            n, total = len(one.words), pytest.approx(one.total, abs=1e-9)
            assert captions[j].tolist() == [*one.words, *[NULL] * (beam.max_length - n)], (j, beam)
            assert totals[j] == total
            assert np.log(probabilities[j, :n]).sum() == total
        assert (totals[len(wanted) :] == -np.inf).all()
        assert (captions[len(wanted) :] == NULL).all()
    return count


@pytest.mark.parametrize("penalty", [0.0, 0.7, 1.5])
@pytest.mark.parametrize("width", [1, 2, 5])
def test_beam_finds_what_the_reference_beam_finds(width: int, penalty: float) -> None:
    """The best alone, for which it may stop early, and all of them; with captions that end soon,
    late and never.
    """
    limits = {"length_penalty": penalty, "forbid": SILENT}
    for seed, says_end in enumerate((-2.0, 0.0, 1.0, 3.0, -50.0)):
        for length, n_best in product((1, 4, 9), {1, width}):
            beam = Beam(width, n_best=n_best, max_length=length, **limits)
            check(make(6, seed, says_end), beam, pictures(3))


@pytest.mark.parametrize(("seed", "says_end", "penalty"), [(40, 0.0, 0.7), (45, 1.0, 1.5)])
def test_beam_goes_on_while_a_longer_caption_may_still_win(
    seed: int, says_end: float, penalty: float
) -> None:
    """Of a model so sure of itself that words far on cost next to nothing, and length pays."""
    model, features = make(6, seed, says_end), pictures(30)
    model.params["W_vocab"][...] *= 3
    check(model, Beam(3, length_penalty=penalty, max_length=9, forbid=SILENT), features)


@pytest.mark.parametrize("groups", [2, 3, 6])
def test_groups_choose_in_turn_and_are_held_off_what_those_before_have_said(groups: int) -> None:
    limits = {"length_penalty": 0.7, "n_best": 6, "max_length": 7, "forbid": SILENT}
    distinct = dict.fromkeys((0.0, 0.5, 3.0), 0)
    for seed, says_end in enumerate((-2.0, 0.0, 1.0, 3.0)):
        for diversity in distinct:
            model = make(8, seed, says_end)
            beam = Beam(6, groups=groups, diversity=diversity, **limits)
            check(model, beam, pictures(3))
            for captions in model.decode(pictures(3), beam).captions.tolist():
                distinct[diversity] += len({tuple(caption) for caption in captions})
    assert distinct[0.0] < distinct[3.0]


@pytest.mark.parametrize("groups", [1, 2])
def test_limits_hold_in_every_hypothesis(groups: int) -> None:
    limits: list[dict[str, Any]] = [
        {"least_length": 4},
        {"no_repeat_trigram": True},
        {"least_length": 9, "no_repeat_trigram": True},
        {"forbid": (NULL, START, 4)},
    ]
    beam = Beam(4, length_penalty=0.7, n_best=4, groups=groups, max_length=9, forbid=SILENT)
    for seed, limit in product(range(6), limits):
        assert check(make(9, seed, 1.0), replace(beam, **limit), pictures(2)) == 8


def test_beam_of_one_is_greedy() -> None:
    model = make(12, 0, 1.0)
    greedy, p = model.sample_with_probabilities(pictures(30), 9, forbid=SILENT)
    said = model.decode(pictures(30), Beam(1, max_length=9, forbid=SILENT))
    np.testing.assert_array_equal(said.captions[:, 0], greedy)
    np.testing.assert_allclose(said.probabilities[:, 0], p, rtol=1e-9)


def test_wide_enough_beam_finds_the_best_of_all_captions() -> None:
    """Its score is the best of every caption of up to three words, each scored by itself."""
    model, features, width = make(6, 2), pictures(1), 4**3 + 4**2 + 4
    best = model.decode(features, Beam(width, length_penalty=0.7, max_length=3, forbid=SILENT))
    words = range(2, 6)
    captions = [(END,), *((a, END) for a in words[1:])]
    captions += [(a, b, c) for a in words[1:] for b in words[1:] for c in words]
    scored = (np.array([[START, *caption]]) for caption in captions)
    totals = [-float(model.score(features, caption).nll) for caption in scored]
    scores = np.array(totals) / np.array([len(caption) for caption in captions]) ** 0.7
    said = best.captions[0, 0]
    assert tuple(said[said != NULL].tolist()) == captions[scores.argmax()]
    assert best.log_probabilities[0, 0] == pytest.approx(totals[scores.argmax()], abs=1e-9)


def test_equally_likely_words_go_by_their_ids() -> None:
    model = make(8, 0)
    model.params.flat[...] = 0
    said = model.decode(
        pictures(2), Beam(3, length_penalty=0, n_best=3, max_length=2, forbid=SILENT)
    )
    np.testing.assert_array_equal(said.captions, [[[END, NULL], [3, END], [3, 3]]] * 2)


def test_largest_are_in_falling_order_and_leave_the_array_as_it_was(
    rng: np.random.Generator,
) -> None:
    x = rng.integers(0, 5, (150, 9)).astype(np.float32)
    x[3, 2:] = x[4] = -np.inf
    before = x.copy()
    values, columns = topk(x, 6)
    np.testing.assert_array_equal(x, before)
    order = np.argsort(-x, axis=1, kind="stable")[:, :6]
    np.testing.assert_array_equal(values, np.take_along_axis(x, order, axis=1))
    np.testing.assert_array_equal(columns[values > -np.inf], order[values > -np.inf])
