"""Text to words and back: the tokenisers, under the names that data sets record, and the line of text that words make."""

import re
import unicodedata
from collections.abc import Sequence
from functools import cache
from itertools import pairwise
from typing import Any

from xpcap.errors import DataError, unknown

UNICODE, ASCII = "unicode", "ascii"
TOKENISERS = {  # name, as it is stored, to how it makes words
    UNICODE: "words are lower-case runs of letters, marks and digits, and single characters of scripts without spaces",
    ASCII: "words in [a-z0-9]+ lower case",
}
_ASCII = re.compile("[a-z0-9]+")
# Soft hyphen, combining grapheme joiner, word joiner, byte order mark, variation selectors: they change how a word looks, if anything.
_INVISIBLE = re.compile("[\u00ad\u034f\u2060\ufeff\ufe00-\ufe0f\U000e0100-\U000e01ef]")


def tokenize(text: str, *, tokeniser: str = UNICODE) -> list[str]:
    """The words of a text. ``"A dog's 2nd ball!"`` gives ``a dog s 2nd ball``.

    Parameters
    ----------
    tokeniser : ``unicode``: the text in lower case and NFC is cut into runs of letters, marks and digits of any script. Letters of scripts that are
        written without spaces, such as Chinese, Japanese, Thai, Lao, Khmer and Burmese, are words of their own, each with its marks.
        ``ascii``: lower case, then runs of ``[a-z0-9]``, for data sets that record no tokeniser. Text in ASCII gives the same words either way

    Raises
    ------
    DataError : no such tokeniser.
    """
    check_tokeniser("tokenize", tokeniser)
    if tokeniser == ASCII or text.isascii():
        return _ASCII.findall(text.lower())
    return [str(word) for word in _unicode().findall(_normalized(text))]


def has_word(text: str) -> bool:
    """True if `tokenize` finds a word."""
    pattern = _ASCII if text.isascii() else _unicode()
    return pattern.search(_normalized(text)) is not None


def detokenize(words: Sequence[str]) -> str:
    """Words as one line of text, with the `gaps` between them."""
    text = " ".join(words)
    return text if text.isascii() else "".join(word + gap for word, gap in zip(words, gaps(words), strict=True))


def gaps(words: Sequence[str]) -> list[str]:
    """The text that follows each word in a line: a space, but none after the last, nor between two words of scripts that are written without spaces."""
    alone = [not word.isascii() and _unspaced().match(word) is not None for word in words]
    return [*("" if one and other else " " for one, other in pairwise(alone)), *([""] if words else [])]


def check_tokeniser(where: str, name: str) -> None:
    """DataError : there is no tokeniser of that name."""
    if name not in [*TOKENISERS]:  # from a file it may be anything
        raise unknown(where, "tokeniser", name, TOKENISERS, DataError)


def _normalized(text: str) -> str:
    """Lower case, in NFC, without invisible characters. The dot that Turkish İ would leave above the i is dropped."""
    return unicodedata.normalize("NFC", _INVISIBLE.sub("", text.lower()).replace("i\u0307", "i"))


# Line_Break=SA: scripts of South East Asia that are written without spaces. Script extensions, for signs that two scripts share, as ー of the kana.
_LETTER = r"[[\p{L}\p{Nl}]&&[\p{scx=Han}\p{scx=Hiragana}\p{scx=Katakana}\p{Line_Break=SA}]]"
_MARK = r"[\p{Mn}\p{Mc}]"
_ATTACHED = r"[\u0e33\u0eb3]|(?<=\p{InSC=Invisible_Stacker})\p{L}"  # the vowel sign AM of Thai and Lao; consonants that Khmer and Burmese stack
_OTHER = rf"[[\p{{L}}\p{{Nd}}]--{_LETTER}]"
_JOINER = rf"[\u200c\u200d](?={_OTHER}|{_MARK})"  # within words, as in Persian


@cache
def _unicode() -> Any:
    import regex

    return regex.compile(rf"(?V1){_LETTER}(?:{_MARK}|{_ATTACHED})*|{_OTHER}(?:{_OTHER}|{_MARK}|{_JOINER})*")


@cache
def _unspaced() -> Any:
    import regex

    return regex.compile(rf"(?V1){_LETTER}")
