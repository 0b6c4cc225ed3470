"""ROUGE-L, BLEU's counts, variety and intervals: each beside what it is defined by."""

import functools
import itertools

import numpy as np
import pytest
from drawn_captions import PICTURES, draw_captions, draw_pictures
from refusals import refuses

from xpcap.metrics import (
    METRICS,
    Metric,
    averaged,
    bootstrap_intervals,
    corpus_bleu,
    metric,
    paired,
    rouge_l,
    train_metrics,
)
from xpcap.metrics.rouge import common_words


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
    monkeypatch.setattr(metric, "RESAMPLES", 40)
    references, hypotheses = draw_pictures(2)
    # a CIDEr-D anew would be that of other document frequencies
    scores = {each: each.score(references, hypotheses) for each in METRICS if each.name != "cider"}
    found = bootstrap_intervals([scored.sums for scored in scores.values() if scored.sums])
    rng = np.random.default_rng(metric.SEED)
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
        with refuses(TypeError, got="is the text 'a"):
            compared.score([references], [caption])
    with refuses(ValueError, got="has no reference"):
        compared.score([[]], [words])


def test_a_paired_interval_is_of_the_same_pictures() -> None:
    ours, theirs = (averaged("x", [1.0] * n).sums for n in (3, 5))
    with refuses(ValueError, function="paired", got="are of 3 and 5 pictures"):
        paired([ours], [theirs])  # type: ignore[list-item]
