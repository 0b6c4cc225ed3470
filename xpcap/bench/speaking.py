"""A model whose captions end. Drawn weights never say END, and how long captions are decides what sampling costs."""

import math

import numpy as np

from xpcap.backend import to_numpy
from xpcap.data.synthetic import LIKE_COCO
from xpcap.data.vocabulary import END, NULL, START, UNK
from xpcap.models import CaptioningRNN

OPEN = 20.0  # pre-activation of an open gate: its sigmoid is 1 in float32
TICK = 0.01  # what the timer grows by in a step: small, so that tanh does not bend it
LOUD = 2000.0  # END's score rises by LOUD * TICK a step, far more than other words' scores differ by
SILENT = -1e4  # bias of words that are not to be said
TIMER, MEMORY, CUE = 0, 1, 0  # two hidden units, and the word dimension that is 1 for START and 0 for others


def make_speak(model: CaptioningRNN) -> None:
    """Change a drawn LSTM captioner so that its greedy captions are as long as those of data.synthetic, and of many words.

    The timer's state grows by TICK a step. The memory takes one number from the picture at START, normal(0, deviation * TICK), and keeps
    it. END is said once timer and memory together pass a threshold: normal(mean, deviation) steps, END included. Other units do as they
    are drawn, but word vectors are as long as other inputs, so that what was said decides what is said next.
    """
    params = {name: to_numpy(value).copy() for name, value in model.params.items()}
    word_to_idx, H = model.word_to_idx, len(params["b_proj"])
    params["W_embed"] *= 100  # they are drawn with deviation 0.01
    params["W_embed"][:, CUE] = 0
    params["W_embed"][word_to_idx[START], CUE] = 1
    Wx, Wh, b = params["Wx"], params["Wh"], params["b"]
    i, f, o, g = (slice(k * H, (k + 1) * H) for k in range(4))
    memory = Wh[:, g][:, MEMORY] * TICK
    memory *= LIKE_COCO.deviation * TICK / np.linalg.norm(params["W_proj"] @ memory)  # features are standard normal
    for gate in (i, f, o, g):
        Wx[:, gate][:, [TIMER, MEMORY]] = Wh[:, gate][:, [TIMER, MEMORY]] = 0
    b[i][TIMER] = b[f][[TIMER, MEMORY]] = b[o][[TIMER, MEMORY]] = OPEN
    b[g][TIMER] = math.atanh(TICK)
    b[i][MEMORY], Wx[CUE, i][MEMORY] = -OPEN, 2 * OPEN
    Wh[:, g][:, MEMORY] = memory
    _let_end(params, word_to_idx[END])
    params["b_vocab"][[word_to_idx[word] for word in (NULL, START, UNK)]] = SILENT
    for name, value in params.items():
        model.params[name] = value


def _let_end(params: dict[str, np.ndarray], end: int) -> None:
    """END listens to timer and memory alone, and nothing else does."""
    W_vocab, b_vocab = params["W_vocab"], params["b_vocab"]
    W_vocab[[TIMER, MEMORY]] = W_vocab[:, end] = 0
    W_vocab[[TIMER, MEMORY], end] = LOUD
    length = LIKE_COCO.mean + 1  # END among the words
    b_vocab[end] = -LOUD * TICK * (length - 0.5)  # the first whole step beyond it: half a step later in the mean
