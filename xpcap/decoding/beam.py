"""Beam search: several hypotheses for each picture, in one beam or in groups that differ."""

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from itertools import accumulate, pairwise

import numpy as np

from xpcap.backend import Array, get_array_module
from xpcap.backend.memory import Workspace, view
from xpcap.decoding.hypotheses import Hypotheses
from xpcap.decoding.policies import Choice, Policy, Special, StepFunction
from xpcap.errors import OptionError
from xpcap.ops import BeamRows, get_ops
from xpcap.options import Real, Whole, documented, option


@documented
@dataclass(frozen=True)
class Beam(Policy):
    """Beam search: continue the `width` likeliest hypotheses, and return the best captions.

    The best have the largest log-probability / words**length_penalty; both count END.

    Each step sorts the continuations of a picture's hypotheses by log-probability, then by the order
    of their parents, then by word id, and continues the best. A hypothesis that ends with END leaves
    the beam, which is then narrower by one. At `max_length` a hypothesis is cut and counts as it is.
    A picture is finished early once no hypothesis in its beam can become one of the `n_best`: a
    log-probability only falls, so log-probability / max_length**length_penalty is its bound. That
    changes no result.

    Hypotheses are divided into groups of equal width. Each group is a beam, and the groups choose
    one after the other: when a group sorts, `diversity` is subtracted from a word's log-probability
    for each hypothesis of an earlier group that chose the word in this step.

    Raises
    ------
    OptionError : a number is out of range, or options do not fit together.

    Notes
    -----
    Groups: Vijayakumar et al. 2018, *Diverse Beam Search*, with Hamming diversity.

    Examples
    --------
    >>> import xpcap
    >>> words = {"<NULL>": 0, "<START>": 1, "<END>": 2, "a": 3, "star": 4}
    >>> model = xpcap.CaptioningRNN(words, input_dim=4, cell_type="lstm", seed=0)
    >>> model.sample(np.eye(3, 4), policy=xpcap.Beam(2, max_length=6)).shape
    (3, 6)
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
        """The search in words, without the length penalty."""
        if self.groups == 1:
            return f"beam of {self.width}"
        return f"beam of {self.width} in {self.groups} groups, diversity {self.diversity:g}"

    def __post_init__(self) -> None:
        super().__post_init__()
        captions = Whole(1, self.width, cause="a beam returns at most `width` captions")
        captions.check("`n_best`", self.n_best)
        if self.groups == 1 and self.diversity != Beam.diversity:
            raise OptionError("`diversity` requires `groups`; it makes several groups differ")
        if self.width % self.groups:
            raise OptionError(
                f"`groups` is {self.groups}, expected a divisor of `width`, {self.width}: groups"
                " are of equal width"
            )

    @property
    def size(self) -> int:
        """Number of a picture's hypotheses in one group."""
        return self.width // self.groups

    @property
    def slots(self) -> int:
        """Number of a picture's hypotheses; j in group g of picture i has slot (g * N + i) * size + j."""
        return self.width

    def start(self, numbers: np.ndarray, special: Special, memory: Workspace) -> StepFunction:
        return Search(self, len(numbers), special.null, memory)

    def finished(self, hypotheses: Hypotheses) -> np.ndarray:
        by_slot = hypotheses.ended, hypotheses.totals, self._normalised(hypotheses)
        ended, totals, normalised = (self._by_picture(x) for x in by_slot)
        nth_best = np.sort(np.where(ended, normalised, -np.inf), axis=1)[:, -self.n_best]
        bound = np.where(ended, -np.inf, totals).max(axis=1) / self.max_length**self.length_penalty
        done = (bound < nth_best) | (bound == -np.inf)
        return hypotheses.ended | np.tile(np.repeat(done, self.size), self.groups)

    def select(self, hypotheses: Hypotheses) -> np.ndarray:
        normalised = self._by_picture(self._normalised(hypotheses))
        order = np.argsort(-normalised, axis=1, kind="stable")[:, : self.n_best]
        slots = self._by_picture(np.arange(len(hypotheses.ended)))
        return np.take_along_axis(slots, order, axis=1)

    def _normalised(self, hypotheses: Hypotheses) -> np.ndarray:
        """Log-probabilities divided by words**length_penalty, by which captions are compared."""
        return hypotheses.totals / np.maximum(hypotheses.lengths, 1) ** self.length_penalty

    def _by_picture(self, x: np.ndarray) -> np.ndarray:
        """Values by slot, as (N, width)."""
        return x.reshape(self.groups, -1, self.size).swapaxes(0, 1).reshape(-1, self.width)


class Search:
    """The StepFunction of a beam, for N pictures."""

    def __init__(self, beam: Beam, N: int, null: int, memory: Workspace) -> None:
        self._beam = beam
        self._N = N
        self._null = null
        self._memory = memory

    def __call__(self, scores: Array, totals: Array | None, t: int, slots: np.ndarray) -> Choice:
        ops = get_ops(scores)
        xp = get_array_module(scores)
        size = self._beam.size
        groups = self._beam.groups
        n = len(scores)
        beams = slots // size
        first_step = totals is None
        if totals is None:  # every group starts from the picture's only hypothesis
            if groups > 1:
                scores = xp.concatenate([scores] * groups)
            totals = xp.zeros(n * groups, scores.dtype)
            beams = np.arange(n * groups)
        rows_of_groups = self._groups(beams, first_step)
        if groups == 1:
            return Choice(*ops.beam_step(scores, scores, totals, rows_of_groups[0][1], self._null))
        choices: list[Choice] = []
        chosen: list[Array] = []  # words (N * size,) of each earlier group; -1: none
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
        """For each group that has hypotheses left, these and their rows in the group's tables.

        beams : the beam of each hypothesis, group * N + picture, in ascending order
        """
        size = self._beam.size
        N = self._N
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
        )  # one upload for all groups
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
        """Scores (n, V) minus `diversity` for each hypothesis of earlier groups that chose the word."""
        if not chosen:
            return scores
        xp = get_array_module(scores)
        n, V = scores.shape
        dtype = scores.dtype
        penalised = scores.copy()
        flat = penalised.reshape(-1)
        starts = xp.arange(n, dtype=np.int64) * V
        first = rows.rows // self._beam.size * self._beam.size
        for words in chosen:
            for j in range(self._beam.size):
                word = words[first + j]
                indices = starts + xp.maximum(word, 0)
                penalty = xp.where(word < 0, 0, self._beam.diversity).astype(dtype)
                flat[indices] = flat[indices] - penalty
        return penalised
