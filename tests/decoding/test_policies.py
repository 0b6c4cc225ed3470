"""Sampling and limits: cut distributions, draws from them, and what is refused. What
holds of every policy is in test_every_policy.py.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import reference_beam
from reference_beam import END, NULL, SILENT, START, make
from refusals import Refusal, refusals, refuses

from xpcap import CaptioningRNN, Greedy
from xpcap.errors import OptionError, TrainingError
from xpcap.models import Beam, Choice, Policy, Sampling

V, T = 14, 9


@pytest.fixture
def model() -> CaptioningRNN:
    return make(V, 0, scale=1.0)


def pictures(n: int) -> np.ndarray:
    return 3 * reference_beam.pictures(n)


def softmax(scores: np.ndarray) -> np.ndarray:
    p = np.exp(scores - scores.max())
    return p / p.sum()


def nucleus(p: np.ndarray, share: float) -> np.ndarray:
    """Word by word, the likeliest first, until they reach the share."""
    order = np.argsort(-p)
    before = np.concatenate(([0], np.cumsum(p[order])[:-1]))
    kept = np.zeros(len(p))
    kept[order[before < share]] = p[order[before < share]]
    return kept / kept.sum()


def likeliest(p: np.ndarray, k: int) -> np.ndarray:
    kept = np.where(p >= np.sort(p)[-min(k, len(p))], p, 0)
    return kept / kept.sum()


@pytest.mark.parametrize(
    ("settings", "cut"),
    [
        *(({"top_k": k}, lambda p, k=k: likeliest(p, k)) for k in (1, 3, V, 100)),
        *(({"top_p": p}, lambda x, p=p: nucleus(x, p)) for p in (1e-6, 0.3, 0.5, 0.9, 1.0)),
        *(({"temperature": t}, lambda p, t=t: softmax(np.log(p) / t)) for t in (0.5, 2.0)),
        ({"top_k": 4, "top_p": 0.7}, lambda p: nucleus(likeliest(p, 4), 0.7)),
        ({"top_k": 5, "temperature": 3.0}, lambda p: likeliest(softmax(np.log(p) / 3), 5)),
    ],
)
def test_what_is_cut_is_never_drawn_and_the_rest_is_as_likely_as_it_was_among_itself(
    settings: dict[str, Any], cut: Callable[[np.ndarray], np.ndarray], rng: np.random.Generator
) -> None:
    for scores in rng.standard_normal((20, V)) * 2:
        scores[:2] = -np.inf
        weights = Sampling(**settings).weights(scores[None])[0]
        with np.errstate(divide="ignore"):
            wanted = cut(softmax(scores))
        np.testing.assert_allclose(weights / weights.sum(), wanted, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("settings", [{}, {"temperature": 2.0}, {"top_k": 5, "top_p": 0.8}])
def test_step_t_takes_number_t_of_the_stream_that_is_documented(
    settings: dict[str, Any], model: CaptioningRNN
) -> None:
    """The word where the sum of weights, in the order of ids, passes it."""
    policy = Sampling(max_length=T, forbid=SILENT, seed=5, **settings)
    captions = model.decode(pictures(20), policy, numbers=np.arange(20)).captions[:, 0]
    for number, caption in enumerate(captions):
        u = np.random.Generator(np.random.Philox(key=np.array([5, number], np.uint64))).random(T)
        words, state = [START], model.start(pictures(20)[[number]])
        for t in range((caption != NULL).sum()):
            scores, state = model.step(np.array(words[-1:]), state)
            scores[:, SILENT] = -np.inf
            shares = np.cumsum(policy.weights(scores)[0])
            words.append(int(np.searchsorted(shares, u[t] * shares[-1], side="right")))
        assert words[1:] == caption[: len(words) - 1].tolist()
    assert len(np.unique(captions[:, 0])) > 3


def test_float32_draws_no_word_that_is_forbidden(model: CaptioningRNN) -> None:
    """Not with the largest number below 1 either, which float32 would round to 1."""
    words, policy = model.word_to_idx, Sampling(max_length=T, forbid=(NULL, START, V - 1))
    narrow = CaptioningRNN.from_config(model.config, words, dtype=np.float32, params=model.params)
    assert narrow.sample(pictures(50), policy=policy).max() < V - 1

    class Last:
        def __init__(self, *_: Any) -> None: ...

        def random(self, n: int) -> np.ndarray:
            return np.full(n, np.nextafter(1.0, 0.0))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(np.random, "Generator", Last)
        said = narrow.sample(pictures(50), policy=policy)
    assert set(said[:, 0].tolist()) <= {V - 2, V - 3}


def distinct_trigrams(caption: list[int]) -> bool:
    trigrams = list(zip(caption, caption[1:], caption[2:], strict=False))
    return len(set(trigrams)) == len(trigrams)


def stutters(caption: list[int]) -> bool:
    return any(
        caption[i : i + n] == caption[i + n : i + 2 * n]
        for n in (1, 2, 3)
        for i in range(len(caption) - 2 * n + 1)
    )


@pytest.mark.parametrize("limits", [{}, {"no_repeat_trigram": True}, {"no_stutter": True}])
def test_a_finished_caption_is_allowed_as_word_by_word(
    limits: dict[str, Any], rng: np.random.Generator
) -> None:
    captions = [rng.integers(3, 7, n).tolist() for n in range(12) for _ in range(40)]
    policy = Policy(max_length=10, least_length=2, forbid=(*SILENT, 6), **limits)
    wanted = [
        2 <= len(caption) < 10  # END is a word of max_length
        and 6 not in caption
        and (distinct_trigrams(caption) or "no_repeat_trigram" not in limits)
        and not (stutters(caption) and "no_stutter" in limits)
        for caption in captions
    ]
    assert policy.allows(captions).tolist() == wanted
    assert 20 < sum(wanted) < 200
    assert policy.allows([]).tolist() == []


@pytest.mark.parametrize("kind", [iter, set, np.array])
def test_ids_to_forbid_come_from_any_iterable(kind: Any, model: CaptioningRNN) -> None:
    """A policy holds them itself: a generator is read once, a list may change afterwards."""
    ids = [*SILENT, 3, 5]
    expected = model.sample(pictures(9), T, forbid=ids)
    np.testing.assert_array_equal(model.sample(pictures(9), T, forbid=kind(ids)), expected)
    policy = Policy(max_length=T, forbid=kind(ids))
    for _ in range(2):
        np.testing.assert_array_equal(model.sample(pictures(9), policy=policy), expected)
    assert policy == Policy(max_length=T, forbid=ids)


def test_greedy_decoding_has_a_name_beside_beam(model: CaptioningRNN) -> None:
    greedy, base = (kind(max_length=T, forbid=SILENT) for kind in (Greedy, Policy))
    assert greedy.title == base.title == "greedy"
    found = (model.decode(pictures(9), policy).captions for policy in (greedy, base))
    np.testing.assert_array_equal(*found)


class SecondBest(Policy):
    """Says the second likeliest word at every step, and adds up scores as it goes."""

    seen: list[Any]

    def choose(self, scores: Any, totals: Any, t: int) -> Choice:
        words = scores.argsort(axis=1)[:, -2]
        said = scores[np.arange(len(words)), words]
        self.seen.append((t, None if totals is None else totals.copy()))
        return Choice(words, totals=said if totals is None else totals + said)


def test_a_policy_of_ones_own_chooses_the_words_and_keeps_its_totals(model: CaptioningRNN) -> None:
    features, policy = pictures(9), SecondBest(max_length=5)
    object.__setattr__(policy, "seen", [])
    captions = model.sample(features, policy=policy)
    state, words, totals, alive = (
        model.start(features),
        np.full(9, START),
        np.zeros(9),
        np.full(9, True),
    )
    for t in range(5):
        scores, state = model.step(words, state)
        words = np.where(alive, scores.argsort(axis=1)[:, -2], NULL)
        np.testing.assert_array_equal(captions[:, t], words)
        totals, alive = totals + scores[np.arange(9), words], alive & (words != END)
        if t + 1 < len(policy.seen):
            assert policy.seen[t + 1][0] == t + 1
            np.testing.assert_allclose(policy.seen[t + 1][1], totals[alive], rtol=1e-12)


class Swap(Policy):
    """Greedy for the first picture; from the third word on, both hypotheses continue the first
    one.
    """

    def choose(self, scores: Any, totals: Any, t: int) -> Choice:
        parents = np.zeros(len(scores), int) if t == 2 else None
        return Choice(
            scores.argmax(axis=1) if parents is None else scores[parents].argmax(axis=1), parents
        )


def test_hypotheses_go_on_from_the_parents_that_a_policy_names(model: CaptioningRNN) -> None:
    model.params["b_vocab"][END] = -1e9  # both captions last to the end
    features = 5 * pictures(2)
    greedy, p = model.sample_with_probabilities(features, 6)
    assert (greedy[0] != greedy[1]).any()
    found, q = (array[:, 0] for array in model.decode(features, Swap(max_length=6))[:2])
    np.testing.assert_array_equal(found, greedy[[0, 0]])
    np.testing.assert_allclose(q, p[[0, 0]], rtol=1e-12)


@dataclass(frozen=True, kw_only=True)
class Tilted(Policy):
    """A policy with an option of its own, an array."""

    tilt: np.ndarray = field(default_factory=lambda: np.zeros((2, 2)))
    power: int = 1

    def choose(self, scores: Any, totals: Any, t: int) -> Choice:
        return Choice(scores.argmax(1))


def test_a_title_tells_a_policy_and_its_own_options_apart() -> None:
    assert Tilted(power=2).title == "Tilted, tilt [[0. 0.] [0. 0.]], power 2"
    assert Tilted(power=1, least_length=3).title == "Tilted, tilt [[0. 0.] [0. 0.]]"
    assert Beam(4, groups=2).title == "beam of 4 in 2 groups, diversity 0.5, length penalty 1"


@dataclass(frozen=True, kw_only=True)
class Unchecked(Policy):
    """A policy that checks nothing itself."""

    def __post_init__(self) -> None:
        pass


@refusals(
    """
    Policy(max_length=5, least_length=6) | least_length | is 6 | a whole number in 0..5 | it cannot exceed the maximum
    Policy(max_length=5, forbid=[i for i in range(V) if i != END], least_length=1) | forbid | leaves 0 of 14 words besides END | at least 1 with `least_length`
    Policy(forbid=SILENT, no_repeat_trigram=True) | forbid | leaves 11 of 14 words besides END | at least 16 with `no_repeat_trigram`
    Policy(forbid=[i for i in range(V) if i not in (END, 4, 5, 6)], no_stutter=True) | forbid | leaves 3 of 14 words besides END | at least 4 with `no_stutter`
    Sampling(forbid=[V]) | forbid | holds 1 ids
    Unchecked(no_stutter="no") | no_stutter | is 'no'
    Sampling(), max_length=5 | max_length or forbid | is given with a policy
    Sampling(), forbid=SILENT | max_length or forbid | is given with a policy
    Beam(5, n_best=3) | policy | n_best 3 | decode
    """,
    error=ValueError,
)
def test_policies_that_leave_no_caption_are_refused(refusal: Refusal, model: CaptioningRNN) -> None:
    refusal.check({**globals(), "model": model}, "model.sample(pictures(2), policy={})")


@refusals(
    """
    Sampling(temperature=0.0) | temperature | is 0.0 | a finite number of at least 0.001 | for the likeliest words, decode greedily
    Sampling(temperature=np.nan) | temperature | is nan | a finite number of at least
    Sampling(temperature=np.inf) | temperature | is inf | a finite number of at least
    Sampling(top_k=0) | top_k | is 0 | a whole number of at least 1
    Sampling(top_p=0.0) | top_p | is 0.0 | a number in 0.000001..1 | it is a probability
    Sampling(top_p=1.5) | top_p | is 1.5 | a number in 0.000001..1 | it is a probability
    Sampling(seed=-1) | seed | is -1 | a whole number in 0..2**63-1
    Policy(least_length=-1) | least_length | is -1 | a whole number of at least 0
    Beam(no_stutter="no") | no_stutter | is 'no' | True or False
    Beam(n_best=6) | n_best | is 6 | a whole number in 1..5 | at most `width` captions
    Beam(groups=2) | groups | is 2 | a divisor of `width`, 5
    Beam(width=0) | width | is 0 | a whole number of at least 1
    Beam(length_penalty=-0.1) | length_penalty | is -0.1 | a number in 0..10
    Beam(length_penalty=np.nan) | length_penalty | is nan | a number in 0..10
    Beam(diversity=np.inf) | diversity | is inf | a number in 0..1000
    Beam(4, diversity=1.0) | diversity | requires `groups` | groups differ
    """,
    error=OptionError,
)
def test_a_policy_that_makes_no_sense_is_refused(refusal: Refusal) -> None:
    refusal.check(globals())


def wrong(**methods: Any) -> Policy:
    """A policy of methods of its own."""
    return type("Wrong", (Policy,), methods)(max_length=3)  # type: ignore[no-any-return]


def wrong_choice(choose: Any) -> Policy:
    """A policy that makes a choice of n scores."""
    return wrong(choose=lambda self, scores, totals, t: choose(len(scores)))


@refusals(
    """
    wrong_choice(lambda n: np.zeros(n, int)) | TypeError | Wrong.choose | returned a ndarray | a Choice
    wrong_choice(lambda n: Choice(np.zeros(n))) | TypeError | Wrong.choose | have dtype float64 | integers
    wrong_choice(lambda n: Choice([0] * n)) | TypeError | Wrong.choose | is a list | an array
    wrong_choice(lambda n: Choice(np.full(n, V))) | ValueError | Wrong.choose | hold 14..14 | 0..13
    wrong_choice(lambda n: Choice(np.full(n, -1))) | ValueError | Wrong.choose | hold -1..-1
    wrong_choice(lambda n: Choice(np.zeros(1, int))) | ValueError | Wrong.choose | have shape (1,) | (n,) = (3,)
    wrong_choice(lambda n: Choice(np.zeros(n, int), np.full(n, n))) | ValueError | Wrong.choose | hold 3..3 | 0..2
    wrong(finished=lambda *_: np.zeros(3, int)) | TypeError | Wrong.finished | has dtype int64
    wrong(finished=lambda *_: np.zeros(2, bool)) | ValueError | Wrong.finished | (2,) | (slots,) = (3,)
    wrong(select=lambda *_: np.zeros((1, 1), int)) | ValueError | Wrong.select | (1, 1) | N = 3
    wrong(select=lambda *_: np.zeros(3, int)) | ValueError | Wrong.select | (3,) | (N, n)
    wrong(select=lambda *_: np.arange(3)[:, None] - 1) | ValueError | Wrong.select | -1..1 | 0..2
    wrong(select=lambda *_: np.zeros((3, 1), bool)) | TypeError | Wrong.select | have dtype bool
    """
)
def test_what_a_policy_returns_is_checked(refusal: Refusal, model: CaptioningRNN) -> None:
    refusal.check({**globals(), "model": model}, "model.decode(pictures(3), {})")


@pytest.mark.parametrize(
    "policy",
    [Policy(), Sampling(), Sampling(top_k=2), Beam(3), Beam(4, groups=2)],
    ids=lambda policy: policy.title,
)
def test_a_model_whose_weights_are_not_finite_says_nothing(
    policy: Policy, model: CaptioningRNN
) -> None:
    cause = "is a parameter of the model NaN"
    for value in (np.nan, np.inf):
        model.params["b_vocab"][3] = value
        with refuses(TrainingError, "scores of the first word", cause):
            model.decode(pictures(2), policy)


@refusals(
    """
    [1, 2] | has shape (2,) and dtype int64
    [0, 1, -1] | has shape (3,)
    [0.5, 1.5, 2.5] | dtype float64
    """,
    "numbers",
    "one for each picture, (3,)",
    error=ValueError,
)
def test_numbers_are_one_a_picture(refusal: Refusal, model: CaptioningRNN) -> None:
    names = {**globals(), "model": model}
    refusal.check(names, "model.decode(pictures(3), Sampling(), numbers={})")
