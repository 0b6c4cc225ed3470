"""CIDEr (Vedantam, Zitnick & Parikh 2015): n-grams shared with references, weighted by idf.

N-grams are hashed to numbers, so that NumPy can count those of many sentences at a time.
"""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from hashlib import blake2b
from itertools import chain
from typing import NamedTuple, Self

import numpy as np

from xpcap.errors import InvalidTypeError, InvalidValueError
from xpcap.metrics.metric import Words, require_words

ORDERS = 4  # n-grams of 1 to 4 words
FACTOR = np.uint64(0x9E3779B97F4A7C15)  # odd; combines two hashes


class Counts(NamedTuple):
    """Counts of n-grams in sentences: an entry per pair, sorted by sentence, then by n-gram."""

    sentence: np.ndarray  # (e,) int
    # (e,) uint64, hashes; the chance that two of ten million n-grams have the same is 3e-6
    gram: np.ndarray
    order: np.ndarray  # (e,) int, 0 for single words
    times: np.ndarray  # (e,) int


class Hashes(dict[str, int]):
    """Word to a 64-bit hash, the same in every process, so that sums have the same bits."""

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
    # words from here to the end of the sentence, including this one
    left = np.repeat(np.cumsum(lengths), lengths) - np.arange(len(words))
    start = np.arange(len(words))
    gram = np.zeros(len(words), np.uint64)
    parts = []
    for n in range(ORDERS):
        start = start[left[start] > n]
        gram[start] = join(words[start + n], gram[start])
        parts.append((sentence[start], gram[start], np.full(len(start), n)))
    sentence, gram, order = (np.concatenate(part) for part in zip(*parts, strict=True))
    sort = np.lexsort((gram, sentence))
    sentence = sentence[sort]
    gram = gram[sort]
    order = order[sort]
    new = np.ones(len(gram), bool)
    new[1:] = (gram[1:] != gram[:-1]) | (sentence[1:] != sentence[:-1])
    first = np.flatnonzero(new)
    return Counts(sentence[first], gram[first], order[first], np.diff(np.append(first, len(gram))))


def join(number: np.ndarray, other: np.ndarray) -> np.ndarray:
    """A hash of two numbers, the first of which is a hash."""
    return number + other.astype(np.uint64) * FACTOR


BATCH = 2000  # pictures whose n-grams are counted together
SIGMA = 6.0  # of the penalty on a difference in length


class Counted(NamedTuple):
    """Counts of the references of a batch of pictures."""

    counts: Counts
    each: np.ndarray  # (n,) int, number of references of each picture
    lengths: np.ndarray  # (r,) float, of the references

    @property
    def picture(self) -> np.ndarray:
        """The picture of each entry of `counts`, numbered from 0."""
        return np.repeat(np.arange(len(self.each)), self.each)[self.counts.sentence]


def count_references(references: Iterable[Sequence[Words]], hashes: Hashes) -> Iterator[Counted]:
    """Count references in batches of `BATCH` pictures; there is at least one batch."""
    remaining = iter(references)
    size = BATCH
    while size == BATCH:
        chunk = list(itertools.islice(remaining, BATCH))
        sentences = [caption for captions in chunk for caption in captions]
        require_words("a caption of the references", sentences)
        each = np.array([*map(len, chunk)], np.int64)
        size = len(chunk)
        yield Counted(count_grams(sentences, hashes), each, _lengths(sentences))


