"""Ranked captions of a run: candidates of its models, put in order by its ranker; and its fit."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from typing import Any

import numpy as np

from xpcap.backend import asarray
from xpcap.data import CaptionData
from xpcap.data.dataset import evenly_spaced
from xpcap.data.vocabulary import SPECIAL, Vocabulary
from xpcap.decoding.policies import check_ids
from xpcap.errors import OptionError
from xpcap.metrics.cider import CiderD
from xpcap.metrics.variety import repeated
from xpcap.models import Beam, Captioner, CaptioningRNN, Ensemble, Policy
from xpcap.models.batch import FeatureRows
from xpcap.progress import bar
from xpcap.ranking import Candidate, PhotoIndex, Ranker, Ranking, fit
from xpcap.ranking.file import read_ranker, write_ranker
from xpcap.ranking.weights import PRIOR, Fitted
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

WIDTH = 10  # of the beam that makes candidates
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
CAPTIONS_AT_ONCE = 2048  # whose log-likelihood is computed together


@dataclass(frozen=True)
class RankedBeam(Beam):
    """Beam search whose captions the ranker of the run puts in order.

    Without a ranker, as for a model alone, it is a Beam. See `xpcap.ranking.Ranker`.
    """

    width: int = WIDTH

    @property
    def title(self) -> str:
        return f"beam of {self.width}, ranked by similar photos"


def default_policy(run: Run[Captioner], **limits: Any) -> Policy:
    """The policy of a run's captions where none is given; `limits` are fields of Policy."""
    if run.ranker is None:
        return Policy(**limits)
    return RankedBeam(run.ranker.width, no_stutter=run.ranker.no_stutter, **limits)


def decoding_title(run: Run[Captioner], policy: Policy | None) -> str:
    """The decoding of a run's captions, in words."""
    policy = policy or default_policy(run)
    models = len(run.paths)
    if isinstance(policy, RankedBeam):
        models += len(run.first_stage_models)
    if models == 1:
        return policy.title
    if len(run.paths) == 1:
        return f"{policy.title}, probabilities averaged over both stages"
    return f"{policy.title}, probabilities averaged over {models} models"


def limited(policy: Policy, vocabulary: Vocabulary, max_words: int) -> Policy:
    """The policy within `max_words`, and without NULL, START and UNK."""
    special = {vocabulary.null, vocabulary.start, vocabulary.unk}
    never = special | {*check_ids("caption", policy.forbid)}
    if not set(range(len(vocabulary))) - never - {vocabulary.end}:
        raise OptionError(
            "caption",
            "`forbid`",
            f"leaves none of {len(vocabulary)} words",
            expected="some to be left",
            cause="which are to be said?",
        )
    most = min(policy.max_length, max_words)
    return replace(policy, max_length=most, forbid=tuple(sorted(never)))


def captioner(run: Run[Captioner]) -> Captioner:
    """The model that makes candidates: of the run, and of its first stage if that helps."""
    if not run.first_stage_models:
        return run.model
    models = run.model.models if isinstance(run.model, Ensemble) else [run.model]
    return Ensemble([*models, *run.first_stage_models])


def rank(run: Run[Captioner], features: np.ndarray, policy: Beam) -> list[Ranking]:
    """Candidates of N photos, ranked, from preprocessed features (N, *shape).

    `policy` : the beam that makes candidates, within the limits of the run; neighbours' captions
    keep to them as well
    """
    if run.ranker is None:
        raise OptionError(
            "caption",
            run.path,
            "has no ranking",
            expected="a run that `neighbours` was trained with",
            cause="give another policy",
        )
    model = captioner(run)
    made = make_candidates(model, run.vocabulary, features, policy)
    score = partial(log_likelihoods, model, run.vocabulary, features)
    return run.ranker.rank(features, made, score, partial(_keeps_to, policy))


def make_candidates(
    model: Captioner, vocabulary: Vocabulary, features: np.ndarray, policy: Beam
) -> list[list[Candidate]]:
    """All captions of a beam, of each of N photos."""
    decoded = model.decode(features, replace(policy, n_best=policy.width))
    ends = {vocabulary.end, vocabulary.null}
    candidates: list[list[Candidate]] = []
    for captions, totals in zip(decoded.captions, decoded.log_probabilities, strict=True):
        found = {
            tuple(i for i in ids if i not in ends): total
            for ids, total in zip(captions.tolist(), totals.tolist(), strict=True)
            if total > -np.inf
        }
        candidates.append([Candidate(words, total) for words, total in found.items()])
    return candidates


def log_likelihoods(
    model: Captioner,
    vocabulary: Vocabulary,
    features: np.ndarray,
    numbers: Sequence[int],
    captions: Sequence[Sequence[int]],
) -> np.ndarray:
    """Log-likelihood (C,), float64, of captions, given the number of the photo of each."""
    table = asarray(features.astype(model.like.dtype, copy=False), like=model.like)
    totals = [np.zeros(0)]
    for start in range(0, len(captions), CAPTIONS_AT_ONCE):
        some = slice(start, start + CAPTIONS_AT_ONCE)
        rows = FeatureRows(table, np.array(numbers[some], np.int64))
        words = model.word_log_probabilities(rows, _encoded(vocabulary, captions[some]))
        totals.append(words.sum(axis=1, dtype=np.float64))
    return np.concatenate(totals)


