"""import_captions and assemble: rows of captions, with pictures or features, to a data set."""

import dataclasses
import itertools
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from xpcap.data.dataset import CaptionData, Source, Split, check_finite
from xpcap.data.features import Function, Projection, RowSource, Table, blocks, fit_projection
from xpcap.data.vocabulary import SPECIAL, Vocabulary, has_word, tokenize
from xpcap.distributed import SINGLE, Group, RankDone
from xpcap.encoders import PHOTOGRAPHS, Encoder, HistogramEncoder, find_encoder
from xpcap.encoders.finding import describe_others
from xpcap.errors import DataError, InvalidTypeError
from xpcap.prepare.detect import CaptionFile, read_captions
from xpcap.prepare.features import (
    encode_folder,
    mirror_of,
    read_features,
    require_all,
    require_inside,
)
from xpcap.prepare.matching import PictureFolder, match_names, picture_folder
from xpcap.prepare.rows import CaptionRow, Columns, ImportReport
from xpcap.prepare.splits import DEFAULT_FRACTIONS, by_fractions, by_lists

WHERE = "import_captions"
FEW_CAPTIONS = 4000  # to learn from: of fewer, words that occur twice are worth learning
TINY_CAPTIONS = 60  # of fewer, a run says the captions themselves, and so needs all their words
_LINE_END = re.compile(r"\s*\n\s*")


def import_captions(
    files: Sequence[CaptionFile],
    *,
    lists: Mapping[str, str | Path] | None = None,
    fractions: Sequence[float] | None = None,
    seed: int = 0,
    columns: Columns | None = None,
    features_file: str | Path | None = None,
    pictures: str | Path | None = None,
    encoder: Encoder | None = None,
    cache: str | Path | None = None,
    min_count: int | None = None,
    max_words: int = 20,
    vocabulary_size: int | None = None,
    pca: int | None = None,
    float16: bool = False,
    mirror: bool = False,
    strict: bool = False,
    progress: bool = False,
    group: Group = SINGLE,
) -> tuple[CaptionData, ImportReport]:
    """Read captions of any known form, split them, add features, and assemble a data set.

    Parameters
    ----------
    files, columns : as in `read_captions`
    lists : split name to a file of picture names, for files without splits
    fractions, seed : of train, val and test, and of the draw, for files with neither
    features_file, pictures : an .npz; the folder of the pictures
    encoder : encodes the pictures if there is no .npz; default efficientnet-lite2
    cache : file for the features as they are computed, so that a killed encoding can be resumed;
        remove it once the data set is written
    min_count, max_words, vocabulary_size, pca, float16 : as in `assemble`
    mirror : also encode mirror images of the train split; training draws them half the time
    strict : refuse whatever would be left out: captions and pictures without each other, captions
        without a word, rows of another form, ...
    group : ranks that share the encoding; rank 0 alone builds the data set

    Returns
    -------
    the data set, whose record holds the counts, and the report of omissions

    Raises
    ------
    RankDone : on ranks other than 0, when the encoding is done.
    DataError : nothing is left, a picture is in two splits, a name leads out of the folder, a file
        is damaged; or anything is left out, if `strict`.
    OSError : a file cannot be read.
    """
    _check_origin(WHERE, features_file, pictures, encoder)
    if features_file is not None:
        if mirror:
            raise DataError(
                WHERE,
                "",
                "got features and `mirror`, which encodes pictures",
                expected="one of them",
            )
        if group.rank:
            raise RankDone
    report = ImportReport()
    rows = read_captions(files, columns=columns, report=report, progress=progress)
    splits = list(dict.fromkeys(row.split for row in rows))  # [None] if the files have none
    names = [Path(path).name for _, path in files]
    record: dict[str, object] = {"captions": names, "forms": report.forms}
    features = None
    if features_file is not None:
        features, record["features"] = read_features(features_file), Path(features_file).name

    rows = _clean(rows, report)
    rows, paths, features = _match(rows, features, pictures, report)
    rows, splits = _assign_splits(rows, splits, lists, fractions, seed, record, report)
    rows = [row._replace(picture=paths.get(row.picture, row.picture)) for row in rows]
    if strict:
        report.refuse(WHERE)
    _check_left(rows, splits, report)

    if features is None:
        assert pictures is not None
        least = min_count or _least_count(rows, vocabulary_size)
        _vocabulary(rows, _words(rows), least, vocabulary_size)  # refused before the long work
        encoder = encoder or find_encoder(PHOTOGRAPHS)
        names = list(dict.fromkeys(row.picture for row in rows))
        unreadable: dict[str, str] = {}
        features = encode_folder(
            pictures,
            names,
            encoder,
            progress=progress,
            cache=cache,
            unreadable=None if strict else unreadable,
            mirrored={row.picture for row in rows if mirror and row.split == "train"},
            group=group,
        )
        _report_unreadable(unreadable, report)
        rows = [row for row in rows if row.picture not in unreadable]
        _check_left(rows, splits, report)

    data = assemble(
        rows,
        features=features,
        pictures=pictures,
        min_count=min_count,
        max_words=max_words,
        vocabulary_size=vocabulary_size,
        pca=pca,
        float16=float16,
        mirror=mirror,
        source=record,
    )
    record = {**data.source.record, "skipped": dict(report.skipped), **_count(data)}
    encoded_by = None if encoder is None else encoder.name
    source = dataclasses.replace(data.source, encoder=encoded_by, record=record)
    return dataclasses.replace(data, source=source), report


