"""Finds fonts of this machine for the characters that Matplotlib's font lacks."""

import unicodedata
from collections.abc import Iterable
from typing import Any, NamedTuple

LAST_RESORT = "lastresort"  # a font of macOS whose glyphs are symbols of scripts, not letters
INVISIBLE = ("Cf", "Cc", "Zs")  # Unicode categories that need no glyph
# First word of a character's Unicode name to the region of the Chinese characters next to it
CJK = {"KATAKANA": "JP", "HIRAGANA": "JP", "HANGUL": "KR"}
REGIONS = ("JP", "KR", "SC", "TC", "HK")
NAMED = 3  # limit of scripts in a message


class Fonts(NamedTuple):
    """Font families that together draw a text, and the characters in none of them."""

    families: list[str] | None  # for Matplotlib, in order; None: its default font is enough
    lacking: str  # characters that no font has; Matplotlib draws a placeholder for each


def find_fonts(texts: Iterable[str]) -> Fonts:
    """Find fonts of this machine, preferably sans serif, that have the characters of texts."""
    from matplotlib import font_manager

    needed = {
        sign
        for sign in set().union(*texts)
        if unicodedata.category(sign) not in INVISIBLE and not _is_selector(sign)
    }
    needed -= _characters(font_manager.findfont(font_manager.FontProperties()))
    if not needed:
        return Fonts(None, "")
    families = []
    covers = {}
    for entry in sorted(_regular(font_manager), key=lambda entry: _rank(entry.name, needed)):
        covers[entry.name] = needed & _characters(entry.fname, entry.index)
        if covers[entry.name] == needed:
            break
    while covers and needed:
        best = max(covers, key=lambda name: len(covers[name] & needed))
        if not covers[best] & needed:
            break
        families.append(best)
        needed -= covers[best]
    return Fonts([*font_manager.FontProperties().get_family(), *families], "".join(sorted(needed)))


def explain_lacking(lacking: str) -> str:
    """A sentence that names the scripts of characters that no font has."""
    scripts = list(dict.fromkeys(_script(sign) for sign in lacking))
    named = ", ".join(scripts[:NAMED]) + (", ..." if len(scripts) > NAMED else "")
    return (
        f"no font of this machine has {len(lacking):,} of the characters ({named}), which become"
        " boxes; install a font that has them, such as a Noto font, or write a page, which the"
        " browser draws with its fonts"
    )


def _regular(font_manager: Any) -> list[Any]:
    """The regular face of each installed font family, even if Matplotlib's list lacks it."""
    manager = font_manager.fontManager
    installed = set(font_manager.findSystemFonts())
    for path in sorted(installed - {entry.fname for entry in manager.ttflist}):
        try:
            manager.addfont(path)
        except (OSError, RuntimeError):
            continue  # Matplotlib cannot draw with it, for example coloured glyphs
    installed_faces = (
        entry
        for entry in manager.ttflist
        if entry.fname in installed and LAST_RESORT not in entry.name.lower().replace(" ", "")
    )
    return [
        entry
        for entry in installed_faces
        if entry.weight in (400, "normal") and entry.style == entry.variant == "normal"
    ]


def _characters(path: str, face: int = 0) -> set[str]:
    from matplotlib.ft2font import FT2Font

    return set(map(chr, FT2Font(path, face_index=face).get_charmap()))


def _rank(name: str, needed: Iterable[str]) -> tuple[bool, ...]:
    """A sort key that puts sans serif families with the right Chinese characters first."""
    region = next((CJK[script] for script in map(_script, sorted(needed)) if script in CJK), "SC")
    foreign = any(name.endswith(f" {other}") for other in REGIONS if other != region)
    return not name.startswith("Noto Sans"), "Mono" in name, foreign, "Sans" not in name


def _script(sign: str) -> str:
    """The script of a letter, such as CJK: the first word of its Unicode name."""
    if unicodedata.category(sign)[0] == "S":
        return "symbols"
    return unicodedata.name(sign, "unnamed").split()[0]


def _is_selector(sign: str) -> bool:
    return "VARIATION SELECTOR" in unicodedata.name(sign, "")
