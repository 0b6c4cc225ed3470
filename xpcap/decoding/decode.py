"""Decoding: captions from image features, word by word, as a policy chooses, for any model."""

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np

from xpcap.backend import Array, asarray, get_array_module, is_device_array, to_numpy
from xpcap.backend.memory import Workspace
from xpcap.backend.plain_code import current_code
from xpcap.backend.selfcheck import Results, checked_code, computing
from xpcap.backend.shape_specs import check_range, spec
from xpcap.backend.threads import cores, one_blas_thread, parallel_map, split_evenly
from xpcap.backend.transfers import AsyncCopy
from xpcap.decoding.hypotheses import Hypotheses, check_first
from xpcap.decoding.policies import (
    Choice,
    LogitsProcessor,
    Policy,
    Sampling,
    Special,
    require_policy,
)
from xpcap.errors import InvalidTypeError, InvalidValueError
from xpcap.ops import State, contiguous, get_ops
from xpcap.ops.device import FUSED

MAX_TABLE_WORDS = 1 << 12  # a device projects a larger vocabulary step by step, which is faster
MIN_HYPOTHESES_PER_CORE = 32  # with fewer, another core would not save time


class Decoded(NamedTuple):
    """Captions of N pictures, n for each, the best first; padded with empty captions."""

    captions: np.ndarray  # (N, n, max_length) int32, NULL after END
    probabilities: np.ndarray  # (N, n, max_length), the model's dtype: each word's, 0 after END
    # (N, n), the model's dtype: each caption's, END included; -inf for padding
    log_probabilities: np.ndarray


class Stepper(Protocol):
    """A model's step from word to word. Each call overwrites the results of the last."""

    def project(self, words: Array) -> Array:
        """Inputs (n, G) of a step that reads words (n,), int. A row depends on its word alone."""

    def advance(self, a: Array, state: State) -> tuple[Array, State]:
        """Scores (n, V) of the next word, log-probabilities up to a constant, and the new state.

        a : array (n, G), from `project`. It may be overwritten.
        state : from `Decodable.start` or the step before. The new state is not overwritten.
        """


class Decodable(ABC):
    """The part of a model that decoding uses.

    Attributes
    ----------
    word_to_idx : dict of str to int
        The id of each word of the vocabulary.
    """

    word_to_idx: dict[str, int]

    @property
    def dispatch(self) -> tuple[object, ...]:
        """Everything besides the dtype that decides which fast code computes a step."""
        return (type(self).__qualname__,)

    @property
    @abstractmethod
    def like(self) -> Array:
        """An array with the library, device and dtype that the model computes with."""

    @abstractmethod
    def start(self, features: Array) -> State:
        """The state before the first word, from features (n, D) or (n, P, D); its first axis is n."""

    @abstractmethod
    def stepper(self, memory: Workspace) -> Stepper:
        """A stepper that uses this memory, for as long as parameters do not change."""


def special_words(ids: dict[str, int]) -> Special:
    """The special words of a vocabulary; ValueError if it has no START."""
    V = len(ids)
    start = ids.get("<START>", V)
    if start >= V:
        raise InvalidValueError(
            f"the vocabulary of {V} words has no <START> with an id below {V}, expected one:"
            " captions begin after it"
        )
    return Special(start, ids.get("<END>"), ids["<NULL>"])


class WordTable:
    """A table of `Stepper.project`, from which each step gathers the rows of its words.

    The host projects a word when it first occurs; a device projects all words at the start.
    """

    def __init__(self, model: Decodable, memory: Workspace) -> None:
        self._project = model.stepper(memory.scope("table")).project
        self._memory = memory
        self._missing: np.ndarray | None = None  # (V,) bool, on the host
        xp = get_array_module(model.like)
        V = len(model.word_to_idx)
        if xp is np:
            rows = self._project(np.zeros(0, np.int32))
            self._table = np.empty((V, rows.shape[1]), rows.dtype)
            self._missing = np.ones(V, bool)
        else:
            self._table = contiguous(self._project(xp.arange(V, dtype=np.int32)))

    def __call__(self, words: Array) -> Array:
        """Inputs (n, G) of a step that reads the words."""
        if self._missing is not None and (new := np.unique(words[self._missing[words]])).size:
            self._table[new] = self._project(new)
            self._missing[new] = False
        out = self._memory.take("a", (len(words), self._table.shape[1]))
        return get_ops(out).gather(self._table, contiguous(words), out=out)


