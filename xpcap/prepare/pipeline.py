"""Files of captions, or rows, to a data set. Open it at `import_captions`.

Options are checked first, all of them. Rows are read, cleaned, matched with pictures or features,
and split; their words are made once. Pictures are encoded last, when all else is known to fit.
"""

import contextlib
import itertools
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from xpcap.data.dataset import CaptionData, Source, Split, check_finite, evenly_spaced
from xpcap.data.features import LazyRows, RowSource, blocks, row_digests
from xpcap.data.few import SPARSE_CAPTIONS, TINY_CAPTIONS
from xpcap.data.vocabulary import SPECIAL, Vocabulary, tokenize
from xpcap.encoders import Encoder, read_picture
from xpcap.encoders.finding import describe_rest
from xpcap.errors import MAX_FIELD, DataError, InvalidTypeError, OptionError
from xpcap.files import is_text
from xpcap.prepare.detect import METADATA, CaptionFile, read_captions
from xpcap.prepare.features import (
    Table,
    encode_folder,
    feature_path,
    mirror_of,
    read_features,
    require_all,
)
from xpcap.prepare.names import (
    Matches,
    NameIndex,
    PictureFolder,
    picture_folder,
    require_inside,
)
from xpcap.prepare.options import AssembleOptions, PrepareOptions
from xpcap.prepare.rows import CaptionRow, ImportReport, grouped
from xpcap.prepare.splits import by_lists, by_shares, note_copies
from xpcap.prepare.text import odd_kind
from xpcap.work import work

CHECKED = "encoder_checked"  # in a record: pictures that a declared encoder was compared on
COMPARED = 16  # of those
TOLERANCE = 0.01  # of the norm: float16 differs by 0.0003, a JPEG that is saved again by 0.05
OTHER_ENCODER = "another encoder, other weights, or pictures that were changed since?"
DEFAULT_FRACTIONS = (0.8, 0.1, 0.1)
WHERE = "import_captions"
Match = Callable[[Iterable[str]], Matches]


def import_captions(
    files: Iterable[CaptionFile],
    *,
    cache: str | Path | None = None,
    progress: bool | None = None,
    **options: Any,
) -> tuple[CaptionData, ImportReport]:
    """Read captions of any known form, split them, add features, and assemble a data set.

    The counts go to its record, what is left out to the report.

    files : as in `read_captions`
    cache : folder in which the features of the pictures stay, in a file that a notice names, so that
        another import of these pictures, also after a kill, encodes only what is new
    progress : show bars; None: as the current work
    options : of `PrepareOptions`; `pictures` is by default the folder, if `files` is one
    OptionError : an option, before anything is read.
    DataError : nothing is left, a picture is in two splits, a name leads out of the folder, a file
        is damaged; or anything is left out, if `strict`.
    OSError : a file cannot be read.
    """
    files = list(files)
    origins = options.get("pictures"), options.get("features_file")
    if len(files) == 1 and Path(files[0][1]).is_dir() and origins == (None, None):
        options["pictures"] = files[0][1]
    chosen, report = PrepareOptions(**options), ImportReport()
    record: dict[str, Any] = {"captions": [Path(path).absolute().name for _, path in files]}
    folder = None if chosen.pictures is None else picture_folder(WHERE, chosen.pictures)
    with work(progress=progress):
        encoder = None
        if chosen.features_file is None or chosen.encoder is not None:
            encoder = chosen.load_encoder()
        rows = read_captions(files, columns=chosen.columns, encoding=chosen.encoding, report=report)
        record["forms"] = report.forms
        features = None
        if chosen.features_file is not None:
            features = read_features(chosen.features_file)
            record["features"] = Path(chosen.features_file).name

        names = list(dict.fromkeys(row.split for row in rows))  # of splits; [None] without
        rows = _clean(rows, report)
        rows, features, match = _match(rows, features, folder, report)
        rows, names = _given_splits(rows, names, chosen, match, record, report)
        if options.get("mirror") and not {"train", None}.intersection(names):
            expected = "a train split, whose pictures get mirror images"
            raise OptionError(WHERE, "`mirror`", "is given", expected)
        if chosen.strict:
            report.refuse(WHERE)
        _check_left(rows, names, report)
        draw = None
        if None in names:
            fractions, seed = chosen.fractions or DEFAULT_FRACTIONS, chosen.seed or 0
            draw = partial(by_shares, fractions=fractions, seed=seed, report=report)
            rows = draw(rows)
            record["drawn"] = {"fractions": list(fractions), "seed": seed}
            parts = " / ".join(f"{part:g}" for part in fractions)
            report.notices.append(f"splits drawn by picture, about {parts}, seed {seed}")
        declared = features is not None
        if features is None:
            assert encoder is not None
            rows, features = _encode(rows, encoder, chosen, cache, report, chosen.strict)
        numbers = {row.picture: features.numbers[row.picture] for row in rows}
        picked = LazyRows(features.rows, np.array([*numbers.values()], np.int64))
        digests = dict(zip(numbers, row_digests(picked), strict=True))
        if draw is None:
            _check_left(rows, names, report)
        else:
            rows = draw(rows, digests=digests)
            features = _with_mirrors(features, digests)
        note_copies(rows, digests, report)
        data = _assemble(rows, features, chosen, record, encoder, declared=declared)
    if (checked := data.source.record.get(CHECKED)) is not None:
        how = f"{checked} pictures were compared" if checked else "no picture was compared"
        report.notices.append(f"the features are taken as those of {data.source.encoder}: {how}")
    record = {**data.source.record, "skipped": dict(report.skipped), **_count(rows, data)}
    return replace(data, source=replace(data.source, record=record)), report


