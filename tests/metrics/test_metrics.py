"""Metrics beside what defines them: BLEU by hand and by nltk, the course's protocol, ROUGE-L, variety,
intervals, and teacher-forced scores.
"""

import functools
import itertools
import math
from typing import Any

import numpy as np
import pytest
from drawn_captions import PICTURES, draw_captions, draw_pictures
from refusals import Refusal, refusals, refuses

from xpcap import CaptioningRNN
from xpcap.data.loader import BatchLoader
from xpcap.data.synthetic import draw_data
from xpcap.metrics import (
    METRICS,
    Metric,
    averaged,
    bootstrap,
    bootstrap_intervals,
    corpus_bleu,
    paired,
    rouge_l,
    train_metrics,
    unigram_bleu,
)
from xpcap.metrics.rouge import common_words
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
    captions=np.array([True, False]) | TypeError | captions | have dtype bool
    captions=np.array([-1]) | ValueError | captions | hold -1..-1
    batch_size=-1 | ValueError | batch_size | is -1
    """
)
def test_teacher_forced_refuses_captions_that_there_are_not(refusal: Refusal) -> None:
    data = draw_data(3, 4, 8, seed=0)
    model = CaptioningRNN(data.vocabulary.word_to_idx, 4, 3, 3, "rnn", seed=0)
    for source in (data, BatchLoader(data, model.params.flat)):
        names = {"teacher_forced": teacher_forced, "np": np, "model": model, "source": source}
        refusal.check(names, "teacher_forced(model, source, 'train', {})")


def test_common_words_are_those_of_the_table() -> None:
    @functools.cache
    def longest(one: tuple[str, ...], other: tuple[str, ...]) -> int:
        if not one or not other:
            return 0
        if one[-1] == other[-1]:
            return longest(one[:-1], other[:-1]) + 1
        return max(longest(one[:-1], other), longest(one, other[:-1]))

    captions = draw_captions(np.random.default_rng(0), 25)
    for one, other in itertools.product(captions, captions):
        assert common_words(one, other) == longest(tuple(one), tuple(other)), (one, other)


def test_rouge_l_is_pycocoevalcaps() -> None:
    """Values of pycocoevalcap 1.2. Of the second picture precision is best for one reference,
    recall for another.
    """
    written = [
        (["a dog runs over the grass", "the dog plays"], "the dog runs in the grass"),
        (
            ["a man in red climbs", "red man on a very big and steep rock in the sun"],
            "red man on a steep rock climbs",
        ),
        (["a b"], "c d"),
    ]
    scores = [rouge_l([*map(str.split, captions)], said.split()) for captions, said in written]
    assert scores == pytest.approx([0.6666666666666666, 0.6029654036243821, 0.0], rel=1e-12)
    assert rouge_l([["a"]], []) == rouge_l([[]], ["a"]) == rouge_l([[]], []) == 0


def test_bleu_from_counts_is_nltks() -> None:
    from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu
    from nltk.translate.bleu_score import corpus_bleu as nltk_corpus_bleu

    references, hypotheses = draw_pictures(1)
    weights = [(1 / n,) * n for n in (1, 2, 3, 4)]
    np.testing.assert_allclose(
        corpus_bleu(references, hypotheses),
        nltk_corpus_bleu(references, hypotheses, weights=weights),
        rtol=1e-12,
    )
    smooth = SmoothingFunction().method1
    expected = [
        sentence_bleu(written, said, smoothing_function=smooth) if said else 0
        for written, said in zip(references, hypotheses, strict=True)
    ]
    smoothed = METRICS[0].score(references, hypotheses).pictures
    assert smoothed == pytest.approx(expected, rel=1e-12)


TRAIN = ["a dog", "cats run"]
COPIES = ["a dog", "a dog", "two cats run", ""]
CLAIMS: list[tuple[str, list[str], list[str], float, list[float]]] = [
    ("distinct", [], COPIES, 3 / 4, []),
    ("words", [], COPIES, 5, []),
    ("length", [], COPIES, 7 / 4, [2, 2, 3, 0]),
    ("novel", TRAIN, COPIES, 1 / 2, [0, 0, 1, 1]),
    # One to three words twice in a row
    (
        *("repeats", []),
        [
            "a dog is is",
            "a dog of a dog of",
            "a b c a b c",
            "a b c d a b c d",
            "a dog and a dog",
        ],
        *(3 / 5, [1, 1, 1, 0, 0]),
    ),
    # Of "dog a" nobody starts with "dog", ends with "a", or writes the two in this order
    (
        *("unseen_bigrams", ["a dog runs", "two dogs"], ["a dog runs", "dog a", "a dogs", ""]),
        *((0 + 3 + 1 + 1) / (4 + 3 + 3 + 1), [0, 1, 1 / 3, 1]),
    ),
    # Words of 50 occurrences that end at most one in 200: "laut" has 49, "bellt" ends captions,
    # "eine" ends 2 of 400 and "und" 3 of 400
    (
        "bad_endings",
        [
            *["ein hund bellt"] * 49 + ["laut und eine katze"] * 49 + ["und eine katze"] * 348,
            *["ein", "eine", "eine", "eine katze", "und", "und", "und"],
        ],
        ["ein hund und eine", "eine katze", "eine maus", ""],
        *(1 / 4, [1, 0, 0, 0]),
    ),
]


@pytest.mark.parametrize(
    ("name", "train", "said", "corpus", "pictures"), CLAIMS, ids=[name for name, *_ in CLAIMS]
)
def test_what_captions_show_by_themselves_is_counted(
    name: str, train: list[str], said: list[str], corpus: float, pictures: list[float]
) -> None:
    captions = [caption.split() for caption in train]
    metrics, _ = train_metrics(iter(captions), lambda: iter(captions))
    (metric,) = (metric for metric in (*METRICS, *metrics) if metric.name == name)
    scored = metric.score([], [caption.split() for caption in said])
    assert scored.corpus == {name: pytest.approx(corpus)}
    assert scored.pictures == pytest.approx(pictures)
    assert "references" not in metric.depends_on
    if name == "bad_endings":
        assert metric.protocol.endswith("; 1 words, such as eine")


def test_no_caption_breaks_off_where_too_few_tell_which_words_never_end_one() -> None:
    metrics, unscored = train_metrics([["a", "dog"]] * 49, list)
    assert [metric.name for metric in metrics] == ["novel", "unseen_bigrams"]
    assert unscored == {
        "bad_endings": "too few train captions to learn which words hardly ever end one"
    }


def test_an_interval_is_that_of_scores_of_resampled_captions(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each score computed anew from the captions of every resample."""
    monkeypatch.setattr(bootstrap, "RESAMPLES", 40)
    references, hypotheses = draw_pictures(2)
    # a CIDEr-D anew would be that of other document frequencies
    scores = {each: each.score(references, hypotheses) for each in METRICS if each.name != "cider"}
    found = bootstrap_intervals([scored.sums for scored in scores.values() if scored.sums])
    rng = np.random.default_rng(bootstrap.SEED)
    values: dict[str, list[float]] = {}
    for _ in range(40):
        drawn = rng.integers(0, PICTURES, PICTURES)
        for each in scores:
            for name, value in each.score(
                [references[i] for i in drawn], [hypotheses[i] for i in drawn]
            ).corpus.items():
                values.setdefault(name, []).append(value)
    assert "bleu4" in found
    for name, ends in found.items():
        assert ends == pytest.approx(tuple(np.percentile(values[name], [2.5, 97.5])), rel=1e-12), (
            name
        )
    assert bootstrap_intervals([]) == bootstrap_intervals([averaged("x", []).sums]) == {}  # type: ignore[list-item]


