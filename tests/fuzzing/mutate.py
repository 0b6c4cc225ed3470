"""Ways to spoil bytes, text and JSON, drawn from a random.Random."""

import json
import random
from typing import Any

NUMBERS = (0, 1, -1, 2, 7, 127, 128, 255, 256, 65535, 2**31 - 1, 2**31, 2**32, 2**53, 2**63 - 1, 2**63, 2**64, 10**30, 10**400)
ODD: tuple[Any, ...] = (
    *NUMBERS, None, True, False, "", "\0", "\x1b[31m", "<script>", "../../etc/passwd", "/dev/zero", "\ud800", "\u202e", "x" * 10_000, 0.5, -0.0,
    float("nan"), float("inf"), 1e308, [], {}, [[]], [None], {"": None}, "numpy", "NaN", "\r\n", "a b",
)  # fmt: skip


def spoil_bytes(draw: random.Random, content: bytes, front: int | None = None) -> bytes:
    """A few changes of any kind, half of them within the first `front` bytes where that is given."""
    spoilt = bytearray(content)
    for _ in range(draw.choice((1, 1, 1, 2, 4, 16))):
        at = draw.randrange(max(1, min(len(spoilt), front) if front and draw.random() < 0.5 else len(spoilt)))
        change = draw.randrange(7)
        if change == 0:
            del spoilt[at:]
        elif change == 1:
            spoilt[at : at + 1] = bytes([draw.randrange(256)])
        elif change == 2:
            size = draw.choice((2, 4, 8))
            spoilt[at : at + size] = (draw.choice(NUMBERS[:17]) % 256**size).to_bytes(size, "little")
        elif change == 3:
            spoilt[at : at + draw.choice((1, 8, 100))] = b""
        elif change == 4:
            spoilt[at:at] = draw.randbytes(draw.choice((1, 8, 100)))
        elif change == 5:
            spoilt[at:at] = spoilt[at : at + draw.choice((1, 16, 1000))]
        else:
            size = draw.choice((1, 4, 64))
            spoilt[at : at + size] = bytes([draw.choice((0, 255))]) * size
    return bytes(spoilt)


def spoil_json(draw: random.Random, value: Any) -> Any:
    """The same value with one part of it, at any depth, replaced, left out, added or doubled."""
    if isinstance(value, dict) and value and draw.random() < 0.8:
        key = draw.choice(list(value))
        change = draw.randrange(8)
        if change == 0:
            return {name: part for name, part in value.items() if name != key}
        if change == 1:
            return {**value, str(draw.choice(ODD)): draw.choice(ODD)}
        return {**value, key: spoil_json(draw, value[key])}
    if isinstance(value, list) and value and draw.random() < 0.8:
        at = draw.randrange(len(value))
        change = draw.randrange(8)
        if change == 0:
            return value[:at] + value[at + 1 :]
        if change == 1:
            return value[:at] + value[at : at + 1] + value[at:]
        return [*value[:at], spoil_json(draw, value[at]), *value[at + 1 :]]
    return draw.choice(ODD)


def spoil_json_text(draw: random.Random, text: str) -> bytes:
    """JSON that is spoilt as JSON, or as bytes."""
    change = draw.randrange(10)
    if change == 0:
        return spoil_bytes(draw, text.encode())
    if change == 1:
        return (draw.choice(("[", '{"a":', "[[[", "-", "1")) * draw.choice((10, 1000, 5000, 200_000, 2_000_000))).encode()
    spoilt = json.loads(text)
    for _ in range(draw.choice((1, 1, 2, 5))):
        spoilt = spoil_json(draw, spoilt)
    return _dump(spoilt).encode("utf-8", "surrogatepass" if draw.random() < 0.1 else "replace")


def _dump(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False) if isinstance(value, (dict, list)) else json.dumps(value)
