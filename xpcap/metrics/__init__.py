"""Scores, one file each. Those of captions against references are in the table METRICS; a model's own come from `teacher_forced`."""

from xpcap.metrics.bleu import Bleu, corpus_bleu, smoothed_bleu
from xpcap.metrics.metric import Metric, References, Scored, Words
from xpcap.metrics.teacher_forced import TeacherForced, teacher_forced
from xpcap.metrics.unigram import UnigramBleu, unigram_bleu

METRICS: tuple[Metric, ...] = (Bleu(), UnigramBleu())  # in the order that tables show them

__all__ = [
    "METRICS", "Bleu", "Metric", "References", "Scored", "TeacherForced", "UnigramBleu", "Words",
    "corpus_bleu", "smoothed_bleu", "teacher_forced", "unigram_bleu",
]  # fmt: skip
