"""Captions by a run, or by several as one: of a data set's pictures, and of new pictures."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from xpcap.backend import Array
from xpcap.data import CaptionData, open_data
from xpcap.data.dataset import Source, evenly_spaced, size
from xpcap.data.vocabulary import Vocabulary, detokenize
from xpcap.distributed import SINGLE, Group
from xpcap.errors import DataError, InvalidValueError
from xpcap.models import Captioner, CaptioningRNN, Ensemble, Policy
from xpcap.progress import bar
from xpcap.ranking import Ranker, Ranking
from xpcap.report.explanation import CandidateCaption, Explanation, Neighbour
from xpcap.report.records import PictureCaption, Ranked
from xpcap.runs.folder import CONFIG, VOCAB, Run, digest, open_run, opened_folder
from xpcap.runs.rerank import RankedBeam, default_policy, limited, rank, word_log_probabilities
from xpcap.work import current, work


def data_of(run: Run, data: CaptionData | str | Path | None = None) -> CaptionData:
    """A data set checked to fit the run, with the run's scaling, and its projection if it has none.

    Parameters
    ----------
    data : an open data set, or the path of one; None: the one that the run was trained on

    Raises
    ------
    DataError : it is missing, does not fit the run, or is the run's own and has changed since.
    """
    where = "the data set"
    if not isinstance(data, CaptionData):
        where = str(_own(run) if data is None else data)
        opened = open_data(where)
        if data is None and run.config["data_stamp"] not in ("", opened.fingerprint):
            raise DataError(
                "data_of",
                f"{where}, the data of {run.path},",
                "has changed since training",
                expected="it unchanged",
                cause="give it as `data` to use it anyway",
            )
        data = opened
    if data.projection is not None and not data.projection.is_like(run.projection):
        raise DataError(
            "data_of",
            where,
            f"was prepared with another PCA than the data of {run.path}",
            expected="the same, or none",
            cause="prepare it without",
        )
    expected = run.raw_shape if data.projection is None else run.model.config.feature_shape
    if data.feature_shape != expected:
        raise DataError(
            "data_of",
            where,
            f"has features of size {size(data.feature_shape)}",
            expected=f"the run's {size(expected)}",
            cause="made by another encoder?",
        )
    return replace(data, scaling=run.preprocessing if data.projection is None else run.scaling)


def _own(run: Run) -> Path:
    path = run.path / run.config["data"]  # an absolute path stays what it is
    if not path.exists():
        raise DataError(
            "data_of",
            f"{path}, the data of {run.path},",
            "is gone",
            expected="the file it was trained on",
            cause="if it was moved, give its new path as `data`",
        )
    return path


def source_of(run: Run) -> Source:
    """The record of how the run's training data was prepared."""
    return Source.from_json(f"open_run: {run.path}", run.config.get("source", {}))


def caption_run(
    run: Run[Captioner],
    data: CaptionData | str | Path | None = None,
    split: str = "val",
    *,
    count: int = 10,
    policy: Policy | None = None,
    attend: bool = False,
    explain: bool = False,
) -> list[PictureCaption]:
    """Captions of pictures spread evenly over a split, each with its references.

    Parameters
    ----------
    run : Run
    data : CaptionData, str, Path or None
        An open data set, or the path of one. None: the one that the run was trained on.
    split : str
    count : int
        Number of pictures.
    policy : Policy or None
        Chooses the words; captions keep to the run's limits as well. None: a beam, ranked by the
        run's ranker; greedy if the run has none. `Policy()` is greedy.
    attend : bool
        Fill `attention` of each caption, for a model that attends.
    explain : bool
        Fill `explanation` of each caption that is ranked.

    Returns
    -------
    captions : list of PictureCaption

    Raises
    ------
    DataError
        The data set or the split is missing, or does not fit the run.
    OptionError
        The policy's captions are longer than the run's, or it forbids every word.
    """
    seen = data_of(run, data)
    pictures = captioned(seen, split)
    chosen = pictures[evenly_spaced(len(pictures), count)]
    with work(group=SINGLE):
        return caption_chosen(
            run, seen, split, chosen, policy=policy, attend=attend, explain=explain
        )


def captioned(data: CaptionData, split: str) -> np.ndarray:
    """Numbers of the pictures of a split that have captions, in rising order."""
    return np.unique(data.split(split).image_idxs)


