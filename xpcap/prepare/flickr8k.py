"""Flickr8k's layout: a token file of captions, and for each split a list of picture names."""

import re
from pathlib import Path

from xpcap.data.vocabulary import has_word
from xpcap.errors import DataError
from xpcap.prepare.splits import Findings
from xpcap.prepare.text import read_whole

_LINE = re.compile(r"(?P<key>(?P<image>[^\t]+?)#\d+)\t(?P<caption>.*)")


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
