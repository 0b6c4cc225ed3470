"""Flickr8k's layout: a token file of captions, and for each split a list of picture names."""

import re

from xpcap.data.vocabulary import has_word
from xpcap.prepare.splits import Findings

_LINE = re.compile(r"(?P<key>(?P<image>[^\t]+?)#\d+)\t(?P<caption>.*)")


def is_token_line(line: str) -> bool:
    """Whether a line has the form ``NAME#K<TAB>CAPTION``."""
    return _LINE.fullmatch(line) is not None


def parse_tokens(where: str, text: str, findings: Findings) -> dict[str, list[str]]:
    """Captions of a token file by picture; lines of another form, or a second time, are skipped."""
    captions: dict[str, list[str]] = {}
    seen: set[str] = set()
    for number, line in enumerate(text.split("\n"), start=1):
        if not (line := line.rstrip()):
            continue
        match = _LINE.fullmatch(line)
        if not match:
            findings.skip("lines of another form", f"line {number}")
        elif not has_word(match["caption"]):
            findings.skip("captions without a word", f"line {number}")
        elif match["key"] in seen:
            findings.skip("second lines of one NAME#K", f"line {number}")
        else:
            seen.add(match["key"])
            captions.setdefault(match["image"], []).append(match["caption"])
    return captions
