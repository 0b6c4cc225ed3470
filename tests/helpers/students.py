"""Students' solutions of the course: right ones in several styles, and mistakes to make in one.

`python tests/helpers/students.py` writes the table of docs/develop/mistakes.md.
"""

import difflib
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from xpcap.exercise.grading import Result, grade

LAYERS = """
import numpy as np


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


def temporal_affine_forward(x, w, b):
    N, T, D = x.shape
    M = b.shape[0]
    out = x.reshape(N * T, D).dot(w).reshape(N, T, M) + b
    cache = x, w, b, out
    return out, cache


def temporal_affine_backward(dout, cache):
    x, w, b, out = cache
    N, T, D = x.shape
    M = b.shape[0]
    dx = dout.reshape(N * T, M).dot(w.T).reshape(N, T, D)
    dw = dout.reshape(N * T, M).T.dot(x.reshape(N * T, D)).T
    db = dout.sum(axis=(0, 1))
    return dx, dw, db


def affine_forward(x, w, b):
    out = x.reshape(x.shape[0], -1).dot(w) + b
    return out, (x, w, b)


def affine_backward(dout, cache):
    x, w, b = cache
    dx = dout.dot(w.T).reshape(x.shape)
    dw = x.reshape(x.shape[0], -1).T.dot(dout)
    db = np.sum(dout, axis=0)
    return dx, dw, db


def temporal_softmax_loss(x, y, mask, verbose=False):
    N, T, V = x.shape
    x_flat = x.reshape(N * T, V)
    y_flat = y.reshape(N * T)
    mask_flat = mask.reshape(N * T)
    probs = np.exp(x_flat - np.max(x_flat, axis=1, keepdims=True))
    probs /= np.sum(probs, axis=1, keepdims=True)
    loss = -np.sum(mask_flat * np.log(probs[np.arange(N * T), y_flat])) / N
    dx_flat = probs.copy()
    dx_flat[np.arange(N * T), y_flat] -= 1
    dx_flat /= N
    dx_flat *= mask_flat[:, None]
    return loss, dx_flat.reshape(N, T, V)
"""

RNN = """
import numpy as np

from ..rnn_layers import *


class CaptioningRNN:
    def __init__(self, word_to_idx, input_dim=512, wordvec_dim=128, hidden_dim=128,
                 cell_type="rnn", dtype=np.float32):
        self.cell_type = cell_type
        self.dtype = dtype
        self.word_to_idx = word_to_idx
        self.params = {}
        vocab_size = len(word_to_idx)
        self._null = word_to_idx["<NULL>"]
        self._start = word_to_idx.get("<START>", None)
        self._end = word_to_idx.get("<END>", None)
        self.params["W_embed"] = np.random.randn(vocab_size, wordvec_dim) / 100
        self.params["W_proj"] = np.random.randn(input_dim, hidden_dim) / np.sqrt(input_dim)
        self.params["b_proj"] = np.zeros(hidden_dim)
        dim_mul = {"lstm": 4, "rnn": 1}[cell_type]
        self.params["Wx"] = np.random.randn(wordvec_dim, dim_mul * hidden_dim) / np.sqrt(wordvec_dim)
        self.params["Wh"] = np.random.randn(hidden_dim, dim_mul * hidden_dim) / np.sqrt(hidden_dim)
        self.params["b"] = np.zeros(dim_mul * hidden_dim)
        self.params["W_vocab"] = np.random.randn(hidden_dim, vocab_size) / np.sqrt(hidden_dim)
        self.params["b_vocab"] = np.zeros(vocab_size)
        for k, v in self.params.items():
            self.params[k] = v.astype(self.dtype)

    def loss(self, features, captions):
        captions_in = captions[:, :-1]
        captions_out = captions[:, 1:]
        mask = captions_out != self._null
        W_proj, b_proj = self.params["W_proj"], self.params["b_proj"]
        W_embed = self.params["W_embed"]
        Wx, Wh, b = self.params["Wx"], self.params["Wh"], self.params["b"]
        W_vocab, b_vocab = self.params["W_vocab"], self.params["b_vocab"]
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
        W_proj, b_proj = self.params["W_proj"], self.params["b_proj"]
        W_embed = self.params["W_embed"]
        Wx, Wh, b = self.params["Wx"], self.params["Wh"], self.params["b"]
        W_vocab, b_vocab = self.params["W_vocab"], self.params["b_vocab"]
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

OPTIM = """
import numpy as np


