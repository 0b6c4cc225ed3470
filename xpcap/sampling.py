"""Captions for pictures of a data set: decoding in batches, from features to words."""

from typing import Any

import numpy as np

from xpcap.data.dataset import CaptionData
from xpcap.progress import bar


def caption_pictures(
    model: Any, data: CaptionData, split: str, pictures: np.ndarray, max_words: int, batch_size: int = 500, progress: bool = False
) -> list[list[str]]:
    """Greedy captions, as lists of words, for the pictures numbered `pictures` of a split.

    NULL, START and UNK are never said; a caption ends at END, or after `max_words`.
    """
    vocabulary = data.vocabulary
    silent = (vocabulary.null, vocabulary.start, vocabulary.unk)
    captions: list[list[str]] = []
    for start in bar(range(0, len(pictures), batch_size), progress, f"captioning {split}"):
        ids = model.sample(data.features(split, pictures[start : start + batch_size]), max_length=max_words, forbid=silent)
        captions += [vocabulary.words(caption) for caption in ids]
    return captions
