"""Hypotheses: their words, on the host, as they come from a policy step by step."""

import numpy as np
from numpy.typing import DTypeLike

from xpcap.device.transfers import AsyncCopy
from xpcap.errors import TrainingError


def check_first(figures: np.ndarray) -> None:
    """Raise TrainingError unless figures (n,) of the first word, such as its scores, are finite."""
    if not np.isfinite(figures).all():
        thing, got = "scores of the first word", "are not finite"
        cause = "is a parameter of the model NaN, infinite or too large? In training, try a lower"
        cause += " learning rate"
        raise TrainingError("decode", thing, got, "finite numbers", cause)


class Hypotheses:
    """Words of hypotheses, each in its own slot.

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

    def write(self, t: int, before: np.ndarray, after: np.ndarray, copy: AsyncCopy) -> None:
        """Write down the words of step t. Hypotheses that had ended get none.

        before, after : (n,) and (m,) int, slots of the hypotheses and of their continuations
        copy : of the policy's choice, (m,) each: words, and parents, probabilities and totals or
            None
        """
        words, parents, probabilities, totals = copy.wait()
        if t == 0 and probabilities is not None:
            check_first(probabilities)
        if parents is not None:
            past = before[parents]
            for x in (self.captions, self.probabilities):
                x[after] = x[past]
        going = ~self.ended[after]
        slots, words = after[going], words[going]
        self.captions[slots, t] = words
        if probabilities is not None:
            self.probabilities[slots, t] = probabilities[going]
        if totals is not None:
            self.totals[slots] = totals[going]
        self.lengths[slots] = t + 1
        self.ended[slots] = words == self._end
