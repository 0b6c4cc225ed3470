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
from xpcap.decoding.logits import largest
from xpcap.metrics.cider import DocumentFrequencies
from xpcap.threads import blas

SIZE = 128  # numbers of a photo in the index: with more of them, neighbours are no better
AT_ONCE = 1 << 24  # similarities computed together
NEGLIGIBLE = 1e-6  # norm of a photo without a direction of its own
SAME = 0.999  # similarity from which on two photos count as one and the same
RIDGE = 1.0  # penalty of the word predictor, for directions of norm 1


class Neighbours(NamedTuple):
    """The k training photos nearest to each of N photos, the nearest first."""

    photos: np.ndarray  # (N, k) int, rows of the index; -1: there are no more
    similarities: np.ndarray  # (N, k) float32, cosines; -inf where there are no more


@dataclass(frozen=True)
class PhotoIndex:
    """The photos of a train split by their features, with their captions.

    A photo's direction is its preprocessed feature, of a grid the mean over its regions, centred,
    projected onto the principal components of the train split, and divided by its norm. Similarity
    is the cosine of two directions.

    Parameters
    ----------
    projection : of features (N, D), onto d components
    directions : (m, d) float16
    images : (m,) names of the photos
    counts : (m,) int, captions of each photo
    lengths : (n,) int, words of each caption, photo by photo
    words : (sum of lengths,) int, ids, without START and END; unknown ones are UNK
    frequencies : of the n-grams of the captions, as CIDEr counts them
    predictor : (d + 1, V) float16; the share of a photo's captions that hold each word is
        ``direction @ predictor[:-1] + predictor[-1]``, whose last row is the mean over photos
    """

    projection: Projection
    directions: np.ndarray
    images: Sequence[str]
    counts: np.ndarray
    lengths: np.ndarray
    words: np.ndarray
    frequencies: DocumentFrequencies
    predictor: np.ndarray

    @classmethod
    def of(cls, data: CaptionData, split: str = "train") -> Self:
        """The index of a split whose features `data` preprocesses."""
        photos, vocabulary = data.split(split), data.vocabulary
        captioned, numbers = np.unique(photos.image_idxs, return_inverse=True)
        features = _Pooled(data, split, captioned)
        d = min(SIZE, len(captioned) - 1, features.shape[1])
        projection, _ = fit_projection(features, d)
        directions = np.concatenate([_unit(projection(x)) for _, x in blocks(features)])
        order = np.argsort(numbers, kind="stable")
        ids = photos.captions[order]
        inside = (ids != vocabulary.null) & (ids != vocabulary.start) & (ids != vocabulary.end)
        small = np.uint16 if len(vocabulary) < 1 << 16 else np.uint32
        images = [photos.images[i] for i in captioned.tolist()]
        counts = np.bincount(numbers, minlength=len(captioned))
        references = data.reference_words(split)
        return cls(
            projection,
            directions.astype(np.float16),
            images,
            counts.astype(np.uint16),
            inside.sum(axis=1).astype(np.uint16),
            ids[inside].astype(small),
            DocumentFrequencies(references.values()),
            _predictor(directions, numbers[order], ids, inside, len(vocabulary)),
        )

    def __len__(self) -> int:
        return len(self.directions)

    def directions_of(self, features: Array) -> Array:
        """Directions (N, d) float32 of preprocessed features (N, D) or (N, P, D)."""
        pooled = features.mean(axis=1) if features.ndim == 3 else features
        mean, components = (asarray(x, like=features) for x in self.projection)
        with blas().turn():
            return _unit((pooled.astype(np.float32) - mean) @ components)

    def nearest(self, directions: Array, k: int) -> Neighbours:
        """The k nearest photos but the same, by exact search; of equals the first of the index.

        directions : (N, d) float32, of `directions_of`, on any device
        """
        xp, n = get_array_module(directions), len(directions)
        values = xp.full((n, k), -np.inf, np.float32)
        rows = xp.full((n, k), -1, np.int64)
        step = max(1, AT_ONCE // max(1, n))
        for start in range(0, len(self), step):
            block = self.directions[start : start + step].astype(np.float32)
            with blas().turn():
                similarities = directions @ asarray(block, like=directions).T
            similarities = xp.where(similarities < SAME, similarities, -np.inf)
            found, columns = largest(similarities, min(k, len(block)))
            values = xp.concatenate([values, found], axis=1)
            rows = xp.concatenate([rows, columns + start], axis=1)
            values, columns = largest(values, k)
            rows = xp.take_along_axis(rows, columns.astype(np.int64), axis=1)
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
        """Pairs of words that follow each other in a caption, rising; see `pair`."""
        inside = np.ones(len(self.words), bool)
        inside[self._starts[:-1][self.lengths > 0]] = False  # a first word follows none
        (second,) = np.nonzero(inside)
        return np.unique(pair(self.words[second - 1], self.words[second]))


def pair(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Two words as one number, int64."""
    return first.astype(np.int64) << 32 | second.astype(np.int64)


class _Pooled:
    """Rows of preprocessed features (m, D), of grids the mean over the regions."""

    def __init__(self, data: CaptionData, split: str, rows: np.ndarray) -> None:
        self._data, self._split, self._rows = data, split, rows
        self.shape, self.dtype = (len(rows), data.feature_shape[-1]), np.dtype(np.float32)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, which: slice | np.ndarray) -> np.ndarray:
        features = self._data.features(self._split, self._rows[which])
        pooled: np.ndarray = features.mean(axis=1) if features.ndim == 3 else features
        return pooled.astype(np.float32, copy=False)


def _unit(x: Array) -> Array:
    """Rows divided by their norms; a row that is nearly 0 becomes 0."""
    xp = get_array_module(x)
    norm = xp.sqrt((x * x).sum(axis=1, keepdims=True))
    return xp.where(norm > NEGLIGIBLE, x / xp.maximum(norm, NEGLIGIBLE), 0).astype(np.float32)


def _predictor(
    directions: np.ndarray, photos: np.ndarray, ids: np.ndarray, inside: np.ndarray, V: int
) -> np.ndarray:
    """The word predictor, by ridge regression of word shares on directions.

    Parameters
    ----------
    photos : (n,) int, photo of each caption, rising
    ids, inside : (n, T) words of each caption, and the mask of its own
    """
    m, d = directions.shape
    each = np.bincount(photos, minlength=m)
    caption, _ = np.nonzero(inside)
    # A caption counts for a word once
    caption, word = np.divmod(np.unique(caption * np.int64(V) + ids[inside]), V)
    photo, weight = photos[caption], 1 / each[photos[caption]]
    prior = np.bincount(word, weight, V) / m
    products, squares = np.zeros((d, V)), np.zeros((d, d))
    step = max(1, AT_ONCE // V)
    for start in range(0, m, step):
        x = directions[start : start + step].astype(np.float64)
        own = slice(*np.searchsorted(photo, [start, start + len(x)]))
        share = np.zeros((len(x), V))
        np.add.at(share, (photo[own] - start, word[own]), weight[own])
        with blas().on_one_thread():
            products += x.T @ (share - prior)
            squares += x.T @ x
    with blas().on_one_thread():
        weights = np.linalg.solve(squares + RIDGE * np.eye(d), products)
    return np.concatenate([weights, prior[None]]).astype(np.float16)
