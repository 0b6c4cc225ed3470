"""Scores of variety and of obvious faults, which need no references."""

import sys
from collections import Counter
from collections.abc import Callable, Iterable, Sequence, Set
from itertools import pairwise

from xpcap.metrics.metric import References, Scored, Words, averaged

LONGEST_STUTTER = 3  # words
UNKNOWN = "<UNK>"  # in captions without texts; it may stand for different words


def repeated(words: Words) -> str:
    """The first one to three words that stand twice in a row, with their repetition, or "".

    ``<UNK>`` does not count, since it may stand for different words.

    Examples
    --------
    >>> repeated("a man is is running".split())
    'is is'
    """
    for n in range(1, LONGEST_STUTTER + 1):
        for i in range(len(words) - 2 * n + 1):
            first = words[i : i + n]
            second = words[i + n : i + 2 * n]
            if first == second and UNKNOWN not in first:
                return " ".join(words[i : i + 2 * n])
    return ""


Bigram = tuple[str | None, str | None]  # None before the first word and after the last


def bigrams(words: Words) -> Iterable[Bigram]:
    """Pairs of neighbouring words, with None before the first and after the last word."""
    return pairwise((None, *words, None))


# In Flickr8k's 30,000 train captions, 159 words are within these limits, such as "a", "in", "with",
# "brown" and "standing"; 0 to 6 of 1,000 people's captions end in one of them. A limit of 0.01 would
# add "man" and "boy", and 20 of 1,000 captions would end in such a word. In 450 captions, 7 words are
# within the limits; with a limit of 20 occurrences there are 27, which end 16 of 1,000 captions.
FREQUENT = 50  # minimum of occurrences
SELDOM = 0.005  # maximum share of occurrences at the end of a caption


class CorpusStatistics:
    """Bigrams of captions, and the words that hardly ever end a caption.

    captions : lists of words, read once and not held in memory

    Attributes:
    bigrams : set of all bigrams, with the ends of captions
    never_last : words that hardly ever end a caption, and their numbers of occurrences, the most
        frequent first; each occurs 50 times or more, at most 0.5 % of them at the end of a caption
    """

    def __init__(self, captions: Iterable[Words]) -> None:
        self.bigrams: set[Bigram] = set()
        times: Counter[str] = Counter()
        last: Counter[str] = Counter()
        for caption in captions:
            words = [*map(sys.intern, caption)]  # bigrams share the objects of their words
            self.bigrams.update(bigrams(words))
            times.update(words)
            last.update(words[-1:])
        self.never_last = {
            word: n for word, n in times.most_common() if n >= FREQUENT and last[word] <= SELDOM * n
        }


def novel(
    train: Callable[[], Iterable[Words]], _: References, hypotheses: Sequence[Words]
) -> Scored:
    """``novel``: share of captions that `train` does not return; these are not held in memory."""
    captions = [tuple(words) for words in hypotheses]
    distinct = set(captions)
    known = {caption for caption in map(tuple, train()) if caption in distinct}
    return averaged("novel", [caption not in known for caption in captions])


def unseen_bigrams(known: Set[Bigram], _: References, hypotheses: Sequence[Words]) -> Scored:
    """``unseen_bigrams``: the share of bigrams that are not in `known`, over all captions."""
    unseen_pairs = [[pair not in known for pair in bigrams(words)] for words in hypotheses]
    shares = [sum(unseen) / len(unseen) for unseen in unseen_pairs]
    return averaged("unseen_bigrams", shares, weights=[len(unseen) for unseen in unseen_pairs])
