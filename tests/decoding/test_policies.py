"""Sampling and the limits that every policy keeps: frequencies beside the softmax, cut
distributions, and what draws must not depend on.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
import reference_beam
from reference_beam import END, NULL, SILENT, START, make
from refusals import refuses

from xpcap import CaptioningRNN, Greedy
from xpcap.decoding import decode
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


def first_words(model: CaptioningRNN, n: int, **settings: Any) -> np.ndarray:
    """How often each word comes first in n captions of one picture."""
    policy = Sampling(max_length=1, **settings)
    said = model.sample(np.repeat(pictures(1), n, axis=0), policy=policy)
    return np.bincount(said[:, 0], minlength=V) / n


def error(n: int) -> float:
    """Four standard errors, at most, of a frequency in n draws."""
    return float(4 * np.sqrt(0.25 / n))


@pytest.mark.slow
def test_words_are_drawn_as_often_as_the_softmax_says(model: CaptioningRNN) -> None:
    n = 40_000
    scores, state = model.step(np.array([START]), model.start(pictures(1)))
    for temperature in (0.5, 1.0, 2.0):
        p = softmax(scores[0] / temperature)
        assert np.abs(first_words(model, n, temperature=temperature) - p).max() < error(n)
    # Those of the last temperature: the test can tell them apart
    assert (np.abs(first_words(model, n) - p) > 4 * np.sqrt(p * (1 - p) / n)).any()
    said = model.sample(np.repeat(pictures(1), n, axis=0), policy=Sampling(max_length=2))
    first = int(np.bincount(said[:, 0]).argmax())
    second, _ = model.step(np.array([first]), state)
    p = softmax(second[0])
    went_on = said[said[:, 0] == first, 1]
    assert first != END
    found = np.bincount(went_on, minlength=V) / len(went_on)
    assert np.abs(found - p).max() < error(len(went_on))


def nucleus(p: np.ndarray, share: float) -> np.ndarray:
    """Word by word, the likeliest first, until they reach the share."""
    kept = np.zeros(len(p))
    for word in np.argsort(-p):
        kept[word] = p[word]
        if kept.sum() >= share:
            break
    return kept / kept.sum()


def likeliest(p: np.ndarray, k: int) -> np.ndarray:
    kept = np.where(p >= np.sort(p)[-min(k, len(p))], p, 0)
    return kept / kept.sum()


@pytest.mark.parametrize(
    ("settings", "cut"),
    [
        *(({"top_k": k}, lambda p, k=k: likeliest(p, k)) for k in (1, 3, V, 100)),
        *(
            ({"top_p": share}, lambda p, share=share: nucleus(p, share))
            for share in (1e-6, 0.3, 0.5, 0.9, 1.0)
        ),
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


def test_draws_follow_what_is_cut(model: CaptioningRNN) -> None:
    scores, _ = model.step(np.array([START]), model.start(pictures(1)))
    weights = Sampling(top_k=5, top_p=0.8).weights(scores)[0]
    found = first_words(model, 20_000, top_k=5, top_p=0.8)
    assert np.abs(found - weights / weights.sum()).max() < error(20_000)


def test_a_caption_is_drawn_by_seed_and_number_alone(
    model: CaptioningRNN, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the batch, the cores, and the captions beside it, some of which end sooner."""
    features, numbers = pictures(40), np.arange(100, 140)

    def said(rows: Any = slice(None), seed: int = 5) -> np.ndarray:
        policy = Sampling(max_length=T, forbid=SILENT, seed=seed)
        return model.decode(features[rows], policy, numbers=numbers[rows]).captions[:, 0]

    whole, order = said(), np.random.default_rng(0).permutation(40)
    assert len({(caption != NULL).sum() for caption in whole}) > 4
    assert (whole != said(seed=6)).any()
    policy = Sampling(max_length=T, forbid=SILENT, seed=5)
    assert (whole != model.decode(features, policy).captions[:, 0]).any()  # numbers 0, 1, ...
    pieces = [said(rows) for rows in np.split(order, [7, 8, 30])]
    np.testing.assert_array_equal(np.concatenate(pieces), whole[order])
    monkeypatch.setattr(decode, "LEAST_PART", 8)
    monkeypatch.setattr(decode, "cores", lambda: 3)
    np.testing.assert_array_equal(said(), whole)


def test_step_t_takes_number_t_of_the_stream_that_is_documented(model: CaptioningRNN) -> None:
    (caption,) = model.decode(
        pictures(1), Sampling(max_length=T, forbid=SILENT, seed=5), numbers=[17]
    ).captions[:, 0]
    u = np.random.Generator(np.random.Philox(key=np.array([5, 17], np.uint64))).random(T)
    words, state = [START], model.start(pictures(1))
    for t in range((caption != NULL).sum()):
        scores, state = model.step(np.array(words[-1:]), state)
        scores[:, SILENT] = -np.inf
        words.append(int(np.searchsorted(np.cumsum(softmax(scores[0])), u[t], side="right")))
    assert words[1:] == caption[: len(words) - 1].tolist()
    assert len(words) > 3


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


