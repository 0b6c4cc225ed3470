"""Students' right solutions of the course, in several styles."""

import re
from collections.abc import Mapping
from pathlib import Path

from xpcap.cs231n import table

WRITTEN = """


def sigmoid(x):
    pos = x >= 0
    z = np.zeros_like(x)
    z[pos] = np.exp(-x[pos])
    z[~pos] = np.exp(x[~pos])
    top = np.ones_like(x)
    top[~pos] = z[~pos]
    return top / (1 + z)


def rnn_step_forward(x, prev_h, Wx, Wh, b):
    next_h, cache = None, None
    forward = np.dot(x, Wx) + np.dot(prev_h, Wh) + b
    next_h = np.tanh(forward)
    cache = (x, prev_h, Wx, Wh, b, next_h)
    return next_h, cache


def rnn_step_backward(dnext_h, cache):
    x, prev_h, Wx, Wh, b, next_h = cache
    dforward = dnext_h * (1 - next_h ** 2)
    dx = np.dot(dforward, Wx.T)
    dprev_h = np.dot(dforward, Wh.T)
    dWx = np.dot(x.T, dforward)
    dWh = np.dot(prev_h.T, dforward)
    db = np.sum(dforward, axis=0)
    return dx, dprev_h, dWx, dWh, db


def rnn_forward(x, h0, Wx, Wh, b):
    N, T, D = x.shape
    H = b.shape[0]
    h = np.zeros((N, T, H))
    prev = h0
    cache = []
    for t in range(T):
        prev, step = rnn_step_forward(x[:, t, :], prev, Wx, Wh, b)
        h[:, t, :] = prev
        cache.append(step)
    return h, cache


def rnn_backward(dh, cache):
    N, T, H = dh.shape
    D = cache[0][0].shape[1]
    dx = np.zeros((N, T, D))
    dWx = np.zeros((D, H))
    dWh = np.zeros((H, H))
    db = np.zeros(H)
    dprev = np.zeros((N, H))
    for t in range(T - 1, -1, -1):
        dcurrent = dh[:, t, :] + dprev
        dxt, dprev, dWxt, dWht, dbt = rnn_step_backward(dcurrent, cache[t])
        dx[:, t, :] = dxt
        dWx += dWxt
        dWh += dWht
        db += dbt
    dh0 = dprev
    return dx, dh0, dWx, dWh, db


def word_embedding_forward(x, W):
    out = W[x, :]
    cache = (x, W.shape)
    return out, cache


def word_embedding_backward(dout, cache):
    x, shape = cache
    dW = np.zeros(shape)
    np.add.at(dW, x, dout)
    return dW


def lstm_step_forward(x, prev_h, prev_c, Wx, Wh, b):
    H = prev_h.shape[1]
    a = x.dot(Wx) + prev_h.dot(Wh) + b
    i = sigmoid(a[:, 0:H])
    f = sigmoid(a[:, H:2 * H])
    o = sigmoid(a[:, 2 * H:3 * H])
    g = np.tanh(a[:, 3 * H:])
    next_c = f * prev_c + i * g
    tanh_next_c = np.tanh(next_c)
    next_h = o * tanh_next_c
    cache = (x, prev_h, prev_c, Wx, Wh, i, f, o, g, tanh_next_c)
    return next_h, next_c, cache


def lstm_step_backward(dnext_h, dnext_c, cache):
    x, prev_h, prev_c, Wx, Wh, i, f, o, g, tanh_next_c = cache
    dcell = dnext_c + o * (1 - tanh_next_c ** 2) * dnext_h
    dgate_i = dcell * g
    dgate_f = dcell * prev_c
    dgate_o = dnext_h * tanh_next_c
    dgate_g = dcell * i
    dprev_c = dcell * f
    dai = dgate_i * i * (1 - i)
    daf = dgate_f * f * (1 - f)
    dao = dgate_o * o * (1 - o)
    dag = dgate_g * (1 - g ** 2)
    da = np.hstack((dai, daf, dao, dag))
    dx = da.dot(Wx.T)
    dprev_h = da.dot(Wh.T)
    dWx = x.T.dot(da)
    dWh = prev_h.T.dot(da)
    db = np.sum(da, axis=0)
    return dx, dprev_h, dprev_c, dWx, dWh, db


def lstm_forward(x, h0, Wx, Wh, b):
    N, T, D = x.shape
    H = h0.shape[1]
    h = np.zeros((N, T, H))
    cache = []
    prev_h = h0
    prev_c = np.zeros((N, H))
    for t in range(T):
        prev_h, prev_c, step = lstm_step_forward(x[:, t, :], prev_h, prev_c, Wx, Wh, b)
        h[:, t, :] = prev_h
        cache.append(step)
    return h, cache


def lstm_backward(dh, cache):
    N, T, H = dh.shape
    D = cache[0][0].shape[1]
    dx = np.zeros((N, T, D))
    dWx = np.zeros((D, 4 * H))
    dWh = np.zeros((H, 4 * H))
    db = np.zeros(4 * H)
    dprev_h = np.zeros((N, H))
    dprev_c = np.zeros((N, H))
    for t in reversed(range(T)):
        dnext_h = dh[:, t, :] + dprev_h
        dnext_c = dprev_c
        dx[:, t, :], dprev_h, dprev_c, dWxt, dWht, dbt = lstm_step_backward(dnext_h, dnext_c, cache[t])
        dWx += dWxt
        dWh += dWht
        db += dbt
    dh0 = dprev_h
    return dx, dh0, dWx, dWh, db
"""

