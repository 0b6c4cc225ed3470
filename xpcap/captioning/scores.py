"""Scores of captions, of a run or from any source: measured, compared, and as tables, JSON, CSV."""

import csv
import hashlib
import io
import json
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np

from xpcap.captioning.captions import caption_chosen, captioned
from xpcap.data import CaptionData
from xpcap.data.dataset import evenly_spaced
from xpcap.data.vocabulary import SPECIAL, TOKENISATION, Vocabulary, tokenize
from xpcap.distributed import Group
from xpcap.distributed.work import work
from xpcap.drawings import metrics_of
from xpcap.errors import DataError, InvalidTypeError, InvalidValueError
from xpcap.metrics import (
    ALIASES,
    METRICS,
    Hub,
    Interval,
    Metric,
    References,
    Scored,
    Sums,
    Words,
    bootstrap_intervals,
    paired,
    train_metrics,
)
from xpcap.metrics.bleu import ORDERS
from xpcap.metrics.metric import BASES
from xpcap.models import Policy
from xpcap.report.markup import render
from xpcap.runs.records import PictureCaption
from xpcap.runs.run import Run
from xpcap.runs.trained_on import trained_on
from xpcap.training.evaluate import MEANING, PROTOCOL, teacher_forced

Value = TypeVar("Value")
# Scores of the headline: the first of each group that was measured
HEADLINE = (("named", "distinct"), ("cider",), ("bleu4",))
FORCED = ("perplexity", "loss", "accuracy")  # teacher-forced scores, which need a model
# People's captions are scored if at least so many pictures have different captions
MIN_PEOPLE = 20


class Result(NamedTuple):
    """A metric's scores of captions, and of human captions."""

    metric: Metric
    scored: Scored
    human: Scored | None = None  # scores of the first reference of each picture
    shown: str = ""  # text of the values in tables; empty: all, with three decimals


class Row(NamedTuple):
    """A row of a table of results; texts may be empty."""

    title: str
    value: str
    width: str  # half of the interval's width, after ±
    human: str
    protocol: str
    meaning: str


