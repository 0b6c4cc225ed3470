"""Beam search: several hypotheses of each picture at once, in one beam or in groups that differ."""

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from itertools import accumulate, pairwise

import numpy as np

from xpcap.backend import Array, get_array_module
from xpcap.decoding.hypotheses import Hypotheses
from xpcap.decoding.policies import Choice, Policy, Special, StepFunction
from xpcap.errors import OptionError
from xpcap.memory import Workspace, view
from xpcap.ops import BeamRows, get_ops
from xpcap.options import Real, Whole, documented, option


@documented
@dataclass(frozen=True)
class Beam(Policy):
    """Beam search: the `width` likeliest beginnings of a caption go on, and the best score wins.

    score = total log-probability / words**length_penalty, END counted in both

    In each step the continuations of all hypotheses of a picture are ranked by total
    log-probability, ties by the parent's rank, then by the word's id. The best go on, as many as
    have not ended: a hypothesis leaves with END, and the beam is narrower by one. A hypothesis cut
    at `max_length` counts as it is. A picture is finished early if no hypothesis in its beam can
    reach the `n_best` any more: a total only falls, so none comes above total /
    max_length**length_penalty. That changes no result.

    Hypotheses are dealt into groups of equal width. Each is a beam of its own, and groups choose in
    turn: for ranking only, `diversity` is subtracted from a word's log-probability for each
    hypothesis of an earlier group that chose the word in this step.

    Raises
    ------
    OptionError : a number is out of range, or they do not fit together.

    Notes
    -----
    Groups: Vijayakumar et al. 2018, *Diverse Beam Search*, with Hamming diversity.
    """

    width: int = option(Whole(1), 5, "Beam search with this number of hypotheses.")
    _: KW_ONLY
    length_penalty: float = option(
        Real(0, 10),
        1.0,
        "Beam length normalisation: exponent of the word count; 0 favours short captions.",
    )
    n_best: int = option(
        Whole(1), 1, "Number of best captions of a beam to return, with log-probabilities."
    )
    groups: int = option(
        Whole(1),
        1,
        "Number of groups that a beam is divided into, to make captions differ.",
    )
    diversity: float = option(
        Real(0, 1000),
        0.5,
        "With groups: penalty for each word that an earlier group chose at the same step.",
    )

    rowwise = False

    @property
    def title(self) -> str:
        return f"{self.search_title}, length penalty {self.length_penalty:g}"

    @property
    def search_title(self) -> str:
        """The search in words, without the order of its captions."""
        if self.groups == 1:
            return f"beam of {self.width}"
        return f"beam of {self.width} in {self.groups} groups, diversity {self.diversity:g}"

    def __post_init__(self) -> None:
        super().__post_init__()
        captions = Whole(
            1, self.width, cause="no more captions come out of a beam than its `width`"
        )
        captions.check("Beam", "`n_best`", self.n_best)
        if self.groups == 1 and self.diversity != Beam.diversity:
            cause = "it makes 2 groups or more differ"
            raise OptionError("Beam", "`diversity`", "requires `groups`", cause=cause)
        if self.width % self.groups:
            expected = f"a divisor of `width`, {self.width}: groups are of equal width"
            raise OptionError("Beam", "`groups`", f"is {self.groups}", expected)

    @property
    def size(self) -> int:
        """Hypotheses of a picture in one group."""
        return self.width // self.groups

    @property
    def slots(self) -> int:
        """Hypotheses of a picture; j in group g of picture i has slot (g * N + i) * size + j."""
        return self.width

    def start(self, numbers: np.ndarray, special: Special, memory: Workspace) -> StepFunction:
        return Search(self, len(numbers), special.null, memory)

    def finished(self, hypotheses: Hypotheses) -> np.ndarray:
        by_slot = hypotheses.ended, hypotheses.totals, self._scores(hypotheses)
        ended, totals, scores = (self._by_picture(x) for x in by_slot)
        nth_best = np.sort(np.where(ended, scores, -np.inf), axis=1)[:, -self.n_best]
        reach = np.where(ended, -np.inf, totals).max(axis=1) / self.max_length**self.length_penalty
        done = (reach < nth_best) | (reach == -np.inf)
        return hypotheses.ended | np.tile(np.repeat(done, self.size), self.groups)

    def select(self, hypotheses: Hypotheses) -> np.ndarray:
        scores = self._by_picture(self._scores(hypotheses))
        order = np.argsort(-scores, axis=1, kind="stable")[:, : self.n_best]
        slots = self._by_picture(np.arange(len(hypotheses.ended)))
        return np.take_along_axis(slots, order, axis=1)

    def _scores(self, hypotheses: Hypotheses) -> np.ndarray:
        return hypotheses.totals / np.maximum(hypotheses.lengths, 1) ** self.length_penalty

    def _by_picture(self, x: np.ndarray) -> np.ndarray:
        """Values of all hypotheses, in the order of slots, as (N, width)."""
        return x.reshape(self.groups, -1, self.size).swapaxes(0, 1).reshape(-1, self.width)


