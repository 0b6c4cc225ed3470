"""Reranker: scores candidate captions of a photo by a linear function of their features."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, chain, compress, pairwise
from typing import NamedTuple

import numpy as np

from xpcap.backend import Array, to_numpy
from xpcap.backend.threads import cores, parallel_map, split_evenly
from xpcap.errors import OptionError
from xpcap.metrics.cider import CiderD
from xpcap.metrics.variety import repeated
from xpcap.options import Flag, OptionKind, Real, Whole
from xpcap.reranking.index import Neighbours, PhotoIndex, pair

RETRIEVED_FROM = 10  # nearest photos whose captions may become candidates
SMALLEST = 1e-6  # lower limit of weights that are divided by, as for a single neighbour
MIN_PHOTOS_PER_CORE = 32  # with fewer, another core does not pay off
RARE = 1e-3  # added to shares of captions before their ratio is taken

# Features of a candidate, and their meanings
FEATURES = {
    "log_probability": "log-probability per word, END included",
    "consensus": "mean CIDEr-D against the captions of the nearest photos, the nearer the heavier",
    "words": "mean over words of log(share expected from the features / share in all captions)",
    "length": "number of words",
    "unseen": "share of its pairs of words, END counted as a word, that no training caption has",
    "repeats": "1 if one to three words stand twice in a row",
    "borrowed": "1 if it is the caption of a neighbour",
}
# Option kinds of a reranker's weights and settings, also in its file
WEIGHT = Real(-1e6, 1e6)
SETTINGS: Mapping[str, OptionKind] = {
    "neighbours": Whole(1, 1000),
    "width": Whole(1, 100),
    "retrieved": Whole(0, 1000),
    "bandwidth": Real(1e-3, 1),
    "no_stutter": Flag(),
}
CaptionIds = tuple[int, ...]  # ids, without START and END
LogLikelihood = Callable[[Sequence[int], Sequence[CaptionIds]], np.ndarray]
Allowed = Callable[[Sequence[CaptionIds]], np.ndarray]


class Candidate(NamedTuple):
    """A caption that may be chosen."""

    words: CaptionIds
    log_probability: float  # of the caption, END included
    photo: int = -1  # row in the index of the photo whose caption it is; -1: the model generated it


class RerankedCandidate(NamedTuple):
    """A candidate with its score, which is the sum of its parts."""

    candidate: Candidate
    score: float
    parts: dict[str, float]  # name in FEATURES to weight times feature


class Reranking(NamedTuple):
    """The reranked candidates of a photo, and the neighbours that they were compared with."""

    candidates: list[RerankedCandidate]  # the best first
    neighbours: list[tuple[int, float]]  # rows of the index and similarities, the nearest first

    @property
    def best(self) -> CaptionIds:
        """The chosen caption; empty without a candidate."""
        return self.candidates[0].candidate.words if self.candidates else ()


@dataclass(frozen=True)
class Reranker:
    """Scores candidates by ``sum over features of weight * feature``.

    index : index of the training photos
    weights : name in FEATURES to weight
    neighbours : k, number of nearest photos whose captions candidates are compared with
    bandwidth : difference in similarity over which the weight of a neighbour falls to 1/e
    width : width of the beam that generates candidates
    retrieved : limit of captions of neighbours that become candidates; 0: none
    no_stutter : exclude candidates with one to three words twice in a row, which people rarely write

    Consensus is from Devlin et al. 2015, *Exploring Nearest Neighbor Approaches for Image
    Captioning*, with CIDEr-D as the similarity of captions.

    OptionError : a setting is out of range, or weights and FEATURES have different names.
    """

    index: PhotoIndex
    weights: Mapping[str, float]
    neighbours: int
    bandwidth: float
    width: int
    retrieved: int
    no_stutter: bool

    def __post_init__(self) -> None:
        if self.weights.keys() != FEATURES.keys():
            lacking = [name for name in FEATURES if name not in self.weights]
            unknown = [name for name in self.weights if name not in FEATURES]
            got = f"lack {', '.join(lacking)}" if lacking else f"hold {', '.join(unknown)}"
            raise OptionError(f"`weights` {got}, expected a weight of {', '.join(FEATURES)}")
        weights = {
            name: WEIGHT.check(f"the weight of {name}", weight)
            for name, weight in self.weights.items()
        }
        object.__setattr__(self, "weights", weights)  # the dataclass is frozen
        for name, kind in SETTINGS.items():
            value = kind.check(f"`{name}`", getattr(self, name))
            object.__setattr__(self, name, value)

    def near(self, features: Array) -> tuple[np.ndarray, Neighbours]:
        """Embeddings and neighbours of N photos, from their preprocessed features (N, *shape)."""
        embeddings = self.index.embeddings_of(features)
        shares = self.index.shares_of(features)
        return to_numpy(embeddings), self.index.nearest(embeddings, self.neighbours, shares)

    def rerank(
        self, embeddings: np.ndarray, near: Neighbours, candidates: Sequence[Sequence[Candidate]]
    ) -> list[Reranking]:
        """Rerank the candidates of N photos, with embeddings and neighbours from the method `near`."""
        values = self.features(embeddings, near, candidates)
        all_parts = values * np.array([self.weights[name] for name in FEATURES])
        rerankings = []
        for n, parts in enumerate(_by_group(all_parts, candidates)):
            reranked = [
                RerankedCandidate(candidate, score, dict(zip(FEATURES, part, strict=True)))
                for candidate, score, part in zip(
                    candidates[n], parts.sum(axis=1).tolist(), parts.tolist(), strict=True
                )
            ]
            reranked.sort(key=lambda candidate: -candidate.score)
            pairs = zip(near.photos[n].tolist(), near.similarities[n].tolist(), strict=True)
            rerankings.append(
                Reranking(reranked, [(row, cosine) for row, cosine in pairs if row >= 0])
            )
        return rerankings

    def with_retrieved(
        self,
        near: Neighbours,
        generated: Sequence[Sequence[Candidate]],
        log_likelihood: LogLikelihood,
        allowed: Allowed,
    ) -> list[list[Candidate]]:
        """The generated candidates of N photos, and the neighbours' captions of highest consensus.

        near : from the method `near`
        generated : candidates of each photo that the model generated
        log_likelihood : returns the log-likelihoods of captions, given the numbers of their photos
        allowed : returns a mask of the captions that may be candidates
        """
        if not self.retrieved:
            return [*map(list, generated)]
        unknown = self.index.vocabulary.unk
        retrieved = []
        for photos, candidates in zip(
            near.photos[:, :RETRIEVED_FROM].tolist(), generated, strict=True
        ):
            known = {candidate.words for candidate in candidates}
            owner: dict[CaptionIds, int] = {}
            for photo in photos:
                for words in map(tuple, self.index.captions(photo)):
                    if words and unknown not in words and words not in known:
                        owner.setdefault(words, photo)
            retrieved.append([Candidate(words, 0.0, photo) for words, photo in owner.items()])
        masks = _by_group(allowed([x.words for x in chain.from_iterable(retrieved)]), retrieved)
        retrieved = [[*compress(group, mask)] for group, mask in zip(retrieved, masks, strict=True)]
        scores = _by_group(self._consensus(near, retrieved), retrieved)
        orders = [np.argsort(-x, kind="stable")[: self.retrieved].tolist() for x in scores]
        best = [[group[i] for i in order] for group, order in zip(retrieved, orders, strict=True)]
        photo_numbers = [number for number, group in enumerate(best) for _ in group]
        log_likelihoods = log_likelihood(
            photo_numbers, [x.words for x in chain.from_iterable(best)]
        )
        totals = iter(log_likelihoods.tolist())
        return [
            [*candidates, *(x._replace(log_probability=next(totals)) for x in group)]
            for candidates, group in zip(generated, best, strict=True)
        ]

    def features(
        self, embeddings: np.ndarray, near: Neighbours, candidates: Sequence[Sequence[Candidate]]
    ) -> np.ndarray:
        """Features (C, F) of the candidates of N photos, photo by photo, float64."""

        def part_features(photos: slice) -> np.ndarray:
            part = Neighbours(*(x[photos] for x in near))
            return self._features(embeddings[photos], part, candidates[photos])

        parts = split_evenly(len(candidates), min(cores(), len(candidates) // MIN_PHOTOS_PER_CORE))
        return np.concatenate(parallel_map(part_features, parts))

    def _features(
        self, embeddings: np.ndarray, near: Neighbours, candidates: Sequence[Sequence[Candidate]]
    ) -> np.ndarray:
        """Features of candidates, computed on one core."""
        flat = [*chain.from_iterable(candidates)]
        words = self.index.vocabulary.idx_to_word
        lengths = np.array([len(x.words) for x in flat])
        totals = np.array([x.log_probability for x in flat])
        values = {
            "log_probability": totals / (lengths + 1),
            "consensus": self._consensus(near, candidates),
            "words": self._lift(embeddings, candidates),
            "length": lengths,
            "unseen": self._unseen([x.words for x in flat]),
            "repeats": [bool(repeated([words[i] for i in x.words])) for x in flat],
            "borrowed": [x.photo >= 0 for x in flat],
        }
        return np.stack([np.asarray(values[name], np.float64) for name in FEATURES], axis=1)

    def _consensus(self, near: Neighbours, candidates: Sequence[Sequence[Candidate]]) -> np.ndarray:
        """Weighted mean CIDEr-D (C,) of each candidate against the captions of the neighbours.

        The weight of a neighbour is exp((similarity - largest) / bandwidth), divided by the sum. A
        retrieved caption is not compared with the captions of its photo.
        """
        words = self.index.vocabulary.idx_to_word
        unknown = self.index.vocabulary.unk
        texts = {
            photo: [
                [words[i] for i in caption if i != unknown]
                for caption in self.index.captions(photo)
            ]
            or [[]]  # without a neighbour; its weight is 0
            for photo in np.unique(near.photos).tolist()
        }
        largest = np.maximum(near.similarities[:, :1], 0)
        weight = np.exp((near.similarities - largest) / self.bandwidth)
        weight /= np.maximum(weight.sum(axis=1, keepdims=True), SMALLEST)  # (N, k)
        references = [
            [caption for photo in photos for caption in texts[photo]]
            for photos in near.photos.tolist()
        ]
        shares = zip(near.photos.reshape(-1).tolist(), weight.reshape(-1).tolist(), strict=True)
        weights = [share / len(texts[photo]) for photo, share in shares for _ in texts[photo]]
        flat = [*chain.from_iterable(candidates)]
        hypotheses = [[words[i] for i in x.words] for x in flat]
        photo_numbers = np.repeat(np.arange(len(candidates)), [*map(len, candidates)])
        score = CiderD(references, self.index.frequencies)
        consensus = score.scores(hypotheses, photo_numbers, weights=np.array(weights))
        retrieved = [c for c, candidate in enumerate(flat) if candidate.photo >= 0]
        if retrieved:
            owners = [flat[c].photo for c in retrieved]
            own_score = CiderD([texts[photo] for photo in owners], self.index.frequencies)
            own_consensus = own_score.scores([hypotheses[c] for c in retrieved])
            numbers = photo_numbers[retrieved]
            is_own = near.photos[numbers] == np.array(owners)[:, None]
            share = np.where(is_own, weight[numbers], 0).sum(axis=1)
            others = consensus[retrieved] - share * own_consensus
            consensus[retrieved] = others / np.maximum(1 - share, SMALLEST)
        return consensus

    def _lift(
        self, embeddings: np.ndarray, candidates: Sequence[Sequence[Candidate]]
    ) -> np.ndarray:
        """Mean log-lift of the words of each candidate (C,)."""
        prior = self.index.predictor[-1].astype(np.float32)
        base = np.log(prior + RARE)
        slopes = self.index.predictor[:-1]
        lifts = []
        for embedding, group in zip(embeddings, candidates, strict=True):
            captions = [x.words for x in group]
            ids = np.array([*chain.from_iterable(captions)], np.int64)
            with np.errstate(invalid="ignore"):  # OpenBLAS may set the flag without cause
                expected = prior[ids] + embedding.dot(slopes[:, ids].astype(np.float32))
            lift = np.log(np.maximum(expected, 0) + RARE) - base[ids]
            lifts += [x.mean() if len(x) else 0.0 for x in _by_group(lift, captions)]
        return np.array(lifts, np.float64)

    def _unseen(self, captions: Sequence[CaptionIds]) -> np.ndarray:
        """Share of the pairs of words of each caption, END included, that the index lacks."""
        ids = [np.array([*words, self.index.vocabulary.end]) for words in captions]
        pairs = np.concatenate([np.zeros(0, np.int64), *(pair(x[:-1], x[1:]) for x in ids)])
        known_pairs = np.append(self.index.pairs, -1)  # -1 is no pair
        unseen = known_pairs[np.searchsorted(known_pairs[:-1], pairs)] != pairs
        lengths = np.array([*map(len, captions)], np.int64)
        caption_numbers = np.repeat(np.arange(len(captions)), lengths)
        return np.bincount(caption_numbers, unseen, len(captions)) / np.maximum(lengths, 1)


def _by_group(values: np.ndarray, groups: Sequence[Sequence[object]]) -> list[np.ndarray]:
    """Split values of all members, which are ordered by group, into arrays per group."""
    ends = accumulate(map(len, groups), initial=0)
    return [values[start:end] for start, end in pairwise(ends)]
