"""Scores of captions, whoever made them: of a run on a split, of captions from a file, and of two
sides compared.
"""

import csv
import io
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from xpcap.data import CaptionData
from xpcap.data.dataset import evenly_spaced
from xpcap.data.vocabulary import SPECIAL, TOKENISERS, UNICODE, Vocabulary
from xpcap.distributed import SINGLE, Group
from xpcap.errors import DataError
from xpcap.files import write_text
from xpcap.metrics import (
    ALIASES,
    METRICS,
    Bleu,
    Interval,
    Metric,
    Novel,
    Scored,
    UnigramBleu,
    intervals,
    paired,
)
from xpcap.metrics.bleu import ORDERS
from xpcap.metrics.java import JavaError, java_metrics
from xpcap.models import Policy
from xpcap.prepare.text import kind_of, parse_json, read_whole
from xpcap.runs.captioning import PictureCaption, caption_chosen, captioned, data_of
from xpcap.runs.folder import Run
from xpcap.shapes import metrics_of
from xpcap.training.evaluate import PLAIN, PROTOCOL, TeacherForced, teacher_forced

TAKEN = {*ALIASES, "perplexity", "loss", "accuracy"}  # names of scores that no metric gives


class Result(NamedTuple):
    """One metric and its scores."""

    metric: Metric
    scored: Scored


@dataclass(frozen=True)
class Scores:
    """Scores of captions, one a picture.

    Parameters
    ----------
    split : its name
    captions : one a picture, in the order of the pictures
    results : one a metric
    unscored : name of each metric that could not be computed here to the reason; only of those that
        were asked for
    seconds : taken
    words : how captions and references were made into words
    """

    split: str
    captions: list[PictureCaption]
    results: list[Result]
    seconds: float
    unscored: dict[str, str] = field(default_factory=dict, kw_only=True)
    words: str = field(default=TOKENISERS[UNICODE], kw_only=True)

    @property
    def n(self) -> int:
        """The number of pictures."""
        return len(self.captions)

    @property
    def summary(self) -> str:
        """What was scored and how long that took, in a line."""
        return f"{self.split}: {self.n} pictures, {self.seconds:.1f} s"

    @property
    def scores(self) -> dict[str, float]:
        """Name to value: ``bleu1`` to ``bleu4``, ``unigram_bleu``, ``rouge_l``, ``cider`` and so
        on, and what the data adds.
        """
        scores = {
            name: value for result in self.results for name, value in result.scored.corpus.items()
        }
        return scores | {alias: scores[name] for alias, name in ALIASES.items() if name in scores}

    @cached_property
    def intervals(self) -> dict[str, Interval]:
        """Name to the ends of the score's 95 % interval: see `metrics.intervals`. Scores that count
        different things have none.
        """
        found = intervals([result.scored.sums for result in self.results if result.scored.sums])
        return found | {alias: found[name] for alias, name in ALIASES.items() if name in found}

    @property
    def per_picture(self) -> dict[str, list[float]]:
        """Name of a metric to one value for each of `captions`, for metrics that say something of a
        single picture.
        """
        return {metric.name: scored.pictures for metric, scored in self.results if scored.pictures}

    @property
    def protocol(self) -> dict[str, str]:
        """Name of a metric to how it is computed, in words; that of BLEU says how text was made
        into words.
        """
        return {
            metric.name: (
                f"{metric.protocol}, {self.words}" if metric.name == Bleu.name else metric.protocol
            )
            for metric, _ in self.results
        }

    @property
    def plain(self) -> dict[str, str]:
        """Title of a score to what it says, for people who know no metric."""
        return {metric.title: metric.plain for metric, _ in self.results}

    def rows(self) -> list[tuple[str, str, str, str]]:
        """(title, value, half the width of its interval or an empty string, protocol) of each
        score, as tables show them.
        """
        return [
            (
                metric.title,
                "  ".join(map(figure, scored.corpus.values())),
                self._widths(scored.corpus),
                self.protocol[metric.name],
            )
            for metric, scored in self.results
        ]

    def _widths(self, names: Mapping[str, float]) -> str:
        ends = [self.intervals[name] for name in names if name in self.intervals]
        return "± " + "  ".join(figure((high - low) / 2) for low, high in ends) if ends else ""

    def spread(self, *, count: int = 10) -> list[PictureCaption]:
        """`count` of the captions, spread evenly."""
        return [self.captions[i] for i in evenly_spaced(self.n, count).tolist()]

    def to_json(self) -> dict[str, Any]:
        """All of it as one object for JSON."""
        scores = self.scores
        return {
            "split": self.split,
            "n": self.n,
            "bleu": [scores[f"bleu{n}"] for n in ORDERS if f"bleu{n}" in scores] or None,
            "seconds": self.seconds,
            "protocol": self.protocol,
            "captions": {caption.image: caption.caption for caption in self.captions},
            "scores": scores,
            "intervals": {name: list(ends) for name, ends in self.intervals.items()},
            "unscored": self.unscored,
        }

    def write_csv(self, path: str | Path) -> None:
        """Write a table with one row a picture: ``image``, ``caption``, and every score that a
        picture has. OSError : it cannot be written.
        """
        scores = self.per_picture
        table = io.StringIO()
        rows = csv.writer(table, lineterminator="\n")
        rows.writerow(["image", "caption", *scores])
        for caption, *values in zip(self.captions, *scores.values(), strict=True):
            rows.writerow([caption.image, caption.caption, *values])
        write_text(Path(path), table.getvalue())


