"""Hypotheses: their words, on the host, as they come from a policy step by step."""

from typing import NamedTuple

import numpy as np
from numpy.typing import DTypeLike

from xpcap.device.transfers import AsyncCopy


class Step(NamedTuple):
    """A policy's choice in step t, on its way to the host."""

    t: int
    before: np.ndarray  # (n,) int, slots of the hypotheses before
    after: np.ndarray  # (m,) int, slots of their continuations
    copy: AsyncCopy  # (m,) each: words, and parents, probabilities and totals or None


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
        words, parents, probabilities, totals = step.copy.wait()
        if parents is not None:
            past = step.before[parents]
            for x in (self.captions, self.probabilities):
                x[step.after] = x[past]
        going = ~self.ended[step.after]
        slots, words = step.after[going], words[going]
        self.captions[slots, step.t] = words
        if probabilities is not None:
            self.probabilities[slots, step.t] = probabilities[going]
        if totals is not None:
            self.totals[slots] = totals[going]
        self.lengths[slots] = step.t + 1
        self.ended[slots] = words == self._end
