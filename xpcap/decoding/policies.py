"""Policies, which choose the words of captions: greedy decoding and sampling. See also beam.py."""

import operator
from collections.abc import Callable, Iterable, Sequence
from dataclasses import KW_ONLY, dataclass, fields
from typing import Any, NamedTuple

import numpy as np

from xpcap.backend import Array, get_array_module
from xpcap.backend.memory import Workspace
from xpcap.decoding.hypotheses import Hypotheses
from xpcap.errors import InvalidTypeError, InvalidValueError, OptionError
from xpcap.metrics.variety import LONGEST_STUTTER
from xpcap.ops import get_ops, tempered
from xpcap.options import SEED, Flag, OptionKind, Real, Whole, check_fields, documented, option


class Special(NamedTuple):
    """The ids of START, END and NULL; a vocabulary may lack END."""

    start: int
    end: int | None
    null: int


class Choice(NamedTuple):
    """A policy's choice in one time step, for m hypotheses."""

    words: Array  # (m,) int
    parents: Array | None = None  # (m,) int, the row that each continues; None: its own
    totals: Array | None = None  # (m,) float, such as the hypotheses' log-probabilities


PYTHON = "python"  # role of an option without a flag: commands take it from the run, or --ban
StepFunction = Callable[[Array, Array | None, int, np.ndarray], Choice]  # scores, totals, t, slots


@dataclass(frozen=True)
class WordIds(OptionKind):
    """Ids of words, from any iterable; `check` returns a sorted tuple without duplicates."""

    def __str__(self) -> str:
        return "ids of words"

    def check(self, name: str, value: object) -> Any:
        ids: list[Any] = [*value] if isinstance(value, Iterable) else [value]
        for i in ids:
            if isinstance(i, bool | np.bool_) or np.ndim(i) or not hasattr(i, "__index__"):
                raise InvalidTypeError(
                    f"{name} holds {i!r}, expected {self}; model.word_to_idx has the id of each"
                    " word"
                )
        return tuple(sorted({operator.index(i) for i in ids}))


def require_policy(policy: object) -> None:
    """Raise InvalidTypeError unless `policy` is a Policy, not its name or class."""
    if not isinstance(policy, Policy):
        raise InvalidTypeError(
            f"policy is {policy!r}, expected a Policy, such as Beam(5) or Sampling() of"
            " xpcap.models"
        )


