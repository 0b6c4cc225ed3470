"""Decoding: turns image features into captions, word by word; a policy chooses the words."""

from collections import deque
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from xpcap.backend import Array, get_array_module, is_device_array
from xpcap.layers.checks import all_below
from xpcap.memory import Buffer, Workspace
from xpcap.models.checks import as_array, check_features, check_finite
from xpcap.models.entry import to_device
from xpcap.models.policies import Choice, Policy, Silence, Special
from xpcap.models.scores import normalise
from xpcap.models.transcript import Step, Transcript
from xpcap.ops import gather, log_softmax
from xpcap.threads import cores, in_turn, side_by_side, stretches

LEAST_PART = 64  # hypotheses, at least, for another core to pay off


class Said(NamedTuple):
    """The captions of N pictures, n of each, the best first.

    `log_probabilities` are totals over a caption's words, END included. Where a picture has fewer than n captions, the others are empty.
    """

    captions: np.ndarray  # (N, n, max_length) int32, NULL after END
    probabilities: np.ndarray  # (N, n, max_length), the model's dtype; of the words, 0 after END
    log_probabilities: np.ndarray  # (N, n), the model's dtype; -inf where there is no n-th caption


def special_words(function: str, model: Any) -> Special:
    """The special words of a model's vocabulary. ValueError : it has no START."""
    ids, V = model.word_to_idx, len(model.word_to_idx)
    start = ids.get("<START>", V)
    if start >= V:
        raise ValueError(f"{function}: the vocabulary of {V} words has no <START> with an id below {V}, expected one: sampling starts from it")
    return Special(start, ids.get("<END>"), ids["<NULL>"])


