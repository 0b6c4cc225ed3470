"""Counter-based random numbers (Philox), equal on host and device.

They make dropout masks, choices of augmentations, and uniforms for sampling captions in training. Each
number is a function of the seed, the stream, the training step and the row, so results depend neither
on the order of calls nor on packing and sharding.

Notes
-----
Salmon et al. 2011, *Parallel random numbers: as easy as 1, 2, 3*.
"""

import numpy as np

# Streams of augmentations and of sampled captions; dropout masks have 0, 1 and 2
VIEWS = 3
SAMPLES = 4


def kept_units(
    seed: int, stream: int, step: int, shape: tuple[int, int], keep: float
) -> np.ndarray:
    """Dropout masks of rows 0, 1, ... of a stream, on the host."""
    count, width = shape
    blocks = -(-width // 16)  # blocks of 16 units per row
    words = _philox(seed, stream, step).random_raw(4 * count * blocks)
    bits = words.astype("<u8", copy=False).view("<u2")
    return (bits < round(65536 * keep)).reshape(count, 16 * blocks)[:, :width]


def draw_views(n: int, views: int, seed: int, step: int) -> np.ndarray | None:
    """The augmentation in 0..views-1 of each of n captions in a training step: array (n,), int32.

    None if there is only one. Row i gets the i-th 64 bits of ``numpy.random.Philox(key=[seed, VIEWS],
    counter=[0, 0, 0, step])``, modulo `views`.
    """
    if views == 1:
        return None
    return (_philox(seed, VIEWS, step).random_raw(n) % np.uint64(views)).astype(np.int32)


def draw_uniforms(n: int, length: int, seed: int, step: int) -> np.ndarray:
    """Uniforms in [0, 1) to sample n captions of at most `length` words in a training step.

    Array (n, length), float64. Row i has the numbers i * length and up that NumPy's Generator makes
    from ``numpy.random.Philox(key=[seed, SAMPLES], counter=[0, 0, 0, step])``.
    """
    return np.random.Generator(_philox(seed, SAMPLES, step)).random((n, length))


def _philox(seed: int, stream: int, step: int) -> np.random.Philox:
    key = np.array([seed, stream], np.uint64)
    counter = np.array([0, 0, 0, step], np.uint64)
    return np.random.Philox(key=key, counter=counter)
