"""The reranker of a run: the index of its photos, and weights that are fitted after training."""

from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from xpcap.data import CaptionData
from xpcap.data.dataset import evenly_spaced
from xpcap.data.few import FEW_PHOTOS, TINY_CAPTIONS
from xpcap.data.vocabulary import SPECIAL
from xpcap.distributed.work import current
from xpcap.metrics.cider import CiderD
from xpcap.metrics.variety import repeated
from xpcap.progress import bar
from xpcap.reranking import Candidate, PhotoIndex, Reranker, fit
from xpcap.reranking.file import read_reranker, write_reranker
from xpcap.reranking.weights import PRIOR, Fitted
from xpcap.runs.decoder import WIDTH
from xpcap.runs.folder import RERANKING, START_RERANKING, best_digest, digest
from xpcap.runs.run import Run
from xpcap.training.state import Record

NEIGHBOURS = 30  # photos; the weights of more distant ones are small
BANDWIDTH = 0.1
BANDWIDTH_OF_FEW = 0.2
RETRIEVED = 8  # captions of neighbours among the candidates of a photo
MAX_PART = 1000.0  # of a score: larger than all other parts together
MAX_REPEATED = 0.01  # if more training captions repeat words immediately, candidates may, too
MIN_WORDS = 20  # of a vocabulary: with fewer, banning repetition might leave no next word
MAX_FITTED = 1000  # val photos that weights are fitted to
FIT_BATCH = 250  # photos of a batch in the fit


def fit_reranking(run: Run, data: CaptionData) -> None:
    """Index the training photos of a run, fit its reranker to the val split, and write it.

    After a warm start the index also has the photos of the start run, whose weights are the prior.
    Without a val split, or if no epoch was better than the start run, the prior weights are used. A
    reranker that was fitted to the same parameters is kept. The ranks of the current work share the
    candidates; rank 0 fits and writes.

    data : the training data, as `Run.data` returns it
    """
    folder = run.path
    group = current().group
    if run.reranking.get("best") != best_digest(folder):
        reranker, meta = _fitted(run, data)
        if group.rank == 0:
            write_reranker(folder / RERANKING, reranker, meta)
    group.barrier()  # the reranking is written


def drop_reranking(folder: Path) -> None:
    """Remove the reranker of a run that no longer reranks, since it was fitted to other parameters.

    The reranker of a warm start's run stays, in case `neighbours` is set again.
    """
    if current().group.rank == 0:
        (folder / RERANKING).unlink(missing_ok=True)
    current().group.barrier()  # the reranking is gone


def _fitted(run: Run, data: CaptionData) -> tuple[Reranker, Record]:
    """The fitted reranker of a run, and the record of the fit for its file."""
    if digest(data.vocabulary) != digest(run.vocabulary):
        data = data.with_vocabulary(run.vocabulary)
    reranker = _new_reranker(run, data)
    scores = dict[str, Any]()
    is_start = run.meta.get("epoch") == 0 and (run.path / START_RERANKING).is_file()
    if "val" in data.splits and not is_start:
        scores = _fit(replace(run, reranker=reranker), data)._asdict()
    weights = scores.pop("weights", reranker.weights)
    return replace(reranker, weights=weights), {"best": best_digest(run.path), "fit": scores}


def _new_reranker(run: Run, data: CaptionData) -> Reranker:
    """The reranker of a run's training photos, with the prior weights."""
    D = run.model.config.feature_shape[-1]
    prior = PRIOR
    inherited = run.path / START_RERANKING
    if is_inherited := inherited.is_file():
        start, _ = read_reranker(inherited, run.vocabulary, D, first_words=True)
        origin = Path(run.config.recipe.start or "").name
        index = start.index.extended(data, origin)
        prior = dict(start.weights)
    else:
        index = PhotoIndex.of(data)
    few = len(index) < FEW_PHOTOS.number
    if len(data.split("train").captions) < TINY_CAPTIONS.number and not is_inherited:
        prior = {**prior, "borrowed": MAX_PART}  # people's captions come before the model's
    repeating = np.mean([bool(repeated(words)) for words in data.words("train")])
    no_stutter = bool(repeating < MAX_REPEATED) and len(run.vocabulary) > len(SPECIAL) + MIN_WORDS
    return Reranker(
        index,
        prior,
        neighbours=NEIGHBOURS,
        bandwidth=BANDWIDTH_OF_FEW if few else BANDWIDTH,
        width=WIDTH,
        retrieved=RETRIEVED if few else 0,
        no_stutter=no_stutter,
    )


def _fit(run: Run, data: CaptionData) -> Fitted:
    """Weights fitted to candidates for the val split."""
    references = data.reference_words("val")
    pictures = np.array(list(references))[evenly_spaced(len(references), MAX_FITTED)]
    decoder = run.decoder()
    reranker = run.reranker
    group = current().group
    assert reranker is not None
    shard = pictures[group.shard(len(pictures))]
    rank_candidates: list[list[Candidate]] = []
    for start in bar(range(0, len(shard), FIT_BATCH), "fitting the reranking"):
        features = data.features("val", shard[start : start + FIT_BATCH])
        _, near = reranker.near(features)
        rank_candidates += decoder.candidates(features, near)
    candidates = [
        [Candidate(tuple(words), *rest) for words, *rest in photo_candidates]
        for photo_candidates in chain.from_iterable(group.gather(rank_candidates))
    ]
    values = []
    for start in range(0, len(pictures), FIT_BATCH):
        batch = slice(start, start + FIT_BATCH)
        embeddings, near = reranker.near(data.features("val", pictures[batch]))
        values.append(reranker.features(embeddings, near, candidates[batch]))
    photo_numbers = np.repeat(np.arange(len(pictures)), [*map(len, candidates)])
    words = run.vocabulary.idx_to_word
    captions = [
        [words[i] for i in candidate.words] for candidate in chain.from_iterable(candidates)
    ]
    rewards = CiderD([references[i] for i in pictures.tolist()]).scores(captions, photo_numbers)
    return fit(np.concatenate(values), photo_numbers, rewards, reranker.weights)