def figure(value: float) -> str:
    """A score as tables show it: three decimals, a count without."""
    return str(value) if isinstance(value, int) else f"{value:.3f}"


def score_captions(
    data: CaptionData,
    split: str,
    captions: Mapping[str, str],
    *,
    java: bool = False,
    metrics: Sequence[Metric] = METRICS,
) -> Scores:
    """Score captions that anything made of the pictures of a split.

    They are tokenised as the split's own captions are: see `CaptionData.words`.

    Parameters
    ----------
    captions : name of a picture to its caption; one for each picture of the split that has
        references
    java : METEOR and SPICE too, if they can be computed here
    metrics : as in `evaluate_run`

    Raises
    ------
    DataError : the split is not there, or a picture has no caption.
    """
    start = time.perf_counter()
    chosen = data.split(split)
    names = [chosen.images[i] for i in captioned(data, split).tolist()]
    if missing := [name for name in names if name not in captions]:
        raise DataError(
            f"score_captions: {len(missing):,} of the {len(names):,} pictures of split {split!r}"
            f" have no caption, {missing[0][:100]!r} among them, expected one of each; are the"
            " captions of another split?"
        )
    hypotheses = [
        captions[name].split() if chosen.text is None else data.vocabulary.tokenize(captions[name])
        for name in names
    ]
    of_each = zip(names, data.references(split).values(), hypotheses, strict=True)
    shown = [
        PictureCaption(name, captions[name], [], references, words=words)
        for name, references, words in of_each
    ]
    results, unscored = score_words(
        data, split, data.words(split), data.vocabulary, hypotheses, java, metrics
    )
    return Scores(
        split,
        shown,
        results,
        time.perf_counter() - start,
        unscored=unscored,
        words=words_of(data, split),
    )


def words_of(data: CaptionData, split: str) -> str:
    """How the captions of a split are tokenised, as a sentence of a protocol."""
    return (
        "words as the data set has them"
        if data.split(split).text is None
        else TOKENISERS[data.vocabulary.tokeniser]
    )


def score_words(
    data: CaptionData,
    split: str,
    words: Sequence[list[str]],
    vocabulary: Vocabulary,
    hypotheses: Sequence[Sequence[str]],
    java: bool,
    metrics: Sequence[Metric],
) -> tuple[list[Result], dict[str, str]]:
    """The score of each metric for one caption a picture; and the reason where there is none.

    Parameters
    ----------
    words : the split's captions, the references, as `CaptionData.words` gives them
    vocabulary : of the captioner; the course's BLEU leaves out the words that it does not know
    hypotheses : the words of the captions, in the order of the pictures that have references
    metrics : those to ask besides what the data and `java` add

    Raises
    ------
    TypeError, ValueError : something among them is no Metric, returns something else than a Scored
        of these pictures, or has the name of another.
    """
    written = list(data.reference_words(split, words).values())
    known = set(vocabulary.idx_to_word) - set(SPECIAL)
    # The course reads references without the words that the captioner does not know
    metrics = [
        UnigramBleu(known=known) if type(metric) is UnigramBleu else metric for metric in metrics
    ]
    results: list[Result] = []
    usable, unscored = java_metrics() if java else ([], {})
    for metric in (*_metrics(data, split, metrics), *usable):
        try:
            scored = metric.score(written, hypotheses)
        except JavaError as error:
            unscored[metric.name] = str(error)
            continue
        results.append(_result(metric, scored, results, len(hypotheses)))
    return results, unscored


