"""Scores of captions and of what people wrote, and runs compared, in Python."""

import dataclasses
import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from refusals import Refusal, refusals, refuses

from xpcap import open_run
from xpcap.captioning import scores
from xpcap.captioning.captions import caption_run
from xpcap.captioning.scores import Scores, compare, evaluate_run, score_captions
from xpcap.data import CaptionData, Split, Vocabulary, open_data
from xpcap.data.features import fit_scaling
from xpcap.drawings import named_things
from xpcap.errors import DataError
from xpcap.metrics import METRICS, averaged, train_metrics

pytest.importorskip("nltk")  # for BLEU


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
OF_TRAIN = [metric.name for metric in train_metrics([["a", "dog"]] * 99, list)[0]]
TWO = [[["a", "dog"], ["the", "dog"]], [["a", "cat"]]], [["a", "dog"], ["a", "cat"]]
SCORED = {metric.name: metric.score(*TWO) for metric in METRICS}
BLEU, *OTHERS = [list(scored.corpus) for scored in SCORED.values()]
METRIC_NAMES = ["bleu", "named", *list(SCORED)[1:], *OF_TRAIN]
NAMES = [*BLEU, "named", *itertools.chain(*OTHERS), *OF_TRAIN]
COUNTS = {name for name, scored in SCORED.items() if not len(scored.pictures)}  # without interval


def test_people_are_scored_by_their_first_captions_against_their_different_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The second picture has nothing to compare with, and the third one's first caption is no
    reference of itself.
    """
    monkeypatch.setattr(scores, "MIN_PEOPLE", 2)
    train = [["a dog runs on the grass", "a dog runs"]] * 50 + [["a cat"]]
    val = [*VAL[:2], ["a dog", "a dog", "the cow"]]
    scored = score_captions(data_of(train=train, val=val), "val", SAID)
    human = scored.human_scores
    brevity = np.exp(1 - 6 / 5)
    assert human["bleu1"] == pytest.approx(brevity * 2 / 5)  # 2 of 3 words and 0 of 2
    assert human["bleu2"] == pytest.approx(brevity * (2 / 5 * 1 / 3) ** 0.5)
    precision, recall = 2 / 3, 2 / 4
    rouge = (1 + 1.44) * precision * recall / (recall + 1.44 * precision)
    assert human["rouge_l"] == pytest.approx(rouge / 2)
    assert human["cider"] == human["cider_d"] > 0
    free = ("distinct", "words", "length", "repeats", "novel", "unseen_bigrams", "bad_endings")
    assert [human[name] for name in free] == [
        *(1, 6, 3),
        *(pytest.approx(1 / 3), pytest.approx(2 / 3)),
        pytest.approx((0 + 5 + 1) / (4 + 5 + 3)),
        pytest.approx(2 / 3),  # "on" and "dog"
    ]
    assert "its other captions, on the 2 pictures that have different ones" in scored.human_protocol


@pytest.mark.parametrize("different", [0, 19, 20])
def test_people_have_a_column_from_twenty_pictures_with_different_captions_on(
    different: int,
) -> None:
    """A duplicated row is no second caption: it made a column with BLEU 1.000."""
    val = [["a dog runs", "a dog runs", "the cat"]] * different + [["a dog", "a dog"]] * 30
    said = {f"val{number}": "a dog" for number in range(len(val))}
    scored = score_captions(data_of(train=[["a dog"]], val=val), "val", said)
    alone = {metric.name for metric in METRICS if not metric.depends_on}
    assert scored.people == (different == 20) == any(row.human for row in scored.rows())
    assert any(row.human for row in scored.headline()) == scored.people
    assert ("bleu4" in scored.human_scores) == scored.people
    assert {*alone, "novel", "unseen_bigrams"} <= set(scored.human_scores)  # the doctor's limits
    if not scored.people:
        assert scored.human_protocol == (
            f"not scored, since {different} pictures have two different captions and 20 are needed"
        )
    assert scored.unscored["bad_endings"].startswith("too few train captions")
    assert "bad_endings" not in scored.scores


def test_a_width_is_half_of_the_interval() -> None:
    scored = score_captions(data_of(val=VAL), "val", {**SAID, "val1": "the cat"})
    (row,) = [row for row in scored.rows() if row.title.startswith("ROUGE")]
    low, high = scored.intervals["rouge_l"]
    assert row.width == f"± {(high - low) / 2:.3f}" != "± 0.000"


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
    assert not {*OF_TRAIN} & {*scored.scores, *scored.human_scores, *scored.unscored}


@refusals(
    """
    evaluate_run(run, empty) | DataError | split 'val' | has no caption
    caption_run(run, empty) | DataError | split 'val' | has no caption
    caption_run(run, count=-1) | OptionError | `count` | is -1
    caption_run(run, count=2.5) | OptionError | `count` | is 2.5
    caption_run(run, count=True) | OptionError | `count` | is True
    """
)
def test_data_without_captions_and_a_count_below_zero_are_refused(
    refusal: Refusal, trained: Path
) -> None:
    run = open_run(trained)

    val = run.data().split("val")
    none = {"captions": val.captions[:0], "image_idxs": val.image_idxs[:0], "text": []}
    empty = CaptionData(run.vocabulary, {"val": dataclasses.replace(val, **none)})
    refusal.check({**globals(), "run": run, "empty": empty})


def test_captions_of_other_pictures_are_not_compared() -> None:
    scored = [score_captions(data_of(val=val), "val", SAID) for val in (VAL, VAL[:2])]
    with refuses(DataError, "have 3 and 2 pictures, which differ"):
        compare(*scored)


@pytest.mark.parametrize(
    ("base", "other", "names"),
    [
        ("references", {"val": [VAL[0][1:], *VAL[1:]]}, {*BLEU, "unigram_bleu", "cider_d"}),
        ("vocabulary", {"extra": [["an owl"]]}, {"unigram_bleu"}),
        ("train captions", {"train": [["the dog"]]}, {"novel", "unseen_bigrams"}),
    ],
)
def test_scores_that_depend_on_what_differs_are_left_out(
    base: str, other: dict[str, list[list[str]]], names: set[str]
) -> None:
    """A run with two words won, by the perplexity and the course's BLEU of these two."""
    texts = {"train": [["a dog"]], "val": VAL}
    ours, theirs = (
        score_captions(data_of(**each), "val", SAID) for each in (texts, {**texts, **other})
    )
    compared = compare(ours, theirs)
    left_out = {name for name, metric in ours.metrics.items() if base in metric.depends_on}
    assert names <= left_out
    assert compared.left_out == dict.fromkeys(left_out, f"the two sides differ in {base}")
    assert compared.differences.keys() == ours.scores.keys() - left_out
    assert compared.intervals.keys() == ours.intervals.keys() - left_out
    assert compared.to_json()["left_out"] == compared.left_out
    assert {name for name, *_ in compared.rows()} == compared.differences.keys()


