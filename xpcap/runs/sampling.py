"""Captions in words: decoding in batches, from features to words with their probabilities."""

from typing import Any, NamedTuple

import numpy as np

from xpcap.data.dataset import CaptionData
from xpcap.data.vocabulary import Vocabulary
from xpcap.progress import bar


class Caption(NamedTuple):
    """What a model says, word by word, and the probability it gave each word."""

    words: list[str]
    probabilities: list[float]

    @property
    def text(self) -> str:
        """The caption as a line of text."""
        return " ".join(self.words)


def caption_features(model: Any, vocabulary: Vocabulary, features: np.ndarray, max_words: int) -> list[Caption]:
    """Greedy captions for scaled features (n, D). NULL, START and UNK are never said; a caption ends at END, or after `max_words`."""
    silent = (vocabulary.null, vocabulary.start, vocabulary.unk)
    captions = []
    for ids, probabilities in zip(*model.sample_with_probabilities(features, max_length=max_words, forbid=silent), strict=True):
        words = vocabulary.words(ids)
        captions.append(Caption(words, [float(p) for p in probabilities[: len(words)]]))
    return captions


def caption_pictures(
    model: Any, data: CaptionData, split: str, pictures: np.ndarray, max_words: int, batch_size: int = 500, progress: bool = False
) -> list[Caption]:
    """Greedy captions for the pictures numbered `pictures` of a split."""
    captions: list[Caption] = []
    for start in bar(range(0, len(pictures), batch_size), progress, f"captioning {split}"):
        captions += caption_features(model, data.vocabulary, data.features(split, pictures[start : start + batch_size]), max_words)
    return captions