def _check_origin(where: str, features: object, pictures: object, encoder: Encoder | None) -> None:
    """DataError : features have no origin, or two."""
    if features is None and pictures is None:
        raise DataError(
            where,
            "",
            "got neither features nor pictures",
            expected="one or both",
            cause="where do the features come from?",
        )
    if features is not None and encoder is not None:
        raise DataError(
            where, "", f"got features and the encoder {encoder.name!r}", expected="one of them"
        )


def _count(data: CaptionData) -> dict[str, Mapping[str, float]]:
    """Captions cut, and the share of unknown words, by split."""
    truncated, unknown = {}, {}
    words = data.vocabulary
    for name, split in data.splits.items():
        ids = split.captions
        full = np.flatnonzero(ids[:, -1] == words.end)
        truncated[name] = sum(len(caption) > ids.shape[1] - 2 for caption in data.words(name, full))
        inside = words.is_word(ids)
        unknown[name] = round(float((ids == words.unk).sum() / inside.sum()), 4)
    return {"cut": truncated, "unknown": unknown}


def _clean(rows: Iterable[CaptionRow], report: ImportReport) -> list[CaptionRow]:
    """Captions on one line; those without a word, and pictures left with none, are skipped."""
    cleaned: list[CaptionRow] = []
    for (_, picture), group in itertools.groupby(rows, key=lambda row: (row.split, row.picture)):
        captions = [(row, row.caption) for row in group if row.caption is not None]
        try:
            "".join([picture, *(text for _, text in captions)]).encode("utf-8")
        except UnicodeEncodeError as error:
            raise DataError(
                WHERE,
                f"{picture[:100]!r} or a caption of it",
                "holds half a character",
                expected="text that UTF-8 can hold",
            ) from error
        worded = [(row, text) for row, text in captions if has_word(text)]
        for _ in range(len(captions) - len(worded)):
            report.skip("captions without a word", picture)
        if not worded:
            report.skip("pictures without captions", picture)
        cleaned += [row._replace(caption=_LINE_END.sub(" ", text.strip())) for row, text in worded]
    return cleaned


def _match(
    rows: Sequence[CaptionRow],
    features: Table | None,
    folder: str | Path | None,
    report: ImportReport,
) -> tuple[list[CaptionRow], dict[str, str], Table | None]:
    """Match captions with features or picture files.

    Returns the matched rows, each picture's path in the folder, and the features by that path, or
    by name where there is no file.
    """
    names = list(dict.fromkeys(row.picture for row in rows))
    files = None if folder is None else PictureFolder(WHERE, folder)
    in_folder = None if files is None else match_names(WHERE, names, files)
    in_features = None if features is None else match_names(WHERE, names, features)
    paths = {} if in_folder is None else in_folder.found
    there, lack = in_features, "captioned pictures without features"
    if there is None:
        there, lack = in_folder, f"captioned pictures that are not in {folder}"
    assert there is not None
    report.note(
        "names that differ from those there in capitals or Unicode form alone, taken as the same",
        [f"{name} is {called}" for name, called in there.normalised.items()],
    )
    for name in names:
        if name not in there.found:
            suggestion = there.suggestions.get(name)
            report.skip(lack, name, remark=f"did you mean {suggestion}?" if suggestion else "")
    if files is not None:
        _note_rest(files, paths, report)
        if faceless := sum(name not in paths for name in there.found):
            report.notes.append(
                f"pictures with features and without a file in {folder}: {faceless:,}"
            )
    rows = [row for row in rows if row.picture in there.found]
    _note_twice(rows, report)
    if features is not None and in_features is not None:
        numbers = {
            paths.get(name, name): features.numbers[row] for name, row in in_features.found.items()
        }
        features = Table(numbers, features.rows)
    return rows, paths, features


