"""A run's decoder, which captions features with the policy, the model and the reranker."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from xpcap.backend import asarray
from xpcap.data.vocabulary import Vocabulary, detokenize
from xpcap.decoding.policies import require_policy
from xpcap.errors import OptionError
from xpcap.models import Beam, CaptioningRNN, Policy
from xpcap.models.batch import FeatureRows
from xpcap.options import Flag
from xpcap.reranking import Candidate, Reranker, Reranking
from xpcap.reranking.index import Neighbours
from xpcap.runs.explanation import CandidateCaption, Explanation, Neighbour
from xpcap.runs.records import Hypothesis, PictureCaption

WIDTH = 10  # of the beam that generates candidates
CAPTIONS_AT_ONCE = 2048  # captions whose log-likelihoods are computed together


@dataclass(frozen=True)
class RerankedBeam(Beam):
    """Beam search whose captions the run's reranker orders; see `xpcap.reranking.Reranker`.

    Without a reranker, as for a model alone, it is a Beam. With one, `length_penalty` must be the
    default.
    """

    width: int = WIDTH


def limited(policy: Policy, vocabulary: Vocabulary, max_words: int) -> Policy:
    """The policy limited to `max_words`, and without NULL, START and UNK."""
    require_policy(policy)
    special = {vocabulary.null, vocabulary.start, vocabulary.unk}
    forbidden = special | {*policy.forbid}
    if not set(range(len(vocabulary))) - forbidden - {vocabulary.end}:
        raise OptionError("`forbid` bans every word; leave at least one")
    max_length = min(policy.max_length, max_words)
    return replace(policy, max_length=max_length, forbid=tuple(sorted(forbidden)))


class Decoder:
    """Captions features with a run; see `Run.decoder`. `title` describes the decoding.

    model, vocabulary : those of the run
    reranker : orders the captions of a RerankedBeam; None: they are not reranked
    policy : within the limits of the run
    attend, explain : as in `Run.decoder`
    OptionError : a length penalty, which has no effect where a reranker orders the captions
    """

    def __init__(
        self,
        model: CaptioningRNN,
        vocabulary: Vocabulary,
        reranker: Reranker | None,
        policy: Policy,
        attend: bool = False,
        explain: bool = False,
    ) -> None:
        self.vocabulary = vocabulary
        self.policy = policy
        self.reranker = reranker
        self._model = model
        self._attend = Flag().check("`attend`", attend)
        self._explain = Flag().check("`explain`", explain)
        self.title = policy.title
        if not isinstance(policy, RerankedBeam):
            self.reranker = None
        elif self.reranker is not None:
            self.title = f"{policy.search_title}, reranked by similar photos"
            if policy.length_penalty != RerankedBeam.length_penalty:
                raise OptionError(
                    f"`length_penalty` is {policy.length_penalty:g} in a RerankedBeam, whose"
                    " captions are reranked, expected the default, or a Beam"
                )

    def __call__(
        self, names: Sequence[str], features: np.ndarray, numbers: np.ndarray | None = None
    ) -> list[PictureCaption]:
        """Caption pictures from their features (n, *shape), preprocessed for the model.

        A caption ends at END or at the policy's limit, and never holds NULL, START or UNK.
        `numbers` (n,) seed a policy that samples; None: 0, 1, ...
        """
        if self.reranker is not None:
            captions = self._reranked(self.reranker, features)
        else:
            captions = self._decoded(features, numbers)
        if self._attend:
            maps = self.attention(features, [caption.words for caption in captions])
            captions = [
                replace(caption, attention=weights)
                for caption, weights in zip(captions, maps, strict=True)
            ]
        return [replace(caption, image=name) for name, caption in zip(names, captions, strict=True)]

    def attention(
        self, features: np.ndarray, captions: Sequence[Sequence[str]]
    ) -> Sequence[Sequence[Sequence[float]] | None]:
        """Attention over regions (T, P) of each caption, given as words; rows sum to 1.

        None for each if the model does not attend.
        """
        if not self._model.config.attends:
            return [None] * len(captions)
        encoded = self.vocabulary.encode_words(captions, max(1, *map(len, captions)))
        weights = self._model.attention(features, encoded)
        return [w[: len(words)].tolist() for w, words in zip(weights, captions, strict=True)]

    def _decoded(self, features: np.ndarray, numbers: np.ndarray | None) -> list[PictureCaption]:
        """Captions by the model; `image` is empty."""
        numbers = np.arange(len(features)) if numbers is None else numbers
        decoded = self._model.decode(features, self.policy, numbers=numbers)
        captions = []
        for ids, probabilities, totals in zip(*decoded, strict=True):
            words = self.vocabulary.words(ids[0])
            best = zip(ids, totals.tolist(), strict=True) if self.policy.n_best else ()
            n_best = [
                Hypothesis(detokenize(self.vocabulary.words(caption)), total)
                for caption, total in best
                if total > -np.inf
            ]
            likely = [float(p) for p in probabilities[0][: len(words)]]
            captions.append(PictureCaption("", detokenize(words), likely, [], n_best, words=words))
        return captions

    # Reranking

    def _reranked(self, reranker: Reranker, features: np.ndarray) -> list[PictureCaption]:
        """Captions by the reranker; `image` is empty, and the caption too without a candidate."""
        rerankings = self.rerank(features)
        encoded = _encoded(self.vocabulary, [reranking.best for reranking in rerankings])
        probabilities = np.exp(self._model.word_log_probabilities(features, encoded))
        captions = []
        for reranking, likely in zip(rerankings, probabilities.tolist(), strict=True):
            words = [self.vocabulary.idx_to_word[i] for i in reranking.best]
            n_best = [
                Hypothesis(_text(self.vocabulary, candidate.words), candidate.log_probability)
                for candidate, *_ in reranking.candidates[: self.policy.n_best]
            ]
            captions.append(
                PictureCaption(
                    "",
                    detokenize(words),
                    likely[: len(words)],
                    [],
                    n_best,
                    words=words,
                    explanation=_explained(reranker, reranking) if self._explain else None,
                )
            )
        return captions

    def rerank(self, features: np.ndarray) -> list[Reranking]:
        """Reranked candidates of N photos, from their preprocessed features (N, *shape)."""
        if self.reranker is None:
            raise OptionError("the policy reranks nothing, expected a RerankedBeam")
        embeddings, near = self.reranker.near(features)
        return self.reranker.rerank(embeddings, near, self.candidates(features, near))

    def candidates(
        self, features: np.ndarray, near: Neighbours | None = None
    ) -> list[list[Candidate]]:
        """Captions of the beam for each of N photos, with some of the neighbours `near`, if given."""
        assert isinstance(self.policy, Beam)
        policy = replace(self.policy, n_best=self.policy.width)
        decoded = self._model.decode(features, policy)
        ends = {self.vocabulary.end, self.vocabulary.null}
        candidates: list[list[Candidate]] = []
        for captions, totals in zip(decoded.captions, decoded.log_probabilities, strict=True):
            by_words = {
                tuple(i for i in ids if i not in ends): total
                for ids, total in zip(captions.tolist(), totals.tolist(), strict=True)
                if total > -np.inf
            }
            candidates.append([Candidate(words, total) for words, total in by_words.items()])
        if self.reranker is None or near is None:
            return candidates
        likelihood = partial(self._log_likelihoods, features)
        return self.reranker.with_retrieved(near, candidates, likelihood, self.policy.allows)

    def _log_likelihoods(
        self, features: np.ndarray, numbers: Sequence[int], captions: Sequence[Sequence[int]]
    ) -> np.ndarray:
        """Log-likelihoods (C,), float64, of captions; `numbers` (C,) are those of their photos."""
        like = self._model.like
        table = asarray(features.astype(like.dtype, copy=False), like=like)
        totals = [np.zeros(0)]
        for start in range(0, len(captions), CAPTIONS_AT_ONCE):
            part = slice(start, start + CAPTIONS_AT_ONCE)
            rows = FeatureRows(table, np.array(numbers[part], np.int64))
            encoded = _encoded(self.vocabulary, captions[part])
            words = self._model.word_log_probabilities(rows, encoded)
            totals.append(words.sum(axis=1, dtype=np.float64))
        return np.concatenate(totals)


def _encoded(vocabulary: Vocabulary, captions: Sequence[Sequence[int]]) -> np.ndarray:
    """Captions as ids (C, T+1), with START and END, padded with NULL."""
    encoded = np.full((len(captions), max(map(len, captions)) + 2), vocabulary.null, np.int32)
    for row, words in zip(encoded, captions, strict=True):
        row[: len(words) + 2] = [vocabulary.start, *words, vocabulary.end]
    return encoded


def _explained(reranker: Reranker, reranking: Reranking) -> Explanation:
    index = reranker.index
    vocabulary = reranker.index.vocabulary
    neighbours = [
        Neighbour(
            index.photos.images[row], cosine, [_text(vocabulary, c) for c in index.captions(row)]
        )
        for row, cosine in reranking.neighbours
    ]
    candidates = [
        CandidateCaption(
            _text(vocabulary, candidate.words),
            candidate.log_probability / (len(candidate.words) + 1),
            score,
            parts,
            index.photos.images[candidate.photo] if candidate.photo >= 0 else "",
        )
        for candidate, score, parts in reranking.candidates
    ]
    return Explanation(neighbours, candidates)


def _text(vocabulary: Vocabulary, ids: Sequence[int]) -> str:
    return detokenize([vocabulary.idx_to_word[i] for i in ids])
