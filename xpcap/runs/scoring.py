"""Scores of captions: of a run on a split, of captions from a file, and of two sides compared."""

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
from xpcap.errors import DataError, InvalidTypeError, InvalidValueError
from xpcap.files import write_text
from xpcap.metrics import (
    ALIASES,
    METRICS,
    WITHOUT_REFERENCES,
    BadEndings,
    Bleu,
    CorpusStatistics,
    Interval,
    Metric,
    Novel,
    References,
    Scored,
    UnigramBleu,
    UnseenBigrams,
    intervals,
    paired,
)
from xpcap.metrics.bleu import ORDERS
from xpcap.metrics.java import JavaError, java_metrics
from xpcap.metrics.metric import Sums
from xpcap.models import Policy
from xpcap.prepare.text import kind_of, parse_json, read_whole
from xpcap.runs.captioning import PictureCaption, caption_chosen, captioned, data_of
from xpcap.runs.folder import Run
from xpcap.runs.ranking import decoding_title
from xpcap.shapes import metrics_of
from xpcap.training.evaluate import PLAIN, PROTOCOL, TeacherForced, teacher_forced

TAKEN = {*ALIASES, "perplexity", "loss", "accuracy"}  # names of scores that are no metric's
TOO_FEW = "too few train captions to learn which words hardly ever end one"


class Result(NamedTuple):
    """A metric and its scores."""

    metric: Metric
    scored: Scored


class HumanScores(NamedTuple):
    """Scores of human captions: of each picture the first reference in place of a caption.

    Metrics that compare with references get the picture's others, and pictures that have others.
    `protocol` says so in words.
    """

    results: Sequence[Result] = ()
    protocol: str = ""

    @property
    def scores(self) -> dict[str, float]:
        """Value by name, as in `Scores`; without what needs a second reference, if none has one."""
        return _by_name(self.results)

    @property
    def figures(self) -> dict[str, str]:
        """Title of each score to its value, as tables show it."""
        return {metric.title: _figures(scored) for metric, scored in self.results}