def caption_chosen(
    run: Run[Captioner],
    data: CaptionData,
    split: str,
    pictures: np.ndarray,
    *,
    batch_size: int = 500,
    policy: Policy | None = None,
    attend: bool = False,
    explain: bool = False,
) -> list[PictureCaption]:
    """Captions of the pictures numbered `pictures` of a split of `data_of`, with references.

    `policy`, `attend` and `explain` are as in `caption_run`. The ranks in the work in hand share
    it; each returns all captions.
    """
    images, group = data.split(split).images, current().group
    shard = pictures[group.shard(len(pictures))]
    captions: list[PictureCaption] = []
    for start in bar(range(0, len(shard), batch_size), f"captioning {split}"):
        numbers = shard[start : start + batch_size]
        names = [images[i] for i in numbers.tolist()]
        features = data.features(split, numbers)
        captions += caption_features(run, names, features, numbers, policy, attend, explain)
    references = data.references(split)
    everything = zip(pictures.tolist(), gather(group, captions), strict=True)
    return [caption._replace(references=references[i]) for i, caption in everything]


def caption_features(
    run: Run[Captioner],
    names: Sequence[str],
    features: np.ndarray,
    numbers: np.ndarray,
    policy: Policy | None = None,
    attend: bool = False,
    explain: bool = False,
) -> Iterator[PictureCaption]:
    """Captions of pictures from their features (n, *shape), preprocessed for the model.

    They end at END or after the run's `max_words`, and never hold NULL, START or UNK. `numbers`
    (n,) seed a policy that samples; `policy`, `attend` and `explain` are as in `caption_run`.
    """
    vocabulary, max_words = run.vocabulary, run.config["max_words"]
    within = limited(policy or default_policy(run), vocabulary, max_words)
    if isinstance(within, RankedBeam) and run.ranker is not None:
        found = _ranked(run, features, within, explain)
    else:
        found = _decoded(run, features, numbers, within)
    captions = [one.words for one in found]
    maps = attention_maps(run, features, captions) if attend else [None] * len(captions)
    for name, one, attention in zip(names, found, maps, strict=True):
        yield one._replace(image=name, attention=attention)


def _decoded(
    run: Run[Captioner], features: np.ndarray, numbers: np.ndarray, policy: Policy
) -> list[PictureCaption]:
    """Captions by the run's model, without names."""
    decoded, vocabulary = run.model.decode(features, policy, numbers=numbers), run.vocabulary
    captions = []
    for ids, probabilities, totals in zip(*decoded, strict=True):
        words = vocabulary.words(ids[0])
        best = zip(ids, totals.tolist(), strict=True) if policy.n_best else ()
        n_best = [
            Ranked(detokenize(vocabulary.words(one)), total)
            for one, total in best
            if total > -np.inf
        ]
        likely = [float(p) for p in probabilities[0][: len(words)]]
        captions.append(PictureCaption("", detokenize(words), likely, [], n_best, words=words))
    return captions


def _ranked(
    run: Run[Captioner], features: np.ndarray, policy: RankedBeam, explain: bool
) -> list[PictureCaption]:
    """Captions by the run's ranker, without names; a photo without candidates has an empty one."""
    vocabulary, rankings = run.vocabulary, rank(run, features, policy)
    texts = [[vocabulary.idx_to_word[i] for i in one.best] for one in rankings]
    probabilities = np.exp(word_log_probabilities(run, features, [one.best for one in rankings]))
    captions = []
    for words, ranking, likely in zip(texts, rankings, probabilities.tolist(), strict=True):
        n_best = [
            Ranked(_text(vocabulary, one.candidate.words), one.candidate.log_probability)
            for one in ranking.candidates[: policy.n_best]
        ]
        reasons = _explained(run.ranker, ranking) if explain and run.ranker else None
        captions.append(
            PictureCaption(
                "",
                detokenize(words),
                likely[: len(words)],
                [],
                n_best,
                words=words,
                explanation=reasons,
            )
        )
    return captions


def _explained(ranker: Ranker, ranking: Ranking) -> Explanation:
    index, vocabulary = ranker.index, ranker.vocabulary
    neighbours = [
        Neighbour(index.images[row], cosine, [_text(vocabulary, c) for c in index.captions(row)])
        for row, cosine in ranking.neighbours
    ]
    candidates = [
        CandidateCaption(
            _text(vocabulary, one.candidate.words),
            one.candidate.log_probability / (len(one.candidate.words) + 1),
            one.score,
            one.parts,
            index.images[one.candidate.photo] if one.candidate.photo >= 0 else "",
        )
        for one in ranking.candidates
    ]
    return Explanation(neighbours, candidates)


