"""The course's BLEU: single words, one reference at a time."""

from collections.abc import Sequence

import numpy as np

from xpcap.metrics.metric import References, Scored, Words, averaged


class UnigramBleu:
    """The score of CS231n's notebook: mean over all reference captions of the unigram sentence BLEU against that one reference."""

    name = "unigram_bleu"
    title = "unigram BLEU"
    plain = "share of its words that one person used of the same picture, mean over all who wrote; 1 at best"
    protocol = "the course's: sentence BLEU of single words, each caption as the one reference, START, END and UNK removed, mean over all"
    known_only = True

    def score(self, references: References, hypotheses: Sequence[Words]) -> Scored:
        """Corpus value ``unigram_bleu``; for each picture the mean over its references."""
        of_picture = [[sentence_unigram_bleu(one, said) for one in written] for written, said in zip(references, hypotheses, strict=True)]
        return averaged(self.name, [_mean(scores) for scores in of_picture], weights=[len(scores) for scores in of_picture])


def unigram_bleu(references: Sequence[Words], hypotheses: Sequence[Words]) -> float:
    """Mean of the unigram sentence BLEU of each hypothesis against its one reference, as the course's notebook computes it."""
    return _mean([sentence_unigram_bleu(one, said) for one, said in zip(references, hypotheses, strict=True)])


def sentence_unigram_bleu(reference: Words, hypothesis: Words) -> float:
    """Sentence BLEU-1 of a hypothesis against one reference."""
    from nltk.translate.bleu_score import sentence_bleu

    return float(sentence_bleu([list(reference)], list(hypothesis), weights=(1.0,)))


def _mean(scores: Sequence[float]) -> float:
    return float(np.mean(scores)) if scores else 0.0
