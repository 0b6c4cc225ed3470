"""Beam search: a few hypotheses of each picture side by side, alike or in groups that are made to differ."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from xpcap.backend import Array, get_array_module
from xpcap.cores import stretches
from xpcap.errors import OptionError
from xpcap.models.policies import Choice, Chooser, Policy, Special
from xpcap.models.transcript import Transcript
from xpcap.workspace import Buffer

IN_CACHE = 64  # rows of scores that a core works on at once


@dataclass(frozen=True)
class Beam(Policy):
    """The `width` likeliest beginnings of a caption go on side by side; the caption with the best score of those that come out is returned.

    score = total log-probability / words**length_penalty, END counted in both

    In each step the continuations of all hypotheses of a picture are ranked by total log-probability, ties by the parent's rank, then by the
    word's id. The best go on, as many as have not ended: a hypothesis that says END leaves, and the beam is narrower by one. Where
    `max_length` cuts a hypothesis, it counts as it is. A picture is done early if no hypothesis in its beam can reach the `n_best`
    any more: a total only falls, so none comes above total / max_length**length_penalty. That changes no result.

    Parameters
    ----------
    width : hypotheses of a picture
    length_penalty : power of the length in the score; 0 ranks by total log-probability, which prefers short captions
    n_best : captions to return of each picture
    groups : hypotheses are dealt into so many groups of equal width; each is a beam of its own, and groups choose in turn
    diversity : in a step, what is taken off a word's log-probability, in ranking only, for each hypothesis of the groups before that has just
        said it

    Raises
    ------
    OptionError : a number is out of range, or they do not fit together.

    Notes
    -----
    Groups: Vijayakumar et al. 2018, *Diverse Beam Search*, with Hamming diversity.
    """

    max_length: int = field(default=30, kw_only=True)
    forbid: Sequence[int] = field(default=(), kw_only=True)
    least_length: int = field(default=0, kw_only=True)
    no_repeat_trigram: bool = field(default=False, kw_only=True)
    width: int = 5
    length_penalty: float = 0.7
    n_best: int = 1
    groups: int = 1
    diversity: float = 0.5

    normalised, rowwise = True, False

    def __post_init__(self) -> None:
        for name in ("width", "n_best", "groups"):
            if getattr(self, name) < 1:
                raise OptionError(f"Beam: `{name}` is {getattr(self, name)}, expected at least 1")
        for name in ("length_penalty", "diversity"):
            if not (getattr(self, name) >= 0 and np.isfinite(getattr(self, name))):
                raise OptionError(f"Beam: `{name}` is {getattr(self, name)}, expected a number, at least 0")
        if self.n_best > self.width:
            raise OptionError(f"Beam: `n_best` is {self.n_best}, expected at most {self.width}, as in `width`: no more captions come out of a beam")
        if self.width % self.groups:
            raise OptionError(f"Beam: `groups` is {self.groups}, expected a divisor of `width`, {self.width}: groups are of equal width")

    @property
    def places(self) -> int:
        return self.width

    @property
    def roots(self) -> int:
        return self.groups

    def begin(self, numbers: np.ndarray, special: Special, buffer: Buffer) -> Chooser:
        return Search(self, special.null, buffer)

    def settled(self, said: Transcript) -> np.ndarray:
        ended, totals, scores = (x.reshape(-1, self.width) for x in (said.ended, said.totals, self.scores(said)))
        finished = np.sort(np.where(ended, scores, -np.inf), axis=1)[:, -self.n_best]
        reach = np.where(ended, -np.inf, totals).max(axis=1) / self.max_length**self.length_penalty
        done = (reach < finished) | (reach == -np.inf)
        return said.ended | np.repeat(done, self.width)

    def ranked(self, said: Transcript) -> np.ndarray:
        order = np.argsort(-self.scores(said).reshape(-1, self.width), axis=1, kind="stable")[:, : self.n_best]
        return order + self.width * np.arange(len(order))[:, None]

    def scores(self, said: Transcript) -> np.ndarray:
        """The score of each hypothesis in `said`: (places,)."""
        return said.totals / np.maximum(said.lengths, 1) ** self.length_penalty


class Cells(NamedTuple):
    """Rows that choose together: those of a picture, or of a group of it. Rows are in the order of their cells, and in a cell in that of its hypotheses.

    A cell has a table of `size` rows, one for each of its hypotheses, of their best words; hypothesis j of the choice takes its j-th best entry.
    """

    cells: int
    rows: np.ndarray  # (n,) int, place of each row in the tables
    made: np.ndarray  # (m,) int, likewise of each hypothesis of the choice
    firsts: np.ndarray  # (m,) int, the first row of its cell

    @classmethod
    def of(cls, cells: np.ndarray, size: int, first_step: bool) -> "Cells":
        """From the number of the cell of each row (n,), rising. In the first step a cell has one row and makes `size`, later it makes as many."""
        changes = np.flatnonzero(np.diff(cells, prepend=-1))
        cell = np.repeat(np.arange(len(changes)), np.diff(changes, append=len(cells)))
        rows = cell * size + np.arange(len(cells)) - changes[cell]
        made = np.arange(len(cells) * size) if first_step else rows
        return cls(len(changes), rows.astype(np.int32), made.astype(np.int32), changes[made // size].astype(np.int32))


class Search:
    """The choices of a beam for the pictures of one call."""

    def __init__(self, beam: Beam, null: int, buffer: Buffer) -> None:
        self._beam, self._null, self._buffer = beam, null, buffer
        self._size = beam.width // beam.groups

    def __call__(self, scores: Array, totals: Array | None, t: int, places: np.ndarray) -> Choice:
        xp = get_array_module(scores)
        if totals is None:
            totals = xp.zeros(len(scores), scores.dtype)
        if self._beam.groups == 1:
            return self._choose(scores, totals, t, places // self._size, "")
        return self._in_turn(scores, totals, t, places)

    def _choose(self, scores: Array, totals: Array, t: int, cells: np.ndarray, name: str, true: Array | None = None) -> Choice:
        """The best continuations in each cell. Ranked by totals + scores; with `true` the totals are then made of those scores."""
        xp, size, send = get_array_module(scores), self._size, self._buffer.upload
        layout = Cells.of(cells, size, t == 0)
        rows, made, firsts = (send(f"{name}{field}", getattr(layout, field)) for field in ("rows", "made", "firsts"))
        values, words = largest(scores, size)  # (n, size)
        table = xp.full((layout.cells * size, size), -np.inf, scores.dtype)
        table[rows] = values + totals[:, None]
        best, entries = largest(table.reshape(layout.cells, size * size), size)
        best, entries = best.reshape(-1)[made], entries.reshape(-1)[made]  # (m,)
        parents = firsts + entries // size
        said = words.reshape(-1)[parents * size + entries % size]
        if true is not None:
            best = xp.where(best == -np.inf, best, totals[parents] + true.reshape(-1)[parents.astype(np.int64) * scores.shape[1] + said])
        return Choice(xp.where(best == -np.inf, self._null, said), parents, best)  # -inf: a place that no hypothesis is left for

    def _in_turn(self, scores: Array, totals: Array, t: int, places: np.ndarray) -> Choice:
        """The same for groups: each in turn, words that the groups before have just said held against it."""
        xp, beam, size = get_array_module(scores), self._beam, self._size
        V, cells = scores.shape[1], places // size
        earlier = xp.full((places[-1] // beam.width + 1) * beam.width, -1, np.int32)  # what each place has just said
        choices, order = [], []
        for g in range(beam.groups):
            chosen = np.flatnonzero(cells % beam.groups == g).astype(np.int32)
            if not chosen.size:
                continue
            rows = self._buffer.upload(f"{g}.chosen", chosen)
            own, own_totals = scores[rows], totals[rows]
            held = own.copy()
            pictures = self._buffer.upload(f"{g}.pictures", (cells[chosen] // beam.groups).astype(np.int32))
            offsets = xp.arange(len(chosen), dtype=np.int64) * V
            for j in range(g * size):
                word = earlier[pictures * beam.width + j]
                at, off = offsets + xp.maximum(word, 0), xp.where(word < 0, 0, beam.diversity).astype(scores.dtype)
                flat = held.reshape(-1)
                flat[at] = flat[at] - off
            choice = self._choose(held, own_totals, t, cells[chosen], f"{g}.", own)
            made = np.repeat(cells[chosen] * size, size) + np.tile(np.arange(size), len(chosen)) if t == 0 else places[chosen]
            earlier[self._buffer.upload(f"{g}.places", made.astype(np.int32))] = xp.where(choice.totals == -np.inf, -1, choice.words).astype(np.int32)
            choices.append(Choice(choice.words, rows[choice.parents], choice.totals))
            order.append(made)
        back = self._buffer.upload("back", np.argsort(np.concatenate(order)).astype(np.int32))
        return Choice(*(xp.concatenate(parts)[back] for parts in zip(*choices, strict=True)))


def largest(x: Array, k: int) -> tuple[Array, Array]:
    """The k largest of each row of x (n, m), falling, and their columns, each (n, k); of equals the first one first. x is as it was afterwards.

    Where fewer than k are above -inf, the rest are -inf, of any column.
    """
    xp, n = get_array_module(x), len(x)
    values, columns = xp.empty((n, k), x.dtype), xp.empty((n, k), np.int32)
    for part in stretches(n, -(-n // IN_CACHE)) if xp is np else [slice(0, n)]:
        _largest(x[part], values[part], columns[part])
    return values, columns


def _largest(x: Array, values: Array, columns: Array) -> None:
    """Each is found and then hidden behind -inf: k fast passes, where sorting would be one slow one."""
    xp, (n, m) = get_array_module(x), x.shape
    flat, offsets, hidden = x.reshape(-1), xp.arange(n, dtype=np.int64) * m, xp.full(n, -np.inf, x.dtype)
    seen = []
    for j in range(values.shape[1]):
        columns[:, j] = best = x.argmax(axis=1)
        seen.append(offsets + best)
        values[:, j] = flat[seen[-1]]
        flat[seen[-1]] = hidden
    for j in reversed(range(len(seen))):  # backwards: a column of -inf may have been found again
        flat[seen[j]] = values[:, j]


def normalise(scores: Array) -> Array:
    """log_softmax in place: scores (n, V) become log-probabilities."""
    xp, n = get_array_module(scores), len(scores)
    for part in stretches(n, -(-n // IN_CACHE)) if xp is np else [slice(0, n)]:
        some = scores[part]
        some -= some.max(axis=1, keepdims=True)
        some -= xp.log(xp.exp(some).sum(axis=1, keepdims=True))
    return scores
