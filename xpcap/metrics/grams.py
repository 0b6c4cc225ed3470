"""The n-grams of many sentences as numbers, so that counting them is NumPy's work."""

from collections.abc import Sequence
from hashlib import blake2b
from itertools import chain
from typing import NamedTuple

import numpy as np

from xpcap.metrics.metric import Words

ORDERS = 4  # n-grams of 1 to 4 words
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


def count_grams(sentences: Sequence[Words], hashes: Hashes) -> Counts:
    """Count the n-grams of sentences."""
    lengths = np.fromiter(map(len, sentences), np.int64, len(sentences))
    words = np.fromiter(map(hashes.__getitem__, chain.from_iterable(sentences)), np.uint64, lengths.sum())
    sentence = np.repeat(np.arange(len(lengths)), lengths)
    left = np.repeat(np.cumsum(lengths), lengths) - np.arange(len(words))  # words from here to the end of the sentence, this one included
    start, gram = np.arange(len(words)), np.zeros(len(words), np.uint64)
    parts = []
    for order in range(ORDERS):
        start = start[left[start] > order]
        gram[start] = join(words[start + order], gram[start])
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


def join(number: np.ndarray, other: np.ndarray) -> np.ndarray:
    """One hash of two numbers, of which the first is a hash."""
    return number + other.astype(np.uint64) * FACTOR
