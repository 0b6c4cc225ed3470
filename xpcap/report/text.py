"""Text for people: escapes and cuts untrusted text, breaks lines, writes signed numbers."""

import unicodedata

NOTHING = "(nothing)"  # shown for a caption without words
LONGEST = 1000  # characters shown of a text; longer text ends in an ellipsis
STACKED = 6  # combining marks shown on a letter; more would cover the lines around it
# Characters that reverse the direction of the text after them
BIDI = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
# Unicode categories of controls, lone surrogates, line ends, and characters without a glyph
ESCAPED = ("Cc", "Cs", "Zl", "Zp", "Co", "Cn")
MARKS = ("Mn", "Me")


def escape_control(text: str, max_length: int = LONGEST) -> str:
    r"""Escape control and bidi characters, and cut after about `max_length` characters.

    Line breaks become spaces. Letters of every script, emoji and their joiners stay. HTML is not
    escaped.

    Examples
    --------
    >>> escape_control("a dog\n\x1b[31m")
    'a dog \\x1b[31m'
    """
    signs: list[str] = []
    length = stacked = 0
    for sign in text:
        if length >= max_length:
            return "".join(signs) + "…"
        category = unicodedata.category(sign)
        stacked = stacked + 1 if category in MARKS else 0
        if sign in "\t\n\r":
            sign = " "
        elif category in ESCAPED or sign in BIDI or stacked > STACKED:
            sign = sign.encode("unicode_escape").decode("ascii")
        signs.append(sign)
        length += len(sign)
    return "".join(signs)


def signed(x: float) -> str:
    """A difference with its sign and two decimals, or 0 without them."""
    return f"{x:+.2f}" if round(x, 2) else "0"


def pieces(word: str) -> list[str]:
    """The parts of a word between which a line may break.

    Each is a character with its combining marks and punctuation that must not begin a line.
    """
    if word.isascii():
        return list(word)
    import regex

    return [str(piece) for piece in regex.findall(r"\X[\p{Po}\p{Pe}\p{Pf}]{0,2}", word)]