@dataclass(frozen=True)
class Scores:
    """Scores of captions, one a picture.

    Parameters
    ----------
    split : its name
    captions : one a picture, in the order of the pictures
    results : one a metric
    unscored : name of each requested metric that could not be computed to the reason
    seconds : time taken
    words : the tokenisation of captions and references, in words
    human : scores of what people wrote, by the same metrics
    """

    split: str
    captions: list[PictureCaption]
    results: list[Result]
    seconds: float
    unscored: dict[str, str] = field(default_factory=dict, kw_only=True)
    words: str = field(default=TOKENISERS[UNICODE], kw_only=True)
    human: HumanScores = field(default_factory=HumanScores, kw_only=True)

    @property
    def people(self) -> HumanScores:
        """The former name of `human`."""
        return self.human

    @property
    def n(self) -> int:
        """The number of pictures."""
        return len(self.captions)

    @property
    def summary(self) -> str:
        """Split, number of pictures and time, in a line."""
        return f"{self.split}: {self.n} pictures, {self.seconds:.1f} s"

    @property
    def scores(self) -> dict[str, float]:
        """Value by name: ``bleu1`` to ``bleu4``, ``unigram_bleu``, ``rouge_l``, ``cider``, ..."""
        return _by_name(self.results)

    @cached_property
    def intervals(self) -> dict[str, Interval]:
        """Ends of the 95 % interval by name of a score, if it has one: see `metrics.intervals`."""
        found = intervals(self.sums)
        return found | {alias: found[name] for alias, name in ALIASES.items() if name in found}

    @property
    def sums(self) -> list[Sums]:
        """Sums per picture of each metric that has them: intervals resample these."""
        return [scored.sums for _, scored in self.results if scored.sums]

    @property
    def per_picture(self) -> dict[str, list[float]]:
        """Name to one value for each of `captions`, of metrics that score single pictures."""
        return {metric.name: scored.pictures for metric, scored in self.results if scored.pictures}

    @property
    def protocol(self) -> dict[str, str]:
        """Name of a metric to how it is computed, in words; BLEU's with the tokenisation."""
        protocols = {metric.name: metric.protocol for metric, _ in self.results}
        if Bleu.name in protocols:
            protocols[Bleu.name] += f", {self.words}"
        return protocols

    @property
    def plain(self) -> dict[str, str]:
        """Title of a score to its meaning, for people who know no metric."""
        return {metric.title: metric.plain for metric, _ in self.results}

    def rows(self) -> list[tuple[str, str, str, str]]:
        """(title, value, half the interval's width or "", protocol) of each score, for tables."""
        return [
            (
                metric.title,
                _figures(scored),
                self._widths(scored.corpus),
                self.protocol[metric.name],
            )
            for metric, scored in self.results
        ]

    def _widths(self, names: Mapping[str, float]) -> str:
        ends = [self.intervals[name] for name in names if name in self.intervals]
        return "± " + "  ".join(figure((high - low) / 2) for low, high in ends) if ends else ""

    def spread(self, *, count: int = 10) -> list[PictureCaption]:
        """`count` of the captions, evenly spaced."""
        return [self.captions[i] for i in evenly_spaced(self.n, count).tolist()]

    def to_json(self) -> dict[str, Any]:
        """The scores as an object for JSON."""
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
            "people": {"scores": self.human.scores, "protocol": self.human.protocol},
        }

    def write_csv(self, path: str | Path) -> None:
        """Write a table with one row a picture: ``image``, ``caption``, and each score per picture.

        OSError : it cannot be written.
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


def _figures(scored: Scored) -> str:
    return "  ".join(map(figure, scored.corpus.values()))


def _by_name(results: Sequence[Result]) -> dict[str, float]:
    """All scores by name, aliases last."""
    scores: dict[str, float] = {}
    for _, scored in results:
        scores |= scored.corpus
    return scores | {alias: scores[name] for alias, name in ALIASES.items() if name in scores}


def score_captions(
    data: CaptionData,
    split: str,
    captions: Mapping[str, str],
    *,
    java: bool = False,
    metrics: Sequence[Metric] = METRICS,
) -> Scores:
    """Score captions of the pictures of a split, from any source.

    They are tokenised as the split's own captions are: see `CaptionData.words`.

    Parameters
    ----------
    captions : name of a picture to its caption; one for each picture of the split that has
        references
    java : METEOR and SPICE too, if they can be computed here
    metrics : as in `evaluate_run`

    Raises
    ------
    DataError : the split is missing, or a picture has no caption.
    """
    start = time.perf_counter()
    chosen = data.split(split)
    names = [chosen.images[i] for i in captioned(data, split).tolist()]
    if missing := [name for name in names if name not in captions]:
        raise DataError(
            "score_captions",
            f"{len(missing):,} of the {len(names):,} pictures of split {split!r}",
            f"have no caption, {missing[0][:100]!r} among them",
            expected="one of each",
            cause="are the captions of another split?",
        )
    hypotheses = [
        captions[name].split() if chosen.text is None else data.vocabulary.tokenize(captions[name])
        for name in names
    ]
    rows = zip(names, data.references(split).values(), hypotheses, strict=True)
    shown = [
        PictureCaption(name, captions[name], [], refs, words=words) for name, refs, words in rows
    ]
    found = score_words(data, split, data.words(split), data.vocabulary, hypotheses, java, metrics)
    return Scores(
        split,
        shown,
        found.results,
        time.perf_counter() - start,
        unscored=found.unscored,
        words=words_of(data, split),
        human=found.human,
    )


def words_of(data: CaptionData, split: str) -> str:
    """The tokenisation of a split's captions, as a sentence of a protocol."""
    if data.split(split).text is None:
        return "words as the data set has them"
    return TOKENISERS[data.vocabulary.tokeniser]


class WordScores(NamedTuple):
    """Scores of captions and of human captions, and why a metric has none."""

    results: list[Result]
    unscored: dict[str, str]  # name of a metric to the reason
    human: HumanScores


def score_words(
    data: CaptionData,
    split: str,
    words: Sequence[list[str]],
    vocabulary: Vocabulary,
    hypotheses: Sequence[Sequence[str]],
    java: bool,
    metrics: Sequence[Metric],
) -> WordScores:
    """Score one caption a picture by each metric, and the human ones, and say why a metric cannot.

    Parameters
    ----------
    words : the split's captions, the references, from `CaptionData.words`
    vocabulary : of the captioner; the course's BLEU leaves out words it does not know
    hypotheses : the words of the captions, in the order of the pictures that have references
    metrics : those to compute besides the data's and `java`'s

    Raises
    ------
    TypeError, ValueError : one of them is no Metric, returns something else than a Scored of these
        pictures, or has the name of another.
    """
    written = list(data.reference_words(split, words).values())
    known = set(vocabulary.idx_to_word) - set(SPECIAL)
    # The course reads references without the words that the captioner does not know
    bleu = UnigramBleu(known=known)
    chosen = [bleu if type(metric) is UnigramBleu else metric for metric in metrics]
    chosen, unscored = _metrics(data, chosen)
    results: list[Result] = []
    usable: list[Metric] = []
    if java:
        usable, lacking = java_metrics()
        unscored |= lacking
    for metric in (*chosen, *usable):
        try:
            scored = metric.score(written, hypotheses)
        except JavaError as error:
            unscored[metric.name] = str(error)
            continue
        results.append(_result(metric, scored, results, len(hypotheses)))
    _, firsts = np.unique(data.split(split).image_idxs, return_index=True)
    human = _human_scores(chosen, written, [words[i] for i in firsts.tolist()])
    return WordScores(results, unscored, human)