class DocumentFrequencies:
    """Document frequencies: the number of pictures whose references have each n-gram.

    grams : (g,) uint64, sorted n-grams of at least two pictures; others count as in one picture
    times : (g,) int, numbers of pictures
    pictures : number of all pictures
    """

    def __init__(self, grams: np.ndarray, times: np.ndarray, pictures: int) -> None:
        self.grams = grams
        self.times = times
        self.pictures = pictures
        # They have one more entry, for n-grams after the last
        self._grams = np.append(grams, np.uint64(0))
        self._times = np.append(times, 1.0)

    @classmethod
    def of(cls, references: Iterable[Sequence[Words]]) -> Self:
        """Frequencies in pictures' captions, which are lists of words and read once, in batches."""
        return cls.of_counts(count_references(references, Hashes()))

    @classmethod
    def of_counts(cls, parts: Iterable[Counted]) -> Self:
        """Frequencies in all pictures of the batches."""
        shared_grams = []
        pictures = 0
        for part in parts:
            _, firsts = np.unique(join(part.counts.gram, part.picture), return_index=True)
            shared_grams.append(np.unique(part.counts.gram[firsts], return_counts=True))
            pictures += len(part.each)
        all_grams, all_times = map(np.concatenate, zip(*shared_grams, strict=True))
        grams, index = np.unique(all_grams, return_inverse=True)
        times = np.bincount(index, all_times, len(grams)).astype(np.uint32)
        return cls(grams[times > 1], times[times > 1], pictures)

    def idf(self, grams: np.ndarray) -> np.ndarray:
        """log(pictures / pictures with the n-gram); an unseen n-gram counts as in one picture."""
        index = np.searchsorted(self.grams, grams)
        times = np.where(self._grams[index] == grams, self._times[index], 1)
        return np.log(max(self.pictures, 1)) - np.log(times)