class Search:
    """StepFunction of a beam for N pictures."""

    def __init__(self, beam: Beam, N: int, null: int, memory: Workspace) -> None:
        self._beam, self._N, self._null, self._memory = beam, N, null, memory

    def __call__(self, scores: Array, totals: Array | None, t: int, slots: np.ndarray) -> Choice:
        ops, xp = get_ops(scores), get_array_module(scores)
        size, groups = self._beam.size, self._beam.groups
        n, beams = len(scores), slots // size
        first_step = totals is None
        if totals is None:  # every group starts from a picture's one hypothesis
            if groups > 1:
                scores = xp.concatenate([scores] * groups)
            totals, beams = xp.zeros(n * groups, scores.dtype), np.arange(n * groups)
        rows_of_groups = self._groups(beams, first_step)
        if groups == 1:
            return Choice(*ops.beam_step(scores, scores, totals, rows_of_groups[0][1], self._null))
        choices: list[Choice] = []
        chosen: list[Array] = []  # by the groups before, (N * size,) words each; -1: none
        for group, rows in rows_of_groups:
            logits = scores[group]
            penalised = self._penalised(logits, chosen, rows)
            words, parents, new_totals = ops.beam_step(
                penalised, logits, totals[group], rows, self._null
            )
            choices.append(Choice(words, (parents + group.start) % n, new_totals))
            chosen.append(xp.full(self._N * size, -1, np.int32))
            chosen[-1][rows.next_rows] = words
        return Choice(*(xp.concatenate(parts) for parts in zip(*choices, strict=True)))

    def _groups(self, beams: np.ndarray, first_step: bool) -> list[tuple[slice, BeamRows]]:
        """Hypotheses of each group that has any left, and their rows in tables of the group.

        beams : each hypothesis' beam, group * N + picture, rising
        """
        size, N = self._beam.size, self._N
        bounds = np.searchsorted(beams, N * np.arange(self._beam.groups + 1)).tolist()
        groups = [slice(start, stop) for start, stop in pairwise(bounds) if start < stop]
        parts: list[np.ndarray] = []
        for group in groups:
            pictures = beams[group] % N
            firsts = np.searchsorted(pictures, pictures)
            next_rows = rows = pictures * size + np.arange(len(pictures)) - firsts
            if first_step:
                next_rows = (rows[:, None] + np.arange(size)).reshape(-1)
                firsts = firsts.repeat(size)
            parts += rows, next_rows, firsts
        uploaded = self._memory.send(
            "groups", np.concatenate(parts).astype(np.int32)
        )  # all at once
        starts = accumulate(map(len, parts), initial=0)
        views = [
            view(uploaded, start, part.shape) for start, part in zip(starts, parts, strict=False)
        ]
        by_group = zip(groups, views[::3], views[1::3], views[2::3], strict=True)
        return [
            (group, BeamRows(rows, next_rows, firsts, N, size))
            for group, rows, next_rows, firsts in by_group
        ]

    def _penalised(self, scores: Array, chosen: Sequence[Array], rows: BeamRows) -> Array:
        """Scores (n, V) less `diversity` per earlier group's hypothesis that chose the word."""
        if not chosen:
            return scores
        xp, (n, V), dtype = get_array_module(scores), scores.shape, scores.dtype
        penalised = scores.copy()
        flat, starts = penalised.reshape(-1), xp.arange(n, dtype=np.int64) * V
        first = rows.rows // self._beam.size * self._beam.size
        for words in chosen:
            for j in range(self._beam.size):
                word = words[first + j]
                at = starts + xp.maximum(word, 0)
                penalty = xp.where(word < 0, 0, self._beam.diversity).astype(dtype)
                flat[at] = flat[at] - penalty
        return penalised
