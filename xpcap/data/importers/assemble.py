"""assemble: captions by split and picture, and features, to a CaptionData. What every importer ends with."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from xpcap.data.checks import check_data
from xpcap.data.dataset import CaptionData, Split
from xpcap.data.importers.features import covered, encode_folder, stay_in
from xpcap.data.source import Source
from xpcap.data.vocabulary import SPECIAL, Vocabulary, tokenize
from xpcap.encoders import Encoder, HistogramEncoder
from xpcap.errors import DataError

Captions = Mapping[str, Mapping[str, Sequence[str]]]  # split to picture to its captions


def assemble(
    captions: Captions,
    *,
    features: Mapping[str, Any] | None = None,
    pictures: str | Path | None = None,
    encoder: Encoder | None = None,
    min_count: int = 5,
    max_words: int = 20,
    vocabulary_size: int | None = None,
    float16: bool = False,
    source: Mapping[str, Any] | None = None,
    progress: bool = False,
) -> CaptionData:
    """Build a data set: vocabulary, encoded captions, features, and every check that does not depend on the file format.

    Parameters
    ----------
    captions : ``{split: {picture: [captions]}}``, as a reader returns it; a picture is in one split
    features : picture to its feature (D,); pictures of no split are ignored. None: `encoder` makes them from `pictures`
    pictures : folder that holds the pictures under their names. The data set remembers it, so that pages can show them
    encoder : default HistogramEncoder. The data set remembers its name; a run captions new pictures if `find_encoder` knows that name
    min_count : words that occur less often in the train split (in all splits if none is called train) become ``<UNK>``
    max_words : the ids of longer captions are cut; their text is kept whole
    vocabulary_size : keep so many of those words, the most frequent, beside the four special ones; None: all
    float16 : store features in half the bytes; they differ by up to a two-thousandth
    source : JSON-like facts to store beside those above, such as the names of the files
    progress : show a progress bar while pictures are encoded

    Returns
    -------
    CaptionData; features float16 or float32

    Raises
    ------
    DataError : the parts do not fit together; the message names the picture. OSError : a picture or folder cannot be read.
    """
    if min_count < 1 or max_words < 1:
        raise DataError(f"assemble: `min_count` is {min_count} and `max_words` {max_words}, expected both at least 1")
    if vocabulary_size is not None and vocabulary_size < 1:
        raise DataError(f"assemble: `vocabulary_size` is {vocabulary_size}, expected at least 1")
    names = _pictures(captions)
    words = {split: _words(split, captions[split]) for split in captions}
    vocabulary = _vocabulary(words, min_count, vocabulary_size)
    folder, encoder = _folder(pictures, names), _choose_encoder(features, pictures, encoder)
    if features is None:
        assert folder is not None
        assert encoder is not None
        features = encode_folder(folder, names, encoder, progress)
    splits = {split: _split(split, captions[split], words[split], features, vocabulary, max_words, float16) for split in captions}
    settings = {"min_count": min_count, "max_words": max_words} | ({} if vocabulary_size is None else {"vocabulary_size": vocabulary_size})
    made = CaptionData(vocabulary, splits, _source(source, settings, folder, encoder))
    check_data("assemble", made)
    return made


def _pictures(captions: Captions) -> list[str]:
    """Every picture's name, after checking that each is in one split and each split has one."""
    if not captions:
        raise DataError("assemble: got no split, expected at least one, such as train")
    owner: dict[str, str] = {}
    for split, by_picture in captions.items():
        if not by_picture:
            raise DataError(f"assemble: split {split!r} is empty, expected at least one picture")
        for picture in by_picture:
            if picture in owner:
                raise DataError(
                    f"assemble: {picture[:100]!r} is in split {owner[picture]!r} and in {split!r}, expected each picture in one split; "
                    "scores would not be of unseen pictures"
                )
            owner[picture] = split
    return list(owner)


