"""Flickr8k's layout: a token file of captions, and for each split a list of picture names."""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from xpcap.data.dataset import CaptionData
from xpcap.data.importers.assemble import assemble
from xpcap.data.importers.features import covered, read_features
from xpcap.data.vocabulary import has_word
from xpcap.errors import DataError
from xpcap.files import read_text

MOST_TEXT = 256 << 20  # bytes of a token file or list: more than a hundred times what Flickr8k's take
_LINE = re.compile(r"(?P<key>(?P<image>[^\t]+?)#\d+)\t(?P<caption>.*)")


def import_flickr8k(
    captions_file: str | Path,
    lists: Mapping[str, str | Path],
    features_file: str | Path | None = None,
    min_count: int = 5,
    max_words: int = 20,
    pictures: str | Path | None = None,
    progress: bool = False,
) -> CaptionData:
    """Read Flickr8k's files and assemble them.

    Parameters
    ----------
    captions_file : lines ``NAME#K<TAB>CAPTION``
    lists : split name to a file of picture names, one a line
    features_file : .npz with ``names`` (m,) and ``features`` (m, D); None: HistogramEncoder makes features from `pictures`
    min_count, max_words, pictures, progress : as in `assemble`

    Raises
    ------
    DataError : a file is malformed, or the files do not fit together. OSError : one cannot be read.
    """
    captions = read_flickr8k(captions_file, lists)
    source: dict[str, Any] = {"captions": Path(captions_file).name, "lists": {split: Path(path).name for split, path in lists.items()}}
    features = None
    if features_file is not None:
        features, source["features"] = read_features(features_file), Path(features_file).name
    return assemble(
        captions, features=features, pictures=pictures, min_count=min_count, max_words=max_words, source=source, progress=progress
    )  # fmt: skip


def read_flickr8k(captions_file: str | Path, lists: Mapping[str, str | Path]) -> dict[str, dict[str, list[str]]]:
    """Split to picture to its captions, pictures in the order of the lists.

    Raises
    ------
    DataError : a file is malformed, or a listed picture has no captions. OSError : one cannot be read.
    """
    captions = read_token_file(captions_file)
    names = {split: read_list(path) for split, path in lists.items()}
    for split, pictures in names.items():
        covered(f"read_flickr8k: split {split!r}", pictures, captions, f"captions in {captions_file}")
    return {split: {picture: captions[picture] for picture in pictures} for split, pictures in names.items()}


def read_token_file(path: str | Path) -> dict[str, list[str]]:
    """Picture name to its captions, from lines ``NAME#K<TAB>CAPTION``.

    Raises
    ------
    DataError : a malformed line, a caption without a word, or a NAME#K twice; the message gives the line's number.
    """
    captions: dict[str, list[str]] = {}
    seen: set[str] = set()
    for number, line in enumerate(_read("read_token_file", path).split("\n"), start=1):
        line = line.rstrip()
        if not line:
            continue
        where = f"read_token_file: {path}, line {number}"
        match = _LINE.fullmatch(line)
        if not match:
            raise DataError(f"{where} is {line[:60]!r}, expected NAME#K, a tab and a caption")
        if not has_word(match["caption"]):
            raise DataError(f"{where} has no word in it, expected a caption in letters or digits; correct or remove the line")
        if match["key"] in seen:
            raise DataError(f"{where} is a second {match['key'][:100]!r}, expected one caption for each; was the file joined to itself?")
        seen.add(match["key"])
        captions.setdefault(match["image"], []).append(match["caption"])
    if not captions:
        raise DataError(f"read_token_file: {path} has no line in it, expected NAME#K, a tab and a caption on each")
    return captions


def read_list(path: str | Path) -> list[str]:
    """Picture names, one a line. DataError : there is none, or one twice."""
    names = [line.strip() for line in _read("read_list", path).split("\n") if line.strip()]
    if not names:
        raise DataError(f"read_list: {path} is empty, expected one picture name a line; a split needs at least one picture")
    if (twice := _first_twice(names)) is not None:
        raise DataError(f"read_list: {path} lists {twice[:100]!r} twice, expected each picture once")
    return names


def _first_twice(names: Iterable[str]) -> str | None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            return name
        seen.add(name)
    return None


def _read(function: str, path: str | Path) -> str:
    """The text of a file without byte order mark, line ends of any system as one newline."""
    try:
        text = read_text(Path(path), MOST_TEXT)
    except UnicodeDecodeError as error:
        raise DataError(f"{function}: {path} is not UTF-8 text ({error.reason} at byte {error.start}); save it as UTF-8") from error
    except ValueError as error:
        raise DataError(
            f"{function}: {path}: {error}; expected a text file of captions or picture names, at most {MOST_TEXT >> 20} MB; is the path right?"
        ) from error
    return text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