@dataclass(frozen=True)
class Scores:
    """Scores of captions, one per picture.

    split : name of the split
    captions : one per picture, in the order of the pictures
    results : one per metric, and perplexity if a run wrote the captions
    seconds : time of the computation
    unscored : name of each metric that could not be computed to the reason
    human_protocol : how people's captions were scored, or why they were not
    people : whether tables have a column of people's scores
    decoding : description of the run's decoding; empty: the captions are not a run's
    trained_on : number of pictures that the run was trained on; None: it is unknown
    bases : name of each basis of the scores to its digest: see `Metric.depends_on`
    """

    split: str
    captions: list[PictureCaption]
    results: list[Result]
    seconds: float
    unscored: dict[str, str] = field(default_factory=dict)
    human_protocol: str = ""
    people: bool = True
    decoding: str = ""
    trained_on: int | None = None
    bases: Mapping[str, str] = field(default_factory=dict)

    def __repr__(self) -> str:
        return f"Scores({self.summary!r}, {self.scores})"

    def _repr_html_(self) -> str:
        """The table of scores, as a notebook shows it."""
        return render("scores.html", run="", scores=self).decode()

    @property
    def n(self) -> int:
        """The number of pictures."""
        return len(self.captions)

    @property
    def summary(self) -> str:
        """A line with the split, the number of pictures, the elapsed time and the decoding policy."""
        known = f" ({self.trained_on:,} of them trained on)" if self.trained_on else ""
        line = f"{self.split}: {self.n} pictures{known}, {self.seconds:.1f} s"
        return f"{line}, {self.decoding}" if self.decoding else line

    @property
    def scores(self) -> dict[str, float]:
        """Value by name: ``bleu1`` to ``bleu4``, ``unigram_bleu``, ``rouge_l``, ``cider``, ..."""
        return _by_name(result.scored for result in self.results)

    @property
    def metrics(self) -> dict[str, Metric]:
        """Name of each score to its metric."""
        return _with_aliases(
            {name: result.metric for result in self.results for name in result.scored.corpus}
        )

    @property
    def human_scores(self) -> dict[str, float]:
        """Scores of people's captions, as `scores`.

        Perplexity is missing and, if too few pictures have two captions, scores that need
        references.
        """
        return _by_name(result.human for result in self.results if result.human)

    @cached_property
    def intervals(self) -> dict[str, Interval]:
        """Name of a score to the ends of its 95 % interval, if any: see `bootstrap_intervals`."""
        return _with_aliases(bootstrap_intervals(self.sums))

    @property
    def sums(self) -> list[Sums]:
        """Sums per picture of each metric that has them; intervals are computed from these."""
        return [result.scored.sums for result in self.results if result.scored.sums]

    @property
    def per_picture(self) -> dict[str, list[float]]:
        """Name of each metric that scores single pictures to its values, one per caption."""
        return {
            result.metric.name: result.scored.pictures
            for result in self.results
            if result.scored.pictures
        }

    @property
    def protocol(self) -> dict[str, str]:
        """Name of each metric to a description of its computation."""
        return {result.metric.name: result.metric.protocol for result in self.results}

    def rows(self) -> list[Row]:
        """The results for tables."""
        return [
            Row(
                result.metric.title,
                result.shown or _figures(result.scored),
                self._width(result.scored),
                _figures(result.human) if result.human and self.people else "",
                result.metric.protocol,
                result.metric.meaning,
            )
            for result in self.results
        ]

    def headline(self) -> list[Row]:
        """At most three scores, without intervals and protocols."""
        values = self.scores
        human = self.human_scores
        metrics = self.metrics
        names = [next((name for name in group if name in metrics), "") for group in HEADLINE]
        return [
            Row(
                _title(metrics[name], name),
                figure(values[name]),
                "",
                figure(human[name]) if name in human and self.people else "",
                "",
                metrics[name].meaning,
            )
            for name in names
            if name
        ]

    def _width(self, scored: Scored) -> str:
        ends = [self.intervals[name] for name in scored.corpus if name in self.intervals]
        return "± " + "  ".join(figure((high - low) / 2) for low, high in ends) if ends else ""

    def spread(self, *, count: int = 10) -> list[PictureCaption]:
        """`count` of the captions, evenly spaced."""
        return [self.captions[i] for i in evenly_spaced(self.n, count).tolist()]

    def to_json(self) -> dict[str, Any]:
        """The scores as a JSON object; a run's also have the main scores as members."""
        scores = self.scores
        content = {
            "split": self.split,
            "n": self.n,
            "bleu": [scores[f"bleu{n}"] for n in ORDERS if f"bleu{n}" in scores] or None,
            "seconds": self.seconds,
            "protocol": self.protocol,
            "captions": {caption.image: caption.caption for caption in self.captions},
            "scores": scores,
            "intervals": {name: list(ends) for name, ends in self.intervals.items()},
            "unscored": self.unscored,
            "people": {"scores": self.human_scores, "protocol": self.human_protocol},
        }
        if self.decoding:
            content |= {"decoding": self.decoding, "trained_on": self.trained_on}
            content |= {name: scores.get(name) for name in ("unigram_bleu", *FORCED, "named")}
        return content

    def to_csv(self) -> str:
        """A table with one row per picture: ``image``, ``caption``, and each score per picture."""
        scores = self.per_picture
        table = io.StringIO()
        rows = csv.writer(table, lineterminator="\n")
        rows.writerow(["image", "caption", *scores])
        for caption, *values in zip(self.captions, *scores.values(), strict=True):
            rows.writerow([caption.image, caption.caption, *values])
        return table.getvalue()


def figure(value: float, sign: str = "") -> str:
    """A score or, with sign "+", a difference as text: three decimals, or none for a count."""
    return f"{value:{sign}}" if isinstance(value, int) else f"{value:{sign}.3f}"


def _figures(scored: Scored) -> str:
    return "  ".join(map(figure, scored.corpus.values()))


def _title(metric: Metric, score: str) -> str:
    """The title of one score of a metric, which may have several."""
    return metric.hub.title if metric.hub and metric.hub.score == score else metric.title


def _by_name(scored: Iterable[Scored]) -> dict[str, float]:
    """All values by name: those of metrics, those of aliases, then teacher-forced ones."""
    scores = {name: value for x in scored for name, value in x.corpus.items()}
    forced = {name: scores.pop(name) for name in FORCED if name in scores}
    return _with_aliases(scores) | forced


def _with_aliases(values: dict[str, Value]) -> dict[str, Value]:
    return values | {alias: values[name] for alias, name in ALIASES.items() if name in values}


# Comparison


