"""Captions of random words."""

import numpy as np

VOCABULARY = ["a", "b", "c", "<UNK>"]
PICTURES = 20

Captions = list[list[str]]  # one a picture, each a list of words
Pictures = list[Captions]  # of each picture its references


def draw_captions(rng: np.random.Generator, count: int, *, least: int = 0) -> Captions:
    """Captions of `least` to 9 random words, which often repeat, each also in other captions."""
    lengths = rng.integers(least, 10, count)
    return [[VOCABULARY[k] for k in rng.integers(0, len(VOCABULARY), size)] for size in lengths]


def draw_pictures(seed: int, count: int = PICTURES) -> tuple[Pictures, Captions]:
    """One to four references a picture, of four words or more, and a caption, maybe of none."""
    rng = np.random.default_rng(seed)
    references = [draw_captions(rng, size, least=4) for size in rng.integers(1, 5, count)]
    return references, draw_captions(rng, count)
