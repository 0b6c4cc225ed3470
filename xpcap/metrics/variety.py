"""Metrics without references: variety of captions, and faults that a reader sees at once."""

import sys
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise

from xpcap.errors import InvalidValueError
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


# Faults

LONGEST_STUTTER = 3  # words
UNKNOWN = "<UNK>"  # in captions that are known by ids alone; two of them may be two words


class Repeats:
    """Share of captions that repeat one to three words at once."""

    name = "repeats"
    title = "repeats"
    plain = "share of captions that repeat one to three words at once, as in 'is is'"
    protocol = "share of captions in which one to three words stand twice in a row"

    def score(self, references: References, hypotheses: Sequence[Words]) -> Scored:
        """Corpus value ``repeats``, 0 to 1; 1 or 0 for each picture."""
        return averaged(self.name, [float(bool(repeated(words))) for words in hypotheses])


def repeated(words: Words) -> str:
    """The first one to three words that stand twice in a row, both times; empty: none.

    ``<UNK>`` repeats nothing: it may be another word each time.
    """
    for n in range(1, LONGEST_STUTTER + 1):
        for i in range(len(words) - 2 * n + 1):
            one, next_one = words[i : i + n], words[i + n : i + 2 * n]
            if one == next_one and UNKNOWN not in one:
                return " ".join(words[i : i + 2 * n])
    return ""


Bigram = tuple[str | None, str | None]  # None before the first word and after the last


def bigrams(words: Words) -> Iterable[Bigram]:
    """Pairs of neighbouring words, and of the first and the last word with the caption's ends."""
    return pairwise((None, *words, None))


# Of Flickr8k's 30,000 train captions these limits leave 159 words, "a", "in", "with", "brown" and
# "standing" among them; 0 to 6 of 1,000 people's captions end in one. One end in 100 would bring in
# "man" and "boy", and 20 of 1,000 captions. Of 450 captions 7 words are left; the 27 of at least 20
# occurrences would be wrong of 16 in 1,000.
FREQUENT = 50  # occurrences
SELDOM = 0.005  # of the occurrences


class CorpusStatistics:
    """Statistics of words in captions: their bigrams, and the words that hardly ever end one.

    Parameters
    ----------
    captions : lists of words; read once, and never all in memory

    Attributes
    ----------
    bigrams : set of all bigrams, with the ends of captions
    never_last : words of 50 occurrences or more of which at most 1 in 200 ends a caption, with
        their occurrences, by falling frequency; empty if there are too few captions to tell
    """

    def __init__(self, captions: Iterable[Words]) -> None:
        self.bigrams: set[Bigram] = set()
        times: Counter[str] = Counter()
        last: Counter[str] = Counter()
        for caption in captions:
            words = [*map(sys.intern, caption)]  # a word of many bigrams is one object
            self.bigrams.update(bigrams(words))
            times.update(words)
            last.update(words[-1:])
        self.never_last = {
            word: n for word, n in times.most_common() if n >= FREQUENT and last[word] <= SELDOM * n
        }


Usage = CorpusStatistics  # its former name


class UnseenBigrams:
    """Share of bigrams that no train caption holds, the ends of captions included."""

    name = "unseen_bigrams"
    title = "unseen bigrams"
    plain = "share of pairs of neighbouring words that nobody wrote of a picture it learnt from"
    protocol = (
        "share of the pairs of neighbouring words, start and end of a caption counted as words,"
        " that are in no caption of the train split; over all captions"
    )

    def __init__(self, train: CorpusStatistics) -> None:
        self._known = train.bigrams

    def score(self, references: References, hypotheses: Sequence[Words]) -> Scored:
        """Corpus value ``unseen_bigrams``, 0 to 1; for each picture the share of its caption."""
        shares, sizes = [], []
        for words in hypotheses:
            found = [pair not in self._known for pair in bigrams(words)]
            shares.append(sum(found) / len(found))
            sizes.append(len(found))
        return averaged(self.name, shares, weights=sizes)


class BadEndings:
    """Share of captions that break off: the last word hardly ever ends a train caption.

    The words are learnt from the captions, in any language: "a", "in", "with", "standing", "und".

    Raises
    ------
    ValueError : there are no such words, as too few captions are known.
    """

    name = "bad_endings"
    title = "bad endings"
    plain = "share of captions that break off, as in 'a dog runs on a'"

    def __init__(self, train: CorpusStatistics) -> None:
        if not train.never_last:
            raise InvalidValueError(
                "BadEndings",
                "no word",
                f"occurs {FREQUENT} times in the train captions and hardly ever ends one",
                expected="some",
                cause="too few captions, or captions of few words?",
            )
        self.words = train.never_last
        self.protocol = (
            "share of captions whose last word hardly ever ends a train caption: it occurs in them"
            f" {FREQUENT} times or more, at the end in at most {SELDOM:.1%} of these;"
            f" {len(self.words)} words, such as {', '.join([*self.words][:5])}"
        )

    def score(self, references: References, hypotheses: Sequence[Words]) -> Scored:
        """Corpus value ``bad_endings``, 0 to 1; 1 or 0 for each picture."""
        ends = [bool(words) and words[-1] in self.words for words in hypotheses]
        return averaged(self.name, [float(end) for end in ends])


WITHOUT_REFERENCES = (Distinct, WordsUsed, Length, Repeats, Novel, UnseenBigrams, BadEndings)