@dataclass(frozen=True)
class Comparison:
    """Scores of two sets of captions, and their paired differences."""

    ours: Scores
    theirs: Scores
    differences: dict[str, float]  # name of each compared score to ours - theirs
    intervals: dict[str, Interval]  # name to the ends of the difference's 95 % interval, if any
    left_out: dict[str, str]  # name of each score that is not compared to the reason

    def rows(self) -> list[tuple[str, str, str, str, str]]:
        """(name, ours, theirs, difference, interval or "") of each score, for tables."""
        ours = self.ours.scores
        theirs = self.theirs.scores
        return [
            (
                name,
                figure(ours[name]),
                figure(theirs[name]),
                figure(difference, "+"),
                " to ".join(figure(end, "+") for end in self.intervals.get(name, ())),
            )
            for name, difference in self.differences.items()
        ]

    def to_json(self) -> dict[str, Any]:
        """The scores of `theirs` and the differences as a JSON object."""
        ends = {name: list(interval) for name, interval in self.intervals.items()}
        return {
            "scores": self.theirs.scores,
            "differences": self.differences,
            "intervals": ends,
            "left_out": self.left_out,
        }


def compare(ours: Scores, theirs: Scores) -> Comparison:
    """Compare two sets of captions of the same pictures by paired differences of their scores.

    A score is left out if one side lacks it, or if its bases differ: see `Metric.depends_on`. Both
    sides are resampled alike, so that easy pictures cancel out and intervals are narrower than
    those of two separate scores. If an interval excludes 0, the difference is significant.

    DataError : they have other pictures, or another order.
    """
    our_images, images = ([caption.image for caption in x.captions] for x in (ours, theirs))
    if our_images != images:
        raise DataError(
            f"the two sides have {ours.n:,} and {theirs.n:,} pictures, which differ, at least in"
            " their order, expected the same pictures; trained on different files? evaluate both on"
            " the same `data`"
        )
    our_scores = ours.scores
    their_scores = theirs.scores
    left_out = dict[str, str]()
    unequal = [name for name in BASES if ours.bases.get(name) != theirs.bases.get(name)]
    for name, metric in (theirs.metrics | ours.metrics).items():
        if bases := [base for base in unequal if base in metric.depends_on]:
            left_out[name] = f"the two sides differ in {' and '.join(bases)}"
        if name not in our_scores or name not in their_scores:
            left_out[name] = "one side lacks it"
    intervals = _with_aliases(paired(ours.sums, theirs.sums))
    return Comparison(
        ours,
        theirs,
        {name: x - their_scores[name] for name, x in our_scores.items() if name not in left_out},
        {name: ends for name, ends in intervals.items() if name not in left_out},
        left_out,
    )


# Captions from any source


def score_captions(
    data: CaptionData,
    split: str,
    captions: Mapping[str, str],
    *,
    metrics: Sequence[Metric] = METRICS,
) -> Scores:
    """Score captions from any source of the pictures of a split.

    They are tokenised as the references: see `CaptionData.words`.

    captions : name of a picture to its caption; needed for each picture with references
    metrics : as in `evaluate_run`
    DataError : the split is missing, or a picture has no caption.

    Examples
    --------
    >>> from xpcap.drawings import generate
    >>> data = generate(seed=0, train=20, val=5)
    >>> scores = score_captions(data, "val", dict.fromkeys(data.split("val").images, "a red dog"))
    >>> scores.scores["distinct"]
    0.2
    """
    start = time.perf_counter()
    chosen = data.split(split)
    names = [chosen.images[i] for i in captioned(data, split).tolist()]
    if missing := [name for name in names if name not in captions]:
        raise DataError(
            f"{len(missing):,} of the {len(names):,} pictures of split {split!r} have no caption,"
            f" {missing[0][:100]!r} among them, expected a caption for each; are the captions of"
            " another split?"
        )
    tokenise = str.split if chosen.text is None else tokenize
    scored = [
        PictureCaption(name, captions[name], [], references, words=tokenise(captions[name]))
        for name, references in zip(names, data.references(split).values(), strict=True)
    ]
    scores = _scores(data, split, data.words(split), scored, data.vocabulary, metrics)
    return replace(scores, seconds=time.perf_counter() - start)