def _note_twice(rows: Iterable[CaptionRow], report: ImportReport) -> None:
    seen: set[tuple[str | None, str, str | None]] = set()
    twice = []
    for row in rows:
        if (key := (row.split, row.picture, row.caption)) in seen:
            twice.append(row.picture)
        seen.add(key)
    report.note(
        "captions that a picture has twice, kept as they are; remove them from the file if that is"
        " a mistake",
        twice,
    )


def _note_rest(files: PictureFolder, paths: Mapping[str, str], report: ImportReport) -> None:
    directly, deeper = files.without_captions(paths.values())
    for name in directly:
        report.skip(f"pictures in {files.path} without captions", name)
    report.note(f"pictures in folders of {files.path} without captions", deeper)
    if others := describe_others(files.path, files.others(paths.values())):
        report.notes.append(others)
    unreadable = files.inside.unreadable.items()
    report.notes += [f"folder {folder} cannot be read: {why}" for folder, why in unreadable]


def _assign_splits(
    rows: Sequence[CaptionRow],
    splits: Sequence[str | None],
    lists: Mapping[str, str | Path] | None,
    fractions: Sequence[float] | None,
    seed: int,
    record: dict[str, object],
    report: ImportReport,
) -> tuple[list[CaptionRow], list[str | None]]:
    """Rows with splits, and the names of the splits that must not be empty."""
    if lists and fractions:
        raise DataError(WHERE, "", "got lists and fractions", expected="one of them to make splits")
    if None not in splits:
        if lists or fractions:
            raise DataError(
                WHERE,
                "the captions",
                f"have the splits {', '.join(map(str, splits))} already",
                expected=f"no {'lists' if lists else 'fractions'}",
            )
        return list(rows), list(splits)
    if lists:
        record["lists"] = {split: Path(path).name for split, path in lists.items()}
        return by_lists(rows, lists, report), list(lists)
    _check_left(rows, splits, report)
    fractions = DEFAULT_FRACTIONS if fractions is None else fractions
    record["drawn"] = {"fractions": list(fractions), "seed": seed}
    parts = " / ".join(f"{part:g}" for part in fractions)
    report.notes.append(f"splits drawn by picture, {parts}, seed {seed}")
    return by_fractions(rows, fractions, seed), []


def _check_left(
    rows: Sequence[CaptionRow], splits: Sequence[str | None], report: ImportReport
) -> None:
    left = {row.split for row in rows}
    for split in splits:
        if split not in left:
            what = "the captions have" if split is None else f"split {split!r} has"
            why = "; ".join(report.lines()) or "is a list empty?"
            raise DataError(WHERE, "", f"{what} no picture left", expected="some", cause=why)


def _report_unreadable(unreadable: Mapping[str, str], report: ImportReport) -> None:
    given: set[str] = set()
    for name, reason in unreadable.items():
        remark = "" if reason in given else reason
        report.skip("pictures that cannot be read", name, remark=remark)
        given.add(reason)


