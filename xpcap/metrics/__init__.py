"""Scores, each with its protocol in words: BLEU through nltk, and teacher-forced loss, perplexity and accuracy."""

import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from xpcap.backend import to_numpy
from xpcap.progress import bar

BLEU_PROTOCOL = "corpus BLEU-1..4 by nltk, uniform weights, no smoothing, all references of a picture, words in [a-z0-9]+ lower case"
UNIGRAM_PROTOCOL = "the course's: sentence BLEU of single words, each caption as the one reference, START, END and UNK removed, mean over all"
PERPLEXITY_PROTOCOL = "exp of the mean negative log-likelihood per target word, END included, captions uncut, words outside the vocabulary as UNK"
Words = Sequence[str]


class TeacherForced(NamedTuple):
    """What a model makes of given captions: loss as in training (summed over time, mean over captions), perplexity, accuracy."""

    loss: float
    perplexity: float
    accuracy: float  # share of target words that had the highest score
    n: int  # captions
    tokens: int  # target words, END included


def teacher_forced(
    model: Any,
    data: Any,
    split: str,
    captions: np.ndarray | None = None,
    batch_size: int = 256,
    progress: bool = False,
    between: Callable[[], None] | None = None,
) -> TeacherForced:
    """Score the captions numbered `captions` (all where None) of a split, without dropout.

    Totals gather on the model's device and are read once. `between` is called after each batch; what it raises ends the scoring.
    """
    chosen = np.arange(len(data.split(split).captions)) if captions is None else captions
    nll: Any = 0.0
    correct: Any = 0
    tokens = 0
    for start in bar(range(0, len(chosen), batch_size), progress, f"scoring {split}"):
        score = model.score(*data.minibatch(split, chosen[start : start + batch_size])[:2])
        nll, correct, tokens = nll + score.nll, correct + score.correct, tokens + score.tokens
        if between is not None:
            between()
    total, words = float(to_numpy(nll)), max(tokens, 1)
    return TeacherForced(total / max(len(chosen), 1), math.exp(min(total / words, 700.0)), int(to_numpy(correct)) / words, len(chosen), tokens)


def corpus_bleu(references: Sequence[Sequence[Words]], hypotheses: Sequence[Words]) -> tuple[float, float, float, float]:
    """Corpus BLEU-1 to BLEU-4 (Papineni et al. 2002) of one hypothesis a picture against all its references.

    No smoothing: an order without a single match makes that BLEU 0 (nltk's answer is some 1e-77 and a warning there). As nltk counts, a
    hypothesis of fewer than n words adds one n-gram that is not found; Papineni et al. add none.
    """
    from nltk.translate.bleu_score import corpus_bleu as nltk_corpus_bleu

    weights = [(1 / n,) * n for n in (1, 2, 3, 4)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that of an order without a match, answered below
        scores = nltk_corpus_bleu(references, hypotheses, weights=weights)
    b1, b2, b3, b4 = (float(score) if score > 1e-50 else 0.0 for score in scores)
    return b1, b2, b3, b4


def unigram_bleu(references: Sequence[Words], hypotheses: Sequence[Words]) -> float:
    """The course's score: mean over captions of the unigram sentence BLEU of a hypothesis against its one reference."""
    from nltk.translate.bleu_score import sentence_bleu

    scores = [
        sentence_bleu([list(reference)], list(hypothesis), weights=(1.0,)) for reference, hypothesis in zip(references, hypotheses, strict=True)
    ]
    return float(np.mean(scores)) if scores else 0.0


def smoothed_bleu(references: Sequence[Words], hypothesis: Words) -> float:
    """Sentence BLEU-4 for ranking captions: a count of 0 is taken as 0.1 (Chen & Cherry 2014, method 1). 0 for a caption without words."""
    from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu

    if not hypothesis:
        return 0.0
    return float(sentence_bleu(list(references), list(hypothesis), smoothing_function=SmoothingFunction().method1))
