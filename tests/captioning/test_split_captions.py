"""Captions for the pictures of a split: batches, limits, and words that are never said."""

from pathlib import Path

import numpy as np
import pytest
from runs import config_of

from xpcap import CaptioningRNN
from xpcap.captioning import captions as of_split
from xpcap.captioning.captions import caption_chosen
from xpcap.data import CaptionData, Split, Vocabulary
from xpcap.data.features import FeatureScaling
from xpcap.runs.records import PictureCaption
from xpcap.runs.run import Run

VOCABULARY = Vocabulary.build(["a dog runs on the grass"], min_count=1)


def data(rng: np.random.Generator) -> CaptionData:
    captions = VOCABULARY.encode(["a dog"] * 25, max_words=6)
    return CaptionData(
        VOCABULARY,
        {
            "val": Split(
                captions,
                np.arange(25),
                rng.standard_normal((25, 4)) * 3,
                [str(i) for i in range(25)],
            )
        },
    )


def model(rng: np.random.Generator) -> CaptioningRNN:
    made = CaptioningRNN(VOCABULARY.word_to_idx, 4, 5, 6, "lstm", np.float64, seed=0)
    for name, value in made.params.items():
        made.params[name] = 2 * rng.standard_normal(value.shape)
    return made


def captions_of(
    captioner: CaptioningRNN, data: CaptionData, numbers: np.ndarray
) -> list[PictureCaption]:
    run = Run(Path("run"), config_of(captioner, 6), VOCABULARY, FeatureScaling(), captioner, {})
    return caption_chosen(run.decoder(), data, "val", numbers)


def test_batches_of_any_size_give_the_same_captions_in_the_order_asked_for(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    pictures, captioner = data(rng), model(rng)
    order = rng.permutation(25)
    whole = captions_of(captioner, pictures, order)
    assert len(whole) == 25
    assert len({caption.caption for caption in whole}) > 5
    monkeypatch.setattr(of_split, "SPLIT_BATCH", 7)
    pieces = captions_of(captioner, pictures, order)
    pieces[0:25:24] = [
        captions_of(captioner, pictures, order[place : place + 1])[0] for place in (0, 24)
    ]
    for piece, caption in zip(pieces, whole, strict=True):
        assert piece.words == caption.words
        np.testing.assert_allclose(piece.probabilities, caption.probabilities, rtol=1e-9)


def test_probabilities_are_those_of_the_words_given_the_words_before(
    rng: np.random.Generator,
) -> None:
    """With the chance of END, or of no more where the words run out, they multiply to the
    likelihood of the caption.
    """
    pictures, captioner = data(rng), model(rng)
    captions = captions_of(captioner, pictures, np.arange(25))
    for row, caption in enumerate(captions):
        ids = [VOCABULARY.start, *(VOCABULARY.word_to_idx[word] for word in caption.words)]
        if not caption.words:
            continue
        nll = captioner.score(pictures.features("val", np.array([row])), np.array([ids])).nll
        assert np.prod(caption.probabilities) == pytest.approx(np.exp(-float(nll)), rel=1e-9)
    assert sum(len(caption.words) > 2 for caption in captions) > 5


def test_captions_are_of_max_words_at_most_and_of_real_words_only(rng: np.random.Generator) -> None:
    pictures, captioner = data(rng), model(rng)
    captioner.params["b_vocab"][[VOCABULARY.null, VOCABULARY.start, VOCABULARY.unk]] = (
        100  # what it would love to say
    )
    captioner.params["b_vocab"][VOCABULARY.end] = -100
    captions = captions_of(captioner, pictures, np.arange(25))
    assert {len(caption.words) for caption in captions} == {6}
    assert {word for caption in captions for word in caption.words} <= set(
        VOCABULARY.idx_to_word[4:]
    )
    captioner.params["b_vocab"][VOCABULARY.end] = 100
    silent = captions_of(captioner, pictures, np.arange(2))
    assert [(caption.words, caption.probabilities) for caption in silent] == [([], []), ([], [])]