def assemble(
    captions: Iterable[CaptionRow],
    *,
    features: Mapping[str, ArrayLike] | None = None,
    pictures: str | Path | None = None,
    encoder: Encoder | None = None,
    min_count: int | None = None,
    max_words: int = 20,
    vocabulary_size: int | None = None,
    pca: int | None = None,
    float16: bool = False,
    mirror: bool = False,
    source: Mapping[str, object] | None = None,
    progress: bool = False,
) -> CaptionData:
    """Build a data set: vocabulary, encoded captions, features; `write_dataset` checks it.

    Parameters
    ----------
    captions : rows with splits, as a reader yields them; a picture is in one split. Splits, their
        pictures and their captions stay in order of first appearance
    features : picture to its feature (D,) or grid (P, D); others are ignored. None: `encoder`
        computes them from `pictures`
    pictures : folder of the pictures, which the data set records for pages
    encoder : default HistogramEncoder. The data set records its name; a run captions new pictures
        if `find_encoder` knows that name
    min_count : rarer words of the train split (of all splits without one) become ``<UNK>``; None: 1
        with `vocabulary_size` or of fewer than 60 captions, 2 of fewer than 4,000, 5 of more
    max_words : the ids of longer captions are cut, not their text
    vocabulary_size : largest number of words, by frequency, without the four special ones; None:
        all
    pca : project features onto so many principal components of the train split (of all splits
        without one), D' of each D numbers
    float16 : store features in half the bytes; they differ by up to a two-thousandth
    mirror : also features of the train split's mirror images, which training draws half the time:
        computed by `encoder`, or found in `features` under `mirror_of` the name
    source : JSON-like facts to record as well, such as the names of the files
    progress : show a progress bar while pictures are encoded

    Returns
    -------
    CaptionData; features float16 or float32, read as needed from a table on disk

    Raises
    ------
    DataError : the parts do not fit together; the message names the picture.
    OSError : a picture or folder cannot be read.
    """
    sizes = {
        "min_count": min_count,
        "max_words": max_words,
        "vocabulary_size": vocabulary_size,
        "pca": pca,
    }
    for name, size in sizes.items():
        if size is not None and size < 1:
            raise DataError("assemble", f"`{name}`", f"is {size}", expected="at least 1")
    rows = list(captions)
    words = _words(rows)
    if min_count is None:
        min_count = _least_count(rows, vocabulary_size)
    vocabulary = _vocabulary(rows, words, min_count, vocabulary_size)
    numbers: dict[str, dict[str, int]] = {}  # split to its pictures and their numbers
    for row in rows:
        assert row.split is not None  # as _words found
        of_split = numbers.setdefault(row.split, {})
        of_split.setdefault(row.picture, len(of_split))
    names = [picture for of_split in numbers.values() for picture in of_split]
    _check_origin("assemble", features, pictures, encoder)
    folder = None if pictures is None else picture_folder("assemble", pictures)
    if folder is not None:
        require_inside("assemble", folder, names)
    if features is None:
        assert folder is not None
        encoder = encoder or HistogramEncoder()
        mirrored = numbers.get("train", ()) if mirror else ()
        features = encode_folder(folder, names, encoder, progress=progress, mirrored=mirrored)
    table = _table(numbers, features)

    settings: dict[str, object] = {"min_count": min_count, "max_words": max_words}
    if vocabulary_size is not None:
        settings["vocabulary_size"] = vocabulary_size
    if mirror:
        settings["mirror"] = True
    projection = None
    if pca is not None:
        projection, settings["pca"] = _project(numbers.get("train", names), table, pca)

    splits = {}
    for split, of_split in numbers.items():
        mirrors = [mirror_of(name) for name in of_split] if mirror and split == "train" else []
        require_all(f"assemble: split {split!r}", mirrors, table, "mirror image")
        own = [number for number, row in enumerate(rows) if row.split == split]
        splits[split] = Split(
            captions=vocabulary.encode_words([words[i] for i in own], max_words),
            image_idxs=np.array([of_split[rows[i].picture] for i in own], np.int32),
            features=_features(table, [*of_split, *mirrors], projection, float16),
            images=list(of_split),
            text=[rows[i].caption or "" for i in own],
            views=2 if mirrors else 1,
        )
    origin = Source(
        encoder=None if encoder is None else encoder.name,
        pictures=None if folder is None else str(folder.resolve()),
        record={**(source or {}), **settings},
    )
    return CaptionData(vocabulary, splits, source=origin, projection=projection)


