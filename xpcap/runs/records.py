"""Records of captioned pictures, as they are printed, written and drawn."""

import reprlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from xpcap.encoders.grid import Area
from xpcap.report.markup import Embedded
from xpcap.runs.explanation import Explanation

_short = reprlib.Repr()
_short.maxlevel, _short.maxlist, _short.maxstring, _short.maxother = 1, 16, 300, 60


def _filled(record: Any) -> str:
    filled = (
        (name, value)
        for name, value in record._asdict().items()
        if value is not None and len(value)
    )
    fields = ", ".join(f"{name}={_short.repr(value)}" for name, value in filled)
    return f"{type(record).__name__}({fields})"


class Hypothesis(NamedTuple):
    """A caption of an n-best list, and its total log-probability, END included."""

    caption: str
    log_probability: float


class PictureCaption(NamedTuple):
    """A captioned picture. What was not asked for is empty or None.

    Parameters
    ----------
    image : str
        Path, URL or name.
    caption : str
    probabilities : list of float
        One a word.
    references : list of str
        Captions by people.
    n_best : sequence of Hypothesis
        Captions of a beam, the best first.
    attention : sequence of sequence of float, or None
        (T, P): of each word over P regions.
    words : sequence of str
        Words of the caption; empty: split at white space.
    explanation : Explanation or None
        Reasons for its choice.
    picture : array (h, w, 3) of uint8, Embedded or None
        What a page shows.
    area : Area or None
        What the regions of `attention` cover; None: unknown.
    note : str
        Such as "sentence BLEU-4 0.81".
    """

    image: str
    caption: str
    probabilities: list[float]
    references: list[str]
    n_best: Sequence[Hypothesis] = ()
    attention: Sequence[Sequence[float]] | None = None
    words: Sequence[str] = ()
    explanation: Explanation | None = None
    picture: np.ndarray | Embedded | None = None
    area: Area | None = None
    note: str = ""

    def __repr__(self) -> str:
        return _filled(self)

    def split(self) -> Sequence[str]:
        """The words of the caption, each with one of `probabilities`.

        Returns
        -------
        words : sequence of str
        """
        return self.words or self.caption.split()


class Skipped(NamedTuple):
    """A picture that could not be captioned.

    Parameters
    ----------
    image : str
        As of PictureCaption.
    reason : str
    """

    image: str
    reason: str

    def __repr__(self) -> str:
        return _filled(self)