@pytest.mark.parametrize(
    "policy",
    [Policy(), Sampling(seed=1, temperature=0.3), Beam(3, n_best=3), Beam(4, n_best=4, groups=2)],
    ids=lambda policy: type(policy).__name__,
)
def test_limits_hold_for_every_policy(policy: Policy, model: CaptioningRNN) -> None:
    def said(**limits: Any) -> list[list[int]]:
        limited = replace(policy, max_length=20, **({"forbid": SILENT} | limits))
        captions = model.decode(pictures(30), limited).captions.reshape(-1, 20)
        return [caption[caption != NULL].tolist() for caption in captions]

    model.params["b_vocab"][END] += 50
    assert min(map(len, said())) == 1
    assert {len(caption) for caption in said(least_length=12)} == {13}  # END is no word
    model.params["b_vocab"][[3, END]] += 2, -1e3
    assert not any(map(distinct_trigrams, said()))
    assert all(map(distinct_trigrams, said(no_repeat_trigram=True)))
    assert 3 not in {word for caption in said(forbid=(*SILENT, 3)) for word in caption}
    assert any(map(stutters, said()))
    assert not any(map(stutters, said(no_stutter=True)))


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
    for one, other in zip(*(model.decode(pictures(9), p) for p in (greedy, base)), strict=True):
        np.testing.assert_array_equal(one, other)


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


def test_limits_of_a_policy_that_checks_nothing_itself_are_checked(model: CaptioningRNN) -> None:
    @dataclass(frozen=True, kw_only=True)
    class Unchecked(Policy):
        def __post_init__(self) -> None:
            pass

    with refuses(ValueError, function="CaptioningRNN.sample", thing="no_stutter", came="is 'no'"):
        model.sample(pictures(2), policy=Unchecked(no_stutter="no"))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("policy", "fields"),
    [
        (
            Policy(max_length=5, least_length=6),
            {
                **{"thing": "least_length", "came": "is 6", "expected": "a whole number in 0..5"},
                "cause": "no more than the most words",
            },
        ),
        (
            Policy(max_length=5, forbid=[i for i in range(V) if i != END], least_length=1),
            {
                "thing": "`forbid`",
                "came": f"leaves 0 of {V} words besides END",
                "expected": "at least 1 with `least_length`",
            },
        ),
        (
            Policy(forbid=SILENT, no_repeat_trigram=True),
            {
                "thing": "`forbid`",
                "came": f"leaves 11 of {V} words besides END",
                "expected": "at least 16 with `no_repeat_trigram`",
            },
        ),
        (
            Policy(forbid=[i for i in range(V) if i not in (END, 4, 5, 6)], no_stutter=True),
            {
                "thing": "`forbid`",
                "came": f"leaves 3 of {V} words besides END",
                "expected": "at least 4 with `no_stutter`",
            },
        ),
        (Sampling(forbid=[V]), {"thing": "forbid", "came": "holds 1 ids"}),
    ],
)
def test_limits_that_leave_no_caption_are_refused(
    policy: Policy, fields: dict[str, str], model: CaptioningRNN
) -> None:
    with refuses(ValueError, function="CaptioningRNN.sample", **fields):
        model.sample(pictures(2), policy=policy)


@pytest.mark.parametrize(
    ("policy", "name", "value", "expected"),
    [
        (Sampling, "temperature", 0.0, "a finite number of at least 0.001"),
        (Sampling, "temperature", float("nan"), "a finite number of at least"),
        (Sampling, "temperature", float("inf"), "a finite number of at least"),
        (Sampling, "temperature", "hot", "a finite number of at least"),
        (Sampling, "top_k", 0, "a whole number of at least 1"),
        (Sampling, "top_k", 2.5, "a whole number of at least 1"),
        (Sampling, "top_p", 0.0, "a number in 0.000001..1"),
        (Sampling, "top_p", 1.5, "a number in 0.000001..1"),
        (Sampling, "seed", -1, "a whole number in 0..2**63-1"),
        (Sampling, "seed", 1.5, "a whole number in 0..2**63-1"),
        (Policy, "max_length", 0, "a whole number of at least 1"),
        (Policy, "least_length", -1, "a whole number of at least 0"),
        (Policy, "no_repeat_trigram", "no", "True or False"),
        (Beam, "no_stutter", "no", "True or False"),
        (Beam, "n_best", 6, "a whole number in 1..5"),
        (Beam, "n_best", 2.0, "a whole number of at least 1"),
        (Beam, "groups", 2, "a divisor of `width`, 5"),
        (Beam, "width", 0, "a whole number of at least 1"),
        (Beam, "width", "5", "a whole number of at least 1"),
        (Beam, "length_penalty", -0.1, "a number in 0..10"),
        (Beam, "length_penalty", float("nan"), "a number in 0..10"),
        (Beam, "diversity", float("inf"), "a number in 0..1000"),
    ],
)
def test_a_policy_that_makes_no_sense_is_refused(
    policy: type[Policy], name: str, value: Any, expected: str
) -> None:
    causes = {"temperature": "for the likeliest words decode greedily"}
    causes["top_p"] = "it is a probability"
    causes["n_best"] = "than its `width`" if value == 6 else ""
    fields = {"thing": name, "came": f"is {value!r}", "expected": expected}
    with refuses(OptionError, function=policy.__name__, cause=causes.get(name, ""), **fields):
        policy(**{name: value})


