"""Counts the arithmetic that the work needs: the matrix products, without padding, with each distinct word projected once.

A multiplication and an addition count as two operations. Elementwise work, softmax and Adam do not count: memory bounds them, not arithmetic.
"""

from collections.abc import Iterable

import numpy as np

from benchmarks.configs import Config
from xpcap.models.packing import pack


def training_flops(config: Config, batches: Iterable[np.ndarray], null: int) -> float:
    """Operations that a training step needs, averaged over batches of captions (N, T+1).

    Each layer takes three products: forward, and a gradient for each factor. The features need no gradient, so their projection takes two.
    """
    return float(np.mean([_step_flops(config, captions, null) for captions in batches]))


def _step_flops(config: Config, captions: np.ndarray, null: int) -> int:
    packed = pack(captions, null)
    R, K, L = len(packed.inputs.ids), len(packed.words), len(packed.targets)  # live rows, distinct input words, rows with a target
    products = 3 * (K * config.W * 4 * config.H + R * config.H * 4 * config.H + L * config.H * config.V)
    if config.P:  # the context's weights; scores and context, and back to the context, the state and, twice, the places
        products += 3 * R * config.H * 4 * config.H + 6 * R * config.P * config.H
    return 2 * (2 * packed.rows.N * (config.P or 1) * config.D * config.H + products)


def sampling_flops(config: Config, captions: np.ndarray, null: int, end: int, width: int = 1) -> int:
    """Operations that finding captions (n, T) needs. Captions begin with the first word found and hold NULL after END.

    A beam of `width` hypotheses needs one for the first word and `width` for each later one; how many others it went on with does not count.
    """
    rows = len(captions) + width * (int(np.count_nonzero(captions != null)) - len(captions))
    fed = captions[:, :-1]
    K = 1 + len(np.unique(fed[(fed != null) & (fed != end)]))  # the 1 is START
    H = config.H
    return 2 * (len(captions) * config.D * H + K * config.W * 4 * H + rows * (H * 4 * H + H * config.V))
