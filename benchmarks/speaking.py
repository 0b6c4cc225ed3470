"""Makes a model whose captions end. Randomly drawn weights never produce END, and caption length decides the cost of sampling."""

import math

import numpy as np

from xpcap.backend import to_numpy
from xpcap.data.synthetic import LIKE_COCO
from xpcap.data.vocabulary import END, NULL, START, UNK
from xpcap.models import CaptioningRNN

OPEN = 20.0  # pre-activation of an open gate: sigmoid(20) is 1 in float32
TICK = 0.01  # growth of the timer per step: small, so that tanh stays linear
LOUD = 2000.0  # END's score rises by LOUD * TICK per step, far more than the spread of the other scores
SILENT = -1e4  # bias of words that must not be sampled
TIMER, MEMORY, CUE = 0, 1, 0  # two hidden units, and a word dimension: 1 for START, 0 for other words


def make_speak(model: CaptioningRNN) -> None:
    """Change a randomly drawn LSTM captioner so that its greedy captions are as long as those of data.synthetic, and use many words.

    The timer unit grows by TICK per step. The memory unit takes a number from the picture at START, normal(0, deviation * TICK), and keeps it.
    END wins as soon as timer + memory passes a threshold, after normal(mean, deviation) steps, END included. All other units stay random, but
    word vectors are scaled up to the size of the other inputs, so that each word influences the next.
    """
    params = {name: to_numpy(value).copy() for name, value in model.params.items()}
    word_to_idx, H = model.word_to_idx, len(params["b_proj"])
    params["W_embed"] *= 100  # drawn with deviation 0.01
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
    """Score END by timer and memory alone, and all other words by the other units."""
    W_vocab, b_vocab = params["W_vocab"], params["b_vocab"]
    W_vocab[[TIMER, MEMORY]] = W_vocab[:, end] = 0
    W_vocab[[TIMER, MEMORY], end] = LOUD
    length = LIKE_COCO.mean + 1  # END included
    b_vocab[end] = -LOUD * TICK * (length - 0.5)  # the first whole step past the threshold is on average half a step later