def _metrics(data: CaptionData, split: str, metrics: Sequence[Metric]) -> list[Metric]:
    """`metrics`, those of generated pictures below BLEU, and novelty if there is a train split."""
    for metric in metrics:
        if lacking := [
            name for name in ("name", "title", "protocol", "score") if not hasattr(metric, name)
        ]:
            what = (
                f"the class {metric.__name__}"
                if isinstance(metric, type)
                else f"a {type(metric).__name__}"
            )
            raise TypeError(
                f"metrics: {what} lacks {', '.join(lacking)}, expected a metric: see"
                " xpcap.metrics.Metric"
            )
        if isinstance(metric, type):
            raise TypeError(
                f"metrics: got the class {metric.__name__}, expected an object: {metric.__name__}()"
            )
    below = 1 + next((k for k, metric in enumerate(metrics) if metric.name == Bleu.name), -1)
    novel = [Novel(lambda: _train_captions(data))] if "train" in data.splits else []
    return [*metrics[:below], *metrics_of(data), *metrics[below:], *novel]


def _result(metric: Metric, scored: Any, others: Sequence[Result], n: int) -> Result:
    """A metric's scores in Python's own numbers.

    TypeError, ValueError : no Scored of n pictures, or a name that is taken.
    """
    if not isinstance(scored, Scored):
        raise TypeError(
            f"{type(metric).__name__}.score returned a {type(scored).__name__}, expected a Scored;"
            " `averaged` in xpcap.metrics makes one"
        )
    if len(scored.pictures) not in (0, n):
        raise ValueError(
            f"{type(metric).__name__}.score returned {len(scored.pictures)} values, expected one"
            f" for each of {n} pictures, or none"
        )
    taken = {name for other in others for name in (other.metric.name, *other.scored.corpus)} | TAKEN
    if twice := sorted(taken & {metric.name, *scored.corpus}):
        raise ValueError(
            f"metrics: the name {twice[0]!r} of {type(metric).__name__} is taken, expected one of"
            " its own; is a metric given twice?"
        )
    corpus = {
        name: value.item() if isinstance(value, np.generic | np.ndarray) else value
        for name, value in scored.corpus.items()
    }
    return Result(
        metric, scored._replace(corpus=corpus, pictures=np.asarray(scored.pictures).tolist())
    )


def _train_captions(data: CaptionData) -> Iterator[list[str]]:
    """Captions of the train split as the file encodes them, ``<UNK>`` included.

    Tokenising them anew would take longer than all other scores.
    """
    words, silent = (
        data.vocabulary.idx_to_word,
        {data.vocabulary.null, data.vocabulary.start, data.vocabulary.end},
    )
    return (
        [words[i] for i in row if i not in silent]
        for row in map(np.ndarray.tolist, data.split("train").captions)
    )


# A run on a split


@dataclass(frozen=True)
class Evaluation(Scores):
    """Scores of a run on a split, with the captions they are of.

    Parameters
    ----------
    forced : teacher-forced scores of the references
    decoding : how the words were chosen, in words
    """

    forced: TeacherForced
    decoding: str

    @property
    def scores(self) -> dict[str, float]:
        """As `Scores.scores`, and ``perplexity``, ``loss``, ``accuracy``."""
        return {
            **super().scores,
            "perplexity": self.forced.perplexity,
            "loss": self.forced.loss,
            "accuracy": self.forced.accuracy,
        }

    @property
    def protocol(self) -> dict[str, str]:
        """As `Scores.protocol`, with perplexity."""
        return {**super().protocol, "perplexity": PROTOCOL}

    @property
    def plain(self) -> dict[str, str]:
        """As `Scores.plain`, with perplexity."""
        return {**super().plain, "perplexity": PLAIN}

    @property
    def summary(self) -> str:
        """As `Scores.summary`, with how the words were chosen."""
        return f"{super().summary}, {self.decoding}"

    def rows(self) -> list[tuple[str, str, str, str]]:
        """As `Scores.rows`, with perplexity."""
        return [*super().rows(), ("perplexity", f"{self.forced.perplexity:.2f}", "", PROTOCOL)]

    def to_json(self) -> dict[str, Any]:
        """All of it as one object for JSON. Scores that only generated pictures have are None for
        other data.
        """
        scores = self.scores
        return {
            **super().to_json(),
            "decoding": self.decoding,
            **{
                name: scores.get(name)
                for name in ("unigram_bleu", "perplexity", "loss", "accuracy")
            },
            "named": scores.get("named"),
        }


