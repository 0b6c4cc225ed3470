"""Other people's text as a page or a picture shows it: what would be obeyed is spelt out, and nothing is endless."""

import unicodedata

LONGEST = 1000  # characters that are shown of a text; a longer one ends in an ellipsis
STACKED = 6  # marks on one letter; more would tower over the lines around it
BIDI = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")  # turn the text after them around
SPELT = ("Cc", "Cs", "Zl", "Zp", "Co", "Cn")  # Unicode categories: controls, lone surrogates, line ends, and what has no look of its own
MARKS = ("Mn", "Me")


def visible(text: str, most: int = LONGEST) -> str:
    """A text with control and bidi characters as escapes, such as ``\\x1b``, line breaks as spaces, and cut at some `most` characters.

    Letters of every script, emoji and the joiners within them stay what they are. It makes no markup harmless: whoever writes HTML escapes it too.
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
