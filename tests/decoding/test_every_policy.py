"""What captions rely on, of every policy of the library, whatever the cores and the device."""

import contextlib
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from xpcap import CaptioningRNN, asarray, models, to_numpy, use_backend
from xpcap.decoding import decode
from xpcap.errors import OptionError
from xpcap.models import Beam, Decoded, Policy, Sampling
from xpcap.models.network import Network
from xpcap.ops import log_softmax
from xpcap.options import described

NULL, START, END, FAVOURITE, V = 0, 1, 2, 3, 14
WORDS = {"<NULL>": NULL, "<START>": START, "<END>": END, **{f"word{i}": i for i in range(3, V)}}
SILENT, LONGEST, D = (NULL, START), 9, 4
LIMITS: dict[str, Any] = {"max_length": LONGEST, "forbid": SILENT, "least_length": 0}
LIMITS |= {"no_repeat_trigram": False, "no_stutter": False}
FEATURES = 3 * np.random.default_rng(3).standard_normal((30, D))
NUMBERS = np.arange(100, 100 + len(FEATURES))

NAMED = (getattr(models, name) for name in models.__all__)
POLICIES = [kind() for kind in NAMED if isinstance(kind, type) and issubclass(kind, Policy)]
POLICIES += [
    Sampling(seed=1, temperature=0.3),
    Sampling(top_k=3, top_p=0.8),
    Beam(3, n_best=3),
    Beam(4, n_best=4, groups=2),
    Beam(6, groups=3),
    Beam(13, n_best=13),  # more than there are words
]
each_policy = pytest.mark.parametrize("policy", POLICIES, ids=lambda policy: policy.title)


def limited(policy: Policy, **limits: Any) -> Policy:
    """The policy within these limits, and few others."""
    return replace(policy, **LIMITS | limits)


def captioner(end: float = 0.0, favourite: float = 0.0) -> CaptioningRNN:
    """A captioner of WORDS, with something added to the scores of END and of FAVOURITE."""
    model = CaptioningRNN(WORDS, D, 5, 6, "lstm", np.float64, seed=1)
    draws = np.random.default_rng(0).standard_normal(model.params.flat.shape)
    model.params.flat[...] = asarray(draws, like=model.params.flat)
    model.params["b_vocab"][[END, FAVOURITE]] += asarray(np.array([end, favourite]))
    return model


def said(policy: Policy, rows: Any = slice(None), **limits: Any) -> Decoded:
    """Captions of some of the pictures."""
    return captioner().decode(FEATURES[rows], limited(policy, **limits), numbers=NUMBERS[rows])


def check_same(decoded: Decoded, expected: Decoded) -> None:
    np.testing.assert_array_equal(decoded.captions, expected.captions)
    close = {"rtol": 1e-11, "atol": 1e-11}
    np.testing.assert_allclose(decoded.log_probabilities, expected.log_probabilities, **close)


@each_policy
def test_a_picture_has_n_best_captions_or_one_and_missing_ones_are_empty(policy: Policy) -> None:
    for length in (1, LONGEST):
        captions, _, totals = said(policy, max_length=length)
        assert captions.shape == (len(FEATURES), policy.n_best or 1, length)
        assert not captions[totals == -np.inf].any()
    assert {len(array) for array in said(policy, slice(0))} == {0}


@each_policy
def test_the_probability_of_each_word_is_the_models_after_the_words_before(policy: Policy) -> None:
    captions, probabilities, totals = said(policy)
    count, model = captions.shape[1], captioner()
    words = captions.reshape(-1, LONGEST)
    state = model.start(FEATURES.repeat(count, axis=0))
    given, expected = np.full(len(words), START), np.ones(words.shape)
    for t, word in enumerate(words.T):
        scores, state = model.step(asarray(given, like=model.params.flat), state)
        log_p = to_numpy(log_softmax(scores))
        expected[:, t] = np.where(word == NULL, 1, np.exp(log_p[np.arange(len(word)), word]))
        given = word
    expected = expected.reshape(captions.shape)
    np.testing.assert_allclose(probabilities, np.where(captions == NULL, 0, expected), atol=1e-11)
    exist = totals > -np.inf
    np.testing.assert_allclose(totals[exist], np.log(expected).sum(axis=2)[exist], rtol=1e-11)


