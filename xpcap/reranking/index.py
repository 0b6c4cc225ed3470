"""PhotoIndex: finds the training photos most similar to a photo, with their captions and words."""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple, Self

import numpy as np

from xpcap.backend import Array, asarray, get_array_module, to_numpy
from xpcap.backend.threads import one_blas_thread
from xpcap.data.dataset import CaptionData, Split
from xpcap.data.features import IN_MEMORY, LazyRows, Projection, blocks, fit_projection, materialise
from xpcap.data.vocabulary import Vocabulary
from xpcap.errors import DataError
from xpcap.metrics.cider import DocumentFrequencies
from xpcap.ops import topk

SIZE = 128  # of an embedding; larger ones do not improve neighbours
BLOCK_SIZE = 1 << 24  # similarities that are computed together
NEGLIGIBLE = 1e-6  # norm below which an embedding is 0
DUPLICATE_SIMILARITY = 0.999  # photos that are at least so similar count as the same photo
SMALLEST = 1e-30  # added to norms: a feature that equals the mean has norm 0
RIDGE = 1.0  # penalty of the word predictor, for embeddings of norm 1


class Neighbours(NamedTuple):
    """The k training photos most similar to each of N photos, the most similar first."""

    photos: np.ndarray  # (N, k) int, rows of the index; -1 if there are fewer
    similarities: np.ndarray  # (N, k) float32, cosines; -inf if there are fewer


