"""The ranking of a run: the index of its photos, and weights fitted when training ends."""

from dataclasses import replace
from itertools import chain
from pathlib import Path

import numpy as np

from xpcap.data import CaptionData
from xpcap.data.dataset import evenly_spaced
from xpcap.data.vocabulary import SPECIAL
from xpcap.metrics.cider import CiderD
from xpcap.metrics.variety import repeated
from xpcap.models import CaptioningRNN
from xpcap.progress import bar
from xpcap.ranking import Candidate, PhotoIndex, Ranker, fit
from xpcap.ranking.file import read_ranker, write_ranker
from xpcap.ranking.weights import PRIOR, Fitted
from xpcap.runs.decoder import WIDTH
from xpcap.runs.folder import (
    BEST,
    FIRST,
    FIRST_STAGE_FILE,
    RANKING,
    START_RANKING,
    best_digest,
    digest,
    find_file,
    read_first_stage,
    write_first_stage,
)
from xpcap.runs.recipe import is_tiny
from xpcap.runs.run import Run, open_run
from xpcap.training.state import Record
from xpcap.work import current

NEIGHBOURS = 30  # photos: further ones weigh little
# of few photos the nearest are further away, and more of them count
BANDWIDTH, BANDWIDTH_OF_FEW = 0.1, 0.2
RETRIEVED = 8  # captions of neighbours among the candidates of a photo
LARGEST_PART = 1000.0  # of a score: beyond what all other features together can be
MOST_REPEATED = 0.01  # share of training captions with words twice in a row, from which on they may
LEAST_WORDS = 20  # of a vocabulary: else the next word might be the last one left
FEW = 2000  # training photos, below which neighbours' captions are candidates
MOST = 1000  # val photos that weights are fitted to
AT_ONCE = 250  # photos, in the fit


def fit_ranking(run: Run, data: CaptionData) -> None:
    """Index the training photos of a run, fit its ranking to the val split, and write both.

    Both stages of a run make candidates if that gives better captions of photos that took no part
    in the fit. After a warm start the index also has the photos of the run that it began from,
    whose weights are the prior. Without a val split, and if no epoch was better than that run,
    weights are the prior. A ranking of these parameters stays as it is. The ranks in the work in
    hand share the candidates; rank 0 fits and writes.

    data : of the run's training, as of `Run.data`
    """
    folder, group, meta = run.path, current().group, run.ranking
    if meta.get("best") != best_digest(folder):
        ranker, meta = _fitted(run, data)
        if group.rank == 0:
            write_ranker(folder / RANKING, ranker, meta)
    # Only now, as the ranking before may need it; a fit that was killed is repeated to here
    if group.rank == 0 and meta.get("both") is not True:
        (folder / FIRST_STAGE_FILE).unlink(missing_ok=True)
    group.barrier()  # the ranking is written


def drop_ranking(folder: Path) -> None:
    """Remove the ranking of a run that no longer ranks captions: it is of other parameters.

    What a warm start has inherited stays, for a ranking to come.
    """
    if current().group.rank == 0:
        (folder / RANKING).unlink(missing_ok=True)  # first, as it may need the other file
        if find_file(folder, START_RANKING) is None:
            (folder / FIRST_STAGE_FILE).unlink(missing_ok=True)
    current().group.barrier()  # the ranking is gone


def _fitted(run: Run, data: CaptionData) -> tuple[Ranker, Record]:
    """The ranker of a run, and what its file says of the fit."""
    if digest(data.vocabulary) != digest(run.vocabulary):
        data = data.with_vocabulary(run.vocabulary)
    ranker = _new_ranker(run, data)
    both = replace(run, ranker=ranker, first_stage_models=_first_stage_models(run))
    alone = replace(both, first_stage_models=())
    chosen, fitted = alone, None
    if run.meta.get("epoch") == 0 and (run.path / START_RANKING).is_file():
        chosen = both  # the run that it began from
    elif "val" in data.splits:
        fitted = _fit(alone, data)
        if both.first_stage_models:
            of_both = _fit(both, data)
            if of_both.held_out > fitted.held_out:
                chosen, fitted = both, of_both
    scores = {} if fitted is None else fitted._asdict()
    weights = scores.pop("weights", ranker.weights)
    meta = {"best": best_digest(run.path), "both": bool(chosen.first_stage_models), "fit": scores}
    return replace(ranker, weights=weights), meta


def _new_ranker(run: Run, data: CaptionData) -> Ranker:
    """The ranker of a run's training photos, with the prior weights."""
    D, prior = run.model.config.feature_shape[-1], PRIOR
    inherited = find_file(run.path, START_RANKING)
    if inherited:
        start, _ = read_ranker(inherited, run.vocabulary, D, first_words=True)
        origin = Path(run.config.recipe.start or "").name
        index, prior = start.index.extended(data, origin), dict(start.weights)
    else:
        index = PhotoIndex.of(data)
    few = len(index) < FEW
    if is_tiny(len(data.split("train").captions)) and not inherited:
        prior = {**prior, "borrowed": LARGEST_PART}  # a caption of people, before all of the model
    repeating = np.mean([bool(repeated(words)) for words in data.words("train")])
    no_stutter = (
        bool(repeating < MOST_REPEATED) and len(run.vocabulary) > len(SPECIAL) + LEAST_WORDS
    )
    return Ranker(
        index,
        prior,
        neighbours=NEIGHBOURS,
        bandwidth=BANDWIDTH_OF_FEW if few else BANDWIDTH,
        width=WIDTH,
        retrieved=RETRIEVED if few else 0,
        no_stutter=no_stutter,
    )


def _first_stage_models(run: Run) -> tuple[CaptioningRNN, ...]:
    """The first stage of a run, in float16, or what a warm start has brought; none: there is none.

    It is written to the run's folder.
    """
    first, group = run.path / FIRST, current().group
    if (first / BEST).is_file() and run.meta.get("epoch"):
        if group.rank == 0:
            write_first_stage(run.path, open_run(first).model.params)
        group.barrier()  # the first stage is written
    elif not (run.path / FIRST_STAGE_FILE).is_file():
        return ()
    return (read_first_stage(run.path, run.model, run.vocabulary),)


def _fit(run: Run, data: CaptionData) -> Fitted:
    """Weights fitted to candidates for the val split."""
    references = data.reference_words("val")
    pictures = np.array(list(references))[evenly_spaced(len(references), MOST)]
    decoder, ranker, group = run.decoder(), run.ranker, current().group
    assert ranker is not None
    shard = pictures[group.shard(len(pictures))]
    ours: list[list[Candidate]] = []
    for start in bar(range(0, len(shard), AT_ONCE), "fitting the ranking"):
        features = data.features("val", shard[start : start + AT_ONCE])
        _, near = ranker.near(features)
        ours += decoder.candidates(features, near)
    candidates = [
        [Candidate(tuple(words), *rest) for words, *rest in some]
        for some in chain.from_iterable(group.gather(ours))
    ]
    values = []
    for start in range(0, len(pictures), AT_ONCE):
        batch = slice(start, start + AT_ONCE)
        embeddings, near = ranker.near(data.features("val", pictures[batch]))
        values.append(ranker.features(embeddings, near, candidates[batch]))
    number = np.repeat(np.arange(len(pictures)), [len(some) for some in candidates])
    words = run.vocabulary.idx_to_word
    captions = [[words[i] for i in one.words] for some in candidates for one in some]
    rewards = CiderD([references[i] for i in pictures.tolist()]).scores(captions, number)
    return fit(np.concatenate(values), number, rewards, ranker.weights)
