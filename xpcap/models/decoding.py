"""Greedy captions: the likeliest word at each step, many pictures at once, each caption computed no further than its end."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from xpcap.backend import Array, asarray, get_array_module, to_numpy
from xpcap.cores import cores, side_by_side, stretches
from xpcap.ops import gather, log_softmax
from xpcap.workspace import Workspace

LEAST_PART = 64  # captions that are worth a core of their own


class WordTable:
    """What words bring to a step, W_embed[word] @ Wx + b, each worked out when it is said for the first time."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self._places = np.full(len(model.word_to_idx), -1, np.int32)  # where each word stands in the table; on the host
        self._table = model.project(asarray(np.zeros(0, np.int32), like=model.params.flat))
        self._filled = 0

    def rows(self, words: np.ndarray, out: Array) -> Array:
        """The rows of words (n,), host ids, put into out (n, kH)."""
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


def greedy(
    model: Any, features: Array, start: int, end: int | None, null: int, most: int, banned: Sequence[int], scored: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Captions (N, most), int32, and the probabilities of their words, which stay 0 unless `scored`; both on the host.

    Parameters
    ----------
    model : with `start`, `project` and `advance`, as CaptioningRNN has them
    features : array (N, D), host or device
    start, end, null : ids of the words that begin, end and fill up a caption; end may be None
    most : words a caption may have, END included
    banned : ids never to say
    scored : whether probabilities are asked for

    Notes
    -----
    Words are read after each step, to see which captions have ended; the others go on as a smaller batch. On the host, parts of the pictures are
    captioned side by side on the cores.
    """
    N = len(features)
    parts = stretches(N, min(cores(), N // LEAST_PART)) if get_array_module(model.params.flat) is np else [slice(0, N)]
    found = side_by_side(lambda part: _greedy(model, features[part], start, end, null, most, banned, scored), parts)
    captions, probabilities = (np.concatenate(results) for results in zip(*found, strict=True))
    return captions, probabilities


def _greedy(
    model: Any, features: Array, start: int, end: int | None, null: int, most: int, banned: Sequence[int], scored: bool
) -> tuple[np.ndarray, np.ndarray]:
    state = model.start(features)
    xp, N, new = get_array_module(state[0]), len(features), Workspace(state[0])
    captions, probabilities = np.full((N, most), null, np.int32), np.zeros((N, most), state[0].dtype)
    silent = asarray(np.array(banned, np.int32), like=state[0])
    table, width = WordTable(model), model.params.shapes["Wx"][1]
    alive = np.arange(N)  # the captions that go on
    said = np.full(N, start, np.int32)
    for t in range(most):
        if alive.size == 0:
            break
        a = table.rows(said, out=new("a", (len(said), width)))
        scores, state = model.advance(a, state, new)
        log_p = log_softmax(scores) if scored else None
        if banned:
            scores[:, silent] = -np.inf
        words = scores.argmax(axis=1)
        captions[alive, t] = said = to_numpy(words)
        if log_p is not None:
            probabilities[alive, t] = to_numpy(xp.exp(log_p[xp.arange(len(words)), words]))
        going = np.flatnonzero(said != end)
        if len(going) < len(alive):
            rows = asarray(going.astype(np.int32), like=state[0])
            alive, said, state = alive[going], said[going], tuple(s[rows] for s in state)
    return captions, probabilities
