"""Make a data set of caption files, or of rows. Open it at `import_captions`.

All options are checked first. Rows are then read, tokenised, matched with pictures or features, and
split. Pictures are encoded last, since that takes longest and other errors come sooner.
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
from xpcap.distributed.work import work
from xpcap.encoders import Encoder, read_picture
from xpcap.encoders.finding import describe_rest
from xpcap.errors import DataError, InvalidTypeError, OptionError
from xpcap.files.read_write import is_text
from xpcap.prepare.detect import METADATA, CaptionFile, read_captions
from xpcap.prepare.features import (
    Table,
    encode_folder,
    feature_path,
    mirror_of,
    read_features,
    require_all,
)
from xpcap.prepare.names import Matches, NameIndex, PictureFolder, picture_folder, require_inside
from xpcap.prepare.options import AssembleOptions, PrepareOptions
from xpcap.prepare.rows import CaptionRow, ImportReport, grouped
from xpcap.prepare.splits import by_lists, by_shares, note_copies, our_name
from xpcap.prepare.text import odd_kind

CHECKED = "encoder_checked"  # key of a record: the number of pictures compared
MAX_COMPARED = 16  # pictures that check a declared encoder
TOLERANCE = 0.01  # relative to the norm: float16 differs by 0.0003, a resaved JPEG by 0.05
OTHER_ENCODER = "another encoder, other weights, or pictures that were changed since?"
DEFAULT_FRACTIONS = (0.8, 0.1, 0.1)
MAX_CAUSE = 400  # characters of a cause that names a reason
Match = Callable[[Iterable[str]], Matches]


def import_captions(
    files: Iterable[CaptionFile],
    *,
    cache: str | Path | None = None,
    progress: bool | None = None,
    **options: Any,
) -> tuple[CaptionData, ImportReport]:
    """Read captions of any known format, split them, add features, and assemble a data set.

    The data set's record has counts; the report has omissions.

    files : as in `read_captions`
    cache : folder for a file of features, named in a notice: a later import of these pictures, also
        after a kill, encodes only new ones
    progress : show bars; None: as the current work
    options : of `PrepareOptions`; if `files` is a single folder, it is the default of `pictures`
    OptionError : an option is invalid; nothing has been read yet.
    DataError : no caption is left, a picture is in two splits, a name leads out of the folder, a
        file is damaged, or, with `strict`, something would be left out.
    OSError : a file cannot be read.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for k in range(10):
    ...         _ = Path(folder, f"{k}.txt").write_text("A dog runs.")
    ...         _ = Path(folder, f"{k}.ppm").write_bytes(b"P6 8 8 255 " + bytes([25 * k]) * 192)
    ...     data, report = import_captions([(None, folder)], encoder="histogram", progress=False)
    >>> data.split("train")
    Split(8 captions of 8 pictures)
    """
    files = list(files)
    origins = options.get("pictures"), options.get("features_file")
    if len(files) == 1 and Path(files[0][1]).is_dir() and origins == (None, None):
        options["pictures"] = files[0][1]
    chosen = PrepareOptions(**options)
    report = ImportReport()
    record: dict[str, Any] = {"captions": [Path(path).absolute().name for _, path in files]}
    folder = None if chosen.pictures is None else picture_folder(chosen.pictures)
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
            raise OptionError(
                "`mirror` is given, expected a train split, whose pictures get mirror images"
            )
        if chosen.strict:
            report.refuse()
        _check_left(rows, names, report)
        draw = None
        if None in names:
            fractions = chosen.fractions or DEFAULT_FRACTIONS
            seed = chosen.seed or 0
            draw = partial(by_shares, fractions=fractions, seed=seed, report=report)
            rows = draw(rows)
            record["drawn"] = {"fractions": list(fractions), "seed": seed}
            shares = " / ".join(f"{fraction:g}" for fraction in fractions)
            report.notices.append(f"splits drawn by picture, about {shares}, seed {seed}")
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
        how = f"pictures compared: {checked}" if checked else "no picture was compared"
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

    Features become float16 or float32; those of a table on disk are read as needed.

    captions : rows of any reader, in any order
    features : name of a picture to its feature (D,) or grid (P, D), numbers; further names are
        ignored. None: the pictures are encoded. With `encoder`, which declares who made them, up to
        16 of the `pictures` are encoded and compared
    source : JSON-like facts for the record, such as the names of the files
    progress : show bars; None: as the current work
    options : of `AssembleOptions`. Mirror images are encoded like pictures, or found in `features`
        under the name `mirror_of(name)`
    OptionError : an option is invalid; nothing has been read yet.
    DataError : the arguments do not fit together; the message names the picture.
    OSError : a picture or folder cannot be read.

    Examples
    --------
    >>> rows = [CaptionRow("a.jpg", "A dog runs.", "train")]
    >>> assemble(rows, features={"a.jpg": np.ones(4)}, progress=False)
    CaptionData({'train': Split(1 captions of 1 pictures)}, feature_shape=(4,))
    """
    chosen = AssembleOptions(features=features, **options)
    folder = None if chosen.pictures is None else picture_folder(chosen.pictures)
    declared = features is not None
    encoder = chosen.load_encoder() if not declared or chosen.encoder is not None else None
    rows = [_with_words(row) for row in captions]
    with work(progress=progress):
        if not declared:
            assert encoder is not None
            rows, features = _encode(rows, encoder, chosen)
        elif folder is not None:
            require_inside(folder, [row.picture for row in rows])
        return _assemble(rows, features, chosen, source or {}, encoder, declared=declared)


