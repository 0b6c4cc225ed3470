"""What captions say, on the host, as it comes from the policy step by step."""

from typing import Any, NamedTuple

import numpy as np

from xpcap.models.reading import Reading


class Step(NamedTuple):
    """What a policy chose in step t, on its way to the host: words, then those of probabilities, parents and totals that `with_` names."""

    t: int
    before: np.ndarray  # (n,) int, places of the hypotheses that it chose for
    after: np.ndarray  # (m,) int, places of those that it made
    with_: tuple[str, ...]
    reading: Reading


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
        words, *more = step.reading.wait()
        found = dict(zip(step.with_, more, strict=True))
        if "parents" in found:
            past = step.before[found["parents"]]
            self.captions[step.after], self.probabilities[step.after] = self.captions[past], self.probabilities[past]
        going = ~self.ended[step.after]
        places = step.after[going]
        self.captions[places, step.t] = words[going]
        if "probabilities" in found:
            self.probabilities[places, step.t] = found["probabilities"][going]
        if "totals" in found:
            self.totals[places] = found["totals"][going]
        self.lengths[places] = step.t + 1
        self.ended[places] = words[going] == self._end