def _text(vocabulary: Vocabulary, ids: Sequence[int]) -> str:
    return detokenize([vocabulary.idx_to_word[i] for i in ids])


def attention_maps(
    run: Run[Captioner], features: np.ndarray, captions: Sequence[Sequence[str]]
) -> Sequence[Sequence[Sequence[float]] | None]:
    """Attention over regions (T, P) of each caption, given as words; rows sum to 1.

    None for each if the model does not attend.
    """
    if not run.model.config.attends:
        return [None] * len(captions)
    encoded = run.vocabulary.encode_words(captions, max(1, *map(len, captions)))
    weights = run.model.attention(features, encoded)
    return [of_one[: len(words)].tolist() for of_one, words in zip(weights, captions, strict=True)]


def gather(group: Group, captions: list[PictureCaption]) -> list[PictureCaption]:
    if group.size == 1:
        return captions
    everything = [PictureCaption(*one) for one in chain.from_iterable(group.gather(captions))]
    return [
        one._replace(
            n_best=[Ranked(*best) for best in one.n_best],
            explanation=one.explanation and _explanation(*one.explanation),
        )
        for one in everything
    ]


def _explanation(neighbours: Sequence[Any], candidates: Sequence[Any]) -> Explanation:
    """An explanation that was JSON."""
    return Explanation(
        [Neighbour(*one) for one in neighbours], [CandidateCaption(*one) for one in candidates]
    )


# Several runs as one


def is_run(path: str | Path) -> bool:
    """True if a run folder, perhaps damaged, or its first stage alone, is at `path`.

    An unreadable or impossible path is none.
    """
    try:
        return all((opened_folder(path) / name).is_file() for name in (CONFIG, VOCAB))
    except (OSError, ValueError):
        return False


def open_runs(paths: Sequence[str | Path]) -> Run[Captioner]:
    """Open run folders as one run, whose model is an Ensemble; one alone as by `open_run`.

    Its data, config, record and ranker are those of the first.

    Raises
    ------
    DataError : as in `open_run`; or the runs differ in vocabulary, `max_words`, or the encoder,
        projection or scaling of features. ValueError : no path.
    """
    if not paths:
        raise InvalidValueError("open_runs", "", "got no run folder", expected="at least one")
    first, *others = map(open_run, paths)
    for other in others:
        if what := difference(first, other):
            raise DataError(
                "open_runs",
                f"{first.path} and {other.path}",
                what,
                expected="the same of runs that caption together",
                cause="were they trained on the same data?",
            )
    if not others:
        return first
    runs = (first, *others)
    return Run(
        first.path,
        first.config,
        first.vocabulary,
        first.scaling,
        Ensemble([run.model for run in runs]),
        first.meta,
        first.projection,
        tuple(run.path for run in others),
        first.ranker,
        first.ranking,
        tuple(first_stage for run in runs for first_stage in run.first_stage_models),
    )


def difference(first: Run[CaptioningRNN], other: Run[CaptioningRNN]) -> str:
    """The reason why two runs cannot read the same captions of the same features; empty: none."""
    runs = first, other
    if digest(first.vocabulary) != digest(other.vocabulary):
        return (
            f"have different vocabularies, of {_both(f'{len(run.vocabulary):,}' for run in runs)}"
            " words"
        )
    if first.config["max_words"] != other.config["max_words"]:
        return f"say at most {_both(run.config['max_words'] for run in runs)} words"
    if first.raw_shape != other.raw_shape:
        return f"take features of size {_both(size(run.raw_shape) for run in runs)}"
    if source_of(first).encoder != source_of(other).encoder:
        return (
            "take features from different encoders:"
            f" {_both(source_of(run).encoder or 'features that were given' for run in runs)}"
        )
    if not _alike(first.projection, other.projection):
        return "project features by different PCAs"
    if not _alike(first.scaling, other.scaling):
        return f"scale features differently, {_both(run.config['feature_scaling'] for run in runs)}"
    return ""


def _both(texts: Iterable[object]) -> str:
    return " and ".join(map(str, texts))


def _alike(one: Sequence[Array] | None, other: Sequence[Array] | None) -> bool:
    """True if both have the same arrays, or both are None."""
    return (one is None) == (other is None) and all(map(np.array_equal, one or (), other or ()))
