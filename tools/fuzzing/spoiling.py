"""Small damages to bytes and text, drawn from a generator."""

import random

ODD = [
    0,
    1,
    2,
    0x7F,
    0x80,
    0xFF,
    0x7FFF,
    0xFFFF,
    0x7FFFFFFF,
    0x80000000,
    0xFFFFFFFF,
    2**40,
    2**63 - 1,
    2**63,
    2**64 - 1,
]
STRANGE = [
    "\t",
    "\t\t",
    "#",
    "#0\t",
    "\0",
    "\x1b[2J",
    "\r",
    "\n",
    "\n\n",
    "\u2028",
    "\ufeff",
    "\u202e",
    "é",
    "👩‍👩‍👧",
    "\x85",
    " ",
    "..",
    "/",
    "\\",
    "#99999999999",
    "\x7f",
]


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
            spoilt[at : at + width] = number.to_bytes(
                width, draw.choice(("little", "little", "big"))
            )
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
    """Lines doubled, dropped, swapped, made very long, or with strange characters in them; as UTF-8
    or as something else.
    """
    lines = text.split("\n")
    for _ in range(draw.choice((1, 1, 2, 5))):
        at = draw.randrange(len(lines))
        place = draw.randrange(len(lines[at]) + 1)
        kind = draw.randrange(8)
        if kind == 0:
            lines.insert(at, draw.choice(lines))
        elif kind == 1 and len(lines) > 1:
            del lines[at]
        elif kind == 2:
            lines[at] = draw.choice(STRANGE).join(lines[at].split(" "))
        elif kind == 3:
            lines[at] = (
                lines[at][:place]
                + draw.choice(STRANGE) * draw.choice((1, 50, 5000))
                + lines[at][place:]
            )
        elif kind == 4:
            lines[at] = (
                draw.choice(
                    [
                        "../" * 5 + "a.jpg",
                        "/etc/passwd",
                        "C:\\a.jpg",
                        "..\\a.jpg",
                        "a" * 300,
                        "x/" * 3000,
                        ".",
                        "",
                        "NUL",
                    ]
                )
                + lines[at][place:]
            )
        elif kind == 5:
            lines[at] = chr(
                draw.choice((draw.randrange(0xD800), draw.randrange(0xE000, 0x110000)))
            ).join((lines[at][:place], lines[at][place:]))
        elif kind == 6:
            lines[at] = lines[at][:place]
        else:
            lines[at] = (
                lines[at][:place]
                + " ".join(
                    draw.choice("abc#\t1") * draw.randrange(9)
                    for _ in range(draw.choice((3, 2000)))
                )
                + lines[at][place:]
            )
    joined = draw.choice(("\n", "\n", "\n", "\r\n", "\r")).join(lines)
    encoding = draw.choice(("utf-8",) * 8 + ("utf-16", "latin-1", "utf-8-sig"))
    content = joined.encode(encoding, "replace")
    return (
        content.replace(b"?", b"\xed\xa0\x80", 1) if draw.random() < 0.05 else content
    )  # a lone surrogate
