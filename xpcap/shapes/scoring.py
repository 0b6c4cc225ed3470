"""Metrics that generated pictures add: captions that name exactly what is there, and the BLEU that is within reach."""

import itertools
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from xpcap.data.dataset import CaptionData
from xpcap.data.vocabulary import tokenize
from xpcap.metrics import Bleu, Metric, References, Scored, Words, averaged
from xpcap.shapes.grammar import CAPTIONS, language, named, structure
from xpcap.shapes.scenes import Scene, scene_of

ORDERS = 4
STARTS = 16  # starting points of the search: a good one, and random ones


class _Prospects(NamedTuple):
    """Expected counts of each caption of a scene's language against references drawn from that language, summed over scenes."""

    matches: np.ndarray  # (captions, 4), n-grams found in the references
    counts: np.ndarray  # (captions, 4), n-grams
    closest: np.ndarray  # (captions,), length of the reference nearest in length

    def times(self, scenes: int) -> "_Prospects":
        return _Prospects(*(scenes * field for field in self))


def best_captions(scenes: Sequence[Scene], references: int) -> list[str]:
    """Choose a caption for each scene so that expected corpus BLEU-4 is a local optimum.

    Scenes of one structure get the same caption. The objective is BLEU of expected matches and lengths, over `references` captions drawn from
    the grammar for each scene. Expected matches are exact: an n-gram that a caption holds k times counts once for each j <= k such that some
    reference holds it at least j times. Corpus BLEU is not a sum over scenes, so the search is coordinate ascent: structure by structure it
    takes the best caption given all others, until no change helps. The best of 16 starts wins.
    """
    structures = [structure(scene) for scene in scenes]
    share = Counter(structures)
    examples = dict(zip(structures, scenes, strict=True))
    prospects = [_prospects(list(language(examples[key])), references).times(share[key]) for key in share]
    rng = np.random.default_rng(0)
    starts = [[int(p.matches[:, 0].argmax()) for p in prospects]]
    starts += [[int(rng.integers(len(p.closest))) for p in prospects] for _ in range(STARTS - 1)]
    best = max((_climb(prospects, start) for start in starts), key=lambda choice: _promise(prospects, choice))
    chosen = dict(zip(share, best, strict=True))
    return [next(text for i, (text, _) in enumerate(language(scene)) if i == chosen[key]) for scene, key in zip(scenes, structures, strict=True)]


def _climb(prospects: Sequence[_Prospects], start: Sequence[int]) -> list[int]:
    """Coordinate ascent from `start`: a choice that no change to one caption improves."""
    choice, settled = list(start), 0
    promised = _promise(prospects, choice)
    for k in itertools.cycle(range(len(choice))):
        totals = _totals(prospects, choice)
        promises = _bleu(*(total - field[choice[k]] + field for total, field in zip(totals, prospects[k], strict=True)))
        best = int(promises.argmax())
        if promises[best] > promised * (1 + 1e-9):  # by more than rounding errors
            choice[k], promised, settled = best, float(promises[best]), 0
        settled += 1
        if settled == len(choice):
            return choice
    raise AssertionError("there is nothing to choose")


def _totals(prospects: Sequence[_Prospects], choice: Sequence[int]) -> Iterator[np.ndarray]:
    """Matches (4,), counts (4,) and closest length of a choice of captions, summed over all scenes."""
    for field in zip(*prospects, strict=True):
        yield np.sum([own[i] for own, i in zip(field, choice, strict=True)], axis=0)


def _promise(prospects: Sequence[_Prospects], choice: Sequence[int]) -> float:
    """BLEU-4 of what a choice of captions can expect."""
    return float(_bleu(*_totals(prospects, choice)))


def _bleu(matches: np.ndarray, counts: np.ndarray, closest: np.ndarray) -> np.ndarray:
    """BLEU-4 of matches and counts (..., 4), with the penalty for captions shorter than the nearest references (...,)."""
    return np.minimum(1.0, np.exp(1 - closest / counts[..., 0])) * np.exp(np.log(matches / counts).mean(axis=-1))