# The head of a module, and what the course gives students
GIVEN = [
    row.name for row in table.functions(["rnn_layers"]) if not row.points and row.name != "sigmoid"
]
LAYERS = table.part("rnn_layers", GIVEN).replace(
    "import numpy as np", "import numpy as np\n" + WRITTEN
)

# What students write of the captioner; the rest is the reference's
METHODS = """
    def loss(self, features, captions):
        captions_in = captions[:, :-1]
        captions_out = captions[:, 1:]
        mask = captions_out != self._null
        names = "W_embed", "W_proj", "b_proj", "Wx", "Wh", "b", "W_vocab", "b_vocab"
        W_embed, W_proj, b_proj, Wx, Wh, b, W_vocab, b_vocab = (self.params[k] for k in names)
        loss, grads = 0.0, {}

        h0 = features.dot(W_proj) + b_proj
        x, cache_embed = word_embedding_forward(captions_in, W_embed)
        if self.cell_type == "rnn":
            h, cache_rnn = rnn_forward(x, h0, Wx, Wh, b)
        else:
            h, cache_rnn = lstm_forward(x, h0, Wx, Wh, b)
        scores, cache_scores = temporal_affine_forward(h, W_vocab, b_vocab)
        loss, dscores = temporal_softmax_loss(scores, captions_out, mask)

        dh, grads["W_vocab"], grads["b_vocab"] = temporal_affine_backward(dscores, cache_scores)
        if self.cell_type == "rnn":
            dx, dh0, grads["Wx"], grads["Wh"], grads["b"] = rnn_backward(dh, cache_rnn)
        else:
            dx, dh0, grads["Wx"], grads["Wh"], grads["b"] = lstm_backward(dh, cache_rnn)
        grads["W_embed"] = word_embedding_backward(dx, cache_embed)
        grads["W_proj"] = features.T.dot(dh0)
        grads["b_proj"] = dh0.sum(axis=0)
        return loss, grads

    def sample(self, features, max_length=30):
        N = features.shape[0]
        captions = self._null * np.ones((N, max_length), dtype=np.int32)
        names = "W_embed", "W_proj", "b_proj", "Wx", "Wh", "b", "W_vocab", "b_vocab"
        W_embed, W_proj, b_proj, Wx, Wh, b, W_vocab, b_vocab = (self.params[k] for k in names)
        h = features.dot(W_proj) + b_proj
        c = np.zeros_like(h)
        word = self._start * np.ones(N, dtype=np.int32)
        for t in range(max_length):
            x, _ = word_embedding_forward(word, W_embed)
            if self.cell_type == "rnn":
                h, _ = rnn_step_forward(x, h, Wx, Wh, b)
            else:
                h, c, _ = lstm_step_forward(x, h, c, Wx, Wh, b)
            scores = h.dot(W_vocab) + b_vocab
            word = np.argmax(scores, axis=1)
            captions[:, t] = word
        return captions
"""


_CLASS = table.source("rnn", table.PACKAGE)
RNN = (
    "import numpy as np\n\nfrom ..rnn_layers import *\n\n\n"
    + _CLASS[_CLASS.index("class CaptioningRNN") : _CLASS.index("    def loss(")]
    + METHODS.lstrip("\n")
)
OPTIM = table.source("optim", table.PACKAGE).replace(  # sgd in place, as the course gives it
    'next_w = w - config["learning_rate"] * dw\n    return next_w',
    'w -= config["learning_rate"] * dw\n    return w',
)
FILES = {
    "rnn_layers.py": LAYERS,
    "classifiers/rnn.py": RNN,
    "optim.py": OPTIM,
    "captioning_solver.py": table.source("captioning_solver", table.PACKAGE),
}


