"""Records of captioned pictures, as they are printed, written and drawn."""

import reprlib
from collections.abc import Sequence, Sized
from dataclasses import dataclass, field
from typing import Any

from xpcap.encoders.grid import Area
from xpcap.report.markup import embed, render
from xpcap.report.text import NOTHING
from xpcap.runs.explanation import Explanation

_short = reprlib.Repr()
_short.maxlevel = 1
_short.maxlist = 16
_short.maxstring = 300
_short.maxother = 60


def _filled(record: Any) -> str:
    filled = (
        (name, value)
        for name, value in vars(record).items()
        if value is not None and not (isinstance(value, Sized) and len(value) == 0)
    )
    fields = ", ".join(f"{name}={_short.repr(value)}" for name, value in filled)
    return f"{type(record).__name__}({fields})"


@dataclass(frozen=True)
class Hypothesis:
    """A caption of an n-best list, and its total log-probability, END included."""

    caption: str
    log_probability: float


@dataclass(frozen=True)
class PictureCaption:
    """A captioned picture. Optional fields are empty or None unless requested.

    All but `picture` can be written as JSON.

    Parameters
    ----------
    image : str
        Path, URL or name.
    caption : str
    probabilities : list of float
        One per word.
    references : list of str
        Captions that people wrote.
    n_best : sequence of Hypothesis
        Captions of a beam, the best first.
    attention : sequence of sequence of float, or None
        Attention (T, P) of each word over P regions.
    words : sequence of str
        Words of the caption. Empty: `caption` is split at white space.
    explanation : Explanation or None
        Reasons for the choice of the caption.
    picture : array (h, w, 3) of uint8, Embedded or None
        Pixels that a page shows.
    area : Area or None
        Area of the picture that the regions of `attention` cover. None: unknown.
    score_text : str
        Name and value of a score that a page shows, such as "sentence BLEU-4 0.81".
    """

    image: str
    caption: str
    probabilities: list[float]
    references: list[str]
    n_best: Sequence[Hypothesis] = ()
    attention: Sequence[Sequence[float]] | None = None
    words: Sequence[str] = ()
    explanation: Explanation | None = None
    # Any, since a web service cannot describe an array's type; == of arrays is no bool
    picture: Any = field(default=None, compare=False)
    area: Area | None = None
    score_text: str = ""

    def __repr__(self) -> str:
        return _filled(self)

    def _repr_html_(self) -> str:
        """The picture, if `show` was set, and its caption, as a notebook shows them."""
        image = None if self.picture is None else embed(self.image, self.picture)
        values = {"image": image, "caption": self.caption, "name": self.image, "nothing": NOTHING}
        return render("caption.html", **values).decode()

    def split(self) -> Sequence[str]:
        """The words of the caption, each with one of `probabilities`.

        Returns
        -------
        words : sequence of str
        """
        return self.words or self.caption.split()


@dataclass(frozen=True)
class Skipped:
    """A picture that could not be captioned.

    Parameters
    ----------
    image : str
        Path, URL or name.
    reason : str
    """

    image: str
    reason: str

    def __repr__(self) -> str:
        return _filled(self)