class WordTable:
    """A cache of `model.project` on the host: each word is projected when it first occurs."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self._places = np.full(len(model.word_to_idx), -1, np.int32)  # row of each word in the table, or -1
        self._table = model.project(np.zeros(0, np.int32))
        self._filled = 0

    def project(self, words: np.ndarray, buffer: Buffer) -> np.ndarray:
        """The rows of words (n,), ids, in `buffer`: (n, G)."""
        if (unknown := np.unique(words[self._places[words] < 0])).size:
            self._add(unknown)
        return gather(self._table, self._places[words], out=buffer("a", (len(words), self._table.shape[1])))

    def _add(self, words: np.ndarray) -> None:
        end = self._filled + len(words)
        if end > len(self._table):
            larger = np.empty((max(end, min(2 * end, len(self._places))), self._table.shape[1]), self._table.dtype)
            larger[: self._filled] = self._table[: self._filled]
            self._table = larger
        self._table[self._filled : end] = self._model.project(words)
        self._places[words] = np.arange(self._filled, end, dtype=np.int32)
        self._filled = end


@in_turn
def decode(
    model: Any, features: Array, policy: Policy, scored: bool, function: str = "decode", numbers: Sequence[int] | np.ndarray | None = None
) -> Said:  # fmt: skip
    """Caption N pictures. On the host, the cores caption parts of them in parallel.

    Parameters
    ----------
    model : a Captioner
    features : array (N, D), host or device
    scored : whether to compute the probabilities of the words; else they and their totals are 0
    function : the caller's name, for messages
    numbers : (N,), int from 0; what a policy that draws knows a picture by. None: 0..N-1
    """
    if not isinstance(policy, Policy):
        raise TypeError(f"{function}: policy is {policy!r}, expected a Policy, such as Beam(5) or Sampling() of xpcap.models")
    special = special_words(function, model)
    features = as_array(function, "features", features)
    check_features(function, features, model.config.feature_shape)
    if is_device_array(features):
        check_finite(function, features)
    features = to_device(function, features, model.like)
    N, banned = len(features), policy.banned(function, len(model.word_to_idx), special.end)
    numbers = np.arange(N) if numbers is None else np.asarray(numbers)
    if numbers.shape != (N,) or (N and (numbers.dtype.kind not in "iu" or numbers.min() < 0)):
        raise ValueError(
            f"{function}: numbers has shape {numbers.shape} and dtype {numbers.dtype}, expected one for each picture, ({N},), whole and from 0"
        )
    parts = stretches(N, min(cores(), N * policy.places // LEAST_PART)) if get_array_module(model.like) is np else [slice(0, N)]
    found = side_by_side(lambda part: _decode(model, features[part], policy, special, banned, scored, numbers[part]), parts)
    return Said(*(np.concatenate(results) for results in zip(*found, strict=True)))


def _decode(
    model: Any, features: Array, policy: Policy, special: Special, banned: Sequence[int], scored: bool, numbers: np.ndarray
) -> Said:  # fmt: skip
    """Caption one part. The host reads the words of each step, and hypotheses that have ended leave the batch.

    On a device, where no choice depends on what the host reads, the next step is launched before the words of the last one are read, so that
    the device never waits for the host; captions leave a step later then.
    """
    state = model.start(features)
    h, alive = state[0], np.arange(len(features))  # places of the hypotheses in the batch
    xp, buffer = get_array_module(h), Workspace(h).buffer
    behind = int(xp is not np and policy.rowwise and not policy.no_repeat_trigram)  # steps that the host reads late
    project = WordTable(model).project if xp is np else model.project
    choose, silence = policy.begin(numbers, special, buffer.scope("policy")), Silence(policy, banned, special, buffer.scope("silence"))
    said, unread = Transcript(len(features) * policy.places, policy.max_length, special.end, special.null, h.dtype), deque[Step]()
    words, totals, parents = xp.full(len(alive), special.start, np.int32), None, None
    for t in range(policy.max_length):
        going = np.flatnonzero(~policy.settled(said)[alive])
        if going.size == 0:
            break
        if len(going) < len(alive):
            rows = buffer.upload("going", going.astype(np.int32))
            alive, words, totals = alive[going], words[rows], None if totals is None else totals[rows]
            parents = rows if parents is None else parents[rows]
        if parents is not None:
            state = tuple(s[parents] for s in state)
        scores, state = model.advance(project(words, buffer=buffer), state, buffer)
        log_p = normalise(scores) if policy.normalised else log_softmax(scores) if scored else None
        silence(scores, t, said, alive)
        words, parents, totals = check_choice(policy, choose(scores, totals, t, alive), scores)
        if parents is not None and behind:
            raise ValueError(f"decode: {type(policy).__name__}.choose names parents, expected None; is it `rowwise`?")
        before, alive = alive, np.arange(len(said.ended)) if t == 0 and policy.places > 1 else alive
        read = {"words": words, "parents": parents, "probabilities": _of(words, log_p, parents) if scored else None}
        unread.append(Step.of(t, before, alive, read | ({"totals": totals} if policy.places > 1 else {})))
        if len(unread) > behind:
            said.write(unread.popleft())
    while unread:
        said.write(unread.popleft())
    return _best(policy, said, scored)


def check_choice(policy: Policy, choice: Choice, scores: Array) -> Choice:
    """The choice itself, once it is what a policy may choose from scores (n, V). Values are looked at on the host only: a device would have to wait.

    TypeError : no Choice, or words or parents that are not integers. ValueError : their number is wrong, or one is out of range.
    """
    where, (n, V) = f"decode: {type(policy).__name__}.choose", scores.shape
    if not isinstance(choice, Choice):
        raise TypeError(f"{where} returned a {type(choice).__name__}, expected a Choice; return Choice(words)")
    m = n if choice.parents is None else len(choice.parents)
    for name, ids, below in (("words", choice.words, V), ("parents", choice.parents, n)):
        if ids is None:
            continue
        if getattr(ids, "dtype", np.dtype(object)).kind not in "iu":
            raise TypeError(f"{where} returned {name} of {getattr(ids, 'dtype', type(ids).__name__)}, expected an array of integers")
        if ids.shape != (m,):
            raise ValueError(f"{where} returned {name} of shape {ids.shape}, expected ({m},) for {n} hypotheses")
        if isinstance(ids, np.ndarray) and not all_below(ids, below):
            raise ValueError(f"{where} returned {name} {ids.min()}..{ids.max()}, expected 0..{below - 1}")
    return choice


def _of(words: Array, log_p: Array, parents: Array | None) -> Array:
    """The probability of each word."""
    xp = get_array_module(log_p)
    return xp.exp(log_p[xp.arange(len(words)) if parents is None else parents, words])


def _best(policy: Policy, said: Transcript, scored: bool) -> Said:
    """What a policy returns of all that was said."""
    places = policy.ranked(said)
    captions, probabilities, lengths = said.captions[places], said.probabilities[places], said.lengths[places]
    if policy.places > 1:
        totals = said.totals[places]
    elif scored:
        there = np.arange(captions.shape[2]) < lengths[:, :, None]
        with np.errstate(divide="ignore"):  # a word may be less likely than the smallest number
            totals = np.log(probabilities, dtype=np.float64, where=there, out=np.zeros(there.shape)).sum(axis=2)
    else:
        totals = np.zeros(places.shape)
    return Said(captions, probabilities, totals.astype(probabilities.dtype))