# Other right solutions: functions that stand in the place of those of LAYERS
LOOPS_AND_EINSUM = """
def rnn_step_forward(x, prev_h, Wx, Wh, b):
    N, H = prev_h.shape
    next_h = np.zeros((N, H))
    for n in range(N):
        for k in range(H):
            next_h[n, k] = np.tanh(sum(x[n] * Wx[:, k]) + sum(prev_h[n] * Wh[:, k]) + b[k])
    return next_h, [x, prev_h, Wx, Wh, next_h]


def rnn_step_backward(dnext_h, cache):
    x, prev_h, Wx, Wh, next_h = cache
    N, H = prev_h.shape
    dx, dprev_h, dWx, dWh = (np.zeros(array.shape) for array in (x, prev_h, Wx, Wh))
    db = np.zeros(H)
    for n in range(N):
        for k in range(H):
            da = dnext_h[n, k] * (1 - next_h[n, k] * next_h[n, k])
            db[k] += da
            dx[n] += da * Wx[:, k]
            dWx[:, k] += da * x[n]
            dprev_h[n] += da * Wh[:, k]
            dWh[:, k] += da * prev_h[n]
    return dx, dprev_h, dWx, dWh, db


def word_embedding_backward(dout, cache):
    x, shape = cache
    dW = np.zeros(shape)
    for n in range(x.shape[0]):
        for t in range(x.shape[1]):
            dW[x[n, t]] += dout[n, t]
    return dW


def lstm_forward(x, h0, Wx, Wh, b):
    projected = np.einsum("ntd,dk->ntk", x, Wx) + b
    N, T, H4 = projected.shape
    H = H4 // 4
    hs, cs, gates = [h0], [np.zeros_like(h0)], []
    for t in range(T):
        a = (projected[:, t] + np.einsum("nj,jk->nk", hs[-1], Wh)).reshape(N, 4, H)
        s = np.concatenate((1 / (1 + np.exp(-a[:, :3])), np.tanh(a[:, 3:])), axis=1)
        cs.append(s[:, 1] * cs[-1] + s[:, 0] * s[:, 3])
        hs.append(s[:, 2] * np.tanh(cs[-1]))
        gates.append(s)
    return np.stack(hs[1:], axis=1), (x, Wx, Wh, hs, cs, gates)


def lstm_backward(dh, cache):
    x, Wx, Wh, hs, cs, gates = cache
    N, T, H = dh.shape
    das = np.empty((N, T, 4 * H))
    dnext, dc = 0, 0
    for t in range(T)[::-1]:
        i, f, o, g = (gates[t][:, k] for k in range(4))
        total, tc = dh[:, t] + dnext, np.tanh(cs[t + 1])
        dc = dc + total * o * (1 - tc * tc)
        slopes = (dc * g * i * (1 - i), dc * cs[t] * f * (1 - f), total * tc * o * (1 - o), dc * i * (1 - g * g))
        das[:, t] = np.concatenate(slopes, axis=1)
        dc = dc * f
        dnext = np.einsum("nk,jk->nj", das[:, t], Wh)
    before = np.stack(hs[:-1], axis=1)
    dWx, dWh = np.einsum("ntd,ntk->dk", x, das), np.einsum("ntj,ntk->jk", before, das)
    return np.einsum("ntk,dk->ntd", das, Wx), dnext, dWx, dWh, np.einsum("ntk->k", das)
"""

IN_PLACE = """
def lstm_step_backward(dnext_h, dnext_c, cache):
    x, prev_h, prev_c, Wx, Wh, i, f, o, g, tanh_c = cache
    N, H = dnext_h.shape
    da = np.empty((N, 4 * H))
    dc = dnext_h * o
    dc *= 1 - tanh_c ** 2
    dc += dnext_c
    for k, (upstream, gate) in enumerate(((g, i), (prev_c, f), (None, o))):
        part = da[:, k * H:(k + 1) * H]
        np.multiply(dnext_h, tanh_c, out=part) if upstream is None else np.multiply(dc, upstream, out=part)
        part *= gate
        part *= 1 - gate
    da[:, 3 * H:] = 1 - g ** 2
    da[:, 3 * H:] *= i
    da[:, 3 * H:] *= dc
    dx, dprev_h, dWx, dWh, db = da @ Wx.T, da @ Wh.T, x.T @ da, prev_h.T @ da, da.sum(0)
    dc *= f
    return dx, dprev_h, dc, dWx, dWh, db


def lstm_backward(dh, cache):
    dh = dh.copy()
    N, T, H = dh.shape
    dprev_c = np.zeros((N, H))
    steps = []
    for t in range(T - 1, -1, -1):
        dx, dprev_h, dprev_c, *weights = lstm_step_backward(dh[:, t], dprev_c, cache[t])
        if t:
            dh[:, t - 1] += dprev_h
        if not steps:
            totals = weights
        else:
            for total, weight in zip(totals, weights):
                total += weight
        steps.insert(0, dx)
    return np.array(steps).transpose(1, 0, 2), dprev_h, *totals
"""

