"""PhotoIndex: the training photos nearest to a photo, their captions, and their words."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import NamedTuple, Self

import numpy as np

from xpcap.backend import Array, asarray, get_array_module, to_numpy
from xpcap.data.dataset import CaptionData
from xpcap.data.features import Projection, blocks, fit_projection
from xpcap.data.vocabulary import Vocabulary
from xpcap.metrics.cider import DocumentFrequencies
from xpcap.ops import topk
from xpcap.threads import blas

SIZE = 128  # numbers of a photo in the index: with more of them, neighbours are no better
AT_ONCE = 1 << 24  # similarities computed together
NEGLIGIBLE = 1e-6  # norm of a photo without a direction of its own
DUPLICATE_SIMILARITY = 0.999  # similarity from which on two photos count as one and the same
END_OF_CAPTION = (1 << 32) - 1  # stands for the end of a caption in a pair
RIDGE = 1.0  # penalty of the word predictor, for embeddings of norm 1


class Neighbours(NamedTuple):
    """The k training photos nearest to each of N photos, the nearest first."""

    photos: np.ndarray  # (N, k) int, rows of the index; -1: there are no more
    similarities: np.ndarray  # (N, k) float32, cosines; -inf where there are no more


@dataclass(frozen=True)
class PhotoIndex:
    """The photos of a train split by their features, with their captions.

    A photo's embedding is its preprocessed feature, of a grid the mean over its regions, centred,
    projected onto the principal components of the train split, and divided by its norm. Similarity
    is the cosine of two embeddings.

    Parameters
    ----------
    projection : of features (N, D), onto d components
    embeddings : (m, d) float16, of norm 1
    images : (m,) names of the photos
    counts : (m,) int, captions of each photo
    lengths : (n,) int, words of each caption, photo by photo
    words : (sum of lengths,) int, ids, without START and END; unknown ones are UNK
    ends : (e,) int, rising, the words that end a caption that was not cut
    frequencies : of the n-grams of the captions, as CIDEr counts them
    predictor : (d + 1, V) float16; the share of a photo's captions that hold each word is
        ``direction @ predictor[:-1] + predictor[-1]``, whose last row is the mean over photos
    """

    projection: Projection
    embeddings: np.ndarray
    images: Sequence[str]
    counts: np.ndarray
    lengths: np.ndarray
    words: np.ndarray
    ends: np.ndarray
    frequencies: DocumentFrequencies
    predictor: np.ndarray

    @classmethod
    def of(cls, data: CaptionData, split: str = "train") -> Self:
        """The index of a split whose features `data` preprocesses."""
        features = _Pooled(data, split)
        projection, _ = fit_projection(features, SIZE, at_most=True)
        return cls._build(data.vocabulary, projection, _Photos.of(data, split, projection))

    def extended(self, data: CaptionData, split: str = "train") -> Self:
        """The index of its own photos and those of a split, by the same projection.

        The vocabulary of `data` begins with the words of the index.
        """
        others = _Photos.of(data, split, self.projection)
        merged = _Photos(
            np.concatenate([self.embeddings, others.embeddings]),
            [*self.images, *others.images],
            np.concatenate([self.counts, others.counts]),
            np.concatenate([self.lengths, others.lengths]),
            np.concatenate([self.words, others.words]),
            np.union1d(self.ends, others.ends),
        )
        return self._build(data.vocabulary, self.projection, merged)

    @classmethod
    def _build(cls, vocabulary: Vocabulary, projection: Projection, photos: "_Photos") -> Self:
        words, lengths, counts = photos.words, photos.lengths, photos.counts
        bounds = np.append(0, np.cumsum(lengths, dtype=np.int64)).tolist()
        known = vocabulary.idx_to_word
        captions = [
            [known[i] for i in words[start:stop].tolist() if i != vocabulary.unk]
            for start, stop in pairwise(bounds)
        ]
        ends = np.append(0, np.cumsum(counts, dtype=np.int64)).tolist()
        frequencies = DocumentFrequencies.of([captions[a:b] for a, b in pairwise(ends)])
        predictor = _predictor(photos, len(vocabulary))
        return cls(projection, *photos, frequencies, predictor)

    def __len__(self) -> int:
        return len(self.embeddings)

    def embeddings_of(self, features: Array) -> Array:
        """Directions (N, d) float32 of preprocessed features (N, D) or (N, P, D)."""
        return _unit(_project(self.projection, _pooled(features)))

    def nearest(self, embeddings: Array, k: int) -> Neighbours:
        """The k nearest photos, by exact search; of equals the first of the index.

        The photo itself, at DUPLICATE_SIMILARITY or more, and photos at 0 or less are none.
        `embeddings` are (N, d) float32, of `embeddings_of`, on any device.
        """
        xp, n = get_array_module(embeddings), len(embeddings)
        values = xp.full((n, k), -np.inf, np.float32)
        rows = xp.full((n, k), -1, np.int64)
        step = max(1, AT_ONCE // max(1, n))
        for start in range(0, len(self), step):
            block = self.embeddings[start : start + step].astype(np.float32)
            with blas().turn():
                similarities = embeddings @ asarray(block, like=embeddings).T
            similar = (similarities > 0) & (similarities < DUPLICATE_SIMILARITY)
            similarities = xp.where(similar, similarities, -np.inf)
            found, columns = topk(similarities, min(k, len(block)))
            values = xp.concatenate([values, found], axis=1)
            rows = xp.concatenate([rows, columns + start], axis=1)
            values, columns = topk(values, k)
            starts = xp.arange(n, dtype=np.int64)[:, None] * rows.shape[1]
            rows = rows.reshape(-1)[starts + columns]
        photos, similarities = to_numpy(rows), to_numpy(values)
        return Neighbours(np.where(similarities > -np.inf, photos, -1), similarities)

    def captions(self, photo: int) -> list[list[int]]:
        """Captions of a photo, as ids."""
        first, end = self._firsts[photo : photo + 2].tolist()
        bounds = self._starts[first : end + 1].tolist()
        return [self.words[start:stop].tolist() for start, stop in pairwise(bounds)]

    @cached_property
    def _firsts(self) -> np.ndarray:
        """(m + 1,) the first caption of each photo."""
        return np.append(0, np.cumsum(self.counts, dtype=np.int64))

    @cached_property
    def _starts(self) -> np.ndarray:
        """(n + 1,) the first word of each caption."""
        return np.append(0, np.cumsum(self.lengths, dtype=np.int64))

    @cached_property
    def pairs(self) -> np.ndarray:
        """Pairs of words that follow each other in a caption, END_OF_CAPTION the last, rising."""
        inside = np.ones(len(self.words), bool)
        inside[self._starts[:-1][self.lengths > 0]] = False  # a first word follows none
        (second,) = np.nonzero(inside)
        last = pair(self.ends, np.full(len(self.ends), END_OF_CAPTION))
        return np.union1d(pair(self.words[second - 1], self.words[second]), last)


def pair(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Two words as one number, int64."""
    return first.astype(np.int64) << 32 | second.astype(np.int64)


