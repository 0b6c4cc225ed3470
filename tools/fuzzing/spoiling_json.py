"""Damages to JSON that leave it JSON, and some that do not, drawn from a generator."""

import json
import random
from typing import Any

from fuzzing.spoiling import spoil_bytes

NUMBERS = (
    0,
    1,
    -1,
    2,
    7,
    127,
    128,
    255,
    256,
    65535,
    2**31 - 1,
    2**31,
    2**32,
    2**53,
    2**63 - 1,
    2**63,
    2**64,
    10**30,
    10**400,
)
ODD: tuple[Any, ...] = (
    *NUMBERS,
    None,
    True,
    False,
    "",
    "\0",
    "\x1b[31m",
    "<script>",
    "../../etc/passwd",
    "/dev/zero",
    "\ud800",
    "\u202e",
    "x" * 10_000,
    0.5,
    -0.0,
    float("nan"),
    float("inf"),
    1e308,
    [],
    {},
    [[]],
    [None],
    {"": None},
    "numpy",
    "NaN",
    "\r\n",
    "a b",
)


def spoil_json(value: Any, draw: random.Random) -> Any:
    """The same value with one part of it, at any depth, replaced, left out, added or doubled."""
    if isinstance(value, dict) and value and draw.random() < 0.8:
        key = draw.choice(list(value))
        change = draw.randrange(8)
        if change == 0:
            return {name: part for name, part in value.items() if name != key}
        if change == 1:
            return {**value, str(draw.choice(ODD)): draw.choice(ODD)}
        return {**value, key: spoil_json(value[key], draw)}
    if isinstance(value, list) and value and draw.random() < 0.8:
        at = draw.randrange(len(value))
        change = draw.randrange(8)
        if change == 0:
            return value[:at] + value[at + 1 :]
        if change == 1:
            return value[:at] + value[at : at + 1] + value[at:]
        return [*value[:at], spoil_json(value[at], draw), *value[at + 1 :]]
    return draw.choice(ODD)


def spoil_json_text(text: str, draw: random.Random) -> bytes:
    """JSON that is spoilt as JSON, or as bytes."""
    change = draw.randrange(10)
    if change == 0:
        return spoil_bytes(text.encode(), draw)
    if change == 1:
        return (
            draw.choice(("[", '{"a":', "[[[", "-", "1"))
            * draw.choice((10, 1000, 5000, 200_000, 2_000_000))
        ).encode()
    spoilt = json.loads(text)
    for _ in range(draw.choice((1, 1, 2, 5))):
        spoilt = spoil_json(spoilt, draw)
    return _dump(spoilt).encode("utf-8", "surrogatepass" if draw.random() < 0.1 else "replace")


def _dump(value: Any) -> str:
    return (
        json.dumps(value, ensure_ascii=False)
        if isinstance(value, (dict, list))
        else json.dumps(value)
    )
