"""Counter-based random numbers (Philox), equal on host and device.

Dropout masks, augmentation choices, and uniforms for sampling captions in training. Each is a
function of the seed, its stream, the training step, and the number of the row, so results depend
neither on the order of calls nor on packing and sharding.

Notes
-----
Salmon et al. 2011, *Parallel random numbers: as easy as 1, 2, 3*.
"""

from collections.abc import Sequence

import numpy as np

from xpcap.backend import Array, asarray, is_device_array
from xpcap.ops.base import gather
from xpcap.ops.dispatch import find

VIEWS, SAMPLES = 3, 4  # streams of augmentations and of sampled captions; masks have 0, 1 and 2


def dropout_masks(
    masks: Sequence[Sequence[Array]],
    mask_rows: Sequence[Sequence[Array]],
    counts: Sequence[int],
    seed: int,
    step: int,
    keep: float,
) -> None:
    """Draw a training step's dropout masks, true for the units to keep.

    Image features have stream 0, words 1, hidden states 2. Unit u of row number r is kept if 16
    bits are below round(65536 * keep), at most 65536: bits 16 * (u % 16) and up of the 256 that
    Philox 4x64-10 makes of the key (seed, stream) and the counter (1 + r * ceil(width / 16) + u //
    16, 0, 0, step), low words and low bits first. So ``numpy.random.Philox(key=[seed, stream],
    counter=[0, 0, 0, step]).random_raw(...)``, seen as uint16, has the bits of row 0, of row 1, and
    so on: NumPy counts up before it makes a block.

    Parameters
    ----------
    masks : of each part of the batch, for each stream: array (n, width), bool, written to
    mask_rows : likewise: array (n,), int32, the row number of each row; -1, on a device alone, of one
        that keeps no unit
    counts : for each stream, the rows of the whole batch; its numbers are 0..count-1
    seed, step : int in 0..2**63-1
    """
    if fast := find(dropout_masks, masks, mask_rows, counts, seed, step, keep):
        fast(masks, mask_rows, counts, seed, step, keep)
        return
    for stream, count in enumerate(counts):
        kept = _kept_units(seed, stream, step, (count, masks[0][stream].shape[1]), keep)
        for part, rows in zip(masks, mask_rows, strict=True):
            mask = part[stream]
            gather(asarray(kept, like=mask), rows[stream], out=mask)
            if is_device_array(mask):
                mask &= (rows[stream] >= 0)[:, None]


def _kept_units(
    seed: int, stream: int, step: int, shape: tuple[int, int], keep: float
) -> np.ndarray:
    """Masks of rows 0, 1, ... of a stream, on the host."""
    count, width = shape
    blocks = -(-width // 16)  # of 16 units, in each row
    words = _philox(seed, stream, step).random_raw(4 * count * blocks)
    bits = words.astype("<u8", copy=False).view("<u2")
    return (bits < round(65536 * keep)).reshape(count, 16 * blocks)[:, :width]


def draw_views(n: int, views: int, seed: int, step: int) -> np.ndarray | None:
    """Augmentation, one of `views`, for each of n captions in a training step: array (n,), int32.

    None if there is only one. Row i gets 64 bits, number i of ``numpy.random.Philox(key=[seed,
    VIEWS], counter=[0, 0, 0, step])``, modulo `views`.
    """
    if views == 1:
        return None
    return (_philox(seed, VIEWS, step).random_raw(n) % np.uint64(views)).astype(np.int32)


def draw_uniforms(n: int, length: int, seed: int, step: int) -> np.ndarray:
    """Uniforms in [0, 1) to sample n captions of at most `length` words in a training step.

    Array (n, length), float64. Row i has the numbers i * length and up of ``numpy.random.Philox(
    key=[seed, SAMPLES], counter=[0, 0, 0, step])``, as NumPy's Generator makes them.
    """
    return np.random.Generator(_philox(seed, SAMPLES, step)).random((n, length))


def _philox(seed: int, stream: int, step: int) -> np.random.Philox:
    key, counter = np.array([seed, stream], np.uint64), np.array([0, 0, 0, step], np.uint64)
    return np.random.Philox(key=key, counter=counter)
