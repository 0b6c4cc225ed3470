"""Small damages to bytes, text and JSON, drawn from a generator."""

import json
import random
from typing import Any

# fmt: off
ODD = [0, 1, 2, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 2**40, 2**63 - 1, 2**63, 2**64 - 1]
STRANGE = ["\t", "\t\t", "#", "#0\t", "\0", "\x1b[2J", "\r", "\n", "\n\n", "\u2028", "\ufeff", "\u202e", "é", "👩‍👩‍👧", "\x85", " ", "..", "/", "\\", "#99999999999", "\x7f"]
STARTS = ["../" * 5 + "a.jpg", "/etc/passwd", "C:\\a.jpg", "..\\a.jpg", "a" * 300, "x/" * 3000, ".", "", "NUL"]
NUMBERS = (*ODD, -1, 7, 2**32, 2**53, 10**30, 10**400)
ODD_JSON: tuple[Any, ...] = (
    *NUMBERS, None, True, False, "", "\0", "\x1b[31m", "<script>", "../../etc/passwd", "/dev/zero", "\ud800", "\u202e", "x" * 10_000,
    0.5, -0.0, float("nan"), float("inf"), 1e308, [], {}, [[]], [None], {"": None}, "numpy", "NaN", "\r\n", "a b",
)
# fmt: on


def spoil_bytes(content: bytes, draw: random.Random, head: int = 12_000) -> bytes:
    """Cut off, overwritten in places, with integers spliced in, or with a piece taken out, doubled
    or moved; likelier in the first `head` bytes.
    """
    if draw.random() < 0.15 or not content:
        return content[: draw.randrange(len(content) + 1)]
    spoilt = bytearray(content)
    for _ in range(draw.choice((1, 1, 2, 4, 16))):
        at = draw.randrange(len(spoilt) if draw.random() < 0.3 else min(len(spoilt), head))
        width = draw.choice((1, 1, 2, 4, 8))
        kind = draw.random()
        if kind < 0.35:
            spoilt[at : at + width] = bytes([draw.choice((0, 0xFF, draw.randrange(256)))]) * width
        elif kind < 0.65:
            spoilt[at : at + width] = draw.randbytes(width)
        elif kind < 0.9:
            number = (draw.choice(ODD) + draw.choice((-1, 0, 0, 1))) % 2 ** (8 * width)
            order: Any = draw.choice(("little", "little", "big"))
            spoilt[at : at + width] = number.to_bytes(width, order)
        elif kind < 0.95:
            size = draw.randrange(1, 200)
            source = draw.randrange(len(spoilt))
            spoilt[at : at + size] = spoilt[source : source + size]
        else:
            del spoilt[at : at + draw.randrange(1, 200)]
        if not spoilt:
            break
    return bytes(spoilt)


def spoil_text(text: str, draw: random.Random) -> bytes:
    """Lines doubled, dropped, cut, made very long, or with strange characters in them; as UTF-8 or
    as something else.
    """
    lines = text.split("\n")
    for _ in range(draw.choice((1, 1, 2, 5))):
        at = draw.randrange(len(lines))
        place = draw.randrange(len(lines[at]) + 1)
        before, after = lines[at][:place], lines[at][place:]
        kind = draw.randrange(8)
        if kind == 0:
            lines.insert(at, draw.choice(lines))
        elif kind == 1 and len(lines) > 1:
            del lines[at]
        elif kind == 2:
            lines[at] = draw.choice(STRANGE).join(lines[at].split(" "))
        elif kind == 3:
            lines[at] = before + draw.choice(STRANGE) * draw.choice((1, 50, 5000)) + after
        elif kind == 4:
            lines[at] = draw.choice(STARTS) + after
        elif kind == 5:
            any_of = draw.choice((range(0xD800), range(0xE000, 0x110000)))
            lines[at] = before + chr(draw.choice(any_of)) + after
        elif kind == 6:
            lines[at] = before
        else:
            words = (draw.choice("abc#\t1") * draw.randrange(9) for _ in range(2000))
            lines[at] = before + " ".join(words) + after
    joined = draw.choice(("\n", "\n", "\n", "\r\n", "\r")).join(lines)
    encoding = draw.choice(("utf-8",) * 8 + ("utf-16", "latin-1", "utf-8-sig"))
    content = joined.encode(encoding, "replace")
    if draw.random() < 0.05:
        content = content.replace(b"?", b"\xed\xa0\x80", 1)  # a lone surrogate
    return content


def spoil_json(value: Any, draw: random.Random) -> Any:
    """The same value with one part of it, at any depth, replaced, left out, added or doubled."""
    if not value or not isinstance(value, (dict, list)) or draw.random() < 0.2:
        return draw.choice(ODD_JSON)
    change = draw.randrange(8)
    if isinstance(value, dict):
        key = draw.choice(list(value))
        if change == 0:
            return {name: part for name, part in value.items() if name != key}
        if change == 1:
            return {**value, str(draw.choice(ODD_JSON)): draw.choice(ODD_JSON)}
        return {**value, key: spoil_json(value[key], draw)}
    at = draw.randrange(len(value))
    if change == 0:
        return value[:at] + value[at + 1 :]
    if change == 1:
        return value[:at] + value[at : at + 1] + value[at:]
    return [*value[:at], spoil_json(value[at], draw), *value[at + 1 :]]


def spoil_json_text(text: str, draw: random.Random) -> bytes:
    """JSON that is spoilt as JSON, or as bytes, or that nests without end."""
    change = draw.randrange(10)
    if change == 0:
        return spoil_bytes(text.encode(), draw)
    if change == 1:
        start = draw.choice(("[", '{"a":', "[[[", "-", "1"))
        return (start * draw.choice((10, 1000, 5000, 200_000, 2_000_000))).encode()
    spoilt = json.loads(text)
    for _ in range(draw.choice((1, 1, 2, 5))):
        spoilt = spoil_json(spoilt, draw)
    # escaped where it is a text alone, which may be a lone surrogate
    content = json.dumps(spoilt, ensure_ascii=not isinstance(spoilt, (dict, list)))
    return content.encode("utf-8", "surrogatepass" if draw.random() < 0.1 else "replace")
