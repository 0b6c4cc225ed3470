"""CaptionData: features and captions of pictures, by split; its Source, and its checks."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field, replace
from typing import Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike

from xpcap.backend.shape_specs import Spec, as_numbers, check_range
from xpcap.data.features import FeatureScaling, LazyRows, RowSource, blocks
from xpcap.data.vocabulary import UNK, Vocabulary, detokenize, tokenize
from xpcap.errors import DataError, InvalidTypeError, OptionError, one_of
from xpcap.options import LARGEST, Text, Whole, check_fields, described, documented, option

T = TypeVar("T")


@documented
@dataclass(frozen=True, kw_only=True)
class Source:
    """The origin of a data set, stored as a flat JSON object in dataset files and run folders.

    Raises
    ------
    OptionError : a field has the wrong type or range, or `record` has the name of a field, or values
        that JSON cannot represent.

    Examples
    --------
    >>> Source(encoder="histogram", record={"camera": "my phone"}).to_json()
    {'camera': 'my phone', 'encoder': 'histogram'}
    """

    encoder: str | None = option(Text(), None, "Name of the encoder; new pictures need it.")
    pictures: str | None = option(Text(), None, "Folder of the pictures; pages look there.")
    generated: str | None = option(Text(), None, "Kind of generated data.")
    seed: int | None = option(Whole(0, LARGEST), None, "Seed of generated or drawn data.")
    record: Mapping[str, Any] = field(default_factory=dict)  # further facts, as values of JSON

    def __post_init__(self) -> None:
        check_fields(self)
        if self.generated is not None and self.seed is None:
            raise OptionError("seed is None, expected the number with which the data was generated")
        if not isinstance(self.record, Mapping):
            raise OptionError(f"record is a {type(self.record).__name__}, expected a mapping")
        object.__setattr__(self, "record", dict(self.record))  # else a caller may change it
        try:
            json.dumps(self.record)
        except (TypeError, ValueError) as error:
            raise OptionError(
                f"record cannot be stored: {error}, expected values of JSON"
            ) from error
        if fields := [name for name in described(self) if name in self.record]:
            raise OptionError(
                f"record holds {fields[0]!r}, expected the argument `{fields[0]}` instead"
            )

    @classmethod
    def from_json(cls, source: object, stored: Mapping[str, Any]) -> "Source":
        """Read the object that `to_json` returns; `source` is the file, for messages.

        DataError : a field has the wrong type or range.
        """
        record = {key: value for key, value in stored.items() if key not in described(cls)}
        known = [(name, entry.kind) for name, entry in described(cls).items() if name in stored]
        try:  # checked separately, since None, JSON's null, is a valid field but not a stored one
            fields = {name: kind.check(name, stored[name]) for name, kind in known}
            return cls(**fields, record=record)
        except OptionError as error:
            raise DataError(f"{source}: source: {error}; altered?".replace("`", "")) from error

    def to_json(self) -> dict[str, Any]:
        """A flat dict, sorted by key, without fields that are None."""
        fields = {name: getattr(self, name) for name in described(self)}
        known = {name: value for name, value in fields.items() if value is not None}
        return dict(sorted({**self.record, **known}.items()))


SPLIT = Spec("captions:n>0,T+1>2=i image_idxs:n=i features:r>0,D>0|r>0,P>0,D>0=f")
MAX_WORDS = 1000  # of a caption that a model learns
HEADER = "xpcap"  # the member of a dataset file that is not a split


@dataclass(frozen=True)
class Split:
    """One split of a data set: n captions of m pictures.

    Features may hold augmentations of each picture ("views"), such as its mirror image: row
    k * m + i is view k of picture i. Training draws a view for each caption in each step. View 0 is
    the picture itself; everything but training uses only that.
    """

    captions: np.ndarray  # (n, T+1) int32
    image_idxs: np.ndarray  # (n,) int32, number of each caption's picture
    # (views * m, D) float, raw, or grids (.., P, D); on disk it is read by the batch
    features: RowSource
    images: Sequence[str]  # (m,) names or URLs
    text: Sequence[str] | None = None  # (n,) captions as written, if known
    _: KW_ONLY
    views: int = 1  # of each picture, such as its mirror image

    def __repr__(self) -> str:
        return f"Split({len(self.captions):,} captions of {len(self.images):,} pictures)"


@dataclass
class CaptionData:
    """A data set: its splits, the vocabulary of its captions, and the scaling of its features.

    Parameters
    ----------
    vocabulary : Vocabulary
    splits : mapping of str to Split
        Captions and features by name, such as "train" and "val".
    source : Source
        The origin of the data: encoder, folder of pictures, seed.
    scaling : FeatureScaling
        Applied to every feature that `features` and `minibatch` return.
    fingerprint : str
        Digest of the contents, if the data was opened; a dataset file stores it as "stamp".

    Raises
    ------
    TypeError
        `source` is no Source.
    """

    vocabulary: Vocabulary
    splits: Mapping[str, Split]
    _: KW_ONLY
    source: Source = field(default_factory=Source)
    scaling: FeatureScaling = field(default_factory=FeatureScaling)
    fingerprint: str = ""

    def __repr__(self) -> str:
        return f"CaptionData({dict(self.splits)}, feature_shape={self.feature_shape})"

    def __post_init__(self) -> None:
        if not isinstance(self.source, Source):
            raise InvalidTypeError(
                f"source is a {type(self.source).__name__}, expected a Source; wrap facts as"
                " Source(record=...)"
            )
        self.splits = dict(self.splits)  # else a caller may change it

    def split(self, name: str) -> Split:
        """A split of the data.

        Parameters
        ----------
        name : str

        Returns
        -------
        split : Split

        Raises
        ------
        DataError
            There is no split of that name.
        """
        if name not in self.splits:
            raise DataError(f"split {name!r} does not exist, expected {one_of(self.splits, name)}")
        return self.splits[name]

    @property
    def feature_shape(self) -> tuple[int, ...]:
        """Shape of an image feature: (D,), or (P, D) for a grid of P regions."""
        return tuple(next(iter(self.splits.values())).features.shape[1:])

    @property
    def feature_dim(self) -> int:
        """D, the size of an image feature, or of one region of a grid."""
        return self.feature_shape[-1]

    @property
    def max_words(self) -> int:
        """Maximum caption length in words, without START and END."""
        return next(iter(self.splits.values())).captions.shape[1] - 2

    def features(self, name: str, rows: ArrayLike) -> np.ndarray:
        """Scaled features of a split's pictures, or of views, by row number.

        Parameters
        ----------
        name : str
            Name of the split.
        rows : array (n,), int
            Row numbers; repeats are allowed.

        Returns
        -------
        features : array (n, D), or (n, P, D) for grids
            float32, or float64 if the data set is float64.

        Raises
        ------
        DataError
            A feature on disk is not finite; the message names the picture. Those in memory were
            checked when the data was opened.
        ValueError
            There is no such row.
        TypeError
            The rows are no integers.
        """
        split = self.split(name)
        count = len(split.features)
        rows = as_numbers(f"split {name!r}: rows", rows, count, "from another split?")
        if isinstance(split.features, np.ndarray):
            # Rows are gathered block by block, since a batch of grids does not fit into the cache
            return self.scaling(LazyRows(split.features, rows))
        # HDF5 needs distinct rows in rising order
        distinct, positions = np.unique(rows, return_inverse=True)
        raw = split.features[distinct]
        names = [split.images[row % len(split.images)] for row in distinct.tolist()]
        check_finite(f"split {name!r}: ", raw, names)
        return self.scaling(raw[positions])

    def minibatch(self, name: str, captions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Scaled features of captions, and the captions as ids.

        Parameters
        ----------
        name : str
            Name of the split.
        captions : array (N,), int
            Numbers of captions of this split.

        Returns
        -------
        features : array (N, D), or (N, P, D) for grids, float
        captions : array (N, T+1), int

        Raises
        ------
        DataError
            There is no such split, or a feature is not finite.
        ValueError
            There is no such caption.
        TypeError
            The numbers are no integers.
        """
        split = self.split(name)
        captions = self._numbers(name, captions)
        return self.features(name, split.image_idxs[captions]), split.captions[captions]

    def texts(self, name: str) -> list[str]:
        """Captions as written, or from their ids, with ``<UNK>`` for unknown words.

        Parameters
        ----------
        name : str
            Name of the split.

        Returns
        -------
        texts : list of str
        """
        split = self.split(name)
        if split.text is not None:
            return list(split.text)
        return [detokenize(words) for words in self.words(name)]

    def words(self, name: str, captions: np.ndarray | None = None) -> list[list[str]]:
        """Captions as words, from their text or ids, with ``<UNK>`` for unknown ones.

        Parameters
        ----------
        name : str
            Name of the split.
        captions : array (n,), int, or None
            Numbers of captions of this split. None: all.

        Returns
        -------
        words : list of list of str

        Raises
        ------
        ValueError
            There is no such caption.
        TypeError
            The numbers are no integers.
        """
        split = self.split(name)
        if captions is not None:
            captions = self._numbers(name, captions)
        if split.text is None:
            ids = split.captions if captions is None else split.captions[captions]
            return list(self.vocabulary.words_of(ids))
        texts = split.text if captions is None else [split.text[i] for i in captions.tolist()]
        return [tokenize(text) for text in texts]

    def _numbers(self, name: str, captions: np.ndarray) -> np.ndarray:
        """Numbers of captions of a split, checked."""
        count = len(self.split(name).captions)
        return as_numbers(f"split {name!r}: captions", captions, count, "from another split?")

    def references(self, name: str) -> dict[int, list[str]]:
        """Captions as text, keyed by picture number; pictures without captions are left out.

        Parameters
        ----------
        name : str
            Name of the split.

        Returns
        -------
        references : dict of int to list of str
            In rising order of the picture's number.
        """
        return self._by_picture(name, self.texts(name))

    def reference_words(
        self, name: str, words: Sequence[list[str]] | None = None
    ) -> dict[int, list[list[str]]]:
        """Captions as words, by picture, for metrics, without ``<UNK>``.

        Parameters
        ----------
        name : str
            Name of the split.
        words : sequence of list of str, or None
            The split's captions as `words` returns them, if the caller has them already.

        Returns
        -------
        references : dict of int to list of list of str
            In rising order of the picture's number.
        """
        words = self.words(name) if words is None else words
        return self._by_picture(
            name, [[word for word in caption if word != UNK] for caption in words]
        )

    def _by_picture(self, name: str, captions: Sequence[T]) -> dict[int, list[T]]:
        """Captions of a split by the number of their picture, which rises."""
        by_picture: dict[int, list[T]] = {}
        for picture, caption in zip(self.split(name).image_idxs.tolist(), captions, strict=True):
            by_picture.setdefault(picture, []).append(caption)
        return dict(sorted(by_picture.items()))

    def encoded_with(
        self, vocabulary: Vocabulary, name: str, words: Sequence[Sequence[str]] | None = None
    ) -> "CaptionData":
        """A split of the data, its captions encoded by another vocabulary, without cutting.

        Parameters
        ----------
        vocabulary : Vocabulary
        name : str
            Name of the split.
        words : sequence of sequence of str, or None
            The split's captions as `words` returns them, if the caller has them already; tokenising
            takes long.

        Returns
        -------
        data : CaptionData
        """
        words = self.words(name) if words is None else words
        captions = vocabulary.encode_words(words, max([1, *map(len, words)]))
        split = replace(self.split(name), captions=captions, text=self.texts(name))
        return replace(self, vocabulary=vocabulary, splits={name: split})

    def with_vocabulary(self, vocabulary: Vocabulary) -> "CaptionData":
        """The data with all captions encoded by another vocabulary, at the same maximum length.

        Words come from the captions' text, if known, so the other vocabulary may have other words.

        Parameters
        ----------
        vocabulary : Vocabulary

        Returns
        -------
        data : CaptionData
        """
        splits = {
            name: replace(split, captions=vocabulary.encode_words(self.words(name), self.max_words))
            for name, split in self.splits.items()
        }
        return replace(self, vocabulary=vocabulary, splits=splits)


