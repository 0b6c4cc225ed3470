"""The layers of an RNN or LSTM captioner: forward and backward passes.

N captions, T steps, D inputs, H units, V words. Gates stack i, f, o, g along the last axis.
"""

import numpy as np


def sigmoid(x):
    """1 / (1 + exp(-x)), in a form that does not overflow."""
    return 0.5 * (1 + np.tanh(0.5 * x))


def lstm_step_forward(x, prev_h, prev_c, Wx, Wh, b):
    """One LSTM step: x (N, D), prev_h and prev_c (N, H) to next_h, next_c (N, H), cache."""
    a = x @ Wx + prev_h @ Wh + b  # (N, 4H)
    a_i, a_f, a_o, a_g = np.split(a, 4, axis=1)
    i = sigmoid(a_i)
    f = sigmoid(a_f)
    o = sigmoid(a_o)
    g = np.tanh(a_g)
    next_c = f * prev_c + i * g
    next_h = o * np.tanh(next_c)
    return next_h, next_c, (x, prev_h, prev_c, Wx, Wh, i, f, o, g, next_c)


def lstm_step_backward(dnext_h, dnext_c, cache):
    """Gradients of a step: dnext_h, dnext_c (N, H) to dx, dprev_h, dprev_c, dWx, dWh, db."""
    x, prev_h, prev_c, Wx, Wh, i, f, o, g, next_c = cache
    tanh_c = np.tanh(next_c)
    do = dnext_h * tanh_c
    dc = dnext_c + dnext_h * o * (1 - tanh_c**2)
    di = dc * g
    df = dc * prev_c
    dg = dc * i
    da_i = di * i * (1 - i)
    da_f = df * f * (1 - f)
    da_o = do * o * (1 - o)
    da_g = dg * (1 - g**2)
    da = np.concatenate((da_i, da_f, da_o, da_g), axis=1)  # (N, 4H)
    dx = da @ Wx.T
    dprev_h = da @ Wh.T
    dprev_c = dc * f
    dWx = x.T @ da
    dWh = prev_h.T @ da
    db = da.sum(axis=0)
    return dx, dprev_h, dprev_c, dWx, dWh, db


def lstm_forward(x, h0, Wx, Wh, b):
    """All steps of x (N, T, D) from h0 (N, H) and a zero cell: h (N, T, H), cache."""
    N, T, _ = x.shape
    h = np.zeros((N, T, h0.shape[1]), x.dtype)
    state, cell = h0, np.zeros_like(h0)
    cache = []
    for t in range(T):
        state, cell, step = lstm_step_forward(x[:, t], state, cell, Wx, Wh, b)
        h[:, t] = state
        cache.append(step)
    return h, cache


def lstm_backward(dh, cache):
    """Gradients of a sequence: dh (N, T, H), of each step's loss, to dx, dh0, dWx, dWh, db."""
    N, T, H = dh.shape
    x, Wx, Wh = cache[0][0], cache[0][3], cache[0][4]
    dx = np.zeros((N, T, x.shape[1]), dh.dtype)
    dWx, dWh, db = np.zeros_like(Wx), np.zeros_like(Wh), np.zeros_like(Wh[0])
    dstate = np.zeros((N, H), dh.dtype)
    dcell = np.zeros((N, H), dh.dtype)
    for t in reversed(range(T)):
        dstate = dh[:, t] + dstate
        dx[:, t], dstate, dcell, dWx_t, dWh_t, db_t = lstm_step_backward(dstate, dcell, cache[t])
        dWx += dWx_t
        dWh += dWh_t
        db += db_t
    return dx, dstate, dWx, dWh, db


def rnn_step_forward(x, prev_h, Wx, Wh, b):
    """One step of a vanilla RNN: x (N, D), prev_h (N, H) to next_h (N, H), cache."""
    next_h = np.tanh(x @ Wx + prev_h @ Wh + b)
    return next_h, (x, prev_h, Wx, Wh, next_h)


