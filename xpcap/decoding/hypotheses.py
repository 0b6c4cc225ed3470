"""Hypotheses: their words, on the host, as they come from a policy step by step."""

from collections.abc import Mapping
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import DTypeLike

from xpcap.backend import Array
from xpcap.memory import AsyncCopy


class Step(NamedTuple):
    """A policy's choice in step t, on its way to the host."""

    t: int
    before: np.ndarray  # (n,) int, slots of the hypotheses before
    after: np.ndarray  # (m,) int, slots of their continuations
    names: tuple[str, ...]  # of the arrays: words, and any of parents, probabilities and totals
    copy: AsyncCopy

    @classmethod
    def of(
        cls, t: int, before: np.ndarray, after: np.ndarray, chosen: Mapping[str, Array | None]
    ) -> Self:
        """A step whose arrays, but for None, are being read."""
        arrays = {name: array for name, array in chosen.items() if array is not None}
        return cls(t, before, after, tuple(arrays), AsyncCopy(*arrays.values()))


class Hypotheses:
    """Words of hypotheses, each in its own slot.

    Attributes
    ----------
    captions : array (slots, length), int32; NULL after END
    probabilities : array (slots, length), of the words
    lengths : array (slots,), int, words, END included
    totals : array (slots,), float64; the policy's
    ended : array (slots,), bool; true after END
    """

    def __init__(
        self, slots: int, length: int, end: int | None, null: int, dtype: DTypeLike
    ) -> None:
        self._end = end
        self.captions = np.full((slots, length), null, np.int32)
        self.probabilities = np.zeros((slots, length), dtype)
        self.lengths, self.totals = np.zeros(slots, np.int32), np.zeros(slots)
        self.ended = np.zeros(slots, bool)

    def write(self, step: Step) -> None:
        """Write down the words of a step. Hypotheses that had ended get none."""
        found = dict(zip(step.names, step.copy.wait(), strict=True))
        if "parents" in found:
            past = step.before[found["parents"]]
            self.captions[step.after] = self.captions[past]
            if "probabilities" in found:
                self.probabilities[step.after] = self.probabilities[past]
        going = ~self.ended[step.after]
        slots = step.after[going]
        self.captions[slots, step.t] = words = found["words"][going]
        if "probabilities" in found:
            self.probabilities[slots, step.t] = found["probabilities"][going]
        if "totals" in found:
            self.totals[slots] = found["totals"][going]
        self.lengths[slots] = step.t + 1
        self.ended[slots] = words == self._end
