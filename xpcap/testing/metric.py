"""The contract of a metric: what scores of captions rely on, one function for each claim.

::

    from xpcap.testing import check_metric
    check_metric(colours)

holds a metric, such as a row of `xpcap.metrics.METRICS`, to all of it.
"""

import copy
import re
from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np

from xpcap.metrics import Metric, Scored
from xpcap.testing.claims import ROUNDING, check, check_close, fail

VOCABULARY = ["a", "b", "c", "<UNK>"]
PICTURES = 20
ONE, ZERO = re.compile(r"\b1 at best\b"), re.compile(r"\b0 at best\b")
SHARE = re.compile(r"\b(share|1 at best)\b")

Captions = list[list[str]]  # one a picture, each a list of words
Pictures = list[Captions]  # of each picture its references


# ---- What claims are about


class Trial(NamedTuple):
    """A metric, and captions of random words to score."""

    metric: Metric

    def __str__(self) -> str:
        return f"metric {getattr(self.metric, 'name', self.metric)!r}"

    def says(self, words: re.Pattern[str]) -> bool:
        """True if its texts for people have these words."""
        return bool(words.search(f"{getattr(self.metric, 'plain', '')}\n{self.metric.protocol}"))

    def scored(self, references: Pictures, captions: Captions) -> Scored:
        """The metric's scores, whose type is checked."""
        scored: object = self.metric.score(references, captions)
        if not isinstance(scored, Scored):
            fail("score", f"returns a {type(scored).__name__}", "a Scored")
        return scored


def draw_captions(rng: np.random.Generator, count: int, *, least: int = 0) -> Captions:
    """Captions of `least` to 9 random words, which often repeat, each also in other captions."""
    lengths = rng.integers(least, 10, count)
    return [[VOCABULARY[k] for k in rng.integers(0, len(VOCABULARY), size)] for size in lengths]


def draw_pictures(seed: int, count: int = PICTURES) -> tuple[Pictures, Captions]:
    """One to four references a picture, of four words or more, and a caption, maybe of none."""
    rng = np.random.default_rng(seed)
    references = [draw_captions(rng, size, least=4) for size in rng.integers(1, 5, count)]
    return references, draw_captions(rng, count)


def firsts(references: Pictures) -> Captions:
    """The first reference of each picture."""
    return [captions[0] for captions in references]


def values_of(scored: Scored) -> dict[str, np.ndarray]:
    """All values of a score by what they are: of all pictures together, and of each."""
    values = {f"the value {name}": np.asarray(x, float) for name, x in scored.corpus.items()}
    return values | {"values of pictures": np.asarray(scored.pictures, float)}


def check_same(what: str, scored: Scored, expected: Scored) -> None:
    """Raise ContractError if there are other values, or one differs by more than rounding."""
    if scored.corpus.keys() != expected.corpus.keys():
        fail(f"values {what}", f"are {', '.join(scored.corpus)}", ", ".join(expected.corpus))
    values = values_of(scored)
    for name, x in values_of(expected).items():
        check_close(f"{name} {what}", values[name], x, "that expected")


Claim = Callable[[Trial], None]


# ---- The claims


def texts(trial: Trial) -> None:
    """Name, title and protocol are text; and so is `plain`, if there is one."""
    for name in ("name", "title", "protocol", "plain"):
        text = getattr(trial.metric, name, "none" if name == "plain" else None)
        if not isinstance(text, str) or not text.strip():
            fail(name, f"is {text!r}", "text")


def finite(trial: Trial) -> None:
    """The values of all pictures are finite numbers, and so is each picture's, if it has one.

    Where there are sums over pictures, the values of all are made of them.
    """
    name = trial.metric.name
    for seed in range(5):
        references, captions = draw_pictures(seed)
        scored = trial.scored(references, captions)
        if not scored.corpus or not all(key.startswith(name) for key in scored.corpus):
            names = f"are named {', '.join(scored.corpus) or 'nothing'}"
            fail("values of all pictures", names, f"names that begin with {name}")
        if len(scored.pictures) not in (0, PICTURES):
            count = f"are {len(scored.pictures)}"
            fail("values of pictures", count, f"one for each of {PICTURES}, or none")
        for thing, x in values_of(scored).items():
            if not np.isfinite(x).all():
                fail(thing, f"is {x[~np.isfinite(x)]}", "a finite number")
        if scored.sums is not None:
            total = scored.sums.values(scored.sums.parts.sum(axis=0, keepdims=True))
            summed = Scored({key: x.item() for key, x in total.items()}, [])
            check_same("of sums over pictures", summed, scored._replace(pictures=[]))


