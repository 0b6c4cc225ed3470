"""The token files of Flickr8k and Flickr30k: a caption a line, ``NAME#K<TAB>CAPTION``."""

import re
from collections.abc import Iterator

from xpcap.data.vocabulary import has_word
from xpcap.prepare.rows import CaptionRow, ImportReport

_LINE = re.compile(r"(?P<key>(?P<picture>[^\t]+?)#\d+)\t(?P<caption>.*)")


def is_token_line(line: str) -> bool:
    """True if a line has the form ``NAME#K<TAB>CAPTION``."""
    return _LINE.fullmatch(line) is not None


def read_tokens(where: str, text: str, report: ImportReport) -> Iterator[CaptionRow]:
    """Rows of a token file; lines of another form, and repeated NAME#K, are skipped."""
    seen: set[str] = set()
    for number, line in enumerate(text.split("\n"), start=1):
        if not (line := line.rstrip()):
            continue
        match = _LINE.fullmatch(line)
        if not match:
            report.skip("lines of another form", f"line {number}")
        elif not has_word(match["caption"]):
            report.skip("captions without a word", f"line {number}")
        elif match["key"] in seen:
            report.skip("second lines of one NAME#K", f"line {number}")
        else:
            seen.add(match["key"])
            source = f"{where}, line {number}"
            yield CaptionRow(match["picture"], match["caption"], None, source)
