"""Students' solutions of the course: right ones in several styles, and mistakes to make in one."""

import functools
import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from xpcap.exercise import table
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
rnn_step_forward | input and state mixed up | np.dot(prev_h, Wh) | np.dot(prev_h, Wh.T) | transposed weight | next_h
rnn_step_forward | overwrites x |     forward = np.dot(x, Wx) |     x *= 2\n    forward = np.dot(x / 2, Wx) | overwrites its arguments | x
rnn_step_forward | bias twice | np.dot(x, Wx) + | np.dot(x, Wx) + b + | added twice
rnn_step_forward | bias outside the tanh | + b\n    next_h = np.tanh(forward) | \n    next_h = np.tanh(forward) + b | activation of a part
rnn_step_forward | old state added | np.tanh(forward) | np.tanh(forward) + prev_h | term added
rnn_step_forward | product of input and state | np.dot(x, Wx) + np.dot(prev_h, Wh) | np.dot(x, Wx) * np.dot(prev_h, Wh) | product for a sum
rnn_step_backward | shapes that do not fit | np.dot(dforward, Wx.T) | np.dot(dforward, Wx) | transposed weight
rnn_step_backward | weights' gradient transposed | np.dot(x.T, dforward) | np.dot(dforward.T, x) | transposed | dWx
rnn_step_backward | no sum over the batch | np.sum(dforward, axis=0) | dforward | sum over the batch missing | db
rnn_step_backward | mean over the batch | np.sum(dforward, axis=0) | np.mean(dforward, axis=0) | mean for a sum | db
rnn_step_backward | cache in a global | b, next_h = cache && cache = (x, prev_h, Wx, Wh, b, next_h) | b, next_h = LAST && global LAST\n    cache = LAST = (x, prev_h, Wx, Wh, b, next_h) | state outside the cache
rnn_step_backward | reshape for a transpose | np.dot(x.T, dforward) | np.dot(x.reshape(x.shape[::-1]), dforward) | reshape for a transpose | dWx
rnn_step_backward | keepdims | np.sum(dforward, axis=0) | np.sum(dforward, axis=0, keepdims=True) | axis of one | db
rnn_step_backward | clipped | return dx, dprev_h, dWx, dWh, db | return dx, dprev_h, np.clip(dWx, -5, 5), dWh, db | gradient clipped | dWx
rnn_step_backward | dprev_h by derivative of the old state | dprev_h = np.dot(dforward, Wh.T) | dprev_h = np.dot(dforward, Wh.T) * (1 - prev_h ** 2) | derivative of tanh twice
rnn_forward | last step left out | for t in range(T): | for t in range(T - 1): | step left out | time step
rnn_forward | stacked and reshaped | return h, cache | h = np.array([h[:, t] for t in range(T)]).reshape(N, T, H)\n    return h, cache | reshape for a transpose
rnn_forward | tanh of h0 | prev = h0 | prev = np.tanh(h0) | activation twice
rnn_forward | state kept before the step | prev, step = rnn_step_forward(x[:, t, :], prev, Wx, Wh, b)\n        h[:, t, :] = prev | h[:, t, :] = prev\n        prev, step = rnn_step_forward(x[:, t, :], prev, Wx, Wh, b) | statements in the wrong order
rnn_forward | input of the step before | x[:, t, :], prev | x[:, t - 1, :], prev | wrong time step
rnn_forward | runs backwards | for t in range(T): | for t in reversed(range(T)): | steps in the wrong order
rnn_forward | integers | h = np.zeros((N, T, H)) | h = np.zeros((N, T, H), dtype=int) | integers
rnn_forward | axes of steps and samples | return h, cache | return h.transpose(1, 0, 2), cache | transposed
rnn_forward | last state alone | return h, cache | return prev, cache | summed too far
rnn_forward | step called twice | h[:, t, :] = prev | prev, step = rnn_step_forward(x[:, t, :], prev, Wx, Wh, b)\n        h[:, t, :] = prev | step taken twice
rnn_backward | forward in time | range(T - 1, -1, -1) | range(T) | steps in the wrong order
rnn_backward | one cache for all | cache[t] | cache[-1] | wrong time step
rnn_backward | dh0 forgotten | dh0 = dprev | dh0 = np.zeros((N, H)) | left at zero | dh0
rnn_backward | dh0 is that of the first step's loss | dh0 = dprev | dh0 = dh[:, 0, :] | dh not carried | dh0
rnn_backward | dh added after the step | dcurrent = dh[:, t, :] + dprev\n        dxt, dprev, dWxt, dWht, dbt = rnn_step_backward(dcurrent, cache[t]) | dxt, dprev, dWxt, dWht, dbt = rnn_step_backward(dprev, cache[t])\n        dprev = dprev + dh[:, t, :] | statements in the wrong order
rnn_backward | dx reshaped | return dx, dh0 | dx = np.array([dx[:, t] for t in range(T)]).reshape(N, T, D)\n    return dx, dh0 | reshape for a transpose | dx
rnn_backward | mean over steps | dh0 = dprev | dWx, dWh, db = dWx / T, dWh / T, db / T\n    dh0 = dprev | mean for a sum
rnn_backward | dh added twice | dcurrent = dh[:, t, :] + dprev | dcurrent = 2 * dh[:, t, :] + dprev | added twice
rnn_backward | last step left out | range(T - 1, -1, -1) | range(T - 2, -1, -1) | step left out
rnn_backward | sign of what is carried | dh[:, t, :] + dprev | dh[:, t, :] - dprev | sign
word_embedding_forward | ids off by one | W[x, :] | W[x - 1, :] | words off by one
word_embedding_forward | scaled | W[x, :] | W[x, :] * np.sqrt(W.shape[1]) | vectors changed
word_embedding_backward | scatter by += | np.add.at(dW, x, dout) | dW[x] += dout | scatter without adding
word_embedding_backward | mean over the batch | np.add.at(dW, x, dout) | np.add.at(dW, x, dout)\n    dW /= len(x) | mean for a sum
word_embedding_backward | NULL's gradient left out | np.add.at(dW, x, dout) | np.add.at(dW, x, dout)\n    dW[0] = 0 | mask ignored
word_embedding_backward | sized by the words seen | dW = np.zeros(shape) | dW = np.zeros((x.max() + 1, shape[1])) | table too small
word_embedding_backward | starts as ones | dW = np.zeros(shape) | dW = np.ones(shape) | not started at zero
word_embedding_backward | integers | np.add.at(dW, x, dout) | np.add.at(dW, x, dout.astype(int)) | integers
word_embedding_backward | START's place left out | np.add.at(dW, x, dout) | np.add.at(dW, x[:, 1:], dout[:, 1:]) | scatter wrong
lstm_step_forward | gates i, f, g, o | o = sigmoid(a[:, 2 * H:3 * H]) && g = np.tanh(a[:, 3 * H:]) | o = sigmoid(a[:, 3 * H:]) && g = np.tanh(a[:, 2 * H:3 * H]) | gates swapped | o, g
lstm_step_forward | no tanh of the cell | o * tanh_next_c | o * next_c | missing activation | next_h
lstm_step_forward | sigmoid for g | g = np.tanh( | g = sigmoid( | wrong activation | gate g
lstm_step_forward | old cell dropped | f * prev_c + i * g | i * g | state not carried | next_c
lstm_step_forward | i + g | i * g\n | i + g\n | sum for a product
lstm_step_forward | gates interleaved | 0:H] && H:2 * H] && 2 * H:3 * H] && 3 * H:] | 0::4] && 1::4] && 2::4] && 3::4] | gates interleaved
lstm_step_forward | tanh of the old cell | tanh_next_c = np.tanh(next_c) | tanh_next_c = np.tanh(prev_c) | wrong variable | next_h
lstm_step_forward | bias of one in f | f = sigmoid(a[:, H:2 * H]) | f = sigmoid(a[:, H:2 * H] + 1) | bias added | gate f
lstm_step_forward | tanh in the cell | next_c = f * prev_c + i * g | next_c = np.tanh(f * prev_c + i * g) | activation twice
lstm_step_forward | results in the wrong order | return next_h, next_c, cache | return next_c, next_h, cache | results swapped
lstm_step_forward | negative exponent | o = sigmoid(a[:, 2 * H:3 * H]) | o = sigmoid(-a[:, 2 * H:3 * H]) | sign | gate o
lstm_step_forward | no output gate | next_h = o * tanh_next_c | next_h = tanh_next_c | factor missing
lstm_step_forward | gates transposed in a reshape | i = sigmoid(a[:, 0:H])\n    f = sigmoid(a[:, H:2 * H])\n    o = sigmoid(a[:, 2 * H:3 * H])\n    g = np.tanh(a[:, 3 * H:]) | parts = a.reshape(4, len(a), H)\n    i, f, o = (sigmoid(part) for part in parts[:3])\n    g = np.tanh(parts[3]) | reshape for a transpose
lstm_step_forward | i squared | f * prev_c + i * g | f * prev_c + i * i * g | factor twice
lstm_step_backward | no sigmoid derivative of f | dgate_f * f * (1 - f) | dgate_f | missing derivative of sigmoid | gate f
lstm_step_backward | no tanh derivative of g | dgate_g * (1 - g ** 2) | dgate_g | missing derivative of tanh | gate g
lstm_step_backward | sigmoid derivative for g | (1 - g ** 2) | g * (1 - g) | derivative of sigmoid instead of tanh | gate g
lstm_step_backward | tanh derivative for o | dgate_o * o * (1 - o) | dgate_o * (1 - o ** 2) | derivative of tanh instead of sigmoid | gate o
lstm_step_backward | half a sigmoid derivative | dgate_i * i * (1 - i) | dgate_i * (1 - i) | derivative of sigmoid wrong | gate i
lstm_step_backward | o forgotten | o * (1 - tanh_next_c ** 2) | (1 - tanh_next_c ** 2) | factor missing | dx
lstm_step_backward | dc not carried | dnext_c + o * ( | o * ( | dc not carried
lstm_step_backward | dh does not reach the cell |  + o * (1 - tanh_next_c ** 2) * dnext_h |  | dh not added
lstm_step_backward | sign of one gate | dgate_o = dnext_h | dgate_o = -dnext_h | sign | gate o
lstm_step_backward | next cell for the old one | dcell * prev_c | dcell * tanh_next_c | wrong variable | gate f
lstm_step_backward | stacked i, f, g, o | (dai, daf, dao, dag) | (dai, daf, dag, dao) | gates swapped | gate o, g
lstm_step_backward | derivatives of what goes in | dai = dgate_i | i, f, o = (np.log(s / (1 - s)) for s in (i, f, o))\n    g = np.arctanh(g)\n    dai = dgate_i | derivative of | gate i && gate f && gate o && gate g
lstm_step_backward | all factors for the upstream cell | dcell = dnext_c + o * (1 - tanh_next_c ** 2) * dnext_h | dcell = (dnext_c + dnext_h) * o * (1 - tanh_next_c ** 2) | brackets wrong
lstm_step_backward | dprev_h and dprev_c returned the wrong way round | return dx, dprev_h, dprev_c, dWx | return dx, dprev_c, dprev_h, dWx | results swapped
lstm_step_backward | upstream gradients unpacked the wrong way round | dcell = dnext_c + o | dnext_h, dnext_c = dnext_c, dnext_h\n    dcell = dnext_c + o | arguments swapped
lstm_step_backward | square forgotten | (1 - tanh_next_c ** 2) | (1 - tanh_next_c) | derivative of tanh wrong
lstm_step_backward | dnext_c added to dprev_c | dprev_c = dcell * f | dprev_c = dcell * f + dnext_c | term added | dprev_c
lstm_step_backward | three mistakes | daf = dgate_f * f * (1 - f) && dag = dgate_g * (1 - g ** 2) && dprev_c = dcell * f | daf = dgate_f && dag = dgate_g && dprev_c = dcell | missing derivative
lstm_forward | cell not carried | prev_h, prev_c, step = lstm | prev_h, _, step = lstm | state not carried
lstm_forward | cell starts as h0 | prev_c = np.zeros((N, H)) | prev_c = h0 | state not reset
lstm_forward | a typing error | prev_c = np.zeros((N, H)) | prev_c = np.zeros(N, H) | raises an error | np.zeros(N, H)
lstm_forward | cells for states | h[:, t, :] = prev_h | h[:, t, :] = prev_c | wrong variable
lstm_forward | state and cell unpacked the wrong way round | prev_h, prev_c, step = lstm | prev_c, prev_h, step = lstm | results swapped
lstm_forward | state and cell handed over the wrong way round | lstm_step_forward(x[:, t, :], prev_h, prev_c, | lstm_step_forward(x[:, t, :], prev_c, prev_h, | arguments swapped
lstm_backward | gradient of the cell not carried | dnext_c = dprev_c | dnext_c = np.zeros((N, H)) | dc not carried
lstm_backward | carried state gradient not added | dh[:, t, :] + dprev_h | dh[:, t, :] | dh not carried
lstm_backward | bias gradient overwritten | db += dbt | db = dbt | not added up over steps | db
lstm_backward | not written | dh0 = dprev_h\n    return dx, dh0, dWx, dWh, db | return None, None, None, None, None | not written yet
lstm_backward | dprev_h and dprev_c unpacked the wrong way round | dx[:, t, :], dprev_h, dprev_c, dWxt | dx[:, t, :], dprev_c, dprev_h, dWxt | results swapped
lstm_backward | cell's gradient added up | dprev_c, dWxt, dWht, dbt = lstm_step_backward(dnext_h, dnext_c, cache[t]) | more, dWxt, dWht, dbt = lstm_step_backward(dnext_h, dnext_c, cache[t])\n        dprev_c = dprev_c + more | added up over steps | cell
lstm_backward | dh into the cell, too | dnext_c = dprev_c | dnext_c = dprev_c + dh[:, t, :] | dh added twice
affine_forward | bias twice | .dot(w) + b | .dot(w) + b + b | added twice
affine_backward | not reshaped back | dx = dout.dot(w.T).reshape(x.shape) | dx = dout.dot(w.T) | not reshaped back | dx
affine_backward | mean over the batch | dw = x.reshape(x.shape[0], -1).T.dot(dout) | dw = x.reshape(x.shape[0], -1).T.dot(dout) / len(x) | mean for a sum | dw
temporal_affine_forward | no bias | .reshape(N, T, M) + b | .reshape(N, T, M) | bias missing
temporal_affine_backward | sum over steps missing | dout.sum(axis=(0, 1)) | dout.sum(axis=0) | sum over the batch missing | db
temporal_affine_backward | reshape for a transpose | dw = dout.reshape(N * T, M).T.dot(x.reshape(N * T, D)).T | dw = x.reshape(D, N * T).dot(dout.reshape(N * T, M)) | reshape for a transpose | dw
temporal_affine_backward | dx left at zero | dx = dout.reshape(N * T, M).dot(w.T).reshape(N, T, D) | dx = np.zeros_like(x) | left at zero | dx
temporal_softmax_loss | gradient not divided | dx_flat /= N | pass | sum for a mean | dx
temporal_softmax_loss | one not subtracted | dx_flat[np.arange(N * T), y_flat] -= 1 | pass | term missing | dx
temporal_softmax_loss | overflow | x_flat - np.max(x_flat, axis=1, keepdims=True) | x_flat | not stable
temporal_softmax_loss | mean over words in both | y_flat])) / N && dx_flat /= N | y_flat])) / mask_flat.sum() && dx_flat /= mask_flat.sum() | mean for a sum
temporal_softmax_loss | no mask at all | mask_flat = mask.reshape(N * T) | mask_flat = np.ones(N * T, dtype=bool) | mask ignored
temporal_softmax_loss | sign | loss = -np.sum( | loss = np.sum( | sign | loss
temporal_softmax_loss | one subtracted in every row | dx_flat[np.arange(N * T), y_flat] -= 1 | dx_flat[:, y_flat] -= 1 | wrong rows | dx
temporal_softmax_loss | targets shifted | y_flat = y.reshape(N * T) | y_flat = np.roll(y, 1, axis=1).reshape(N * T) | captions off by one
temporal_softmax_loss | no logarithm | mask_flat * np.log(probs[np.arange(N * T), y_flat]) | mask_flat * probs[np.arange(N * T), y_flat] | logarithm missing | loss
temporal_softmax_loss | softmax over steps | probs /= np.sum(probs, axis=1, keepdims=True) | probs = np.exp(x) / np.exp(x).sum(axis=1, keepdims=True)\n    probs = probs.reshape(N * T, V) | wrong axis
temporal_softmax_loss | base 2 | np.log(probs | np.log2(probs | wrong logarithm | loss
temporal_softmax_loss | gradient of scores | dx_flat = probs.copy() | dx_flat = x_flat.copy() | exponential missing | dx
temporal_softmax_loss | entropy | np.log(probs[np.arange(N * T), y_flat]) | probs[np.arange(N * T), y_flat] * np.log(probs[np.arange(N * T), y_flat]) | wrong words
CaptioningRNN.loss | targets are the inputs | captions_out = captions[:, 1:] | captions_out = captions[:, :-1] | captions off by one
CaptioningRNN.loss | mask of the inputs | mask = captions_out != self._null | mask = captions_in != self._null | mask ignored
CaptioningRNN.loss | no bias of the image | features.dot(W_proj) + b_proj | features.dot(W_proj) | bias missing
CaptioningRNN.loss | gradient of the image forgotten | grads["W_proj"] = features.T.dot(dh0) | pass | gradient missing | W_proj
CaptioningRNN.loss | tanh of h0 | h0 = features.dot(W_proj) + b_proj | h0 = np.tanh(features.dot(W_proj) + b_proj) | activation twice
CaptioningRNN.loss | h0 of zeros | h0 = features.dot(W_proj) + b_proj | h0 = np.zeros_like(features.dot(W_proj) + b_proj) | state not reset
CaptioningRNN.loss | image's gradient of the first step | features.T.dot(dh0) && dh0.sum(axis=0) | features.T.dot(dh[:, 0]) && dh[:, 0].sum(axis=0) | dh not carried | W_proj
CaptioningRNN.loss | loss divided again | return loss, grads | return loss / len(features), grads | mean for a sum | loss
CaptioningRNN.loss | image's bias gradient forgotten | grads["b_proj"] = dh0.sum(axis=0) | grads["b_proj"] = np.zeros_like(b_proj) | left at zero | b_proj
CaptioningRNN.sample | word not fed back | word = np.argmax(scores, axis=1)\n            captions[:, t] = word | captions[:, t] = np.argmax(scores, axis=1) | word not fed back
CaptioningRNN.sample | starts with NULL | word = self._start * | word = self._null * | wrong start
CaptioningRNN.sample | cell not carried | h, c, _ = lstm | h, _, _ = lstm | state not carried
CaptioningRNN.sample | word of two steps before | word = np.argmax(scores, axis=1)\n            captions[:, t] = word | captions[:, t] = np.argmax(scores, axis=1)\n            word = captions[:, t - 1] | word fed late
CaptioningRNN.sample | lowest score | np.argmax(scores, axis=1) | np.argmin(scores, axis=1) | wrong word
CaptioningRNN.sample | cell starts as h0 | c = np.zeros_like(h) | c = h.copy() | state not reset
CaptioningRNN.sample | START in the first column | captions[:, t] = word | captions[:, (t + 1) % max_length] = word\n        captions[:, 0] = self._start | captions off by one
CaptioningRNN.sample | scores before the step | scores = h.dot(W_vocab) + b_vocab && x, _ = word_embedding_forward(word, W_embed) | pass && scores = h.dot(W_vocab) + b_vocab\n            x, _ = word_embedding_forward(word, W_embed) | statements in the wrong order
CaptioningRNN.sample | scores of the cell | scores = h.dot(W_vocab) + b_vocab | scores = (h if self.cell_type == "rnn" else c).dot(W_vocab) + b_vocab | wrong variable
CaptioningRNN.sample | first word left out | np.argmax(scores, axis=1) | np.argmax(scores[:, 1:], axis=1) | words off by one
CaptioningRNN.sample | last step left out | for t in range(max_length): | for t in range(max_length - 1): | step left out
CaptioningRNN.sample | state and cell exchanged | h, c, _ = lstm | c, h, _ = lstm | results swapped
sgd | uphill | w -= config["learning_rate"] * dw | w += config["learning_rate"] * dw | sign
sgd | learning rate divides | config["learning_rate"] * dw | dw / config["learning_rate"] | wrong step
sgd_momentum | momentum the wrong way | - config["learning_rate"] * dw | + config["learning_rate"] * dw | sign
sgd_momentum | velocity not kept | config["velocity"] = v | pass | state not carried
sgd_momentum | Nesterov | next_w = w + v | next_w = w + config["momentum"] * v - config["learning_rate"] * dw | Nesterov
sgd_momentum | damped | - config["learning_rate"] * dw | - (1 - config["momentum"]) * config["learning_rate"] * dw | factor wrong
sgd_momentum | momentum of both | config["momentum"] * v - config["learning_rate"] * dw | config["momentum"] * (v - config["learning_rate"] * dw) | brackets wrong
rmsprop | no root | np.sqrt(config["cache"]) | config["cache"] | square root missing
rmsprop | decay at the other term | config["decay_rate"] * config["cache"] + (1 - config["decay_rate"]) * dw ** 2 | (1 - config["decay_rate"]) * config["cache"] + config["decay_rate"] * dw ** 2 | weights of a mean swapped
rmsprop | AdaGrad | config["decay_rate"] * config["cache"] + (1 - config["decay_rate"]) * dw ** 2 | config["cache"] + dw ** 2 | factor missing
rmsprop | not squared | * dw ** 2 | * dw | factor wrong
rmsprop | epsilon inside the root | (np.sqrt(config["cache"]) + config["epsilon"]) | np.sqrt(config["cache"] + config["epsilon"]) | epsilon inside the root
rmsprop | update before the cache | config["cache"] = config["decay_rate"] * config["cache"] + (1 - config["decay_rate"]) * dw ** 2\n    next_w = w - config["learning_rate"] * dw / (np.sqrt(config["cache"]) + config["epsilon"]) | next_w = w - config["learning_rate"] * dw / (np.sqrt(config["cache"]) + config["epsilon"])\n    config["cache"] = config["decay_rate"] * config["cache"] + (1 - config["decay_rate"]) * dw ** 2 | statements in the wrong order
rmsprop | square root of the mean stored | config["decay_rate"] * config["cache"] | config["decay_rate"] * np.sqrt(config["cache"]) | square root twice
adam | t not counted | config["t"] += 1 | config["t"] = 1 | step not counted
adam | t from 0 | config["t"] += 1 && return next_w, config | pass && config["t"] += 1\n    return next_w, config | step counted from 0
adam | t twice | config["t"] += 1 | config["t"] += 2 | step counted twice
adam | v corrected by beta1 | vt = config["v"] / (1 - config["beta2"] | vt = config["v"] / (1 - config["beta1"] | wrong variable
adam | no correction at all | config["m"] / (1 - config["beta1"] ** config["t"]) && config["v"] / (1 - config["beta2"] ** config["t"]) | config["m"] && config["v"] | bias correction missing
adam | correction without the power | (1 - config["beta1"] ** config["t"]) | (1 - config["beta1"]) | bias correction wrong
adam | another default | config.setdefault("beta2", 0.999) | config.setdefault("beta2", 0.99) | another default
adam | v not kept | config["v"] = config["beta2"] * config["v"] + (1 - config["beta2"]) * (dw * dw) && vt = config["v"] / | v = config["beta2"] * config["v"] + (1 - config["beta2"]) * (dw * dw) && vt = v / | state not carried
CaptioningSolver | configs shared | self.optim_configs[p] = d | self.optim_configs[p] = self.optim_config | state shared
CaptioningSolver | learning rate never falls | *= self.lr_decay | *= 1.0 | learning rate not decayed
CaptioningSolver | losses not recorded | self.loss_history.append(loss) | self.loss_history = [loss] | wrong number of steps
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


def with_mistakes(mistakes: Iterable[Mistake]) -> dict[str, str]:
    """The files of the solution with mistakes, each in the first such place of its function."""
    files = dict(FILES)
    for mistake in mistakes:
        name = mistake.function.rpartition(".")[2]
        heads = {file: re.search(rf"(def|class) {name}\(", text) for file, text in files.items()}
        ((file, head),) = ((file, head) for file, head in heads.items() if head)
        text = files[file]
        places = zip(mistake.right.split(" && "), mistake.wrong.split(" && "), strict=True)
        for right, wrong in places:
            place = text.find(right, head.start())
            place = text.find(right) if place < 0 else place  # of what another function leaves
            assert place >= 0, f"{mistake.name}: {right!r} is not in {file}"
            text = text[:place] + wrong + text[place + len(right) :]
        files[file] = text
    return files


def written(files: Mapping[str, str], folder: Path) -> Path:
    """The folder cs231n/ with these files."""
    for name, text in files.items():
        path = folder / "cs231n" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return folder / "cs231n"


@functools.cache
def uses(function: str) -> frozenset[str]:
    """The function, and those that it calls or whose cache it reads, directly or not."""
    rows = (row for row in table.FUNCTIONS.values() if row.method == function)
    below = {name for row in rows for name in table.calls(row.name)}
    return frozenset([function]).union(*map(uses, below))


def meet(one: str, other: str) -> bool:
    """Whether one function uses the other, or a layer both; captioners are graded above right ones."""
    layers = (row.name for row in table.functions(["rnn_layers"]))
    return any({one, other} <= uses(function) for function in (one, other, *layers))


def submissions(mistakes: Iterable[Mistake]) -> list[list[Mistake]]:
    """The mistakes, each in the first submission where it meets no other."""
    together: list[list[Mistake]] = []
    for mistake in mistakes:
        for others in together:
            if not any(meet(mistake.function, other.function) for other in others):
                others.append(mistake)
                break
        else:
            together.append([mistake])
    return together


class Answer(NamedTuple):
    """What grading says of a mistake: of its function, and of others that have none."""

    mistake: Mistake
    faults: list[Result]
    others: list[Result]

    @property
    def is_right(self) -> bool:
        """Whether the mistake is named as its row says, and no other."""
        named = [fault for fault in self.faults if self.mistake.kind in fault.kind]
        text = " ".join(f"{fault.where} {fault.advice}" for fault in named)
        return bool(named) and not self.others and all(w in text for w in self.mistake.where)


def answers(mistakes: Sequence[Mistake]) -> list[Answer]:
    """What grading says of a submission with mistakes that do not meet."""
    with tempfile.TemporaryDirectory() as folder:
        results = list(grade(written(with_mistakes(mistakes), Path(folder)), seed=0))
    faults: dict[str, list[Result]] = {mistake.function: [] for mistake in mistakes}
    others = []
    for result in results:
        function = result.function.partition(" ")[0]
        if result.kind and not result.kind.startswith("follows"):
            if function in faults:
                faults[function].append(result)
            elif not result.passed:
                others.append(result)
    return [Answer(mistake, faults[mistake.function], others) for mistake in mistakes]
