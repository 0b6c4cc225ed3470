"""What a captioner could score at best that knows every scene and the grammar, but not which captions were drawn as references."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from xpcap.data.pictures.grammar import language, structure
from xpcap.data.pictures.scenes import Scene

ORDERS = 4
ROUNDS = 20  # at most; a handful is enough


class _Prospects(NamedTuple):
    """What each caption of a scene's language can expect against references drawn from that language."""

    matches: np.ndarray  # (captions, 4), n-grams found in the references
    counts: np.ndarray  # (captions, 4), n-grams
    closest: np.ndarray  # (captions,), length of the reference nearest in length


def best_captions(scenes: Sequence[Scene], references: int) -> list[str]:
    """For each scene the caption that serves corpus BLEU-4 best, on expectation over so many references drawn from the grammar.

    Expected matches are exact: an n-gram that a caption holds k times counts once for each of the k that some reference holds as often.
    Corpus BLEU is no sum over scenes, so captions are chosen by its derivative at the totals of the last choice, until none changes.
    """
    structures = [structure(scene) for scene in scenes]
    examples = dict(zip(structures, scenes, strict=True))
    prospects = {key: _prospects(list(language(scene)), references) for key, scene in examples.items()}
    share = Counter(structures)
    chosen = {key: int(p.matches[:, 0].argmax()) for key, p in prospects.items()}
    for _ in range(ROUNDS):
        matches, counts, closest = (
            sum(share[key] * getattr(p, field)[chosen[key]] for key, p in prospects.items()) for field in ("matches", "counts", "closest")
        )
        ratio = closest / counts[0]  # of lengths: what the brevity penalty looks at
        again = {}
        for key, p in prospects.items():
            gain = ((p.matches / matches) - (p.counts / counts)).mean(axis=1)
            if ratio > 1:
                gain = gain + ratio * p.counts[:, 0] / counts[0] - p.closest / counts[0]
            again[key] = int(gain.argmax())
        if again == chosen:
            break
        chosen = again
    return [next(text for i, (text, _) in enumerate(language(scene)) if i == chosen[key]) for scene, key in zip(scenes, structures, strict=True)]


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
    """Expected length of the reference nearest to `length`, the shorter of two that are equally near."""
    expected, left = 0.0, 1.0
    for other in sorted(lengths, key=lambda other: (abs(other - length), other)):
        after = max(left - lengths[other], 0.0)
        expected += other * (left**references - after**references)
        left = after
    return expected