@dataclass(frozen=True, kw_only=True)
class Policy:
    """Greedy decoding: the likeliest word at each step. Other policies are subclasses.

    A policy that chooses from the scores of the next word overrides `choose`. Decoding calls:

    1. `banned` once, and `start` for each part of the pictures, which returns a StepFunction.
    2. For each word `finished`, then the StepFunction; the default one calls `choose`.
    3. `select` once, for the captions to return.

    A policy with several hypotheses of a picture overrides `slots`, `start` and `select`.

    The fields are those of Greedy.
    """

    max_length: int = option(Whole(1), 30, "Maximum length in words, END included.", role=PYTHON)
    forbid: Sequence[int] = option(
        WordIds(), (), "Ids of banned words, from any iterable.", role=PYTHON
    )
    least_length: int = option(Whole(0), 0, "Minimum length in words, without END.")
    no_repeat_trigram: bool = option(
        Flag(), False, "Never repeat a sequence of three words within a caption."
    )
    no_stutter: bool = option(
        Flag(), False, "Never repeat one to three words immediately.", role=PYTHON
    )

    def __post_init__(self) -> None:
        check_fields(self)

    @property
    def title(self) -> str:
        """The policy and its options in words, without the limits that all policies have."""
        steps = ("choose", "start", "finished", "select")
        if all(getattr(type(self), step) is getattr(Policy, step) for step in steps):
            return "greedy"
        limits = {limit.name for limit in fields(Policy)}
        options = [
            f"{field.name} {' '.join(str(getattr(self, field.name)).split())}"
            for field in fields(self)
            if field.name not in limits and repr(getattr(self, field.name)) != repr(field.default)
        ]
        return ", ".join([type(self).__name__, *options])

    @property
    def n_best(self) -> int | None:
        """Number of captions that `select` sorts for each picture. None: it returns one, unsorted."""
        return None

    @property
    def slots(self) -> int:
        """Number of a picture's hypotheses. Before the first word there is one.

        Slots are numbered over all pictures: the first choice fills slots 0, 1, ... in its order,
        later choices the slots that have not ended. A hypothesis that has ended keeps its slot.
        """
        return 1

    @property
    def rowwise(self) -> bool:
        """True if `choose` treats each row independently and names no parents, as greedy decoding.

        On a device it then also gets rows of captions that ended in the step before; decoding drops
        their words.
        """
        return type(self).choose is Policy.choose

    @property
    def reads_words(self) -> bool:
        """True if earlier words limit the next word."""
        return self.no_repeat_trigram or self.no_stutter

    def repeating(self, words: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Row and id of each word that may not follow its row of words (n, t), t at least 1.

        Call it only if `reads_words`.
        """
        repeats = [_repeating(words)] if self.no_repeat_trigram else []
        if self.no_stutter:
            longest = min(LONGEST_STUTTER, (words.shape[1] + 1) // 2)
            repeats += [_stuttering(words, n) for n in range(1, longest + 1)]
        rows, ids = (np.concatenate(parts) for parts in zip(*repeats, strict=True))
        return rows, ids

    def allows(self, captions: Sequence[Sequence[int]]) -> np.ndarray:
        """Mask of the captions within the limits, given complete captions as ids without END."""
        lengths = np.array([len(caption) for caption in captions], np.int64)
        words = np.full((len(captions), lengths.max(initial=0)), -1)
        for row, caption in zip(words, captions, strict=True):
            row[: len(caption)] = caption
        mask = (self.least_length <= lengths) & (lengths < self.max_length)
        mask &= ~np.isin(words, [*self.forbid]).any(axis=1)
        for t in range(1, words.shape[1] if self.reads_words else 0):
            rows, ids = self.repeating(words[:, :t])
            mask[rows[(ids == words[rows, t]) & (ids >= 0)]] = False
        return mask

    def banned(self, V: int, end: int | None) -> list[int]:
        """The forbidden ids, in ascending order.

        ValueError : an id or a limit on lengths is out of range, or too few words are left.
        """
        check_fields(self)  # a subclass may override __post_init__
        length = Whole(0, self.max_length, cause="it cannot exceed the maximum length")
        length.check("`least_length`", self.least_length)
        banned = [*self.forbid]
        if banned and not (banned[0] >= 0 and banned[-1] < V and len(banned) < V):
            raise InvalidValueError(
                f"forbid holds {len(banned)} ids {banned[0]}..{banned[-1]}, expected some, not all,"
                f" of 0..{V - 1}"
            )
        allowed = V - len({*banned, *(() if end is None else (end,))})
        # In a caption at most max_length / 2 words have followed the same two words
        needed = 1 + self.max_length // 2 if self.no_repeat_trigram else 1
        needed += LONGEST_STUTTER if self.no_stutter else 0
        if (self.least_length or self.reads_words) and allowed < needed:
            limit = "no_stutter" if self.no_stutter else "least_length"
            limit = "no_repeat_trigram" if self.no_repeat_trigram else limit
            raise OptionError(
                f"`forbid` leaves {allowed} of {V} words besides END, expected at least {needed}"
                f" with `{limit}`: no word might be left"
            )
        return banned

    def start(self, numbers: np.ndarray, special: Special, memory: Workspace) -> StepFunction:
        """A StepFunction for pictures (N,): `choose` with another argument, the slots (n,).

        With several `slots` a picture, scores are log-probabilities, otherwise log-probabilities up
        to a constant.
        """
        return lambda scores, totals, t, slots: self.choose(scores, totals, t)

    def finished(self, hypotheses: Hypotheses) -> np.ndarray:
        """Mask of the slots that need no further word: they have ended, or cannot be selected."""
        return hypotheses.ended

    def choose(self, scores: Array, totals: Array | None, t: int) -> Choice:
        """Choice of the next words.

        scores : array (n, V), log-probabilities up to a constant per row; -inf for forbidden words
        totals : the totals of the last Choice; None in the first step
        t : number of words so far
        """
        return Choice(get_ops(scores).argmax(scores))

    def select(self, hypotheses: Hypotheses) -> np.ndarray:
        """Slots (N, n_best or 1) of the captions to return, the best one of a picture first."""
        return np.arange(len(hypotheses.ended))[:, None]


@documented
@dataclass(frozen=True, kw_only=True)
class Greedy(Policy):
    """Greedy decoding: the likeliest word at each step.

    Raises
    ------
    OptionError : a number is out of range.

    Examples
    --------
    >>> import xpcap
    >>> words = {"<NULL>": 0, "<START>": 1, "<END>": 2, "a": 3, "star": 4}
    >>> model = xpcap.CaptioningRNN(words, input_dim=4, cell_type="lstm", seed=0)
    >>> model.sample(np.eye(3, 4), policy=xpcap.Greedy(max_length=6)).shape
    (3, 6)
    """


@documented
@dataclass(frozen=True)
class Sampling(Policy):
    """Sampling from softmax(scores / temperature), cut to the likeliest words.

    `top_k` keeps the words that are at least as likely as the k-th likeliest. Then `top_p` keeps the
    nucleus: the fewest likeliest words that reach this probability, and any as likely as the last
    of them. Step t of the picture numbered i takes number t of
    ``numpy.random.Philox(key=[seed, i])``, so a caption does not depend on the rest of the batch.

    Raises
    ------
    OptionError : a number is out of range.

    Notes
    -----
    Holtzman et al. 2020, *The Curious Case of Neural Text Degeneration*.
    """

    temperature: float = option(
        Real(1e-3, cause="for the likeliest words, decode greedily"),
        1.0,
        "Sample words at this temperature; above 1 makes rare words likelier.",
    )
    _: KW_ONLY
    top_k: int | None = option(Whole(1), None, "Sample from this number of likeliest words.")
    top_p: float | None = option(
        Real(1e-6, 1, cause="it is a probability"),
        None,
        "Sample from the likeliest words up to this total probability.",
    )
    seed: int = option(SEED, 0, "Sample words with this seed.")

    rowwise = True

    @property
    def title(self) -> str:
        cuts = {"k": self.top_k, "p": self.top_p}
        cut = "".join(f", top {name} {x:g}" for name, x in cuts.items() if x is not None)
        return f"sampling at temperature {self.temperature:g}{cut}, seed {self.seed}"

    def start(self, numbers: np.ndarray, special: Special, memory: Workspace) -> StepFunction:
        dtype = memory.dtype
        below_1 = np.nextafter(dtype.type(1), dtype.type(0))  # rounding to float32 may give 1
        uniforms = np.minimum(self.uniforms(numbers).T.astype(dtype), below_1)  # (T, N)

        def choose(scores: Array, totals: Array | None, t: int, slots: np.ndarray) -> Choice:
            ops = get_ops(scores)
            u = memory.send("uniforms", np.ascontiguousarray(uniforms[t, slots]))
            if self.top_k is None and self.top_p is None:
                return Choice(ops.sample_words(scores, u, self.temperature))
            return Choice(ops.sample_words(self.weights(scores), u))

        return choose

    def uniforms(self, numbers: np.ndarray) -> np.ndarray:
        """Random numbers (N, max_length), float64, in [0, 1), for the words of N pictures."""
        keys = (np.array([self.seed, i], np.uint64) for i in numbers.tolist())
        generators = (np.random.Generator(np.random.Philox(key=key)) for key in keys)
        drawn = [generator.random(self.max_length) for generator in generators]
        return np.array(drawn).reshape(-1, self.max_length)

    def weights(self, scores: Array) -> Array:
        """Unnormalised probabilities (n, V) of the words; 0 for words that top_k or top_p drop."""
        xp = get_array_module(scores)
        n, V = scores.shape
        p = tempered(scores, self.temperature)
        if self.top_k is None and self.top_p is None:
            return p
        rising = xp.sort(p, axis=1)
        if self.top_k is not None and self.top_k < V:
            rising[:, : V - self.top_k] = 0
        cutoff = rising[:, V - min(self.top_k or V, V)]
        if self.top_p is not None:
            # In ascending order, the words before the nucleus have probability 1 - top_p: it begins
            # at the word that this quantile samples, which sums in a fixed order
            first = get_ops(p).sample_words(rising, xp.full(n, 1 - self.top_p, p.dtype))
            cutoff = rising[xp.arange(n), xp.minimum(first, V - 1)]
        return xp.where(p >= cutoff[:, None], p, 0)


class LogitsProcessor:
    """Set the scores of `banned` ids, and of words that a policy's limits exclude, to -inf."""

    def __init__(
        self, policy: Policy, banned: Sequence[int], special: Special, memory: Workspace
    ) -> None:
        self._least_length = policy.least_length
        self._policy = policy
        short = set(banned) if special.end is None else {*banned, special.end}
        self._memory = memory
        self._always = self._send("always", banned)
        self._first = self._send("first", sorted(short) if policy.least_length else ())

    def _send(self, name: str, ids: Sequence[int]) -> Array | None:
        return self._memory.send(name, np.array(ids, np.int32)) if ids else None

    def __call__(self, scores: Array, t: int, hypotheses: Hypotheses, slots: np.ndarray) -> None:
        """Mask scores (n, V) of the word after t words, for the hypotheses in `slots` (n,)."""
        banned = self._first if t < self._least_length else self._always
        if banned is not None:
            get_ops(scores).forbid(scores, banned)
        if not (self._policy.reads_words and t):
            return
        rows, ids = self._policy.repeating(hypotheses.captions[slots, :t])
        if rows.size:
            indices = self._memory.send("repeated", rows * scores.shape[1] + ids)
            masked = self._memory.take("masked", (rows.size,))  # a number would need an upload
            masked[...] = -np.inf
            scores.reshape(-1)[indices] = masked


def _repeating(words: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Row and word of each word that would repeat three words of its row: words (n, t), int."""
    repeats = (words[:, :-2] == words[:, -2:-1]) & (words[:, 1:-1] == words[:, -1:])
    rows, starts = repeats.nonzero()
    return rows, words[rows, starts + 2].astype(np.int64)


def _stuttering(words: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Row and word of each word that would repeat n words of its row immediately."""
    t = words.shape[1]
    rows = np.flatnonzero((words[:, t - 2 * n + 1 : t - n] == words[:, t - n + 1 :]).all(axis=1))
    return rows, words[rows, t - n].astype(np.int64)
