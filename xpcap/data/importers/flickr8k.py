"""The importer for Flickr8k's layout: a token file, lists of picture names, and pictures or their features as .npz."""

import re
import sys
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any

import numpy as np

from xpcap.data.dataset import CaptionData, Split, check_finite
from xpcap.data.npz import read_npz
from xpcap.data.vocabulary import SPECIAL, Vocabulary, tokenize
from xpcap.encoders import Encoder, HistogramEncoder, read_picture
from xpcap.errors import DataError
from xpcap.files import read_text
from xpcap.progress import bar

MOST_TEXT = 256 << 20  # bytes of a token file or list: more than a hundred times what Flickr8k's take
_LINE = re.compile(r"(?P<key>(?P<image>[^\t]+?)#\d+)\t(?P<caption>.*)")


def read_token_file(path: Path) -> dict[str, list[str]]:
    """Picture name to its captions, from lines ``NAME#K<TAB>CAPTION``.

    Raises
    ------
    DataError : a line of another form, a caption without a word, or a second line for one NAME#K, with its number.
    """
    captions: dict[str, list[str]] = {}
    seen: set[str] = set()
    for number, line in enumerate(_read(path).split("\n"), start=1):
        line = line.rstrip()
        if not line:
            continue
        match = _LINE.fullmatch(line)
        if not match:
            raise DataError(f"prepare: {path}, line {number} is {line[:60]!r}, expected NAME#K, a tab and a caption")
        if not tokenize(match["caption"]):
            raise DataError(f"prepare: {path}, line {number} has no word in it, expected a caption in letters or digits; remove the line or mend it")
        if match["key"] in seen:
            raise DataError(
                f"prepare: {path}, line {number} is a second {match['key'][:100]!r}, expected one caption for each; was the file joined to itself?"
            )
        seen.add(match["key"])
        captions.setdefault(match["image"], []).append(match["caption"])
    if not captions:
        raise DataError(f"prepare: {path} has no line in it, expected NAME#K, a tab and a caption on each")
    return captions


def read_list(path: Path) -> list[str]:
    """Picture names, one a line. DataError : none at all, or one twice."""
    names = [line.strip() for line in _read(path).split("\n") if line.strip()]
    if not names:
        raise DataError(f"prepare: {path} is empty, expected one picture name a line; a split needs at least one picture")
    if (twice := _first_twice(names)) is not None:
        raise DataError(f"prepare: {path} lists {twice[:100]!r} twice, expected each picture once")
    return names


def read_features(path: Path) -> tuple[dict[str, int], np.ndarray]:
    """Picture name to row, and features (m, D), from an .npz with ``names`` and ``features``.

    Raises
    ------
    DataError : not an .npz, another content, names that do not match the rows, or a value that is not finite.
    """
    names, features = read_npz(path, ("names", "features"))
    if names.ndim != 1 or names.dtype.kind not in "US":
        raise DataError(f"prepare: {path}, 'names' has shape {names.shape} and dtype {names.dtype}, expected (m,) of text")
    features = features.astype(features.dtype.newbyteorder("="), copy=False)
    if features.ndim != 2 or features.shape[1] < 1 or features.dtype not in (np.float16, np.float32, np.float64):
        raise DataError(f"prepare: {path}, 'features' has shape {features.shape} and dtype {features.dtype}, expected (m, D) of floats, D at least 1")
    if len(names) != len(features):
        raise DataError(f"prepare: {path} has {len(names)} names for {len(features)} feature rows, expected one each")
    rows: dict[str, int] = {}
    for row, name in enumerate(_texts(path, names)):  # one after the other: a small archive may hold many of the same
        if rows.setdefault(name, row) != row:
            raise DataError(f"prepare: {path} names a picture twice among {len(names):,}, {name[:100]!r}, expected each once")
    check_finite(f"prepare: {path}", features, list(rows))
    return rows, features.astype(np.float32) if features.dtype == np.float64 else features


def encode_folder(folder: Path, names: Sequence[str], encoder: Encoder, progress: bool = False) -> tuple[dict[str, int], np.ndarray]:
    """Picture name to row, and features (m, D), of the pictures called `names` in a folder.

    Raises
    ------
    DataError : a picture is missing, cannot be read, or would not lie in the folder.
    """
    _stay_in(folder, names)
    _covered("prepare", names, {name for name in names if _exists(folder / name)}, f"file in {folder}")  # before the long work
    pictures = (read_picture(folder / name) for name in bar(names, progress, "encoding pictures"))
    return {name: i for i, name in enumerate(names)}, encoder.encode(pictures)


