"""Decoding: turns image features into captions, word by word; a policy chooses the words."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from xpcap.backend import Array, asarray, get_array_module, to_numpy
from xpcap.cores import cores, side_by_side, stretches
from xpcap.models.reading import Reading
from xpcap.ops import gather, log_softmax
from xpcap.workspace import Buffer, Workspace

LEAST_PART = 64  # pictures, at least, for another core to pay off


class Choice(NamedTuple):
    """A policy's choice in one step, for m hypotheses."""

    words: Array  # (m,) int
    parents: Array | None = None  # (m,) int, index of the hypothesis that each one continues; None: itself
    totals: Array | None = None  # (m,) float, whatever the policy sums up along a hypothesis, such as log-probabilities


@dataclass(frozen=True)
class Policy:
    """Greedy decoding: the likeliest word at each step. For another policy, subclass and override `choose`.

    Parameters
    ----------
    max_length : most words in a caption, END included
    forbid : ids of words that are never chosen
    """

    max_length: int = 30
    forbid: Sequence[int] = ()

    @property
    def rowwise(self) -> bool:
        """Whether `choose` looks at each row by itself, and names no parents. Greedy decoding does; a policy of your own may say so.

        On a device it then also gets rows of captions that ended in the step before, and what it chooses for them is dropped.
        """
        return type(self).choose is Policy.choose

    def choose(self, scores: Array, totals: Array | None, t: int) -> Choice:
        """Choose the next words.

        Parameters
        ----------
        scores : array (n, V); log-probabilities of the next word up to a constant per row; -inf for forbidden words
        totals : the totals of the previous Choice; None in the first step
        t : number of words chosen so far
        """
        return Choice(scores.argmax(axis=1))

    def banned(self, function: str, V: int) -> list[int]:
        """The forbidden ids, sorted. ValueError : max_length is below 1, or `forbid` has an id outside 0..V-1, or all of them."""
        if self.max_length < 1:
            raise ValueError(f"{function}: max_length is {self.max_length}, expected at least 1")
        banned = sorted({int(i) for i in self.forbid})
        if banned and not (banned[0] >= 0 and banned[-1] < V and len(banned) < V):
            raise ValueError(f"{function}: forbid holds {len(banned)} ids {banned[0]}..{banned[-1]}, expected some, not all, of 0..{V - 1}")
        return banned


class Special(NamedTuple):
    """Ids of START, END and NULL; a vocabulary may lack END."""

    start: int
    end: int | None
    null: int


class WordTable:
    """A cache of `model.project`, W_embed[word] @ Wx + b, on the host: each word is projected when it first occurs."""

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


class Transcript:
    """What N captions say, on the host.

    Attributes
    ----------
    captions, probabilities : as `decode` returns them
    ended : array (N,), bool; the captions that have said END
    """

    def __init__(self, N: int, length: int, special: Special, dtype: Any) -> None:
        self._end = special.end
        self.captions, self.probabilities = np.full((N, length), special.null, np.int32), np.zeros((N, length), dtype)
        self.ended = np.zeros(N, bool)

    def write(self, t: int, alive: np.ndarray, said: Reading) -> None:
        """Write down word t, and its probability if there is one, of the captions `alive` (n,). Those that had ended say nothing more."""
        words, *p = said.wait()
        going = ~self.ended[alive]
        captions = alive[going]
        self.captions[captions, t] = words[going]
        if p:
            self.probabilities[captions, t] = p[0][going]
        self.ended[captions] = words[going] == self._end

    def go_on_from(self, alive: np.ndarray, parents: np.ndarray) -> None:
        """The captions `alive` (n,) take over what those at `parents` (n,) among them have said."""
        past = alive[parents]
        self.captions[alive], self.probabilities[alive] = self.captions[past], self.probabilities[past]


def decode(model: Any, features: Array, policy: Policy, special: Special, scored: bool, function: str = "decode") -> tuple[np.ndarray, np.ndarray]:
    """Caption N pictures. On the host, the cores caption parts of them in parallel.

    Parameters
    ----------
    model : an object with `start`, `project`, `advance`, `params` and `word_to_idx` as in CaptioningRNN
    features : array (N, D), host or device
    scored : whether to compute the probabilities of the words; else they are 0
    function : the caller's name, for messages

    Returns
    -------
    captions : array (N, max_length), int32, on the host, NULL after END
    probabilities : array (N, max_length), the model's dtype, on the host
    """
    N, banned = len(features), policy.banned(function, len(model.word_to_idx))
    parts = stretches(N, min(cores(), N // LEAST_PART)) if get_array_module(model.params.flat) is np else [slice(0, N)]
    found = side_by_side(lambda part: _decode(model, features[part], policy, special, banned, scored), parts)
    captions, probabilities = (np.concatenate(results) for results in zip(*found, strict=True))
    return captions, probabilities


def _decode(
    model: Any, features: Array, policy: Policy, special: Special, banned: Sequence[int], scored: bool
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """Caption one part. The host reads the words of each step, and captions that have ended leave the batch.

    On a device the next step is launched before the words of the last one are read, so that the device never waits for the host; captions
    leave a step later then.
    """
    state = model.start(features)
    h, alive = state[0], np.arange(len(features))  # the captions in the batch
    xp, buffer = get_array_module(h), Workspace(h).buffer
    behind = 1 if xp is not np and policy.rowwise else 0  # steps that the host reads late
    project = WordTable(model).project if xp is np else model.project
    silent, silence = asarray(np.array(banned, np.int32), like=h), xp.full(len(banned), -np.inf, h.dtype)
    words, totals = xp.full(len(alive), special.start, np.int32), None
    transcript, unread = Transcript(len(alive), policy.max_length, special, h.dtype), deque[tuple[int, np.ndarray, Reading]]()
    for t in range(policy.max_length):
        going = np.flatnonzero(~transcript.ended[alive])
        if going.size == 0:
            break
        if len(going) < len(alive):
            rows = asarray(going.astype(np.int32), like=h)
            alive, words, state = alive[going], words[rows], tuple(s[rows] for s in state)
            totals = None if totals is None else totals[rows]
        scores, state = model.advance(project(words, buffer), state, buffer)
        log_p = log_softmax(scores) if scored else None
        if banned:
            scores[:, silent] = silence
        words, parents, totals = policy.choose(scores, totals, t)
        if parents is not None:
            if behind:
                raise ValueError(f"decode: {type(policy).__name__}.choose names parents, expected None; is it `rowwise`?")
            state = tuple(s[parents] for s in state)
            transcript.go_on_from(alive, to_numpy(parents))
        p = () if log_p is None else (xp.exp(log_p[xp.arange(len(words)) if parents is None else parents, words]),)
        unread.append((t, alive, Reading(words, *p)))
        if len(unread) > behind:
            transcript.write(*unread.popleft())
    while unread:
        transcript.write(*unread.popleft())
    return transcript.captions, transcript.probabilities
