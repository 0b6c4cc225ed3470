"""CIDEr (Vedantam, Zitnick & Parikh 2015): n-grams shared with references, weighted by idf.

The n-grams of many sentences are counted as numbers, so that counting them is NumPy's work.
"""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from hashlib import blake2b
from itertools import chain
from typing import NamedTuple, Self

import numpy as np

from xpcap.errors import InvalidValueError
from xpcap.metrics.metric import References, Scored, Words, averaged

ORDERS = 4  # n-grams of 1 to 4 words
FACTOR = np.uint64(0x9E3779B97F4A7C15)  # odd; makes one number of two


class Counts(NamedTuple):
    """Counts of each n-gram in each sentence, an entry a pair, sorted by sentence, then n-gram."""

    sentence: np.ndarray  # (e,) int
    # (e,) uint64, a hash: the chance that two of ten million n-grams share theirs is 3e-6
    gram: np.ndarray
    order: np.ndarray  # (e,) int, 0 for single words
    times: np.ndarray  # (e,) int


class Hashes(dict[str, int]):
    """Word to 64 bits, the same in every process, unlike Python's hash: sums have the same bits."""

    def __missing__(self, word: str) -> int:
        digest = blake2b(word.encode("utf-8", "surrogatepass"), digest_size=8).digest()
        self[word] = number = int.from_bytes(digest, "little")
        return number


def count_grams(sentences: Sequence[Words], hashes: Hashes) -> Counts:
    """Count the n-grams of sentences."""
    lengths = np.fromiter(map(len, sentences), np.int64, len(sentences))
    words = np.fromiter(
        map(hashes.__getitem__, chain.from_iterable(sentences)), np.uint64, lengths.sum()
    )
    sentence = np.repeat(np.arange(len(lengths)), lengths)
    # words from here to the end of the sentence, this one included
    left = np.repeat(np.cumsum(lengths), lengths) - np.arange(len(words))
    start, gram = np.arange(len(words)), np.zeros(len(words), np.uint64)
    parts = []
    for order in range(ORDERS):
        start = start[left[start] > order]
        gram[start] = join(words[start + order], gram[start])
        parts.append((sentence[start], gram[start], np.full(len(start), order)))
    return _merge(*(np.concatenate(part) for part in zip(*parts, strict=True)))


def _merge(sentence: np.ndarray, gram: np.ndarray, order: np.ndarray) -> Counts:
    """Merge equal pairs of sentence and n-gram into one entry with their count."""
    sort = np.lexsort((gram, sentence))
    sentence, gram, order = sentence[sort], gram[sort], order[sort]
    new = np.ones(len(gram), bool)
    new[1:] = (gram[1:] != gram[:-1]) | (sentence[1:] != sentence[:-1])
    first = np.flatnonzero(new)
    return Counts(sentence[first], gram[first], order[first], np.diff(np.append(first, len(gram))))


def join(number: np.ndarray, other: np.ndarray) -> np.ndarray:
    """One hash of two numbers, of which the first is a hash."""
    return number + other.astype(np.uint64) * FACTOR


FEW = 4  # pictures get an index of their own if they are fewer than this fraction of all, 1 / FEW
AT_ONCE = 2000  # pictures whose n-grams are counted together
SIGMA = 6.0  # of the penalty on a difference in length


class Cider:
    """CIDEr as papers report it: pycocoevalcap's number, which is CIDEr-D."""

    name = "cider"
    title = "CIDEr (CIDEr-D)"
    plain = (
        "how much it says of what people say of this picture and not of others; 0: nothing, the"
        " more the better"
    )
    protocol = (
        "pycocoevalcap's 'CIDEr', whose formula is CIDEr-D: n-grams of 1 to 4 words, clipped, sigma"
        " 6; document frequencies of these references, words as for BLEU, not stemmed"
    )

    def score(self, references: References, hypotheses: Sequence[Words]) -> Scored:
        """Corpus value ``cider``, which `ALIASES` also calls ``cider_d``."""
        return averaged(self.name, CiderD(references).scores(hypotheses))