def assemble(
    captions: Iterable[CaptionRow],
    *,
    features: Mapping[str, ArrayLike] | None = None,
    source: Mapping[str, object] | None = None,
    progress: bool | None = None,
    **options: Any,
) -> CaptionData:
    """Build a data set: vocabulary, encoded captions, features; `write_dataset` checks it.

    Features are float16 or float32, read as needed from a table on disk.

    captions : rows of any reader, in any order
    features : name of a picture to its feature (D,) or grid (P, D), numbers; more names than there
        are captions for are allowed. None: the pictures are encoded. With `encoder` they are those
        of that encoder, which must give the same for 16 of the `pictures`, if there are some
    source : JSON-like facts to record as well, such as the names of the files
    progress : show bars; None: as the current work
    options : of `AssembleOptions`. Mirror images are encoded like pictures, or found in `features`
        under `mirror_of` the name
    OptionError : an option, before anything is read.
    DataError : the parts do not fit together; the message names the picture.
    OSError : a picture or folder cannot be read.
    """
    caller = "assemble"
    chosen = AssembleOptions(features=features, **options)
    folder = None if chosen.pictures is None else picture_folder(caller, chosen.pictures)
    declared = features is not None
    encoder = chosen.load_encoder() if not declared or chosen.encoder is not None else None
    rows = [_with_words(row) for row in captions]
    with work(progress=progress):
        if not declared:
            assert encoder is not None
            rows, features = _encode(rows, encoder, chosen)
        elif folder is not None:
            require_inside(caller, folder, [row.picture for row in rows])
        return _assemble(rows, features, chosen, source or {}, encoder, declared=declared)


def _with_words(row: CaptionRow) -> CaptionRow:
    """A row with its words. DataError : it has no split or no word."""
    if not isinstance(row, CaptionRow):
        got = f"got a {type(row).__name__} among the captions"
        expected = "rows, each CaptionRow(picture, caption, split)"
        raise InvalidTypeError("assemble", "", got, expected)
    thing = repr(row.picture[:100])
    if not is_text(row.picture):
        expected, cause = "a name that UTF-8 can hold", "rename the file, or set PYTHONUTF8=1"
        raise DataError("assemble", ascii(row.picture[:100]), "is not text", expected, cause)
    if row.split is None:
        raise DataError("assemble", thing, "has no split", expected="one, such as train")
    thing = f"split {row.split!r}: {thing}"
    if row.caption is None:
        raise DataError("assemble", thing, "has no caption", expected="one or more")
    if not (words := tokenize(row.caption)):
        got, expected = "has a caption without a word", "letters or digits in each"
        raise DataError("assemble", thing, got, expected)
    return row._replace(words=words)


