"""The contract of metrics: kept by each that the library has, and a metric that breaks a claim is
named with what is wrong.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest
from refusals import refuses

from xpcap.errors import ContractError
from xpcap.metrics import METRICS, Metric, Scored, Words, of_train, per_picture
from xpcap.testing import METRIC, check_metric
from xpcap.testing import metric as contract

TRAIN = [["a", "b", "c"]] * 50
TABLE = [*METRICS, *of_train(TRAIN, lambda: TRAIN)[0]]
each_claim = pytest.mark.parametrize("claim", METRIC, ids=lambda claim: claim.__name__)


@each_claim
@pytest.mark.parametrize("metric", TABLE, ids=lambda metric: metric.name)
def test_metric_keeps_the_contract(metric: Metric, claim: contract.Claim) -> None:
    check_metric(metric, [claim])


def test_no_two_metrics_share_a_name_a_title_or_a_value() -> None:
    """The second of a name would replace the first in a run's scores."""
    values = [[*metric.score(*contract.draw_pictures(0)).corpus] for metric in TABLE]
    for what, texts in (
        ("name", [metric.name for metric in TABLE]),
        ("title", [metric.title for metric in TABLE]),
        ("value", [name for names in values for name in names]),
    ):
        shared = [text for text, rows in Counter(texts).items() if rows > 1]
        assert shared == [], f"the {what} {shared[:1]} is of two rows of xpcap.metrics.METRICS"


def test_a_share_is_1_of_some_captions() -> None:
    """A divisor that is too large keeps it below. The captions are people's, beginnings of the train
    split's, and new words: all different, or one twice in a row.
    """
    references, _ = contract.draw_pictures(0)
    people = [captions[:1] for captions in references]
    candidates = [
        [text for (text,) in people],
        [[*TRAIN[0][:2]] for _ in people],
        [[f"new{2 * k}", f"new{2 * k + 1}"] for k, _ in enumerate(people)],
        [[f"new{k}", f"new{k}"] for k, _ in enumerate(people)],
    ]
    for metric in TABLE:
        if contract.Trial(metric).says(contract.SHARE):
            scores = [metric.score(people, captions).corpus for captions in candidates]
            for name in scores[0]:
                highest = max(score[name] for score in scores)
                thing = (
                    f"metric {metric.name!r}: {name} is {highest:.3f} at most, expected 1 of some"
                )
                assert highest == pytest.approx(1), f"{thing} captions; is the divisor too large?"


# ---- Metrics that break the contract, each one claim at least

Value = Callable[[Sequence[Words], Words], float]


def used(references: Sequence[Words], words: Words) -> float:
    """The share of a caption's words that people used."""
    known = {word for caption in references for word in caption}
    return sum(word in known for word in words) / max(len(words), 1)


def metric(value: Value = used, protocol: str = "share of words; 1 at best") -> Metric:
    return per_picture("own", "own", "its own", protocol, value)


def changed(change: Callable[[Scored], object]) -> Metric:
    """A metric whose scores are changed."""
    whole = metric()
    return replace(whole, score=lambda *given: change(whole.score(*given)))


def with_corpus(**corpus: float) -> Metric:
    """One with other values of all pictures."""
    return changed(lambda scored: scored._replace(corpus=corpus))


def with_pictures(change: Callable[[list[float]], list[float]]) -> Metric:
    """One with other values of pictures."""
    return changed(lambda scored: scored._replace(pictures=change(scored.pictures)))


BROKEN = {
    "texts": [(metric(protocol=" "), "protocol", "is ' '")],
    "finite": [
        (changed(lambda scored: 0.5), "score", "returns a float"),
        (with_corpus(), "values of all pictures", "are named nothing"),
        (with_corpus(bleu=0.5), "values of all pictures", "are named bleu"),
        (with_corpus(own=np.inf), "the value own", "is [inf]"),
        (with_corpus(own=0.5), "the value own of sums over pictures", "differs"),
        (with_pictures(lambda values: values[1:]), "values of pictures", "are 19"),
    ],
    # * where / should be
    "shares": [(metric(lambda r, c: used(r, c) * max(len(c), 1) ** 2), "the value own", "is [")],
    "people_best": [
        (metric(lambda *given: 1 - used(*given), "a share"), "the value own", "of people's"),
        (metric(protocol="errors; 0 at best"), "the value own", "of people's captions"),
        (metric(lambda *given: used(*given) / 2), "only references, 1 at best", "differs"),
        (metric(lambda *given: (1 + used(*given)) / 2), "words that nobody wrote", "differs"),
        (metric(lambda *given: 1.5 - used(*given), "0 at best"), "references, 0 at", "differs"),
        (with_pictures(lambda values: [1.0] * len(values)), "values of pictures", "is 1.0 of peop"),
    ],
    "order_free": [
        (metric(lambda r, c: used(r[:1], c)), "own of references in another order", "differs"),
        (with_pictures(sorted), "values of pictures of pictures in another order", "differs"),
    ],
    "inputs_unchanged": [(metric(lambda r, c: c.append("end") or used(r, c)), "captions", "have")],
    "nothing_said": [(with_corpus(own=0.5), "the value own without pictures", "differs")],
}


@each_claim
def test_metric_that_breaks_a_claim_is_named_with_what_is_wrong(claim: contract.Claim) -> None:
    for broken, thing, got in BROKEN[claim.__name__]:
        things = ("metric 'own'", thing)
        with refuses(ContractError, function="check_metric", thing=things, got=got):
            check_metric(broken, [claim])


def test_metric_of_errors_keeps_the_contract_and_an_error_of_its_own_goes_through() -> None:
    check_metric(metric(lambda *given: 1 - used(*given), "share of others; 0 at best"))
    with pytest.raises(ZeroDivisionError) as caught:
        check_metric(metric(lambda r, c: used(r, c) * len(c) / len(c)), [contract.nothing_said])
    assert caught.value.__notes__ == ["check_metric: nothing_said, metric 'own'"]
