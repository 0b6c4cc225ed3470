"""CaptionData: pictures' features and their captions, split by split, wherever they came from."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from xpcap.data.scaling import FeatureScaling
from xpcap.data.source import Source
from xpcap.data.vocabulary import Vocabulary, tokenize
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
    stamp : digest of what the file holds, where it came from one that `prepare` stamped
    """

    vocabulary: Vocabulary
    splits: Mapping[str, Split]
    source: Source = field(default_factory=Source)
    scaling: FeatureScaling = field(default_factory=FeatureScaling)
    stamp: str = ""

    def split(self, name: str) -> Split:
        """The split of that name; a DataError lists the names there are."""
        if name not in self.splits:
            raise unknown("this data set", "split", name, self.splits, DataError)
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
        """Scaled features of the pictures `rows` of a split, in that order, repeats allowed.

        Returns
        -------
        array (len(rows), D), float32, or float64 where the source is that

        Raises
        ------
        DataError : a feature read from disk is not finite; it names the picture. (Those in memory were checked when they got there.)
        """
        split = self.split(name)
        if isinstance(split.features, np.ndarray):
            return self.scaling(split.features[rows])
        distinct, back = np.unique(rows, return_inverse=True)  # HDF5 reads rows in rising order, each once
        raw = split.features[distinct]
        check_finite(f"split {name!r}", raw, [split.images[row] for row in distinct.tolist()])
        return self.scaling(raw[back])

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

    def words(self, name: str) -> list[list[str]]:
        """Every caption of a split as words: of its text, or those its ids stand for (``<UNK>`` for what they lost)."""
        if self.split(name).text is not None:
            return [tokenize(text) for text in self.texts(name)]
        return [text.split() for text in self.texts(name)]

    def references(self, name: str) -> dict[int, list[str]]:
        """Picture number to its captions as text, for every picture of a split that has any, in the order of the pictures."""
        references: dict[int, list[str]] = {}
        for image, text in zip(self.split(name).image_idxs.tolist(), self.texts(name), strict=True):
            references.setdefault(image, []).append(text)
        return dict(sorted(references.items()))

    def encoded_with(self, vocabulary: Vocabulary, name: str, words: Sequence[Sequence[str]] | None = None) -> "CaptionData":
        """One split of the same data, its captions encoded by another vocabulary and not cut.

        Parameters
        ----------
        words : the split's captions as `words` gives them, where the caller has them already; tokenising takes long
        """
        words = self.words(name) if words is None else words
        captions = vocabulary.encode_words(words, max(1, *(len(caption) for caption in words)))
        return replace(self, vocabulary=vocabulary, splits={name: replace(self.split(name), captions=captions, text=self.texts(name))})


def check_finite(where: str, features: np.ndarray, images: Sequence[str]) -> None:
    """Refuse features (n, D) that are not finite in float32; the DataError names the first such picture."""
    at_once = max(1, (1 << 20) // max(1, features.shape[1]))  # else memory is taken for a second copy of all
    bad: list[int] = []
    with np.errstate(over="ignore"):
        for start in range(0, len(features), at_once):
            finite = np.isfinite(features[start : start + at_once].astype(np.float32, copy=False)).all(axis=1)
            bad += (start + np.flatnonzero(~finite)).tolist()
    if bad:
        name = images[bad[0]]
        raise DataError(
            f"{where}: {len(bad)} pictures, {name[:100]!r} among them, have features that are not finite, expected float32 numbers; extract them again"
        )


def spread(n: int, most: int) -> np.ndarray:
    """At most `most` of the numbers 0..n-1, spread evenly."""
    return np.linspace(0, n - 1, min(n, most)).astype(np.int64)
