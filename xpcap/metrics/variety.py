"""Variety of captions, without references: distinct and novel captions, words used, length."""

from collections.abc import Callable, Iterable, Sequence

from xpcap.metrics.metric import References, Scored, Words, averaged


class Distinct:
    """Share of distinct captions. No interval: resamples repeat pictures, and so captions."""

    name = "distinct"
    title = "distinct captions"
    plain = "captions that differ from one another, as a share of the pictures"
    protocol = "number of different captions divided by the number of pictures"

    def score(self, references: References, hypotheses: Sequence[Words]) -> Scored:
        """Corpus value ``distinct``, 0 to 1."""
        distinct = {tuple(words) for words in hypotheses}
        return Scored({self.name: len(distinct) / max(len(hypotheses), 1)}, [])


class Novel:
    """Share of captions that are no caption of the train split.

    Parameters
    ----------
    train : returns an iterable of the split's captions as lists of words; they are never all in
        memory
    """

    name = "novel"
    title = "novel captions"
    plain = "share of captions that nobody wrote of a picture it learnt from"
    protocol = (
        "share of captions that are, word for word, no caption of the train split as the data file"
        " encodes it"
    )

    def __init__(self, train: Callable[[], Iterable[Words]]) -> None:
        self._train = train

    def score(self, references: References, hypotheses: Sequence[Words]) -> Scored:
        """Corpus value ``novel``, 0 to 1; 1 or 0 for each picture."""
        captions = [tuple(words) for words in hypotheses]
        wanted = set(captions)
        known = {caption for caption in map(tuple, self._train()) if caption in wanted}
        return averaged(self.name, [float(caption not in known) for caption in captions])


class WordsUsed:
    """Number of different words in all captions. No interval, as with `Distinct`."""

    name = "words"
    title = "words used"
    plain = "different words in all captions"
    protocol = "number of different words in all captions"

    def score(self, references: References, hypotheses: Sequence[Words]) -> Scored:
        """Corpus value ``words``, a whole number."""
        return Scored({self.name: len({word for words in hypotheses for word in words})}, [])


class Length:
    """Words in a caption."""

    name = "length"
    title = "length"
    plain = "words in a caption"
    protocol = "words in a caption, mean over pictures"

    def score(self, references: References, hypotheses: Sequence[Words]) -> Scored:
        """Corpus value ``length``."""
        return averaged(self.name, [float(len(words)) for words in hypotheses])