@pytest.mark.parametrize(
    "policy",
    [Policy(), Sampling(top_p=0.5), Beam(5, n_best=3), Beam(6, groups=3)],
    ids=lambda policy: type(policy).__name__,
)
def test_no_pictures_have_no_captions(policy: Policy, model: CaptioningRNN) -> None:
    assert [len(array) for array in model.decode(pictures(0), policy)] == [0, 0, 0]


def test_limits_beside_a_policy_are_refused(model: CaptioningRNN) -> None:
    for limits in ({"max_length": 5}, {"forbid": SILENT}):
        with refuses(
            ValueError,
            function="CaptioningRNN.sample",
            thing="max_length or forbid",
            came="is given with a policy",
        ):
            model.sample(pictures(1), policy=Sampling(), **limits)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("choose", "error", "came", "expected"),
    [
        (lambda n: np.zeros(n, int), TypeError, "returned a ndarray", "a Choice"),
        (lambda n: Choice(np.zeros(n)), TypeError, "have dtype float64", "integers"),
        (lambda n: Choice([0] * n), TypeError, "is a list", "an array"),
        (lambda n: Choice(np.full(n, V)), ValueError, f"hold {V}..{V}", f"0..{V - 1}"),
        (lambda n: Choice(np.full(n, -1)), ValueError, "hold -1..-1", ""),
        (lambda n: Choice(np.zeros(1, int)), ValueError, "have shape (1,)", "(n,) = (3,)"),
        (lambda n: Choice(np.zeros(n, int), np.full(n, n)), ValueError, "hold 3..3", "0..2"),
    ],
)
@pytest.mark.parametrize("scored", [False, True])
def test_what_a_policy_returns_is_checked(
    choose: Any,
    error: type[Exception],
    came: str,
    expected: str,
    scored: bool,
    model: CaptioningRNN,
) -> None:
    class Wrong(Policy):
        def choose(self, scores: Any, totals: Any, t: int) -> Any:
            return choose(len(scores))

    with refuses(error, function="decode", thing="Wrong.choose", came=came, expected=expected):
        model.decode(pictures(3), Wrong()) if scored else model.sample(pictures(3), policy=Wrong())


@pytest.mark.parametrize(
    ("method", "returned", "error", "fields"),
    [
        ("finished", np.zeros(3, int), TypeError, {"came": "has dtype int64"}),
        (
            "finished",
            np.zeros(2, bool),
            ValueError,
            {"came": "(2,)", "expected": "(slots,) = (3,)"},
        ),
        ("select", np.zeros((1, 1), int), ValueError, {"came": "(1, 1)", "expected": "N = 3"}),
        ("select", np.zeros(3, int), ValueError, {"came": "(3,)", "expected": "(N, n)"}),
        ("select", np.arange(3)[:, None] - 1, ValueError, {"came": "-1..1", "expected": "0..2"}),
        ("select", np.zeros((3, 1), bool), TypeError, {"came": "have dtype bool"}),
    ],
)
def test_a_mask_or_slots_that_do_not_fit_are_refused(
    method: str,
    returned: np.ndarray,
    error: type[Exception],
    fields: dict[str, Any],
    model: CaptioningRNN,
) -> None:
    made = type("Wrong", (Policy,), {method: lambda self, hypotheses: returned})
    with refuses(error, function="decode", thing=f"Wrong.{method}", **fields):
        model.decode(pictures(3), made(max_length=3))


def test_sampling_gives_one_caption_of_each_picture_and_refuses_a_policy_of_several(
    model: CaptioningRNN,
) -> None:
    with refuses(
        ValueError, function="CaptioningRNN.sample", thing="policy", came="n_best 3", cause="decode"
    ):
        model.sample(pictures(2), policy=Beam(5, n_best=3))


EACH_WAY = [Policy(), Sampling(), Sampling(top_k=2), Beam(3), Beam(4, groups=2)]


@pytest.mark.parametrize("policy", EACH_WAY, ids=lambda policy: policy.title)
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_model_whose_weights_are_not_finite_says_nothing(
    value: float, policy: Policy, model: CaptioningRNN
) -> None:
    model.params["b_vocab"][3] = value
    with refuses(
        TrainingError,
        function="decode",
        thing="scores of the first word",
        cause="is a parameter of the model NaN",
    ):
        model.decode(pictures(2), policy)


def test_numbers_are_one_a_picture(model: CaptioningRNN) -> None:
    with refuses(
        ValueError,
        function="CaptioningRNN.decode",
        thing="numbers",
        came="has shape (2,) and dtype int64",
        expected="one for each picture, (3,)",
    ):
        model.decode(pictures(3), Sampling(), numbers=[1, 2])
    for numbers in ([0, 1, -1], [0.5, 1.5, 2.5]):
        with refuses(ValueError, expected="one for each picture,"):
            model.decode(pictures(3), Sampling(), numbers=numbers)