def _with_words(row: CaptionRow) -> CaptionRow:
    """A row with its words, and `our_name` of its split. DataError : it has no split, or no word."""
    if not isinstance(row, CaptionRow):
        raise InvalidTypeError(
            f"a {type(row).__name__} is among the captions, expected rows, each a"
            " CaptionRow(picture, caption, split)"
        )
    if not is_text(row.picture):
        raise DataError(
            f"{row.picture[:100]!a} is not text, expected a name that UTF-8 can hold; rename"
            " the file, or set PYTHONUTF8=1"
        )
    thing = repr(row.picture[:100])
    if row.split is None:
        raise DataError(f"{thing} has no split, expected a split, such as train")
    thing = f"split {row.split!r}: {thing}"
    if row.caption is None:
        raise DataError(f"{thing} has no caption, expected at least one")
    if not (words := tokenize(row.caption)):
        raise DataError(f"{thing} has a caption without a word, expected letters or digits in each")
    return row._replace(words=words, split=our_name(row.split))


def _clean(rows: Iterable[CaptionRow], report: ImportReport) -> list[CaptionRow]:
    """Rows with captions on one line, and with words. Captions without words, and pictures without
    captions, are skipped; odd captions are reported.
    """
    cleaned: list[CaptionRow] = []
    odd: dict[str, list[str]] = {}
    for (_, picture), group in itertools.groupby(rows, key=lambda row: (row.split, row.picture)):
        captions = [(row, row.caption) for row in group if row.caption is not None]
        for row, text in captions:
            if words := tokenize(text):
                line = " ".join(filter(None, map(str.strip, text.split("\n"))))
                cleaned.append(row._replace(caption=line, words=words))
                if kind := odd_kind(line):
                    odd.setdefault(kind, []).append(f"{picture}: {line}")
            else:
                report.skip("captions without a word", picture)
        if not captions:
            report.skip("pictures without captions", picture)
    for kind, examples in odd.items():
        report.notice(kind, examples)
    return cleaned


