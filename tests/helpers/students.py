"""Students' solutions of the course: right ones in several styles, and mistakes to make in one.

`python tests/helpers/students.py` writes the table of docs/develop/mistakes.md.
"""

import difflib
import tempfile
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
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


# Rows as in rules.py: function | name | right | wrong | kind | where. Places that change together are
# joined by "&&", and so are words of `where`; "\\n" is a new line.
ROWS = r"""
rnn_step_forward | tanh forgotten | np.tanh(forward) | forward | missing activation
rnn_step_forward | bias forgotten |  + b\n | \n | bias missing
rnn_step_forward | sigmoid for tanh | np.tanh(forward) | sigmoid(forward) | wrong activation
rnn_step_forward | input and state mixed up | np.dot(prev_h, Wh) | np.dot(prev_h, Wh.T) | transposed weight | next_h
rnn_step_forward | overwrites x |     forward = np.dot(x, Wx) |     x *= 2\n    forward = np.dot(x / 2, Wx) | overwrites its arguments | x
rnn_step_forward | ReLU for tanh | np.tanh(forward) | np.maximum(forward, 0) | wrong activation
rnn_step_forward | softsign for tanh | np.tanh(forward) | forward / (1 + np.abs(forward)) | wrong activation
rnn_step_forward | hard tanh | np.tanh(forward) | np.clip(forward, -1, 1) | wrong activation
rnn_step_forward | bias twice | np.dot(x, Wx) + | np.dot(x, Wx) + b + | added twice
rnn_step_forward | bias outside the tanh | + b\n    next_h = np.tanh(forward) | \n    next_h = np.tanh(forward) + b | activation of a part
rnn_step_forward | tanh of the input alone | np.dot(x, Wx) + np.dot(prev_h, Wh) + b\n    next_h = np.tanh(forward) | np.dot(x, Wx)\n    next_h = np.tanh(forward) + np.dot(prev_h, Wh) + b | activation of a part
rnn_step_forward | tanh twice | np.tanh(forward) | np.tanh(np.tanh(forward)) | activation twice
rnn_step_forward | bias subtracted | + b\n | - b\n | sign
rnn_step_forward | old state added | np.tanh(forward) | np.tanh(forward) + prev_h | term added
rnn_step_forward | no state | + np.dot(prev_h, Wh) |  | state not carried
rnn_step_forward | mean of the two | next_h = np.tanh(forward) | next_h = np.tanh(forward / 2) | wrong activation
rnn_step_forward | product of input and state | np.dot(x, Wx) + np.dot(prev_h, Wh) | np.dot(x, Wx) * np.dot(prev_h, Wh) | product for a sum
rnn_step_forward | state weights on the input sum | next_h = np.tanh(forward) | next_h = np.tanh(forward + np.dot(prev_h, Wh)) | added twice
rnn_step_forward | tanh of the state before | np.dot(prev_h, Wh) | np.dot(np.tanh(prev_h), Wh) | activation twice
rnn_step_forward | one minus | next_h = np.tanh(forward) | next_h = 1 - np.tanh(forward) | sign
rnn_step_backward | no tanh derivative | dnext_h * (1 - next_h ** 2) | dnext_h | missing derivative of tanh
rnn_step_backward | tanh derivative of a sum | (1 - next_h ** 2) | (1 - next_h) | derivative of tanh wrong
rnn_step_backward | plus for minus | (1 - next_h ** 2) | (1 + next_h ** 2) | derivative of tanh wrong
rnn_step_backward | tanh applied again | (1 - next_h ** 2) | (1 - np.tanh(next_h) ** 2) | derivative of tanh wrong
rnn_step_backward | no transpose | np.dot(dforward, Wh.T) | np.dot(dforward, Wh) | transposed weight | dprev_h
rnn_step_backward | shapes that do not fit | np.dot(dforward, Wx.T) | np.dot(dforward, Wx) | transposed weight
rnn_step_backward | weights' gradient transposed | np.dot(x.T, dforward) | np.dot(dforward.T, x) | transposed | dWx
rnn_step_backward | no sum over the batch | np.sum(dforward, axis=0) | dforward | sum over the batch missing | db
rnn_step_backward | mean over the batch | np.sum(dforward, axis=0) | np.mean(dforward, axis=0) | mean for a sum | db
rnn_step_backward | first sample alone | np.sum(dforward, axis=0) | dforward[0] | sum over the batch missing | db
rnn_step_backward | dWh from x | dWh = np.dot(prev_h.T, dforward) | dWh = np.dot(next_h.T, dforward) | wrong variable | dWh
rnn_step_backward | cache in a global | x, prev_h, Wx, Wh, b, next_h = cache | x, prev_h, Wx, Wh, b, next_h = LAST | state outside the cache
rnn_step_backward | ReLU's derivative | (1 - next_h ** 2) | (next_h > 0) | derivative of tanh wrong
rnn_step_backward | derivative of what goes in | (1 - next_h ** 2) | (1 - np.arctanh(next_h) ** 2) | derivative of tanh wrong
rnn_step_backward | square of the difference | (1 - next_h ** 2) | (1 - next_h) ** 2 | derivative of tanh wrong
rnn_step_backward | sigmoid derivative | (1 - next_h ** 2) | next_h * (1 - next_h) | derivative of sigmoid instead of tanh
rnn_step_backward | derivative of the old state | (1 - next_h ** 2) | (1 - prev_h ** 2) | wrong variable
rnn_step_backward | brackets missing | dnext_h * (1 - next_h ** 2) | dnext_h * 1 - next_h ** 2 | brackets wrong
rnn_step_backward | reshape for a transpose | np.dot(x.T, dforward) | np.dot(x.reshape(x.shape[::-1]), dforward) | reshape for a transpose | dWx
rnn_step_backward | upstream gradient in dWh | np.dot(prev_h.T, dforward) | np.dot(prev_h.T, dnext_h) | wrong variable | dWh
rnn_step_backward | keepdims | np.sum(dforward, axis=0) | np.sum(dforward, axis=0, keepdims=True) | axis of one | db
rnn_step_backward | dx and dprev_h returned the wrong way round | return dx, dprev_h, dWx | return dprev_h, dx, dWx | results swapped
rnn_step_backward | weights' gradients averaged | dWx = np.dot(x.T, dforward) | dWx = np.dot(x.T, dforward) / len(x) | mean for a sum | dWx
rnn_step_backward | clipped | return dx, dprev_h, dWx, dWh, db | return dx, dprev_h, np.clip(dWx, -5, 5), dWh, db | gradient clipped | dWx
rnn_step_backward | derivative twice | dnext_h * (1 - next_h ** 2) | dnext_h * (1 - next_h ** 2) ** 2 | derivative of tanh wrong
rnn_step_backward | factor two | dnext_h * (1 - next_h ** 2) | dnext_h * (1 - 2 * next_h) | derivative of tanh wrong
rnn_step_backward | derivative in dx alone forgotten | dx = np.dot(dforward, Wx.T) | dx = np.dot(dnext_h, Wx.T) | wrong variable | dx
rnn_step_backward | upstream in db | db = np.sum(dforward, axis=0) | db = np.sum(dnext_h, axis=0) | wrong variable | db
rnn_step_backward | sign of dWh | dWh = np.dot(prev_h.T, dforward) | dWh = -np.dot(prev_h.T, dforward) | sign | dWh
rnn_step_backward | last sample alone | np.sum(dforward, axis=0) | dforward[-1] | sum over the batch missing | db
rnn_step_backward | two at once | dx = np.dot(dforward, Wx.T)\n    dprev_h = np.dot(dforward, Wh.T) | dx = -np.dot(dforward, Wx.T)\n    dprev_h = np.dot(dforward, Wh) | transposed weight
rnn_step_backward | weights averaged, all | dWx = np.dot(x.T, dforward)\n    dWh = np.dot(prev_h.T, dforward)\n    db = np.sum(dforward, axis=0) | dWx = np.dot(x.T, dforward) / len(x)\n    dWh = np.dot(prev_h.T, dforward) / len(x)\n    db = np.mean(dforward, axis=0) | mean for a sum
rnn_step_backward | tanh for its derivative | (1 - next_h ** 2) | next_h | derivative of tanh wrong
rnn_step_backward | derivative divides | dnext_h * (1 - next_h ** 2) | dnext_h / (1 - next_h ** 2) | factor wrong
rnn_step_backward | dx by derivative once more | dx = np.dot(dforward, Wx.T) | dx = np.dot(dforward * (1 - next_h ** 2), Wx.T) | derivative of tanh twice
rnn_step_backward | dprev_h by derivative of the old state | dprev_h = np.dot(dforward, Wh.T) | dprev_h = np.dot(dforward, Wh.T) * (1 - prev_h ** 2) | derivative of tanh twice
rnn_step_backward | dx returned for dprev_h | dprev_h = np.dot(dforward, Wh.T) | dprev_h = dforward | wrong variable
rnn_forward | state not carried | x[:, t, :], prev, Wx | x[:, t, :], h0, Wx | state not carried | time step 1, 2, 3
rnn_forward | first state ignored | prev = h0 | prev = np.zeros_like(h0) | state not reset
rnn_forward | last step left out | for t in range(T): | for t in range(T - 1): | step left out | time step
rnn_forward | stacked and reshaped | return h, cache | h = np.array([h[:, t] for t in range(T)]).reshape(N, T, H)\n    return h, cache | reshape for a transpose
rnn_forward | steps reversed | return h, cache | return h[:, ::-1], cache | steps in the wrong order
rnn_forward | tanh of h0 | prev = h0 | prev = np.tanh(h0) | activation twice
rnn_forward | state kept before the step | prev, step = rnn_step_forward(x[:, t, :], prev, Wx, Wh, b)\n        h[:, t, :] = prev | h[:, t, :] = prev\n        prev, step = rnn_step_forward(x[:, t, :], prev, Wx, Wh, b) | statements in the wrong order
rnn_forward | first input at each step | x[:, t, :], prev | x[:, 0, :], prev | wrong time step
rnn_forward | input of the step before | x[:, t, :], prev | x[:, t - 1, :], prev | wrong time step
rnn_forward | runs backwards | for t in range(T): | for t in reversed(range(T)): | steps in the wrong order
rnn_forward | integers | h = np.zeros((N, T, H)) | h = np.zeros((N, T, H), dtype=int) | integers
rnn_forward | first step left out | for t in range(T): | for t in range(1, T): | step left out
rnn_forward | axes of steps and samples | return h, cache | return h.transpose(1, 0, 2), cache | transposed
rnn_forward | last state alone | return h, cache | return prev, cache | summed too far
rnn_forward | zeros carried | prev, step = rnn_step_forward(x[:, t, :], prev, Wx, Wh, b) | prev, step = rnn_step_forward(x[:, t, :], h0 if t == 0 else np.zeros((N, H)), Wx, Wh, b) | state not carried
rnn_forward | cumulative | h[:, t, :] = prev | h[:, t, :] = h[:, t - 1, :] + prev | added up over steps
rnn_forward | only at the last step filled | h[:, t, :] = prev | h[:, -1, :] = prev | wrong time step
rnn_forward | tanh once more | h[:, t, :] = prev | h[:, t, :] = np.tanh(prev) | activation twice
rnn_forward | state of the output before | rnn_step_forward(x[:, t, :], prev, Wx | rnn_step_forward(x[:, t, :], h[:, t - 1, :], Wx | state not reset
rnn_forward | input of the next step | x[:, t, :], prev | x[:, (t + 1) % T, :], prev | wrong time step
rnn_forward | same weights twice | rnn_step_forward(x[:, t, :], prev, Wx, Wh, b) | rnn_step_forward(x[:, t, :], prev, Wx, Wh.T, b) | transposed weight
rnn_forward | no bias | rnn_step_forward(x[:, t, :], prev, Wx, Wh, b) | rnn_step_forward(x[:, t, :], prev, Wx, Wh, np.zeros_like(b)) | bias missing
rnn_forward | mean of inputs | x[:, t, :], prev | x.mean(axis=1), prev | wrong time step
rnn_forward | step called twice | h[:, t, :] = prev | prev, step = rnn_step_forward(x[:, t, :], prev, Wx, Wh, b)\n        h[:, t, :] = prev | step taken twice
rnn_forward | state added | h[:, t, :] = prev | h[:, t, :] = prev + h0 | term added
rnn_forward | residual | h[:, t, :] = prev | prev = prev + h0\n        h[:, t, :] = prev | term added
rnn_backward | carried gradient not added | dh[:, t, :] + dprev | dh[:, t, :] | dh not added | time step 0, 1, 2
rnn_backward | gradient of the step's loss not added | dh[:, t, :] + dprev | dprev if t < T - 1 else dh[:, t, :] | dh not added
rnn_backward | overwritten | dWx += dWxt | dWx = dWxt | not added up over steps | dWx
rnn_backward | forward in time | range(T - 1, -1, -1) | range(T) | steps in the wrong order
rnn_backward | one cache for all | cache[t] | cache[-1] | wrong time step
rnn_backward | dh0 forgotten | dh0 = dprev | dh0 = np.zeros((N, H)) | left at zero | dh0
rnn_backward | dh0 is that of the first step's loss | dh0 = dprev | dh0 = dh[:, 0, :] | dh not carried | dh0
rnn_backward | last gradient twice | dprev = np.zeros((N, H)) | dprev = dh[:, -1, :] | dh added twice
rnn_backward | dh added after the step | dcurrent = dh[:, t, :] + dprev\n        dxt, dprev, dWxt, dWht, dbt = rnn_step_backward(dcurrent, cache[t]) | dxt, dprev, dWxt, dWht, dbt = rnn_step_backward(dprev, cache[t])\n        dprev = dprev + dh[:, t, :] | statements in the wrong order
rnn_backward | dx reversed | return dx, dh0, dWx, dWh, db\n\n\ndef word | return dx[:, ::-1], dh0, dWx, dWh, db\n\n\ndef word | steps in the wrong order | dx
rnn_backward | dx reshaped | return dx, dh0, dWx, dWh, db\n\n\ndef word | dx = np.array([dx[:, t] for t in range(T)]).reshape(N, T, D)\n    return dx, dh0, dWx, dWh, db\n\n\ndef word | reshape for a transpose | dx
rnn_backward | gradient of the state added up | dxt, dprev, dWxt, dWht, dbt = rnn_step_backward(dcurrent, cache[t]) | dxt, more, dWxt, dWht, dbt = rnn_step_backward(dcurrent, cache[t])\n        dprev = dprev + more | added up over steps
rnn_backward | everything carried added up | dcurrent = dh[:, t, :] + dprev\n        dxt, dprev, dWxt, dWht, dbt = rnn_step_backward(dcurrent, cache[t]) | dprev = dprev + dh[:, t, :]\n        dxt, more, dWxt, dWht, dbt = rnn_step_backward(dprev, cache[t])\n        dprev = dprev + more | added up over steps
rnn_backward | mean over steps | dh0 = dprev | dWx, dWh, db = dWx / T, dWh / T, db / T\n    dh0 = dprev | mean for a sum
rnn_backward | all overwritten | dWx += dWxt\n        dWh += dWht\n        db += dbt | dWx, dWh, db = dWxt, dWht, dbt | not added up over steps
rnn_backward | dh0 from before the step | dh0 = dprev | dh0 = dcurrent | dh not carried | dh0
rnn_backward | dh0 of all steps | dh0 = dprev | dh0 = dh.sum(axis=1) | dh not carried | dh0
rnn_backward | dh added twice | dcurrent = dh[:, t, :] + dprev | dcurrent = 2 * dh[:, t, :] + dprev | added twice
rnn_backward | dh of the step before | dcurrent = dh[:, t, :] + dprev | dcurrent = dh[:, t - 1, :] + dprev | wrong time step
rnn_backward | cache of the other end | cache[t] | cache[T - 1 - t] | wrong time step
rnn_backward | first step left out | range(T - 1, -1, -1) | range(T - 1, 0, -1) | step left out
rnn_backward | last step left out | range(T - 1, -1, -1) | range(T - 2, -1, -1) | step left out
rnn_backward | sign of what is carried | dh[:, t, :] + dprev | dh[:, t, :] - dprev | sign
rnn_backward | bias gradient forgotten | db += dbt | pass | left at zero | db
rnn_backward | dx at the step before | dx[:, t, :] = dxt | dx[:, t - 1, :] = dxt | wrong time step
rnn_backward | dx not filled | dx[:, t, :] = dxt | pass | left at zero | dx
rnn_backward | dWh overwritten | dWh += dWht | dWh = dWht | not added up over steps | dWh
rnn_backward | dh summed over the steps that follow | dcurrent = dh[:, t, :] + dprev | dcurrent = dh[:, t:, :].sum(axis=1) + dprev | wrong time step
rnn_backward | dh of the first step again | dh0 = dprev | dh0 = dprev + dh[:, 0, :] | dh added twice | dh0
rnn_backward | carried gradient halved | dh[:, t, :] + dprev | (dh[:, t, :] + dprev) / 2 | mean for a sum
rnn_backward | dWx and dWh mixed | return dx, dh0, dWx, dWh, db\n\n\ndef word | return dx, dh0, dWx, dWh.T, db\n\n\ndef word | transposed | dWh
rnn_backward | bias gradient of the last step | db += dbt | db = dbt if t == T - 1 else db | not added up over steps | db
rnn_backward | dh0 divided by steps | dh0 = dprev | dh0 = dprev / T | mean for a sum | dh0
rnn_backward | last step of dh for all | dh[:, t, :] + dprev | dh[:, -1, :] + dprev | wrong time step
rnn_backward | clipped | dh0 = dprev | dWx = np.clip(dWx, -5, 5)\n    dWh = np.clip(dWh, -5, 5)\n    db = np.clip(db, -5, 5)\n    dh0 = dprev | gradient clipped
rnn_backward | dh reversed and cache not | dh[:, t, :] + dprev | dh[:, T - 1 - t, :] + dprev | wrong time step
rnn_backward | sums divided by steps and samples | dh0 = dprev | dWx, dWh, db = dWx / (N * T), dWh / (N * T), db / (N * T)\n    dh0 = dprev | mean for a sum
word_embedding_forward | ids off by one | W[x, :] | W[x - 1, :] | words off by one
word_embedding_forward | scaled | W[x, :] | W[x, :] * np.sqrt(W.shape[1]) | vectors changed
word_embedding_forward | NULL left at zero | W[x, :] | W[x, :] * (x > 0)[:, :, None] | vectors changed
word_embedding_forward | normalised | W[x, :] | W[x, :] / np.linalg.norm(W[x, :], axis=2, keepdims=True) | vectors changed
word_embedding_forward | tanh | W[x, :] | np.tanh(W[x, :]) | vectors changed
word_embedding_backward | scatter by += | np.add.at(dW, x, dout) | dW[x] += dout | scatter without adding
word_embedding_backward | scatter by = | np.add.at(dW, x, dout) | dW[x] = dout | scatter without adding
word_embedding_backward | caption by caption | np.add.at(dW, x, dout) | for n in range(len(x)):\n        dW[x[n]] += dout[n] | scatter without adding
word_embedding_backward | step by step | np.add.at(dW, x, dout) | for t in range(x.shape[1]):\n        dW[x[:, t]] += dout[:, t] | scatter without adding
word_embedding_backward | sum over the wrong axis | np.add.at(dW, x, dout) | np.add.at(dW, x, dout.sum(axis=2, keepdims=True)) | scatter wrong
word_embedding_backward | mean over a word's places | np.add.at(dW, x, dout) | np.add.at(dW, x, dout)\n    dW /= np.maximum(1, np.bincount(x.ravel(), minlength=len(dW)))[:, None] | mean for a sum
word_embedding_backward | mean over the batch | np.add.at(dW, x, dout) | np.add.at(dW, x, dout)\n    dW /= len(x) | mean for a sum
word_embedding_backward | NULL's gradient left out | np.add.at(dW, x, dout) | np.add.at(dW, x, dout)\n    dW[0] = 0 | mask ignored
word_embedding_backward | sized by the words seen | dW = np.zeros(shape) | dW = np.zeros((x.max() + 1, shape[1])) | table too small
word_embedding_backward | starts as ones | dW = np.zeros(shape) | dW = np.ones(shape) | not started at zero
word_embedding_backward | integers | np.add.at(dW, x, dout) | np.add.at(dW, x, dout.astype(int)) | integers
word_embedding_backward | first place alone | np.add.at(dW, x, dout) | np.add.at(dW, x[:, :1], dout[:, :1]) | scatter wrong
word_embedding_backward | START's place left out | np.add.at(dW, x, dout) | np.add.at(dW, x[:, 1:], dout[:, 1:]) | scatter wrong
word_embedding_backward | counts for gradients | np.add.at(dW, x, dout) | np.add.at(dW, x, np.ones_like(dout)) | scatter wrong
word_embedding_backward | subtracted | np.add.at(dW, x, dout) | np.subtract.at(dW, x, dout) | scatter wrong
word_embedding_backward | mean over all places | np.add.at(dW, x, dout) | np.add.at(dW, x, dout / x.size) | mean for a sum
word_embedding_backward | word by word mean of dout | np.add.at(dW, x, dout) | for k in range(len(dW)):\n        dW[k] = dout[x == k].mean(axis=0) if (x == k).any() else 0 | mean for a sum
word_embedding_backward | max over places | np.add.at(dW, x, dout) | np.maximum.at(dW, x, dout) | scatter wrong
word_embedding_backward | transposed captions | np.add.at(dW, x, dout) | np.add.at(dW, x, dout[:, ::-1]) | scatter wrong
lstm_step_forward | gates i, f, g, o | o = sigmoid(a[:, 2 * H:3 * H])\n    g = np.tanh(a[:, 3 * H:]) | g = np.tanh(a[:, 2 * H:3 * H])\n    o = sigmoid(a[:, 3 * H:]) | gates swapped | o, g
lstm_step_forward | forget and input gate | f * prev_c + i * g | i * prev_c + f * g | gates swapped | i, f
lstm_step_forward | no tanh of the cell | o * tanh_next_c | o * next_c | missing activation | next_h
lstm_step_forward | sigmoid for g | g = np.tanh( | g = sigmoid( | wrong activation | gate g
lstm_step_forward | old cell dropped | f * prev_c + i * g | i * g | state not carried | next_c
lstm_step_forward | i + g | i * g\n | i + g\n | sum for a product
lstm_step_forward | ReLU for g | g = np.tanh(a[:, 3 * H:]) | g = np.maximum(a[:, 3 * H:], 0) | wrong activation | gate g
lstm_step_forward | hard sigmoid for f | f = sigmoid(a[:, H:2 * H]) | f = np.clip(0.2 * a[:, H:2 * H] + 0.5, 0, 1) | wrong activation | gate f
lstm_step_forward | tanh in all gates | i = sigmoid(a[:, 0:H])\n    f = sigmoid(a[:, H:2 * H])\n    o = sigmoid( | i = np.tanh(a[:, 0:H])\n    f = np.tanh(a[:, H:2 * H])\n    o = np.tanh( | wrong activation
lstm_step_forward | no sigmoid in all gates | i = sigmoid(a[:, 0:H])\n    f = sigmoid(a[:, H:2 * H])\n    o = sigmoid( | i = (a[:, 0:H])\n    f = (a[:, H:2 * H])\n    o = ( | missing activation
lstm_step_forward | gates interleaved | i = sigmoid(a[:, 0:H])\n    f = sigmoid(a[:, H:2 * H])\n    o = sigmoid(a[:, 2 * H:3 * H])\n    g = np.tanh(a[:, 3 * H:]) | i = sigmoid(a[:, 0::4])\n    f = sigmoid(a[:, 1::4])\n    o = sigmoid(a[:, 2::4])\n    g = np.tanh(a[:, 3::4]) | gates interleaved
lstm_step_forward | tanh of the old cell | tanh_next_c = np.tanh(next_c) | tanh_next_c = np.tanh(prev_c) | wrong variable | next_h
lstm_step_forward | coupled gates | f * prev_c + i * g | f * prev_c + (1 - f) * g | gates swapped
lstm_step_forward | forgets what it keeps | f * prev_c + i * g | (1 - f) * prev_c + i * g | gates swapped
lstm_step_forward | bias of one in f | f = sigmoid(a[:, H:2 * H]) | f = sigmoid(a[:, H:2 * H] + 1) | bias added | gate f
lstm_step_forward | peephole of f | f = sigmoid(a[:, H:2 * H]) | f = sigmoid(a[:, H:2 * H] + prev_c) | term added | gate f
lstm_step_forward | peephole of o | next_h = o * tanh_next_c | next_h = sigmoid(a[:, 2 * H:3 * H] + next_c) * tanh_next_c | term added
lstm_step_forward | tanh of the cell kept | return next_h, next_c, cache | return next_h, tanh_next_c, cache | wrong variable | next_c
lstm_step_forward | tanh in the cell | next_c = f * prev_c + i * g | next_c = np.tanh(f * prev_c + i * g) | activation twice
lstm_step_forward | results in the wrong order | return next_h, next_c, cache | return next_c, next_h, cache | results swapped
lstm_step_forward | i and o | i = sigmoid(a[:, 0:H])\n    f = sigmoid(a[:, H:2 * H])\n    o = sigmoid(a[:, 2 * H:3 * H]) | o = sigmoid(a[:, 0:H])\n    f = sigmoid(a[:, H:2 * H])\n    i = sigmoid(a[:, 2 * H:3 * H]) | gates swapped | i, o
lstm_step_forward | sigmoid of the cell | tanh_next_c = np.tanh(next_c) | tanh_next_c = sigmoid(next_c) | wrong activation
lstm_step_forward | no bias | + prev_h.dot(Wh) + b | + prev_h.dot(Wh) | bias missing
lstm_step_forward | no input | a = x.dot(Wx) + prev_h | a = prev_h | term missing
lstm_step_forward | old state added | next_h = o * tanh_next_c | next_h = o * tanh_next_c + prev_h | activation of a part
lstm_step_forward | minus | f * prev_c + i * g | f * prev_c - i * g | sign
lstm_step_forward | brackets | f * prev_c + i * g | f * (prev_c + i * g) | brackets wrong
lstm_step_forward | o without tanh, tanh outside | next_h = o * tanh_next_c | next_h = np.tanh(o * next_c) | activation of a part
lstm_step_forward | negative exponent | o = sigmoid(a[:, 2 * H:3 * H]) | o = sigmoid(-a[:, 2 * H:3 * H]) | sign | gate o
lstm_step_forward | i and g swapped as blocks | i = sigmoid(a[:, 0:H])\n    f = sigmoid(a[:, H:2 * H])\n    o = sigmoid(a[:, 2 * H:3 * H])\n    g = np.tanh(a[:, 3 * H:]) | g = np.tanh(a[:, 0:H])\n    f = sigmoid(a[:, H:2 * H])\n    o = sigmoid(a[:, 2 * H:3 * H])\n    i = sigmoid(a[:, 3 * H:]) | gates swapped | i, g
lstm_step_forward | f, i, o, g | i = sigmoid(a[:, 0:H])\n    f = sigmoid(a[:, H:2 * H]) | f = sigmoid(a[:, 0:H])\n    i = sigmoid(a[:, H:2 * H]) | gates swapped | i, f
lstm_step_forward | i, f, g, o and no tanh of the cell | o = sigmoid(a[:, 2 * H:3 * H])\n    g = np.tanh(a[:, 3 * H:]) && next_h = o * tanh_next_c | g = np.tanh(a[:, 2 * H:3 * H])\n    o = sigmoid(a[:, 3 * H:]) && next_h = o * next_c | gates swapped
lstm_step_forward | sigmoid for both tanh | g = np.tanh(a[:, 3 * H:]) && tanh_next_c = np.tanh(next_c) | g = sigmoid(a[:, 3 * H:]) && tanh_next_c = sigmoid(next_c) | wrong activation
lstm_step_forward | tanh for i, no tanh of g | i = sigmoid(a[:, 0:H]) && g = np.tanh(a[:, 3 * H:]) | i = np.tanh(a[:, 0:H]) && g = a[:, 3 * H:] | activation
lstm_step_forward | cell added to the state | next_h = o * tanh_next_c | next_h = o + tanh_next_c | sum for a product
lstm_step_forward | f for o | next_h = o * tanh_next_c | next_h = f * tanh_next_c | gates swapped
lstm_step_forward | i for o | next_h = o * tanh_next_c | next_h = i * tanh_next_c | gates swapped
lstm_step_forward | f twice | f * prev_c + i * g | f * prev_c + f * g | gates swapped
lstm_step_forward | no input gate | f * prev_c + i * g | f * prev_c + g | factor missing
lstm_step_forward | no forget gate | f * prev_c + i * g | prev_c + i * g | factor missing
lstm_step_forward | no output gate | next_h = o * tanh_next_c | next_h = tanh_next_c | factor missing
lstm_step_forward | state for the cell | f * prev_c + i * g | f * prev_h + i * g | wrong variable
lstm_step_forward | bias added to the gates | + prev_h.dot(Wh) + b | + prev_h.dot(Wh) + b + b | added twice
lstm_step_forward | no state | x.dot(Wx) + prev_h.dot(Wh) + b | x.dot(Wx) + b | state not carried
lstm_step_forward | tanh of tanh | g = np.tanh(a[:, 3 * H:]) | g = np.tanh(np.tanh(a[:, 3 * H:])) | activation twice
lstm_step_forward | sigmoid before the split | i = sigmoid(a[:, 0:H]) | i = sigmoid(sigmoid(a[:, 0:H])) | activation twice
lstm_step_forward | softmax over units | i = sigmoid(a[:, 0:H]) | e = np.exp(a[:, 0:H])\n    i = e / e.sum(axis=1, keepdims=True) | wrong activation
lstm_step_forward | leaky ReLU for g | g = np.tanh(a[:, 3 * H:]) | g = np.maximum(a[:, 3 * H:], 0.01 * a[:, 3 * H:]) | wrong activation
lstm_step_forward | peephole of i and f | i = sigmoid(a[:, 0:H])\n    f = sigmoid(a[:, H:2 * H]) | i = sigmoid(a[:, 0:H] + prev_c)\n    f = sigmoid(a[:, H:2 * H] + prev_c) | term added
lstm_step_forward | gates transposed in a reshape | i = sigmoid(a[:, 0:H])\n    f = sigmoid(a[:, H:2 * H])\n    o = sigmoid(a[:, 2 * H:3 * H])\n    g = np.tanh(a[:, 3 * H:]) | parts = a.reshape(4, len(a), H)\n    i, f, o = (sigmoid(part) for part in parts[:3])\n    g = np.tanh(parts[3]) | reshape for a transpose
lstm_step_forward | i squared | f * prev_c + i * g | f * prev_c + i * i * g | factor twice
lstm_step_forward | o in the cell | f * prev_c + i * g | f * prev_c + o * g | gates swapped
lstm_step_forward | prev_c for next_c returned | return next_h, next_c, cache | return next_h, prev_c, cache | wrong variable
lstm_step_forward | all gates from the state alone | a = x.dot(Wx) + prev_h.dot(Wh) + b | a = prev_h.dot(Wh) + b | term missing
lstm_step_forward | overlapping slices | o = sigmoid(a[:, 2 * H:3 * H]) | o = sigmoid(a[:, H:2 * H]) | gates swapped
lstm_step_forward | g from o's columns | g = np.tanh(a[:, 3 * H:]) | g = np.tanh(a[:, 2 * H:3 * H]) | gates
lstm_step_backward | no sigmoid derivative of f | dgate_f * f * (1 - f) | dgate_f | missing derivative of sigmoid | gate f
lstm_step_backward | no tanh derivative of g | dgate_g * (1 - g ** 2) | dgate_g | missing derivative of tanh | gate g
lstm_step_backward | sigmoid derivative for g | (1 - g ** 2) | g * (1 - g) | derivative of sigmoid instead of tanh | gate g
lstm_step_backward | tanh derivative for o | dgate_o * o * (1 - o) | dgate_o * (1 - o ** 2) | derivative of tanh instead of sigmoid | gate o
lstm_step_backward | half a sigmoid derivative | dgate_i * i * (1 - i) | dgate_i * (1 - i) | derivative of sigmoid wrong | gate i
lstm_step_backward | no tanh derivative of the cell | o * (1 - tanh_next_c ** 2) * dnext_h | o * dnext_h | missing derivative of tanh
lstm_step_backward | o forgotten | o * (1 - tanh_next_c ** 2) | (1 - tanh_next_c ** 2) | factor missing | dx
lstm_step_backward | dc not carried | dnext_c + o * ( | o * ( | dc not carried
lstm_step_backward | dh does not reach the cell |  + o * (1 - tanh_next_c ** 2) * dnext_h |  | dh not added
lstm_step_backward | minus | dnext_c + o * ( | dnext_c - o * ( | sign
lstm_step_backward | sign of one gate | dgate_o = dnext_h | dgate_o = -dnext_h | sign | gate o
lstm_step_backward | dprev_c without f | dprev_c = dcell * f | dprev_c = dcell | factor missing | dprev_c
lstm_step_backward | dprev_c of the upstream alone | dprev_c = dcell * f | dprev_c = dnext_c * f | wrong variable | dprev_c
lstm_step_backward | next cell for the old one | dcell * prev_c | dcell * tanh_next_c | wrong variable | gate f
lstm_step_backward | i and g | dgate_i = dcell * g | dgate_i = dcell * i | gates swapped | i, g
lstm_step_backward | stacked i, f, g, o | (dai, daf, dao, dag) | (dai, daf, dag, dao) | gates swapped | gate o, g
lstm_step_backward | two derivatives forgotten | dai = dgate_i * i * (1 - i)\n    daf = dgate_f * f * (1 - f) | dai = dgate_i\n    daf = dgate_f | missing derivative of sigmoid | gate i && gate f
lstm_step_backward | gates interleaved | da = np.hstack((dai, daf, dao, dag)) | da = np.stack((dai, daf, dao, dag), axis=2).reshape(len(x), -1) | gates interleaved
lstm_step_backward | derivatives of what goes in | dai = dgate_i * i * (1 - i)\n    daf = dgate_f * f * (1 - f)\n    dao = dgate_o * o * (1 - o)\n    dag = dgate_g * (1 - g ** 2) | ai, af, ao = (np.log(s / (1 - s)) for s in (i, f, o))\n    ag = np.arctanh(g)\n    dai = dgate_i * ai * (1 - ai)\n    daf = dgate_f * af * (1 - af)\n    dao = dgate_o * ao * (1 - ao)\n    dag = dgate_g * (1 - ag ** 2) | derivative of | gate i && gate f && gate o && gate g
lstm_step_backward | all four derivatives forgotten | dai = dgate_i * i * (1 - i)\n    daf = dgate_f * f * (1 - f)\n    dao = dgate_o * o * (1 - o)\n    dag = dgate_g * (1 - g ** 2) | dai, daf, dao, dag = dgate_i, dgate_f, dgate_o, dgate_g | missing derivative of | gate i && gate f && gate o && gate g
lstm_step_backward | sigmoid once more in all gates | dai = dgate_i * i * (1 - i)\n    daf = dgate_f * f * (1 - f)\n    dao = dgate_o * o * (1 - o) | dai = dgate_i * sigmoid(i) * (1 - sigmoid(i))\n    daf = dgate_f * sigmoid(f) * (1 - sigmoid(f))\n    dao = dgate_o * sigmoid(o) * (1 - sigmoid(o)) | derivative of sigmoid wrong | gate i && gate f && gate o
lstm_step_backward | prev_c forgotten | dgate_f = dcell * prev_c | dgate_f = dcell | factor missing | gate f
lstm_step_backward | tanh of the old cell in do | dgate_o = dnext_h * tanh_next_c | dgate_o = dnext_h * np.tanh(prev_c) | wrong variable | gate o
lstm_step_backward | do of the cell | dgate_o = dnext_h * tanh_next_c | dgate_o = dnext_h * np.arctanh(tanh_next_c) | wrong variable | gate o
lstm_step_backward | do from dcell | dgate_o = dnext_h * tanh_next_c | dgate_o = dcell * tanh_next_c | wrong variable | gate o
lstm_step_backward | di from the upstream cell | dgate_i = dcell * g | dgate_i = dnext_c * g | wrong variable | gate i
lstm_step_backward | all factors for the upstream cell | dcell = dnext_c + o * (1 - tanh_next_c ** 2) * dnext_h | dcell = (dnext_c + dnext_h) * o * (1 - tanh_next_c ** 2) | brackets wrong
lstm_step_backward | dh as it is into the cell | o * (1 - tanh_next_c ** 2) * dnext_h | dnext_h | factor
lstm_step_backward | state of the wrong side in dWh | dWh = prev_h.T.dot(da) | dWh = (o * tanh_next_c).T.dot(da) | wrong variable | dWh
lstm_step_backward | cell in dWh | dWh = prev_h.T.dot(da) | dWh = prev_c.T.dot(da) | wrong variable | dWh
lstm_step_backward | dprev_c twice | dprev_c = dcell * f | dprev_c = dcell * f + dcell * f | added twice | dprev_c
lstm_step_backward | dprev_c by i | dprev_c = dcell * f | dprev_c = dcell * i | gates swapped | dprev_c
lstm_step_backward | dprev_h and dprev_c returned the wrong way round | return dx, dprev_h, dprev_c, dWx | return dx, dprev_c, dprev_h, dWx | results swapped
lstm_step_backward | upstream gradients unpacked the wrong way round | dcell = dnext_c + o | dnext_h, dnext_c = dnext_c, dnext_h\n    dcell = dnext_c + o | arguments swapped
lstm_step_backward | plus in a derivative | dai = dgate_i * i * (1 - i) | dai = dgate_i * i * (1 + i) | derivative of sigmoid wrong | gate i
lstm_step_backward | brackets forgotten | dai = dgate_i * i * (1 - i) | dai = dgate_i * i * 1 - i | brackets wrong | gate i
lstm_step_backward | bias gradient averaged | db = np.sum(da, axis=0)\n    return dx, dprev_h, dprev_c | db = np.mean(da, axis=0)\n    return dx, dprev_h, dprev_c | mean for a sum | db
lstm_step_backward | keepdims | db = np.sum(da, axis=0)\n    return dx, dprev_h, dprev_c | db = np.sum(da, axis=0, keepdims=True)\n    return dx, dprev_h, dprev_c | axis of one | db
lstm_step_backward | cell's derivative of the cell | (1 - tanh_next_c ** 2) | (1 - np.arctanh(tanh_next_c) ** 2) | derivative of tanh wrong
lstm_step_backward | cell's derivative of the old cell | (1 - tanh_next_c ** 2) | (1 - np.tanh(prev_c) ** 2) | wrong variable
lstm_step_backward | i and f wrong alike | dai = dgate_i * i * (1 - i)\n    daf = dgate_f * f * (1 - f) | dai = dgate_i * (1 - i ** 2)\n    daf = dgate_f * (1 - f ** 2) | derivative of tanh instead of sigmoid | gate i && gate f
lstm_step_backward | tanh derivative in all gates | dai = dgate_i * i * (1 - i)\n    daf = dgate_f * f * (1 - f)\n    dao = dgate_o * o * (1 - o) | dai = dgate_i * (1 - i ** 2)\n    daf = dgate_f * (1 - f ** 2)\n    dao = dgate_o * (1 - o ** 2) | derivative of tanh instead of sigmoid | gate i && gate f && gate o
lstm_step_backward | sigmoid derivative in all gates | dag = dgate_g * (1 - g ** 2) | dag = dgate_g * g * (1 - g) | derivative of sigmoid instead of tanh | gate g
lstm_step_backward | tanh of tanh | (1 - tanh_next_c ** 2) | (1 - np.tanh(tanh_next_c) ** 2) | derivative of tanh wrong
lstm_step_backward | square forgotten | (1 - tanh_next_c ** 2) | (1 - tanh_next_c) | derivative of tanh wrong
lstm_step_backward | df from the new cell | dgate_f = dcell * prev_c | dgate_f = dcell * np.arctanh(tanh_next_c) | wrong variable | gate f
lstm_step_backward | dc without o in one path | o * (1 - tanh_next_c ** 2) * dnext_h | (1 - tanh_next_c ** 2) * dnext_h | factor missing
lstm_step_backward | i for o in dc | dnext_c + o * ( | dnext_c + i * ( | gates swapped
lstm_step_backward | dg with g | dgate_g = dcell * i | dgate_g = dcell * g | gates swapped
lstm_step_backward | dg and di exchanged | dgate_i = dcell * g && dgate_g = dcell * i | dgate_i = dcell * i && dgate_g = dcell * g | gates swapped
lstm_step_backward | weight not transposed | dprev_h = da.dot(Wh.T) | dprev_h = da.dot(Wh.reshape(Wh.shape[::-1])) | reshape for a transpose | dprev_h
lstm_step_backward | dprev_h not sent through the weights | dprev_h = da.dot(Wh.T) | dprev_h = np.zeros_like(prev_h) | left at zero | dprev_h
lstm_step_backward | dnext_h added to dprev_h | dprev_h = da.dot(Wh.T) | dprev_h = da.dot(Wh.T) + dnext_h | term added | dprev_h
lstm_step_backward | dnext_c added to dprev_c | dprev_c = dcell * f | dprev_c = dcell * f + dnext_c | term added | dprev_c
lstm_step_backward | sign of g and transposed weight | dag = dgate_g * && dprev_h = da.dot(Wh.T) | dag = -dgate_g * && dprev_h = da.dot(-Wh.T) | sign
lstm_step_backward | clipped | return dx, dprev_h, dprev_c, dWx, dWh, db | return dx, dprev_h, dprev_c, np.clip(dWx, -1, 1), dWh, db | gradient clipped | dWx
lstm_step_backward | dx averaged | dx = da.dot(Wx.T) | dx = da.dot(Wx.T) / len(x) | mean for a sum | dx
lstm_step_backward | stacked in another order | (dai, daf, dao, dag) | (dag, dao, daf, dai) | gates swapped
lstm_step_backward | dag from its own gate | dag = dgate_g * (1 - g ** 2) | dag = dgate_g * (1 - i ** 2) | gates swapped
lstm_step_backward | dao by f | dao = dgate_o * o * (1 - o) | dao = dgate_o * f * (1 - f) | gates swapped
lstm_step_backward | derivative of o by mistake squared | dao = dgate_o * o * (1 - o) | dao = dgate_o * o * (1 - o) * (1 - o) | derivative of sigmoid wrong
lstm_step_backward | dc through two tanh | o * (1 - tanh_next_c ** 2) * dnext_h | o * (1 - tanh_next_c ** 2) ** 2 * dnext_h | derivative of tanh wrong
lstm_step_backward | dc by tanh | o * (1 - tanh_next_c ** 2) * dnext_h | o * tanh_next_c * dnext_h | derivative of tanh wrong
lstm_step_backward | dprev_c without the state's path | dprev_c = dcell * f | dprev_c = dnext_h * f | wrong variable | dprev_c
lstm_step_backward | dprev_c with its gate's gradient | dprev_c = dcell * f | dprev_c = dgate_f * f | wrong variable | dprev_c
lstm_step_backward | dc twice | dcell = dnext_c + o | dcell = dnext_c + dnext_c + o | added twice
lstm_step_backward | only one gate stacked | da = np.hstack((dai, daf, dao, dag)) | da = np.hstack((dai, daf, dao, dao)) | gates swapped
lstm_step_backward | f's gradient negative and g's tanh lost | daf = dgate_f * f * (1 - f) && dag = dgate_g * (1 - g ** 2) | daf = -dgate_f * f * (1 - f) && dag = dgate_g | sign | gate f
lstm_step_backward | three mistakes | daf = dgate_f * f * (1 - f) && dag = dgate_g * (1 - g ** 2) && dprev_c = dcell * f | daf = dgate_f && dag = dgate_g && dprev_c = dcell | missing derivative
lstm_forward | cell not carried | prev_h, prev_c, step = lstm | prev_h, _, step = lstm | state not carried
lstm_forward | cell starts as h0 | prev_c = np.zeros((N, H)) | prev_c = h0 | state not reset
lstm_forward | a typing error | prev_c = np.zeros((N, H)) | prev_c = np.zeros(N, H) | raises an error | np.zeros(N, H)
lstm_forward | cell reset at each step | prev_h, prev_c, step = lstm_step_forward(x[:, t, :], prev_h, prev_c, Wx | prev_h, prev_c, step = lstm_step_forward(x[:, t, :], prev_h, np.zeros((N, H)), Wx | state not carried
lstm_forward | h0 at each step | lstm_step_forward(x[:, t, :], prev_h, | lstm_step_forward(x[:, t, :], h0, | state not carried
lstm_forward | cells for states | h[:, t, :] = prev_h\n | h[:, t, :] = prev_c\n | wrong variable
lstm_forward | state and cell unpacked the wrong way round | prev_h, prev_c, step = lstm | prev_c, prev_h, step = lstm | results swapped
lstm_forward | state and cell handed over the wrong way round | lstm_step_forward(x[:, t, :], prev_h, prev_c, | lstm_step_forward(x[:, t, :], prev_c, prev_h, | arguments swapped
lstm_forward | stacked and reshaped | return h, cache\n\n\ndef lstm_backward | h = np.array([h[:, t] for t in range(T)]).reshape(N, T, H)\n    return h, cache\n\n\ndef lstm_backward | reshape for a transpose
lstm_forward | state starts as zeros | prev_h = h0 | prev_h = np.zeros_like(h0) | state not reset
lstm_forward | tanh of h0 | prev_h = h0 | prev_h = np.tanh(h0) | activation twice
lstm_forward | h0 starts the cell instead | prev_h = h0\n    prev_c = np.zeros((N, H)) | prev_h = np.zeros((N, H))\n    prev_c = h0 | state not reset
lstm_forward | state for the cell carried | h[:, t, :] = prev_h\n        cache.append(step)\n    return h, cache\n\n\ndef lstm_backward | h[:, t, :] = prev_h\n        prev_c = prev_h\n        cache.append(step)\n    return h, cache\n\n\ndef lstm_backward | state not carried
lstm_forward | tanh of the cell for h | h[:, t, :] = prev_h\n | h[:, t, :] = np.tanh(prev_c)\n | wrong variable
lstm_forward | last step left out | for t in range(T):\n        prev_h, prev_c, step | for t in range(T - 1):\n        prev_h, prev_c, step | step left out
lstm_forward | runs backwards | for t in range(T):\n        prev_h, prev_c, step | for t in reversed(range(T)):\n        prev_h, prev_c, step | steps in the wrong order
lstm_forward | cell starts as ones | prev_c = np.zeros((N, H)) | prev_c = np.ones((N, H)) | state not reset
lstm_forward | first input at each step | x[:, t, :], prev_h | x[:, 0, :], prev_h | wrong time step
lstm_forward | stored before the step | prev_h, prev_c, step = lstm_step_forward(x[:, t, :], prev_h, prev_c, Wx, Wh, b)\n        h[:, t, :] = prev_h | h[:, t, :] = prev_h\n        prev_h, prev_c, step = lstm_step_forward(x[:, t, :], prev_h, prev_c, Wx, Wh, b) | statements in the wrong order
lstm_forward | cell given h | lstm_step_forward(x[:, t, :], prev_h, prev_c, | lstm_step_forward(x[:, t, :], prev_h, prev_h, | wrong variable
lstm_forward | step taken twice | h[:, t, :] = prev_h\n | prev_h, prev_c, step = lstm_step_forward(x[:, t, :], prev_h, prev_c, Wx, Wh, b)\n        h[:, t, :] = prev_h\n | step taken twice
lstm_backward | gradient of the cell not carried | dnext_c = dprev_c | dnext_c = np.zeros((N, H)) | dc not carried
lstm_backward | carried state gradient not added | dh[:, t, :] + dprev_h | dh[:, t, :] | dh not added
lstm_backward | bias gradient overwritten | db += dbt | db = dbt | not added up over steps | db
lstm_backward | gradient averaged over steps |     dh0 = dprev_h |     dWx /= T\n    dh0 = dprev_h | mean for a sum | dWx
lstm_backward | not written |     dh0 = dprev_h\n    return dx, dh0, dWx, dWh, db\n\n\ndef temporal_affine_forward |     return None, None, None, None, None\n\n\ndef temporal_affine_forward | not written yet
lstm_backward | dprev_h and dprev_c unpacked the wrong way round | dx[:, t, :], dprev_h, dprev_c, dWxt | dx[:, t, :], dprev_c, dprev_h, dWxt | results swapped
lstm_backward | dh added after the step | dnext_h = dh[:, t, :] + dprev_h && lstm_step_backward(dnext_h, dnext_c, cache[t]) | dnext_h = dprev_h && lstm_step_backward(dnext_h, dnext_c, cache[t])\n        dprev_h = dprev_h + dh[:, t, :] | statements in the wrong order
lstm_backward | dx reversed | return dx, dh0, dWx, dWh, db\n\n\ndef temporal | return dx[:, ::-1], dh0, dWx, dWh, db\n\n\ndef temporal | steps in the wrong order | dx
lstm_backward | cell's gradient added up | dx[:, t, :], dprev_h, dprev_c, dWxt, dWht, dbt = lstm_step_backward(dnext_h, dnext_c, cache[t]) | dx[:, t, :], dprev_h, more, dWxt, dWht, dbt = lstm_step_backward(dnext_h, dnext_c, cache[t])\n        dprev_c = dprev_c + more | added up over steps | cell
lstm_backward | state's gradient added up | dx[:, t, :], dprev_h, dprev_c, dWxt, dWht, dbt = lstm_step_backward(dnext_h, dnext_c, cache[t]) | dx[:, t, :], more, dprev_c, dWxt, dWht, dbt = lstm_step_backward(dnext_h, dnext_c, cache[t])\n        dprev_h = dprev_h + more | added up over steps | state
lstm_backward | both gradients added up | dx[:, t, :], dprev_h, dprev_c, dWxt, dWht, dbt = lstm_step_backward(dnext_h, dnext_c, cache[t]) | dx[:, t, :], more, also, dWxt, dWht, dbt = lstm_step_backward(dnext_h, dnext_c, cache[t])\n        dprev_h, dprev_c = dprev_h + more, dprev_c + also | added up over steps | state and cell
lstm_backward | dh0 is the cell's | dh0 = dprev_h | dh0 = dprev_c | results swapped | dh0
lstm_backward | dh into the cell, too | dnext_c = dprev_c | dnext_c = dprev_c + dh[:, t, :] | dh added twice
lstm_backward | dh into the cell alone | dnext_h = dh[:, t, :] + dprev_h\n        dnext_c = dprev_c | dnext_h = dprev_h\n        dnext_c = dprev_c + dh[:, t, :] | dh not added
lstm_backward | dh0 left at zero | dh0 = dprev_h | dh0 = np.zeros((N, H)) | left at zero | dh0
lstm_backward | forward in time | for t in reversed(range(T)): | for t in range(T): | steps in the wrong order
lstm_backward | last step's cache | cache[t] | cache[-1] | wrong time step
lstm_backward | dWx and dWh averaged over steps | dh0 = dprev_h | dWx, dWh = dWx / T, dWh / T\n    dh0 = dprev_h | mean for a sum
lstm_backward | dc is that of the state | dnext_c = dprev_c | dnext_c = dprev_h | dc not carried
lstm_backward | all overwritten | dWx += dWxt\n        dWh += dWht\n        db += dbt\n    dh0 = dprev_h | dWx, dWh, db = dWxt, dWht, dbt\n    dh0 = dprev_h | not added up over steps
lstm_backward | dh0 of the first step's loss | dh0 = dprev_h | dh0 = dh[:, 0, :] | dh not carried | dh0
lstm_backward | dh0 before the step | dh0 = dprev_h | dh0 = dnext_h | dh not carried | dh0
lstm_backward | last gradient twice | dprev_h = np.zeros((N, H)) | dprev_h = dh[:, -1, :] | dh added twice
lstm_backward | dx reshaped | return dx, dh0, dWx, dWh, db\n\n\ndef temporal | dx = np.array([dx[:, t] for t in range(T)]).reshape(N, T, D)\n    return dx, dh0, dWx, dWh, db\n\n\ndef temporal | reshape for a transpose | dx
lstm_backward | mean over samples | dh0 = dprev_h | dWx, dWh, db = dWx / N, dWh / N, db / N\n    dh0 = dprev_h | mean for a sum
lstm_backward | first step left out | for t in reversed(range(T)): | for t in reversed(range(1, T)): | step left out
lstm_backward | dh twice | dnext_h = dh[:, t, :] + dprev_h | dnext_h = dh[:, t, :] + dh[:, t, :] + dprev_h | added twice
lstm_backward | dc zero and dh not carried | dnext_h = dh[:, t, :] + dprev_h\n        dnext_c = dprev_c | dnext_h = dh[:, t, :]\n        dnext_c = np.zeros((N, H)) | not
lstm_backward | dh0 mean | dh0 = dprev_h | dh0 = dprev_h / N | mean for a sum | dh0
lstm_backward | db of four gates swapped | return dx, dh0, dWx, dWh, db\n\n\ndef temporal | return dx, dh0, dWx, dWh, -db\n\n\ndef temporal | sign | db
affine_forward | bias twice | .dot(w) + b\n    return out, (x, w, b) | .dot(w) + b + b\n    return out, (x, w, b) | added twice
affine_backward | not reshaped back | dx = dout.dot(w.T).reshape(x.shape) | dx = dout.dot(w.T) | not reshaped back | dx
affine_backward | mean over the batch | dw = x.reshape(x.shape[0], -1).T.dot(dout) | dw = x.reshape(x.shape[0], -1).T.dot(dout) / len(x) | mean for a sum | dw
affine_backward | bias gradient averaged | db = np.sum(dout, axis=0)\n    return dx, dw, db\n\n\ndef temporal_softmax | db = np.mean(dout, axis=0)\n    return dx, dw, db\n\n\ndef temporal_softmax | mean for a sum | db
temporal_affine_forward | no bias | .reshape(N, T, M) + b | .reshape(N, T, M) | bias missing
temporal_affine_backward | sum over steps missing | dout.sum(axis=(0, 1)) | dout.sum(axis=0) | sum over the batch missing | db
temporal_affine_backward | averaged | dw = dout.reshape(N * T, M).T.dot(x.reshape(N * T, D)).T | dw = dout.reshape(N * T, M).T.dot(x.reshape(N * T, D)).T / N | mean for a sum | dw
temporal_affine_backward | reshape for a transpose | dw = dout.reshape(N * T, M).T.dot(x.reshape(N * T, D)).T | dw = x.reshape(D, N * T).dot(dout.reshape(N * T, M)) | reshape for a transpose | dw
temporal_affine_backward | bias over steps | db = dout.sum(axis=(0, 1)) | db = dout.mean(axis=(0, 1)) | mean for a sum | db
temporal_affine_backward | dx left at zero | dx = dout.reshape(N * T, M).dot(w.T).reshape(N, T, D) | dx = np.zeros_like(x) | left at zero | dx
temporal_softmax_loss | no mask | np.sum(mask_flat * np.log(probs[np.arange(N * T), y_flat])) | np.sum(np.log(probs[np.arange(N * T), y_flat])) | mask ignored | loss
temporal_softmax_loss | gradient not masked | dx_flat *= mask_flat[:, None] | pass | mask ignored | dx
temporal_softmax_loss | mean over words | y_flat])) / N | y_flat])) / (N * T) | mean for a sum | loss
temporal_softmax_loss | gradient not divided | dx_flat /= N | pass | sum for a mean | dx
temporal_softmax_loss | one not subtracted | dx_flat[np.arange(N * T), y_flat] -= 1 | pass | term missing | dx
temporal_softmax_loss | overflow | x_flat - np.max(x_flat, axis=1, keepdims=True) | x_flat | not stable
temporal_softmax_loss | mean over the words that count | y_flat])) / N | y_flat])) / mask_flat.sum() | mean for a sum | loss
temporal_softmax_loss | loss over steps | y_flat])) / N | y_flat])) / T | mean for a sum | loss
temporal_softmax_loss | gradient over words | dx_flat /= N | dx_flat /= N * T | mean for a sum | dx
temporal_softmax_loss | mean over words in both | y_flat])) / N && dx_flat /= N | y_flat])) / mask_flat.sum() && dx_flat /= mask_flat.sum() | mean for a sum
temporal_softmax_loss | mean over captions and steps in both | y_flat])) / N && dx_flat /= N | y_flat])) / (N * T) && dx_flat /= N * T | mean for a sum
temporal_softmax_loss | no division at all | y_flat])) / N && dx_flat /= N | y_flat])) && pass | sum for a mean
temporal_softmax_loss | no mask at all | mask_flat = mask.reshape(N * T) | mask_flat = np.ones(N * T, dtype=bool) | mask ignored
temporal_softmax_loss | mask inverted | mask_flat = mask.reshape(N * T) | mask_flat = ~mask.reshape(N * T) | mask ignored
temporal_softmax_loss | sign | loss = -np.sum( | loss = np.sum( | sign | loss
temporal_softmax_loss | one added | y_flat] -= 1 | y_flat] += 1 | sign | dx
temporal_softmax_loss | one subtracted everywhere | dx_flat[np.arange(N * T), y_flat] -= 1 | dx_flat -= 1 | term missing | dx
temporal_softmax_loss | one subtracted in every row | dx_flat[np.arange(N * T), y_flat] -= 1 | dx_flat[:, y_flat] -= 1 | wrong rows | dx
temporal_softmax_loss | targets shifted | y_flat = y.reshape(N * T) | y_flat = np.roll(y, 1, axis=1).reshape(N * T) | captions off by one
temporal_softmax_loss | no logarithm | mask_flat * np.log(probs[np.arange(N * T), y_flat]) | mask_flat * probs[np.arange(N * T), y_flat] | logarithm missing | loss
temporal_softmax_loss | softmax over steps | probs /= np.sum(probs, axis=1, keepdims=True) | probs = np.exp(x) / np.exp(x).sum(axis=1, keepdims=True)\n    probs = probs.reshape(N * T, V) | wrong axis
temporal_softmax_loss | softmax over rows | probs /= np.sum(probs, axis=1, keepdims=True) | probs = np.exp(x_flat)\n    probs /= np.sum(probs, axis=0, keepdims=True) | wrong axis
temporal_softmax_loss | base 2 | np.log(probs | np.log2(probs | wrong logarithm | loss
temporal_softmax_loss | one masked | y_flat] -= 1 && dx_flat *= mask_flat[:, None] | y_flat] -= mask_flat && pass | mask ignored | dx
temporal_softmax_loss | targets of the next step | y_flat = y.reshape(N * T) | y_flat = np.roll(y, -1, axis=1).reshape(N * T) | captions off by one
temporal_softmax_loss | loss not divided | y_flat])) / N | y_flat])) | sum for a mean | loss
temporal_softmax_loss | probability minus one everywhere | dx_flat = probs.copy() | dx_flat = probs * (1 - probs) | factor wrong | dx
temporal_softmax_loss | gradient of scores | dx_flat = probs.copy() | dx_flat = x_flat.copy() | exponential missing | dx
temporal_softmax_loss | sign of the gradient | dx_flat *= mask_flat[:, None] | dx_flat *= -1.0 * mask_flat[:, None] | sign | dx
temporal_softmax_loss | gradient over steps | dx_flat /= N | dx_flat /= T | mean for a sum | dx
temporal_softmax_loss | entropy | np.log(probs[np.arange(N * T), y_flat]) | probs[np.arange(N * T), y_flat] * np.log(probs[np.arange(N * T), y_flat]) | wrong words
temporal_softmax_loss | gradient mean over words that count | dx_flat /= N | dx_flat /= mask.sum() | mean for a sum | dx
temporal_softmax_loss | loss of the sum of probabilities | np.sum(mask_flat * np.log(probs[np.arange(N * T), y_flat])) | np.log(np.sum(mask_flat * probs[np.arange(N * T), y_flat])) | logarithm missing
temporal_softmax_loss | gradient not of the mean | dx_flat /= N | dx_flat *= N | factor wrong
temporal_softmax_loss | masked by the inverse in dx | dx_flat *= mask_flat[:, None] | dx_flat *= ~mask_flat[:, None] | mask ignored | dx
temporal_softmax_loss | mask inverted in the loss | np.sum(mask_flat * | np.sum(~mask_flat * | mask ignored | loss
temporal_softmax_loss | square loss | loss = -np.sum(mask_flat * np.log(probs[np.arange(N * T), y_flat])) / N | loss = np.sum(mask_flat * (1 - probs[np.arange(N * T), y_flat]) ** 2) / N | logarithm missing
CaptioningRNN.loss | targets are the inputs | captions_out = captions[:, 1:] | captions_out = captions[:, :-1] | captions off by one
CaptioningRNN.loss | inputs are the targets | captions_in = captions[:, :-1] | captions_in = captions[:, 1:] | captions off by one
CaptioningRNN.loss | mask of the inputs | mask = captions_out != self._null | mask = captions_in != self._null | mask ignored
CaptioningRNN.loss | everything counts | mask = captions_out != self._null | mask = np.ones_like(captions_out) | mask ignored
CaptioningRNN.loss | no bias of the image | features.dot(W_proj) + b_proj | features.dot(W_proj) | bias missing
CaptioningRNN.loss | gradient of the image forgotten | grads["W_proj"] = features.T.dot(dh0) | pass | gradient missing | W_proj
CaptioningRNN.loss | inputs and targets swapped | captions_in = captions[:, :-1]\n        captions_out = captions[:, 1:] | captions_in = captions[:, 1:]\n        captions_out = captions[:, :-1] | captions off by one
CaptioningRNN.loss | same captions in and out | captions_in = captions[:, :-1]\n        captions_out = captions[:, 1:] | captions_in = captions\n        captions_out = captions | captions off by one
CaptioningRNN.loss | END masked | captions_out != self._null | captions_out != self._end | mask ignored
CaptioningRNN.loss | START masked | captions_out != self._null | captions_out != self._start | mask ignored
CaptioningRNN.loss | NULL and END masked | captions_out != self._null | (captions_out != self._null) & (captions_out != self._end) | mask ignored
CaptioningRNN.loss | mask inverted | captions_out != self._null | captions_out == self._null | mask ignored
CaptioningRNN.loss | tanh of h0 | h0 = features.dot(W_proj) + b_proj | h0 = np.tanh(features.dot(W_proj) + b_proj) | activation twice
CaptioningRNN.loss | ReLU of h0 | h0 = features.dot(W_proj) + b_proj | h0 = np.maximum(features.dot(W_proj) + b_proj, 0) | activation twice
CaptioningRNN.loss | tanh of h0, both ways | h0 = features.dot(W_proj) + b_proj && grads["W_proj"] = | h0 = np.tanh(features.dot(W_proj) + b_proj) && dh0 = dh0 * (1 - h0 ** 2)\n        grads["W_proj"] = | activation twice
CaptioningRNN.loss | h0 of zeros | h0 = features.dot(W_proj) + b_proj | h0 = np.zeros_like(features.dot(W_proj) + b_proj) | state not reset
CaptioningRNN.loss | image's gradient of the first step | features.T.dot(dh0) && dh0.sum(axis=0) | features.T.dot(dh[:, 0]) && dh[:, 0].sum(axis=0) | dh not carried | W_proj
CaptioningRNN.loss | loss divided again | return loss, grads | return loss / len(features), grads | mean for a sum | loss
CaptioningRNN.loss | loss of the wrong sign | return loss, grads | return -loss, grads | sign | loss
CaptioningRNN.loss | targets' words for inputs | word_embedding_forward(captions_in, W_embed) | word_embedding_forward(captions_out, W_embed) | captions off by one
CaptioningRNN.loss | bias gradient averaged | grads["b_proj"] = dh0.sum(axis=0) | grads["b_proj"] = dh0.mean(axis=0) | mean for a sum | b_proj
CaptioningRNN.loss | gradients of the wrong weights | grads["W_proj"] = features.T.dot(dh0) | grads["W_proj"] = -features.T.dot(dh0) | sign | W_proj
CaptioningRNN.loss | no bias of the vocabulary | temporal_affine_forward(h, W_vocab, b_vocab) | temporal_affine_forward(h, W_vocab, np.zeros_like(b_vocab)) | bias missing
CaptioningRNN.loss | tanh of h | temporal_affine_forward(h, W_vocab, b_vocab) | temporal_affine_forward(np.tanh(h), W_vocab, b_vocab) | activation twice
CaptioningRNN.loss | words' gradient to the targets | word_embedding_backward(dx, cache_embed) | word_embedding_backward(dx, (captions_out, W_embed.shape)) | captions off by one | W_embed
CaptioningRNN.loss | inputs masked | temporal_softmax_loss(scores, captions_out, mask) | temporal_softmax_loss(scores, captions_in, mask) | captions off by one
CaptioningRNN.loss | image's gradient summed over steps | features.T.dot(dh0) && dh0.sum(axis=0) | features.T.dot(dh.sum(axis=1)) && dh.sum(axis=(0, 1)) | dh not carried | W_proj
CaptioningRNN.loss | loss divided by steps | return loss, grads | return loss / captions_out.shape[1], grads | mean for a sum | loss
CaptioningRNN.loss | mask of START in the inputs | captions_out != self._null | (captions_out != self._null) & (captions_in != self._start) | mask ignored
CaptioningRNN.loss | image's bias gradient forgotten | grads["b_proj"] = dh0.sum(axis=0) | grads["b_proj"] = np.zeros_like(b_proj) | left at zero | b_proj
CaptioningRNN.loss | sum over features' rows forgotten | grads["b_proj"] = dh0.sum(axis=0) | grads["b_proj"] = dh0[0] | sum over the batch missing | b_proj
CaptioningRNN.loss | bias of the image twice | h0 = features.dot(W_proj) + b_proj | h0 = features.dot(W_proj) + b_proj + b_proj | added twice
CaptioningRNN.loss | mask of what comes before END | captions_out != self._null | captions_in != self._end | mask ignored
CaptioningRNN.loss | targets without END | captions_out = captions[:, 1:] | captions_out = np.where(captions[:, 1:] == self._end, self._null, captions[:, 1:]) | mask ignored
CaptioningRNN.loss | W_embed's gradient from dh | grads["W_embed"] = word_embedding_backward(dx, cache_embed) | grads["W_embed"] = word_embedding_backward(-dx, cache_embed) | sign | W_embed
CaptioningRNN.loss | vocabulary gradients averaged | grads["W_embed"] = | grads["W_vocab"] = grads["W_vocab"] / len(features)\n        grads["W_embed"] = | mean for a sum | W_vocab
CaptioningRNN.sample | word not fed back | word = np.argmax(scores, axis=1)\n            captions[:, t] = word | captions[:, t] = np.argmax(scores, axis=1) | word not fed back
CaptioningRNN.sample | starts with NULL | word = self._start * | word = self._null * | wrong start
CaptioningRNN.sample | state not carried | h, _ = rnn_step_forward(x, h, Wx | h, _ = rnn_step_forward(x, features.dot(W_proj) + b_proj, Wx | state not carried
CaptioningRNN.sample | cell not carried | h, c, _ = lstm | h, _, _ = lstm | state not carried
CaptioningRNN.sample | word of two steps before | word = np.argmax(scores, axis=1)\n            captions[:, t] = word | captions[:, t] = np.argmax(scores, axis=1)\n            word = captions[:, t - 1] | word fed late
CaptioningRNN.sample | START twice | word = np.argmax(scores, axis=1)\n            captions[:, t] = word | captions[:, t] = np.argmax(scores, axis=1)\n            word = captions[:, t - 1] if t else word | word fed late
CaptioningRNN.sample | lowest score | np.argmax(scores, axis=1) | np.argmin(scores, axis=1) | wrong word
CaptioningRNN.sample | second best word | np.argmax(scores, axis=1) | np.argsort(scores, axis=1)[:, -2] | wrong word
CaptioningRNN.sample | same words for all | np.argmax(scores, axis=1) | np.full(N, np.argmax(scores[0])) | wrong word
CaptioningRNN.sample | tanh of h0 | h = features.dot(W_proj) + b_proj\n        c | h = np.tanh(features.dot(W_proj) + b_proj)\n        c | activation twice
CaptioningRNN.sample | cell starts as h0 | c = np.zeros_like(h) | c = h.copy() | state not reset
CaptioningRNN.sample | starts with END | word = self._start * | word = self._end * | wrong start
CaptioningRNN.sample | START in the first column | captions[:, t] = word\n | captions[:, (t + 1) % max_length] = word\n        captions[:, 0] = self._start\n | captions off by one
CaptioningRNN.sample | scores before the step | scores = h.dot(W_vocab) + b_vocab && x, _ = word_embedding_forward(word, W_embed) | pass && scores = h.dot(W_vocab) + b_vocab\n            x, _ = word_embedding_forward(word, W_embed) | statements in the wrong order
CaptioningRNN.sample | no bias of the image | h = features.dot(W_proj) + b_proj\n        c | h = features.dot(W_proj)\n        c | bias missing
CaptioningRNN.sample | no bias of the scores | h.dot(W_vocab) + b_vocab | h.dot(W_vocab) | bias missing
CaptioningRNN.sample | scores of the cell | scores = h.dot(W_vocab) + b_vocab | scores = (h if self.cell_type == "rnn" else c).dot(W_vocab) + b_vocab | wrong variable
CaptioningRNN.sample | state starts as zeros | h = features.dot(W_proj) + b_proj\n        c | h = np.zeros_like(features.dot(W_proj) + b_proj)\n        c | state not reset
CaptioningRNN.sample | every step reads NULL | word = np.argmax(scores, axis=1)\n            captions[:, t] = word | captions[:, t] = np.argmax(scores, axis=1)\n            word = self._null * np.ones(N, dtype=np.int32) | word not fed back
CaptioningRNN.sample | cell reset at each step | h, c, _ = lstm_step_forward(x, h, c, Wx | h, c, _ = lstm_step_forward(x, h, np.zeros_like(c), Wx | state not carried
CaptioningRNN.sample | first word left out | np.argmax(scores, axis=1) | np.argmax(scores[:, 1:], axis=1) | words off by one
CaptioningRNN.sample | NULL never chosen | np.argmax(scores, axis=1) | np.argmax(scores[:, 1:], axis=1) + 1 | wrong word
CaptioningRNN.sample | largest in magnitude | np.argmax(scores, axis=1) | np.argmax(np.abs(scores), axis=1) | wrong word
CaptioningRNN.sample | first step left out | for t in range(max_length): | for t in range(1, max_length): | step left out
CaptioningRNN.sample | last step left out | for t in range(max_length): | for t in range(max_length - 1): | step left out
CaptioningRNN.sample | state and cell exchanged | h, c, _ = lstm | c, h, _ = lstm | results swapped
CaptioningRNN.sample | tanh of h before scores | scores = h.dot(W_vocab) + b_vocab | scores = np.tanh(h).dot(W_vocab) + b_vocab | activation twice
CaptioningRNN.sample | bias twice | scores = h.dot(W_vocab) + b_vocab | scores = h.dot(W_vocab) + b_vocab + b_vocab | added twice
sgd | uphill | w -= config["learning_rate"] * dw | w += config["learning_rate"] * dw | sign
sgd | no learning rate | w -= config["learning_rate"] * dw | w -= dw | factor missing
sgd | learning rate divides | config["learning_rate"] * dw | dw / config["learning_rate"] | wrong step
sgd | sign of the gradient alone | config["learning_rate"] * dw | config["learning_rate"] * np.sign(dw) | wrong step
sgd_momentum | momentum the wrong way | - config["learning_rate"] * dw | + config["learning_rate"] * dw | sign
sgd_momentum | velocity not kept | config["velocity"] = v | pass | state not carried
sgd_momentum | velocity subtracted | next_w = w + v | next_w = w - v | sign
sgd_momentum | Nesterov | next_w = w + v | next_w = w + config["momentum"] * v - config["learning_rate"] * dw | Nesterov
sgd_momentum | damped | - config["learning_rate"] * dw | - (1 - config["momentum"]) * config["learning_rate"] * dw | factor wrong
sgd_momentum | momentum of both | config["momentum"] * v - config["learning_rate"] * dw | config["momentum"] * (v - config["learning_rate"] * dw) | brackets wrong
sgd_momentum | no learning rate | - config["learning_rate"] * dw | - dw | factor missing
sgd_momentum | no momentum | v = config["momentum"] * v | v = v | factor missing
sgd_momentum | another momentum | config.setdefault("momentum", 0.9) | config.setdefault("momentum", 0.99) | another default
sgd_momentum | classical with plus and minus | v = config["momentum"] * v - config["learning_rate"] * dw\n    next_w = w + v | v = config["momentum"] * v + config["learning_rate"] * dw\n    next_w = w + v | sign
sgd_momentum | old velocity | next_w = w + v\n    config["velocity"] = v | next_w = w + config.get("velocity", 0 * w)\n    config["velocity"] = v | statements in the wrong order
rmsprop | no root | np.sqrt(config["cache"]) | config["cache"] | square root missing
rmsprop | decay at the other term | config["decay_rate"] * config["cache"] + (1 - config["decay_rate"]) * dw ** 2 | (1 - config["decay_rate"]) * config["cache"] + config["decay_rate"] * dw ** 2 | weights of a mean swapped
rmsprop | factor missing | (1 - config["decay_rate"]) * dw ** 2 | dw ** 2 | factor missing
rmsprop | AdaGrad | config["decay_rate"] * config["cache"] + (1 - config["decay_rate"]) * dw ** 2 | config["cache"] + dw ** 2 | factor missing
rmsprop | not squared | * dw ** 2 | * dw | factor wrong
rmsprop | epsilon inside the root | (np.sqrt(config["cache"]) + config["epsilon"]) | np.sqrt(config["cache"] + config["epsilon"]) | epsilon inside the root
rmsprop | update before the cache | config["cache"] = config["decay_rate"] * config["cache"] + (1 - config["decay_rate"]) * dw ** 2\n    next_w = w - config["learning_rate"] * dw / (np.sqrt(config["cache"]) + config["epsilon"]) | next_w = w - config["learning_rate"] * dw / (np.sqrt(config["cache"]) + config["epsilon"])\n    config["cache"] = config["decay_rate"] * config["cache"] + (1 - config["decay_rate"]) * dw ** 2 | statements in the wrong order
rmsprop | brackets | dw / (np.sqrt(config["cache"]) + config["epsilon"]) | dw / np.sqrt(config["cache"]) + config["epsilon"] | brackets wrong
rmsprop | no cache in the step | / (np.sqrt(config["cache"]) + config["epsilon"]) | / (np.abs(dw) + config["epsilon"]) | state not carried
rmsprop | uphill | next_w = w - | next_w = w + | sign
rmsprop | no epsilon | (np.sqrt(config["cache"]) + config["epsilon"]) | np.sqrt(config["cache"]) | term missing
rmsprop | multiplied | dw / (np.sqrt(config["cache"]) + config["epsilon"]) | dw * (np.sqrt(config["cache"]) + config["epsilon"]) | factor wrong
rmsprop | another decay | config.setdefault("decay_rate", 0.99) | config.setdefault("decay_rate", 0.9) | another default
rmsprop | square root of the mean stored | config["decay_rate"] * config["cache"] | config["decay_rate"] * np.sqrt(config["cache"]) | square root twice
adam | no bias correction | mt = config["m"] / (1 - config["beta1"] ** config["t"]) | mt = config["m"] | bias correction missing
adam | t not counted | config["t"] += 1 | config["t"] = 1 | step not counted
adam | no square | (dw * dw) | dw | factor wrong
adam | t from 0 | config["t"] += 1 && return next_w, config | pass && config["t"] += 1\n    return next_w, config | step counted from 0
adam | t twice | config["t"] += 1 | config["t"] += 2 | step counted twice
adam | betas swapped | config.setdefault("beta1", 0.9)\n    config.setdefault("beta2", 0.999) | config.setdefault("beta1", 0.999)\n    config.setdefault("beta2", 0.9) | wrong variable
adam | v corrected by beta1 | vt = config["v"] / (1 - config["beta2"] | vt = config["v"] / (1 - config["beta1"] | wrong variable
adam | m_hat of v | mt = config["m"] | mt = config["v"] | wrong variable
adam | no correction at all | mt = config["m"] / (1 - config["beta1"] ** config["t"])\n    vt = config["v"] / (1 - config["beta2"] ** config["t"]) | mt = config["m"]\n    vt = config["v"] | bias correction missing
adam | correction without the power | (1 - config["beta1"] ** config["t"]) | (1 - config["beta1"]) | bias correction wrong
adam | no root | np.sqrt(vt) | vt | square root missing
adam | epsilon inside the root | (np.sqrt(vt) + config["epsilon"]) | np.sqrt(vt + config["epsilon"]) | epsilon inside the root
adam | m uncorrected in the step | * mt / | * config["m"] / | bias correction missing
adam | factor of m missing | (1 - config["beta1"]) * dw | dw | factor missing
adam | weights of m swapped | config["beta1"] * config["m"] + (1 - config["beta1"]) * dw | (1 - config["beta1"]) * config["m"] + config["beta1"] * dw | weights of a mean swapped
adam | uphill | w - config["learning_rate"] * mt | w + config["learning_rate"] * mt | sign
adam | gradient for m | * mt / | * dw / | wrong variable
adam | another default | config.setdefault("beta2", 0.999) | config.setdefault("beta2", 0.99) | another default
adam | factors of both missing | (1 - config["beta1"]) * dw && (1 - config["beta2"]) * (dw * dw) | dw && (dw * dw) | factor missing
adam | power at the wrong place | (1 - config["beta1"] ** config["t"]) | (1 - config["beta1"]) ** config["t"] | bias correction wrong
adam | corrections exchanged | config["m"] / (1 - config["beta1"] ** && config["v"] / (1 - config["beta2"] ** | config["m"] / (1 - config["beta2"] ** && config["v"] / (1 - config["beta1"] ** | bias correction wrong
adam | multiplied by the corrections | / (1 - config["beta1"] ** config["t"]) && / (1 - config["beta2"] ** config["t"]) | * (1 - config["beta1"] ** config["t"]) && * (1 - config["beta2"] ** config["t"]) | bias correction wrong
adam | m from v | config["m"] = config["beta1"] * config["m"] | config["m"] = config["beta1"] * config["v"] | wrong variable
adam | v not kept | config["v"] = config["beta2"] * config["v"] + (1 - config["beta2"]) * (dw * dw) && vt = config["v"] / | v = config["beta2"] * config["v"] + (1 - config["beta2"]) * (dw * dw) && vt = v / | state not carried
adam | epsilon forgotten | (np.sqrt(vt) + config["epsilon"]) | np.sqrt(vt) | term missing
adam | v uncorrected in the step | np.sqrt(vt) | np.sqrt(config["v"]) | bias correction missing
adam | t in the exponent only once | (1 - config["beta2"] ** config["t"]) | (1 - config["beta2"] ** 1) | bias correction wrong
adam | epsilon times | (np.sqrt(vt) + config["epsilon"]) | (np.sqrt(vt) * config["epsilon"]) | product for a sum
adam | AdaGrad's v | config["beta2"] * config["v"] + (1 - config["beta2"]) * (dw * dw) | config["v"] + (dw * dw) | wrong variable
adam | m not decayed | config["beta1"] * config["m"] + (1 - config["beta1"]) * dw | config["m"] + (1 - config["beta1"]) * dw | factor missing
adam | momentum like | config["beta1"] * config["m"] + (1 - config["beta1"]) * dw | config["beta1"] * config["m"] + dw | factor missing
CaptioningSolver | configs shared | self.optim_configs[p] = d | self.optim_configs[p] = self.optim_config | state shared
CaptioningSolver | learning rate never falls | *= self.lr_decay | *= 1.0 | learning rate not decayed
CaptioningSolver | losses not recorded | self.loss_history.append(loss) | self.loss_history = [loss] | wrong number of steps
CaptioningSolver | learning rate grows | *= self.lr_decay | /= self.lr_decay | learning rate not decayed
CaptioningSolver | decayed at the first step | epoch_end = (t + 1) % iterations_per_epoch == 0 | epoch_end = t % iterations_per_epoch == 0 | learning rate not decayed
CaptioningSolver | decayed at each step | if epoch_end: | if True: | condition missing
CaptioningSolver | gradient of the batch divided | dw = grads[p] | dw = grads[p] / self.batch_size | wrong step
"""


