"""Teacher-forced loss, perplexity and accuracy: what a model makes of captions that people wrote."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from xpcap.backend import to_numpy
from xpcap.distributed import SINGLE, Group, batches
from xpcap.progress import bar

PLAIN = "as unsure as a choice among so many words, at each word that people wrote; the fewer the better"
PROTOCOL = "exp of the mean negative log-likelihood per target word, END included, captions uncut, words outside the vocabulary as UNK"


class TeacherForced(NamedTuple):
    """Scores of given captions."""

    loss: float  # as in training: summed over time, mean over captions
    perplexity: float  # see PROTOCOL
    accuracy: float  # share of target words that had the highest score
    n: int  # captions
    tokens: int  # target words, END included


def teacher_forced(
    model: Any,
    data: Any,
    split: str,
    *,
    captions: np.ndarray | None = None,
    batch_size: int = 256,
    progress: bool = False,
    between: Callable[[], None] | None = None,
    group: Group = SINGLE,
) -> TeacherForced:
    """Score captions of a split, without dropout. Totals gather on the model's device and are read once.

    Parameters
    ----------
    model : anything with CaptioningRNN's `score`
    data : CaptionData, or a Feed of it
    captions : numbers of the captions to score (n,), int; None: all
    between : called after each batch; what it raises ends the scoring
    group : shares the captions out; every rank gets the scores of all
    """
    chosen = np.arange(len(data.split(split).captions)) if captions is None else captions
    nll: Any = 0.0
    correct: Any = 0
    tokens = 0
    for batch in bar(list(batches(group, len(chosen), batch_size)), progress, f"scoring {split}"):
        if len(numbers := chosen[batch]):
            score = model.score(*data.minibatch(split, numbers)[:2])
            nll, correct, tokens = nll + score.nll, correct + score.correct, tokens + score.tokens
        if between is not None:
            between()
    totals = np.array([to_numpy(nll), to_numpy(correct), tokens], np.float64)
    group.all_reduce(totals)
    total, right, tokens = float(totals[0]), int(totals[1]), int(totals[2])
    words = max(tokens, 1)
    return TeacherForced(total / max(len(chosen), 1), math.exp(min(total / words, 700.0)), right / words, len(chosen), tokens)
