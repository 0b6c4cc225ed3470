"""The token files of Flickr8k and Flickr30k: a caption a line, ``NAME#K<TAB>CAPTION``."""

import re
from collections.abc import Iterator

from xpcap.prepare.rows import CaptionRow, CaptionText, Format

_LINE = re.compile(r"(?P<key>(?P<picture>[^\t]+?)#\d+)\t(?P<caption>.*)")


def is_token_file(file: CaptionText) -> bool:
    return _LINE.fullmatch(file.first_line) is not None


def read_tokens(file: CaptionText) -> Iterator[CaptionRow]:
    """The caption of each line; lines of another form, and repeated NAME#K, are skipped."""
    for number, line in enumerate(file.text.split("\n"), start=1):
        if not (line := line.strip()):
            continue
        if not (match := _LINE.fullmatch(line)):
            file.report.skip("lines of another form", f"line {number}")
        elif not file.repeats("second lines of one NAME#K", f"line {number}", match["key"]):
            source = f"{file.where}, line {number}"
            yield CaptionRow(match["picture"], match["caption"], None, source)


TOKENS = Format("lines NAME#K, tab, caption", is_token_file, read_tokens)