def _match(
    rows: Sequence[CaptionRow], features: Table | None, folder: Path | None, report: ImportReport
) -> tuple[list[CaptionRow], Table | None, Match]:
    """Rows, features, and a function that matches further names.

    Rows are those of pictures that are in the folder, or have features. Their `picture` is the path
    in the folder, or the name of the features if there is no file.

    DataError : no picture is left.
    """
    names = list(dict.fromkeys(row.picture for row in rows))
    files = None if folder is None else PictureFolder(folder)
    in_folder = None if files is None else NameIndex([*files.pictures, *files.others], folder)
    index = in_folder if features is None else NameIndex(features)
    assert index is not None
    required = index.match(names)
    if names and not required.matches:
        if features is not None:
            raise _no_match(names, [*features], required.unmatched, None)
        known = files.pictures if files else []
        raise _no_match(names, known, required.unmatched, files)
    required.notice(report)
    lack = f"captioned pictures missing from {folder}"
    if features is not None:
        lack = "captioned pictures without features"
    for name, reason in required.unmatched.items():
        report.skip(lack, name, reason=reason)
    paths = {known: known for known in required.matches.values()}
    if features is not None and in_folder is not None:
        files_of = in_folder.match(paths)
        files_of.notice(report)
        paths |= files_of.matches
        if files_of.unmatched:
            kind = f"pictures with features and without a file in {folder}"
            report.notices.append(f"{kind}: {len(files_of.unmatched):,}")
    if files is not None:
        _report_unused(files, set(paths.values()), report)

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
    _report_repeated(rows, report)
    if features is not None:
        numbers = {path: features.numbers[known] for known, path in paths.items()}
        features = Table(numbers, features.rows)
    return rows, features, match


def _no_match(
    names: Sequence[str],
    known: Sequence[str],
    reasons: Mapping[str, str],
    files: PictureFolder | None,
) -> DataError:
    """The error of captions none of whose pictures is among the files or features."""
    place = "the features" if files is None else f"{files.path} or the folders in it"
    likely = [name for name in names if reasons[name]]
    example = likely[0] if 2 * len(likely) > len(names) else names[0]
    others = ", nor are the others" if len(names) > 1 else ""
    missing = f"{example[:100]!r} is not in {place}{others}"
    if not known and files is not None:
        rest = describe_rest(files.path, files.others, files.unreadable)
        cause = "; ".join([f"no picture is in {place}", *rest])
    elif reasons[example] and len(missing + reasons[example]) < MAX_CAUSE:
        cause = f"{missing}: {reasons[example]}"
    else:
        cause = (
            f"{missing}, where {known[0][:100]!r} is one of {len(known):,}: are the folder and the"
            " column of pictures right?"
        )
    return DataError(f"the captions have no picture left, expected at least one; {cause}")


def _report_unused(files: PictureFolder, used: Collection[str], report: ImportReport) -> None:
    """Report pictures without captions, and other files of the folder."""
    for name in files.unnamed:
        report.skip("pictures whose names are not UTF-8; rename them", ascii(name)[1:-1])
    for name in files.pictures:
        if name not in used:
            report.skip(f"pictures in {files.path} without captions", name, captioned=False)
    unused = (name for name in files.others if name not in used)
    others = [name for name in unused if Path(name).name not in METADATA]
    report.notices += describe_rest(files.path, others, files.unreadable)


def _report_repeated(rows: Iterable[CaptionRow], report: ImportReport) -> None:
    seen: set[tuple[object, ...]] = set()
    repeated = []
    for row in rows:
        if (key := (row.split, row.picture, row.caption)) in seen:
            repeated.append(row.picture)
        seen.add(key)
    kind = "repeated captions of one picture, kept; remove them from the file if that"
    report.notice(f"{kind} is a mistake", repeated)


