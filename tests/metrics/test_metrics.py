"""BLEU by hand, the course's protocol, and teacher-forced scores."""

import math
from typing import Any

import numpy as np
import pytest
from refusals import Refusal, refusals

from xpcap import CaptioningRNN
from xpcap.data.loader import BatchLoader
from xpcap.data.synthetic import draw_data
from xpcap.metrics import ALIASES, METRICS, corpus_bleu, unigram_bleu
from xpcap.shapes import generate
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


def test_names_of_metrics_and_second_names_of_scores_are_all_different() -> None:
    names = [name for metric in METRICS for name in {metric.name, *metric.score([], []).corpus}]
    assert len({*names, *ALIASES}) == len(names) + len(ALIASES)
    assert set(ALIASES.values()) <= set(names)


def test_unigram_bleu_of_a_picture_is_the_mean_over_its_references() -> None:
    references = [["a dog runs".split(), "a dog".split()], ["two cats".split()]]
    hypotheses = ["a dog".split(), "two dogs".split()]
    bleu, unigram = (metric.score(references, hypotheses) for metric in METRICS[:2])
    assert bleu.corpus == dict(
        zip(["bleu1", "bleu2", "bleu3", "bleu4"], corpus_bleu(references, hypotheses), strict=True)
    )
    singles = [math.exp(1 - 3 / 2), 1, 1 / 2]
    assert unigram.pictures == pytest.approx([(singles[0] + singles[1]) / 2, singles[2]])
    over_captions = sum(singles) / 3
    assert unigram.corpus == {"unigram_bleu": pytest.approx(over_captions)}


def test_teacher_forced_totals_do_not_depend_on_the_batch_size(lib: Any) -> None:
    pytest.importorskip("PIL")  # generated pictures
    data = generate(seed=5, train=10, val=30)
    model = CaptioningRNN(
        data.vocabulary.word_to_idx, data.feature_dim, 8, 9, "lstm", np.float64, seed=0
    )
    whole, parts = (teacher_forced(model, data, "val", batch_size=size) for size in (150, 7))
    assert parts == pytest.approx(whole)
    captions = data.split("val").captions
    assert (whole.n, whole.tokens) == (150, (captions[:, 1:] != 0).sum())
    assert whole.perplexity == pytest.approx(math.exp(whole.loss * whole.n / whole.tokens))
    assert whole.loss == pytest.approx(
        float(model.loss(data.features("val", data.split("val").image_idxs), captions)[0])
    )
    assert teacher_forced(model, data, "val", captions=np.array([3])).n == 1


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