def evaluate_run(
    run: Run,
    data: CaptionData | str | Path | None = None,
    split: str = "val",
    *,
    progress: bool = False,
    java: bool = False,
    policy: Policy | None = None,
    group: Group = SINGLE,
    metrics: Sequence[Metric] = METRICS,
) -> Evaluation:
    """Score a run on a split: its captions against all references, and the likelihood it gives the
    references.

    Parameters
    ----------
    data : as in `data_of`: an open data set, a path, or None for the run's own
    java : METEOR and SPICE too, if they can be computed here
    policy : chooses the words, as in `caption_run`. None: greedy
    group : ranks that share the pictures out; each returns the same, but for what `java` adds on
        rank 0 alone
    metrics : objects that score captions against references, such as (*xpcap.metrics.METRICS,
        Mine()); see xpcap.metrics.Metric. What the data adds, and teacher-forced scores, come
        besides

    Raises
    ------
    DataError : the data set, or the split, is not there or does not fit the run. TypeError,
        ValueError : something in `metrics` is no metric, or has the name of another.
    """
    start = time.perf_counter()
    seen = data_of(run, data)
    words = seen.words(split)
    forced = teacher_forced(
        run.model,
        seen.encoded_with(run.vocabulary, split, words),
        split,
        progress=progress,
        group=group,
    )
    captions = caption_chosen(
        run, seen, split, captioned(seen, split), progress=progress, policy=policy, group=group
    )
    same = seen.split(split).text is None or run.vocabulary.tokeniser == seen.vocabulary.tokeniser
    hypotheses = [
        caption.words if same else seen.vocabulary.tokenize(caption.caption) for caption in captions
    ]
    results, unscored = score_words(
        seen, split, words, run.vocabulary, hypotheses, java and group.rank == 0, metrics
    )
    decoding = (policy or Policy()).title + (
        f", probabilities averaged over {len(run.paths)} models" if run.others else ""
    )
    seconds = time.perf_counter() - start
    return Evaluation(
        split,
        captions,
        results,
        seconds,
        forced,
        decoding,
        unscored=unscored,
        words=words_of(seen, split),
    )


# Two sides


@dataclass(frozen=True)
class Comparison:
    """Scores of one side beside the other's, and their paired differences."""

    ours: Scores
    theirs: Scores
    differences: dict[str, float]  # name of each score of both to ours - theirs
    intervals: dict[
        str, Interval
    ]  # name to the ends of the difference's 95 % interval, for scores that have one

    def rows(self) -> list[tuple[str, str, str, str, str]]:
        """(name, ours, theirs, difference, interval or an empty string) of each score, as tables
        show them.
        """
        ours, theirs = self.ours.scores, self.theirs.scores
        return [
            (
                name,
                figure(ours[name]),
                figure(theirs[name]),
                signed(difference),
                " to ".join(map(signed, self.intervals.get(name, ()))),
            )
            for name, difference in self.differences.items()
        ]

    def to_json(self) -> dict[str, Any]:
        """The other side's scores and the differences as one object for JSON."""
        ends = {name: list(interval) for name, interval in self.intervals.items()}
        return {"scores": self.theirs.scores, "differences": self.differences, "intervals": ends}


def signed(value: float) -> str:
    """A difference as tables show it."""
    return f"{value:+}" if isinstance(value, int) else f"{value:+.3f}"


def compare(ours: Scores, theirs: Scores) -> Comparison:
    """Differences of all scores that both have.

    Both sides are resampled alike, so that what makes a picture easy for both cancels out:
    intervals of paired differences are narrower than those of two scores. An interval that does not
    hold 0 says that other pictures of this kind would most likely show a difference too.

    Raises
    ------
    DataError : they are not of the same pictures with the same references.
    """
    pairs = list(zip(ours.captions, theirs.captions, strict=False))
    odd = [
        one.image
        for one, other in pairs
        if (one.image, one.references) != (other.image, other.references)
    ]
    if odd or ours.n != theirs.n:
        what = (
            f"{ours.n:,} and {theirs.n:,} pictures"
            if ours.n != theirs.n
            else f"other pictures or references, from {odd[0][:100]!r} on"
        )
        raise DataError(
            f"compare: the two sides have {what} in split {ours.split!r}, expected the same"
            " pictures and references; if they were trained on different files, give one of them"
            " as `data`"
        )
    one, other = ours.scores, theirs.scores
    found = paired(
        *(
            [result.scored.sums for result in side.results if result.scored.sums]
            for side in (ours, theirs)
        )
    )
    found |= {alias: found[name] for alias, name in ALIASES.items() if name in found}
    return Comparison(
        ours,
        theirs,
        {name: value - other[name] for name, value in one.items() if name in other},
        found,
    )


