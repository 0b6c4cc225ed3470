"""Records of captioned pictures, as they are printed, written and drawn."""

from collections.abc import Sequence
from typing import NamedTuple

from xpcap.report.explanation import Explanation


class Ranked(NamedTuple):
    """A caption of an n-best list, and its total log-probability, END included."""

    caption: str
    log_probability: float


class PictureCaption(NamedTuple):
    """A captioned picture: name, caption, word probabilities, references.

    Optionally also the n-best list, attention weights (T, P), and the reasons for its choice.
    """

    image: str
    caption: str
    probabilities: list[float]
    references: list[str]
    n_best: Sequence[Ranked] = ()
    attention: Sequence[Sequence[float]] | None = None
    words: Sequence[str] = ()  # of the caption; empty: split at white space
    explanation: Explanation | None = None


class Skipped(NamedTuple):
    """A picture that could not be captioned, and the reason."""

    image: str
    reason: str
