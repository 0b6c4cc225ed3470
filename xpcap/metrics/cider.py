"""CIDEr-D (Vedantam, Zitnick & Parikh 2015): a caption is good if it has the n-grams that people use for this picture, and rarely for others."""

from collections.abc import Iterable, Sequence
from hashlib import blake2b
from itertools import chain
from typing import NamedTuple

import numpy as np

from xpcap.metrics.metric import References, Words

ORDERS = 4  # n-grams of 1 to 4 words
SIGMA = 6.0  # of the penalty on a difference in length
FACTOR = np.uint64(0x9E3779B97F4A7C15)  # odd; makes one number of two


class Counts(NamedTuple):
    """How often each n-gram occurs in each sentence: one entry a pair, sorted by sentence, then by n-gram."""

    sentence: np.ndarray  # (e,) int
    gram: np.ndarray  # (e,) uint64, a hash: the chance that two of ten million n-grams share theirs is 3e-6
    order: np.ndarray  # (e,) int, 0 for single words
    times: np.ndarray  # (e,) int


class Hashes(dict[str, int]):
    """Word to 64 bits. The same in every process, as Python's own hash is not, so that sums run in the same order and give the same bits."""

    def __missing__(self, word: str) -> int:
        self[word] = number = int.from_bytes(blake2b(word.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")
        return number


class DocumentFrequencies:
    """In how many pictures each n-gram occurs.

    Parameters
    ----------
    references : for each picture its captions as lists of words
    """

    def __init__(self, references: References) -> None:
        self.pictures = len(references)
        counts = _count([caption for captions in references for caption in captions], Hashes())
        picture = _number_of_picture(references)[counts.sentence]
        _, once = np.unique(_join(counts.gram, picture), return_index=True)
        self._grams, frequencies = np.unique(counts.gram[once], return_counts=True)
        self._frequencies = np.append(frequencies, 1)  # the last for what is beyond all grams

    def idf(self, grams: np.ndarray) -> np.ndarray:
        """log(pictures / pictures with the n-gram); an n-gram of no picture counts as one of a single picture."""
        left, right = (np.searchsorted(self._grams, grams, side) for side in ("left", "right"))
        return np.log(max(self.pictures, 1)) - np.log(np.where(right > left, self._frequencies[left], 1))


class CiderD:
    """CIDEr-D of captions. References are prepared once and serve for many sets of captions, in training too.

    For each n of 1 to 4 a sentence is the vector g of its n-gram counts times idf = log(pictures / pictures whose references hold the n-gram).
    With l the length, a caption c has, averaged over the references r of its picture,

        CIDEr-D(c, r) = 10/4 sum_n  min(g(c), g(r)) . g(r) / (|g(c)| |g(r)|)  exp(-(l(c) - l(r))^2 / (2 sigma^2)),  sigma = 6

    Parameters
    ----------
    references : for each picture its captions as lists of words
    frequencies : of other pictures. Default: of these references

    Raises
    ------
    ValueError : a picture has no reference.

    Notes
    -----
    pycocoevalcap reports this formula as "CIDEr". As there, words are not stemmed, unlike in the paper, and lengths are counted in pairs of
    neighbouring words, so that an empty sentence is as long as one of a single word.
    """

    def __init__(self, references: References, frequencies: DocumentFrequencies | None = None) -> None:
        for number, captions in enumerate(references):
            if not captions:
                raise ValueError(f"CiderD: picture {number} of {len(references):,} has no reference, expected at least one")
        self.frequencies = DocumentFrequencies(references) if frequencies is None else frequencies
        self._hashes = Hashes()
        sentences = [caption for captions in references for caption in captions]
        counts = _count(sentences, self._hashes)
        values, self._norms = self._vectors(counts, len(sentences))  # (R, 4)
        self._lengths = _lengths(sentences)  # (R,)
        self._each = np.array([len(captions) for captions in references], np.int64)
        keys = _join(counts.gram, _number_of_picture(references)[counts.sentence])
        by_key = np.argsort(keys, kind="stable")
        self._keys, self._reference, self._values = keys[by_key], counts.sentence[by_key], values[by_key]

    def scores(self, hypotheses: Sequence[Words], pictures: Sequence[int] | np.ndarray | None = None) -> np.ndarray:
        """CIDEr-D of each caption, 0 to 10.

        Parameters
        ----------
        hypotheses : captions as lists of words; they may be empty
        pictures : number of the picture that each caption is of (n,), int; repeats are allowed. Default: one caption a picture, in their order

        Returns
        -------
        array (n,), float64

        Raises
        ------
        ValueError : there are not as many captions as pictures, or no picture has that number.
        """
        n = len(hypotheses)
        picture = self._check(n, pictures)
        counts = _count(hypotheses, self._hashes)
        values, norms = self._vectors(counts, n)
        keys = _join(counts.gram, picture[counts.sentence])
        first, end = (np.searchsorted(self._keys, keys, side) for side in ("left", "right"))
        mine = np.repeat(np.arange(len(keys)), end - first)  # each n-gram of a caption, once for every reference that has it too: (p,)
        theirs = np.arange(len(mine)) - np.repeat(np.cumsum(end - first) - end, end - first)  # that reference's entry
        caption, reference, order = counts.sentence[mine], self._reference[theirs], counts.order[mine]
        products = np.minimum(values[mine], self._values[theirs]) * self._values[theirs]
        cosines = products / (norms[caption, order] * self._norms[reference, order])  # summands of them
        penalty = np.exp(-((_lengths(hypotheses)[caption] - self._lengths[reference]) ** 2) / (2 * SIGMA**2))
        return 10 / ORDERS * np.bincount(caption, cosines * penalty, n) / self._each[picture]

    def _vectors(self, counts: Counts, n: int) -> tuple[np.ndarray, np.ndarray]:
        """Values of the vectors of n sentences, an entry each, and norms (n, 4); a vector of zeros has norm 1, so that it can be divided by."""
        values = counts.times * self.frequencies.idf(counts.gram)
        squares = np.bincount(counts.sentence * ORDERS + counts.order, values**2, n * ORDERS)
        return values, np.sqrt(np.where(squares > 0, squares, 1.0)).reshape(n, ORDERS)

    def _check(self, n: int, pictures: Sequence[int] | np.ndarray | None) -> np.ndarray:
        size = len(self._each)
        chosen = np.arange(size) if pictures is None else np.asarray(pictures, np.int64)
        if chosen.shape != (n,):
            raise ValueError(f"CiderD.scores: got {n:,} captions of {chosen.size:,} pictures, expected as many of one as of the other")
        if n and (chosen.min() < 0 or chosen.max() >= size):
            raise ValueError(f"CiderD.scores: `pictures` holds {chosen.min()} to {chosen.max()}, expected numbers from 0 to {size - 1}")
        return chosen


def _count(sentences: Sequence[Words], hashes: Hashes) -> Counts:
    lengths = np.fromiter(map(len, sentences), np.int64, len(sentences))
    words = np.fromiter(map(hashes.__getitem__, chain.from_iterable(sentences)), np.uint64, lengths.sum())
    sentence = np.repeat(np.arange(len(lengths)), lengths)
    left = np.repeat(np.cumsum(lengths), lengths) - np.arange(len(words))  # words from here to the end of the sentence, this one included
    start, gram = np.arange(len(words)), np.zeros(len(words), np.uint64)
    parts = []
    for order in range(ORDERS):
        start = start[left[start] > order]
        gram[start] = _join(words[start + order], gram[start])
        parts.append((sentence[start], gram[start], np.full(len(start), order)))
    return _merge(*(np.concatenate(part) for part in zip(*parts, strict=True)))


def _merge(sentence: np.ndarray, gram: np.ndarray, order: np.ndarray) -> Counts:
    """Equal pairs of sentence and n-gram as one entry with their count."""
    sort = np.lexsort((gram, sentence))
    sentence, gram, order = sentence[sort], gram[sort], order[sort]
    new = np.ones(len(gram), bool)
    new[1:] = (gram[1:] != gram[:-1]) | (sentence[1:] != sentence[:-1])
    first = np.flatnonzero(new)
    return Counts(sentence[first], gram[first], order[first], np.diff(np.append(first, len(gram))))


def _join(number: np.ndarray, other: np.ndarray) -> np.ndarray:
    """One hash of two numbers, of which the first is a hash."""
    return number + other.astype(np.uint64) * FACTOR


def _number_of_picture(references: References) -> np.ndarray:
    """For each caption the number of its picture."""
    return np.repeat(np.arange(len(references)), [len(captions) for captions in references])


def _lengths(sentences: Iterable[Words]) -> np.ndarray:
    """Pairs of neighbouring words."""
    return np.array([max(len(sentence) - 1, 0) for sentence in sentences], np.float64)