def shares(trial: Trial) -> None:
    """The values of a metric whose texts say ``share`` or ``1 at best`` lie in 0..1."""
    for seed in range(10 if trial.says(SHARE) else 0):
        references, captions = draw_pictures(seed)
        for hypotheses in (captions, firsts(references)):
            for thing, x in values_of(trial.scored(references, hypotheses)).items():
                if (outside := x[(x < 0) | (x > 1 + ROUNDING)]).size:
                    fail(thing, f"is {outside}", "a share, in 0..1")


def people_best(trial: Trial) -> None:
    """People's captions score at least as high as those of other pictures.

    Either all values are higher, the mean over pictures among them, or all are equal. If the texts
    say ``1 at best``, captions that are their picture's only reference score 1, and words that
    nobody wrote 0, as no words do. If they say ``0 at best``, the former score 0, and others no lower.
    """
    sign = -1 if trial.says(ZERO) else 1
    for seed in range(5):
        references, _ = draw_pictures(seed)
        people = firsts(references)
        scored, others = (
            {name: float(x.mean()) for name, x in values_of(scores).items() if x.size}
            for scores in (
                trial.scored(references, people),
                trial.scored(references, [*people[1:], people[0]]),
            )
        )
        gains = {name: sign * (scored[name] - others[name]) for name in scored}
        worst = min(gains, key=lambda name: gains[name])
        if gains[worst] <= ROUNDING and any(abs(gain) > ROUNDING for gain in gains.values()):
            values = f"is {scored[worst]} of people's captions, {others[worst]} of other pictures'"
            fail(worst, values, "the better of people's")
        if not getattr(trial.metric, "needs_references", True):
            continue
        only = [[words] for words in people]
        for best, what, captions, value in (
            (ONE, "only references, 1 at best,", people, 1.0),
            (ONE, "words that nobody wrote", [["zebra"] for _ in people], 0.0),
            (ONE, "no words", [words[:0] for words in people], 0.0),
            (ZERO, "only references, 0 at best,", people, 0.0),
        ):
            if trial.says(best):
                ideal = trial.scored(only, captions)
                expected = Scored(dict.fromkeys(ideal.corpus, value), [value] * len(ideal.pictures))
                check_same(f"of {what}", ideal, expected)


def order_free(trial: Trial) -> None:
    """The order of pictures does not matter, nor that of a picture's references."""
    for seed in range(5):
        references, captions = draw_pictures(seed)
        scored = trial.scored(references, captions)
        turned = [written[::-1] for written in references]
        check_same("of references in another order", trial.scored(turned, captions), scored)
        backwards = trial.scored(references[::-1], captions[::-1])
        expected = scored._replace(pictures=scored.pictures[::-1])
        check_same("of pictures in another order", backwards, expected)


def inputs_unchanged(trial: Trial) -> None:
    """References and captions stay as they are."""
    references, captions = draw_pictures(0)
    before = copy.deepcopy((references, captions))
    trial.scored(references, captions)
    if references != before[0]:
        fail("references", "have changed", "no input to be written to")
    if captions != before[1]:
        fail("captions", "have changed", "no input to be written to")


def nothing_said(trial: Trial) -> None:
    """Captions and references without words have finite values; without pictures, all are 0."""
    references, _ = draw_pictures(0)
    wordless: Pictures = [[[] for _ in written] for written in references]
    for pictures in (references, wordless):
        for thing, x in values_of(trial.scored(pictures, [[] for _ in pictures])).items():
            if not np.isfinite(x).all():
                fail(f"{thing} of captions without words", f"is {x}", "a finite number")
    none = trial.scored([], [])
    check_same("without pictures", none, Scored(dict.fromkeys(none.corpus, 0), []))


METRIC: tuple[Claim, ...] = (
    texts,
    finite,
    shares,
    people_best,
    order_free,
    inputs_unchanged,
    nothing_said,
)


def check_metric(metric: Metric, contract: Iterable[Claim] = METRIC) -> None:
    """Check the contract of a metric, on random words.

    Its `plain` and `protocol` are taken at their word: values of a metric that says ``share`` or
    ``1 at best`` must lie in 0..1. Higher is better unless it says ``0 at best``.

    Parameters
    ----------
    metric : Metric
        Or any object with a name, a title, a protocol and `score`.
    contract : iterable of callable
        Claims, of METRIC.

    Raises
    ------
    ContractError
        A claim does not hold. It names the metric, the value, and what was expected. An error of the
        metric itself goes through, with a note of metric and claim.
    """
    check("check_metric", Trial(metric), contract)
