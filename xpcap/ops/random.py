"""Counter-based random numbers (Philox), equal on host and device.

Dropout masks, augmentation choices, and uniforms for sampling captions in training. Each is a
function of the seed, its stream, the training step, and the number of the row, so results depend
neither on the order of calls nor on packing and sharding.

Notes
-----
Salmon et al. 2011, *Parallel random numbers: as easy as 1, 2, 3*.
"""

import numpy as np

VIEWS, SAMPLES = 3, 4  # streams of augmentations and of sampled captions; masks have 0, 1 and 2


def kept_units(
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
