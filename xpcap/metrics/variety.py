"""Variety of captions, and faults that a reader sees at once; no score of these needs references."""

import sys
from collections import Counter
from collections.abc import Callable, Iterable, Sequence, Set
from itertools import pairwise

from xpcap.metrics.metric import References, Scored, Words, averaged

LONGEST_STUTTER = 3  # words
UNKNOWN = "<UNK>"  # in captions that are known by ids alone; two of them may be two words


def repeated(words: Words) -> str:
    """The first one to three words that stand twice in a row, both times; empty: none.

    ``<UNK>`` repeats nothing: it may be another word each time.
    """
    for n in range(1, LONGEST_STUTTER + 1):
        for i in range(len(words) - 2 * n + 1):
            first, second = words[i : i + n], words[i + n : i + 2 * n]
            if first == second and UNKNOWN not in first:
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

    captions : lists of words; read once, and never all in memory

    Its attributes:
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


def novel(
    train: Callable[[], Iterable[Words]], _: References, hypotheses: Sequence[Words]
) -> Scored:
    """``novel``: captions that are not among those that `train` returns, never all in memory."""
    captions = [tuple(words) for words in hypotheses]
    wanted = set(captions)
    known = {caption for caption in map(tuple, train()) if caption in wanted}
    return averaged("novel", [caption not in known for caption in captions])


def unseen_bigrams(known: Set[Bigram], _: References, hypotheses: Sequence[Words]) -> Scored:
    """``unseen_bigrams``: the share of bigrams that are not `known`, of all and of each caption."""
    unseen_pairs = [[pair not in known for pair in bigrams(words)] for words in hypotheses]
    shares = [sum(unseen) / len(unseen) for unseen in unseen_pairs]
    return averaged("unseen_bigrams", shares, weights=[len(unseen) for unseen in unseen_pairs])
