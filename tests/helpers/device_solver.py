"""A small solver whose steps tests count, record and compare on the emulated device."""

from typing import Any

import numpy as np

import xpcap
from xpcap import CaptioningRNN, CaptioningSolver
from xpcap.data.dataset import CaptionData, Split
from xpcap.data.vocabulary import SPECIAL, Vocabulary
from xpcap.layers import CELLS
from xpcap.ops import has_kernels
from xpcap.training.losses import LossBuffer

N, T, D, W, H, V, P = 12, 16, 10, 6, 8, 40, 4
RECORDED = [name for name, cell in CELLS.items() if has_kernels(cell)]
VOCABULARY = Vocabulary([*SPECIAL, *(f"word{i}" for i in range(V - len(SPECIAL)))])


def captions_of(rng: np.random.Generator, n: int, hole: bool = False) -> np.ndarray:
    """Captions of 5 to T - 1 words, one of them of T - 1; with a NULL inside another if `hole`."""
    captions = np.full((n, T + 1), VOCABULARY.null, np.int32)
    for row, words in enumerate([T - 1, *rng.integers(5, T, n - 1)]):
        captions[row, : words + 2] = [
            VOCABULARY.start,
            *rng.integers(len(SPECIAL), V, words),
            VOCABULARY.end,
        ]
    if hole:
        captions[1, 3] = VOCABULARY.null
    return captions


def make_data(hole: bool = False, inject: str = "init", n: int = 2 * N) -> CaptionData:
    rng = np.random.default_rng(3)
    features = rng.standard_normal((9, P, D) if "attention" in inject else (9, D)).astype("f4")
    split = Split(
        captions_of(rng, n, hole),
        rng.integers(0, 9, n).astype(np.int32),
        features,
        [f"{i}.png" for i in range(9)],
    )
    return CaptionData(VOCABULARY, {"train": split, "val": split})


def make(
    backend: str,
    cell: str = "lstm",
    dropout: float = 0.3,
    dtype: Any = np.float32,
    hole: bool = False,
    inject: str = "init",
    n: int = 2 * N,
    **options: Any,
) -> CaptioningSolver:
    with xpcap.use_backend(backend):
        data = make_data(hole, inject, n)
        size = (P, D) if "attention" in inject else D
        model = CaptioningRNN(
            VOCABULARY.word_to_idx, size, W, H, cell, dtype, dropout=dropout, inject=inject, seed=1
        )
        settings = {
            "update_rule": "adam",
            "batch_size": N,
            "num_epochs": 2,
            "clip_norm": 5.0,
            "seed": 2,
            "verbose": False,
        }
        return CaptioningSolver(model, data, **{**settings, **options})


def leave_losses(one: CaptioningSolver) -> None:
    """Let no loss be read for a hundred steps."""
    one._record = LossBuffer(one.model.params.flat, 100)