class DocumentFrequencies:
    """Document frequencies: in how many pictures each n-gram occurs.

    Parameters
    ----------
    references : for each picture its captions as lists of words; read once, some pictures at a time
    """

    def __init__(self, references: Iterable[Sequence[Words]]) -> None:
        hashes, parts, self.pictures = Hashes(), [], 0
        for some in _batches(references, AT_ONCE):
            counts = count_grams([caption for captions in some for caption in captions], hashes)
            parts.append(_documents(counts, _number_of_picture(some)[counts.sentence]))
            self.pictures += len(some)
        self._merge(parts)

    @classmethod
    def of_counts(cls, parts: Sequence[tuple[Counts, np.ndarray]], pictures: int) -> Self:
        """Frequencies of counted n-grams; each part of the pictures with its entries' pictures."""
        frequencies = cls.__new__(cls)
        frequencies.pictures = pictures
        frequencies._merge([_documents(counts, picture) for counts, picture in parts])
        return frequencies

    @classmethod
    def of_repeated(cls, grams: np.ndarray, times: np.ndarray, pictures: int) -> Self:
        """Frequencies from `repeated`, and the number of all pictures."""
        frequencies = cls.__new__(cls)
        frequencies.pictures = pictures
        frequencies._set(grams, times)
        return frequencies

    @property
    def repeated(self) -> tuple[np.ndarray, np.ndarray]:
        """The n-grams of two pictures or more (g,) uint64, rising, and of how many (g,) uint32."""
        return self._grams, self._frequencies[:-1].astype(np.uint32)

    def _merge(self, parts: Sequence[tuple[np.ndarray, np.ndarray]]) -> None:
        """Add up n-grams and the numbers of their pictures from parts of the pictures."""
        grams = np.concatenate([grams for grams, _ in parts] or [np.zeros(0, np.uint64)])
        grams, index = np.unique(grams, return_inverse=True)
        weights = np.concatenate([times for _, times in parts]) if parts else None
        times = np.bincount(index, weights, len(grams))
        several = times > 1  # all others count as of one
        self._set(grams[several], times[several])

    def _set(self, grams: np.ndarray, times: np.ndarray) -> None:
        self._grams = grams
        self._frequencies = np.append(times, 1.0)  # the last for hashes beyond all of them

    def idf(self, grams: np.ndarray) -> np.ndarray:
        """log(pictures / pictures with the n-gram); an unseen n-gram counts as of one picture."""
        at = np.searchsorted(self._grams, grams)
        known = np.zeros(len(grams), bool)
        known[at < len(self._grams)] = True
        known[known] = self._grams[at[known]] == grams[known]
        frequencies = np.where(known, self._frequencies[at], 1)
        return np.log(max(self.pictures, 1)) - np.log(frequencies)


class Index(NamedTuple):
    """Entries of references by n-gram and picture: e of them, in the order of their key."""

    keys: np.ndarray  # (e,) uint64, of n-gram and picture
    values: np.ndarray  # (e,) in the reference's vector
    reference: np.ndarray  # (e,) int


