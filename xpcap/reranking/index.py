"""PhotoIndex: the training photos nearest to a photo, their captions, and their words."""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple, Self

import numpy as np

from xpcap.backend import Array, asarray, get_array_module, to_numpy
from xpcap.data.dataset import CaptionData, Split
from xpcap.data.features import IN_MEMORY, LazyRows, Projection, blocks, fit_projection, materialise
from xpcap.data.vocabulary import Vocabulary
from xpcap.errors import DataError
from xpcap.metrics.cider import DocumentFrequencies
from xpcap.ops import topk
from xpcap.threads import one_blas_thread

SIZE = 128  # numbers of a photo in the index: with more of them, neighbours are no better
AT_ONCE = 1 << 24  # similarities computed together
NEGLIGIBLE = 1e-6  # norm of a photo without a direction of its own
DUPLICATE_SIMILARITY = 0.999  # similarity from which on two photos count as one and the same
SMALLEST = 1e-30  # of a norm: a feature that is the mean of all has no direction
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

    vocabulary : of the captions' ids
    projection : of features (N, D), onto d components
    photos : the m photos, with embeddings (m, d) float16 as features, of norm 1, and captions in
        the order of the photos; one without END was cut
    frequencies : of the n-grams of the captions, as CIDEr counts them
    predictor : (d + 1, V) float16; the share of a photo's captions that hold each word is
        ``embedding @ predictor[:-1] + predictor[-1]``, whose last row is the mean over photos
    """

    vocabulary: Vocabulary
    projection: Projection
    photos: Split
    frequencies: DocumentFrequencies
    predictor: np.ndarray

    @classmethod
    def of(cls, data: CaptionData, split: str = "train") -> Self:
        """The index of a split whose features `data` preprocesses."""
        photos = _photos(data, split)
        projection = fit_projection(photos.features, SIZE)
        return cls._build(data.vocabulary, projection, _embedded(photos, projection))

    def extended(self, data: CaptionData, origin: str, split: str = "train") -> Self:
        """The index of its own photos and those of a split, by the same projection.

        The vocabulary of `data` begins with the words of the index, else DataError. `origin` goes
        before the names of its own photos, of which the split may have namesakes.
        """
        if data.vocabulary.idx_to_word[: len(self.vocabulary)] != self.vocabulary.idx_to_word:
            got = "does not begin with the words of the index"
            cause = "encode the data with index.vocabulary.union(data.vocabulary)"
            raise DataError("PhotoIndex.extended", "the vocabulary", got, "those first", cause)
        photos, others = self.photos, _embedded(_photos(data, split), self.projection)
        width = max(photos.captions.shape[1], others.captions.shape[1])
        captions = [
            np.pad(ids, ((0, 0), (0, width - ids.shape[1])), constant_values=self.vocabulary.null)
            for ids in (photos.captions, others.captions)
        ]
        all_photos = Split(
            np.concatenate(captions),
            np.concatenate([photos.image_idxs, others.image_idxs + len(self)]),
            np.concatenate([self.embeddings, others.features[:]]),
            [*(f"{origin}: {name}" for name in photos.images), *others.images],
        )
        return self._build(data.vocabulary, self.projection, all_photos)

    @classmethod
    def _build(cls, vocabulary: Vocabulary, projection: Projection, photos: Split) -> Self:
        words = CaptionData(vocabulary, {"photos": photos}).reference_words("photos")
        frequencies = DocumentFrequencies.of(words.values())
        return cls(vocabulary, projection, photos, frequencies, _predictor(photos, vocabulary))

    def __len__(self) -> int:
        return len(self.photos.images)

    def embeddings_of(self, features: Array) -> Array:
        """Embeddings (N, d) float32 of preprocessed features (N, D) or (N, P, D)."""
        return _unit(self.projection(_pooled(features)))

    def shares_of(self, features: Array) -> Array | float:
        """Share (N,) of the norm of centred features that their projection keeps.

        Few photos vary in few directions, of which the projection keeps all. Then embeddings of
        other photos may be equal, though their features are not: the cosine of these is that of
        the embeddings times this share. Of more photos it is taken as 1.
        """
        if not keeps_all(self.projection):
            return 1.0
        pooled = _pooled(features)
        centred = pooled - asarray(self.projection.mean, like=pooled)
        sqrt = get_array_module(centred).sqrt
        projected = self.projection(pooled)
        norms = sqrt((centred * centred).sum(axis=1))
        return sqrt((projected * projected).sum(axis=1)) / (norms + np.float32(SMALLEST))

    @one_blas_thread()
    def nearest(self, embeddings: Array, k: int, shares: Array | float = 1.0) -> Neighbours:
        """The k nearest photos, by exact search; of equals the first of the index.

        The photo itself, at DUPLICATE_SIMILARITY or more, and photos at 0 or less are none.
        `embeddings` are (N, d) float32, of `embeddings_of`, on any device; `shares` (N,) are those
        of `shares_of`.
        """
        xp, n = get_array_module(embeddings), len(embeddings)
        values = xp.full((n, k), -np.inf, np.float32)
        rows = xp.full((n, k), -1, np.int64)
        step = max(1, AT_ONCE // max(1, n))
        for start in range(0, len(self), step):
            block = self.photos.features[start : start + step].astype(np.float32)
            similarities = embeddings.dot(asarray(block, like=embeddings).T)
            cosines = (similarities.T * shares).T  # of features, where photos are few
            similar = (similarities > 0) & (cosines < DUPLICATE_SIMILARITY)
            similarities = xp.where(similar, similarities, -np.inf)
            block_values, columns = topk(similarities, min(k, len(block)))
            values = xp.concatenate([values, block_values], axis=1)
            rows = xp.concatenate([rows, columns + start], axis=1)
            values, columns = topk(values, k)
            starts = xp.arange(n, dtype=np.int64)[:, None] * rows.shape[1]
            rows = rows.reshape(-1)[starts + columns]
        photos, similarities = to_numpy(rows), to_numpy(values)
        return Neighbours(np.where(similarities > -np.inf, photos, -1), similarities)

    @property
    def embeddings(self) -> np.ndarray:
        """The embeddings (m, d), float16."""
        return self.photos.features[:]

    def captions(self, photo: int) -> list[list[int]]:
        """Captions of a photo, as ids of words."""
        rows = slice(*np.searchsorted(self.photos.image_idxs, [photo, photo + 1]))
        ids = self.photos.captions[rows]
        return [row[i].tolist() for row, i in zip(ids, self.vocabulary.is_word(ids), strict=True)]

    @cached_property
    def pairs(self) -> np.ndarray:
        """Pairs of a word and what follows it in a caption, a word or END, rising."""
        ids = self.photos.captions
        inside = self.vocabulary.is_word(ids[:, :-1]) & (ids[:, 1:] != self.vocabulary.null)
        return np.unique(pair(ids[:, :-1][inside], ids[:, 1:][inside]))


def keeps_all(projection: Projection) -> bool:
    """True if an index's projection keeps all that its photos vary in: they are few."""
    return projection.components.shape[1] < SIZE


