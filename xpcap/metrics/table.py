"""The table of metrics, with their names, descriptions and functions."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from itertools import chain

from xpcap.metrics.bleu import bleu, course_bleu
from xpcap.metrics.cider import CiderD
from xpcap.metrics.metric import Hub, Metric, Words, averaged, of_corpus, per_caption, per_picture
from xpcap.metrics.rouge import rouge_l
from xpcap.metrics.variety import (
    FREQUENT,
    SELDOM,
    CorpusStatistics,
    novel,
    repeated,
    unseen_bigrams,
)

# In the order of printed tables
METRICS: tuple[Metric, ...] = (
    Metric(
        "bleu",
        "BLEU-1..4",
        "share of its words and sequences of 2, 3 and 4 words that human captions of the picture"
        " contain; 1 at best",
        "corpus BLEU-1..4 by nltk, uniform weights, no smoothing, all references of a picture",
        bleu,
        hub=Hub("bleu4", "bleu", "BLEU-4"),
    ),
    Metric(
        "unigram_bleu",
        "unigram BLEU",
        "share of its words that one human caption of the picture contains, mean over these captions;"
        " 1 at best",
        "the course's: sentence BLEU of single words, each caption as the one reference, START, END"
        " and UNK removed, mean over all",
        course_bleu,
        depends_on=("references", "vocabulary"),
    ),
    per_picture(
        "rouge_l",
        "ROUGE-L",
        "overlap with human captions in word order; 1 at best",
        "as in pycocoevalcap: longest common subsequence, best precision and best recall over the"
        " references, beta 1.2, words as for BLEU",
        rouge_l,
        hub=Hub("rouge_l", "rouge", "ROUGE-L"),
    ),
    Metric(
        "cider",
        "CIDEr (CIDEr-D)",
        "consensus with human captions, where distinctive words count more; 0: none, the higher the"
        " better",
        "pycocoevalcap's 'CIDEr', whose formula is CIDEr-D: n-grams of 1 to 4 words, clipped, sigma"
        " 6; document frequencies of these references, words as for BLEU, not stemmed",
        lambda references, captions: averaged("cider", CiderD(references).scores(captions)),
        hub=Hub("cider", "cider", "CIDEr-D"),
    ),
    of_corpus(
        "distinct",
        "distinct captions",
        "different captions as a share of the pictures",
        "number of different captions divided by the number of pictures",
        lambda captions: len(set(map(tuple, captions))) / max(len(captions), 1),
    ),
    of_corpus(
        "words",
        "words used",
        "different words in all captions",
        "number of different words in all captions",
        lambda captions: len(set(chain.from_iterable(captions))),
    ),
    per_caption(
        "length", "length", "words in a caption", "words in a caption, mean over pictures", len
    ),
    per_caption(
        "repeats",
        "repeats",
        "share of captions that repeat one to three words immediately, as in 'is is'",
        "share of captions in which one to three words stand twice in a row",
        lambda words: bool(repeated(words)),
    ),
)
ALIASES = {"cider_d": "cider"}  # second name of a score to its first
TOO_FEW = "too few train captions to learn which words hardly ever end one"


def train_metrics(
    written: Iterable[Words], encoded: Callable[[], Iterable[Words]]
) -> tuple[list[Metric], dict[str, str]]:
    """Metrics that compare with the train split, and the name of one that cannot to the reason.

    written : the split's captions as people wrote them, read once and not held in memory
    encoded : returns the captions as the data set encodes them
    """
    statistics = CorpusStatistics(written)
    metrics = [
        Metric(
            "novel",
            "novel captions",
            "share of captions absent from the training captions",
            "share of captions that are, word for word, no caption of the train split as the data"
            " file encodes it",
            partial(novel, encoded),
            depends_on=("train captions",),
        ),
        Metric(
            "unseen_bigrams",
            "unseen bigrams",
            "share of pairs of neighbouring words absent from the training captions",
            "share of the pairs of neighbouring words, start and end of a caption counted as words,"
            " that are in no caption of the train split; over all captions",
            partial(unseen_bigrams, statistics.bigrams),
            depends_on=("train captions",),
        ),
    ]
    if not (last := statistics.never_last):
        return metrics, {"bad_endings": TOO_FEW}
    endings = per_caption(
        "bad_endings",
        "bad endings",
        "share of captions that break off, as in 'a dog runs on a'",
        "share of captions whose last word hardly ever ends a train caption: it occurs in them"
        f" {FREQUENT} times or more, at the end in at most {SELDOM:.1%} of these; {len(last)} words,"
        f" such as {', '.join([*last][:5])}",
        lambda words: bool(words) and words[-1] in last,
    )
    return [*metrics, replace(endings, depends_on=("train captions",))], {}