def mistakes(rows: str) -> Iterator[Mistake]:
    """The mistakes of a table."""
    for row in rows.strip("\n").splitlines():
        function, name, right, wrong, kind, *where = row.replace("\\n", "\n").split(" | ")
        words = tuple(where[0].split(" && ")) if where else ()
        yield Mistake(name, function, right, wrong, kind.strip(), words)


MISTAKES = list(mistakes(ROWS))


def with_mistake(mistake: Mistake) -> dict[str, str]:
    """The files of the solution with a mistake."""
    files = dict(FILES)
    head = f"{mistake.function.rpartition('.')[2]}("
    for name, text in files.items():
        start = max(text.find(f"def {head}"), text.find(f"class {head}"))
        places = list(zip(mistake.right.split(" && "), mistake.wrong.split(" && "), strict=True))
        if start >= 0 and all(right in text[start:] for right, _ in places):
            for right, wrong in places:
                text = text[:start] + text[start:].replace(right, wrong, 1)
            if "LAST" in mistake.wrong:
                kept = "cache = (x, prev_h, Wx, Wh, b, next_h)"
                text = text.replace(kept, f"global LAST\n    {kept.replace('=', '= LAST =', 1)}")
            return {**files, name: text}
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
    told = [result for result in there if mistake.kind in result.kind]
    text = " ".join(f"{result.where} {result.advice}" for result in told)
    return bool(told) and not others and all(word in text for word in mistake.where)


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


