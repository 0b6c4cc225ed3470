"""BLEU by hand, the course's protocol, and teacher-forced scores."""

import math
from typing import Any

import numpy as np
import pytest

from xpcap import CaptioningRNN
from xpcap.metrics import METRICS, Bleu, UnigramBleu, corpus_bleu, smoothed_bleu, unigram_bleu
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


def test_bleu_of_the_reference_itself_is_1_and_of_nothing_is_0() -> None:
    words = "a small dog runs on the grass".split()
    assert corpus_bleu([[words]], [words]) == pytest.approx((1, 1, 1, 1))
    assert corpus_bleu([[words]], [[]]) == (0, 0, 0, 0)
    assert corpus_bleu([[words]], [["zebra"]]) == (0, 0, 0, 0)


def test_unigram_bleu_is_the_mean_of_sentence_scores() -> None:
    references = ["a dog runs".split(), "a dog runs".split(), "two cats".split()]
    hypotheses = ["a dog dog".split(), "a dog".split(), []]
    assert unigram_bleu(references, hypotheses) == pytest.approx(
        (2 / 3 + math.exp(1 - 3 / 2) + 0) / 3
    )


def test_every_metric_says_how_it_scores_and_gives_each_picture_one_value() -> None:
    references = [
        ["a dog runs".split(), "the dog".split()],
        ["two cats".split()],
        ["a red ball on grass".split()],
    ]
    hypotheses = ["a dog runs".split(), [], "a ball".split()]
    for metric in METRICS:
        scored = metric.score(references, hypotheses)
        assert metric.protocol
        assert metric.title
        assert all(name.startswith(metric.name) for name in scored.corpus)
        if metric.name in ("distinct", "words"):  # a picture alone has none
            assert (scored.pictures, scored.sums) == ([], None)
        else:
            assert len(scored.pictures) == 3
            if metric.name == "repeats":
                assert scored.pictures == [0, 0, 0]
            else:
                assert scored.pictures[0] > scored.pictures[2] > scored.pictures[1] == 0
            assert scored.sums is not None
            whole = scored.sums.values(scored.sums.parts.sum(axis=0, keepdims=True))
            assert {name: values.tolist() for name, values in whole.items()} == {
                name: [pytest.approx(value)] for name, value in scored.corpus.items()
            }
        assert all(value == 0 for name, value in metric.score([], []).corpus.items()), metric.name
    assert len({metric.name for metric in METRICS}) == len(METRICS) == 8


def test_bleu_of_a_picture_is_smoothed_and_unigram_bleu_of_one_is_the_mean_over_its_references() -> (
    None
):
    references = [["a dog runs".split(), "a dog".split()], ["two cats".split()]]
    hypotheses = ["a dog".split(), "two dogs".split()]
    bleu, unigram = (
        Bleu().score(references, hypotheses),
        UnigramBleu().score(references, hypotheses),
    )
    assert tuple(bleu.corpus.values()) == corpus_bleu(references, hypotheses)
    assert list(bleu.corpus) == ["bleu1", "bleu2", "bleu3", "bleu4"]
    assert bleu.pictures == [
        smoothed_bleu(written, said) for written, said in zip(references, hypotheses, strict=True)
    ]
    singles = [math.exp(1 - 3 / 2), 1, 1 / 2]
    assert unigram.pictures == pytest.approx([(singles[0] + singles[1]) / 2, singles[2]])
    assert unigram.corpus == {
        "unigram_bleu": pytest.approx(sum(singles) / 3)
    }  # over captions, not over pictures


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
