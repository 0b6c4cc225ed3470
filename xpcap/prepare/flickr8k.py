"""The token files of Flickr8k and Flickr30k: a caption a line, ``NAME#K<TAB>CAPTION``."""

import re
from collections.abc import Iterator

from xpcap.prepare.rows import CaptionRow, CaptionText, Format

_LINE = re.compile(r"([^\t]+?)#(\d+)\t(.*)")


def is_token_file(file: CaptionText) -> bool:
    return _LINE.fullmatch(file.first_line) is not None


def read_tokens(file: CaptionText) -> Iterator[CaptionRow]:
    """The caption of each line; lines of another form, and repeated NAME#K, are skipped."""
    for number, line in enumerate(file.text.split("\n"), start=1):
        if match := _LINE.fullmatch(line.strip()):
            picture, k, caption = match.groups()
            picture = picture.strip()
            if not file.repeats("second lines of one NAME#K", f"line {number}", (picture, k)):
                yield CaptionRow(picture, caption, None, f"{file.where}, line {number}")
        elif line.strip():
            file.report.skip("lines of another form", f"line {number}")


TOKENS = Format("lines NAME#K, tab, caption", is_token_file, read_tokens)
