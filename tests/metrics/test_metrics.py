"""BLEU by hand, the course's protocol, and teacher-forced scores."""

import math
from typing import Any

import numpy as np
import pytest
from refusals import Refusal, refusals

from xpcap import CaptioningRNN
from xpcap.data.loader import BatchLoader
from xpcap.data.synthetic import draw_data
from xpcap.metrics import METRICS, corpus_bleu, unigram_bleu
from xpcap.training.evaluate import teacher_forced


def test_corpus_bleu_matches_hand_counts() -> None:
    """Captions of 4 and 3 words: all 7 unigrams found ("away" in a second reference only), 4 of 5
    bigrams, 2 of 3 trigrams, no 4-gram.
    """
    references = [
        ["a dog runs fast".split(), "the dog went away now ok".split()],
        ["a cat sat down".split()],
    ]
    hypotheses = ["a dog runs away".split(), "a cat sat".split()]
    b1, b2, b3, b4 = corpus_bleu(references, hypotheses)
    brevity = math.exp(1 - 8 / 7)  # closest references are 4 words long
    p1, p2, p3 = 7 / 7, 4 / 5, 2 / 3
    assert b1 == pytest.approx(brevity * p1)
    assert b2 == pytest.approx(brevity * (p1 * p2) ** (1 / 2))
    assert b3 == pytest.approx(brevity * (p1 * p2 * p3) ** (1 / 3))
    assert b4 == 0  # without a single match; and no warning


def test_unigram_bleu_is_the_mean_of_sentence_scores() -> None:
    references = ["a dog runs".split(), "a dog runs".split(), "two cats".split()]
    hypotheses = ["a dog dog".split(), "a dog".split(), []]
    assert unigram_bleu(references, hypotheses) == pytest.approx(
        (2 / 3 + math.exp(1 - 3 / 2) + 0) / 3
    )


def test_unigram_bleu_of_a_picture_is_the_mean_over_its_references() -> None:
    references = [["a dog runs".split(), "a dog".split()], ["two cats".split()]]
    hypotheses = ["a dog".split(), "two dogs".split()]
    bleu, unigram = (metric.score(references, hypotheses) for metric in METRICS[:2])
    assert [*bleu.corpus] == ["bleu1", "bleu2", "bleu3", "bleu4"]
    assert [*bleu.corpus.values()] == [*corpus_bleu(references, hypotheses)]
    singles = [math.exp(1 - 3 / 2), 1, 1 / 2]
    assert unigram.pictures == pytest.approx([(singles[0] + singles[1]) / 2, singles[2]])
    assert unigram.corpus == {"unigram_bleu": pytest.approx(sum(singles) / 3)}  # over captions


def test_teacher_forced_totals_do_not_depend_on_the_batch_size(lib: Any) -> None:
    data = draw_data(50, 4, 30, seed=0)
    model = CaptioningRNN(data.vocabulary.word_to_idx, 4, 8, 9, "lstm", np.float64, seed=0)
    whole, parts = (teacher_forced(model, data, "train", batch_size=size) for size in (50, 7))
    assert parts == pytest.approx(whole)
    split = data.split("train")
    assert (whole.n, whole.tokens) == (50, (split.captions[:, 1:] != 0).sum())
    assert whole.perplexity == pytest.approx(math.exp(whole.loss * whole.n / whole.tokens))
    loss, _ = model.loss(data.features("train", split.image_idxs), split.captions)
    assert whole.loss == pytest.approx(float(loss))
    assert teacher_forced(model, data, "train", captions=np.array([3])).n == 1


@refusals(
    """
    captions=np.array([True, False]) | TypeError | thing: captions | got: have dtype bool
    captions=np.array([-1]) | ValueError | thing: captions | got: hold -1..-1
    batch_size=-1 | ValueError | thing: batch_size | got: is -1
    """,
    function="teacher_forced",
)
def test_teacher_forced_refuses_captions_that_there_are_not(refusal: Refusal) -> None:
    data = draw_data(3, 4, 8, seed=0)
    model = CaptioningRNN(data.vocabulary.word_to_idx, 4, 3, 3, "rnn", seed=0)
    for source in (data, BatchLoader(data, model.params.flat)):
        names = {"teacher_forced": teacher_forced, "np": np, "model": model, "source": source}
        refusal.check(names, "teacher_forced(model, source, 'train', {})")