@pytest.mark.parametrize(
    ("scores", "limits"),
    [
        ({"end": 50}, {"least_length": 5}),
        ({"end": -1e3, "favourite": 3}, {"forbid": (*SILENT, FAVOURITE)}),
        ({"end": -1e3, "favourite": 3}, {"max_length": 20, "no_repeat_trigram": True}),
        ({"end": -1e3, "favourite": 3}, {"max_length": 20, "no_stutter": True}),
    ],
    ids=lambda part: [*part][-1],
)
@each_policy
def test_captions_keep_to_limits_where_the_model_would_rather_not(
    policy: Policy, scores: dict[str, float], limits: dict[str, Any]
) -> None:
    policy = limited(policy, **limits)
    captions, _, totals = captioner(**scores).decode(FEATURES, policy)
    exist = captions[totals > -np.inf]
    words = [[word for word in caption if word not in (NULL, END)] for caption in exist]
    longer = replace(policy, max_length=policy.max_length + 1)  # a caption may be cut
    assert longer.allows(words).all()


@each_policy
def test_a_caption_does_not_depend_on_the_batch(policy: Policy) -> None:
    whole, order = said(policy), np.random.default_rng(0).permutation(len(FEATURES))
    parts = [said(policy, rows) for rows in np.split(order, [1, 8])]
    pieces = Decoded(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))
    check_same(pieces, Decoded(*(x[order] for x in whole)))


@each_policy
def test_another_decoding_under_way_changes_nothing(
    policy: Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy, model, taken = limited(policy), captioner(), list[Any]()
    expected = model.decode(FEATURES[:5], policy)

    def advance(*arguments: Any) -> Any:
        taken.append(arguments)
        if len(taken) == 2:  # between two words
            captioner().decode(FEATURES[5:], policy)
        return right(*arguments)

    right = Network.advance
    monkeypatch.setattr(Network, "advance", advance)
    check_same(model.decode(FEATURES[:5], policy), expected)


@each_policy
def test_captions_are_the_same_each_time_and_numpys_global_stream_is_left_alone(
    policy: Policy,
) -> None:
    before = str(np.random.get_state())
    check_same(said(policy), said(policy))
    assert str(np.random.get_state()) == before


@pytest.mark.parametrize(
    "policy", [policy for policy in POLICIES if isinstance(policy, Sampling)], ids=str
)
def test_other_draws_come_of_another_seed_and_of_other_numbers(policy: Sampling) -> None:
    captions = said(policy).captions
    assert (said(policy, seed=policy.seed + 1).captions != captions).any()
    assert (captioner().decode(FEATURES, limited(policy)).captions != captions).any()


@pytest.mark.parametrize(
    "policy", [policy for policy in POLICIES if (policy.n_best or 1) > 1], ids=str
)
def test_fewer_captions_are_the_first_of_more(policy: Policy) -> None:
    fewer = policy.n_best - 1  # type: ignore[operator]
    check_same(said(policy, n_best=fewer), Decoded(*(x[:, :fewer] for x in said(policy))))


KINDS = {type(policy): None for policy in POLICIES}
VALUES = (1, 2, 3, 6, 0.3, 3.0, True, False)  # of options


def differs(policy: Policy, name: str, value: object) -> bool:
    """Whether captions are others with another value of an option, if the policy takes it."""
    with contextlib.suppress(OptionError):
        return not np.array_equal(
            said(policy).captions, said(replace(policy, **{name: value})).captions
        )
    return False


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_each_option_of_a_policy_has_help_and_changes_captions(kind: type[Policy]) -> None:
    own = [policy for policy in POLICIES if type(policy) is kind]
    for name, entry in described(kind).items():
        thing = f"{kind.__name__}.{name}"
        assert entry.help.endswith("."), f"{thing} has the help {entry.help!r}, not a sentence"
        if name in described(Policy):
            continue  # limits, which have a test of their own
        assert f"\n{name} : " in str(kind.__doc__), f"{thing} is not in the docstring: @documented"
        is_used = any(differs(policy, name, value) for policy in own for value in VALUES)
        assert is_used, f"{thing} changes no caption: nothing reads it"


@each_policy
def test_captions_do_not_depend_on_cores(policy: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = said(policy)
    # 30 pictures are too few for another core
    monkeypatch.setattr(decode, "MIN_HYPOTHESES_PER_CORE", 8)
    monkeypatch.setattr(decode, "cores", lambda: 3)
    check_same(said(policy), whole)


@pytest.mark.parametrize(
    "lib", ["emulated", pytest.param("cupy", marks=pytest.mark.gpu)], indirect=True
)
@each_policy
def test_devices_agree(policy: Policy, lib: Any) -> None:
    decoded = said(policy, slice(8))
    with use_backend("numpy"):
        check_same(decoded, said(policy, slice(8)))
