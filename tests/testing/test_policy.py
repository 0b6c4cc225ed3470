"""The contract of policies: kept by those of the library, whatever the cores and the device; and a
policy that breaks a claim is named with what is wrong.
"""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from refusals import refuses

from xpcap import models, use_backend
from xpcap.decoding import decode
from xpcap.errors import ContractError, InvalidTypeError, OptionError
from xpcap.models import Beam, Choice, Greedy, Policy, Sampling
from xpcap.options import described
from xpcap.testing import POLICY, check_policy
from xpcap.testing import policy as contract
from xpcap.testing.policy import Trial

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


@pytest.mark.parametrize("claim", POLICY, ids=lambda claim: claim.__name__)
@each_policy
def test_policy_keeps_the_contract(policy: Policy, claim: contract.Claim) -> None:
    check_policy(policy, [claim])


KINDS = {type(policy): None for policy in POLICIES}
VALUES = (1, 2, 3, 6, 0.3, 3.0, True, False)  # of options


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_each_option_of_a_policy_has_help_and_changes_captions(kind: type[Policy]) -> None:
    own = [policy for policy in POLICIES if type(policy) is kind]
    for name, entry in described(kind).items():
        thing = f"{kind.__name__}.{name}"
        assert entry.help.endswith("."), f"{thing} has the help {entry.help!r}, not a sentence"
        if name in described(Policy):
            continue  # limits, which the contract checks
        assert f"\n{name} : " in str(kind.__doc__), f"{thing} is not in the docstring: @documented"
        variants = (variant(policy, name, value) for policy in own for value in VALUES)
        is_used = any(two and differ(*two) for two in variants)
        assert is_used, f"{thing} changes no caption: nothing reads it"


def variant(policy: Policy, name: str, value: object) -> tuple[Policy, Policy] | None:
    """The policy, and with another value of an option; None: it takes no such value."""
    with contextlib.suppress(OptionError):
        return policy, replace(policy, **{name: value})
    return None


def differ(policy: Policy, other: Policy) -> bool:
    """Whether two policies give other captions."""
    first, second = (Trial(each).decode().captions for each in (policy, other))
    return not np.array_equal(first, second)