def line(mistake: Mistake) -> str:
    """Line of a Markdown table: a mistake, and what grading says of it."""
    with tempfile.TemporaryDirectory() as folder:
        there, others = named(mistake, Path(folder))
    first = there[0] if there else Result("", False)
    kind = first.kind if is_right(mistake, there, others) else f"WRONG: {first.kind}"
    code = changed_line(mistake).replace("|", "\\|")
    where = first.where.replace("|", "\\|")
    return f"| `{mistake.function}` | {mistake.name}: `{code}` | {kind} | {where} |"


RULE = "|---|---|---|---|\n"  # after the heads of the table
PAGE = Path(__file__).parents[2] / "docs" / "develop" / "mistakes.md"


def main() -> None:
    begun = time.perf_counter()
    with ProcessPoolExecutor() as pool:
        lines = list(pool.map(line, MISTAKES))
    head, _, _ = PAGE.read_text(encoding="utf-8").partition(RULE)
    PAGE.write_text(head + RULE + "\n".join(lines) + "\n", encoding="utf-8")
    wrong = [line for line in lines if "WRONG" in line]
    print("\n".join(wrong))
    print(f"{len(MISTAKES)} mistakes, {len(wrong)} wrong, {time.perf_counter() - begun:.0f} s")


if __name__ == "__main__":
    main()
