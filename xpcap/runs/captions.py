"""Captions by a run, or by several as one: of a data set's pictures, and of new pictures."""

from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from xpcap.data import CaptionData
from xpcap.data.dataset import evenly_spaced
from xpcap.data.vocabulary import Vocabulary, detokenize
from xpcap.distributed import SINGLE, Group
from xpcap.models import Captioner, Policy
from xpcap.progress import bar
from xpcap.ranking import Ranker, Ranking
from xpcap.report.explanation import CandidateCaption, Explanation, Neighbour
from xpcap.report.records import PictureCaption, Ranked
from xpcap.runs.rerank import RankedBeam, default_policy, limited, rank, word_log_probabilities
from xpcap.runs.run import Run
from xpcap.work import current, work


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
    seen = run.data(data)
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
    vocabulary, max_words = run.vocabulary, run.config.max_words
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
