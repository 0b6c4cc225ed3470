"""Records of captioned pictures, as they are printed, written and drawn."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from xpcap.encoders.grid import Area
from xpcap.report.explanation import Explanation
from xpcap.report.markup import Embedded


class Ranked(NamedTuple):
    """A caption of an n-best list, and its total log-probability, END included."""

    caption: str
    log_probability: float


class PictureCaption(NamedTuple):
    """A captioned picture: name, caption, word probabilities, references.

    Optionally also the n-best list, attention weights (T, P), the reasons for its choice, and what
    a page shows of it.
    """

    image: str
    caption: str
    probabilities: list[float]
    references: list[str]
    n_best: Sequence[Ranked] = ()
    attention: Sequence[Sequence[float]] | None = None
    words: Sequence[str] = ()  # of the caption; empty: split at white space
    explanation: Explanation | None = None
    # (h, w, 3) uint8, or made small for a page; None: not asked for, or not at hand
    picture: np.ndarray | Embedded | None = None
    area: Area | None = None  # that the regions of `attention` cover; None: unknown
    note: str = ""  # e.g. "sentence BLEU-4 0.81"

    def split(self) -> Sequence[str]:
        """The words of the caption, each with one of `probabilities`."""
        return self.words or self.caption.split()


class Skipped(NamedTuple):
    """A picture that could not be captioned, and the reason."""

    image: str
    reason: str


class Postponed(Skipped):
    """A picture that another try may caption: its download failed, or its folder is empty yet."""