class CiderD:
    """CIDEr-D of captions. References are prepared once and serve for many sets of captions.

    For each n of 1 to 4 a sentence is the vector g of its n-gram counts times idf = log(pictures /
    pictures whose references hold the n-gram). With l the length, a caption c has, averaged over
    the references r of its picture,

        CIDEr-D(c, r) = 10/4 sum_n  min(g(c), g(r)) . g(r) / (|g(c)| |g(r)|)
                        exp(-(l(c) - l(r))^2 / (2 sigma^2)),  sigma = 6

    Parameters
    ----------
    references : for each picture its captions as lists of words; read once, some pictures at a time
    frequencies : of other pictures. Default: of these references

    Raises
    ------
    ValueError : a picture has no reference.

    Notes
    -----
    pycocoevalcap reports this formula as "CIDEr". As there, words are not stemmed, unlike in the
    paper, and lengths are counted in pairs of neighbouring words, so that an empty sentence is as
    long as one of a single word.
    """

    def __init__(
        self,
        references: Iterable[Sequence[Words]],
        frequencies: DocumentFrequencies | None = None,
    ) -> None:
        self._hashes = Hashes()
        counted: list[tuple[Counts, np.ndarray]] = []  # n-grams of some pictures, and their picture
        each: list[int] = []
        lengths = [np.zeros(0)]
        for some in _batches(references, AT_ONCE):
            if empty := [number for number, captions in enumerate(some) if not captions]:
                raise InvalidValueError(
                    "CiderD",
                    f"picture {len(each) + empty[0]}",
                    "has no reference",
                    expected="at least one",
                )
            sentences = [caption for captions in some for caption in captions]
            counts = count_grams(sentences, self._hashes)
            counted.append((counts, len(each) + _number_of_picture(some)[counts.sentence]))
            each += map(len, some)
            lengths.append(_lengths(sentences))
        if frequencies is None:
            frequencies = DocumentFrequencies.of_counts(counted, len(each))
        self.frequencies = frequencies
        self._each = np.array(each, np.int64)
        self._lengths = np.concatenate(lengths)  # (R,)
        vectors = [
            self._vectors(counts, len(part))
            for (counts, _), part in zip(counted, lengths[1:], strict=True)
        ]
        self._norms = np.concatenate([np.zeros((0, ORDERS)), *(norms for _, norms in vectors)])
        starts = np.cumsum([len(part) for part in lengths])  # the first reference of each part
        reference = [
            start + counts.sentence for start, (counts, _) in zip(starts, counted, strict=False)
        ]
        # An entry for each n-gram of each reference, picture by picture
        self._grams = np.concatenate([np.zeros(0, np.uint64), *(part.gram for part, _ in counted)])
        self._values = np.concatenate([np.zeros(0), *(values for values, _ in vectors)])
        self._reference = np.concatenate([np.zeros(0, np.int64), *reference]).astype(np.int32)
        ends = np.cumsum(self._each)  # of references, by picture
        self._starts = np.searchsorted(self._reference, np.append(0, ends))  # of entries
        self._whole: Index | None = None  # of all pictures, once it is needed

    def scores(
        self,
        hypotheses: Sequence[Words],
        pictures: Sequence[int] | np.ndarray | None = None,
        *,
        weights: np.ndarray | None = None,
    ) -> np.ndarray:
        """CIDEr-D of each caption, 0 to 10.

        Parameters
        ----------
        hypotheses : captions as lists of words; they may be empty
        pictures : number of each caption's picture (n,), int; repeats are allowed. Default: one
            caption a picture, in their order
        weights : of all references (R,), picture by picture, for a weighted sum over the references
            of a picture. Default: their mean

        Returns
        -------
        array (n,), float64

        Raises
        ------
        ValueError : there are not as many captions as pictures, or no picture has that number.
        """
        picture = self._check(len(hypotheses), pictures)
        counts = count_grams(hypotheses, self._hashes)
        values, norms = self._vectors(counts, len(hypotheses))
        index = self._index(np.unique(picture))
        keys = join(counts.gram, picture[counts.sentence])
        first, end = (np.searchsorted(index.keys, keys, side) for side in ("left", "right"))
        # A match: an n-gram of a caption and a reference of its picture with it; p of them
        own = np.repeat(np.arange(len(keys)), end - first)  # (p,) of the caption's entries
        other = np.arange(len(own)) - np.repeat(np.cumsum(end - first) - end, end - first)
        caption, reference, order = counts.sentence[own], index.reference[other], counts.order[own]
        ours, theirs = values[own], index.values[other]
        cosines = np.minimum(ours, theirs) * theirs  # their summands
        cosines /= norms[caption, order] * self._norms[reference, order]
        gap = _lengths(hypotheses)[caption] - self._lengths[reference]
        cosines *= np.exp(-(gap**2) / (2 * SIGMA**2))  # the penalty
        if weights is not None:
            weighted = cosines * weights[reference]
            return 10 / ORDERS * np.bincount(caption, weighted, len(picture))
        return 10 / ORDERS * np.bincount(caption, cosines, len(picture)) / self._each[picture]

    def _index(self, pictures: np.ndarray) -> Index:
        """Entries of pictures (n,), which rise: of all where they are many."""
        if many := FEW * len(pictures) > len(self._each):
            if self._whole is not None:
                return self._whole
            pictures = np.arange(len(self._each))
        starts, counts = self._starts[pictures], self._starts[pictures + 1] - self._starts[pictures]
        entries = np.repeat(starts - np.cumsum(counts) + counts, counts) + np.arange(counts.sum())
        keys = join(self._grams[entries], np.repeat(pictures, counts))
        by_key = np.argsort(keys, kind="stable")
        entries = entries[by_key]
        index = Index(keys[by_key], self._values[entries], self._reference[entries])
        if many:
            self._whole = index
        return index

    def _vectors(self, counts: Counts, n: int) -> tuple[np.ndarray, np.ndarray]:
        """Values of n sentences' vectors, one an entry, and norms (n, 4), 1 for zero vectors."""
        values = counts.times * self.frequencies.idf(counts.gram)
        squares = np.bincount(counts.sentence * ORDERS + counts.order, values**2, n * ORDERS)
        return values, np.sqrt(np.where(squares > 0, squares, 1.0)).reshape(n, ORDERS)

    def _check(self, n: int, pictures: Sequence[int] | np.ndarray | None) -> np.ndarray:
        size = len(self._each)
        chosen = np.arange(size) if pictures is None else np.asarray(pictures, np.int64)
        if chosen.shape != (n,):
            raise InvalidValueError(
                "CiderD.scores",
                "",
                f"got {n:,} captions of {chosen.size:,} pictures",
                expected="as many of one as of the other",
            )
        if n and (chosen.min() < 0 or chosen.max() >= size):
            raise InvalidValueError(
                "CiderD.scores",
                "`pictures`",
                f"holds {chosen.min()} to {chosen.max()}",
                expected=f"numbers from 0 to {size - 1}",
            )
        return chosen


def _documents(counts: Counts, picture: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The distinct n-grams, and in how many pictures each occurs."""
    _, once = np.unique(join(counts.gram, picture), return_index=True)
    return np.unique(counts.gram[once], return_counts=True)


def _batches(things: Iterable[Sequence[Words]], size: int) -> Iterator[list[Sequence[Words]]]:
    rest = iter(things)
    while some := list(itertools.islice(rest, size)):
        yield some


def _number_of_picture(references: References) -> np.ndarray:
    """The number of each caption's picture."""
    return np.repeat(np.arange(len(references)), [len(captions) for captions in references])


def _lengths(sentences: Iterable[Words]) -> np.ndarray:
    """Pairs of neighbouring words."""
    return np.array([max(len(sentence) - 1, 0) for sentence in sentences], np.float64)