def _human_scores(
    metrics: Sequence[Metric], references: References, firsts: Sequence[list[str]]
) -> HumanScores:
    """Scores of human captions.

    Parameters
    ----------
    firsts : each picture's first caption; ``<UNK>`` in it counts as a word where metrics take no
        references
    """
    several = [captions for captions in references if len(captions) > 1]
    first, others = [one[0] for one in several], [one[1:] for one in several]
    results: list[Result] = []
    for metric in metrics:
        if isinstance(metric, WITHOUT_REFERENCES):
            scored = metric.score(references, firsts)
            results.append(_result(metric, scored, results, len(firsts)))
        elif several:
            results.append(_result(metric, metric.score(others, first), results, len(several)))
    n, whole = len(several), len(references)
    which = "its other captions" if n == whole else f"its others, of the {n:,} pictures that have"
    protocol = "the first caption of each picture, as if it were the one to be scored" + (
        f"; BLEU, ROUGE-L and CIDEr compare it with {which}: one reference fewer than in the first"
        " column, which lowers BLEU and ROUGE-L, CIDEr hardly"
        if several
        else "; no picture has another to compare it with"
    )
    return HumanScores(results, protocol)


def _metrics(data: CaptionData, metrics: Sequence[Metric]) -> tuple[list[Metric], dict[str, str]]:
    """`metrics`, the data's own, and why a metric cannot be: its name to the reason.

    Those of generated pictures come below BLEU, and those of the train split, if there is one, last.
    """
    needed = ("name", "title", "protocol", "score")
    for metric in metrics:
        if lacking := [name for name in needed if not hasattr(metric, name)]:
            what = metric.__name__ if isinstance(metric, type) else type(metric).__name__
            kind = "the class" if isinstance(metric, type) else "a"
            raise InvalidTypeError(
                "metrics",
                f"{kind} {what}",
                f"lacks {', '.join(lacking)}",
                expected="a metric: see xpcap.metrics.Metric",
            )
        if isinstance(metric, type):
            raise InvalidTypeError(
                "metrics",
                "",
                f"got the class {metric.__name__}",
                expected=f"an object: {metric.__name__}()",
            )
    below = 1 + next((k for k, metric in enumerate(metrics) if metric.name == Bleu.name), -1)
    found, unscored = [*metrics[:below], *metrics_of(data), *metrics[below:]], {}
    if "train" in data.splits:
        statistics = train_statistics(data)
        found += [Novel(lambda: _train_captions(data)), UnseenBigrams(statistics)]
        if statistics.never_last:
            found.append(BadEndings(statistics))
        else:
            unscored[BadEndings.name] = TOO_FEW
    return found, unscored


def _result(metric: Metric, scored: object, others: Sequence[Result], n: int) -> Result:
    """A metric's scores in Python's own numbers.

    TypeError, ValueError : no Scored of n pictures, or a name that is taken.
    """
    if not isinstance(scored, Scored):
        raise InvalidTypeError(
            "metrics",
            f"{type(metric).__name__}.score",
            f"returned a {type(scored).__name__}",
            expected="a Scored",
            cause="`averaged` in xpcap.metrics makes one",
        )
    if len(scored.pictures) not in (0, n):
        raise InvalidValueError(
            "metrics",
            f"{type(metric).__name__}.score",
            f"returned {len(scored.pictures)} values",
            expected=f"one for each of {n} pictures, or none",
        )
    taken = {name for other in others for name in (other.metric.name, *other.scored.corpus)} | TAKEN
    if twice := sorted(taken & {metric.name, *scored.corpus}):
        raise InvalidValueError(
            "metrics",
            f"the name {twice[0]!r} of {type(metric).__name__}",
            "is taken",
            expected="one of its own",
            cause="is a metric given twice?",
        )
    corpus = {
        name: value.item() if isinstance(value, np.generic | np.ndarray) else value
        for name, value in scored.corpus.items()
    }
    pictures = np.asarray(scored.pictures).tolist()
    return Result(metric, scored._replace(corpus=corpus, pictures=pictures))


