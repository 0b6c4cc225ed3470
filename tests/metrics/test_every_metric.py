"""What scores rely on, of every metric: tried on random words, its texts taken at their word."""

import copy
import re

import numpy as np
import pytest
from drawn_captions import PICTURES, Captions, Pictures, draw_pictures

from xpcap.metrics import ALIASES, METRICS, Metric, Scored, train_metrics

TRAIN = [["a", "b", "c"]] * 50
TABLE = [*METRICS, *train_metrics(TRAIN, lambda: TRAIN)[0]]
each_metric = pytest.mark.parametrize("metric", TABLE, ids=lambda metric: metric.name)
SEEDS = range(5)


def says(metric: Metric, words: str) -> bool:
    """True if its texts for people have these words, by a pattern."""
    return bool(re.search(rf"\b({words})\b", f"{metric.meaning}\n{metric.protocol}"))


def firsts(references: Pictures) -> Captions:
    """The first reference of each picture."""
    return [captions[0] for captions in references]


def values_of(scored: Scored) -> dict[str, np.ndarray]:
    """All values of a score by what they are: of all pictures together, and of each."""
    values = {name: np.asarray(x, float) for name, x in scored.corpus.items()}
    return values | {"of pictures": np.asarray(scored.pictures, float)}


def check_same(scored: Scored, expected: Scored) -> None:
    """The same values but for rounding."""
    assert scored.corpus.keys() == expected.corpus.keys()
    values = values_of(scored)
    for name, x in values_of(expected).items():
        np.testing.assert_allclose(values[name], x, rtol=1e-11, atol=1e-11, err_msg=name)


@each_metric
def test_values_are_finite_and_those_of_all_are_made_of_sums_over_pictures(metric: Metric) -> None:
    for text in (metric.name, metric.title, metric.protocol, metric.meaning):
        assert text.strip()
    for seed in SEEDS:
        references, captions = draw_pictures(seed)
        scored = metric.score(references, captions)
        assert scored.corpus
        assert all(key.startswith(metric.name) for key in scored.corpus)
        assert len(scored.pictures) in (0, PICTURES)
        assert all(np.isfinite(x).all() for x in values_of(scored).values())
        if scored.sums is not None:
            total = scored.sums.values(scored.sums.parts.sum(axis=0, keepdims=True))
            summed = Scored({key: x.item() for key, x in total.items()}, [])
            check_same(summed, scored._replace(pictures=[]))
        for hypotheses in (captions, firsts(references)) if says(metric, "share|1 at best") else ():
            for name, x in values_of(metric.score(references, hypotheses)).items():
                assert ((x >= 0) & (x <= 1 + 1e-11)).all(), f"{name} is {x}"


@each_metric
def test_peoples_captions_score_best(metric: Metric) -> None:
    """Either all values are better than those of other pictures' captions, or all are equal."""
    for seed in SEEDS:
        references, _ = draw_pictures(seed)
        people = firsts(references)
        scored, others = (
            {name: x.mean() for name, x in values_of(scores).items() if x.size}
            for scores in (
                metric.score(references, people),
                metric.score(references, [*people[1:], people[0]]),
            )
        )
        sign = -1 if says(metric, "0 at best") else 1
        gains = np.array([sign * (scored[name] - others[name]) for name in scored])
        assert (gains > 1e-11).all() or (np.abs(gains) <= 1e-11).all(), f"{scored}, {others}"


@each_metric
def test_only_references_words_that_nobody_wrote_and_none_score_as_the_texts_say(
    metric: Metric,
) -> None:
    for people in (firsts(draw_pictures(seed)[0]) for seed in SEEDS):
        for best, captions, value in (
            ("1 at best", people, 1.0),
            ("1 at best", [["zebra"] for _ in people], 0.0),
            ("1 at best", [words[:0] for words in people], 0.0),
            ("0 at best", people, 0.0),
        ):
            if says(metric, best) and "references" in metric.depends_on:
                ideal = metric.score([[words] for words in people], captions)
                expected = Scored(dict.fromkeys(ideal.corpus, value), [value] * len(ideal.pictures))
                check_same(ideal, expected)


@each_metric
def test_the_order_of_pictures_and_of_references_does_not_matter(metric: Metric) -> None:
    for references, captions in map(draw_pictures, SEEDS):
        before = copy.deepcopy((references, captions))
        scored = metric.score(references, captions)
        assert (references, captions) == before, "an input was written to"
        check_same(metric.score([written[::-1] for written in references], captions), scored)
        backwards = metric.score(references[::-1], captions[::-1])
        check_same(backwards, scored._replace(pictures=scored.pictures[::-1]))


@each_metric
def test_captions_without_words_have_finite_values_and_no_pictures_have_0(metric: Metric) -> None:
    references, _ = draw_pictures(0)
    wordless: Pictures = [[[] for _ in written] for written in references]
    for pictures in (references, wordless):
        values = values_of(metric.score(pictures, [[] for _ in pictures]))
        assert all(np.isfinite(x).all() for x in values.values())
    none = metric.score([], [])
    check_same(none, Scored(dict.fromkeys(none.corpus, 0), []))


def test_no_two_metrics_share_a_name_a_title_or_a_value_or_the_second_name_of_one() -> None:
    """The second of a name would replace the first in a run's scores."""
    values = [name for metric in TABLE for name in metric.score(*draw_pictures(0)).corpus]
    for names in (
        [metric.name for metric in TABLE],
        [metric.title for metric in TABLE],
        [*values, *ALIASES],
    ):
        assert len({*names}) == len(names), names
    assert {*ALIASES} & {metric.name for metric in TABLE} == set()
    assert {*ALIASES.values()} <= {*values, *(metric.name for metric in TABLE)}


def test_a_share_is_1_of_some_captions() -> None:
    """A divisor that is too large keeps it below. The captions are people's, beginnings of the train
    split's, and new words: all different, or one twice in a row.
    """
    people = [captions[:1] for captions in draw_pictures(0)[0]]
    candidates = [
        [text for (text,) in people],
        [[*TRAIN[0][:2]] for _ in people],
        [[f"new{2 * k}", f"new{2 * k + 1}"] for k, _ in enumerate(people)],
        [[f"new{k}", f"new{k}"] for k, _ in enumerate(people)],
    ]
    for metric in TABLE:
        if says(metric, "share|1 at best"):
            scores = [metric.score(people, captions).corpus for captions in candidates]
            for name in scores[0]:
                highest = max(score[name] for score in scores)
                assert highest == pytest.approx(1), f"{name}; is the divisor too large?"