@each_policy
def test_captions_do_not_depend_on_cores(policy: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = Trial(policy).decode()
    # 30 pictures are too few for another core
    monkeypatch.setattr(decode, "MIN_HYPOTHESES_PER_CORE", 8)
    monkeypatch.setattr(decode, "cores", lambda: 3)
    parts: list[int] = []
    split = decode.split_evenly

    def counted(*arguments: Any) -> Any:
        slices = split(*arguments)
        parts.append(len(slices))
        return slices

    monkeypatch.setattr(decode, "split_evenly", counted)
    contract.compare(Trial(policy).decode(), whole, "in three parts", "those in one")
    assert parts == [3]


@pytest.mark.parametrize(
    "lib", ["emulated", pytest.param("cupy", marks=pytest.mark.gpu)], indirect=True
)
@each_policy
def test_devices_agree(policy: Policy, lib: Any) -> None:
    decoded = Trial(policy).decode()
    with use_backend("numpy"):
        contract.compare(decoded, Trial(policy).decode(), "of the device", "those of NumPy")


# ---- Policies that break the contract, each one claim at least


def choosing(words: Callable[[Any, int], Any]) -> Policy:
    """A policy that chooses words from scores and the number of the step."""

    def choose(self: Policy, scores: Any, totals: Any, t: int) -> Choice:
        return Choice(words(scores, t))

    return type("Own", (Policy,), {"choose": choose})()


def changed(policy: Policy, **methods: Callable[..., Any]) -> Policy:
    """The policy, whose methods are given what the policy's return, and the arguments."""

    def wrapped(name: str, change: Callable[..., Any]) -> Any:
        return lambda self, *args: change(getattr(type(policy), name)(self, *args), *args)

    body = {name: wrapped(name, change) for name, change in methods.items()}
    own: Any = type("Own", (type(policy),), body)
    return replace(own(), **vars(policy))


def choices(change: Callable[[Choice], Choice]) -> Callable[..., Any]:
    """A `start` whose choices are changed."""
    return lambda step_fn, *_: lambda *args: change(step_fn(*args))


COUNT = [0]


def counted(scores: Any, t: int) -> Any:
    """The likeliest words, the second and the third likeliest ones, in turn."""
    COUNT[0] += 1
    return scores.argsort(axis=1)[:, -1 - COUNT[0] % 3]


def start_counting(step_fn: Any, *_: Any) -> Any:
    COUNT[0] = 0
    return step_fn


def seed_globally(step_fn: Any, *_: Any) -> Any:
    np.random.seed(0)
    return step_fn


def drawn(random: Callable[[], float]) -> Callable[[Any, int], Any]:
    """The likeliest words, or the second likeliest ones."""
    return lambda scores, t: scores.argsort(axis=1)[:, -1 - (random() < 0.5)]


@dataclass(frozen=True)
class Deaf(Sampling):
    """Draws that take no account of the seed."""

    def uniforms(self, numbers: np.ndarray) -> np.ndarray:
        return Sampling(max_length=self.max_length).uniforms(numbers)


BROKEN = {
    "two captions, unranked": (
        contract.captions_formed,
        changed(Greedy(), select=lambda slots, *_: slots.repeat(2, axis=1)),
        "captions",
        "have shape (30, 2, 1)",
    ),
    "words where there is no caption": (
        contract.captions_formed,
        changed(
            Beam(13, n_best=13),
            start=choices(lambda x: x._replace(words=np.where(np.isinf(x.totals), 5, x.words))),
        ),
        "captions",
        "have words where log_probabilities are -inf",
    ),
    "parents in another order": (
        contract.probabilities_of_model,
        changed(
            Beam(3), start=choices(lambda x: x._replace(parents=np.sort(x.parents)[::-1].copy()))
        ),
        "probabilities",
        "differs from the model's",
    ),
    "totals that leave out a word": (
        contract.probabilities_of_model,
        changed(Beam(3), start=choices(lambda x: x._replace(totals=x.totals + 1))),
        "log_probabilities",
        "differs from the sum over a caption's words",
    ),
    "END whatever the scores": (
        contract.limits_kept,
        choosing(lambda scores, t: np.full(len(scores), contract.END)),
        "least_length",
        "is broken by []",
    ),
    "a word whatever the scores": (
        contract.limits_kept,
        choosing(lambda scores, t: np.full(len(scores), contract.FAVOURITE)),
        "forbid",
        "is broken by [3, 3",
    ),
    "two words in turn": (
        contract.limits_kept,
        choosing(lambda scores, t: np.full(len(scores), 4 + t % 2)),
        "no_repeat_trigram",
        "is broken by [4, 5, 4, 5",
    ),
    "a word twice in a row": (
        contract.limits_kept,
        choosing(lambda scores, t: np.full(len(scores), 4 + t * (t + 1) // 2 % 10)),
        "no_stutter",
        "is broken by [4, 5, 7, 10, 4",
    ),
    "the likeliest word of the batch": (
        contract.pictures_apart,
        choosing(lambda scores, t: (scores + scores[:1]).argmax(axis=1)),
        "captions of pictures in other batches",
        "differ from those of one batch for",
    ),
    "steps counted outside": (
        contract.decodings_apart,
        changed(choosing(counted), start=start_counting),
        "captions while others are decoded",
        "differ from those alone for",
    ),
    "draws without a seed": (
        contract.repeatable,
        choosing(drawn(np.random.default_rng(0).random)),
        "captions of a second decoding",
        "differ from those of the first for",
    ),
    "draws from the global stream": (
        contract.repeatable,
        changed(choosing(drawn(lambda: np.random.rand())), start=seed_globally),
        "numpy.random",
        "has been drawn from",
    ),
    "the seed ignored": (
        contract.seed_decides, Deaf(), "captions of another seed", "are the same",
    ),
    "the picture's number ignored": (
        contract.seed_decides,
        changed(Sampling(), uniforms=lambda u, *_: np.repeat(u[:1], len(u), axis=0) * 0 + 0.5),
        "captions of another",
        "are the same",
    ),
    "the best last": (
        contract.best_first,
        changed(Beam(3, n_best=3), select=lambda slots, *_: slots[:, ::-1]),
        "captions of n_best=2",
        "differ from the first of n_best=3 for",
    ),
}  # fmt: skip


def test_every_claim_is_broken() -> None:
    """A decoding of no pictures that has captions is one of another decoder, not of a policy."""
    assert {row[0] for row in BROKEN.values()} | {contract.no_pictures} == set(POLICY)


@pytest.mark.parametrize("wrong", BROKEN)
def test_policy_that_breaks_a_claim_is_named_with_what_is_wrong(wrong: str) -> None:
    claim, policy, thing, got = BROKEN[wrong]
    with refuses(ContractError, function="check_policy", thing=thing, got=got):
        check_policy(policy, [claim])


def test_error_of_a_policy_goes_through_with_the_claim_and_the_policy() -> None:
    policy = changed(Greedy(), start=lambda step_fn, numbers, *_: (step_fn, numbers.max())[0])
    check_policy(policy, [claim for claim in POLICY if claim is not contract.no_pictures])
    with pytest.raises(ValueError, match="zero-size") as caught:
        check_policy(policy)
    assert caught.value.__notes__ == ["check_policy: no_pictures, policy 'Own'"]


def test_what_is_no_policy_is_refused() -> None:
    with refuses(InvalidTypeError, function="check_policy", thing="policy"):
        check_policy(Beam)  # type: ignore[arg-type]