def _train_captions(data: CaptionData) -> Iterator[list[str]]:
    """Captions of the train split as the file encodes them, ``<UNK>`` included.

    Tokenising them anew would take longer than all other scores.
    """
    words, vocabulary = data.vocabulary.idx_to_word, data.vocabulary
    skipped = {vocabulary.null, vocabulary.start, vocabulary.end}
    rows = map(np.ndarray.tolist, data.split("train").captions)
    return ([words[i] for i in row if i not in skipped] for row in rows)


def train_statistics(data: CaptionData) -> CorpusStatistics:
    """Bigrams and endings of the train split's captions as people wrote them, where the file has it.

    Of the text, since people's captions hold words that the vocabulary lacks.
    """
    train = data.split("train")
    if train.text is None:
        return CorpusStatistics(_train_captions(data))
    return CorpusStatistics(map(data.vocabulary.tokenize, train.text))


# A run on a split


@dataclass(frozen=True)
class Evaluation(Scores):
    """Scores of a run on a split, with its captions.

    Parameters
    ----------
    forced : teacher-forced scores of the references
    decoding : the decoding policy, in words
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
        """As `Scores.summary`, with the decoding."""
        return f"{super().summary}, {self.decoding}"

    def rows(self) -> list[tuple[str, str, str, str]]:
        """As `Scores.rows`, with perplexity."""
        return [*super().rows(), ("perplexity", f"{self.forced.perplexity:.2f}", "", PROTOCOL)]

    def to_json(self) -> dict[str, Any]:
        """As `Scores.to_json`, with decoding; scores of generated pictures may be None."""
        scores, names = self.scores, ("unigram_bleu", "perplexity", "loss", "accuracy", "named")
        return {
            **super().to_json(),
            "decoding": self.decoding,
            **{name: scores.get(name) for name in names},
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
    """Score a run's captions of a split against all references, and the references' likelihood.

    Parameters
    ----------
    run : Run
    data : CaptionData, str, Path or None
        An open data set, or the path of one. None: the one that the run was trained on.
    split : str
    progress : bool
        Show progress bars on a terminal.
    java : bool
        METEOR and SPICE too, if they can be computed here.
    policy : Policy or None
        Chooses the words, as in `caption_run`. None: the run's default.
    group : Group
        Ranks that share the work; each returns the same, except that `java` scores are rank 0's.
    metrics : sequence of Metric
        Objects that score captions against references, such as ``(*xpcap.metrics.METRICS, Own())``;
        see xpcap.metrics.Metric. The data's own, and teacher-forced scores, are added.

    Returns
    -------
    evaluation : Evaluation
        Captions, scores and their protocols.

    Raises
    ------
    DataError
        The data set or the split is missing, or does not fit the run.
    TypeError, ValueError
        One of `metrics` is no metric, or has the name of another.
    """
    start = time.perf_counter()
    seen = data_of(run, data)
    words, pictures = seen.words(split), captioned(seen, split)
    encoded = seen.encoded_with(run.vocabulary, split, words)
    forced = teacher_forced(run.model, encoded, split, progress=progress, group=group)
    captions = caption_chosen(
        run, seen, split, pictures, progress=progress, policy=policy, group=group
    )
    same = seen.split(split).text is None or run.vocabulary.tokeniser == seen.vocabulary.tokeniser
    hypotheses = [
        caption.words if same else seen.vocabulary.tokenize(caption.caption) for caption in captions
    ]
    found = score_words(
        seen, split, words, run.vocabulary, hypotheses, java and group.rank == 0, metrics
    )
    decoding = decoding_title(run, policy)
    return Evaluation(
        split,
        captions,
        found.results,
        time.perf_counter() - start,
        forced,
        decoding,
        unscored=found.unscored,
        words=words_of(seen, split),
        human=found.human,
    )


# Two sides


@dataclass(frozen=True)
class Comparison:
    """Scores of both sides, and their paired differences."""

    ours: Scores
    theirs: Scores
    differences: dict[str, float]  # name of each score of both to ours - theirs
    intervals: dict[str, Interval]  # name to the ends of the difference's 95 % interval, if any

    def rows(self) -> list[tuple[str, str, str, str, str]]:
        """(name, ours, theirs, difference, interval or "") of each score, for tables."""
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
        """The other side's scores and the differences as an object for JSON."""
        ends = {name: list(interval) for name, interval in self.intervals.items()}
        return {"scores": self.theirs.scores, "differences": self.differences, "intervals": ends}