def _clean(rows: Iterable[CaptionRow], report: ImportReport) -> list[CaptionRow]:
    """Captions on one line, with their words; those without any, and pictures left with none, are
    skipped. Odd captions are noted.
    """
    cleaned: list[CaptionRow] = []
    odd: dict[str, list[str]] = {}
    for (_, picture), group in itertools.groupby(rows, key=lambda row: (row.split, row.picture)):
        captions = [(row, row.caption) for row in group if row.caption is not None]
        before = len(cleaned)
        for row, text in captions:
            if words := tokenize(text):
                line = " ".join(filter(None, map(str.strip, text.split("\n"))))
                cleaned.append(row._replace(caption=line, words=words))
                if kind := odd_kind(line):
                    odd.setdefault(kind, []).append(f"{picture}: {line}")
            else:
                report.skip("captions without a word", picture)
        if len(cleaned) == before:
            report.skip("pictures without captions", picture)
    for kind, examples in odd.items():
        report.notice(kind, examples)
    return cleaned


def _match(
    rows: Sequence[CaptionRow], features: Table | None, folder: Path | None, report: ImportReport
) -> tuple[list[CaptionRow], Table | None, Match]:
    """Rows of pictures that are in the folder, or have features, by their paths in the folder or,
    without a file, by the names of their features; these features; what finds other names.

    DataError : no picture is left.
    """
    names = list(dict.fromkeys(row.picture for row in rows))
    files = None if folder is None else PictureFolder(WHERE, folder)
    in_folder = None if files is None else NameIndex([*files.pictures, *files.others], folder)
    index = in_folder if features is None else NameIndex(features)
    assert index is not None
    required = index.match(names)
    if names and not required.matches:
        known = [*features] if features is not None else files.pictures if files else []
        raise _no_match(names, known, required.unmatched, files if features is None else None)
    required.notice(report)
    lack = f"captioned pictures missing from {folder}"
    if features is not None:
        lack = "captioned pictures without features"
    for name, remark in required.unmatched.items():
        report.skip(lack, name, remark=remark)
    paths = {known: known for known in required.matches.values()}
    if features is not None and in_folder is not None:
        files_of = in_folder.match(paths)
        files_of.notice(report)
        paths |= files_of.matches
        if files_of.unmatched:
            kind = f"pictures with features and without a file in {folder}"
            report.notices.append(f"{kind}: {len(files_of.unmatched):,}")
    if files is not None:
        _note_rest(files, set(paths.values()), report)

    def match(names: Iterable[str]) -> Matches:
        known_names = index.match(names)
        pictures = {name: paths.get(known, known) for name, known in known_names.matches.items()}
        return known_names._replace(matches=pictures)

    pictures = {name: paths[known] for name, known in required.matches.items()}
    counts = Counter(pictures.values())
    joined = [picture for picture, count in counts.items() if count > 1]
    report.notice("pictures with captions under several names, joined", joined)
    rows = [row for row in rows if row.picture in pictures]
    rows = grouped(row._replace(picture=pictures[row.picture]) for row in rows)
    _note_twice(rows, report)
    if features is not None:
        numbers = {path: features.numbers[known] for known, path in paths.items()}
        features = Table(numbers, features.rows)
    return rows, features, match


def _no_match(
    names: Sequence[str],
    known: Sequence[str],
    remarks: Mapping[str, str],
    files: PictureFolder | None,
) -> DataError:
    """The error of captions of which no picture is among the known names, of files or features."""
    place = "the features" if files is None else f"{files.path} or the folders in it"
    likely = [name for name in names if remarks[name]]
    example = likely[0] if 2 * len(likely) > len(names) else names[0]
    others = ", nor are the others" if len(names) > 1 else ""
    missing = f"{example[:100]!r} is not in {place}{others}"
    if not known and files is not None:
        rest = describe_rest(files.path, files.others, files.unreadable)
        cause = "; ".join([f"no picture is in {place}", *rest])
    elif remarks[example] and len(missing + remarks[example]) < MAX_FIELD:
        cause = f"{missing}: {remarks[example]}"
    else:
        cause = (
            f"{missing}, where {known[0][:100]!r} is one of {len(known):,}: are the folder and the"
            " column of pictures right?"
        )
    return DataError(WHERE, "", "the captions have no picture left", "some", cause)


