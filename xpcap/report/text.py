"""Makes untrusted text safe to show: control characters are escaped, and long text is cut. And how
wide text is, and where it may be cut.
"""

import unicodedata

LONGEST = 1000  # characters shown of a text; a longer one ends in an ellipsis
STACKED = 6  # combining marks on one letter; more would cover the lines around it
BIDI = frozenset(
    "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
)  # reverse the direction of the text after them
SPELT = (
    "Cc",
    "Cs",
    "Zl",
    "Zp",
    "Co",
    "Cn",
)  # Unicode categories: controls, lone surrogates, line ends, and characters without a glyph
MARKS = ("Mn", "Me")


def visible(text: str, most: int = LONGEST) -> str:
    """Escape control and bidi characters, as in ``\\x1b``, turn line breaks into spaces, and cut
    after about `most` characters.

    Letters of every script, emoji and their joiners stay as they are. This does not escape HTML; do
    that as well.
    """
    signs: list[str] = []
    length = stacked = 0
    for sign in text:
        if length >= most:
            return "".join(signs) + "…"
        category = unicodedata.category(sign)
        stacked = stacked + 1 if category in MARKS else 0
        signs.append(
            " "
            if sign in "\t\n\r"
            else _spelt(sign)
            if category in SPELT or sign in BIDI or stacked > STACKED
            else sign
        )
        length += len(signs[-1])
    return "".join(signs)


def columns(text: str) -> int:
    """Columns that a text takes in a terminal: two for a wide East Asian character, none for a
    combining mark.
    """
    return len(text) if text.isascii() else sum(_columns(sign) for sign in text)


def _columns(sign: str) -> int:
    return (
        0
        if unicodedata.category(sign) in (*MARKS, "Cf")
        else 2
        if unicodedata.east_asian_width(sign) in "WF"
        else 1
    )


def pieces(word: str) -> list[str]:
    """A word in the pieces that a line break may part: characters with their marks, and with the
    punctuation that must not begin a line.
    """
    if word.isascii():
        return list(word)
    import regex

    return [str(piece) for piece in regex.findall(r"\X[\p{Po}\p{Pe}\p{Pf}]{0,2}", word)]


def _spelt(sign: str) -> str:
    return sign.encode("unicode_escape").decode("ascii")
