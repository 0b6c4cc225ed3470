"""CaptionData: pictures' features and their captions, split by split, wherever they came from."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from xpcap.data.scaling import FeatureScaling
from xpcap.data.vocabulary import Vocabulary
from xpcap.errors import DataError, unknown


@dataclass(frozen=True)
class Split:
    """One part of a data set: n captions of m pictures."""

    captions: np.ndarray  # (n, T+1) int32
    image_idxs: np.ndarray  # (n,) int32, the picture of each caption
    features: Any  # (m, D) float, an array or an HDF5 data set
    images: Sequence[str]  # (m,) names or URLs
    text: Sequence[str] | None = None  # (n,) captions as they were written, where they are known


@dataclass
class CaptionData:
    """A data set: its splits, the vocabulary its captions are encoded with, and how its features are to be scaled.

    Parameters
    ----------
    vocabulary : Vocabulary
    splits : mapping of name to Split
    source : how it came about, for people and programs to read
    scaling : applied to every feature that is handed out
    """

    vocabulary: Vocabulary
    splits: Mapping[str, Split]
    source: Mapping[str, Any] = field(default_factory=dict)
    scaling: FeatureScaling = field(default_factory=FeatureScaling)

    def split(self, name: str) -> Split:
        """The split of that name; a DataError lists the names there are."""
        if name not in self.splits:
            raise unknown("CaptionData", "split", name, self.splits, DataError)
        return self.splits[name]

    @property
    def feature_dim(self) -> int:
        """D, the size of an image feature."""
        return next(iter(self.splits.values())).features.shape[1]

    @property
    def max_words(self) -> int:
        """The most words a caption may have, START and END not counted."""
        return next(iter(self.splits.values())).captions.shape[1] - 2

    def features(self, name: str, rows: np.ndarray) -> np.ndarray:
        """Scaled features (len(rows), D), float32 (float64 where the source is), of the pictures `rows` of a split, in that order, repeats allowed.

        Raises
        ------
        DataError : a feature that is not finite, with the picture's name.
        """
        split = self.split(name)
        if isinstance(split.features, np.ndarray):
            raw = split.features[rows]
        else:  # HDF5 reads rows in rising order, each once
            distinct, back = np.unique(rows, return_inverse=True)
            raw = split.features[distinct][back]
        if not np.isfinite(raw).all():
            bad = int(rows[np.flatnonzero(~np.isfinite(raw).all(axis=1))[0]])
            raise DataError(
                f"CaptionData: split {name!r}, picture {split.images[bad]!r} has a feature that is not finite, expected numbers; extract it again"
            )
        return self.scaling(raw)

    def minibatch(self, name: str, captions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Features (N, D) and captions (N, T+1) of the captions numbered `captions` (N,) of a split."""
        split = self.split(name)
        return self.features(name, split.image_idxs[captions]), split.captions[captions]

    def texts(self, name: str) -> list[str]:
        """Every caption of a split as text: as written, or from its ids (``<UNK>`` for what they lost) where the source keeps no text."""
        split = self.split(name)
        if split.text is not None:
            return list(split.text)
        silent = {self.vocabulary.null, self.vocabulary.start, self.vocabulary.end}
        return [" ".join(self.vocabulary.idx_to_word[i] for i in row if i not in silent) for row in split.captions.tolist()]

    def references(self, name: str) -> dict[int, list[str]]:
        """Picture number to its captions as text, for every picture of a split that has any."""
        references: dict[int, list[str]] = {}
        for image, text in zip(self.split(name).image_idxs.tolist(), self.texts(name), strict=True):
            references.setdefault(image, []).append(text)
        return dict(sorted(references.items()))

    def encoded_with(self, vocabulary: Vocabulary, max_words: int) -> "CaptionData":
        """The same data with captions encoded afresh by another vocabulary."""
        if vocabulary.idx_to_word == self.vocabulary.idx_to_word and max_words == self.max_words:
            return self
        splits = {name: replace(split, captions=vocabulary.encode(self.texts(name), max_words)) for name, split in self.splits.items()}
        return replace(self, vocabulary=vocabulary, splits=splits)
