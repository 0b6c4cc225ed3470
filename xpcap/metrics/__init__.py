"""Scores of captions against references, in the table METRICS. Open metric.py first."""

from xpcap.metrics.bleu import Bleu, UnigramBleu, corpus_bleu, smoothed_bleu, unigram_bleu
from xpcap.metrics.cider import Cider, CiderD, DocumentFrequencies
from xpcap.metrics.metric import (
    Interval,
    Metric,
    References,
    Scored,
    Sums,
    Words,
    averaged,
    intervals,
    paired,
)
from xpcap.metrics.rouge import RougeL, rouge_l
from xpcap.metrics.variety import (
    WITHOUT_REFERENCES,
    BadEndings,
    CorpusStatistics,
    Distinct,
    Length,
    Novel,
    Repeats,
    UnseenBigrams,
    WordsUsed,
)

# in the order that tables show them
METRICS: tuple[Metric, ...] = (
    Bleu(),
    UnigramBleu(),
    RougeL(),
    Cider(),
    Distinct(),
    WordsUsed(),
    Length(),
    Repeats(),
)
ALIASES = {"cider_d": "cider"}  # a second name of a score, to its first

__all__ = [
    "ALIASES",
    "METRICS",
    "WITHOUT_REFERENCES",
    "BadEndings",
    "Bleu",
    "Cider",
    "CiderD",
    "CorpusStatistics",
    "Distinct",
    "DocumentFrequencies",
    "Interval",
    "Length",
    "Metric",
    "Novel",
    "References",
    "Repeats",
    "RougeL",
    "Scored",
    "Sums",
    "UnigramBleu",
    "UnseenBigrams",
    "Words",
    "WordsUsed",
    "averaged",
    "corpus_bleu",
    "intervals",
    "paired",
    "rouge_l",
    "smoothed_bleu",
    "unigram_bleu",
]
