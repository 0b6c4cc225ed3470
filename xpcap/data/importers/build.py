"""import_captions: files of captions, pictures or features to a data set; what does not fit is left out and counted, or refused."""

import dataclasses
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from xpcap.data.dataset import CaptionData
from xpcap.data.features import Table
from xpcap.data.importers.assemble import assemble
from xpcap.data.importers.detect import Named, read_captions
from xpcap.data.importers.features import encode_folder, read_features
from xpcap.data.importers.findings import Findings
from xpcap.data.importers.places import Files, find_all
from xpcap.data.importers.splits import DEFAULT_FRACTIONS, ByPicture, BySplit, by_fractions, by_lists
from xpcap.data.importers.tables import Columns
from xpcap.data.vocabulary import has_word
from xpcap.distributed import SINGLE, Group, RankDone
from xpcap.encoders import PHOTOGRAPHS, Encoder, find_encoder
from xpcap.encoders.finding import describe_others
from xpcap.errors import DataError

WHERE = "import_captions"


def import_captions(
    files: Sequence[Named],
    *,
    lists: Mapping[str, str | Path] | None = None,
    fractions: Sequence[float] | None = None,
    seed: int = 0,
    columns: Columns | None = None,
    features_file: str | Path | None = None,
    pictures: str | Path | None = None,
    encoder: Encoder | None = None,
    kept: str | Path | None = None,
    strict: bool = False,
    progress: bool = False,
    mirror: bool = False,
    group: Group = SINGLE,
    **how: Any,
) -> tuple[CaptionData, Findings]:
    """Read captions of any known form, split them, bring in features, and assemble a data set.

    Parameters
    ----------
    files, columns : as in `read_captions`
    lists : split name to a file of picture names, for files without splits
    fractions, seed : of train, val and test, and of the draw, for files without splits and without lists
    features_file, pictures, encoder : an .npz; the folder of the pictures; what encodes them, if there is no .npz (efficientnet-lite2)
    kept : file that features go to as they are made, so that a killed encoding can go on; remove it once the data set is written
    strict : refuse what would be left out: captions and pictures without each other, captions without a word, rows of another form, ...
    mirror : encode the mirror images of the train split's pictures as well, which training takes half the time
    group : ranks that share the encoding out; rank 0 alone makes the data set
    how : `min_count`, `vocabulary_size`, `max_words`, `pca` and `float16` of `assemble`

    Returns
    -------
    the data set, whose record holds the counts, and the findings

    Raises
    ------
    RankDone : this is another rank than 0, and has done its part.
    DataError : nothing is left, a picture is in two splits, a name leads out of the folder, a file is damaged; or anything, if `strict`.
    OSError : a file cannot be read.
    """
    if features_file is not None:
        _check_nothing_to_encode(encoder, mirror, group)
    findings = Findings()
    read = read_captions(files, columns=columns, findings=findings, progress=progress)
    features = None if features_file is None else read_features(features_file)
    said, places, rows = _settle(_tidy(_by_split(read), findings), features, pictures, findings)
    record: dict[str, Any] = {"captions": [Path(path).name for _, path in files], "forms": findings.forms}
    divided = _divide(said, lists, fractions, seed, record, findings)
    captions = {split: {places.get(name, name): texts for name, texts in by_picture.items()} for split, by_picture in divided.items()}
    if strict:
        findings.refuse(WHERE)
    _check_left(captions, findings)
    if rows is None:
        assert pictures is not None
        encoder = encoder or find_encoder(PHOTOGRAPHS)
        mirrored = captions.get("train", {}) if mirror else {}
        captions, rows = _encode(captions, Path(pictures), encoder, kept, progress, strict, findings, mirrored, group)
    if features_file is not None:
        record["features"] = Path(features_file).name
    data = assemble(captions, features=rows, pictures=pictures, mirror=mirror, **how)
    record |= {**data.source.record, "skipped": dict(findings.skipped), **count(data)}
    source = dataclasses.replace(data.source, encoder=None if encoder is None else encoder.name, record=record)
    return dataclasses.replace(data, source=source), findings


def _check_nothing_to_encode(encoder: Encoder | None, mirror: bool, group: Group) -> None:
    if mirror or encoder is not None:
        other = f"the encoder {encoder.name!r}" if encoder else "`mirror`, which encodes pictures"
        raise DataError(f"{WHERE}: got features and {other}, expected one of them")
    if group.rank:
        raise RankDone


def count(data: CaptionData) -> dict[str, Any]:
    """Captions cut, and the share of unknown words, by split."""
    cut, unknown = {}, {}
    words = data.vocabulary
    for name, split in data.splits.items():
        ids = np.asarray(split.captions)
        full = np.flatnonzero(ids[:, -1] == words.end)
        cut[name] = sum(len(caption) > ids.shape[1] - 2 for caption in data.words(name, full))
        inside = (ids != words.null) & (ids != words.start) & (ids != words.end)
        unknown[name] = round(float((ids == words.unk).sum() / inside.sum()), 4)
    return {"cut": cut, "unknown": unknown}


def _by_split(read: BySplit | ByPicture) -> BySplit:
    return read if any(isinstance(inner, dict) for inner in read.values()) else {"": read}  # type: ignore[dict-item, return-value]  # one or the other