@one_blas_thread()
def decode(
    model: Decodable,
    features: Array,
    policy: Policy,
    scored: bool,
    numbers: Sequence[int] | np.ndarray | None = None,
) -> Decoded:
    """Captions of N pictures. On the host, cores caption parts of them in parallel.

    features : array (N, ...), on the model's device
    scored : compute the probabilities of the words; otherwise they and log-probabilities are 0
    numbers : (N,), int from 0; numbers the pictures for a policy that samples. None: 0..N-1
    TrainingError : scores of the first word are not finite; on a device, only checked if `scored`
    TypeError, ValueError : the policy returns a value that does not fit
    """
    require_policy(policy)
    special = special_words(model.word_to_idx)
    N = len(features)
    banned = policy.banned(len(model.word_to_idx), special.end)
    numbers = np.arange(N) if numbers is None else np.asarray(numbers)
    if numbers.shape != (N,) or (N and (numbers.dtype.kind not in "iu" or numbers.min() < 0)):
        raise InvalidValueError(
            f"numbers has shape {numbers.shape} and dtype {numbers.dtype}, expected one for each"
            f" picture, ({N},), whole and from 0"
        )
    parts = [slice(0, N)]
    if isinstance(model.like, np.ndarray):
        parts = split_evenly(N, min(cores(), N * policy.slots // MIN_HYPOTHESES_PER_CORE))

    def decode_part(part: slice) -> Decoded:
        return _decode(model, features[part], policy, special, banned, scored, numbers[part])

    with computing(_checked_code(model, features, policy, special, numbers)):
        results = parallel_map(decode_part, parts)
    return Decoded(*(np.concatenate(arrays) for arrays in zip(*results, strict=True)))


def _decode(
    model: Decodable,
    features: Array,
    policy: Policy,
    special: Special,
    banned: Sequence[int],
    scored: bool,
    numbers: np.ndarray,
) -> Decoded:
    """Captions of a part of the pictures."""
    state = model.start(features)
    h = state[0]
    xp = get_array_module(h)
    memory = Workspace(h)
    stepper = model.stepper(memory)
    has_table = xp is np or len(model.word_to_idx) <= MAX_TABLE_WORDS
    project = WordTable(model, memory) if has_table else stepper.project
    choose = policy.start(numbers, special, memory.scope("policy"))
    process = LogitsProcessor(policy, banned, special, memory.scope("mask"))
    slots = len(features) * policy.slots
    hypotheses = Hypotheses(slots, policy.max_length, special.end, special.null, h.dtype)

    # The host reads the words of each step to find the hypotheses that have ended. If choices do not
    # depend on that, a device launches the next step before the words are read, so that it never
    # waits; captions that have ended then leave the batch a step later.
    delay = int(xp is not np and policy.rowwise and not policy.reads_words)
    unread = deque[tuple[int, np.ndarray, np.ndarray, AsyncCopy]]()

    # Row k of the batch is the hypothesis in slot alive[k], with words[k] and totals[k]. `state`
    # still has the rows of the step before: row k continues its row parents[k], or k if that is None.
    alive = np.arange(len(features))
    words = xp.full(len(alive), special.start, np.int32)
    totals = None
    parents = None
    for t in range(policy.max_length):
        # Hypotheses that have ended leave the batch. One gather also moves states to the children
        going = np.flatnonzero(~_finished(policy, hypotheses)[alive])
        if going.size == 0:
            break
        if len(going) < len(alive):
            rows = memory.send("going", going.astype(np.int32))
            alive = alive[going]
            words = words[rows]
            totals = None if totals is None else totals[rows]
            parents = rows if parents is None else parents[rows]
        if parents is not None:
            state = tuple(_rows(s, parents) for s in state)

        # Probabilities are over the whole vocabulary, so they are computed before the mask. A policy
        # that compares hypotheses needs log-probabilities, too.
        scores, state = stepper.advance(project(words), state)
        scores = log_p = contiguous(scores)
        if t == 0 and isinstance(scores, np.ndarray):  # on a device probabilities are checked
            check_first(scores.max(axis=1))
        if policy.slots > 1:
            get_ops(scores).log_softmax_(scores)
        elif scored:
            log_p = get_ops(scores).log_softmax_(scores.copy())
        process(scores, t, hypotheses, alive)
        choice = choose(scores, totals, t, alive)
        check_choice(policy, choice, scores, parents=not delay)
        words, parents, totals = choice
        probabilities = None
        if scored:
            rows = xp.arange(len(words)) if parents is None else parents
            probabilities = xp.exp(log_p[rows, words])

        # The first choice fills all slots; later choices fill those of the batch, in its order.
        before = alive
        if t == 0 and policy.slots > 1:
            alive = np.arange(slots)
        compared = totals if policy.slots > 1 else None
        unread.append((t, before, alive, AsyncCopy(words, parents, probabilities, compared)))
        if len(unread) > delay:
            hypotheses.write(*unread.popleft())
    for step in unread:
        hypotheses.write(*step)
    return _selected(policy, hypotheses, scored)


def _rows(x: Array, rows: Array) -> Array:
    """x[rows]: x (n, ...), rows (m,), int."""
    if isinstance(x, np.ndarray) or x.dtype.char not in "fd":
        return x[rows]
    x = contiguous(x)
    rows = contiguous(rows)
    flat = x if x.ndim == 2 else x.reshape(len(x), -1)
    m = len(rows)
    out = get_array_module(x).empty((m, flat.shape[1]), x.dtype)
    gathered = get_ops(x).gather(flat, rows, out=out)
    return gathered if x.ndim == 2 else gathered.reshape(m, *x.shape[1:])


def check_choice(policy: Policy, choice: Choice, scores: Array, parents: bool) -> None:
    """Check the choice of a policy from scores (n, V), with `parents` or without.

    TypeError : it is no Choice, or words or parents are not integers. ValueError : their number is
    wrong, or one is out of range. Values on a device are not checked: it would have to wait.
    """
    n, V = scores.shape
    function = f"{type(policy).__name__}.choose"
    if not isinstance(choice, Choice):
        raise InvalidTypeError(
            f"{function} returned a {type(choice).__name__}, expected a Choice; return"
            " Choice(words)"
        )
    words, parent_rows, _ = choice
    on_device = parent_rows is None and is_device_array(words) and is_device_array(scores)
    if on_device and words.dtype == np.int32 and words.shape == (n,):
        return  # the common case on a device, which waits while the host checks
    sizes = {"n": n} if parent_rows is None else {}
    spec("words:n=i parents?:n=i").check(words, parent_rows, function=function, sizes=sizes)
    for name, ids, bound in (("words", choice.words, V), ("parents", choice.parents, n)):
        check_range(f"{function}: {name}", ids, bound, "")
    if choice.parents is not None and not parents:
        raise InvalidValueError(
            f"{function} names parents, expected None: a `rowwise` policy continues each row by itself;"
            " set `rowwise` to False"
        )


def _finished(policy: Policy, hypotheses: Hypotheses) -> np.ndarray:
    """The policy's mask (slots,) of finished hypotheses; TypeError or ValueError for anything else."""
    mask = policy.finished(hypotheses)
    ended = hypotheses.ended
    if mask is not ended:
        function = f"{type(policy).__name__}.finished"
        spec("mask:slots=b").check(mask, function=function, sizes={"slots": len(ended)})
    return mask


def _selected(policy: Policy, hypotheses: Hypotheses, scored: bool) -> Decoded:
    """The captions that a policy selects; TypeError or ValueError unless they are slots (N, n)."""
    slots = policy.select(hypotheses)
    count = len(hypotheses.ended)
    function = f"{type(policy).__name__}.select"
    spec("slots:N,n=i").check(slots, function=function, sizes={"N": count // policy.slots})
    check_range(f"{function}: slots", slots, count, "")
    captions = hypotheses.captions[slots]
    lengths = hypotheses.lengths[slots]
    probabilities = hypotheses.probabilities[slots]
    if policy.slots > 1:
        totals = hypotheses.totals[slots]
    elif scored:
        is_word = np.arange(captions.shape[2]) < lengths[:, :, None]
        zeros = np.zeros(is_word.shape)
        with np.errstate(divide="ignore"):  # a probability may round to 0
            totals = np.log(probabilities, dtype=np.float64, where=is_word, out=zeros).sum(axis=2)
    else:
        totals = np.zeros(slots.shape)
    return Decoded(captions, probabilities, totals.astype(probabilities.dtype))


# ---- The check of a device


class _GivenScores(Decodable):
    """A model with given scores, so that fast and plain code choose from the same."""

    STEPS = 2  # END is the likeliest word after these
    PICTURES = 4

    def __init__(self, model: Decodable, special: Special, rows: int) -> None:
        self.word_to_idx = model.word_to_idx
        self._like = model.like
        self._end = special.end
        size = rows, len(model.word_to_idx)
        self._scores = 3 * np.random.default_rng(0).standard_normal(size)
        self._t = 0

    @property
    def like(self) -> Array:
        return self._like

    def start(self, features: Array) -> State:
        return (self._zeros(len(features)),)

    def stepper(self, memory: Workspace) -> Stepper:
        return self

    def project(self, words: Array) -> Array:
        return self._zeros(len(words))

    def _zeros(self, n: int) -> Array:
        return asarray(np.zeros((n, 1), self._like.dtype), like=self._like)

    def advance(self, a: Array, state: State) -> tuple[Array, State]:
        scores = np.roll(self._scores, self._t, axis=0)[: len(a)].astype(self._like.dtype)
        if self._end is not None and self._t >= self.STEPS:
            scores[:, self._end] = 100
        self._t += 1
        return asarray(scores, like=self._like), state


def _checked_code(
    model: Decodable, features: Array, policy: Policy, special: Special, numbers: np.ndarray
) -> str:
    """The code to decode with: that of this thread, or "plain" after a device fails its check.

    Instead of a user's policy, which may count its calls, greedy decoding is checked.
    """
    if not len(features):
        return current_code()
    rows = len(features) * policy.slots
    if not type(policy).__module__.startswith("xpcap."):
        policy = Policy()
    kind = "sampling" if isinstance(policy, Sampling) else "greedy"
    if policy.slots > 1:
        kind = "beam"
    return checked_code(
        f"{kind} decoding",
        (*model.dispatch, rows > FUSED),
        model.like,
        lambda: _trial(model, features, policy, special, numbers, rows),
    )


def _trial(
    model: Decodable,
    features: Array,
    policy: Policy,
    special: Special,
    numbers: np.ndarray,
    rows: int,
) -> Results:
    """Two steps of the model, and the words that the policy chooses from given scores."""
    n = int(np.clip(rows, FUSED // 2, 2 * FUSED))  # enough rows to launch the same kernels
    pictures = asarray(np.resize(np.arange(len(features)), n), like=model.like)
    state = model.start(features[pictures])
    results = dict[str, Array]()
    words = asarray(np.full(n, special.start, np.int32), like=model.like)
    stepper = model.stepper(Workspace(model.like))
    for t in (1, 2):
        scores, state = stepper.advance(stepper.project(words), state)
        results[f"scores of word {t}"] = to_numpy(scores).copy()
    N = min(len(features), _GivenScores.PICTURES)
    given = _GivenScores(model, special, N * policy.slots)
    banned = policy.banned(len(model.word_to_idx), special.end)
    decoded = _decode(given, features[:N], policy, special, banned, True, numbers[:N])
    return results | decoded._asdict()