def _words(rows: Sequence[CaptionRow]) -> list[list[str]]:
    """The words of each caption. DataError : a row without split or words, or in two splits."""
    if not rows:
        raise DataError(
            "assemble", "", "got no caption", expected="at least one, of a split such as train"
        )
    words: list[list[str]] = []
    split_of: dict[str, str] = {}
    for row in rows:
        if not isinstance(row, CaptionRow):
            raise InvalidTypeError(
                "assemble",
                "",
                f"got a {type(row).__name__} among the captions",
                expected="rows, each CaptionRow(picture, caption, split)",
            )
        name = repr(row.picture[:100])
        if row.split is None:
            raise DataError("assemble", name, "has no split", expected="one, such as train")
        if (other := split_of.setdefault(row.picture, row.split)) != row.split:
            raise DataError(
                "assemble",
                name,
                f"is in split {other!r} and in {row.split!r}",
                expected="each picture in one split",
                cause="scores would not be of unseen pictures",
            )
        words.append([] if row.caption is None else tokenize(row.caption))
        if not words[-1]:
            lack = "a caption without a word, expected letters or digits in each"
            if row.caption is None:
                lack = "no caption, expected one or more"
            raise DataError("assemble", f"split {row.split!r}: {name}", f"has {lack}")
    return words


def _least_count(rows: Sequence[CaptionRow], most: int | None) -> int:
    """The default of `min_count`."""
    train = sum(row.split == "train" for row in rows) or len(rows)
    if most or train < TINY_CAPTIONS:
        return 1
    return 2 if train < FEW_CAPTIONS else 5


def _vocabulary(
    rows: Sequence[CaptionRow], words: Sequence[Sequence[str]], min_count: int, most: int | None
) -> Vocabulary:
    """The frequent words of the train split, or of all splits without one."""
    train = [caption for row, caption in zip(rows, words, strict=True) if row.split == "train"]
    vocabulary = Vocabulary.build_from_words(train or words, min_count, most=most)
    if len(vocabulary) == len(SPECIAL):
        raise DataError(
            "assemble",
            "no word",
            f"occurs {min_count} times in the captions to learn from",
            expected="some that do",
            cause="choose a smaller `min_count`",
        )
    return vocabulary


def _table(numbers: Mapping[str, Collection[str]], features: Mapping[str, ArrayLike]) -> Table:
    """Features as a table, checked: every picture has one, and all have one shape."""
    for split, pictures in numbers.items():
        require_all(f"assemble: split {split!r}", list(pictures), features, "features")
    if isinstance(features, Table):
        return features
    pictures = [picture for pictures in numbers.values() for picture in pictures]
    names = [name for picture in pictures for name in (picture, mirror_of(picture))]
    rows = {name: np.asarray(features[name]) for name in names if name in features}
    first, like = next(iter(rows.items()))
    for picture, row in rows.items():
        if row.ndim not in (1, 2) or row.shape != like.shape or row.dtype.kind not in "fiu":
            raise DataError(
                "assemble",
                f"the feature of {picture[:100]!r}",
                f"has shape {row.shape} and dtype {row.dtype}",
                expected=f"numbers (D,) or (P, D), as many as that of {first[:100]!r}, {like.shape}",
            )
    stacked = np.stack([*rows.values()])
    check_finite("assemble", stacked, list(rows))
    return Table({name: number for number, name in enumerate(rows)}, stacked)


def _project(names: Collection[str], table: Table, d: int) -> tuple[Projection, dict[str, float]]:
    """A projection fitted to the features of these pictures, and its record."""
    projection, share = fit_projection(table.pick(list(names), _as_float(table)), d)
    return projection, {"from": len(projection.mean), "to": d, "variance": round(share, 4)}


def _as_float(table: Table) -> Function | None:
    """The cast to float32 of numbers that are neither float16 nor float32; else None."""
    if table.rows.dtype in (np.float16, np.float32):
        return None
    return lambda rows: rows.astype(np.float32)


def _features(
    table: Table, pictures: Sequence[str], projection: Projection | None, float16: bool
) -> RowSource:
    """Features (m, *shape) of the pictures, projected, as float16 or float32."""
    project = _as_float(table) if projection is None else projection.__call__
    features = table.pick(pictures, project)
    if not float16 or features.dtype == np.float16:
        return features
    for where, rows in blocks(features):
        largest = np.abs(rows).reshape(len(rows), -1).max(axis=1)
        if (large := np.flatnonzero(largest > np.finfo(np.float16).max)).size:
            name = pictures[where.start + large[0]].partition("\0")[0]
            raise DataError(
                "assemble",
                f"the feature of {name[:100]!r}",
                "has a number above 65,504, which float16 cannot hold",
                cause="keep float32",
            )

    def halved(rows: np.ndarray) -> np.ndarray:
        return (rows if projection is None else projection(rows)).astype(np.float16)

    return table.pick(pictures, halved)
