"""BLEU-1 to BLEU-4 of a corpus (Papineni et al. 2002), smoothed sentence BLEU-4 for each picture,
and the course's BLEU of single words.
"""

from collections.abc import Collection, Sequence

import numpy as np

from xpcap.metrics.metric import References, Scored, Sums, Words, averaged

ORDERS = (1, 2, 3, 4)
SMOOTH = 0.1  # stands in for a count of 0 in a single sentence


class Bleu:
    """Corpus BLEU-1 to BLEU-4; for each picture its smoothed sentence BLEU-4, since BLEU of one
    sentence is mostly 0.
    """

    name = "bleu"
    title = "BLEU-1..4"
    plain = (
        "share of its words, and of its runs of 2, 3 and 4 words, that people used of the same"
        " picture too; 1 at best"
    )
    protocol = (
        "corpus BLEU-1..4 by nltk, uniform weights, no smoothing, all references of a picture"
    )

    def score(self, references: References, hypotheses: Sequence[Words]) -> Scored:
        """Corpus values ``bleu1`` to ``bleu4``."""
        counts = _counts(references, hypotheses)
        sums = Sums(
            counts,
            lambda totals: {
                f"bleu{n}": values for n, values in zip(ORDERS, _bleu(totals).T, strict=True)
            },
        )
        corpus = {
            name: float(values[0])
            for name, values in sums.values(counts.sum(axis=0, keepdims=True)).items()
        }
        return Scored(corpus, _bleu(counts, SMOOTH)[:, -1].tolist(), sums)


def corpus_bleu(
    references: References, hypotheses: Sequence[Words]
) -> tuple[float, float, float, float]:
    """Corpus BLEU-1 to BLEU-4 of one hypothesis a picture against all its references.

    Notes
    -----
    No smoothing: an order without a single match makes that BLEU 0 (nltk returns about 1e-77 and
    warns). As nltk counts, a hypothesis of fewer than n words adds one n-gram that is not found;
    Papineni et al. add none.
    """
    b1, b2, b3, b4 = _bleu(_counts(references, hypotheses).sum(axis=0, keepdims=True))[0].tolist()
    return b1, b2, b3, b4


def smoothed_bleu(references: Sequence[Words], hypothesis: Words) -> float:
    """Sentence BLEU-4 for ranking captions: a count of 0 is taken as 0.1 (Chen & Cherry 2014,
    method 1). 0 without a common word.
    """
    return float(_bleu(_counts([references], [hypothesis]), SMOOTH)[0, -1])


def _counts(references: References, hypotheses: Sequence[Words]) -> np.ndarray:
    """Counts that each picture adds to corpus BLEU (n, 10): n-grams matched, n-grams, words, words
    of the reference closest in length; by nltk.
    """
    from nltk.translate.bleu_score import closest_ref_length, modified_precision

    counts = np.zeros((len(hypotheses), 2 * len(ORDERS) + 2))
    for row, written, said in zip(counts, references, hypotheses, strict=True):
        precisions = [modified_precision(written, said, n) for n in ORDERS]
        row[:] = [
            *(precision.numerator for precision in precisions),
            *(precision.denominator for precision in precisions),
            len(said),
            closest_ref_length(written, len(said)),
        ]
    return counts


def _bleu(counts: np.ndarray, smooth: float = 0.0) -> np.ndarray:
    """BLEU-1 to BLEU-4 (b, 4) of rows of counts (b, 10), each the sum over a corpus. `smooth`
    stands in for counts of 0, single words apart.
    """
    orders = len(ORDERS)
    found, said, words, closest = (
        counts[:, :orders],
        counts[:, orders : 2 * orders],
        counts[:, -2:-1],
        counts[:, -1:],
    )
    with np.errstate(divide="ignore"):  # nothing found: log(0)
        precision = np.log(
            np.where((found == 0) & (found[:, :1] > 0), smooth, found) / np.maximum(said, 1)
        )
    brevity = np.minimum(0, 1 - closest / np.maximum(words, 1))
    return np.exp(brevity + np.cumsum(precision, axis=1) / ORDERS)


class UnigramBleu:
    """The score of CS231n's notebook: unigram sentence BLEU against one reference, mean over all
    reference captions.

    Parameters
    ----------
    known : the words that the captioner can say; references are read without all others. None: with
        all words
    """

    name = "unigram_bleu"
    title = "unigram BLEU"
    plain = (
        "share of its words that one person used of the same picture, mean over all who wrote; 1 at"
        " best"
    )
    protocol = (
        "the course's: sentence BLEU of single words, each caption as the one reference, START, END"
        " and UNK removed, mean over all"
    )

    def __init__(self, *, known: Collection[str] | None = None) -> None:
        self._known = known

    def score(self, references: References, hypotheses: Sequence[Words]) -> Scored:
        """Corpus value ``unigram_bleu``; for each picture the mean over its references."""
        of_picture = [
            [sentence_unigram_bleu(self._readable(one), words) for one in captions]
            for captions, words in zip(references, hypotheses, strict=True)
        ]
        return averaged(
            self.name,
            [_mean(scores) for scores in of_picture],
            weights=[len(scores) for scores in of_picture],
        )

    def _readable(self, caption: Words) -> Words:
        return caption if self._known is None else [word for word in caption if word in self._known]


def unigram_bleu(references: Sequence[Words], hypotheses: Sequence[Words]) -> float:
    """Mean of the unigram sentence BLEU of each hypothesis against its one reference, as the
    course's notebook computes it.
    """
    return _mean(
        [sentence_unigram_bleu(one, said) for one, said in zip(references, hypotheses, strict=True)]
    )


def sentence_unigram_bleu(reference: Words, hypothesis: Words) -> float:
    """Sentence BLEU-1 of a hypothesis against one reference."""
    from nltk.translate.bleu_score import sentence_bleu

    return float(sentence_bleu([list(reference)], list(hypothesis), weights=(1.0,)))


def _mean(scores: Sequence[float]) -> float:
    return float(np.mean(scores)) if scores else 0.0