def rnn_step_backward(dnext_h, cache):
    """Gradients of a step: dnext_h (N, H) to dx, dprev_h, dWx, dWh, db."""
    x, prev_h, Wx, Wh, next_h = cache
    da = dnext_h * (1 - next_h**2)
    dx = da @ Wx.T
    dprev_h = da @ Wh.T
    dWx = x.T @ da
    dWh = prev_h.T @ da
    db = da.sum(axis=0)
    return dx, dprev_h, dWx, dWh, db


def rnn_forward(x, h0, Wx, Wh, b):
    """All steps of x (N, T, D) from h0 (N, H): h (N, T, H), cache."""
    N, T, _ = x.shape
    h = np.zeros((N, T, h0.shape[1]), x.dtype)
    state = h0
    cache = []
    for t in range(T):
        state, step = rnn_step_forward(x[:, t], state, Wx, Wh, b)
        h[:, t] = state
        cache.append(step)
    return h, cache


def rnn_backward(dh, cache):
    """Gradients of a sequence: dh (N, T, H), of each step's loss, to dx, dh0, dWx, dWh, db."""
    N, T, H = dh.shape
    x, Wx, Wh = cache[0][0], cache[0][2], cache[0][3]
    dx = np.zeros((N, T, x.shape[1]), dh.dtype)
    dWx, dWh, db = np.zeros_like(Wx), np.zeros_like(Wh), np.zeros_like(Wh[0])
    dstate = np.zeros((N, H), dh.dtype)
    for t in reversed(range(T)):
        dstate = dh[:, t] + dstate
        dx[:, t], dstate, dWx_t, dWh_t, db_t = rnn_step_backward(dstate, cache[t])
        dWx += dWx_t
        dWh += dWh_t
        db += db_t
    return dx, dstate, dWx, dWh, db


def word_embedding_forward(x, W):
    """Vectors of words: ids x (N, T), table W (V, D) to out (N, T, D), cache."""
    return W[x], (x, W)


def word_embedding_backward(dout, cache):
    """Gradient of the table: dout (N, T, D) to dW (V, D). A word that repeats adds up."""
    x, W = cache
    dW = np.zeros_like(W)
    np.add.at(dW, x, dout)
    return dW


def affine_forward(x, w, b):
    """x (N, d1, ..., dk) as rows of D numbers, w (D, M), b (M,) to out (N, M), cache."""
    rows = x.reshape(len(x), -1)
    out = rows @ w + b
    return out, (x, w, b)


def affine_backward(dout, cache):
    """Gradients: dout (N, M) to dx, in the shape of x, dw, db."""
    x, w, _ = cache
    dx = (dout @ w.T).reshape(x.shape)
    dw = x.reshape(len(x), -1).T @ dout
    db = dout.sum(axis=0)
    return dx, dw, db


def temporal_affine_forward(x, w, b):
    """The same layer at every step: x (N, T, D), w (D, M), b (M,) to out (N, T, M), cache."""
    out = x @ w + b
    return out, (x, w, b)


def temporal_affine_backward(dout, cache):
    """Gradients: dout (N, T, M) to dx (N, T, D), dw, db, added up over captions and steps."""
    x, w, _ = cache
    N, T, D = x.shape
    rows = dout.reshape(N * T, -1)
    dx = (rows @ w.T).reshape(x.shape)
    dw = x.reshape(N * T, D).T @ rows
    db = rows.sum(axis=0)
    return dx, dw, db


def temporal_softmax_loss(x, y, mask, verbose=False):
    """Cross entropy of scores x (N, T, V) and words y (N, T) where mask (N, T) is true: loss, dx.

    Added up over steps, averaged over captions.
    """
    N, T, V = x.shape
    scores, words, counts = x.reshape(N * T, V), y.reshape(N * T), mask.reshape(N * T)
    shifted = scores - scores.max(axis=1, keepdims=True)
    log_p = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    rows = np.arange(N * T)
    loss = -(log_p[rows, words] * counts).sum() / N
    dscores = np.exp(log_p)
    dscores[rows, words] -= 1
    dscores = dscores * counts[:, None] / N
    return loss, dscores.reshape(N, T, V)