def _scores(
    data: CaptionData,
    split: str,
    words: Sequence[list[str]],
    captions: list[PictureCaption],
    vocabulary: Vocabulary,
    metrics: Sequence[Metric],
) -> Scores:
    """Scores of captions, one per picture, and of people's captions; `seconds` is 0.

    The first reference of each picture is people's caption. Metrics that need references compare it
    with the picture's other references, without duplicates, on the pictures that have others.

    words : words of the references, from `CaptionData.words`
    captions : with their words, tokenised as the references
    vocabulary : the captioner's; the course's BLEU ignores words that it lacks
    TypeError, ValueError : a metric is no Metric, does not return a Scored of these pictures, or
        has the name of another metric.
    """
    references = list(data.reference_words(split, words).values())
    hypotheses = [caption.words for caption in captions]
    text = data.split(split).text
    _, firsts = np.unique(data.split(split).image_idxs, return_index=True)
    first = [words[i] for i in firsts.tolist()]  # where <UNK> counts as a word
    different = [list(map(list, dict.fromkeys(map(tuple, captions)))) for captions in references]
    several = [captions for captions in different if len(captions) > 1]
    people = len(several) >= MIN_PEOPLE
    known = set(vocabulary.idx_to_word) - set(SPECIAL)
    rows, unscored = _with_data_metrics(data, [*map(_row, metrics)])
    results: list[Result] = []
    reserved_names = {*ALIASES, *FORCED}
    for metric in rows:
        scored = _scored(metric, references, hypotheses, known)
        names = {metric.name, *scored.corpus}
        if taken := sorted(reserved_names & names):
            raise InvalidValueError(
                f"the name {taken[0]!r} of {metric.title!r} is taken, expected another name; is a"
                " metric given twice?"
            )
        reserved_names |= names
        human = None
        if "references" not in metric.depends_on:
            human = _scored(metric, references, first, known)
        elif people:
            human = _scored(
                metric,
                [captions[1:] for captions in several],
                [captions[0] for captions in several],
                known,
            )
        if metric.name == "bleu":
            tokens = "words as the data set has them" if text is None else TOKENISATION
            metric = replace(metric, protocol=f"{metric.protocol}, {tokens}")
        results.append(Result(metric, scored, human))
    about = _human_protocol(len(several), len(references))
    bases = _bases(data, references, known)
    return Scores(split, captions, results, 0.0, unscored, about, people, bases=bases)


def _bases(data: CaptionData, references: References, known: Set[str]) -> dict[str, str]:
    """Digests of the BASES that the data has."""
    contents: dict[str, Iterable[object]] = {"references": references, "vocabulary": sorted(known)}
    if train := data.splits.get("train"):
        contents["train captions"] = chain(
            data.vocabulary.words_of(train.captions), train.text or ()
        )
    digests = {name: hashlib.sha256() for name in contents}
    for name, content in contents.items():
        for value in content:
            digests[name].update(json.dumps(value).encode())
    return {name: digest.hexdigest() for name, digest in digests.items()}


def _human_protocol(several: int, pictures: int) -> str:
    """Description of how people's captions are scored; `several` pictures have different ones."""
    if several < MIN_PEOPLE:
        have = "1 picture has" if several == 1 else f"{several:,} pictures have"
        return f"not scored, since {have} two different captions and {MIN_PEOPLE} are needed"
    first = "the first caption of each picture, scored as if a captioner had written it"
    others = (
        "its other captions"
        if several == pictures
        else f"its other captions, on the {several:,} pictures that have different ones"
    )
    return (
        f"{first}; scores that need references compare it with {others}: one reference fewer than in"
        " the first column, which lowers these scores, except for CIDEr, which hardly changes"
    )


def _row(metric: object) -> Metric:
    """An object of any class as a Metric. TypeError : it lacks an attribute of a metric."""
    if isinstance(metric, Metric):
        return metric
    required = ("name", "title", "protocol", "score")
    lacking = [name for name in required if not hasattr(metric, name)]
    if lacking or isinstance(metric, type):
        kind = metric if isinstance(metric, type) else type(metric)
        given = f"{'the class' if kind is metric else 'a'} {kind.__name__}"
        lacks = f", which lacks {', '.join(lacking)}" if lacking else ""
        raise InvalidTypeError(
            f"`metrics` has {given}{lacks}, expected objects such as {kind.__name__}(): see"
            " xpcap.metrics.Metric"
        )
    names = [x.name for x in fields(Metric) if hasattr(metric, x.name)]
    return Metric(**{"meaning": "", **{name: getattr(metric, name) for name in names}})


