"""Scores of captions and of what people wrote, and runs compared, in Python."""

import dataclasses

import numpy as np
import pytest
from refusals import refuses

from xpcap.data import CaptionData, Vocabulary
from xpcap.data.dataset import Split
from xpcap.errors import DataError
from xpcap.runs import compare, score_captions


def data_of(**texts: list[list[str]]) -> CaptionData:
    """A data set with the captions of each picture of each split."""
    flat = {name: [text for some in each for text in some] for name, each in texts.items()}
    vocabulary = Vocabulary.build([text for some in flat.values() for text in some], 1)
    return CaptionData(
        vocabulary,
        {
            name: Split(
                vocabulary.encode(flat[name], 9),
                np.repeat(np.arange(len(each)), [len(some) for some in each]).astype(np.int32),
                np.zeros((len(each), 2), np.float32),
                [f"{name}{i}" for i in range(len(each))],
                flat[name],
            )
            for name, each in texts.items()
        },
    )


VAL = [["a dog runs", "the dog runs fast"], ["the the cat on"], ["a dog", "a dog"]]
SAID = {"val0": "a dog", "val1": "a dog", "val2": "a dog"}


def test_people_are_scored_by_their_first_captions_against_their_others() -> None:
    """The second picture has one caption: nothing to compare it with."""
    train = [["a dog runs on the grass", "a dog runs"]] * 50 + [["a cat"]]
    scored = score_captions(data_of(train=train, val=VAL), "val", SAID)
    human = scored.human_scores
    brevity = np.exp(1 - 6 / 5)
    assert human["bleu1"] == pytest.approx(brevity * 4 / 5)  # 2 of 3 words and 2 of 2
    assert human["bleu2"] == pytest.approx(brevity * (4 / 5 * 2 / 3) ** 0.5)
    precision, recall = 2 / 3, 2 / 4
    rouge = (1 + 1.44) * precision * recall / (recall + 1.44 * precision)
    assert human["rouge_l"] == pytest.approx((rouge + 1) / 2)
    assert human["cider"] == human["cider_d"] > 0
    free = ("distinct", "words", "length", "repeats", "novel", "unseen_bigrams", "bad_endings")
    assert [human[name] for name in free] == [
        *(1, 6, 3),
        *(pytest.approx(1 / 3), pytest.approx(2 / 3)),
        pytest.approx((0 + 5 + 1) / (4 + 5 + 3)),
        pytest.approx(2 / 3),  # "on" and "dog"
    ]
    assert "its others, of the 2 pictures that have" in scored.human_protocol


def test_where_nobody_wrote_twice_people_have_the_scores_that_need_no_reference() -> None:
    scored = score_captions(data_of(train=[["a dog"]], val=[one[:1] for one in VAL]), "val", SAID)
    names = {"distinct", "words", "length", "repeats", "novel", "unseen_bigrams"}
    assert set(scored.human_scores) == names
    assert "no picture has another" in scored.human_protocol
    assert scored.unscored["bad_endings"].startswith("too few train captions")
    assert "bad_endings" not in scored.scores


def test_lost_words_of_people_repeat_nothing_and_are_neighbours_as_in_the_train_captions() -> None:
    """Of data without text: "a <UNK> <UNK>" in both splits, which were two words each."""
    data = data_of(train=[["a small dog"], ["a cat"]], val=[["a big bird"], ["a cat cat"]])
    few = Vocabulary(["<NULL>", "<START>", "<END>", "<UNK>", "a", "cat"])
    splits = {
        name: dataclasses.replace(split, captions=few.encode(split.text or (), 9), text=None)
        for name, split in data.splits.items()
    }
    human = score_captions(CaptionData(few, splits), "val", {"val0": "a", "val1": "a"}).human_scores
    assert human["repeats"] == 1 / 2
    assert human["unseen_bigrams"] == pytest.approx(1 / 8)  # cat cat


def test_without_a_train_split_no_score_is_about_one() -> None:
    scored = score_captions(data_of(val=VAL), "val", SAID)
    absent = {"novel", "unseen_bigrams", "bad_endings"}
    assert not absent & {*scored.scores, *scored.human_scores, *scored.unscored}


@pytest.mark.parametrize(
    ("val", "came"),
    [
        (
            [VAL[0][1:], *VAL[1:]],
            "have other pictures or references, from 'val0' on in split 'val'",
        ),
        (VAL[:2], "have 3 and 2 pictures in split 'val'"),
    ],
)
def test_captions_of_other_pictures_are_not_compared(val: list[list[str]], came: str) -> None:
    ours, theirs = (score_captions(data_of(val=one), "val", SAID) for one in (VAL, val))
    with refuses(DataError, function="compare", thing="the two sides", came=came):
        compare(ours, theirs)


def test_a_difference_is_shown_with_its_sign_and_counts_without_decimals() -> None:
    data = data_of(val=VAL)
    ours, theirs = (
        score_captions(data, "val", said) for said in ({**SAID, "val0": "the cat"}, SAID)
    )
    rows = {name: row for name, *row in compare(ours, theirs).rows()}
    assert rows["words"] == ["4", "2", "+2", ""]
    assert rows["distinct"] == ["0.667", "0.333", "+0.333", ""]
    assert rows["repeats"] == ["0.000", "0.000", "+0.000", "+0.000 to +0.000"]
    assert rows["unigram_bleu"][2].startswith("-0.")