def sgd(w, dw, config=None):
    if config is None:
        config = {}
    config.setdefault("learning_rate", 1e-2)
    w -= config["learning_rate"] * dw
    return w, config


def sgd_momentum(w, dw, config=None):
    if config is None:
        config = {}
    config.setdefault("learning_rate", 1e-2)
    config.setdefault("momentum", 0.9)
    v = config.get("velocity", np.zeros_like(w))
    v = config["momentum"] * v - config["learning_rate"] * dw
    next_w = w + v
    config["velocity"] = v
    return next_w, config


def rmsprop(w, dw, config=None):
    if config is None:
        config = {}
    config.setdefault("learning_rate", 1e-2)
    config.setdefault("decay_rate", 0.99)
    config.setdefault("epsilon", 1e-8)
    config.setdefault("cache", np.zeros_like(w))
    config["cache"] = config["decay_rate"] * config["cache"] + (1 - config["decay_rate"]) * dw ** 2
    next_w = w - config["learning_rate"] * dw / (np.sqrt(config["cache"]) + config["epsilon"])
    return next_w, config


def adam(w, dw, config=None):
    if config is None:
        config = {}
    config.setdefault("learning_rate", 1e-3)
    config.setdefault("beta1", 0.9)
    config.setdefault("beta2", 0.999)
    config.setdefault("epsilon", 1e-8)
    config.setdefault("m", np.zeros_like(w))
    config.setdefault("v", np.zeros_like(w))
    config.setdefault("t", 0)
    config["t"] += 1
    config["m"] = config["beta1"] * config["m"] + (1 - config["beta1"]) * dw
    config["v"] = config["beta2"] * config["v"] + (1 - config["beta2"]) * (dw * dw)
    mt = config["m"] / (1 - config["beta1"] ** config["t"])
    vt = config["v"] / (1 - config["beta2"] ** config["t"])
    next_w = w - config["learning_rate"] * mt / (np.sqrt(vt) + config["epsilon"])
    return next_w, config
"""

SOLVER = """
import numpy as np

from cs231n import optim
from cs231n.coco_utils import sample_coco_minibatch