class CiderD:
    """CIDEr-D of captions; references are prepared once for many sets of captions.

    For each n of 1 to 4 a sentence is the vector g of its n-gram counts times idf = log(pictures /
    pictures whose references hold the n-gram). With l the length, a caption c has, averaged over
    the references r of its picture,

        CIDEr-D(c, r) = 10/4 sum_n  min(g(c), g(r)) . g(r) / (|g(c)| |g(r)|)
                        exp(-(l(c) - l(r))^2 / (2 sigma^2)),  sigma = 6

    references : captions of each picture, as lists of words; read once, in batches
    frequencies : document frequencies. Default: those of these references
    ValueError : a picture has no reference. TypeError : a caption is text, not a list of words.

    pycocoevalcap reports this formula as "CIDEr". As there, words are not stemmed, unlike in the
    paper, and lengths are counted in pairs of neighbouring words, so that an empty sentence is as
    long as a single word.

    Examples
    --------
    >>> references = [["a red dog runs".split()], ["a cat sleeps here".split()]]
    >>> CiderD(references).scores(["a red dog runs".split(), "a cat".split()]).round(2).tolist()
    [10.0, 2.73]
    """

    def __init__(
        self,
        references: Iterable[Sequence[Words]],
        frequencies: DocumentFrequencies | None = None,
    ) -> None:
        self._hashes = Hashes()
        parts = [*count_references(references, self._hashes)]
        self._each = np.concatenate([part.each for part in parts])
        if not self._each.all():
            raise InvalidValueError(
                f"picture {int(np.argmin(self._each))} has no reference, expected at least one"
            )
        self.frequencies = frequencies or DocumentFrequencies.of_counts(parts)
        self._lengths = np.concatenate([part.lengths for part in parts])  # (R,)
        vectors = [self._vectors(part.counts, len(part.lengths)) for part in parts]
        self._norms = np.concatenate([norms for _, norms in vectors])
        # An entry for each n-gram of each reference, picture by picture
        self._grams = np.concatenate([part.counts.gram for part in parts])
        self._values = np.concatenate([values for values, _ in vectors])
        starts = np.cumsum([0, *(len(part.lengths) for part in parts)])  # of each part's references
        pairs = zip(starts, parts, strict=False)
        reference = [start + part.counts.sentence for start, part in pairs]
        self._reference = np.concatenate(reference).astype(np.int32)
        ends = np.cumsum(self._each)  # of references, by picture
        self._starts = np.searchsorted(self._reference, np.append(0, ends))  # of entries

    def scores(
        self,
        hypotheses: Sequence[Words],
        pictures: Sequence[int] | np.ndarray | None = None,
        *,
        weights: np.ndarray | None = None,
    ) -> np.ndarray:
        """CIDEr-D (n,) of captions, from 0 to 10.

        hypotheses : captions as lists of words, which may be empty
        pictures : number of each caption's picture (n,), int; may repeat. Default: one caption per
            picture, in their order
        weights : of all references (R,), picture by picture, for a weighted sum over the references
            of a picture. Default: their mean
        ValueError : captions and pictures, or weights and references, differ in number, or a
            picture does not exist. TypeError : a caption is text, not a list of words, or a number
            is no integer.
        """
        n = len(hypotheses)
        size = len(self._each)
        require_words("a caption", hypotheses)
        picture = np.arange(size) if pictures is None else np.asarray(pictures)
        if picture.shape != (n,):
            raise InvalidValueError(
                f"CiderD.scores got {n:,} captions of {picture.size:,} pictures, expected one"
                " caption per picture number"
            )
        if n and picture.dtype.kind not in "iu":
            raise InvalidTypeError(f"`pictures` has dtype {picture.dtype}, expected integers")
        if n and not 0 <= picture.min() <= picture.max() < size:
            raise InvalidValueError(
                f"`pictures` holds {picture.min()}..{picture.max()}, expected 0..{size - 1}"
            )
        picture = picture.astype(np.int64, copy=False)  # an empty list becomes floats in NumPy
        if weights is not None and weights.shape != self._lengths.shape:
            raise InvalidValueError(
                f"`weights` has shape {weights.shape}, expected one for each reference"
            )
        counts = count_grams(hypotheses, self._hashes)
        values, norms = self._vectors(counts, n)
        index, reference_values, reference = self._entries(np.unique(picture))
        keys = join(counts.gram, picture[counts.sentence])
        first, end = (np.searchsorted(index, keys, side) for side in ("left", "right"))
        # A match is an n-gram of a caption with a reference of its picture that has it; p matches
        entry = np.repeat(np.arange(len(keys)), end - first)  # (p,) entries of captions
        match = np.arange(len(entry)) - np.repeat(np.cumsum(end - first) - end, end - first)
        caption = counts.sentence[entry]
        reference = reference[match]
        order = counts.order[entry]
        ours = values[entry]
        theirs = reference_values[match]
        cosines = np.minimum(ours, theirs) * theirs  # summands of the cosines
        cosines /= norms[caption, order] * self._norms[reference, order]
        gap = _lengths(hypotheses)[caption] - self._lengths[reference]
        cosines *= np.exp(-(gap**2) / (2 * SIGMA**2))  # penalty on the length
        if weights is not None:
            weighted = cosines * weights[reference]
            return 10 / ORDERS * np.bincount(caption, weighted, n)
        return 10 / ORDERS * np.bincount(caption, cosines, n) / self._each[picture]

    def _entries(self, pictures: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Keys, values and references (e,) of the entries of sorted pictures (n,), sorted by key.

        A key combines n-gram and picture.
        """
        starts = self._starts[pictures]
        counts = self._starts[pictures + 1] - self._starts[pictures]
        entries = np.repeat(starts - np.cumsum(counts) + counts, counts) + np.arange(counts.sum())
        keys = join(self._grams[entries], np.repeat(pictures, counts))
        by_key = np.argsort(keys, kind="stable")
        entries = entries[by_key]
        return keys[by_key], self._values[entries], self._reference[entries]

    def _vectors(self, counts: Counts, n: int) -> tuple[np.ndarray, np.ndarray]:
        """Values of n sentences' vectors, one per entry, and norms (n, 4), 1 for zero vectors."""
        values = counts.times * self.frequencies.idf(counts.gram)
        squares = np.bincount(counts.sentence * ORDERS + counts.order, values**2, n * ORDERS)
        return values, np.sqrt(np.where(squares > 0, squares, 1.0)).reshape(n, ORDERS)


def _lengths(sentences: Iterable[Words]) -> np.ndarray:
    """Numbers of pairs of neighbouring words."""
    return np.array([max(len(sentence) - 1, 0) for sentence in sentences], np.float64)
