"""The contract of a decoding policy: what captions rely on, whatever chooses their words.

::

    from xpcap.testing import check_policy
    check_policy(RunnerUp())

holds a policy to all of it, in a tiny captioner.
"""

from collections.abc import Callable, Iterable
from dataclasses import fields, replace
from typing import Any, NamedTuple

import numpy as np

from xpcap.backend import Array, asarray, to_numpy
from xpcap.decoding.decode import Decodable, Decoded, decode
from xpcap.decoding.policies import Policy, require_policy
from xpcap.memory import Buffer
from xpcap.models.captioning_rnn import CaptioningRNN
from xpcap.ops import State, log_softmax
from xpcap.testing.claims import check, check_close, fail

NULL, START, END, FAVOURITE, V = 0, 1, 2, 3, 14
WORDS = {"<NULL>": NULL, "<START>": START, "<END>": END, **{f"word{i}": i for i in range(3, V)}}
SILENT = (NULL, START)
D, LONGEST = 4, 9
LIMITS: dict[str, Any] = {"max_length": LONGEST, "forbid": SILENT, "least_length": 0}
LIMITS |= {"no_repeat_trigram": False, "no_stutter": False}


# ---- What claims are about


class Trial(NamedTuple):
    """A policy, and pictures to caption with it."""

    policy: Policy

    def __str__(self) -> str:
        return f"policy {self.policy.title!r}"

    def limited(self, **limits: Any) -> Policy:
        """The policy with limits of the contract in place of its own."""
        return replace(self.policy, **LIMITS | limits)

    def captioner(self, end: float = 0.0, favourite: float = 0.0) -> CaptioningRNN:
        """A captioner of WORDS, with something added to the scores of END and of FAVOURITE."""
        model = CaptioningRNN(WORDS, D, 5, 6, "lstm", np.float64, seed=1)
        draws = np.random.default_rng(0).standard_normal(model.params.flat.shape)
        model.params.flat[...] = asarray(draws, like=model.params.flat)
        model.params["b_vocab"][[END, FAVOURITE]] += asarray(np.array([end, favourite]))
        return model

    def features(self, count: int = 30) -> np.ndarray:
        """Features of pictures."""
        return 3 * np.random.default_rng(3).standard_normal((count, D))

    def decode(
        self, rows: Any = slice(None), numbers: Any = None, policy: Policy | None = None
    ) -> Decoded:
        """Captions of some of the pictures, whose numbers are 100 and up."""
        features = self.features()
        numbers = np.arange(100, 100 + len(features)) if numbers is None else numbers
        policy = policy or self.limited()
        return self.captioner().decode(features[rows], policy, numbers=numbers[rows])


Claim = Callable[[Trial], None]


def compare(decoded: Decoded, expected: Decoded, cause: str, reference: str) -> None:
    """Raise ContractError if captions differ, or log-probabilities by more than rounding."""
    if not np.array_equal(decoded.captions, expected.captions):
        differ = (decoded.captions != expected.captions).any(axis=(1, 2)).sum()
        fail(f"captions {cause}", f"differ from {reference} for {differ} pictures", "the same ones")
    exist = np.isfinite(expected.log_probabilities)
    totals = [np.where(exist, x.log_probabilities, 0) for x in (decoded, expected)]
    check_close(f"log_probabilities {cause}", totals[0], totals[1], reference)


# ---- The claims


def captions_formed(trial: Trial) -> None:
    """A picture has `n_best` captions, or one. Missing ones are empty."""
    for length in (1, LONGEST):
        policy = trial.limited(max_length=length)
        captions, _, totals = trial.decode(policy=policy)
        shape = (len(trial.features()), policy.n_best or 1, length)
        if captions.shape != shape:
            fail("captions", f"have shape {captions.shape}", f"(N, n_best, max_length) = {shape}")
        if captions[totals == -np.inf].any():
            fail("captions", "have words where log_probabilities are -inf", "none")


def probabilities_of_model(trial: Trial) -> None:
    """The probability of each word is the model's, after the words before it."""
    captions, probabilities, totals = trial.decode()
    count, model = captions.shape[1], trial.captioner()
    words = captions.reshape(-1, LONGEST)
    state = model.start(trial.features().repeat(count, axis=0))
    given = np.full(len(words), START)
    expected = np.zeros(words.shape)
    for t, said in enumerate(words.T):
        scores, state = model.step(asarray(given, like=model.params.flat), state)
        log_p = to_numpy(log_softmax(scores))
        expected[:, t] = np.where(said == NULL, 0, np.exp(log_p[np.arange(len(said)), said]))
        given = said
    check_close("probabilities", probabilities, expected.reshape(captions.shape), "the model's")
    with np.errstate(divide="ignore"):
        sums = np.log(np.where(words == NULL, 1, expected)).sum(axis=1).reshape(totals.shape)
    exist = totals > -np.inf
    reference = "the sum over a caption's words"
    check_close(
        "log_probabilities", np.where(exist, totals, 0), np.where(exist, sums, 0), reference
    )