def import_flickr8k(
    captions_file: Path,
    lists: Mapping[str, Path],
    features_file: Path | None = None,
    min_count: int = 5,
    max_words: int = 20,
    pictures: Path | None = None,
    progress: bool = False,
) -> CaptionData:
    """Bring captions, split lists and features together.

    Parameters
    ----------
    captions_file : lines ``NAME#K<TAB>CAPTION``
    lists : split name to a file of picture names
    features_file : .npz with ``names`` (m,) and ``features`` (m, D); None: HistogramEncoder makes them from `pictures`
    min_count : words that occur less often in the train split (in all splits where none is called train) become ``<UNK>``
    max_words : longer captions are cut in their ids; their text is kept whole
    pictures : the folder that the pictures are in, remembered for pages that show them

    Raises
    ------
    DataError : anything that does not fit together. OSError : a file that cannot be read.
    """
    if min_count < 1 or max_words < 1:
        raise DataError(f"prepare: min_count is {min_count} and max_words {max_words}, expected both at least 1")
    if not lists:
        raise DataError("prepare: no split was named, expected at least one, as in --split train=LIST")
    captions = read_token_file(captions_file)
    names = {split: read_list(path) for split, path in lists.items()}
    owner: dict[str, str] = {}
    for split, images in names.items():
        for image in images:
            if image in owner:
                raise DataError(
                    f"prepare: {image[:100]!r} is in split {owner[image]!r} and in {split!r}, expected each picture in one; scores would not be of unseen pictures"
                )
            owner[image] = split
        _covered(f"prepare: split {split!r}", images, captions, f"captions in {captions_file}")
    source: dict[str, Any] = {
        "captions": captions_file.name,
        "lists": {k: v.name for k, v in lists.items()},
        "min_count": min_count,
        "max_words": max_words,
    }
    learned_from = names.get("train") or list(owner)
    vocabulary = Vocabulary.build((text for image in learned_from for text in captions[image]), min_count)
    if not vocabulary.idx_to_word[len(SPECIAL) :]:
        raise DataError(f"prepare: no word occurs {min_count} times in the captions to learn from, expected some that do; lower --min-count")
    if pictures is not None:
        if not pictures.is_dir():
            raise DataError(f"prepare: {pictures} is no folder, expected the one that holds the pictures")
        _stay_in(pictures, list(owner))
        source["pictures"] = str(pictures.resolve())
    if features_file is not None:
        rows, features = read_features(features_file)
        source["features"] = features_file.name
    elif pictures is not None:
        encoder = HistogramEncoder()
        rows, features = encode_folder(pictures, list(owner), encoder, progress)
        source["encoder"] = encoder.name
    else:
        raise DataError("prepare: neither features nor pictures were named, expected --features FILE.npz or --pictures FOLDER")
    for split, images in names.items():
        _covered(f"prepare: split {split!r}", images, rows, f"features in {features_file}")
    splits = {}
    for split, images in names.items():
        text = [caption for image in images for caption in captions[image]]
        image_idxs = np.repeat(np.arange(len(images), dtype=np.int32), [len(captions[image]) for image in images])
        splits[split] = Split(vocabulary.encode(text, max_words), image_idxs, features[[rows[image] for image in images]], images, text)
    return CaptionData(vocabulary, splits, source)


def _covered(where: str, images: Sequence[str], known: Container[str], thing: str) -> None:
    if missing := [image for image in images if image not in known]:
        raise DataError(
            f"{where}: {len(missing)} of {len(images)} pictures have no {thing}, {missing[0][:100]!r} among them; do the files belong together?"
        )


def leads_out(name: str, kind: type[PurePath] = PurePath) -> bool:
    """Whether a name, read as paths of this system are, could name a file outside the folder it is looked for in."""
    path = kind(name)
    return bool(path.anchor) or ".." in path.parts or "\0" in name


def _stay_in(folder: Path, names: Iterable[str]) -> None:
    if astray := next((name for name in names if leads_out(name)), None):
        raise DataError(f"prepare: picture {astray[:100]!r} would lie outside {folder}, expected the name of a file in it; who wrote the list?")


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # a name that no file can have
        return False


def _first_twice(names: Iterable[str]) -> str | None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            return name
        seen.add(name)
    return None


def _texts(path: Path, names: np.ndarray) -> Iterator[str]:
    if names.dtype.kind == "U" and (most := int(names.view(f"{names.dtype.byteorder}u4").max(initial=0))) > sys.maxunicode:
        raise DataError(f"prepare: {path}, 'names' holds a character of number {most:,}, expected at most {sys.maxunicode:,}; damaged?")
    for name in names:
        yield name.decode("utf-8", "backslashreplace") if isinstance(name, bytes) else str(name)


def _read(path: Path) -> str:
    """The text of a file, each of its line ends, of whatever system, as one character."""
    try:
        text = read_text(path, MOST_TEXT)
    except UnicodeDecodeError as error:
        raise DataError(f"prepare: {path} is not UTF-8 text ({error.reason} at byte {error.start}); save it as UTF-8") from error
    except ValueError as error:
        raise DataError(
            f"prepare: {path}: {error}; expected a text file of captions or picture names, at most {MOST_TEXT >> 20} MB; is the path right?"
        ) from error
    return text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