def _tidy(captions: BySplit, findings: Findings) -> BySplit:
    """Captions without line ends and space around them; those without a word and pictures without captions left out."""
    tidied: BySplit = {}
    for split, by_picture in captions.items():
        tidied[split] = {}
        for picture, texts in by_picture.items():
            if not _encodable([picture, *texts]):
                raise DataError(f"{WHERE}: {picture[:100]!r} or a caption of it holds half a character, expected text that UTF-8 can hold")
            kept = [re.sub(r"\s*\n\s*", " ", text.strip()) for text in texts if has_word(text)]
            for _ in range(len(texts) - len(kept)):
                findings.skip("captions without a word", picture)
            if kept:
                tidied[split][picture] = kept
            else:
                findings.skip("pictures without captions", picture)
    return tidied


def _encodable(texts: Sequence[str]) -> bool:
    try:
        "".join(texts).encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _settle(
    captions: BySplit, features: Table | None, folder: str | Path | None, findings: Findings
) -> tuple[BySplit, dict[str, str], Table | None]:  # fmt: skip
    """Captions of the pictures that are there, where in the folder each of them is, and features under the names of the files."""
    names = list(dict.fromkeys(name for by_picture in captions.values() for name in by_picture))
    if folder is None and features is None:
        raise DataError(f"{WHERE}: got neither features nor pictures, expected one or both; where do the features come from?")
    inside = None if folder is None else Files(WHERE, Path(folder))
    in_folder, in_features = (None if known is None else find_all(WHERE, names, known) for known in (inside, features))
    files, rows = ({} if places is None else places.found for places in (in_folder, in_features))
    there, lack = (
        (in_folder, f"captioned pictures that are not in {folder}") if in_features is None else (in_features, "captioned pictures without features")
    )
    assert there is not None
    respelt = [f"{name} is {called}" for name, called in there.respelt.items()]
    findings.note("names that differ from those there in capitals or Unicode form alone, taken as the same", respelt)
    for name in names:
        if name not in there.found:
            findings.skip(lack, name, remark=f"did you mean {there.near[name]}?" if name in there.near else "")
    if inside is not None:
        _note_rest(inside, files, findings)
        if faceless := sum(name not in files for name in there.found):
            findings.notes.append(f"pictures with features and without a file in {folder}: {faceless:,}")
    kept = {split: {name: texts for name, texts in by_picture.items() if name in there.found} for split, by_picture in captions.items()}
    _note_twice(kept, findings)
    if features is None:
        return kept, files, None
    return kept, files, Table({files.get(name, name): features.numbers[row] for name, row in rows.items()}, features.rows)


def _note_twice(captions: BySplit, findings: Findings) -> None:
    """Captions that one picture has more than once, word for word."""
    pictures = [pair for by_picture in captions.values() for pair in by_picture.items()]
    twice = [name for name, texts in pictures for _ in range(len(texts) - len(set(texts)))]
    findings.note("captions that a picture has twice, kept as they are; remove them from the file if that is a mistake", twice)


def _note_rest(inside: Files, files: Mapping[str, str], findings: Findings) -> None:
    """Pictures without captions, other files, and folders that cannot be read."""
    directly, deeper = inside.without_captions(files.values())
    for name in directly:
        findings.skip(f"pictures in {inside.folder} without captions", name)
    findings.note(f"pictures in folders of {inside.folder} without captions", deeper)
    if others := describe_others(inside.folder, inside.others(files.values())):
        findings.notes.append(others)
    findings.notes += [f"folder {folder} cannot be read: {why}" for folder, why in inside.inside.unreadable.items()]


def _divide(
    captions: BySplit, lists: Mapping[str, str | Path] | None, fractions: Sequence[float] | None, seed: int, record: dict[str, Any], findings: Findings
) -> BySplit:  # fmt: skip
    if lists and fractions:
        raise DataError(f"{WHERE}: got lists and fractions, expected one of them to make splits")
    if "" not in captions:
        if lists or fractions:
            raise DataError(f"{WHERE}: the captions have the splits {', '.join(captions)} already, expected no {'lists' if lists else 'fractions'}")
        return captions
    if lists:
        record["lists"] = {split: Path(path).name for split, path in lists.items()}
        return by_lists(captions[""], lists, findings)
    _check_left(captions, findings)
    fractions = DEFAULT_FRACTIONS if fractions is None else fractions
    record["drawn"] = {"fractions": list(fractions), "seed": seed}
    findings.notes.append(f"splits drawn by picture, {' / '.join(f'{part:g}' for part in fractions)}, seed {seed}")
    return by_fractions(captions[""], fractions, seed)


def _check_left(captions: BySplit, findings: Findings) -> None:
    if empty := [split for split, by_picture in captions.items() if not by_picture]:
        what = f"split {empty[0]!r} has" if empty[0] else "the captions have"
        raise DataError(f"{WHERE}: {what} no picture left, expected some; {'; '.join(findings.lines()) or 'is a list empty?'}")


def _encode(
    captions: BySplit, folder: Path, encoder: Encoder, kept: str | Path | None, progress: bool, strict: bool, findings: Findings,
    mirrored: Collection[str], group: Group,
) -> tuple[BySplit, Table]:  # fmt: skip
    """Features of all pictures, and the captions of those that could be read."""
    names = list(dict.fromkeys(name for by_picture in captions.values() for name in by_picture))
    skipped: dict[str, str] = {}
    unreadable = None if strict else skipped
    features = encode_folder(folder, names, encoder, progress=progress, kept=kept, unreadable=unreadable, mirrored=mirrored, group=group)
    told: set[str] = set()
    for name, why in skipped.items():
        reason = why.removeprefix(f"read_picture: {folder / name}").lstrip(": ")
        findings.skip("pictures that cannot be read", name, remark="" if reason in told else reason)
        told.add(reason)
    left = {split: {name: texts for name, texts in by_picture.items() if name not in skipped} for split, by_picture in captions.items()}
    _check_left(left, findings)
    return left, features
