"""Scores of captions against references; METRICS lists them. Open metric.py first, then table.py.

bootstrap.py has intervals.
"""

from xpcap.metrics.bleu import corpus_bleu as corpus_bleu
from xpcap.metrics.bleu import unigram_bleu as unigram_bleu
from xpcap.metrics.bootstrap import Interval as Interval
from xpcap.metrics.bootstrap import bootstrap_intervals as bootstrap_intervals
from xpcap.metrics.bootstrap import paired as paired
from xpcap.metrics.cider import CiderD as CiderD
from xpcap.metrics.metric import Hub as Hub
from xpcap.metrics.metric import Metric as Metric
from xpcap.metrics.metric import References as References
from xpcap.metrics.metric import Scored as Scored
from xpcap.metrics.metric import Sums as Sums
from xpcap.metrics.metric import Words as Words
from xpcap.metrics.metric import averaged as averaged
from xpcap.metrics.metric import of_corpus as of_corpus
from xpcap.metrics.metric import per_caption as per_caption
from xpcap.metrics.metric import per_picture as per_picture
from xpcap.metrics.rouge import rouge_l as rouge_l
from xpcap.metrics.table import ALIASES as ALIASES
from xpcap.metrics.table import METRICS as METRICS
from xpcap.metrics.table import train_metrics as train_metrics