OTHER_CACHE = """
class Step:
    def __init__(self, **things):
        self.__dict__.update(things)


def rnn_step_forward(x, prev_h, Wx, Wh, b):
    next_h = np.tanh(x @ Wx + prev_h @ Wh + b)
    return next_h, {"x": x, "h": (prev_h, next_h), "W": (Wx, Wh)}


def rnn_step_backward(dnext_h, cache):
    (prev_h, next_h), (Wx, Wh), x = cache["h"], cache["W"], cache["x"]
    da = (1 - next_h) * (1 + next_h) * dnext_h
    return [da @ Wx.T, da @ Wh.T, x.T @ da, prev_h.T @ da, da.sum(axis=0)]


def rnn_backward(dh, cache):
    dx, dnext, sums = [], 0, [0, 0, 0]
    for k in range(len(cache) - 1, -1, -1):
        step, dnext, *weights = rnn_step_backward(dh[:, k] + dnext, cache[k])
        dx = [step] + dx
        sums = [a + b for a, b in zip(sums, weights)]
    return np.stack(dx, 1), dnext, sums[0], sums[1], sums[2]


def lstm_step_forward(x, prev_h, prev_c, Wx, Wh, b):
    both = np.hstack((x, prev_h))
    a = np.clip(both @ np.vstack((Wx, Wh)) + b, -40, 40)
    H = prev_c.shape[1]
    gates = sigmoid(a[:, :3 * H])
    new = np.tanh(a[:, 3 * H:])
    c = gates[:, H:2 * H] * prev_c + gates[:, :H] * new
    h = gates[:, 2 * H:] * np.tanh(c)
    return h, c, Step(both=both, W=np.vstack((Wx, Wh)), D=x.shape[1], gates=gates, new=new, c=(prev_c, c))


def lstm_step_backward(dnext_h, dnext_c, cache):
    H = dnext_h.shape[1]
    i, f, o = np.hsplit(cache.gates, 3)
    before, after = cache.c
    dc = dnext_c + dnext_h * o / np.cosh(after) ** 2
    da = np.hstack((dc * cache.new * i * (1 - i), dc * before * f * (1 - f),
                    dnext_h * np.tanh(after) * o * (1 - o), dc * i * (1 - cache.new ** 2)))
    dboth = da @ cache.W.T
    dW = cache.both.T @ da
    D = cache.D
    return dboth[:, :D], dboth[:, D:], dc * f, dW[:D], dW[D:], np.ones(len(da)) @ da


def lstm_backward(dh, cache):
    T = dh.shape[1]
    grads = {"h": np.zeros_like(dh[:, 0]), "c": np.zeros_like(dh[:, 0])}
    dx, rest = np.zeros((dh.shape[0], T, cache[0].D)), None
    for t in reversed(range(T)):
        dx[:, t], grads["h"], grads["c"], *weights = lstm_step_backward(dh[:, t] + grads["h"], grads["c"], cache[t])
        rest = weights if rest is None else [a + b for a, b in zip(rest, weights)]
    return dx, grads["h"], *rest
"""


def _float32(text: str) -> str:
    """The solution with all of its arrays, and sums, in float32."""
    text = re.sub(
        r"np\.zeros\((.+)\)$", r"np.zeros(\1, dtype=np.float32)", text, flags=re.MULTILINE
    )
    return text.replace("np.tanh(forward)", "np.tanh(forward.astype(np.float32))")


NOTEBOOK = """
import builtins, sys
import numpy as np
import matplotlib.pyplot as plt
from matplotlib import pyplot, rcParams
rcParams["figure.figsize"] = (10.0, 8.0)
figure, axes = plt.subplots(nrows=2)
axes[0].plot([1, 2], label="loss").set(title="tanh")
plt.show()
np.seterr(all="raise")
np.set_printoptions(precision=2)
np.random.seed(231)
dot = np.dot
np.dot = lambda *a, **k: (print(*a), dot(*a, **k))[1]
sys.stdout.write("x" * 10**6)
"""

STYLES = {
    "as the course's hints suggest, with plots, prints and settings of NumPy": {
        **FILES,
        "rnn_layers.py": NOTEBOOK + LAYERS,
    },
    "loops over samples and units, einsum without steps": {
        **FILES,
        "rnn_layers.py": LAYERS + LOOPS_AND_EINSUM,
    },
    "in place, in float32": {**FILES, "rnn_layers.py": _float32(LAYERS) + IN_PLACE},
    "caches as dict and object, gates clipped": {**FILES, "rnn_layers.py": LAYERS + OTHER_CACHE},
}


def written(files: Mapping[str, str], folder: Path) -> Path:
    """The folder cs231n/ with these files."""
    for name, text in files.items():
        path = folder / "cs231n" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return folder / "cs231n"
