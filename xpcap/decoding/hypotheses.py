"""Hypotheses: their words so far, on the host."""

import numpy as np
from numpy.typing import DTypeLike

from xpcap.backend.transfers import AsyncCopy
from xpcap.errors import TrainingError


def check_first(numbers: np.ndarray) -> None:
    """Raise TrainingError unless numbers (n,) of the first word, such as its scores, are finite."""
    if not np.isfinite(numbers).all():
        raise TrainingError(
            "scores of the first word are not finite, expected finite numbers; is a parameter of the"
            " model NaN, infinite or too large? In training, try a lower learning rate"
        )


class Hypotheses:
    """Hypotheses, each in a slot of these arrays.

    captions : array (slots, length), int32; NULL after END
    probabilities : array (slots, length), of the words
    lengths : array (slots,), int; number of words, END included
    totals : array (slots,), float64; from the policy, such as log-probabilities
    ended : array (slots,), bool; true after END
    """

    def __init__(
        self, slots: int, length: int, end: int | None, null: int, dtype: DTypeLike
    ) -> None:
        self._end = end
        self.captions = np.full((slots, length), null, np.int32)
        self.probabilities = np.zeros((slots, length), dtype)
        self.lengths = np.zeros(slots, np.int32)
        self.totals = np.zeros(slots)
        self.ended = np.zeros(slots, bool)

    def write(self, t: int, before: np.ndarray, after: np.ndarray, copy: AsyncCopy) -> None:
        """Write the words of step t, except to hypotheses that had ended.

        before, after : (n,) and (m,) int, slots of the hypotheses and of their continuations
        copy : the policy's words, parents, probabilities and totals, (m,) each; all but words may be
            None
        """
        words, parents, probabilities, totals = copy.wait()
        if t == 0 and probabilities is not None:
            check_first(probabilities)
        if parents is not None:
            continued = before[parents]
            for x in (self.captions, self.probabilities):
                x[after] = x[continued]
        going = ~self.ended[after]
        slots = after[going]
        words = words[going]
        self.captions[slots, t] = words
        if probabilities is not None:
            self.probabilities[slots, t] = probabilities[going]
        if totals is not None:
            self.totals[slots] = totals[going]
        self.lengths[slots] = t + 1
        self.ended[slots] = words == self._end
