"""What captions say, on the host, as it comes from the policy step by step."""

from collections.abc import Mapping
from typing import Any, NamedTuple, Self

import numpy as np

from xpcap.backend import Array
from xpcap.memory import Reading


class Step(NamedTuple):
    """What a policy chose in step t, on its way to the host."""

    t: int
    before: np.ndarray  # (n,) int, places of the hypotheses that it chose for
    after: np.ndarray  # (m,) int, places of those that it made
    names: tuple[str, ...]  # of what is read: words, and any of parents, probabilities and totals
    reading: Reading

    @classmethod
    def of(cls, t: int, before: np.ndarray, after: np.ndarray, chosen: Mapping[str, Array | None]) -> Self:
        """Begin to read the arrays that there are."""
        there = {name: array for name, array in chosen.items() if array is not None}
        return cls(t, before, after, tuple(there), Reading(*there.values()))


class Transcript:
    """What hypotheses say, each at a place of its own.

    Attributes
    ----------
    captions : array (places, length), int32; NULL after END
    probabilities : array (places, length), of the words
    lengths : array (places,), int, words said, END included
    totals : array (places,), float64; the policy's
    ended : array (places,), bool; those that have said END
    """

    def __init__(self, places: int, length: int, end: int | None, null: int, dtype: Any) -> None:
        self._end = end
        self.captions, self.probabilities = np.full((places, length), null, np.int32), np.zeros((places, length), dtype)
        self.lengths, self.totals, self.ended = np.zeros(places, np.int32), np.zeros(places), np.zeros(places, bool)

    def write(self, step: Step) -> None:
        """Write down what was said in a step. Those that had ended say nothing more."""
        found = dict(zip(step.names, step.reading.wait(), strict=True))
        if "parents" in found:
            past = step.before[found["parents"]]
            self.captions[step.after], self.probabilities[step.after] = self.captions[past], self.probabilities[past]
        going = ~self.ended[step.after]
        places = step.after[going]
        self.captions[places, step.t] = words = found["words"][going]
        if "probabilities" in found:
            self.probabilities[places, step.t] = found["probabilities"][going]
        if "totals" in found:
            self.totals[places] = found["totals"][going]
        self.lengths[places] = step.t + 1
        self.ended[places] = words == self._end