def limits_kept(trial: Trial) -> None:
    """Captions keep to each limit, where the model would rather not."""
    ends, repeats = trial.captioner(end=50), trial.captioner(end=-1e3, favourite=3)
    for model, limits in (
        (ends, {"least_length": 5}),
        (repeats, {"forbid": (*SILENT, FAVOURITE)}),
        (repeats, {"max_length": 20, "no_repeat_trigram": True}),
        (repeats, {"max_length": 20, "no_stutter": True}),
    ):
        policy = trial.limited(**limits)
        captions, _, totals = model.decode(trial.features(), policy)
        captions = captions[totals > -np.inf]
        words = [[word for word in caption if word not in (NULL, END)] for caption in captions]
        longer = replace(policy, max_length=policy.max_length + 1)  # a caption may be cut
        if (broken := ~longer.allows(words)).any():
            (limit,) = {*limits} - {"max_length"}
            caption = words[int(broken.argmax())]
            fail(f"`{limit}`", f"is broken by {[int(word) for word in caption]}", limits[limit])


def pictures_apart(trial: Trial) -> None:
    """A caption depends on its picture and the number of it, not on the batch."""
    whole = trial.decode()
    order = np.random.default_rng(0).permutation(len(trial.features()))
    parts = [trial.decode(rows) for rows in np.split(order, [1, 8])]
    pieces = Decoded(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))
    expected = Decoded(*(x[order] for x in whole))
    compare(pieces, expected, "of pictures in other batches", "those of one batch")


class Interrupted(Decodable):
    """A model that decodes other pictures between two words."""

    def __init__(self, model: CaptioningRNN, act: Callable[[], object]) -> None:
        self.word_to_idx, self._model, self._act, self._taken = model.word_to_idx, model, act, 0

    @property
    def like(self) -> Array:
        return self._model.like

    def start(self, features: Array) -> State:
        return self._model.start(features)

    def project(self, words: Array, *, buffer: Buffer | None = None) -> Array:
        return self._model.project(words, buffer=buffer)

    def advance(self, a: Array, state: State, buffer: Buffer) -> tuple[Array, State]:
        self._taken += 1
        if self._taken == 2:
            self._act()
        return self._model.advance(a, state, buffer)


def decodings_apart(trial: Trial) -> None:
    """Another decoding under way with the same policy changes nothing."""
    policy, features = trial.limited(), asarray(trial.features(), dtype=np.float64)
    few, other = features[:5], features[5:]
    expected = decode(trial.captioner(), few, policy, scored=True)
    model = Interrupted(trial.captioner(), lambda: trial.captioner().decode(other, policy))
    decoded = decode(model, few, policy, scored=True)
    compare(decoded, expected, "while others are decoded", "those alone")


def repeatable(trial: Trial) -> None:
    """The same captions each time. NumPy's global stream is left alone."""

    def global_stream() -> tuple[bytes, int]:
        state = np.random.get_state(legacy=False)["state"]
        return state["key"].tobytes(), state["pos"]

    before = global_stream()
    first, second = trial.decode(), trial.decode()
    compare(second, first, "of a second decoding", "those of the first")
    if global_stream() != before:
        fail("numpy.random", "has been drawn from", "a generator of the policy's own")


def seed_decides(trial: Trial) -> None:
    """If the policy has a `seed`, other captions come of another one, and of other numbers."""
    if "seed" not in {field.name for field in fields(trial.policy)}:
        return
    captions = trial.decode().captions
    others = {
        "seed": trial.decode(policy=trial.limited(seed=trial.policy.seed + 1)),  # type: ignore[attr-defined]
        "numbers": trial.decode(numbers=np.arange(len(captions))),
    }
    for name, decoded in others.items():
        if np.array_equal(decoded.captions, captions):
            fail(f"captions of another `{name}`", "are the same", "others")


def best_first(trial: Trial) -> None:
    """`n_best` k - 1 gives the first k - 1 captions of `n_best` k."""
    count = trial.policy.n_best or 1
    if count == 1 or "n_best" not in {field.name for field in fields(trial.policy)}:
        return
    expected = Decoded(*(x[:, : count - 1] for x in trial.decode()))
    fewer = trial.decode(policy=trial.limited(n_best=count - 1))
    compare(fewer, expected, f"of n_best={count - 1}", f"the first of n_best={count}")


def no_pictures(trial: Trial) -> None:
    """No pictures have no captions, and are no error."""
    for name, x in trial.decode(slice(0))._asdict().items():
        if len(x):
            fail(name, f"have length {len(x)} without pictures", 0)


POLICY: tuple[Claim, ...] = (
    captions_formed,
    probabilities_of_model,
    limits_kept,
    pictures_apart,
    decodings_apart,
    repeatable,
    seed_decides,
    best_first,
    no_pictures,
)


def check_policy(policy: Policy, contract: Iterable[Claim] = POLICY) -> None:
    """Check the contract of a decoding policy, in a tiny captioner.

    The limits of the policy, such as `max_length`, are replaced by those of the contract; its own
    options stay. The backend in use does the work.

    Parameters
    ----------
    policy : Policy
    contract : iterable of callable
        Claims, of POLICY.

    Raises
    ------
    ContractError
        A claim does not hold. It names the policy, the array, and what was expected. An error of
        the policy itself goes through, with a note of policy and claim.
    TypeError
        It is no policy.
    """
    require_policy("check_policy", policy)
    check("check_policy", Trial(policy), contract)