def _note_rest(files: PictureFolder, used: Collection[str], report: ImportReport) -> None:
    """Report on what else is in the folder."""
    for name in files.unnamed:
        report.skip("pictures whose names are not UTF-8; rename them", ascii(name)[1:-1])
    for name in files.pictures:
        if name not in used:
            report.skip(f"pictures in {files.path} without captions", name, captioned=False)
    unused = (name for name in files.others if name not in used)
    others = [name for name in unused if Path(name).name not in METADATA]
    report.notices += describe_rest(files.path, others, files.unreadable)


def _note_twice(rows: Iterable[CaptionRow], report: ImportReport) -> None:
    seen: set[tuple[object, ...]] = set()
    twice = []
    for row in rows:
        if (key := (row.split, row.picture, row.caption)) in seen:
            twice.append(row.picture)
        seen.add(key)
    kind = "repeated captions of one picture, kept; remove them from the file if that"
    report.notice(f"{kind} is a mistake", twice)


def _given_splits(
    rows: list[CaptionRow],
    splits: list[str | None],
    options: PrepareOptions,
    match: Match,
    record: dict[str, Any],
    report: ImportReport,
) -> tuple[list[CaptionRow], list[str | None]]:
    """Rows with the splits of the captions or lists, if there are some, and the splits' names."""
    lists = options.lists
    if None not in splits:
        options_given = {"lists": lists, "fractions": options.fractions, "seed": options.seed}
        for name, value in options_given.items():
            if value not in (None, {}):
                got = f"have the splits {', '.join(map(str, splits))} already"
                raise DataError(WHERE, "the captions", got, expected=f"no `{name}`")
    elif lists:
        record["lists"] = {split: Path(path).name for split, path in lists.items()}
        return by_lists(rows, lists, match, report, options.encoding), [*lists]
    return rows, splits


def _with_mirrors(features: Table, digests: Mapping[str, bytes]) -> Table:
    """Features in which a picture without a mirror image has that of a copy, if there is one."""
    mirrors = {
        digest: features.numbers[mirror_of(name)]
        for name, digest in digests.items()
        if mirror_of(name) in features
    }
    of_copies = {
        mirror_of(name): mirrors[digest] for name, digest in digests.items() if digest in mirrors
    }
    return Table({**of_copies, **features.numbers}, features.rows)


def _check_left(
    rows: Sequence[CaptionRow], splits: Sequence[str | None], report: ImportReport
) -> None:
    left = {row.split for row in rows}
    for split in splits:
        if split not in left:
            what = "the captions have" if split is None else f"split {split!r} has"
            cause = "; ".join(report.lines(captioned=True)) or "is a list empty?"
            raise DataError(WHERE, "", f"{what} no picture left", expected="some", cause=cause)


def _encode(
    rows: Sequence[CaptionRow],
    encoder: Encoder,
    options: AssembleOptions,
    cache: str | Path | None = None,
    report: ImportReport | None = None,
    strict: bool = True,
) -> tuple[list[CaptionRow], Table]:
    """Rows of the pictures that can be read, as all must if `strict`; and their features."""
    assert options.pictures is not None
    numbers = _numbered(rows)
    _vocabulary(rows, options)  # refused before the long work
    unreadable: dict[str, str] = {}
    path = None if cache is None else feature_path(Path(cache), options.pictures, encoder)
    features = encode_folder(
        options.pictures,
        [name for of_split in numbers.values() for name in of_split],
        encoder,
        cache=path,
        unreadable=None if strict else unreadable,
        mirrored=numbers.get("train", {}) if options.mirror else (),
    )
    for name, reason in unreadable.items():
        assert report is not None
        report.skip("pictures that cannot be read", name, remark=reason)
    if path is not None and path.exists() and report is not None:
        size = f"{path} keeps the features, {path.stat().st_size / 1e6:,.1f} MB"
        report.notices.append(f"{size}, for other data sets of these pictures; it may be removed")
    return [row for row in rows if row.picture not in unreadable], features


