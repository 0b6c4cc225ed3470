"""BLEU-1 to BLEU-4 (Papineni et al. 2002) of a corpus, smoothed BLEU, the course's unigram BLEU."""

from collections.abc import Sequence

import numpy as np

from xpcap.metrics.metric import References, Scored, Sums, Words, averaged, require_references

ORDERS = (1, 2, 3, 4)
SMOOTH = 0.1  # stands in for a count of 0 in a single sentence


def bleu(references: References, hypotheses: Sequence[Words]) -> Scored:
    """Corpus values ``bleu1`` to ``bleu4``; of a picture smoothed BLEU-4, as plain BLEU is mostly 0.

    A picture's count of 0 is taken as 0.1 (Chen & Cherry 2014, method 1); without a common word its
    BLEU-4 is 0.
    """
    counts = _counts(references, hypotheses)
    names = [f"bleu{n}" for n in ORDERS]
    sums = Sums(counts, lambda totals: dict(zip(names, _bleu(totals).T, strict=True)))
    totals = sums.values(counts.sum(axis=0, keepdims=True))
    corpus = {name: float(values[0]) for name, values in totals.items()}
    return Scored(corpus, _bleu(counts, SMOOTH)[:, -1].tolist(), sums)


def corpus_bleu(
    references: References, hypotheses: Sequence[Words]
) -> tuple[float, float, float, float]:
    """Corpus BLEU-1 to BLEU-4 of one hypothesis a picture against all its references.

    No smoothing: an order without a single match makes that BLEU 0 (nltk returns about 1e-77 and
    warns). As in nltk, a hypothesis of fewer than n words adds one n-gram without a match; Papineni
    et al. add none.

    ValueError : a picture has no reference. TypeError : a caption is text, not a list of words.
    """
    b1, b2, b3, b4 = _bleu(_counts(references, hypotheses).sum(axis=0, keepdims=True))[0].tolist()
    return b1, b2, b3, b4


def _counts(references: References, hypotheses: Sequence[Words]) -> np.ndarray:
    """Each picture's n-gram matches and n-grams, words, closest reference length: (n, 10)."""
    from nltk.translate.bleu_score import closest_ref_length, modified_precision

    counts = np.zeros((len(hypotheses), 2 * len(ORDERS) + 2))
    for row, captions, words in zip(counts, references, hypotheses, strict=True):
        require_references("corpus_bleu", captions, words)
        precisions = [modified_precision(captions, words, n) for n in ORDERS]
        row[:] = [
            *(precision.numerator for precision in precisions),
            *(precision.denominator for precision in precisions),
            len(words),
            closest_ref_length(captions, len(words)),
        ]
    return counts


def _bleu(counts: np.ndarray, smooth: float = 0.0) -> np.ndarray:
    """BLEU-1 to BLEU-4 (b, 4) of sums of counts (b, 10); `smooth` replaces 0 above single words."""
    orders = len(ORDERS)
    matches, grams, words, closest = np.split(counts, [orders, 2 * orders, -1], axis=1)
    smoothed = np.where((matches == 0) & (matches[:, :1] > 0), smooth, matches)
    with np.errstate(divide="ignore"):  # no match: log(0)
        precision = np.log(smoothed / np.maximum(grams, 1))
    brevity = np.minimum(0, 1 - closest / np.maximum(words, 1))
    return np.exp(brevity + np.cumsum(precision, axis=1) / ORDERS)


def course_bleu(references: References, hypotheses: Sequence[Words]) -> Scored:
    """Unigram sentence BLEU, ``unigram_bleu``: the mean over all references, as in CS231n's notebook."""
    from nltk.translate.bleu_score import sentence_bleu

    means, weights = [], []
    for captions, words in zip(references, hypotheses, strict=True):
        require_references("unigram_bleu", captions, words)
        scores = [sentence_bleu([caption], words, weights=(1.0,)) for caption in captions]
        means.append(np.mean(scores))
        weights.append(len(scores))
    return averaged("unigram_bleu", means, weights=weights)


def unigram_bleu(references: Sequence[Words], hypotheses: Sequence[Words]) -> float:
    """Mean unigram sentence BLEU of hypotheses against one reference each, as in the course.

    TypeError : a caption is text, not a list of words.
    """
    return course_bleu([[reference] for reference in references], hypotheses).corpus["unigram_bleu"]
