"""The captioner in NumPy as CS231n teaches it: the baseline for machines without PyTorch.

It uses nothing of xpcap. It computes every time step of every caption, padding included, and masks
the loss. Each time step multiplies word vectors and state by the weights, appends its cache to a
list, and adds its weight gradients. Adam updates parameter by parameter and makes new arrays. Only
the sigmoid, a single line, is faster than the course's.
"""

from typing import Any

import numpy as np

Arrays = dict[str, np.ndarray]


class Textbook:
    """The model and its optimiser.

    params : W_proj, b_proj, W_embed, Wx, Wh, b, W_vocab, b_vocab, of the course's shapes; copied
    clip : largest global norm of the gradients
    """

    def __init__(
        self, params: Arrays, null: int, start: int, learning_rate: float, clip: float
    ) -> None:
        self.params = {name: value.copy() for name, value in params.items()}
        self.null, self.start, self.learning_rate, self.clip = null, start, learning_rate, clip
        self.configs: dict[str, dict[str, Any]] = {name: {} for name in params}

    def loss(self, features: np.ndarray, captions: np.ndarray) -> tuple[float, Arrays]:
        """The course's loss of features (N, D) and captions (N, T+1), and its gradients."""
        p = self.params
        captions_in, captions_out = captions[:, :-1], captions[:, 1:]
        h0 = features @ p["W_proj"] + p["b_proj"]  # (N, H)
        x = p["W_embed"][captions_in]  # (N, T, W)
        h, cache = lstm_forward(x, h0, p["Wx"], p["Wh"], p["b"])  # (N, T, H)
        scores = temporal_affine_forward(h, p["W_vocab"], p["b_vocab"])  # (N, T, V)
        loss, dscores = temporal_softmax_loss(scores, captions_out, captions_out != self.null)
        grads: Arrays = {}
        dh, grads["W_vocab"], grads["b_vocab"] = temporal_affine_backward(dscores, h, p["W_vocab"])
        dx, dh0, grads["Wx"], grads["Wh"], grads["b"] = lstm_backward(dh, cache)
        grads["W_embed"] = np.zeros_like(p["W_embed"])
        np.add.at(grads["W_embed"], captions_in, dx)
        grads["W_proj"], grads["b_proj"] = features.T @ dh0, dh0.sum(axis=0)
        return loss, grads

    def step(self, features: np.ndarray, captions: np.ndarray) -> float:
        """Take a training step: loss, gradients, clipping and Adam. Returns the loss."""
        loss, grads = self.loss(features, captions)
        norm = np.sqrt(sum(float(np.sum(grad**2)) for grad in grads.values()))
        if norm > self.clip:
            grads = {name: grad * np.float32(self.clip / norm) for name, grad in grads.items()}
        for name, grad in grads.items():
            self.params[name] = adam(
                self.params[name], grad, self.configs[name], self.learning_rate
            )
        return loss

    def sample(self, features: np.ndarray, max_length: int) -> np.ndarray:
        """Greedy captions (N, max_length) of features (N, D); words after END are meaningless."""
        p = self.params
        h = features @ p["W_proj"] + p["b_proj"]
        c = np.zeros_like(h)
        captions = np.full((len(features), max_length), self.null, np.int32)
        words = np.full(len(features), self.start)
        for t in range(max_length):
            h, c, _ = lstm_step_forward(p["W_embed"][words], h, c, p["Wx"], p["Wh"], p["b"])
            words = (h @ p["W_vocab"] + p["b_vocab"]).argmax(axis=1)
            captions[:, t] = words
        return captions


def sigmoid(x: np.ndarray) -> np.ndarray:
    """1 / (1 + exp(-x)). If exp overflows, the result is 0, which is correct."""
    with np.errstate(over="ignore"):
        return 1 / (1 + np.exp(-x))


def lstm_step_forward(
    x: np.ndarray, prev_h: np.ndarray, prev_c: np.ndarray, Wx: Any, Wh: Any, b: Any
) -> tuple[Any, Any, Any]:
    """One LSTM step: from x (N, W) and state (N, H) to the next state, and a cache."""
    H = prev_h.shape[1]
    a = x @ Wx + prev_h @ Wh + b  # (N, 4H)
    i, f, o = (sigmoid(a[:, k * H : (k + 1) * H]) for k in range(3))
    g = np.tanh(a[:, 3 * H :])
    next_c = f * prev_c + i * g
    tanh_c = np.tanh(next_c)
    return o * tanh_c, next_c, (x, prev_h, prev_c, Wx, Wh, i, f, o, g, tanh_c)


