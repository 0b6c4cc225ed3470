"""What a metric is: a name, a protocol in words, and a score of captions against references."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

Words = Sequence[str]
References = Sequence[Sequence[Words]]  # for each picture its captions, each a list of words


class Scored(NamedTuple):
    """What a metric says of a set of captions."""

    corpus: dict[str, float]  # over all pictures; a metric may have several values, such as BLEU-1 to BLEU-4
    pictures: list[float]  # one value a picture, in the order of the references


class Metric(Protocol):
    """Scores captions against references.

    Attributes
    ----------
    name : key of its protocol and of its values a picture
    title : as tables show it
    protocol : how it is computed, in words
    known_only : references without the words that are not in the model's vocabulary; else as people wrote them
    """

    name: str
    title: str
    protocol: str
    known_only: bool

    def score(self, references: References, hypotheses: Sequence[Words]) -> Scored:
        """Score one hypothesis a picture.

        Parameters
        ----------
        references : for each picture its captions as lists of words
        hypotheses : for each picture, in the same order, one caption as a list of words; it may be empty
        """