def check_finite(prefix: str, features: RowSource, images: Sequence[str]) -> None:
    """Raise DataError, naming the first picture whose features are not finite in float32."""
    bad: list[int] = []
    with np.errstate(over="ignore"):
        for rows, block in blocks(features):
            finite = np.isfinite(block.astype(np.float32, copy=False)).reshape(len(block), -1)
            bad += (rows.start + np.flatnonzero(~finite.all(axis=1))).tolist()
    if bad:
        raise DataError(
            f"{prefix}the feature of {images[bad[0]][:100]!r} (1 of {len(bad)}) is not finite, expected"
            " float32 numbers; extract it again"
        )


def may_name_a_split(name: str) -> bool:
    """True if a dataset file can hold a split of that name."""
    return name.isidentifier() and name != HEADER


def size(shape: Sequence[int]) -> str:
    """The shape of a feature in words: ``512``, or ``25 x 512`` for a grid."""
    return " x ".join(map(str, shape))


def evenly_spaced(n: int, count: int) -> np.ndarray:
    """`count` evenly spaced numbers of 0..n-1, int64; all of them if there are fewer."""
    return np.linspace(0, n - 1, min(n, count)).astype(np.int64)


def check_data(source: object, data: CaptionData, start: bool = True) -> None:
    """Check every split, and that the splits agree in feature size and caption length.

    source : the data set, for messages, such as its file
    start : require each caption to begin with ``<START>``, as dataset files and the course's folder
        do
    DataError : the first fault found.
    """
    if not data.splits:
        raise DataError(f"{source} has no split, expected at least one, such as train")
    for name, split in data.splits.items():
        _check_split(f"{source}, split {name!r}", split, data.vocabulary, start)
    for array in ("features", "captions"):
        shapes = [getattr(split, array).shape[1:] for split in data.splits.values()]
        if len(set(shapes)) > 1:
            cause = "made by two extractors?" if array == "features" else "cut at two lengths?"
            raise DataError(
                f"{source}: {array} of the splits {', '.join(map(repr, data.splits))} have shapes"
                f" {shapes}, expected equal shapes; {cause}"
            )


