"""Scores of a run on a split: captions against references, perplexity, and on generated pictures what the best would score."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from xpcap.data.pictures import BEST_PROTOCOL, KIND, NAMED_PROTOCOL, best_of, named
from xpcap.data.vocabulary import UNK, tokenize
from xpcap.metrics import BLEU_PROTOCOL, PERPLEXITY_PROTOCOL, UNIGRAM_PROTOCOL, corpus_bleu, teacher_forced, unigram_bleu
from xpcap.runs.captioning import captions_of, data_of
from xpcap.runs.folder import Run


class Evaluation(NamedTuple):
    """Scores of a run on a split."""

    split: str
    n: int  # pictures
    bleu: tuple[float, float, float, float]
    unigram_bleu: float
    perplexity: float
    loss: float
    accuracy: float
    seconds: float
    protocol: dict[str, str]
    captions: dict[str, str]  # picture name to caption
    named: float | None = None  # generated pictures: share of captions that name exactly the scene's (colour, shape) pairs
    best_bleu: tuple[float, float, float, float] | None = None  # generated pictures: of one who knows scene and grammar

    def rows(self) -> list[tuple[str, str, str]]:
        """(name, value, protocol) of each score."""
        rows = [("BLEU-1..4", _figures(self.bleu), self.protocol["bleu"])]
        if self.best_bleu is not None:
            rows.append(("best possible", _figures(self.best_bleu), self.protocol["best_bleu"]))
        if self.named is not None:
            rows.append(("named exactly", f"{self.named:.3f}", self.protocol["named"]))
        rows.append(("unigram BLEU", f"{self.unigram_bleu:.3f}", self.protocol["unigram_bleu"]))
        rows.append(("perplexity", f"{self.perplexity:.2f}", self.protocol["perplexity"]))
        return rows


def _figures(scores: Sequence[float]) -> str:
    return "  ".join(f"{score:.3f}" for score in scores)


def evaluate_run(run: Run, file: Path | None = None, split: str = "val", progress: bool = False) -> Evaluation:
    """Score a run on a split of a data set, its own where `file` is None: greedy captions against all references, and perplexity.

    Raises
    ------
    DataError : the data set, or the split, is not there or does not fit the run.
    """
    start = time.perf_counter()
    data, words = data_of(run, file, split)
    scores = teacher_forced(run.model, data, split, progress=progress)
    chunk = data.split(split)
    references: dict[int, list[list[str]]] = {}
    for picture, caption in zip(chunk.image_idxs.tolist(), words, strict=True):
        references.setdefault(picture, []).append([word for word in caption if word != UNK])
    pictures = np.array(sorted(references))
    captions = [caption.words for caption in captions_of(run, data, split, pictures, progress)]
    of_picture = dict(zip(pictures.tolist(), captions, strict=True))
    protocol = {"bleu": BLEU_PROTOCOL, "unigram_bleu": UNIGRAM_PROTOCOL, "perplexity": PERPLEXITY_PROTOCOL}
    exact, best_bleu = None, None
    if data.source.get("generated") == KIND:
        protocol |= {"named": NAMED_PROTOCOL, "best_bleu": BEST_PROTOCOL}
        exact = float(np.mean([named(of_picture[i]) == named(references[i][0]) for i in of_picture]))
        best = best_of([chunk.images[i] for i in of_picture], data.source["seed"])
        best_bleu = corpus_bleu([references[i] for i in of_picture], [tokenize(caption) for caption in best])
    return Evaluation(
        split=split,
        n=len(pictures),
        bleu=corpus_bleu([references[i] for i in of_picture], captions),
        unigram_bleu=unigram_bleu([data.vocabulary.words(ids[1:]) for ids in chunk.captions], [of_picture[i] for i in chunk.image_idxs.tolist()]),
        perplexity=scores.perplexity,
        loss=scores.loss,
        accuracy=scores.accuracy,
        seconds=time.perf_counter() - start,
        protocol=protocol,
        captions={chunk.images[i]: " ".join(words) for i, words in of_picture.items()},
        named=exact,
        best_bleu=best_bleu,
    )
