"""The token files of Flickr8k and Flickr30k: one caption per line, ``NAME#K<TAB>CAPTION``."""

import re
from collections.abc import Iterator

from xpcap.data.vocabulary import has_word
from xpcap.prepare.rows import CaptionRow, CaptionText, Format

REPEATED = "repeated lines of one NAME#K"
_LINE = re.compile(r"([^\t]+?)#(\d+)\t(.*)")


def is_token_file(file: CaptionText) -> bool:
    return _LINE.fullmatch(file.first_line) is not None


def read_tokens(file: CaptionText) -> Iterator[CaptionRow]:
    """The caption of each line; lines of another form, and repeated NAME#K, are skipped."""
    for number, line in enumerate(file.text.split("\n"), start=1):
        if match := _LINE.fullmatch(line.strip()):
            picture, k, caption = match.groups()
            picture = picture.strip()
            line_number = f"line {number}"
            # A line without a word does not count, so a later line may repeat its number
            if not has_word(caption) or not file.repeats(REPEATED, line_number, (picture, k)):
                yield CaptionRow(picture, caption, None, f"{file.where}, {line_number}")
        elif line.strip():
            file.report.skip("lines of another form", f"line {number}")


TOKENS = Format("lines NAME#K, tab, caption", is_token_file, read_tokens, "a.jpg#0\tA dog.", "none")
