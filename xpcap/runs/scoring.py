"""Scores of captions: of a run on a split, and of captions from any source."""

import time
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import fields, replace
from pathlib import Path

import numpy as np

from xpcap.data import CaptionData
from xpcap.data.vocabulary import SPECIAL, TOKENISATION, Vocabulary, tokenize
from xpcap.distributed import Group
from xpcap.errors import DataError, InvalidTypeError, InvalidValueError
from xpcap.metrics import (
    ALIASES,
    METRICS,
    Metric,
    References,
    Scored,
    Words,
    of_train,
)
from xpcap.models import Policy
from xpcap.runs.captions import caption_chosen, captioned
from xpcap.runs.records import PictureCaption
from xpcap.runs.run import Run
from xpcap.runs.scores import FORCED, Result, Scores
from xpcap.shapes import metrics_of
from xpcap.training.evaluate import PLAIN, PROTOCOL, teacher_forced
from xpcap.work import work

# Pictures with different captions from which on people's are scored: below, a few decide the score
MIN_PEOPLE = 20


def score_captions(
    data: CaptionData,
    split: str,
    captions: Mapping[str, str],
    *,
    metrics: Sequence[Metric] = METRICS,
) -> Scores:
    """Score captions of the pictures of a split, from any source.

    They are tokenised as the split's own captions are: see `CaptionData.words`.

    captions : name of a picture to its caption; one for each picture of the split that has
        references
    metrics : as in `evaluate_run`
    DataError : the split is missing, or a picture has no caption.
    """
    start = time.perf_counter()
    chosen = data.split(split)
    names = [chosen.images[i] for i in captioned(data, split).tolist()]
    if missing := [name for name in names if name not in captions]:
        thing = f"{len(missing):,} of the {len(names):,} pictures of split {split!r}"
        got = f"have no caption, {missing[0][:100]!r} among them"
        cause = "are the captions of another split?"
        raise DataError("score_captions", thing, got, "one of each", cause)
    cut = str.split if chosen.text is None else tokenize
    scored = [
        PictureCaption(name, captions[name], [], references, words=cut(captions[name]))
        for name, references in zip(names, data.references(split).values(), strict=True)
    ]
    words, known = data.words(split), data.vocabulary
    scores = _scores(data, split, words, scored, known, metrics)
    return replace(scores, seconds=time.perf_counter() - start)


def _scores(
    data: CaptionData,
    split: str,
    words: Sequence[list[str]],
    captions: list[PictureCaption],
    vocabulary: Vocabulary,
    metrics: Sequence[Metric],
) -> Scores:
    """Scores of captions, one a picture, and of human captions; no time.

    Of each picture the first reference stands for a human caption. Metrics that compare with
    references get the picture's others, each once, and pictures that have others that differ.

    words : of the split's captions, the references, from `CaptionData.words`
    captions : with their words, tokenised as the references are
    vocabulary : of the captioner; the course's BLEU leaves out words it does not know
    TypeError, ValueError : one of the metrics is no Metric, returns something else than a Scored of
        these pictures, or has the name of another.
    """
    references = list(data.reference_words(split, words).values())
    hypotheses = [one.words for one in captions]
    text, pictures = data.split(split).text, data.split(split).image_idxs
    _, firsts = np.unique(pictures, return_index=True)
    first = [words[i] for i in firsts.tolist()]  # <UNK> in it is a word
    different = [list(map(list, dict.fromkeys(map(tuple, captions)))) for captions in references]
    several = [captions for captions in different if len(captions) > 1]
    people = len(several) >= MIN_PEOPLE
    known = set(vocabulary.idx_to_word) - set(SPECIAL)
    rows, unscored = _with_own(data, [*map(_row, metrics)])
    results: list[Result] = []
    taken = {*ALIASES, *FORCED}
    for metric in rows:
        scored = _scored(metric, references, hypotheses, known)
        names = {metric.name, *scored.corpus}
        if twice := sorted(taken & names):
            thing = f"the name {twice[0]!r} of {metric.title!r}"
            cause = "is a metric given twice?"
            raise InvalidValueError("metrics", thing, "is taken", "one of its own", cause)
        taken |= names
        human = None
        if not metric.needs_references:
            human = _scored(metric, references, first, known)
        elif people:
            human = _scored(
                metric,
                [captions[1:] for captions in several],
                [captions[0] for captions in several],
                known,
            )
        if metric.name == "bleu":
            cut = "words as the data set has them" if text is None else TOKENISATION
            metric = replace(metric, protocol=f"{metric.protocol}, {cut}")
        results.append(Result(metric, scored, human))
    about = _human_protocol(len(several), len(references))
    return Scores(split, captions, results, 0.0, unscored, about, people)


