"""assemble: captions by split and picture, and features, to a CaptionData. What every importer ends with."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from xpcap.data.dataset import CaptionData, Source, Split, check_data
from xpcap.data.features import Function, Projection, Table, blocks, fit_projection
from xpcap.data.importers.features import covered, encode_folder, mirror_of, stay_in
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
    pca: int | None = None,
    float16: bool = False,
    mirror: bool = False,
    source: Mapping[str, Any] | None = None,
    progress: bool = False,
) -> CaptionData:
    """Build a data set: vocabulary, encoded captions, features, and every check that does not depend on the file format.

    Parameters
    ----------
    captions : ``{split: {picture: [captions]}}``, as a reader returns it; a picture is in one split
    features : picture to its feature (D,) or grid (P, D); pictures of no split are ignored. None: `encoder` makes them from `pictures`
    pictures : folder that holds the pictures under their names. The data set remembers it, so that pages can show them
    encoder : default HistogramEncoder. The data set remembers its name; a run captions new pictures if `find_encoder` knows that name
    min_count : words that occur less often in the train split (in all splits if none is called train) become ``<UNK>``
    max_words : the ids of longer captions are cut; their text is kept whole
    vocabulary_size : keep so many of those words, the most frequent, beside the four special ones; None: all
    pca : project features onto so many principal components of the train split (of all splits if none is called train), D' of each D numbers
    float16 : store features in half the bytes; they differ by up to a two-thousandth
    mirror : the train split also gets features of each picture's mirror image, which training takes half the time: made by `encoder`, or found in
        `features` under `mirror_of` the name
    source : JSON-like facts to store beside those above, such as the names of the files
    progress : show a progress bar while pictures are encoded

    Returns
    -------
    CaptionData; features float16 or float32. Those of a table that lies on disk are read from there as they are needed

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
        assert folder is not None and encoder is not None  # noqa: PT018 - no test
        features = encode_folder(folder, names, encoder, progress=progress, mirrored=captions.get("train", ()) if mirror else ())
    table = _table(captions, features)
    settings: dict[str, Any] = {"min_count": min_count, "max_words": max_words}
    settings |= ({} if vocabulary_size is None else {"vocabulary_size": vocabulary_size}) | ({"mirror": True} if mirror else {})
    projection = None
    if pca is not None:
        projection, settings["pca"] = _project(captions, table, pca)
    splits = {}
    for split, by_picture in captions.items():
        views = [*by_picture, *_mirrors(split, by_picture, table, mirror)]
        rows = _features(table, views, projection, float16)
        splits[split] = _split(by_picture, vocabulary.encode_words(words[split], max_words), rows, len(views) // len(by_picture))
    made = CaptionData(vocabulary, splits, source=_source(source, settings, folder, encoder), projection=projection)
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
    vocabulary = Vocabulary.build_from_words(learned_from, min_count, most=most)
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


def _mirrors(split: str, by_picture: Mapping[str, Sequence[str]], table: Table, mirror: bool) -> list[str]:
    """What the mirror images of a split's pictures are called in the table; none but of the train split."""
    names = [mirror_of(name) for name in by_picture] if mirror and split == "train" else []
    covered(f"assemble: split {split!r}", names, table, "mirror image")
    return names


def _split(by_picture: Mapping[str, Sequence[str]], captions: np.ndarray, features: Any, views: int) -> Split:
    return Split(
        captions=captions,
        image_idxs=np.repeat(np.arange(len(by_picture), dtype=np.int32), [len(texts) for texts in by_picture.values()]),
        features=features,
        images=list(by_picture),
        text=[text for texts in by_picture.values() for text in texts],
        views=views,
    )


def _table(captions: Captions, features: Mapping[str, Any]) -> Table:
    """Features as a table, after checking that all pictures have some and that they are alike."""
    for split, by_picture in captions.items():
        covered(f"assemble: split {split!r}", list(by_picture), features, "features")
    if isinstance(features, Table):
        return features
    pictures = [picture for by_picture in captions.values() for picture in by_picture]
    rows = {name: np.asarray(features[name]) for picture in pictures for name in (picture, mirror_of(picture)) if name in features}
    first, like = next(iter(rows.items()))
    for picture, row in rows.items():
        if row.ndim not in (1, 2) or row.shape != like.shape or row.dtype.kind not in "fiu":
            raise DataError(
                f"assemble: the feature of {picture[:100]!r} has shape {row.shape} and dtype {row.dtype}, "
                f"expected numbers (D,) or (P, D), as many as that of {first[:100]!r}, {like.shape}"
            )
    return Table({picture: number for number, picture in enumerate(rows)}, np.stack(list(rows.values())))


def _project(captions: Captions, table: Table, d: int) -> tuple[Projection, dict[str, Any]]:
    """A projection fitted to the train split, or to all splits without one; and the record of it."""
    if d < 1:
        raise DataError(f"assemble: `pca` is {d}, expected at least 1")
    learned_from = [captions["train"]] if "train" in captions else captions.values()
    rows = table.pick([picture for by_picture in learned_from for picture in by_picture], _as_float(table))
    projection, share = fit_projection(rows, d)
    return projection, {"from": len(projection.mean), "to": d, "variance": round(share, 4)}


def _as_float(table: Table) -> Function | None:
    """What turns numbers that are neither float16 nor float32 into float32."""
    return None if table.rows.dtype in (np.float16, np.float32) else lambda rows: rows.astype(np.float32)


def _features(table: Table, pictures: Sequence[str], projection: Projection | None, float16: bool) -> Any:
    """Features (m, *shape) of the pictures, in that order: float16 and float32 as they are, other numbers as float32, then as was asked for."""
    features = table.pick(pictures, _as_float(table) if projection is None else projection.__call__)
    if not float16 or features.dtype == np.float16:
        return features
    for where, rows in blocks(features):
        if (large := np.flatnonzero(np.abs(rows).reshape(len(rows), -1).max(axis=1) > np.finfo(np.float16).max)).size:
            name = pictures[where.start + large[0]].partition("\0")[0]
            raise DataError(f"assemble: the feature of {name[:100]!r} has a number above 65,504, which float16 cannot hold; keep float32")

    def halved(rows: np.ndarray) -> np.ndarray:
        return (rows if projection is None else projection(rows)).astype(np.float16)

    return table.pick(pictures, halved)


def _source(told: Mapping[str, Any] | None, settings: Mapping[str, Any], folder: Path | None, encoder: Encoder | None) -> Source:
    return Source(
        encoder=None if encoder is None else encoder.name,
        pictures=None if folder is None else str(folder.resolve()),
        record={**(told or {}), **settings},
    )