@dataclass(frozen=True)
class PhotoIndex:
    """The photos of a train split with their captions, indexed by their features.

    The embedding of a photo is its preprocessed feature, or the mean over the regions of a grid,
    centred, projected onto the principal components of the train split, and divided by its norm.
    The similarity of two photos is the cosine of their embeddings.

    vocabulary : of the captions' ids
    projection : of features (N, D), onto d components
    photos : the m photos, with embeddings (m, d) float16 of norm 1 as features, and captions in the
        order of the photos; a caption without END was cut
    frequencies : document frequencies of the captions' n-grams, as in CIDEr
    predictor : (d + 1, V) float16; predicts the share of a photo's captions with each word as
        ``embedding @ predictor[:-1] + predictor[-1]``; the last row is the mean over photos
    """

    vocabulary: Vocabulary
    projection: Projection
    photos: Split
    frequencies: DocumentFrequencies
    predictor: np.ndarray

    @classmethod
    def of(cls, data: CaptionData, split: str = "train") -> Self:
        """Index a split of `data`, which preprocesses the features."""
        photos = _photos(data, split)
        projection = fit_projection(photos.features, SIZE)
        return cls._build(data.vocabulary, projection, _embedded(photos, projection))

    def extended(self, data: CaptionData, origin: str, split: str = "train") -> Self:
        """An index that also has the photos of a split, with the same projection.

        `origin` is put before the names of the present photos, since the split may have photos of
        the same name. DataError : the vocabulary of `data` does not begin with the index's words.
        """
        if data.vocabulary.idx_to_word[: len(self.vocabulary)] != self.vocabulary.idx_to_word:
            raise DataError(
                "the vocabulary does not begin with the words of the index, expected these first;"
                " encode the data with index.vocabulary.union(data.vocabulary)"
            )
        photos = self.photos
        others = _embedded(_photos(data, split), self.projection)
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

        If the index has few photos, the projection keeps all their directions, but other photos
        with different features may have equal embeddings. The cosine of the features is then that
        of the embeddings times this share. With more photos the share is taken as 1.
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
        """The k most similar photos, by exact search; among equals, the first of the index.

        Photos with a similarity of DUPLICATE_SIMILARITY or more, or of 0 or less, are left out.
        `embeddings` (N, d), float32, on any device, are from `embeddings_of`, and `shares` (N,)
        from `shares_of`.
        """
        xp = get_array_module(embeddings)
        n = len(embeddings)
        values = xp.full((n, k), -np.inf, np.float32)
        rows = xp.full((n, k), -1, np.int64)
        step = max(1, BLOCK_SIZE // max(1, n))
        for start in range(0, len(self), step):
            block = self.photos.features[start : start + step].astype(np.float32)
            similarities = embeddings.dot(asarray(block, like=embeddings).T)
            cosines = (similarities.T * shares).T  # of features, if the index has few photos
            similar = (similarities > 0) & (cosines < DUPLICATE_SIMILARITY)
            similarities = xp.where(similar, similarities, -np.inf)
            block_values, columns = topk(similarities, min(k, len(block)))
            values = xp.concatenate([values, block_values], axis=1)
            rows = xp.concatenate([rows, columns + start], axis=1)
            values, columns = topk(values, k)
            starts = xp.arange(n, dtype=np.int64)[:, None] * rows.shape[1]
            rows = rows.reshape(-1)[starts + columns]
        photos = to_numpy(rows)
        similarities = to_numpy(values)
        return Neighbours(np.where(similarities > -np.inf, photos, -1), similarities)

    @property
    def embeddings(self) -> np.ndarray:
        """The embeddings (m, d), float16."""
        return self.photos.features[:]

    def captions(self, photo: int) -> list[list[int]]:
        """Captions of a photo as word ids."""
        rows = slice(*np.searchsorted(self.photos.image_idxs, [photo, photo + 1]))
        ids = self.photos.captions[rows]
        return [row[i].tolist() for row, i in zip(ids, self.vocabulary.is_word(ids), strict=True)]

    @cached_property
    def pairs(self) -> np.ndarray:
        """Sorted pairs of a word and the next word, or END, in the captions."""
        ids = self.photos.captions
        inside = self.vocabulary.is_word(ids[:, :-1]) & (ids[:, 1:] != self.vocabulary.null)
        return np.unique(pair(ids[:, :-1][inside], ids[:, 1:][inside]))


def keeps_all(projection: Projection) -> bool:
    """True if a projection keeps all directions, because the index has few photos."""
    return projection.components.shape[1] < SIZE


def pair(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Pairs of words, each as one int64."""
    return first.astype(np.int64) << 32 | second.astype(np.int64)


def _photos(data: CaptionData, name: str) -> Split:
    """The captioned photos of a split, with preprocessed features (m, D); grids are averaged."""
    split = data.split(name)
    end = data.vocabulary.end
    photos, numbers = np.unique(split.image_idxs, return_inverse=True)
    order = np.argsort(numbers, kind="stable")
    captions = split.captions[order]
    captions[captions[:, -1] == end, -1] = data.vocabulary.null  # a full caption may have been cut
    rows = np.arange(len(split.features))
    features = LazyRows(rows, photos, lambda numbers: _pooled(data.features(name, numbers)))
    small = np.prod(features.shape) * features.dtype.itemsize <= IN_MEMORY
    images = [split.images[i] for i in photos.tolist()]
    return Split(captions, numbers[order], materialise(features) if small else features, images)


def _embedded(photos: Split, projection: Projection) -> Split:
    """The photos with their embeddings as features."""
    embeddings = [_unit(projection(x)).astype(np.float16) for _, x in blocks(photos.features)]
    return replace(photos, features=np.concatenate(embeddings))


def _pooled(features: Array) -> Array:
    """Features (N, D) float32; grids are averaged over their regions."""
    pooled = features.mean(axis=1) if features.ndim == 3 else features
    return pooled.astype(np.float32, copy=False)


def _unit(x: Array) -> Array:
    """Rows divided by their norms; a row of nearly norm 0 becomes 0."""
    xp = get_array_module(x)
    norm = xp.sqrt((x * x).sum(axis=1, keepdims=True))
    return xp.where(norm > NEGLIGIBLE, x / xp.maximum(norm, NEGLIGIBLE), 0).astype(np.float32)


def _predictor(photos: Split, vocabulary: Vocabulary) -> np.ndarray:
    """The word predictor, by ridge regression of word shares on embeddings."""
    m, d = photos.features.shape
    V = len(vocabulary)
    is_word = vocabulary.is_word(photos.captions)
    # A caption counts once for each of its words
    number, _ = is_word.nonzero()
    caption, word = np.divmod(np.unique(number * np.int64(V) + photos.captions[is_word]), V)
    photo = photos.image_idxs[caption]
    weight = 1 / np.bincount(photos.image_idxs)[photo]
    prior = np.bincount(word, weight, V) / m
    products = np.zeros((d, V))
    squares = np.zeros((d, d))
    step = max(1, BLOCK_SIZE // V)
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