def _check_split(source: str, split: Split, vocabulary: Vocabulary, start: bool) -> None:
    arrays = {entry.name: getattr(split, entry.name) for entry in SPLIT.entries}
    n = SPLIT.check_file(source, arrays)["n"]
    m = len(split.images)
    if len(split.features) != split.views * m:
        count = "one row" if split.views == 1 else f"{split.views} views"
        raise DataError(
            f"{source}: features have shape {split.features.shape}, expected {count} for each of"
            f" {m} pictures; made for other pictures?"
        )
    if (words := split.captions.shape[1] - 2) > MAX_WORDS:
        raise DataError(
            f"{source}: captions have up to {words:,} words, expected at most {MAX_WORDS:,}; cut"
            " them"
        )
    check_range(f"{source}: image_idxs", split.image_idxs, m, error=DataError)
    check_range(f"{source}: captions", split.captions, len(vocabulary), error=DataError)
    if start and (without := np.flatnonzero(split.captions[:, 0] != vocabulary.start)).size:
        raise DataError(
            f"{source}: caption {without[0]} (1 of {without.size}) does not begin with <START>,"
            " expected it in the first column"
        )
    if split.text is not None and len(split.text) != n:
        raise DataError(
            f"{source} has {len(split.text)} texts for {n} captions, expected a text per caption"
        )
    if isinstance(split.features, np.ndarray):  # features on disk are checked as they are read
        check_finite(f"{source}: ", split.features, [*split.images] * split.views)