# Captions from a file


NAMES = ("image", "image_id", "file_name")  # keys that may name the picture


class CaptionFile(NamedTuple):
    """Captions by the split's names of pictures, and how many were of no picture of the split."""

    captions: dict[str, str]
    others: int


def read_captions_json(path: str | Path, images: Sequence[str]) -> CaptionFile:
    """Read captions of pictures from a JSON file.

    It is ``{image: caption}``, a list of objects with ``caption`` and ``image``, ``image_id`` or
    ``file_name``, or an evaluation as JSON.

    Parameters
    ----------
    images : names of the split's pictures; a file may name a picture by its name, by the name
        without folder or suffix, by a path that ends in either, or by the number at its end, as
        COCO does

    Raises
    ------
    DataError : another form, two captions of a picture, or a name that fits two pictures. OSError :
        the file cannot be opened.
    """
    where = f"read_captions_json: {path}"
    pairs = _pairs(where, parse_json(where, read_whole("read_captions_json", path)))
    exact, loose = set(images), _loose(images)
    captions: dict[str, str] = {}
    for key, caption in pairs:
        base = key.replace("\\", "/").rsplit("/", 1)[-1]
        found = [key] if key in exact else loose.get(key) or loose.get(base, [])
        if len(found) > 1:
            raise DataError(
                f"{where}: {key[:60]!r} may be {found[0][:60]!r} or {found[1][:60]!r}, expected"
                " names that fit one picture"
            )
        for name in found:
            if name in captions:
                raise DataError(
                    f"{where} has two captions of {name[:100]!r}, expected one of each picture"
                )
            captions[name] = caption
    return CaptionFile(captions, len(pairs) - len(captions))


def _pairs(where: str, content: Any) -> list[tuple[str, str]]:
    """The key of a picture, and its caption, of each entry."""
    if isinstance(content, dict) and isinstance(content.get("captions"), dict):
        content = content["captions"]  # all of an evaluation as JSON
    if isinstance(content, dict):
        pairs = list(content.items())
    elif isinstance(content, list):
        pairs = [
            _pair(f"{where}, entry {number}", entry)
            for number, entry in enumerate(content, start=1)
        ]
    else:
        raise DataError(
            f"{where} is {kind_of(content)}, expected an object of image and caption, or a list of"
            " objects with 'image' and 'caption'"
        )
    for key, caption in pairs:
        if not isinstance(caption, str):
            raise DataError(
                f"{where}: the caption of {key[:100]!r} is {kind_of(caption)}, expected text; one"
                " caption a picture"
            )
        if not caption.isascii() and any("\ud800" <= letter <= "\udfff" for letter in caption):
            raise DataError(
                f"{where}: the caption of {key[:100]!r} holds half of a surrogate pair, which is no"
                " character; cut short?"
            )
    return pairs


def _pair(where: str, entry: Any) -> tuple[str, Any]:
    keys = [key for key in NAMES if isinstance(entry, dict) and key in entry]
    if not keys or "caption" not in entry:
        raise DataError(
            f"{where} is {kind_of(entry)} without 'caption' or any of {', '.join(NAMES)}, expected"
            " both"
        )
    image = entry[keys[0]]
    if not isinstance(image, str) and type(image) is not int:
        raise DataError(
            f"{where}: {keys[0]!r} is {kind_of(image)}, expected text or a whole number"
        )
    return str(image), entry["caption"]


def _loose(images: Sequence[str]) -> dict[str, list[str]]:
    """Other keys of pictures: a name without folder, without suffix, or the number at its end."""
    loose: dict[str, list[str]] = {}
    for name in images:
        base = name.rsplit("/", 1)[-1]
        stem = base.rsplit(".", 1)[0]
        number = re.search(r"\d+$", stem)
        for key in {
            base,
            stem,
            *(
                [str(int(number[0]))]
                if number and number[0].isascii() and len(number[0]) < 20
                else []
            ),
        }:
            loose.setdefault(key, []).append(name)
    return loose