def test_a_score_of_one_side_alone_is_left_out() -> None:
    data = data_of(val=VAL)
    sides = [score_captions(data, "val", SAID, metrics=rows) for rows in (METRICS, METRICS[1:])]
    for ours, theirs in (sides, sides[::-1]):
        assert compare(ours, theirs).left_out == dict.fromkeys(BLEU, "one side lacks it")


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


# An evaluation of a run


@pytest.fixture(scope="module")
def evaluated(trained: Path) -> Scores:
    return evaluate_run(open_run(trained))


def test_an_evaluation_has_every_score_by_name_and_one_value_a_picture(evaluated: Scores) -> None:
    scores, pictures = evaluated.scores, evaluated.per_picture
    assert list(scores) == [*NAMES, "cider_d", "perplexity", "loss", "accuracy"]
    assert list(evaluated.protocol) == [*METRIC_NAMES, "perplexity"]
    assert set(evaluated.intervals) == {*NAMES, "cider_d"} - COUNTS
    assert all(low <= scores[name] <= high for name, (low, high) in evaluated.intervals.items())
    sizes = {name: len(values) for name, values in pictures.items()}
    assert sizes == dict.fromkeys({*METRIC_NAMES} - COUNTS, 14)
    # As many references each
    assert np.mean(pictures["unigram_bleu"]) == pytest.approx(scores["unigram_bleu"])
    exact = [
        named_things(one.caption.split()) == named_things(one.references[0].split())
        for one in evaluated.captions
    ]
    assert pictures["named"] == exact
    assert [row.title for row in evaluated.rows()][1:3] == ["named exactly", "unigram BLEU"]
    assert evaluated.rows()[-1][:4] == ("perplexity", f"{scores['perplexity']:.2f}", "", "")


