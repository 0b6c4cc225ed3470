"""Decoding: turns image features into captions, word by word; a policy chooses the words."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from xpcap.backend import Array, asarray, get_array_module, to_numpy
from xpcap.cores import cores, side_by_side, stretches
from xpcap.ops import gather, log_softmax
from xpcap.workspace import Workspace

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
    """A cache of `model.project`, W_embed[word] @ Wx + b: each word is projected when it first occurs."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self._places = np.full(len(model.word_to_idx), -1, np.int32)  # row of each word in the table, or -1; on the host
        self._table = model.project(asarray(np.zeros(0, np.int32), like=model.params.flat))
        self._filled = 0

    def rows(self, words: np.ndarray, out: Array) -> Array:
        """Write the rows of words (n,), ids on the host, to out (n, G)."""
        if (unknown := np.unique(words[self._places[words] < 0])).size:
            self._add(unknown)
        return gather(self._table, asarray(self._places[words], like=out), out)

    def _add(self, words: np.ndarray) -> None:
        xp, end = get_array_module(self._table), self._filled + len(words)
        if end > len(self._table):
            larger = xp.empty((max(end, min(2 * end, len(self._places))), self._table.shape[1]), self._table.dtype)
            larger[: self._filled] = self._table[: self._filled]
            self._table = larger
        self._table[self._filled : end] = self._model.project(asarray(words, like=self._table))
        self._places[words] = np.arange(self._filled, end, dtype=np.int32)
        self._filled = end


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
    """Caption one part. The host reads the words after each step, and captions that have ended leave the batch."""
    state = model.start(features)
    h, N = state[0], len(features)
    xp, buffer = get_array_module(h), Workspace(h).buffer
    captions, probabilities = np.full((N, policy.max_length), special.null, np.int32), np.zeros((N, policy.max_length), h.dtype)
    silent = asarray(np.array(banned, np.int32), like=h)
    table, width = WordTable(model), model.params.shapes["Wx"][1]
    alive, said = np.arange(N), np.full(N, special.start, np.int32)  # the captions that have not ended, and their last words
    totals: Array | None = None
    for t in range(policy.max_length):
        if alive.size == 0:
            break
        scores, state = model.advance(table.rows(said, out=buffer("a", (len(said), width))), state, buffer)
        log_p = log_softmax(scores) if scored else None
        if banned:
            scores[:, silent] = -np.inf
        words, parents, totals = policy.choose(scores, totals, t)
        if parents is not None:
            state, past = tuple(s[parents] for s in state), alive[to_numpy(parents)]
            captions[alive], probabilities[alive] = captions[past], probabilities[past]
        captions[alive, t] = said = to_numpy(words)
        if log_p is not None:
            probabilities[alive, t] = to_numpy(xp.exp(log_p[xp.arange(len(said)) if parents is None else parents, words]))
        going = np.flatnonzero(said != special.end)
        if len(going) < len(alive):
            rows = asarray(going.astype(np.int32), like=h)
            alive, said, state = alive[going], said[going], tuple(s[rows] for s in state)
            totals = None if totals is None else totals[rows]
    return captions, probabilities