class _Pooled:
    """Preprocessed features (m, D) of the captioned photos of a split, of grids the mean."""

    def __init__(self, data: CaptionData, split: str) -> None:
        self._data, self._split = data, split
        self.photos = np.unique(data.split(split).image_idxs)
        self.shape, self.dtype = (len(self.photos), data.feature_dim), np.dtype(np.float32)

    def __len__(self) -> int:
        return len(self.photos)

    def __getitem__(self, which: slice | np.ndarray) -> np.ndarray:
        return _pooled(self._data.features(self._split, self.photos[which]))


class _Photos(NamedTuple):
    """The photos of an index and their captions, as PhotoIndex has them."""

    embeddings: np.ndarray
    images: Sequence[str]
    counts: np.ndarray
    lengths: np.ndarray
    words: np.ndarray
    ends: np.ndarray

    @classmethod
    def of(cls, data: CaptionData, split: str, projection: Projection) -> Self:
        """The photos of a split that have captions."""
        features, of, vocabulary = _Pooled(data, split), data.split(split), data.vocabulary
        embeddings = [_unit(_project(projection, x)) for _, x in blocks(features)]
        _, numbers = np.unique(of.image_idxs, return_inverse=True)
        ids = of.captions[np.argsort(numbers, kind="stable")]
        inside = (ids != vocabulary.null) & (ids != vocabulary.start) & (ids != vocabulary.end)
        small = np.uint16 if len(vocabulary) < 1 << 16 else np.uint32
        lengths, words = inside.sum(axis=1), ids[inside].astype(small)
        whole = (ids[:, -1] != vocabulary.end) & (lengths > 0)
        return cls(
            np.concatenate(embeddings).astype(np.float16),
            [of.images[i] for i in features.photos.tolist()],
            np.bincount(numbers).astype(np.uint16),
            lengths.astype(np.uint16),
            words,
            np.unique(words[np.cumsum(lengths)[whole] - 1]),
        )


def _pooled(features: Array) -> Array:
    """Features (N, D) float32, of grids the mean over the regions."""
    pooled = features.mean(axis=1) if features.ndim == 3 else features
    return pooled.astype(np.float32, copy=False)


def _project(projection: Projection, pooled: Array) -> Array:
    """Projected features (N, d), of any device."""
    mean, components = (asarray(x, like=pooled) for x in projection)
    with blas().turn():
        return (pooled - mean) @ components


def _unit(x: Array) -> Array:
    """Rows divided by their norms; a row that is nearly 0 becomes 0."""
    xp = get_array_module(x)
    norm = xp.sqrt((x * x).sum(axis=1, keepdims=True))
    return xp.where(norm > NEGLIGIBLE, x / xp.maximum(norm, NEGLIGIBLE), 0).astype(np.float32)


def _predictor(photos: _Photos, V: int) -> np.ndarray:
    """The word predictor, by ridge regression of word shares on embeddings."""
    m, d = photos.embeddings.shape
    # A caption counts for a word once
    number = np.repeat(np.arange(len(photos.lengths)), photos.lengths)
    caption, word = np.divmod(np.unique(number * np.int64(V) + photos.words), V)
    photo = np.repeat(np.arange(m), photos.counts)[caption]
    weight = 1 / photos.counts[photo]
    prior = np.bincount(word, weight, V) / m
    products, squares = np.zeros((d, V)), np.zeros((d, d))
    step = max(1, AT_ONCE // V)
    for start in range(0, m, step):
        x = photos.embeddings[start : start + step].astype(np.float64)
        own = slice(*np.searchsorted(photo, [start, start + len(x)]))
        share = np.zeros((len(x), V))
        np.add.at(share, (photo[own] - start, word[own]), weight[own])
        with blas().on_one_thread():
            products += x.T @ (share - prior)
            squares += x.T @ x
    with blas().on_one_thread():
        weights = np.linalg.solve(squares + RIDGE * np.eye(d), products)
    return np.concatenate([weights, prior[None]]).astype(np.float16)
