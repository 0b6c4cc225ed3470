"""Scores of captions against references, in the table METRICS. Open metric.py first, then table.py."""

from xpcap.metrics.bleu import corpus_bleu, unigram_bleu
from xpcap.metrics.cider import CiderD
from xpcap.metrics.metric import (
    Interval,
    Metric,
    References,
    Scored,
    Sums,
    Words,
    averaged,
    intervals,
    of_corpus,
    paired,
    per_caption,
    per_picture,
)
from xpcap.metrics.rouge import rouge_l
from xpcap.metrics.table import ALIASES, METRICS, of_train

__all__ = [
    "ALIASES", "METRICS", "CiderD", "Interval", "Metric", "References", "Scored", "Sums", "Words",
    "averaged", "corpus_bleu", "intervals", "of_corpus", "of_train", "paired", "per_caption",
    "per_picture", "rouge_l", "unigram_bleu",
]  # fmt: skip
