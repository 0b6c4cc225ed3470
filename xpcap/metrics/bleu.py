"""BLEU-1 to BLEU-4 of a corpus (Papineni et al. 2002), and smoothed sentence BLEU-4 for each picture."""

import warnings
from collections.abc import Sequence

from xpcap.metrics.metric import References, Scored, Words

ORDERS = (1, 2, 3, 4)


class Bleu:
    """Corpus BLEU-1 to BLEU-4; for each picture its smoothed sentence BLEU-4, since BLEU of one sentence is mostly 0."""

    name = "bleu"
    title = "BLEU-1..4"
    protocol = "corpus BLEU-1..4 by nltk, uniform weights, no smoothing, all references of a picture, words in [a-z0-9]+ lower case"
    known_only = False

    def score(self, references: References, hypotheses: Sequence[Words]) -> Scored:
        """Corpus values ``bleu1`` to ``bleu4``."""
        corpus = {f"bleu{n}": value for n, value in zip(ORDERS, corpus_bleu(references, hypotheses), strict=True)}
        return Scored(corpus, [smoothed_bleu(written, said) for written, said in zip(references, hypotheses, strict=True)])


def corpus_bleu(references: References, hypotheses: Sequence[Words]) -> tuple[float, float, float, float]:
    """Corpus BLEU-1 to BLEU-4 of one hypothesis a picture against all its references.

    Notes
    -----
    No smoothing: an order without a single match makes that BLEU 0 (nltk returns about 1e-77 and warns). As nltk counts, a hypothesis of
    fewer than n words adds one n-gram that is not found; Papineni et al. add none.
    """
    from nltk.translate.bleu_score import corpus_bleu as nltk_corpus_bleu

    weights = [(1 / n,) * n for n in ORDERS]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # nltk's about an order without a match
        scores = nltk_corpus_bleu(references, hypotheses, weights=weights)
    b1, b2, b3, b4 = (float(score) if score > 1e-50 else 0.0 for score in scores)
    return b1, b2, b3, b4


def smoothed_bleu(references: Sequence[Words], hypothesis: Words) -> float:
    """Sentence BLEU-4 for ranking captions: a count of 0 is taken as 0.1 (Chen & Cherry 2014, method 1). 0 for an empty caption."""
    from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu

    if not hypothesis:
        return 0.0
    return float(sentence_bleu(list(references), list(hypothesis), smoothing_function=SmoothingFunction().method1))
