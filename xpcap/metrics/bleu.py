"""BLEU-1 to BLEU-4 (Papineni et al. 2002), smoothed sentence BLEU, and the course's unigram BLEU."""

from collections.abc import Sequence

import numpy as np

from xpcap.metrics.metric import References, Scored, Sums, Words, averaged, require_references

ORDERS = (1, 2, 3, 4)
SMOOTH = 0.1  # replaces a count of 0 in a single sentence


def bleu(references: References, hypotheses: Sequence[Words]) -> Scored:
    """Corpus BLEU, ``bleu1`` to ``bleu4``, and smoothed BLEU-4 of each picture.

    Without smoothing, BLEU-4 of a picture is mostly 0. A count of 0 becomes 0.1 (Chen & Cherry
    2014, method 1); without a common word BLEU-4 is 0.
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
    """Corpus BLEU-1 to BLEU-4 of one hypothesis per picture against all its references.

    There is no smoothing: BLEU-n is 0 if an order up to n has no match (nltk returns about 1e-77
    and warns). As in nltk, a hypothesis of fewer than n words adds one n-gram without a match;
    Papineni et al. add none.

    ValueError : a picture has no reference. TypeError : a caption is text, not a list of words.

    Examples
    --------
    >>> references = [["a red dog runs".split(), "the dog runs".split()]]
    >>> [round(score, 3) for score in corpus_bleu(references, ["a red dog sits".split()])]
    [0.75, 0.707, 0.63, 0.0]
    """
    b1, b2, b3, b4 = _bleu(_counts(references, hypotheses).sum(axis=0, keepdims=True))[0].tolist()
    return b1, b2, b3, b4


def _counts(references: References, hypotheses: Sequence[Words]) -> np.ndarray:
    """For each picture n-gram matches, n-grams, words, and closest reference length: (n, 10)."""
    from nltk.translate.bleu_score import closest_ref_length, modified_precision

    counts = np.zeros((len(hypotheses), 2 * len(ORDERS) + 2))
    for row, captions, words in zip(counts, references, hypotheses, strict=True):
        require_references(captions, words)
        precisions = [modified_precision(captions, words, n) for n in ORDERS]
        row[:] = [
            *(precision.numerator for precision in precisions),
            *(precision.denominator for precision in precisions),
            len(words),
            closest_ref_length(captions, len(words)),
        ]
    return counts


def _bleu(counts: np.ndarray, smooth: float = 0.0) -> np.ndarray:
    """BLEU-1 to BLEU-4 (b, 4) of summed counts (b, 10); `smooth` replaces 0 if a word matches."""
    orders = len(ORDERS)
    matches, grams, words, closest = np.split(counts, [orders, 2 * orders, -1], axis=1)
    smoothed = np.where((matches == 0) & (matches[:, :1] > 0), smooth, matches)
    with np.errstate(divide="ignore"):  # no match: log(0)
        precision = np.log(smoothed / np.maximum(grams, 1))
    brevity = np.minimum(0, 1 - closest / np.maximum(words, 1))
    return np.exp(brevity + np.cumsum(precision, axis=1) / ORDERS)


def course_bleu(references: References, hypotheses: Sequence[Words]) -> Scored:
    """Unigram sentence BLEU, ``unigram_bleu``, averaged over all references as in CS231n."""
    from nltk.translate.bleu_score import sentence_bleu

    means = []
    weights = []
    for captions, words in zip(references, hypotheses, strict=True):
        require_references(captions, words)
        scores = [sentence_bleu([caption], words, weights=(1.0,)) for caption in captions]
        means.append(np.mean(scores))
        weights.append(len(scores))
    return averaged("unigram_bleu", means, weights=weights)


def unigram_bleu(references: Sequence[Words], hypotheses: Sequence[Words]) -> float:
    """Mean unigram sentence BLEU of hypotheses against one reference each, as in the course.

    TypeError : a caption is text, not a list of words.

    Examples
    --------
    >>> unigram_bleu([["a", "red", "dog"]], [["a", "blue", "dog"]])
    0.6666666666666666
    """
    return course_bleu([[reference] for reference in references], hypotheses).corpus["unigram_bleu"]
