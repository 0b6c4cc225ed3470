"""ROUGE-L, BLEU's counts, variety and intervals: each beside what it is defined by."""

import functools
import itertools
from collections.abc import Sequence

import numpy as np
import pytest
from refusals import refuses

from xpcap.metrics import (
    BadEndings,
    Bleu,
    CorpusStatistics,
    Distinct,
    Length,
    Metric,
    Novel,
    Repeats,
    RougeL,
    UnigramBleu,
    UnseenBigrams,
    WordsUsed,
    averaged,
    corpus_bleu,
    intervals,
    metric,
    paired,
    rouge_l,
    smoothed_bleu,
)
from xpcap.metrics.rouge import common_words


def random_captions(rng: np.random.Generator, n: int, least: int = 0) -> list[list[str]]:
    return [[f"w{word}" for word in rng.integers(0, 3, rng.integers(least, 9))] for _ in range(n)]


def random_pictures(seed: int, n: int = 30) -> tuple[list[list[list[str]]], list[list[str]]]:
    rng = np.random.default_rng(seed)
    return [
        random_captions(rng, int(rng.integers(1, 5)), least=1) for _ in range(n)
    ], random_captions(rng, n)


def test_common_words_are_those_of_the_table() -> None:
    @functools.cache
    def longest(one: tuple[str, ...], other: tuple[str, ...]) -> int:
        if not one or not other:
            return 0
        if one[-1] == other[-1]:
            return longest(one[:-1], other[:-1]) + 1
        return max(longest(one[:-1], other), longest(one, other[:-1]))

    captions = random_captions(np.random.default_rng(0), 25)
    for one, other in itertools.product(captions, captions):
        assert common_words(one, other) == longest(tuple(one), tuple(other)), (one, other)


def test_rouge_l_is_pycocoevalcaps() -> None:
    """Values of pycocoevalcap 1.2. Of the second picture precision is best for one reference,
    recall for another.
    """
    references = [
        ["a dog runs over the grass", "the dog plays"],
        ["a man in red climbs", "red man on a very big and steep rock in the sun"],
        ["a b"],
    ]
    said = ["the dog runs in the grass", "red man on a steep rock climbs", "c d"]
    written = [[caption.split() for caption in captions] for captions in references]
    scored = RougeL().score(written, [caption.split() for caption in said])
    assert scored.pictures == pytest.approx(
        [0.6666666666666666, 0.6029654036243821, 0.0], rel=1e-12
    )
    assert rouge_l([["a"]], []) == rouge_l([[]], ["a"]) == rouge_l([[]], []) == 0


def test_bleu_from_counts_is_nltks() -> None:
    from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu
    from nltk.translate.bleu_score import corpus_bleu as nltk_corpus_bleu

    references, hypotheses = random_pictures(seed=1)
    weights = [(1 / n,) * n for n in (1, 2, 3, 4)]
    np.testing.assert_allclose(
        corpus_bleu(references, hypotheses),
        nltk_corpus_bleu(references, hypotheses, weights=weights),
        rtol=1e-12,
    )
    smooth = SmoothingFunction().method1
    for written, said in zip(references, hypotheses, strict=True):
        expected = sentence_bleu(written, said, smoothing_function=smooth) if said else 0
        assert smoothed_bleu(written, said) == pytest.approx(expected, rel=1e-12)


def test_variety_counts_captions_and_words() -> None:
    said = ["a dog".split(), "a dog".split(), "two cats run".split(), []]
    references: list[list[Sequence[str]]] = [[["x"]]] * 4
    assert Distinct().score(references, said).corpus == {"distinct": 3 / 4}
    assert WordsUsed().score(references, said).corpus == {"words": 5}
    assert Length().score(references, said).corpus == {"length": 7 / 4}
    novel = Novel(lambda: iter([["a", "dog"], ["cats", "run"]])).score(references, said)
    assert (novel.corpus, novel.pictures) == ({"novel": 0.5}, [0, 0, 1, 1])


def test_repeats_are_captions_with_one_to_three_words_twice_in_a_row() -> None:
    said = ["a dog is is", "a dog of a dog of", "a b c a b c", "a b c d a b c d", "a dog and a dog"]
    scored = Repeats().score([], [caption.split() for caption in said])
    assert (scored.corpus, scored.pictures) == ({"repeats": 3 / 5}, [1, 1, 1, 0, 0])
    assert scored.sums is not None