def _assemble(
    rows: Sequence[CaptionRow],
    features: Mapping[str, ArrayLike] | None,
    options: AssembleOptions,
    record: Mapping[str, object],
    encoder: Encoder | None,
    *,
    declared: bool = False,
) -> CaptionData:
    """The data set of rows with words, and of features by picture.

    declared : the features were given, and the encoder is said to have made them
    """
    assert features is not None
    numbers = _numbered(rows)
    vocabulary, settings = _vocabulary(rows, options)
    table = _table(numbers, features)
    if declared and encoder is not None:
        settings[CHECKED] = _check_encoder(encoder, table, numbers, options.pictures)
    if options.mirror and "train" in numbers:
        settings["mirror"] = True

    splits = {}
    for split, of_split in numbers.items():
        split_rows = [row for row in rows if row.split == split]
        images = [*of_split]
        views = 2 if options.mirror and split == "train" else 1
        mirrors = [mirror_of(name) for name in images] if views == 2 else []
        require_all(f"assemble: split {split!r}", mirrors, table, "mirror image")
        splits[split] = Split(
            captions=vocabulary.encode_words([row.words for row in split_rows], options.max_words),
            image_idxs=np.array([of_split[row.picture] for row in split_rows], np.int32),
            features=_features(table, [*images, *mirrors], options.float16),
            images=images,
            text=[row.caption or "" for row in split_rows],
            views=views,
        )
    source = Source(
        encoder=None if encoder is None else encoder.name,
        pictures=None if options.pictures is None else str(Path(options.pictures).resolve()),
        record={**record, **settings},
    )
    return CaptionData(vocabulary, splits, source=source)


def _check_encoder(
    encoder: Encoder,
    table: Table,
    numbers: Mapping[str, Collection[str]],
    folder: str | Path | None,
) -> int:
    """The number of pictures whose features a declared encoder was seen to make; 0: none is there.

    DataError : it makes features of another shape, or others of a picture in the folder.
    """
    thing = f"the encoder {encoder.name}"
    if table.rows.shape[1:] != tuple(encoder.shape):
        made_shape = f"makes features of shape {tuple(encoder.shape)}"
        expected = f"{table.rows.shape[1:]}, as the features have"
        raise DataError("assemble", thing, made_shape, expected, OTHER_ENCODER)
    names = [name for of_split in numbers.values() for name in of_split]
    compared: list[str] = []
    pictures: list[np.ndarray] = []
    if folder is not None:
        present = [name for name in names if (Path(folder) / name).is_file()]
        spread = [present[i] for i in evenly_spaced(len(present), COMPARED).tolist()]
        for name in dict.fromkeys([*spread, *present]):
            if len(compared) == COMPARED:
                break
            with contextlib.suppress(DataError):  # it cannot be read, so another one is compared
                pictures.append(read_picture(Path(folder) / name))
                compared.append(name)
    if not compared:
        return 0
    made = np.asarray(encoder.encode(pictures), np.float64).reshape(len(compared), -1)
    for name, feature in zip(compared, made, strict=True):
        norm = max(float(np.linalg.norm(feature)), float(np.finfo(np.float32).tiny))
        difference = np.linalg.norm(table[name].astype(np.float64).ravel() - feature) / norm
        if not difference <= TOLERANCE:
            error = f"makes a feature of {name[:100]!r} that differs by {difference:.1%}"
            raise DataError("assemble", thing, error, "the feature that was given", OTHER_ENCODER)
    return len(compared)


