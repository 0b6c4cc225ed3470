"""Beam search: a few hypotheses of each picture side by side, alike or in groups that are made to differ."""

from collections.abc import Iterator, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import NamedTuple

import numpy as np

from xpcap.backend import Array, get_array_module
from xpcap.errors import OptionError, check_number, check_whole
from xpcap.models.policies import Choice, Chooser, Policy, Special
from xpcap.models.scores import largest
from xpcap.models.transcript import Transcript
from xpcap.workspace import Buffer


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

    width: int = 5
    _: KW_ONLY
    length_penalty: float = 1.0
    n_best: int = 1
    groups: int = 1
    diversity: float = 0.5

    normalised, rowwise = True, False

    @property
    def title(self) -> str:
        groups = f" in {self.groups} groups, diversity {self.diversity:g}" if self.groups > 1 else ""
        return f"beam of {self.width}{groups}, length penalty {self.length_penalty:g}"

    def __post_init__(self) -> None:
        for name in ("width", "n_best", "groups"):
            check_whole("Beam", f"`{name}`", getattr(self, name), 1)
        check_number("Beam", "`length_penalty`", self.length_penalty, 0, 10)
        check_number("Beam", "`diversity`", self.diversity, 0, 1000)
        if self.n_best > self.width:
            raise OptionError(f"Beam: `n_best` is {self.n_best}, expected at most {self.width}, as in `width`: no more captions come out of a beam")
        if self.width % self.groups:
            raise OptionError(f"Beam: `groups` is {self.groups}, expected a divisor of `width`, {self.width}: groups are of equal width")

    @property
    def size(self) -> int:
        """Hypotheses of a picture in one group."""
        return self.width // self.groups

    @property
    def places(self) -> int:
        """Hypotheses of a picture. Hypothesis j in group g of picture i of N has the place (g * N + i) * size + j."""
        return self.width

    def begin(self, numbers: np.ndarray, special: Special, buffer: Buffer) -> Chooser:
        return Search(self, len(numbers), special.null, buffer)

    def settled(self, said: Transcript) -> np.ndarray:
        ended, totals, scores = (self._by_picture(x) for x in (said.ended, said.totals, self._scores(said)))
        found = np.sort(np.where(ended, scores, -np.inf), axis=1)[:, -self.n_best]
        reach = np.where(ended, -np.inf, totals).max(axis=1) / self.max_length**self.length_penalty
        done = (reach < found) | (reach == -np.inf)
        return said.ended | np.tile(np.repeat(done, self.size), self.groups)

    def ranked(self, said: Transcript) -> np.ndarray:
        order = np.argsort(-self._by_picture(self._scores(said)), axis=1, kind="stable")[:, : self.n_best]
        return np.take_along_axis(self._by_picture(np.arange(len(said.ended))), order, axis=1)

    def _scores(self, said: Transcript) -> np.ndarray:
        return said.totals / np.maximum(said.lengths, 1) ** self.length_penalty

    def _by_picture(self, x: np.ndarray) -> np.ndarray:
        """One value of each hypothesis, from the order of their places to (N, width)."""
        return x.reshape(self.groups, -1, self.size).swapaxes(0, 1).reshape(-1, self.width)


class Group(NamedTuple):
    """The n hypotheses of one group, and the m that it makes of them. Indices count from the first row of the group.

    Those of one picture choose together. Each has a row in a table, which has `size` rows a picture, and puts its best words there.
    """

    own: slice  # of all hypotheses
    rows: Array  # (n,) int, row of each in the table
    made: Array  # (m,) int, likewise of each one made: the j-th of a picture takes its j-th best entry
    firsts: Array  # (m,) int, the picture's first hypothesis before the choice


class Search:
    """The choices of a beam for the N pictures of one call."""

    def __init__(self, beam: Beam, N: int, null: int, buffer: Buffer) -> None:
        self._beam, self._N, self._null, self._buffer = beam, N, null, buffer

    def __call__(self, scores: Array, totals: Array | None, t: int, places: np.ndarray) -> Choice:
        xp, n, cells = get_array_module(scores), len(scores), places // self._beam.size
        if totals is None:  # the first step: a picture has one hypothesis, and every group begins with it
            copies = self._beam.groups
            scores, totals, cells = xp.concatenate([scores] * copies), xp.zeros(n * copies, scores.dtype), np.arange(n * copies)
        choices: list[Choice] = []
        said: list[Array] = []
        for group in self._groups(cells, t == 0):
            own = scores[group.own]
            words, parents, new = self._choose(self._held_off(own, said, group), own, totals[group.own], group)
            choices.append(Choice(words, (parents + group.own.start) % n, new))
            if self._beam.groups == 1:
                return choices[0]
            said.append(xp.full(self._N * self._beam.size, -1, np.int32))
            said[-1][group.made] = words
        return Choice(*(xp.concatenate(parts) for parts in zip(*choices, strict=True)))

    def _groups(self, cells: np.ndarray, first_step: bool) -> Iterator[Group]:
        """The groups with hypotheses left, from the cell of each: group * N + picture. All indices go to the device at once."""
        size, n = self._beam.size, len(cells)
        bounds = np.searchsorted(cells, self._N * np.arange(self._beam.groups + 1))
        firsts = np.searchsorted(cells, cells)
        rows = cells % self._N * size + np.arange(n) - firsts
        firsts -= bounds[cells // self._N]
        made = rows
        if first_step:
            made, firsts = (rows[:, None] + np.arange(size)).reshape(-1), firsts.repeat(size)
        each, m = len(made) // n, len(made)
        sent = self._buffer.upload("groups", np.concatenate([rows, made, firsts]).astype(np.int32))
        for start, stop in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
            if start < stop:
                new = slice(n + start * each, n + stop * each)
                yield Group(slice(start, stop), sent[start:stop], sent[new], sent[new.start + m : new.stop + m])

    def _held_off(self, scores: Array, said: Sequence[Array], group: Group) -> Array:
        """Scores (n, V) less `diversity` for each hypothesis of the groups before that has just said the word; -1 in `said` is nobody."""
        if not said:
            return scores
        xp, held = get_array_module(scores), scores.copy()
        flat, starts = held.reshape(-1), xp.arange(len(scores), dtype=np.int64) * scores.shape[1]
        first = group.rows // self._beam.size * self._beam.size
        for just in said:
            for j in range(self._beam.size):
                word = just[first + j]
                at = starts + xp.maximum(word, 0)
                flat[at] = flat[at] - xp.where(word < 0, 0, self._beam.diversity).astype(scores.dtype)
        return held

    def _choose(self, ranked: Array, scores: Array, totals: Array, group: Group) -> Choice:
        """The best continuations of each picture in a group by totals + ranked (n, V); their totals are made of `scores`."""
        xp, size = get_array_module(scores), self._beam.size
        values, words = largest(ranked, size)  # (n, size)
        table = xp.full((self._N * size, size), -np.inf, scores.dtype)
        table[group.rows] = values + totals[:, None]
        best, entries = (x.reshape(-1)[group.made] for x in largest(table.reshape(self._N, -1), size))  # (m,)
        parents = group.firsts + entries // size
        chosen = words[parents, entries % size]
        there = best > -np.inf  # else no word is left for this place
        return Choice(xp.where(there, chosen, self._null), parents, xp.where(there, totals[parents] + scores[parents, chosen], -np.inf))
