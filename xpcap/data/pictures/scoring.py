"""Metrics that generated pictures add: captions that name exactly what is there, and the BLEU that is within reach."""

from collections.abc import Sequence

import numpy as np

from xpcap.data.dataset import CaptionData
from xpcap.data.pictures.best import best_captions
from xpcap.data.pictures.grammar import CAPTIONS, named
from xpcap.data.pictures.scenes import scene_of
from xpcap.data.vocabulary import tokenize
from xpcap.metrics import Bleu, Metric, References, Scored, Words, averaged

KIND = "pictures"  # `generated` of a data set's source


class NamedExactly:
    """Share of captions that name exactly the things of their scene, by colour and shape."""

    name = "named"
    title = "named exactly"
    plain = "share of captions that name all the things there, and nothing else"
    protocol = "share of captions that name exactly the (colour, shape) pairs of their scene, none missing and none made up"
    known_only = False

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
    known_only = False

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