def _prospects(captions: Sequence[tuple[str, float]], references: int) -> _Prospects:
    grams = [[Counter(zip(*(text.split()[i:] for i in range(n)), strict=False)) for n in range(1, ORDERS + 1)] for text, _ in captions]
    chance: defaultdict[tuple[tuple[str, ...], int], float] = defaultdict(float)  # that a caption holds an n-gram at least so many times
    for (_, p), orders in zip(captions, grams, strict=True):
        for gram, count in (item for order in orders for item in order.items()):
            for k in range(1, count + 1):
                chance[gram, k] += p
    found = {key: 1 - (1 - min(p, 1.0)) ** references for key, p in chance.items()}
    matches = [[sum(found[gram, k] for gram, count in order.items() for k in range(1, count + 1)) for order in orders] for orders in grams]
    counts = [[sum(order.values()) for order in orders] for orders in grams]
    lengths: defaultdict[int, float] = defaultdict(float)
    for text, p in captions:
        lengths[len(text.split())] += p
    closest = {length: _closest(length, lengths, references) for length in lengths}
    return _Prospects(np.array(matches), np.array(counts), np.array([closest[len(text.split())] for text, _ in captions]))


def _closest(length: int, lengths: Mapping[int, float], references: int) -> float:
    """Expected length of the reference nearest to `length`; of two equally near ones the shorter counts."""
    expected, left = 0.0, 1.0
    for other in sorted(lengths, key=lambda other: (abs(other - length), other)):
        after = max(left - lengths[other], 0.0)
        expected += other * (left**references - after**references)
        left = after
    return expected


KIND = "pictures"  # `generated` of a data set's source


class NamedExactly:
    """Share of captions that name exactly the things of their scene, by colour and shape."""

    name = "named"
    title = "named exactly"
    plain = "share of captions that name all the things there, and nothing else"
    protocol = "share of captions that name exactly the (colour, shape) pairs of their scene, none missing and none made up"

    def score(self, references: References, hypotheses: Sequence[Words]) -> Scored:
        """Corpus value ``named``; 1 or 0 for each picture. Any reference names all that is there, so the first stands for the scene."""
        exact = [float(named(said) == named(written[0])) for written, said in zip(references, hypotheses, strict=True)]
        return averaged(self.name, exact)


class BestPossible:
    """BLEU of captions chosen with knowledge of scene and grammar, to read a model's BLEU against; hypotheses are ignored.

    Parameters
    ----------
    names : of the pictures, in the order of the references
    seed : of the data set
    """

    name = "best_bleu"
    title = "best possible"
    plain = "the BLEU of the best captions that there can be: people describe a picture in more than one way"
    protocol = "BLEU-1..4 of the best captions that a search found (16 starts), given each scene and the grammar but not the references"

    def __init__(self, names: Sequence[str], seed: int) -> None:
        self._names, self._seed = names, seed

    def score(self, references: References, hypotheses: Sequence[Words]) -> Scored:
        """Corpus values ``best_bleu1`` to ``best_bleu4``."""
        corpus, pictures, _ = Bleu().score(references, [tokenize(caption) for caption in best_of(self._names, self._seed)])
        return Scored({f"best_{name}": value for name, value in corpus.items()}, pictures)


def best_of(names: Sequence[str], seed: int = 0) -> list[str]:
    """The best captions of generated pictures for someone who knows scenes and grammar, but not the references: see `best_captions`."""
    return best_captions([scene_of(name, seed) for name in names], CAPTIONS)


def metrics_of(data: CaptionData, split: str) -> tuple[Metric, ...]:
    """What a split of generated pictures is scored by besides METRICS; nothing for any other data."""
    if data.source.generated != KIND:
        return ()
    assert data.source.seed is not None
    images = data.split(split).images
    return BestPossible([images[i] for i in np.unique(data.split(split).image_idxs)], data.source.seed), NamedExactly()
