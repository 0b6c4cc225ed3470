"""Scores of captions: of a run on a split, and of captions from any source."""

import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from xpcap.data import CaptionData
from xpcap.data.vocabulary import SPECIAL, TOKENISERS, Vocabulary
from xpcap.distributed import SINGLE, Group
from xpcap.errors import DataError, InvalidTypeError, InvalidValueError
from xpcap.metrics import (
    ALIASES,
    METRICS,
    WITHOUT_REFERENCES,
    BadEndings,
    Bleu,
    CorpusStatistics,
    Metric,
    Novel,
    References,
    Scored,
    UnigramBleu,
    UnseenBigrams,
)
from xpcap.metrics.java import JavaError, java_metrics
from xpcap.models import Policy
from xpcap.report.records import PictureCaption
from xpcap.report.scores import Evaluation, HumanScores, Result, Scores
from xpcap.runs.captioning import caption_chosen, captioned, data_of
from xpcap.runs.folder import Run
from xpcap.runs.ranking import decoding_title
from xpcap.shapes import metrics_of
from xpcap.training.evaluate import teacher_forced

TAKEN = {*ALIASES, "perplexity", "loss", "accuracy"}  # names of scores that are no metric's
TOO_FEW = "too few train captions to learn which words hardly ever end one"


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