def word_log_probabilities(
    run: Run[Captioner], features: np.ndarray, captions: Sequence[Sequence[int]]
) -> np.ndarray:
    """Log-probability (N, T) of the words of one caption a photo, by the candidates' model."""
    encoded = _encoded(run.vocabulary, captions)
    return captioner(run).word_log_probabilities(features, encoded)


def _encoded(vocabulary: Vocabulary, captions: Sequence[Sequence[int]]) -> np.ndarray:
    """Captions (C, T+1) with START, END and NULL."""
    encoded = np.full((len(captions), max(map(len, captions)) + 2), vocabulary.null, np.int32)
    for row, words in zip(encoded, captions, strict=True):
        row[: len(words) + 2] = [vocabulary.start, *words, vocabulary.end]
    return encoded


def _keeps_to(policy: Policy, words: tuple[int, ...]) -> bool:
    """True if a caption keeps to the limits of a policy, and was not cut at them."""
    if not policy.least_length <= len(words) < policy.max_length:
        return False
    threes = [words[i : i + 3] for i in range(len(words) - 2)]
    if policy.no_repeat_trigram and len(set(threes)) < len(threes):
        return False
    return not {*words} & {*policy.forbid}


# The fit, when training ends


def fit_ranking(run: Run[CaptioningRNN], data: CaptionData) -> None:
    """Index the training photos of a run, fit its ranking to the val split, and write both.

    Both stages of a run make candidates if that gives better captions of photos that took no part
    in the fit. After a warm start the index also has the photos of the run that it began from,
    whose weights are the prior. Without a val split, and if no epoch was better than that run,
    weights are the prior. A ranking of these parameters stays as it is. The ranks in the work in
    hand share the candidates; rank 0 fits and writes.

    Parameters
    ----------
    data : of the run's training, as of `data_of`
    """
    folder, group, meta = run.path, current().group, run.ranking
    if meta.get("best") != best_digest(folder):
        ranker, meta = _fitted(run, data)
        if group.rank == 0:
            write_ranker(folder / RANKING, ranker, meta)
    # Only now, as the ranking before may need it; a fit that was killed is repeated to here
    if group.rank == 0 and not meta["both"]:
        (folder / FIRST_STAGE_FILE).unlink(missing_ok=True)
    group.barrier()  # the ranking is written


def _fitted(run: Run[CaptioningRNN], data: CaptionData) -> tuple[Ranker, Record]:
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
    meta = {
        "best": best_digest(run.path),
        "both": bool(chosen.first_stage_models),
        "fit": scores,
    }
    return replace(ranker, weights=weights), meta


def _new_ranker(run: Run[CaptioningRNN], data: CaptionData) -> Ranker:
    """The ranker of a run's training photos, with the prior weights."""
    D, prior = run.model.config.feature_shape[-1], PRIOR
    inherited = find_file(run.path, START_RANKING)
    if inherited:
        start, _ = read_ranker(inherited, run.vocabulary, D, first_words=True)
        index, prior = start.index.extended(data), dict(start.weights)
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
        run.vocabulary,
        prior,
        neighbours=NEIGHBOURS,
        bandwidth=BANDWIDTH_OF_FEW if few else BANDWIDTH,
        width=WIDTH,
        retrieved=RETRIEVED if few else 0,
        no_stutter=no_stutter,
    )


def _first_stage_models(run: Run[CaptioningRNN]) -> tuple[CaptioningRNN, ...]:
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
    policy = limited(default_policy(run), run.vocabulary, run.config.max_words)
    assert isinstance(policy, Beam)
    assert run.ranker is not None
    model, ranker = captioner(run), run.ranker
    group = current().group
    shard = pictures[group.shard(len(pictures))]
    ours: list[list[Candidate]] = []
    for start in bar(range(0, len(shard), AT_ONCE), "fitting the ranking"):
        features = data.features("val", shard[start : start + AT_ONCE])
        made = make_candidates(model, run.vocabulary, features, policy)
        embeddings = ranker.index.embeddings_of(features)
        near = ranker.index.nearest(embeddings, ranker.neighbours)
        score = partial(log_likelihoods, model, run.vocabulary, features)
        ours += ranker.with_retrieved(near, made, score, partial(_keeps_to, policy))
    candidates = [
        [Candidate(tuple(words), *rest) for words, *rest in some]
        for some in chain.from_iterable(group.gather(ours))
    ]
    values = []
    for start in range(0, len(pictures), AT_ONCE):
        batch = slice(start, start + AT_ONCE)
        embeddings = ranker.index.embeddings_of(data.features("val", pictures[batch]))
        near = ranker.index.nearest(embeddings, ranker.neighbours)
        values.append(ranker.features(embeddings, near, candidates[batch]))
    number = np.repeat(np.arange(len(pictures)), [len(some) for some in candidates])
    words = run.vocabulary.idx_to_word
    captions = [[words[i] for i in one.words] for some in candidates for one in some]
    rewards = CiderD([references[i] for i in pictures.tolist()]).scores(captions, number)
    return fit(np.concatenate(values), number, rewards, ranker.weights)