class CaptioningSolver(object):
    def __init__(self, model, data, **kwargs):
        self.model = model
        self.data = data
        self.update_rule = kwargs.pop("update_rule", "sgd")
        self.optim_config = kwargs.pop("optim_config", {})
        self.lr_decay = kwargs.pop("lr_decay", 1.0)
        self.batch_size = kwargs.pop("batch_size", 100)
        self.num_epochs = kwargs.pop("num_epochs", 10)
        self.print_every = kwargs.pop("print_every", 10)
        self.verbose = kwargs.pop("verbose", True)
        self.update_rule = getattr(optim, self.update_rule)
        self._reset()

    def _reset(self):
        self.epoch = 0
        self.loss_history = []
        self.optim_configs = {}
        for p in self.model.params:
            d = {k: v for k, v in self.optim_config.items()}
            self.optim_configs[p] = d

    def _step(self):
        minibatch = sample_coco_minibatch(self.data, batch_size=self.batch_size, split="train")
        captions, features, urls = minibatch
        loss, grads = self.model.loss(features, captions)
        self.loss_history.append(loss)
        for p, w in self.model.params.items():
            dw = grads[p]
            config = self.optim_configs[p]
            next_w, next_config = self.update_rule(w, dw, config)
            self.model.params[p] = next_w
            self.optim_configs[p] = next_config

    def train(self):
        num_train = self.data["train_captions"].shape[0]
        iterations_per_epoch = max(num_train // self.batch_size, 1)
        num_iterations = self.num_epochs * iterations_per_epoch
        for t in range(num_iterations):
            self._step()
            if self.verbose and t % self.print_every == 0:
                print("(Iteration %d / %d) loss: %f" % (t + 1, num_iterations, self.loss_history[-1]))
            epoch_end = (t + 1) % iterations_per_epoch == 0
            if epoch_end:
                self.epoch += 1
                for k in self.optim_configs:
                    self.optim_configs[k]["learning_rate"] *= self.lr_decay
"""

FILES = {
    "rnn_layers.py": LAYERS,
    "classifiers/rnn.py": RNN,
    "optim.py": OPTIM,
    "captioning_solver.py": SOLVER,
}


# Other right solutions: functions that stand in the place of those of LAYERS
LOOPS = """
def rnn_step_forward(x, prev_h, Wx, Wh, b):
    N, D = x.shape
    H = prev_h.shape[1]
    next_h = np.zeros((N, H))
    for n in range(N):
        for k in range(H):
            total = b[k]
            for d in range(D):
                total += x[n, d] * Wx[d, k]
            for j in range(H):
                total += prev_h[n, j] * Wh[j, k]
            next_h[n, k] = np.tanh(total)
    return next_h, [x, prev_h, Wx, Wh, next_h]


def rnn_step_backward(dnext_h, cache):
    x, prev_h, Wx, Wh, next_h = cache
    N, D = x.shape
    H = prev_h.shape[1]
    dx, dprev_h = np.zeros((N, D)), np.zeros((N, H))
    dWx, dWh, db = np.zeros((D, H)), np.zeros((H, H)), np.zeros(H)
    for n in range(N):
        for k in range(H):
            da = dnext_h[n, k] * (1 - next_h[n, k] * next_h[n, k])
            db[k] += da
            for d in range(D):
                dx[n, d] += da * Wx[d, k]
                dWx[d, k] += da * x[n, d]
            for j in range(H):
                dprev_h[n, j] += da * Wh[j, k]
                dWh[j, k] += da * prev_h[n, j]
    return dx, dprev_h, dWx, dWh, db


def word_embedding_backward(dout, cache):
    x, shape = cache
    dW = np.zeros(shape)
    for n in range(x.shape[0]):
        for t in range(x.shape[1]):
            dW[x[n, t]] += dout[n, t]
    return dW


def lstm_step_backward(dnext_h, dnext_c, cache):
    x, prev_h, prev_c, Wx, Wh, i, f, o, g, tanh_c = cache
    N, H = dnext_h.shape
    da, dprev_c = np.zeros((N, 4 * H)), np.zeros((N, H))
    for n in range(N):
        for k in range(H):
            dc = dnext_c[n, k] + dnext_h[n, k] * o[n, k] * (1 - tanh_c[n, k] ** 2)
            da[n, k] = dc * g[n, k] * i[n, k] * (1 - i[n, k])
            da[n, H + k] = dc * prev_c[n, k] * f[n, k] * (1 - f[n, k])
            da[n, 2 * H + k] = dnext_h[n, k] * tanh_c[n, k] * o[n, k] * (1 - o[n, k])
            da[n, 3 * H + k] = dc * i[n, k] * (1 - g[n, k] ** 2)
            dprev_c[n, k] = dc * f[n, k]
    dx, dprev_h, dWx, dWh, db = da @ Wx.T, da @ Wh.T, x.T @ da, prev_h.T @ da, sum(da)
    return dx, dprev_h, dprev_c, dWx, dWh, db
"""

EINSUM = """
def rnn_step_backward(dnext_h, cache):
    x, prev_h, Wx, Wh, b, next_h = cache
    da = dnext_h - dnext_h * next_h ** 2
    dx = np.einsum("nk,dk->nd", da, Wx)
    dprev_h = np.einsum("nk,jk->nj", da, Wh)
    return dx, dprev_h, np.einsum("nd,nk->dk", x, da), np.einsum("nj,nk->jk", prev_h, da), np.einsum("nk->k", da)


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
def rnn_step_backward(dnext_h, cache):
    x, prev_h, Wx, Wh, b, next_h = cache
    da = next_h * next_h
    np.subtract(1, da, out=da)
    da *= dnext_h
    db = np.empty(da.shape[1])
    np.sum(da, axis=0, out=db)
    return da @ Wx.T, da @ Wh.T, x.T @ da, prev_h.T @ da, db


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
    a = both @ np.vstack((Wx, Wh)) + b
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
    for shape in ("(N, T, H)", "(N, T, D)", "(D, H)", "(H, H)", "H", "(N, H)", "shape"):
        text = text.replace(f"np.zeros({shape})", f"np.zeros({shape}, dtype=np.float32)")
    for shape in ("(D, 4 * H)", "(H, 4 * H)", "4 * H"):
        text = text.replace(f"np.zeros({shape})", f"np.zeros({shape}, dtype=np.float32)")
    return text.replace("np.tanh(forward)", "np.tanh(forward.astype(np.float32))")


STYLES = {
    "as the course's hints suggest": FILES,
    "loops": {**FILES, "rnn_layers.py": LAYERS + LOOPS},
    "einsum, a sequence that calls no step": {**FILES, "rnn_layers.py": LAYERS + EINSUM},
    "float32 throughout": {**FILES, "rnn_layers.py": _float32(LAYERS)},
    "in place": {**FILES, "rnn_layers.py": LAYERS + IN_PLACE},
    "caches as dict and object": {**FILES, "rnn_layers.py": LAYERS + OTHER_CACHE},
}


class Mistake(NamedTuple):
    """A mistake: text of a function of the solution above and what stands in its place.

    Grading must name `function`, and have `kind` and every word of `where` in its answer.
    """

    name: str
    function: str
    right: str
    wrong: str
    kind: str
    where: tuple[str, ...] = ()


P = Mistake
MISTAKES = [
    # one step of the RNN
    P("tanh forgotten", "rnn_step_forward", "np.tanh(forward)", "forward", "missing activation"),
    P("bias forgotten", "rnn_step_forward", " + b\n", "\n", "bias missing"),
    P(
        "sigmoid for tanh",
        "rnn_step_forward",
        "np.tanh(forward)",
        "sigmoid(forward)",
        "wrong activation",
    ),
    P(
        "input and state mixed up",
        "rnn_step_forward",
        "np.dot(prev_h, Wh)",
        "np.dot(prev_h, Wh.T)",
        "transposed weight",
        ("next_h",),
    ),
    P(
        "no tanh derivative",
        "rnn_step_backward",
        "dnext_h * (1 - next_h ** 2)",
        "dnext_h",
        "missing derivative of tanh",
    ),
    P(
        "tanh derivative of a sum",
        "rnn_step_backward",
        "(1 - next_h ** 2)",
        "(1 - next_h)",
        "derivative of tanh wrong",
    ),
    P(
        "plus for minus",
        "rnn_step_backward",
        "(1 - next_h ** 2)",
        "(1 + next_h ** 2)",
        "derivative of tanh wrong",
    ),
    P(
        "tanh applied again",
        "rnn_step_backward",
        "(1 - next_h ** 2)",
        "(1 - np.tanh(next_h) ** 2)",
        "derivative of tanh wrong",
    ),
    P(
        "no transpose",
        "rnn_step_backward",
        "np.dot(dforward, Wh.T)",
        "np.dot(dforward, Wh)",
        "transposed weight",
        ("dprev_h",),
    ),
    P(
        "shapes that do not fit",
        "rnn_step_backward",
        "np.dot(dforward, Wx.T)",
        "np.dot(dforward, Wx)",
        "transposed weight",
    ),
    P(
        "weights' gradient transposed",
        "rnn_step_backward",
        "np.dot(x.T, dforward)",
        "np.dot(dforward.T, x)",
        "transposed",
        ("dWx",),
    ),
    P(
        "no sum over the batch",
        "rnn_step_backward",
        "np.sum(dforward, axis=0)",
        "dforward",
        "sum over the batch missing",
        ("db",),
    ),
    P(
        "mean over the batch",
        "rnn_step_backward",
        "np.sum(dforward, axis=0)",
        "np.mean(dforward, axis=0)",
        "mean for a sum",
        ("db",),
    ),
    P(
        "first sample alone",
        "rnn_step_backward",
        "np.sum(dforward, axis=0)",
        "dforward[0]",
        "sum over the batch missing",
        ("db",),
    ),
    P(
        "dWh from x",
        "rnn_step_backward",
        "dWh = np.dot(prev_h.T, dforward)",
        "dWh = np.dot(next_h.T, dforward)",
        "wrong variable",
        ("dWh",),
    ),
    # a sequence of the RNN
    P(
        "state not carried",
        "rnn_forward",
        "x[:, t, :], prev, Wx",
        "x[:, t, :], h0, Wx",
        "state not carried",
        ("time step 1, 2, 3",),
    ),
    P(
        "first state ignored",
        "rnn_forward",
        "prev = h0",
        "prev = np.zeros_like(h0)",
        "state not reset",
    ),
    P(
        "last step left out",
        "rnn_forward",
        "for t in range(T):",
        "for t in range(T - 1):",
        "step left out",
        ("time step 3",),
    ),
    P(
        "carried gradient not added",
        "rnn_backward",
        "dh[:, t, :] + dprev",
        "dh[:, t, :]",
        "dh not added",
        ("time step 0, 1, 2",),
    ),
    P(
        "gradient of the step's loss not added",
        "rnn_backward",
        "dh[:, t, :] + dprev",
        "dprev if t < T - 1 else dh[:, t, :]",
        "dh not added",
    ),
    P(
        "overwritten",
        "rnn_backward",
        "dWx += dWxt",
        "dWx = dWxt",
        "not added up over steps",
        ("dWx",),
    ),
    P(
        "forward in time",
        "rnn_backward",
        "range(T - 1, -1, -1)",
        "range(T)",
        "steps in the wrong order",
    ),
    P("one cache for all", "rnn_backward", "cache[t]", "cache[-1]", "wrong time step"),
    P(
        "dh0 forgotten",
        "rnn_backward",
        "dh0 = dprev",
        "dh0 = np.zeros((N, H))",
        "left at zero",
        ("dh0",),
    ),
    P(
        "dh0 is that of the first step's loss",
        "rnn_backward",
        "dh0 = dprev",
        "dh0 = dh[:, 0, :]",
        "",
        ("dh0",),
    ),
    P(
        "last gradient twice",
        "rnn_backward",
        "dprev = np.zeros((N, H))",
        "dprev = dh[:, -1, :]",
        "dh added twice",
    ),
    # words
    P(
        "scatter by +=",
        "word_embedding_backward",
        "np.add.at(dW, x, dout)",
        "dW[x] += dout",
        "scatter without adding",
    ),
    P(
        "scatter by =",
        "word_embedding_backward",
        "np.add.at(dW, x, dout)",
        "dW[x] = dout",
        "scatter without adding",
    ),
    # one step of the LSTM
    P(
        "gates i, f, g, o",
        "lstm_step_forward",
        "o = sigmoid(a[:, 2 * H:3 * H])\n    g = np.tanh(a[:, 3 * H:])",
        "g = np.tanh(a[:, 2 * H:3 * H])\n    o = sigmoid(a[:, 3 * H:])",
        "gates swapped",
        ("o, g",),
    ),
    P(
        "forget and input gate",
        "lstm_step_forward",
        "f * prev_c + i * g",
        "i * prev_c + f * g",
        "gates swapped",
        ("i, f",),
    ),
    P(
        "no tanh of the cell",
        "lstm_step_forward",
        "o * tanh_next_c",
        "o * next_c",
        "missing activation",
        ("next_h",),
    ),
    P(
        "sigmoid for g",
        "lstm_step_forward",
        "g = np.tanh(",
        "g = sigmoid(",
        "wrong activation",
        ("gate g",),
    ),
    P(
        "old cell dropped",
        "lstm_step_forward",
        "f * prev_c + i * g",
        "i * g",
        "state not carried",
        ("next_c",),
    ),
    P(
        "no sigmoid derivative of f",
        "lstm_step_backward",
        "dgate_f * f * (1 - f)",
        "dgate_f",
        "missing derivative of sigmoid",
        ("gate f",),
    ),
    P(
        "no tanh derivative of g",
        "lstm_step_backward",
        "dgate_g * (1 - g ** 2)",
        "dgate_g",
        "missing derivative of tanh",
        ("gate g",),
    ),
    P(
        "sigmoid derivative for g",
        "lstm_step_backward",
        "(1 - g ** 2)",
        "g * (1 - g)",
        "derivative of sigmoid instead of tanh",
        ("gate g",),
    ),
    P(
        "tanh derivative for o",
        "lstm_step_backward",
        "dgate_o * o * (1 - o)",
        "dgate_o * (1 - o ** 2)",
        "derivative of tanh instead of sigmoid",
        ("gate o",),
    ),
    P(
        "half a sigmoid derivative",
        "lstm_step_backward",
        "dgate_i * i * (1 - i)",
        "dgate_i * (1 - i)",
        "derivative of sigmoid wrong",
        ("gate i",),
    ),
    P(
        "no tanh derivative of the cell",
        "lstm_step_backward",
        "o * (1 - tanh_next_c ** 2) * dnext_h",
        "o * dnext_h",
        "missing derivative of tanh",
    ),
    P(
        "o forgotten",
        "lstm_step_backward",
        "o * (1 - tanh_next_c ** 2)",
        "(1 - tanh_next_c ** 2)",
        "factor missing",
        ("dx",),
    ),
    P("dc not carried", "lstm_step_backward", "dnext_c + o * (", "o * (", "dc not carried"),
    P(
        "dh does not reach the cell",
        "lstm_step_backward",
        " + o * (1 - tanh_next_c ** 2) * dnext_h",
        "",
        "dh not added",
    ),
    P("minus", "lstm_step_backward", "dnext_c + o * (", "dnext_c - o * (", "sign"),
    P(
        "sign of one gate",
        "lstm_step_backward",
        "dgate_o = dnext_h",
        "dgate_o = -dnext_h",
        "sign",
        ("gate o",),
    ),
    P(
        "dprev_c without f",
        "lstm_step_backward",
        "dprev_c = dcell * f",
        "dprev_c = dcell",
        "factor missing",
        ("dprev_c",),
    ),
    P(
        "dprev_c of the upstream alone",
        "lstm_step_backward",
        "dprev_c = dcell * f",
        "dprev_c = dnext_c * f",
        "",
        ("dprev_c",),
    ),
    P(
        "next cell for the old one",
        "lstm_step_backward",
        "dcell * prev_c",
        "dcell * tanh_next_c",
        "wrong variable",
        ("gate f",),
    ),
    P(
        "i and g",
        "lstm_step_backward",
        "dgate_i = dcell * g",
        "dgate_i = dcell * i",
        "gates swapped",
        ("i, g",),
    ),
    P(
        "stacked i, f, g, o",
        "lstm_step_backward",
        "(dai, daf, dao, dag)",
        "(dai, daf, dag, dao)",
        "gates swapped",
        ("gate o, g",),
    ),
    P(
        "two derivatives forgotten",
        "lstm_step_backward",
        "dai = dgate_i * i * (1 - i)\n    daf = dgate_f * f * (1 - f)",
        "dai = dgate_i\n    daf = dgate_f",
        "missing derivative of sigmoid",
        ("gate",),
    ),
    # a sequence of the LSTM
    P(
        "cell not carried",
        "lstm_forward",
        "prev_h, prev_c, step = lstm",
        "prev_h, _, step = lstm",
        "state not carried",
    ),
    P(
        "cell starts as h0",
        "lstm_forward",
        "prev_c = np.zeros((N, H))",
        "prev_c = h0",
        "state not reset",
    ),
    P(
        "gradient of the cell not carried",
        "lstm_backward",
        "dnext_c = dprev_c",
        "dnext_c = np.zeros((N, H))",
        "dc not carried",
    ),
    P(
        "carried state gradient not added",
        "lstm_backward",
        "dh[:, t, :] + dprev_h",
        "dh[:, t, :]",
        "dh not added",
    ),
    P(
        "bias gradient overwritten",
        "lstm_backward",
        "db += dbt",
        "db = dbt",
        "not added up over steps",
        ("db",),
    ),
    P(
        "gradient averaged over steps",
        "lstm_backward",
        "    dh0 = dprev_h",
        "    dWx /= T\n    dh0 = dprev_h",
        "mean for a sum",
        ("dWx",),
    ),
    # loss
    P(
        "no mask",
        "temporal_softmax_loss",
        "np.sum(mask_flat * np.log(probs[np.arange(N * T), y_flat]))",
        "np.sum(np.log(probs[np.arange(N * T), y_flat]))",
        "mask ignored",
        ("loss",),
    ),
    P(
        "gradient not masked",
        "temporal_softmax_loss",
        "dx_flat *= mask_flat[:, None]",
        "pass",
        "mask ignored",
        ("dx",),
    ),
    P(
        "mean over words",
        "temporal_softmax_loss",
        "y_flat])) / N",
        "y_flat])) / (N * T)",
        "mean for a sum",
        ("loss",),
    ),
    P(
        "gradient not divided",
        "temporal_softmax_loss",
        "dx_flat /= N",
        "pass",
        "sum for a mean",
        ("dx",),
    ),
    P(
        "one not subtracted",
        "temporal_softmax_loss",
        "dx_flat[np.arange(N * T), y_flat] -= 1",
        "pass",
        "term missing",
        ("dx",),
    ),
    P(
        "overflow",
        "temporal_softmax_loss",
        "x_flat - np.max(x_flat, axis=1, keepdims=True)",
        "x_flat",
        "not stable",
    ),
    P(
        "sum over steps missing",
        "temporal_affine_backward",
        "dout.sum(axis=(0, 1))",
        "dout.sum(axis=0)",
        "sum over the batch missing",
        ("db",),
    ),
    # captioner
    P(
        "targets are the inputs",
        "CaptioningRNN.loss",
        "captions_out = captions[:, 1:]",
        "captions_out = captions[:, :-1]",
        "captions off by one",
    ),
    P(
        "inputs are the targets",
        "CaptioningRNN.loss",
        "captions_in = captions[:, :-1]",
        "captions_in = captions[:, 1:]",
        "captions off by one",
    ),
    P(
        "mask of the inputs",
        "CaptioningRNN.loss",
        "mask = captions_out != self._null",
        "mask = captions_in != self._null",
        "mask ignored",
    ),
    P(
        "everything counts",
        "CaptioningRNN.loss",
        "mask = captions_out != self._null",
        "mask = np.ones_like(captions_out)",
        "mask ignored",
    ),
    P(
        "no bias of the image",
        "CaptioningRNN.loss",
        "features.dot(W_proj) + b_proj",
        "features.dot(W_proj)",
        "bias missing",
    ),
    P(
        "gradient of the image forgotten",
        "CaptioningRNN.loss",
        'grads["W_proj"] = features.T.dot(dh0)',
        "pass",
        "gradient missing",
        ("W_proj",),
    ),
    P(
        "word not fed back",
        "CaptioningRNN.sample",
        "word = np.argmax(scores, axis=1)\n            captions[:, t] = word",
        "captions[:, t] = np.argmax(scores, axis=1)",
        "word not fed back",
    ),
    P(
        "starts with NULL",
        "CaptioningRNN.sample",
        "word = self._start *",
        "word = self._null *",
        "wrong start",
    ),
    P(
        "state not carried",
        "CaptioningRNN.sample",
        "h, _ = rnn_step_forward(x, h, Wx",
        "h, _ = rnn_step_forward(x, features.dot(W_proj) + b_proj, Wx",
        "",
    ),
    P(
        "cell not carried",
        "CaptioningRNN.sample",
        "h, c, _ = lstm",
        "h, _, _ = lstm",
        "state not carried",
    ),
    # update rules and solver
    P(
        "momentum the wrong way",
        "sgd_momentum",
        '- config["learning_rate"] * dw',
        '+ config["learning_rate"] * dw',
        "sign",
    ),
    P("velocity not kept", "sgd_momentum", 'config["velocity"] = v', "pass", "state not carried"),
    P("no root", "rmsprop", 'np.sqrt(config["cache"])', 'config["cache"]', ""),
    P(
        "no bias correction",
        "adam",
        'mt = config["m"] / (1 - config["beta1"] ** config["t"])',
        'mt = config["m"]',
        "bias correction missing",
    ),
    P("t not counted", "adam", 'config["t"] += 1', 'config["t"] = 1', ""),
    P("no square", "adam", "(dw * dw)", "dw", "factor wrong"),
    P(
        "configs shared",
        "CaptioningSolver",
        "self.optim_configs[p] = d",
        "self.optim_configs[p] = self.optim_config",
        "state shared",
    ),
    P("learning rate never falls", "CaptioningSolver", "*= self.lr_decay", "*= 1.0", ""),
    P(
        "losses not recorded",
        "CaptioningSolver",
        "self.loss_history.append(loss)",
        "self.loss_history = [loss]",
        "wrong number of steps",
    ),
    # ordinary Python that goes wrong
    P(
        "not written",
        "lstm_backward",
        "    dh0 = dprev_h\n    return dx, dh0, dWx, dWh, db\n\n\ndef temporal_affine_forward",
        "    return None, None, None, None, None\n\n\ndef temporal_affine_forward",
        "not written yet",
    ),
    P(
        "overwrites x",
        "rnn_step_forward",
        "    forward = np.dot(x, Wx)",
        "    x *= 2\n    forward = np.dot(x / 2, Wx)",
        "overwrites its arguments",
        ("x",),
    ),
    P(
        "a typing error",
        "lstm_forward",
        "prev_c = np.zeros((N, H))",
        "prev_c = np.zeros(N, H)",
        "raises an error",
        ("np.zeros(N, H)",),
    ),
    P(
        "cache in a global",
        "rnn_step_backward",
        "x, prev_h, Wx, Wh, b, next_h = cache",
        "x, prev_h, Wx, Wh, b, next_h = LAST",
        "state outside the cache",
    ),
]


def with_mistake(mistake: Mistake) -> dict[str, str]:
    """The files of the solution with a mistake."""
    files = dict(FILES)
    for name, text in files.items():
        head = f"def {mistake.function}(" if "Captioning" not in mistake.function else "class Capt"
        start = text.find(head)
        if start >= 0 and mistake.right in text[start:]:
            found = text.index(mistake.right, start)
            end = found + len(mistake.right)
            files[name] = text[:found] + mistake.wrong + text[end:]
            if "LAST" in mistake.wrong:
                files[name] = files[name].replace(
                    "cache = (x, prev_h, Wx, Wh, b, next_h)",
                    "global LAST\n    cache = LAST = (x, prev_h, Wx, Wh, b, next_h)",
                )
            return files
    raise AssertionError(f"{mistake.name}: {mistake.right!r} is not in {mistake.function}")


def written(files: Mapping[str, str], folder: Path) -> Path:
    """The folder cs231n/ with these files."""
    for name, text in files.items():
        path = folder / "cs231n" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return folder / "cs231n"


def named(mistake: Mistake, folder: Path) -> tuple[list[Result], list[Result]]:
    """What grading finds: of the function with the mistake, and of others that do not follow from it."""
    results = grade(written(with_mistake(mistake), folder))
    there = [r for r in results if r.kind and r.function.startswith(mistake.function)]
    there = [r for r in there if not r.kind.startswith("follows")]
    others = [r for r in results if not r.passed and not r.kind.startswith("follows")]
    return there, [r for r in others if r not in there]


def is_right(mistake: Mistake, there: list[Result], others: list[Result]) -> bool:
    return not others and any(
        mistake.kind in r.kind and all(word in f"{r.where} {r.advice}" for word in mistake.where)
        for r in there
    )


def changed_line(mistake: Mistake) -> str:
    """The lines of the solution that a mistake changes, as they are then; or the line that is gone."""
    wrong = with_mistake(mistake)
    (name,) = (name for name in FILES if FILES[name] != wrong[name])
    before, after = (text.splitlines() for text in (FILES[name], wrong[name]))
    changes = [
        line
        for line in difflib.ndiff(before, after)
        if line[:2] in ("- ", "+ ") and "global LAST" not in line
    ]
    came = [line[2:].strip() for line in changes if line[0] == "+"]
    gone = "; ".join(line[2:].strip() for line in changes if line[0] == "-")
    return "; ".join(came) if came not in ([], ["pass"]) else f"without {gone}"


def table() -> Iterator[str]:
    """Lines of a Markdown table: each mistake, and what grading says of it."""
    yield "| function | in the student's code | kind | where |"
    yield "|---|---|---|---|"
    for mistake in MISTAKES:
        with tempfile.TemporaryDirectory() as folder:
            there, others = named(mistake, Path(folder))
        first = there[0] if there else Result("", False)
        kind = first.kind if is_right(mistake, there, others) else f"WRONG: {first.kind}"
        code = changed_line(mistake).replace("|", "\\|")
        where = first.where.replace("|", "\\|")
        yield f"| `{mistake.function}` | {mistake.name}: `{code}` | {kind} | {where} |"


PAGE = Path(__file__).parents[2] / "docs" / "develop" / "mistakes.md"


def main() -> None:
    begun = time.perf_counter()
    lines = list(table())
    head = PAGE.read_text(encoding="utf-8").split("| function |")[0]
    PAGE.write_text(head + "\n".join(lines) + "\n", encoding="utf-8")
    wrong = [line for line in lines if "WRONG" in line]
    print("\n".join(wrong))
    print(f"{len(MISTAKES)} mistakes, {len(wrong)} wrong, {time.perf_counter() - begun:.0f} s")


if __name__ == "__main__":
    main()