def _human_protocol(several: int, pictures: int) -> str:
    """The protocol of human captions in words; `several` of the pictures have different ones."""
    if several < MIN_PEOPLE:
        have = "1 picture has" if several == 1 else f"{several:,} pictures have"
        return f"not scored, since {have} two different captions and {MIN_PEOPLE} are needed"
    first = "the first caption of each picture, as if it were the one to be scored"
    others = (
        "its other captions"
        if several == pictures
        else f"its others, of the {several:,} pictures that have different ones"
    )
    return (
        f"{first}; scores against references compare it with {others}: one reference fewer than in"
        " the first column, which lowers them, CIDEr hardly"
    )


def _row(metric: object) -> Metric:
    """A metric of any class as a row. TypeError : it lacks one of a metric's attributes."""
    if isinstance(metric, Metric):
        return metric
    needed = ("name", "title", "protocol", "score")
    lacking = [name for name in needed if not hasattr(metric, name)]
    if lacking or isinstance(metric, type):
        kind = metric if isinstance(metric, type) else type(metric)
        what = f"{'the class' if kind is metric else 'a'} {kind.__name__}"
        got = f"got {what}" + (f", which lacks {', '.join(lacking)}" if lacking else "")
        expected = f"objects such as {kind.__name__}(): see xpcap.metrics.Metric"
        raise InvalidTypeError("metrics", "", got, expected)
    names = [one.name for one in fields(Metric) if hasattr(metric, one.name)]
    return Metric(**{"plain": "", **{name: getattr(metric, name) for name in names}})


def _with_own(data: CaptionData, metrics: list[Metric]) -> tuple[list[Metric], dict[str, str]]:
    """`metrics`, the data's own, and why a metric cannot be: its name to the reason.

    Those of generated pictures come below BLEU, and those of the train split, if there is one, last.
    """
    below = 1 + next((k for k, metric in enumerate(metrics) if metric.name == "bleu"), -1)
    found = [*metrics[:below], *metrics_of(data), *metrics[below:]]
    if "train" not in data.splits:
        return found, {}
    train = data.split("train")

    def encoded() -> Iterator[list[str]]:
        return data.vocabulary.words_of(train.captions)

    # As people wrote them if the file has that, since the vocabulary lacks some of their words
    written = encoded() if train.text is None else map(tokenize, train.text)
    of_split, unscored = of_train(written, encoded)
    return found + of_split, unscored


def _scored(
    metric: Metric, references: References, hypotheses: Sequence[Words], known: Set[str]
) -> Scored:
    """A metric's scores in Python's own numbers; `known` are the captioner's words.

    TypeError, ValueError : the metric returns no Scored of these pictures.
    """
    if metric.known_words:
        references = [
            [[word for word in caption if word in known] for caption in captions]
            for captions in references
        ]
    scored: object = metric.score(references, hypotheses)
    name, n = f"`score` of {metric.title!r}", len(hypotheses)
    if not isinstance(scored, Scored):
        got, cause = f"returned a {type(scored).__name__}", "`averaged` in xpcap.metrics makes one"
        raise InvalidTypeError("metrics", name, got, "a Scored", cause)
    if len(scored.pictures) not in (0, n):
        got = f"returned {len(scored.pictures)} values"
        raise InvalidValueError("metrics", name, got, f"one for each of {n} pictures, or none")
    corpus = {
        name: value.item() if isinstance(value, np.generic | np.ndarray) else value
        for name, value in scored.corpus.items()
    }
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
    """Score a run's captions of a split against all references, and the references' likelihood.

    Parameters
    ----------
    run : Run
    data : CaptionData, str, Path or None
        An open data set, or the path of one. None: the one that the run was trained on.
    split : str
    progress : bool or None
        Show progress bars on a terminal. None: as the work in hand does, by default not.
    policy : Policy or None
        Chooses the words, as in `caption_run`. None: the run's default.
    group : Group or None
        Ranks that share the work; each returns the same. None: those of the work in hand, by
        default this process.
    metrics : sequence of Metric
        Scores of captions, such as ``(*xpcap.metrics.METRICS, own)``; see xpcap.metrics.Metric. The data's own, and teacher-forced scores, are added.

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
    seen = run.data(data)
    words, pictures = seen.words(split), captioned(seen, split)
    encoded = seen.encoded_with(run.vocabulary, split, words)
    decoder = run.decoder(policy)
    with work(group=group, progress=progress) as group:
        forced = teacher_forced(run.model, encoded, split, group=group)
        captions = caption_chosen(decoder, seen, split, pictures)
    scores = _scores(seen, split, words, captions, run.vocabulary, metrics)
    values = Scored({name: getattr(forced, name) for name in FORCED}, [])
    shown = f"{forced.perplexity:.2f}"
    row = Metric("perplexity", "perplexity", PLAIN, PROTOCOL, lambda *_: values)
    perplexity = Result(row, values, shown=shown)
    return replace(
        scores,
        results=[*scores.results, perplexity],
        seconds=time.perf_counter() - start,
        decoding=decoder.title,
    )