def _given_splits(
    rows: list[CaptionRow],
    splits: list[str | None],
    options: PrepareOptions,
    match: Match,
    record: dict[str, Any],
    report: ImportReport,
) -> tuple[list[CaptionRow], list[str | None]]:
    """Rows with the splits of the captions or lists, if any, and the names of the splits."""
    lists = options.lists
    if None not in splits:
        options_given = {"lists": lists, "fractions": options.fractions, "seed": options.seed}
        for name, value in options_given.items():
            if value not in (None, {}):
                raise DataError(
                    f"the captions have the splits {', '.join(map(str, splits))} already, expected"
                    f" no `{name}`"
                )
    elif lists:
        record["lists"] = {split: Path(path).name for split, path in lists.items()}
        return by_lists(rows, lists, match, report, options.encoding), [*lists]
    return rows, splits


def _with_mirrors(features: Table, digests: Mapping[str, bytes]) -> Table:
    """Features with mirror images for copies too: a copy gets that of the encoded picture."""
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
    present = {row.split for row in rows}
    for split in splits:
        if split not in present:
            owner = "the captions have" if split is None else f"split {split!r} has"
            cause = "; ".join(report.lines(captioned=True)) or "is a list empty?"
            raise DataError(f"{owner} no picture left, expected at least one; {cause}")


def _encode(
    rows: Sequence[CaptionRow],
    encoder: Encoder,
    options: AssembleOptions,
    cache: str | Path | None = None,
    report: ImportReport | None = None,
    strict: bool = True,
) -> tuple[list[CaptionRow], Table]:
    """Rows of the pictures that can be read, and their features; `strict`: all must be readable."""
    assert options.pictures is not None
    numbers = _numbered(rows)
    _vocabulary(rows, options)  # an error comes before the long work
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
        report.skip("pictures that cannot be read", name, reason=reason)
    if path is not None and path.exists() and report is not None:
        size = f"{path} keeps the features, {path.stat().st_size / 1e6:,.1f} MB"
        report.notices.append(f"{size}, for other data sets of these pictures; you may delete it")
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

    declared : the user gave the features, and says that the encoder made them
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
        require_all(f"split {split!r}: ", mirrors, table, "mirror image")
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
    """Compare the features of up to 16 pictures with the declared encoder's; returns their number.

    DataError : shapes or features differ.
    """
    thing = f"the encoder {encoder.name}"
    if table.rows.shape[1:] != tuple(encoder.shape):
        raise DataError(
            f"{thing} makes features of shape {tuple(encoder.shape)}, expected"
            f" {table.rows.shape[1:]}, the shape of the features; {OTHER_ENCODER}"
        )
    names = [name for of_split in numbers.values() for name in of_split]
    compared: list[str] = []
    pictures: list[np.ndarray] = []
    if folder is not None:
        present = [name for name in names if (Path(folder) / name).is_file()]
        spread = [present[i] for i in evenly_spaced(len(present), MAX_COMPARED).tolist()]
        for name in dict.fromkeys([*spread, *present]):
            if len(compared) == MAX_COMPARED:
                break
            with contextlib.suppress(DataError):  # an unreadable picture is replaced by the next
                pictures.append(read_picture(Path(folder) / name))
                compared.append(name)
    if not compared:
        return 0
    encoded = np.asarray(encoder.encode(pictures), np.float64).reshape(len(compared), -1)
    for name, feature in zip(compared, encoded, strict=True):
        norm = max(float(np.linalg.norm(feature)), float(np.finfo(np.float32).tiny))
        difference = np.linalg.norm(table[name].astype(np.float64).ravel() - feature) / norm
        if not difference <= TOLERANCE:
            raise DataError(
                f"{thing} makes a feature of {name[:100]!r} that differs by {difference:.1%},"
                f" expected the feature that was given; {OTHER_ENCODER}"
            )
    return len(compared)


def _numbered(rows: Sequence[CaptionRow]) -> dict[str, dict[str, int]]:
    """The pictures of each split, numbered. DataError : there are none, or one is in two splits."""
    if not rows:
        raise DataError("there is no caption, expected at least one, of a split such as train")
    numbers: dict[str, dict[str, int]] = {}
    split_of: dict[str, str] = {}
    for row in rows:
        assert row.split is not None
        if (split := split_of.setdefault(row.picture, row.split)) != row.split:
            raise DataError(
                f"{row.picture[:100]!r} is in split {split!r} and in {row.split!r}, expected"
                " each picture in one split; scores are to be of pictures that training has not"
                " seen"
            )
        of_split = numbers.setdefault(row.split, {})
        of_split.setdefault(row.picture, len(of_split))
    return numbers