def _with_data_metrics(
    data: CaptionData, metrics: list[Metric]
) -> tuple[list[Metric], dict[str, str]]:
    """All metrics for the data, and the name of each that cannot be computed to the reason.

    Metrics of generated pictures follow BLEU; those that compare with a train split are last.
    """
    below = 1 + next((k for k, metric in enumerate(metrics) if metric.name == "bleu"), -1)
    rows = [*metrics[:below], *metrics_of(data), *metrics[below:]]
    if "train" not in data.splits:
        return rows, {}
    train = data.split("train")

    def encoded() -> Iterator[list[str]]:
        return data.vocabulary.words_of(train.captions)

    # People's texts if the file has them, since the vocabulary may lack some words
    written = encoded() if train.text is None else map(tokenize, train.text)
    compared, unscored = train_metrics(written, encoded)
    return rows + compared, unscored


def _scored(
    metric: Metric, references: References, hypotheses: Sequence[Words], known: Set[str]
) -> Scored:
    """A metric's scores as Python numbers; `known` are the captioner's words.

    TypeError, ValueError : the metric returns no Scored of these pictures.
    """
    if "vocabulary" in metric.depends_on:
        references = [
            [[word for word in caption if word in known] for caption in captions]
            for captions in references
        ]
    scored: object = metric.score(references, hypotheses)
    name = f"`score` of {metric.title!r}"
    n = len(hypotheses)
    if not isinstance(scored, Scored):
        raise InvalidTypeError(
            f"{name} returned a {type(scored).__name__}, expected a Scored; `averaged` in"
            " xpcap.metrics makes one"
        )
    if len(scored.pictures) not in (0, n):
        raise InvalidValueError(
            f"{name} returned {len(scored.pictures)} values, expected one for each of {n} pictures,"
            " or none"
        )
    corpus = {
        name: value.item() if isinstance(value, np.generic | np.ndarray) else value
        for name, value in scored.corpus.items()
    }
    if wrong := [value for value in corpus.values() if not isinstance(value, int | float)]:
        raise InvalidTypeError(f"{name} returned {wrong[0]!r:.100}, expected a number")
    return scored._replace(corpus=corpus, pictures=np.asarray(scored.pictures).tolist())


# A run on a split


def evaluate_run(
    run: Run,
    data: CaptionData | str | Path | None = None,
    split: str = "val",
    *,
    progress: bool | None = None,
    policy: Policy | None = None,
    group: Group | None = None,
    metrics: Sequence[Metric] = METRICS,
) -> Scores:
    """Caption a split with a run, and score the captions; also compute perplexity of the references.

    Parameters
    ----------
    run : Run
    data : CaptionData, str, Path or None
        An open data set, or its path. None: the data set that the run was trained on.
    split : str
    progress : bool or None
        Show progress bars on a terminal. None: as the current work does, by default not.
    policy : Policy or None
        Chooses the words, as in `caption_run`. None: the run's default.
    group : Group or None
        Ranks that share the work; each returns the same. None: those of the current work, by
        default this process.
    metrics : sequence of Metric
        Metrics of captions, such as ``(*xpcap.metrics.METRICS, custom)``. Metrics of the data and
        teacher-forced scores are added.

    Returns
    -------
    evaluation : Scores
        Captions, scores and their protocols.

    Raises
    ------
    DataError
        The data set or the split is missing, or does not fit the run.
    TypeError, ValueError
        One of `metrics` is no metric, or has the name of another.
    """
    start = time.perf_counter()
    dataset = run.data(data)
    words = dataset.words(split)
    pictures = captioned(dataset, split)
    encoded = dataset.encoded_with(run.vocabulary, split, words)
    decoder = run.decoder(policy)
    with work(group=group, progress=progress) as group:
        forced = teacher_forced(run.model, encoded, split, group=group)
        captions = caption_chosen(decoder, dataset, split, pictures)
    scores = _scores(dataset, split, words, captions, run.vocabulary, metrics)
    values = Scored({name: getattr(forced, name) for name in FORCED}, [])
    shown = f"{forced.perplexity:.2f}"
    hub = Hub("perplexity", "perplexity", "perplexity of the references")
    bases = ("references", "vocabulary")
    metric = Metric("perplexity", "perplexity", MEANING, PROTOCOL, lambda *_: values, bases, hub)
    perplexity = Result(metric, values, shown=shown)
    return replace(
        scores,
        results=[*scores.results, perplexity],
        seconds=time.perf_counter() - start,
        decoding=decoder.title,
        trained_on=trained_on(run, dataset, split, pictures),
    )
