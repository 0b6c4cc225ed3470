"""Flickr8k's layout: a token file of captions, and for each split a list of picture names."""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from xpcap.data.dataset import CaptionData
from xpcap.data.importers.assemble import assemble
from xpcap.data.importers.features import covered, read_features
from xpcap.data.importers.findings import Findings
from xpcap.data.importers.text import read_whole
from xpcap.data.vocabulary import has_word
from xpcap.errors import DataError

_LINE = re.compile(r"(?P<key>(?P<image>[^\t]+?)#\d+)\t(?P<caption>.*)")


def import_flickr8k(
    captions_file: str | Path,
    lists: Mapping[str, str | Path],
    *,
    features_file: str | Path | None = None,
    min_count: int = 5,
    max_words: int = 20,
    pictures: str | Path | None = None,
    progress: bool = False,
    **more: Any,
) -> CaptionData:
    """Read Flickr8k's files and assemble them.

    Parameters
    ----------
    captions_file : lines ``NAME#K<TAB>CAPTION``
    lists : split name to a file of picture names, one a line
    features_file : .npz with ``names`` (m,) and ``features`` (m, D); None: HistogramEncoder makes features from `pictures`
    min_count, max_words, pictures, progress : as in `assemble`
    more : `encoder`, `vocabulary_size` and `float16` of `assemble`

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
        captions, features=features, pictures=pictures, min_count=min_count, max_words=max_words, source=source, progress=progress, **more
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
    return parse_tokens(f"read_token_file: {path}", read_whole("read_token_file", path))


def is_token_line(line: str) -> bool:
    """Whether a line has the form ``NAME#K<TAB>CAPTION``."""
    return _LINE.fullmatch(line) is not None


def parse_tokens(where: str, text: str, findings: Findings | None = None) -> dict[str, list[str]]:
    """`read_token_file` for the text of a file called `where`. With `findings`, lines that it would refuse are left out."""
    captions: dict[str, list[str]] = {}
    seen: set[str] = set()
    for number, line in enumerate(text.split("\n"), start=1):
        if not (line := line.rstrip()):
            continue
        match = _LINE.fullmatch(line)
        kind, fault = _fault(line, match, seen)
        if fault and findings is None:
            raise DataError(f"{where}, line {number} {fault}")
        if fault and findings is not None:
            findings.skip(kind, f"line {number}")
            continue
        assert match is not None
        seen.add(match["key"])
        captions.setdefault(match["image"], []).append(match["caption"])
    if not captions:
        raise DataError(f"{where} has no line in it, expected NAME#K, a tab and a caption on each")
    return captions


def _fault(line: str, match: re.Match[str] | None, seen: set[str]) -> tuple[str, str]:
    """What is wrong with a line, as a kind and as the end of a message; both empty if nothing is."""
    if not match:
        return "lines of another form", f"is {line[:60]!r}, expected NAME#K, a tab and a caption"
    if not has_word(match["caption"]):
        return "captions without a word", "has no word in it, expected a caption in letters or digits; correct or remove the line"
    if match["key"] in seen:
        return "second lines of one NAME#K", f"is a second {match['key'][:100]!r}, expected one caption for each; was the file joined to itself?"
    return "", ""


def read_list(path: str | Path) -> list[str]:
    """Picture names, one a line. DataError : there is none, or one twice."""
    names = [line.strip() for line in read_whole("read_list", path).split("\n") if line.strip()]
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