def _vocabulary(
    rows: Sequence[CaptionRow], options: AssembleOptions
) -> tuple[Vocabulary, dict[str, Any]]:
    """The frequent words of train, or of all splits if there is no train; settings for the record."""
    words = [row.words for row in rows if row.split == "train"] or [row.words for row in rows]
    max_size = options.vocabulary_size
    min_count = options.min_count
    if min_count is None:
        min_count = 2 if len(words) < SPARSE_CAPTIONS.number else 5
        if max_size or len(words) < TINY_CAPTIONS.number:
            min_count = 1
    vocabulary = Vocabulary.build_from_words(words, min_count, max_size=max_size)
    if len(vocabulary) == len(SPECIAL):
        raise DataError(
            f"no word occurs {min_count} times or more in the captions for the vocabulary, expected"
            " at least one; choose a smaller `min_count`"
        )
    settings = {"min_count": min_count, "max_words": options.max_words}
    return vocabulary, settings if max_size is None else {**settings, "vocabulary_size": max_size}


def _table(numbers: Mapping[str, Collection[str]], features: Mapping[str, ArrayLike]) -> Table:
    """Features as a table. DataError : a picture has none, or shapes differ."""
    for split, pictures in numbers.items():
        require_all(f"split {split!r}: ", [*pictures], features, "features")
    if isinstance(features, Table):
        return features
    pictures = [picture for pictures in numbers.values() for picture in pictures]
    names = [name for picture in pictures for name in (picture, mirror_of(picture))]
    rows = {name: np.asarray(features[name]) for name in names if name in features}
    first, like = next(iter(rows.items()))
    for picture, row in rows.items():
        if row.ndim not in (1, 2) or row.shape != like.shape or row.dtype.kind not in "fiu":
            raise DataError(
                f"the feature of {picture[:100]!r} has shape {row.shape} and dtype {row.dtype},"
                f" expected numbers (D,) or (P, D), as {first[:100]!r} has: {like.shape}"
            )
    stacked = np.stack([*rows.values()])
    check_finite("", stacked, list(rows))
    return Table({name: number for number, name in enumerate(rows)}, stacked)


def _features(table: Table, rows: Sequence[str], float16: bool) -> RowSource:
    """Features (m, *shape) of the rows, as float16 or float32."""
    if table.rows.dtype in (np.float16, np.float32):
        features = table.pick(rows)
    else:
        features = table.pick(rows, lambda block: block.astype(np.float32))
    if not float16 or features.dtype == np.float16:
        return features
    for span, block in blocks(features):
        largest = np.abs(block).reshape(len(block), -1).max(axis=1)
        if (large := np.flatnonzero(largest > np.finfo(np.float16).max)).size:
            name = rows[span.start + large[0]].partition("\0")[0]
            raise DataError(
                f"the feature of {name[:100]!r} has a number above 65,504, which float16 cannot"
                " hold; keep float32"
            )
    return table.pick(rows, lambda block: block.astype(np.float16))


def _count(rows: Sequence[CaptionRow], data: CaptionData) -> dict[str, Mapping[str, float]]:
    """The number of captions cut, and the share of unknown words, by split."""
    cut = dict.fromkeys(data.splits, 0)
    unknown = {}
    words = data.vocabulary
    for row in rows:
        cut[str(row.split)] += len(row.words) > data.max_words
    for name, split in data.splits.items():
        ids = split.captions
        unknown[name] = round(float((ids == words.unk).sum() / words.is_word(ids).sum()), 4)
    return {"cut": cut, "unknown": unknown}