def signed(value: float) -> str:
    """A difference as tables show it."""
    return f"{value:+}" if isinstance(value, int) else f"{value:+.3f}"


def compare(ours: Scores, theirs: Scores) -> Comparison:
    """Paired differences of all scores that both sides have, with bootstrap intervals.

    Both sides are resampled alike, so that what makes a picture easy for both cancels out:
    intervals of paired differences are narrower than those of two scores. If an interval excludes
    0, other pictures of this kind would most likely show a difference too.

    Raises
    ------
    DataError : they are not of the same pictures with the same references.
    """
    odd = [
        one.image
        for one, other in zip(ours.captions, theirs.captions, strict=False)
        if (one.image, one.references) != (other.image, other.references)
    ]
    if odd or ours.n != theirs.n:
        what = (
            f"{ours.n:,} and {theirs.n:,} pictures"
            if ours.n != theirs.n
            else f"other pictures or references, from {odd[0][:100]!r} on"
        )
        raise DataError(
            "compare",
            "the two sides",
            f"have {what} in split {ours.split!r}",
            expected="the same pictures and references",
            cause="if they were trained on different files, give one of them as `data`",
        )
    one, other = ours.scores, theirs.scores
    differences = {name: value - other[name] for name, value in one.items() if name in other}
    found = paired(ours.sums, theirs.sums)
    found |= {alias: found[name] for alias, name in ALIASES.items() if name in found}
    return Comparison(ours, theirs, differences, found)


# Captions from a file


NAMES = ("image", "image_id", "file_name")  # keys of a picture's name


class CaptionFile(NamedTuple):
    """Captions by the split's names of pictures, and the number of captions of other pictures."""

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
                where,
                f"{key[:60]!r}",
                f"may be {found[0][:60]!r} or {found[1][:60]!r}",
                expected="names that fit one picture",
            )
        for name in found:
            if name in captions:
                raise DataError(
                    where, "", f"has two captions of {name[:100]!r}", expected="one of each picture"
                )
            captions[name] = caption
    return CaptionFile(captions, len(pairs) - len(captions))


def _pairs(where: str, content: Any) -> list[tuple[str, str]]:
    """The picture's key and the caption of each entry."""
    if isinstance(content, dict) and isinstance(content.get("captions"), dict):
        content = content["captions"]  # an evaluation as JSON
    if isinstance(content, dict):
        pairs = list(content.items())
    elif isinstance(content, list):
        entries = enumerate(content, start=1)
        pairs = [_pair(f"{where}, entry {number}", entry) for number, entry in entries]
    else:
        raise DataError(
            where,
            "",
            f"is {kind_of(content)}",
            expected="an object of image and caption, or a list of objects with 'image' and"
            " 'caption'",
        )
    for key, caption in pairs:
        if not isinstance(caption, str):
            raise DataError(
                where,
                f"the caption of {key[:100]!r}",
                f"is {kind_of(caption)}",
                expected="text",
                cause="one caption a picture",
            )
        if not caption.isascii() and any("\ud800" <= letter <= "\udfff" for letter in caption):
            raise DataError(
                where,
                f"the caption of {key[:100]!r}",
                "holds half of a surrogate pair, which is no character",
                cause="cut short?",
            )
    return pairs


def _pair(where: str, entry: Any) -> tuple[str, Any]:
    keys = [key for key in NAMES if isinstance(entry, dict) and key in entry]
    if not keys or "caption" not in entry:
        raise DataError(
            where,
            "",
            f"is {kind_of(entry)} without 'caption' or any of {', '.join(NAMES)}",
            expected="both",
        )
    image = entry[keys[0]]
    if not isinstance(image, str) and type(image) is not int:
        raise DataError(
            where, f"{keys[0]!r}", f"is {kind_of(image)}", expected="text or a whole number"
        )
    return str(image), entry["caption"]


def _loose(images: Sequence[str]) -> dict[str, list[str]]:
    """Other keys of pictures: a name without folder, without suffix, or the number at its end."""
    loose: dict[str, list[str]] = {}
    for name in images:
        base = name.rsplit("/", 1)[-1]
        stem = base.rsplit(".", 1)[0]
        number = re.search(r"\d+$", stem)
        keys = {base, stem}
        if number and number[0].isascii() and len(number[0]) < 20:
            keys.add(str(int(number[0])))
        for key in keys:
            loose.setdefault(key, []).append(name)
    return loose