def _words(split: str, by_picture: Mapping[str, Sequence[str]]) -> list[list[str]]:
    """The words of each caption, after checking that each picture has a caption and each caption a word."""
    words = []
    for picture, texts in by_picture.items():
        if isinstance(texts, str):
            raise DataError(f"assemble: split {split!r}: the captions of {picture[:100]!r} are one text, expected a list of texts")
        said = [tokenize(text) for text in texts]
        if not said or not all(said):
            lack = "no caption, expected one or more" if not said else "a caption without a word, expected letters or digits in each"
            raise DataError(f"assemble: split {split!r}: {picture[:100]!r} has {lack}")
        words += said
    return words


def _vocabulary(words: Mapping[str, Sequence[Sequence[str]]], min_count: int, most: int | None) -> Vocabulary:
    learned_from: Iterable[Sequence[str]] = words["train"] if "train" in words else (caption for split in words.values() for caption in split)
    vocabulary = Vocabulary.build_from_words(learned_from, min_count, most)
    if len(vocabulary) == len(SPECIAL):
        raise DataError(
            f"assemble: no word occurs {min_count} times in the captions to learn from, expected some that do; choose a smaller `min_count`"
        )
    return vocabulary


def _folder(pictures: str | Path | None, names: Sequence[str]) -> Path | None:
    """The folder of pictures, after checking that it is one and that no picture would lie outside it."""
    if pictures is None:
        return None
    folder = Path(pictures)
    if not folder.is_dir():
        raise DataError(f"assemble: {folder} is no folder, expected the one that holds the pictures")
    stay_in("assemble", folder, names)
    return folder


def _choose_encoder(features: Mapping[str, Any] | None, pictures: str | Path | None, encoder: Encoder | None) -> Encoder | None:
    """The encoder to use; None if features are given."""
    if features is None and pictures is None:
        raise DataError("assemble: got neither `features` nor `pictures`, expected one or both; where do the features come from?")
    if features is not None and encoder is not None:
        raise DataError(f"assemble: got `features` and the encoder {encoder.name!r}, expected one of them")
    return None if features is not None else encoder or HistogramEncoder()


def _split(
    name: str,
    by_picture: Mapping[str, Sequence[str]],
    words: Sequence[Sequence[str]],
    features: Mapping[str, Any],
    vocabulary: Vocabulary,
    max_words: int,
    float16: bool,
) -> Split:
    covered(f"assemble: split {name!r}", list(by_picture), features, "features")
    features_of_split = _stack(features, list(by_picture))
    return Split(
        captions=vocabulary.encode_words(words, max_words),
        image_idxs=np.repeat(np.arange(len(by_picture), dtype=np.int32), [len(texts) for texts in by_picture.values()]),
        features=_halved(features_of_split, list(by_picture)) if float16 else features_of_split,
        images=list(by_picture),
        text=[text for texts in by_picture.values() for text in texts],
    )


def _stack(features: Mapping[str, Any], pictures: Sequence[str]) -> np.ndarray:
    """Features (m, D) of the pictures in that order: float16 and float32 as they are, other numbers as float32."""
    rows = [np.asarray(features[picture]) for picture in pictures]
    for picture, row in zip(pictures, rows, strict=True):
        if row.ndim != 1 or row.shape != rows[0].shape or row.dtype.kind not in "fiu":
            raise DataError(
                f"assemble: the feature of {picture[:100]!r} has shape {row.shape} and dtype {row.dtype}, "
                f"expected numbers (D,), as many as that of {pictures[0][:100]!r}, {rows[0].shape}"
            )
    stacked = np.stack(rows)
    return stacked if stacked.dtype in (np.float16, np.float32) else stacked.astype(np.float32)


def _halved(features: np.ndarray, pictures: Sequence[str]) -> np.ndarray:
    """Features as float16, after checking that none is too large for it."""
    if (large := np.flatnonzero(np.abs(features).max(axis=1) > np.finfo(np.float16).max)).size:
        raise DataError(f"assemble: the feature of {pictures[large[0]][:100]!r} has a number above 65,504, which float16 cannot hold; keep float32")
    return features.astype(np.float16)


def _source(told: Mapping[str, Any] | None, settings: Mapping[str, Any], folder: Path | None, encoder: Encoder | None) -> Source:
    return Source(
        encoder=None if encoder is None else encoder.name,
        pictures=None if folder is None else str(folder.resolve()),
        record={**(told or {}), **settings},
    )