def test_an_interval_of_a_mean_is_two_standard_errors_wide_and_a_paired_one_only_as_wide_as_its_differences() -> (
    None
):
    rng = np.random.default_rng(3)
    easy = rng.normal(0, 1, 500)
    ours, theirs = (averaged("x", easy + rng.normal(shift, 0.1, 500)).sums for shift in (0.5, 0.4))
    assert ours is not None
    assert theirs is not None
    low, high = bootstrap_intervals([ours])["x"]
    assert (high - low) / 2 == pytest.approx(1.96 / 500**0.5, rel=0.1)
    low, high = paired([ours], [theirs])["x"]
    assert (high - low) / 2 == pytest.approx(1.96 * 0.1 * (2 / 500) ** 0.5, rel=0.15)
    assert low < 0.1 < high
    assert paired([ours], [averaged("y", easy).sums]) == {}  # type: ignore[list-item]


@pytest.mark.parametrize(
    "compared",
    [each for each in METRICS if "references" in each.depends_on],
    ids=lambda each: each.name,
)
def test_a_score_wants_lists_of_words_and_a_reference(compared: Metric) -> None:
    words, text = ["a", "dog"], "a dog"
    for references, caption in (([text], words), ([words], text), (words, words)):
        with refuses(TypeError, "is the text 'a"):
            compared.score([references], [caption])
    with refuses(ValueError, "has no reference"):
        compared.score([[]], [words])


def test_a_paired_interval_is_of_the_same_pictures() -> None:
    ours, theirs = (averaged("x", [1.0] * n).sums for n in (3, 5))
    with refuses(ValueError, "are of 3 and 5 pictures"):
        paired([ours], [theirs])  # type: ignore[list-item]