def _numbered(rows: Sequence[CaptionRow]) -> dict[str, dict[str, int]]:
    """The pictures of each split, numbered. DataError : there are none, or one is in two splits."""
    if not rows:
        expected = "at least one, of a split such as train"
        raise DataError("assemble", "", "got no caption", expected)
    numbers: dict[str, dict[str, int]] = {}
    split_of: dict[str, str] = {}
    for row in rows:
        assert row.split is not None
        if (other := split_of.setdefault(row.picture, row.split)) != row.split:
            got = f"is in split {other!r} and in {row.split!r}"
            cause = "scores would not be of unseen pictures"
            expected = "each picture in one split"
            raise DataError("assemble", repr(row.picture[:100]), got, expected, cause)
        of_split = numbers.setdefault(row.split, {})
        of_split.setdefault(row.picture, len(of_split))
    return numbers


def _vocabulary(
    rows: Sequence[CaptionRow], options: AssembleOptions
) -> tuple[Vocabulary, dict[str, Any]]:
    """The frequent words of the train split, or of all without one; and settings, for the record."""
    words = [row.words for row in rows if row.split == "train"] or [row.words for row in rows]
    most, least = options.vocabulary_size, options.min_count
    if least is None:
        keeps_all = most or len(words) < TINY_CAPTIONS.number
        least = 1 if keeps_all else 2 if len(words) < SPARSE_CAPTIONS.number else 5
    vocabulary = Vocabulary.build_from_words(words, least, most=most)
    if len(vocabulary) == len(SPECIAL):
        got = f"occurs {least} times or more in the captions for the vocabulary"
        cause = "choose a smaller `min_count`"
        raise DataError("assemble", "no word", got, "at least one", cause)
    settings = {"min_count": least, "max_words": options.max_words}
    return vocabulary, settings if most is None else {**settings, "vocabulary_size": most}


def _table(numbers: Mapping[str, Collection[str]], features: Mapping[str, ArrayLike]) -> Table:
    """Features as a table, checked: every picture has one, and all have one shape."""
    for split, pictures in numbers.items():
        require_all(f"assemble: split {split!r}", [*pictures], features, "features")
    if isinstance(features, Table):
        return features
    pictures = [picture for pictures in numbers.values() for picture in pictures]
    names = [name for picture in pictures for name in (picture, mirror_of(picture))]
    rows = {name: np.asarray(features[name]) for name in names if name in features}
    first, like = next(iter(rows.items()))
    for picture, row in rows.items():
        if row.ndim not in (1, 2) or row.shape != like.shape or row.dtype.kind not in "fiu":
            got = f"has shape {row.shape} and dtype {row.dtype}"
            like_that = f"as many as that of {first[:100]!r}, {like.shape}"
            expected = f"numbers (D,) or (P, D), {like_that}"
            raise DataError("assemble", f"the feature of {picture[:100]!r}", got, expected)
    stacked = np.stack([*rows.values()])
    check_finite("assemble", stacked, list(rows))
    return Table({name: number for number, name in enumerate(rows)}, stacked)


def _features(table: Table, rows: Sequence[str], float16: bool) -> RowSource:
    """Features (m, *shape) of the rows, as float16 or float32."""
    if table.rows.dtype in (np.float16, np.float32):
        features = table.pick(rows)
    else:
        features = table.pick(rows, lambda block: block.astype(np.float32))
    if not float16 or features.dtype == np.float16:
        return features
    for caller, block in blocks(features):
        largest = np.abs(block).reshape(len(block), -1).max(axis=1)
        if (large := np.flatnonzero(largest > np.finfo(np.float16).max)).size:
            name = rows[caller.start + large[0]].partition("\0")[0]
            thing, cause = f"the feature of {name[:100]!r}", "keep float32"
            got = "has a number above 65,504, which float16 cannot hold"
            raise DataError("assemble", thing, got, cause=cause)
    return table.pick(rows, lambda block: block.astype(np.float16))


def _count(rows: Sequence[CaptionRow], data: CaptionData) -> dict[str, Mapping[str, float]]:
    """Captions cut, and the share of unknown words, by split."""
    cut, unknown, words = dict.fromkeys(data.splits, 0), {}, data.vocabulary
    for row in rows:
        cut[str(row.split)] += len(row.words) > data.max_words
    for name, split in data.splits.items():
        ids = split.captions
        unknown[name] = round(float((ids == words.unk).sum() / words.is_word(ids).sum()), 4)
    return {"cut": cut, "unknown": unknown}