def test_unseen_bigrams_are_shares_of_pairs_with_the_ends_of_a_caption() -> None:
    """Of "dog a" nobody starts with "dog", ends with "a", or writes the two in this order."""
    train = CorpusStatistics(iter([["a", "dog", "runs"], ["two", "dogs"]]))
    said = [["a", "dog", "runs"], ["dog", "a"], ["a", "dogs"], []]
    scored = UnseenBigrams(train).score([], said)
    assert scored.pictures == [0, 1, pytest.approx(1 / 3), 1]
    assert scored.corpus == {"unseen_bigrams": pytest.approx((0 + 3 + 1 + 1) / (4 + 3 + 3 + 1))}


def test_bad_endings_are_learnt_from_captions_in_any_language() -> None:
    """Words of 50 occurrences that end at most one in 200: "laut" has 49, "bellt" ends captions,
    "eine" ends 2 of 400 and "und" 3 of 400.
    """
    captions = [["ein", "hund", "bellt"]] * 49
    captions += [["laut", "und", "eine", "katze"]] * 49 + [["und", "eine", "katze"]] * 348
    captions += [["ein"], *[["eine"]] * 2, ["eine", "katze"], *[["und"]] * 3]
    train = CorpusStatistics(iter(captions))
    assert train.never_last == {"eine": 400}
    metric = BadEndings(train)
    said = [["ein", "hund", "und", "eine"], ["eine", "katze"], ["eine", "maus"], []]
    scored = metric.score([], said)
    assert (scored.corpus, scored.pictures) == ({"bad_endings": 1 / 4}, [1, 0, 0, 0])
    assert metric.protocol.endswith("; 1 words, such as eine")
    with refuses(
        ValueError,
        function="BadEndings",
        thing="no word",
        came="occurs 50 times in the train capti",
    ):
        BadEndings(CorpusStatistics(captions[:49]))


def test_an_interval_is_that_of_scores_of_resampled_captions(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each score computed anew from the captions of every resample."""
    monkeypatch.setattr(metric, "RESAMPLES", 40)
    references, hypotheses = random_pictures(seed=2, n=15)
    metrics: list[Metric] = [Bleu(), UnigramBleu(), RougeL()]
    found = intervals(
        [scored.sums for metric in metrics if (scored := metric.score(references, hypotheses)).sums]
    )
    rng = np.random.default_rng(metric.SEED)
    values: dict[str, list[float]] = {}
    for _ in range(40):
        drawn = rng.integers(0, 15, 15)
        for each in metrics:
            for name, value in each.score(
                [references[i] for i in drawn], [hypotheses[i] for i in drawn]
            ).corpus.items():
                values.setdefault(name, []).append(value)
    assert (
        set(found) == set(values) == {"bleu1", "bleu2", "bleu3", "bleu4", "unigram_bleu", "rouge_l"}
    )
    for name, ends in found.items():
        assert ends == pytest.approx(tuple(np.percentile(values[name], [2.5, 97.5])), rel=1e-12), (
            name
        )
    assert intervals([]) == intervals([averaged("x", []).sums]) == {}  # type: ignore[list-item]


def test_an_interval_of_a_mean_is_two_standard_errors_wide_and_a_paired_one_only_as_wide_as_its_differences() -> (
    None
):
    rng = np.random.default_rng(3)
    easy = rng.normal(0, 1, 500)
    ours, theirs = (averaged("x", easy + rng.normal(shift, 0.1, 500)).sums for shift in (0.5, 0.4))
    assert ours is not None
    assert theirs is not None
    low, high = intervals([ours])["x"]
    assert (high - low) / 2 == pytest.approx(1.96 / 500**0.5, rel=0.1)
    low, high = paired([ours], [theirs])["x"]
    assert (high - low) / 2 == pytest.approx(1.96 * 0.1 * (2 / 500) ** 0.5, rel=0.15)
    assert low < 0.1 < high
    assert paired([ours], [averaged("y", easy).sums]) == {}  # type: ignore[list-item]
