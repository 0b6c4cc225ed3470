"""Minibatches, and captions as text."""

import numpy as np


def sample_coco_minibatch(data, batch_size=100, split="train"):
    """Captions drawn with replacement, the features of their pictures, and the URLs of these."""
    drawn = np.random.choice(len(data[f"{split}_captions"]), batch_size)
    images = data[f"{split}_image_idxs"][drawn]
    urls = data[f"{split}_urls"][images]
    return data[f"{split}_captions"][drawn], data[f"{split}_features"][images], urls


def decode_captions(captions, idx_to_word):
    """Captions (N, T) as texts, or one caption (T,) as a text; a text ends with END."""
    if captions.ndim == 1:
        return decode_captions(captions[None], idx_to_word)[0]
    texts = []
    for caption in captions:
        words = []
        for index in caption:
            word = idx_to_word[index]
            if word != "<NULL>":
                words.append(word)
            if word == "<END>":
                break
        texts.append(" ".join(words))
    return texts
