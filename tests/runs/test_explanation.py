"""Reasons for a reranked caption in words and numbers: relative to the caption that the model alone
finds likeliest.
"""

import pytest

from xpcap.reranking import FEATURES
from xpcap.runs.explanation import (
    PARTS,
    CandidateCaption,
    Explanation,
    Neighbour,
    compare_candidates,
    decision,
    sample_caption,
)


def candidate(
    caption: str, log_probability: float, image: str = "", **parts: float
) -> CandidateCaption:
    every = {**dict.fromkeys(FEATURES, 0.0), "log_probability": 3 * log_probability, **parts}
    return CandidateCaption(caption, log_probability, sum(every.values()), every, image)


LIKELIEST = candidate("a dog", -1.0, consensus=1.0)
SIMILAR = [
    Neighbour("near.jpg", 0.8125, ["a <UNK> runs", "a cat"]),
    Neighbour("far.jpg", 0.25, ["a dog on grass"]),
]


@pytest.mark.parametrize(
    ("candidates", "sentence"),
    [
        ([LIKELIEST, candidate("a cat", -1.5)], "It is also the model's likeliest candidate."),
        (
            # Of the parts ahead, two outweigh the 1.5 that it is behind; the third is not needed
            [
                candidate("a dog runs", -1.5, consensus=2.0, words=0.75, unseen=0.5, length=0.02),
                LIKELIEST,
            ],
            "The model's likeliest candidate is “a dog”. This caption wins on agreement with the"
            " captions of similar photos (+1.00) and words that suit the photo (+0.75), and loses"
            " on likelihood (-1.50).",
        ),
        (
            # A person's caption is not what the model alone would choose, however likely
            [candidate("a dog on grass", -0.5, "far.jpg", consensus=2.5), LIKELIEST],
            "A person wrote it for the training photo far.jpg (similarity 0.25). The model's"
            " likeliest candidate is “a dog”. This caption wins on agreement with the captions of similar"
            " photos (+1.50).",
        ),
        (
            [candidate("a cat", -2.0, repeats=3.5, consensus=1.0), candidate("", -1.0)],
            "The model's likeliest candidate is “(nothing)”. This caption wins on repetition (+3.50)"
            ", and loses on likelihood (-3.00).",
        ),
        ([LIKELIEST], "There was no other candidate."),
        ([], "No caption satisfies the limits."),
    ],
)
def test_the_decision_is_told_by_the_fewest_parts_that_outweigh_the_others(
    candidates: list[CandidateCaption], sentence: str
) -> None:
    assert decision(Explanation(SIMILAR, candidates)) == sentence


def test_candidates_are_compared_with_the_likeliest_by_the_parts_that_matter() -> None:
    best = [candidate(f"a cat {i}", -2.0, consensus=9.0 - i, length=0.1) for i in range(4)]
    rows = compare_candidates(Explanation(SIMILAR, [*best, LIKELIEST]), count=2)
    assert [row.candidate for row in rows] == [*best[:2], LIKELIEST]
    assert [row.origin for row in rows] == ["", "", "likeliest"]
    assert [row.score for row in rows] == pytest.approx([5.1, 4.1, 0])
    assert [row.parts for row in rows] == [
        {"consensus": 8, "log_probability": -3},  # length is too small beside these
        {"consensus": 7, "log_probability": -3},
        {"consensus": 0, "log_probability": 0},
    ]
    assert set(PARTS) == set(FEATURES)


def test_of_a_training_photo_the_caption_with_the_fewest_unknown_words_is_shown() -> None:
    assert [sample_caption(one) for one in SIMILAR] == ["a cat", "a dog on grass"]
    assert sample_caption(Neighbour("x", 0.5, ["a <UNK> runs", "<UNK> <UNK>"])) == "a … runs"
    assert sample_caption(Neighbour("x", 0.5, [])) == ""
