"""Makes untrusted text safe to show: control characters are escaped, and long text is cut."""

import unicodedata

LONGEST = 1000  # characters shown of a text; a longer one ends in an ellipsis
STACKED = 6  # combining marks on one letter; more would cover the lines around it
BIDI = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")  # reverse the direction of the text after them
SPELT = ("Cc", "Cs", "Zl", "Zp", "Co", "Cn")  # Unicode categories: controls, lone surrogates, line ends, and characters without a glyph
MARKS = ("Mn", "Me")


def visible(text: str, most: int = LONGEST) -> str:
    """Escape control and bidi characters, as in ``\\x1b``, turn line breaks into spaces, and cut after about `most` characters.

    Letters of every script, emoji and their joiners stay as they are. This does not escape HTML; do that as well.
    """
    signs: list[str] = []
    length = stacked = 0
    for sign in text:
        if length >= most:
            return "".join(signs) + "…"
        category = unicodedata.category(sign)
        stacked = stacked + 1 if category in MARKS else 0
        signs.append(" " if sign in "\t\n\r" else _spelt(sign) if category in SPELT or sign in BIDI or stacked > STACKED else sign)
        length += len(signs[-1])
    return "".join(signs)


def _spelt(sign: str) -> str:
    return sign.encode("unicode_escape").decode("ascii")