def lstm_step_backward(dnext_h: np.ndarray, dnext_c: np.ndarray, cache: Any) -> tuple[Any, ...]:
    """Gradients of lstm_step_forward: dx, dprev_h, dprev_c, dWx, dWh, db."""
    x, prev_h, prev_c, Wx, Wh, i, f, o, g, tanh_c = cache
    dc = dnext_c + dnext_h * o * (1 - tanh_c**2)
    di, df, do, dg = dc * g, dc * prev_c, dnext_h * tanh_c, dc * i
    da = np.hstack(
        (di * i * (1 - i), df * f * (1 - f), do * o * (1 - o), dg * (1 - g**2))
    )  # (N, 4H)
    return da @ Wx.T, da @ Wh.T, dc * f, x.T @ da, prev_h.T @ da, da.sum(axis=0)


def lstm_forward(
    x: np.ndarray, h0: np.ndarray, Wx: np.ndarray, Wh: np.ndarray, b: np.ndarray
) -> tuple[np.ndarray, list[Any]]:
    """From x (N, T, W) and h0 (N, H) to h (N, T, H) and the caches of the steps."""
    N, T, _ = x.shape
    h, prev_h, prev_c, caches = np.zeros((N, T, h0.shape[1]), x.dtype), h0, np.zeros_like(h0), []
    for t in range(T):
        prev_h, prev_c, cache = lstm_step_forward(x[:, t], prev_h, prev_c, Wx, Wh, b)
        h[:, t] = prev_h
        caches.append(cache)
    return h, caches


def lstm_backward(dh: np.ndarray, caches: list[Any]) -> tuple[np.ndarray, ...]:
    """From dh (N, T, H) to dx, dh0, dWx, dWh, db."""
    N, T, H = dh.shape
    x, _, _, Wx, Wh, *_ = caches[0]
    dx, db = np.zeros((N, T, x.shape[1]), dh.dtype), np.zeros(4 * H, dh.dtype)
    dWx, dWh = np.zeros_like(Wx), np.zeros_like(Wh)
    dprev_h = dprev_c = np.zeros((N, H), dh.dtype)
    for t in reversed(range(T)):
        dx[:, t], dprev_h, dprev_c, dWx_t, dWh_t, db_t = lstm_step_backward(
            dh[:, t] + dprev_h, dprev_c, caches[t]
        )
        dWx += dWx_t
        dWh += dWh_t
        db += db_t
    return dx, dprev_h, dWx, dWh, db


def temporal_affine_forward(x: np.ndarray, w: np.ndarray, b: np.ndarray) -> np.ndarray:
    """From x (N, T, H) to scores (N, T, V)."""
    N, T, H = x.shape
    return (x.reshape(N * T, H) @ w).reshape(N, T, -1) + b


def temporal_affine_backward(
    dout: np.ndarray, x: np.ndarray, w: np.ndarray
) -> tuple[np.ndarray, ...]:
    """From dout (N, T, V) to dx, dw, db."""
    N, T, H = x.shape
    rows = dout.reshape(N * T, -1)
    return (rows @ w.T).reshape(N, T, H), x.reshape(N * T, H).T @ rows, rows.sum(axis=0)


def temporal_softmax_loss(
    x: np.ndarray, y: np.ndarray, mask: np.ndarray
) -> tuple[float, np.ndarray]:
    """Loss and dx of scores (N, T, V), given targets and mask (N, T)."""
    N, T, V = x.shape
    rows, targets, counts = x.reshape(N * T, V), y.reshape(N * T), mask.reshape(N * T)
    probs = np.exp(rows - rows.max(axis=1, keepdims=True))
    probs /= probs.sum(axis=1, keepdims=True)
    loss = -np.log(probs[np.arange(N * T), targets][counts]).sum() / N
    dx = probs.copy()
    dx[np.arange(N * T), targets] -= 1
    dx /= N
    dx *= counts[:, None]
    return float(loss), dx.reshape(N, T, V)


def adam(w: np.ndarray, dw: np.ndarray, config: dict[str, Any], learning_rate: float) -> np.ndarray:
    """The updated w. `config` holds the moments and the number of steps."""
    beta1, beta2, epsilon = 0.9, 0.999, 1e-8
    t = config["t"] = config.get("t", 0) + 1
    m = config["m"] = beta1 * config.get("m", np.zeros_like(w)) + (1 - beta1) * dw
    v = config["v"] = beta2 * config.get("v", np.zeros_like(w)) + (1 - beta2) * dw**2
    m_hat, v_hat = m / (1 - beta1**t), v / (1 - beta2**t)
    return w - learning_rate * m_hat / (np.sqrt(v_hat) + epsilon)