def pair(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Two words as one number, int64."""
    return first.astype(np.int64) << 32 | second.astype(np.int64)


def _photos(data: CaptionData, name: str) -> Split:
    """The captioned photos of a split, with features (m, D), preprocessed, of grids the mean."""
    split, end = data.split(name), data.vocabulary.end
    photos, numbers = np.unique(split.image_idxs, return_inverse=True)
    order = np.argsort(numbers, kind="stable")
    captions = split.captions[order]
    captions[captions[:, -1] == end, -1] = data.vocabulary.null  # perhaps the caption was cut
    rows = np.arange(len(split.features))
    features = LazyRows(rows, photos, lambda numbers: _pooled(data.features(name, numbers)))
    small = np.prod(features.shape) * features.dtype.itemsize <= IN_MEMORY
    images = [split.images[i] for i in photos.tolist()]
    return Split(captions, numbers[order], materialise(features) if small else features, images)


def _embedded(photos: Split, projection: Projection) -> Split:
    """The photos with embeddings as features."""
    embeddings = [_unit(projection(x)).astype(np.float16) for _, x in blocks(photos.features)]
    return replace(photos, features=np.concatenate(embeddings))


def _pooled(features: Array) -> Array:
    """Features (N, D) float32, of grids the mean over the regions."""
    pooled = features.mean(axis=1) if features.ndim == 3 else features
    return pooled.astype(np.float32, copy=False)


def _unit(x: Array) -> Array:
    """Rows divided by their norms; a row that is nearly 0 becomes 0."""
    xp = get_array_module(x)
    norm = xp.sqrt((x * x).sum(axis=1, keepdims=True))
    return xp.where(norm > NEGLIGIBLE, x / xp.maximum(norm, NEGLIGIBLE), 0).astype(np.float32)


def _predictor(photos: Split, vocabulary: Vocabulary) -> np.ndarray:
    """The word predictor, by ridge regression of word shares on embeddings."""
    (m, d), V = photos.features.shape, len(vocabulary)
    is_word = vocabulary.is_word(photos.captions)
    # A caption counts for a word once
    number, _ = is_word.nonzero()
    caption, word = np.divmod(np.unique(number * np.int64(V) + photos.captions[is_word]), V)
    photo = photos.image_idxs[caption]
    weight = 1 / np.bincount(photos.image_idxs)[photo]
    prior = np.bincount(word, weight, V) / m
    products, squares = np.zeros((d, V)), np.zeros((d, d))
    step = max(1, AT_ONCE // V)
    for start in range(0, m, step):
        x = photos.features[start : start + step].astype(np.float64)
        pairs = slice(*np.searchsorted(photo, [start, start + len(x)]))
        share = np.zeros((len(x), V))
        np.add.at(share, (photo[pairs] - start, word[pairs]), weight[pairs])
        with one_blas_thread():
            products += x.T @ (share - prior)
            squares += x.T @ x
    with one_blas_thread():
        weights = np.linalg.solve(squares + RIDGE * np.eye(d), products)
    return np.concatenate([weights, prior[None]]).astype(np.float16)
