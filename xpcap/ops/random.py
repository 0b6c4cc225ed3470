"""Draws from a counter: dropout masks, a function of seed, place, training step, row and unit, with the same bits on the host and on a device;
which view of its picture a caption gets, a function of seed, step and row; and what captions are sampled by in training, of seed, step, row and word.
"""

from collections.abc import Sequence

import numpy as np

from xpcap.backend import Array, asarray
from xpcap.ops import dispatch
from xpcap.ops.equations import gather

VIEWS, SAMPLES = 3, 4  # the places of views and of sampled captions; dropout masks have those before them


def draw_masks(
    masks: Sequence[Sequence[Array]], numbers: Sequence[Sequence[Array]], counts: Sequence[int], seed: int, step: int, keep: float
) -> None:
    """Draw the dropout masks of a training step: which units of image features (place 0), words (1) and hidden states (2) are kept.

    Unit u of row number r of a place is kept if 16 bits are below round(65536 * keep), at most 65536: bits 16 * (u % 16) and up of the 256 that
    Philox 4x64-10 makes of the key (seed, place) and the counter (1 + r * ceil(width / 16) + u // 16, 0, 0, step), low words and low bits first.
    So a mask is a function of seed, place, step, row number and unit, and ``numpy.random.Philox(key=[seed, place], counter=[0, 0, 0,
    step]).random_raw(...).view(numpy.uint16)`` has the bits of row 0, of row 1, and so on: NumPy counts up before it makes a block.

    Parameters
    ----------
    masks : of each part of the batch, for each place: array (n, width), bool, written to
    numbers : likewise: array (n,), int32, the row number of each row
    counts : for each place, the rows of the whole batch; its numbers are 0..count-1
    seed, step : int in 0..2**63-1

    Notes
    -----
    Salmon et al. 2011, *Parallel random numbers: as easy as 1, 2, 3*.
    """
    if fast := dispatch.find("draw_masks", masks, numbers, counts, seed, step, keep):
        fast(masks, numbers, counts, seed, step, keep)
        return
    for place, count in enumerate(counts):
        kept = _draw_rows(seed, place, step, (count, masks[0][place].shape[1]), keep)
        for part, rows in zip(masks, numbers, strict=True):
            gather(asarray(kept, like=part[place]), rows[place], out=part[place])


def _draw_rows(seed: int, place: int, step: int, shape: tuple[int, int], keep: float) -> np.ndarray:
    """Rows 0, 1, ... of one place, on the host."""
    count, width = shape
    blocks = -(-width // 16)  # of 16 units, a row
    key, counter = np.array([seed, place], np.uint64), np.array([0, 0, 0, step], np.uint64)
    words = np.random.Philox(key=key, counter=counter).random_raw(4 * count * blocks)
    bits = words.astype("<u8", copy=False).view("<u2")
    return (bits < round(65536 * keep)).reshape(count, 16 * blocks)[:, :width]


def draw_views(n: int, views: int, seed: int, step: int) -> np.ndarray | None:
    """Which of `views` views of its picture each of n captions gets in a training step: array (n,), int32. None: there is only one.

    Row i gets 64 bits, number i of ``numpy.random.Philox(key=[seed, VIEWS], counter=[0, 0, 0, step])``, modulo `views`.
    """
    if views == 1:
        return None
    key, counter = np.array([seed, VIEWS], np.uint64), np.array([0, 0, 0, step], np.uint64)
    return (np.random.Philox(key=key, counter=counter).random_raw(n) % np.uint64(views)).astype(np.int32)


def draw_uniforms(n: int, length: int, seed: int, step: int) -> np.ndarray:
    """What n captions of at most `length` words are sampled by in a training step: array (n, length), float64, in [0, 1).

    Row i has the numbers i * length and up of ``numpy.random.Philox(key=[seed, SAMPLES], counter=[0, 0, 0, step])``, as NumPy's Generator makes them.
    """
    key, counter = np.array([seed, SAMPLES], np.uint64), np.array([0, 0, 0, step], np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=counter)).random((n, length))
