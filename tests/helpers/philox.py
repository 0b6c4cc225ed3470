"""Philox 4x64-10 as Salmon et al. 2011 state it, and the dropout masks that it decides, in whole
numbers of Python.
"""

from collections.abc import Sequence

import numpy as np

MULTIPLIERS = 0xD2E7470EE14C6C93, 0xCA5A826395121157
STEPS = 0x9E3779B97F4A7C15, 0xBB67AE8584CAA73B  # of the key, from round to round
# Counter and key, then the block: the known answers that come with the authors' library, Random123
PUBLISHED = """
0000000000000000 0000000000000000 0000000000000000 0000000000000000 0000000000000000 0000000000000000
16554d9eca36314c db20fe9d672d0fdc d7e772cee186176b 7e68b68aec7ba23b
ffffffffffffffff ffffffffffffffff ffffffffffffffff ffffffffffffffff ffffffffffffffff ffffffffffffffff
87b092c3013fe90b 438c3c67be8d0224 9cc7d7c69cd777b6 a09caebf594f0ba0
243f6a8885a308d3 13198a2e03707344 a4093822299f31d0 082efa98ec4e6c89 452821e638d01377 be5466cf34e90c6c
a528f45403e61d95 38c72dbd566e9788 a5a1610e72fd18b5 57bd43b5e52b7fe6
"""


def published() -> list[tuple[list[int], list[int], list[int]]]:
    """Counters, keys and blocks of the known answers."""
    lines = [[int(word, 16) for word in line.split()] for line in PUBLISHED.split("\n") if line]
    return [
        (given[:4], given[4:], block) for given, block in zip(lines[::2], lines[1::2], strict=True)
    ]


def block(counter: Sequence[int], key: Sequence[int]) -> list[int]:
    """Four 64-bit words of a 256-bit counter and a 128-bit key, each given as 64-bit words, low
    first.
    """
    (a, b, c, d), (left, right) = counter, key
    for _ in range(10):
        first, second = MULTIPLIERS[0] * a, MULTIPLIERS[1] * c
        a, b, c, d = (
            (second >> 64) ^ b ^ left,
            second % 2**64,
            (first >> 64) ^ d ^ right,
            first % 2**64,
        )
        left, right = (left + STEPS[0]) % 2**64, (right + STEPS[1]) % 2**64
    return [a, b, c, d]


def kept(seed: int, place: int, step: int, shape: tuple[int, int], keep: float) -> np.ndarray:
    """The first rows of a mask, bool, by the contract of ops.dropout_masks: unit by unit."""
    rows, width = shape
    mask, blocks = np.zeros(shape, bool), (width + 15) // 16
    for row in range(rows):
        for unit in range(width):
            words = block([1 + row * blocks + unit // 16, 0, 0, step], [seed, place])
            mask[row, unit] = words[unit % 16 // 4] >> 16 * (unit % 4) & 0xFFFF < round(
                65536 * keep
            )
    return mask