def test_an_evaluation_as_json_names_what_readers_look_for(evaluated: Scores) -> None:
    told = evaluated.to_json()
    assert list(told) == [
        *("split", "n", "bleu", "seconds", "protocol", "captions", "scores", "intervals"),
        *("unscored", "people", "decoding", "trained_on"),
        *("unigram_bleu", "perplexity", "loss", "accuracy", "named"),
    ]
    assert told["bleu"] == [evaluated.scores[name] for name in BLEU]
    other = compare(evaluated, dataclasses.replace(evaluated, bases={}))
    assert {"unigram_bleu", "perplexity", "loss", "accuracy"} <= other.left_out.keys()
    assert json.loads(json.dumps(told)) == told


def test_a_data_set_is_taken_open_or_by_any_kind_of_path(trained: Path, evaluated: Scores) -> None:
    run, path = open_run(trained), trained / "data.h5"
    of_run = caption_run(run, count=5)
    assert [one.image for one in evaluated.spread(count=5)] == [one.image for one in of_run]
    for data in (path, str(path), open_data(path)):
        other = evaluate_run(run, data)
        assert (other.scores, other.captions) == (evaluated.scores, evaluated.captions)
        assert caption_run(run, data, count=5) == of_run


def test_an_open_data_set_is_left_as_it_was(trained: Path) -> None:
    run, data = open_run(trained), open_data(trained / "data.h5")
    data.scaling = fit_scaling("standardize", data.split("train").features)
    before = data.features("val", np.arange(3))
    evaluate_run(run, data)
    np.testing.assert_array_equal(data.features("val", np.arange(3)), before)


# A metric of one's own


class Colours:
    """A metric of one's own, which returns NumPy's numbers."""

    name = "colours"
    title = "names a colour"
    protocol = "share of captions that name a colour"

    def score(self, references: Any, hypotheses: Any) -> Any:
        scored = averaged(
            "colours", [float("red" in words or "blue" in words) for words in hypotheses]
        )
        corpus = {"colours": np.float32(scored.corpus["colours"])}
        return scored._replace(corpus=corpus, pictures=np.array(scored.pictures))


def test_a_metric_of_ones_own_is_scored_beside_the_others(trained: Path, evaluated: Scores) -> None:
    result = evaluate_run(open_run(trained), None, "val", metrics=(*METRICS, Colours()))
    share = result.scores["colours"]
    assert share == pytest.approx(np.mean(result.per_picture["colours"]))
    low, high = result.intervals["colours"]
    assert low <= share <= high
    assert {**evaluated.scores, "colours": share} == result.scores
    told = json.loads(json.dumps(result.to_json()))
    assert told["scores"]["colours"] == share
    assert told["protocol"]["colours"] == Colours.protocol
    assert (Colours.title, Colours.protocol) in [(row.title, row.protocol) for row in result.rows()]
    assert "colours" in result.to_csv().splitlines()[0].split(",")
    captions = {one.image: one.caption for one in result.captions}
    alone = score_captions(open_data(trained / "data.h5"), "val", captions, metrics=[Colours()])
    assert list(alone.scores) == ["named", "colours", *OF_TRAIN]
    assert alone.scores["colours"] == share
    told = alone.to_json()
    assert told["bleu"] is None
    assert not {"decoding", "perplexity"} & set(told)


class Returns(Colours):
    def __init__(self, scored: Any) -> None:
        self.scored = scored

    def score(self, references: Any, hypotheses: Any) -> Any:
        return self.scored


@refusals(
    """
    Colours | TypeError | has the class Colours | objects such as Colours()
    len | TypeError | has a builtin_function_or_method, which lacks name, title, protocol, score
    METRICS[0] | ValueError | the name 'bleu' of 'BLEU-1..4' | is taken
    dataclasses.replace(METRICS[0], depends_on=["reference"]) | ValueError | `depends_on` | 'reference' does not exist
    Returns(0.5) | TypeError | `score` of 'names a colour' | returned a float | a Scored
    Returns(averaged("mine", [])._replace(corpus={"mine": "a"})) | TypeError | `score` of 'names a colour' | returned 'a' | a number
    averaged("mine", ["a"]) | TypeError | the values of 'mine' | have dtype <U1 | numbers
    Returns(averaged("mine", [1.0, 2.0])) | ValueError | `score` of 'names a colour' | returned 2 values | one for each of 3 pictures
    Returns(averaged("cider_d", [0.5] * 3)) | ValueError | the name 'cider_d' of 'names a colour' | is taken
    """
)
def test_what_is_no_metric_is_refused(refusal: Refusal) -> None:
    call = 'score_captions(data_of(val=VAL), "val", SAID, metrics=(*METRICS, {}))'
    refusal.check(globals(), call)
