"""Small captioners, batches for them, and the loss of padded captions by the cell's steps."""

from typing import Any

import numpy as np
import philox

from xpcap import CaptioningRNN, layers

WORDS = {"<NULL>": 0, "<START>": 1, "<END>": 2, **{f"w{i}": i for i in range(3, 12)}}
N, D, W, H, V, T, P = 7, 5, 4, 6, len(WORDS), 8, 3


def make(
    cell: str,
    dropout: float = 0.0,
    dtype: Any = np.float64,
    seed: int | None = 5,
    inject: str = "init",
) -> CaptioningRNN:
    shape = (P, D) if "attention" in inject else D
    return CaptioningRNN(WORDS, shape, W, H, cell, dtype, dropout=dropout, inject=inject, seed=seed)


def strong(cell: str, rng: np.random.Generator, scale: float = 1.0, **how: Any) -> CaptioningRNN:
    """A model in which every term matters."""
    model = make(cell, **how)
    for name, value in model.params.items():
        model.params[name] = scale * rng.standard_normal(value.shape)
    return model


def lively(cell: str, rng: np.random.Generator, inject: str = "init") -> CaptioningRNN:
    """A model whose captions end at many lengths."""
    model = strong(cell, rng, 2, inject=inject)
    model.params["b_vocab"][2] += 4  # END, said often enough
    return model


def draw_features(rng: np.random.Generator, n: int, inject: str = "init") -> np.ndarray:
    return rng.standard_normal((n, P, D) if "attention" in inject else (n, D))


def batch(rng: np.random.Generator, inject: str = "init") -> tuple[np.ndarray, np.ndarray]:
    """Captions of several lengths, two of them equal, one without any target, and NULL targets
    inside two.
    """
    captions = rng.integers(1, V, (N, T + 1)).astype(np.int32)
    for row, length in zip(captions, (3, 8, 1, 5, 5, 0, 8), strict=True):
        row[length + 1 :] = 0
    captions[1, 4] = captions[3, 2] = 0
    return draw_features(rng, N, inject), captions


def masks(
    model: CaptioningRNN, inputs: np.ndarray, live: np.ndarray, step: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Dropout masks: a row for each caption, for each distinct live word by id, and for
    each live step, caption by caption.
    """
    shapes = (len(inputs), D), (V, W), (*inputs.shape, H)
    features, words, hidden = (np.ones(shape) for shape in shapes)
    if model.dropout:
        spoken, keep = np.unique(inputs[live]), 1 - model.dropout
        drawn = features.shape, (len(spoken), W), (int(live.sum()), H)
        features, words[spoken], hidden[live] = (
            philox.kept(model.seed, place, step, shape, keep) / keep
            for place, shape in enumerate(drawn)
        )
    return features, words, hidden


def padded(
    model: CaptioningRNN, features: np.ndarray, captions: np.ndarray, step: int = 0
) -> tuple[float, dict[str, np.ndarray]]:
    """The loss and its gradients step by step over the whole batch, padding and all, out of the
    cell's steps and plain sums.
    """
    p, cell, attends = model.params, layers.CELLS[model.cell_type], model.config.attends
    inputs, targets = captions[:, :-1], captions[:, 1:]
    (n, steps), (weight, bias) = targets.shape, cell.inputs
    live = np.cumsum(targets[:, ::-1] != 0, axis=1)[:, ::-1] > 0  # a target is still to come
    mask_x, mask_w, mask_h = masks(model, inputs, live, step)
    x, table = features * mask_x.reshape(n, *[1] * (features.ndim - 2), D), p["W_embed"] * mask_w
    A = x @ p["W_proj"] + p["b_proj"]
    h0 = A.mean(axis=1) if attends else A
    state = (h0, *[h0 if attends else np.zeros_like(h0)] * (len(cell.states) - 1))
    caches, loss = [], 0.0
    for t in range(steps):
        a, attn, looked = table[inputs[:, t]] @ p[weight] + p[bias], None, None
        if "W_image" in p:
            a += h0 @ p["W_image"]
        if attends:
            attn, _, looked = layers.dot_product_attention_forward(state[0], A)
            a += attn @ p["Wattn"]
        state, cache = cell.step_forward(a, state, p)
        h = state[0] * mask_h[:, t]
        scores = h @ p["W_vocab"] + p["b_vocab"]
        log_p = scores - np.logaddexp.reduce(scores, axis=1, keepdims=True)
        counts = (targets[:, t] != 0).astype(float)
        loss -= (counts * log_p[np.arange(n), targets[:, t]]).sum() / n
        dscores = (np.exp(log_p) - np.eye(V)[targets[:, t]]) * counts[:, None] / n
        caches.append((cache, h, dscores, attn, looked))
    grads = {name: np.zeros_like(value) for name, value in p.items()}
    dstate, dh0, dA = tuple(np.zeros_like(h0) for _ in state), np.zeros_like(h0), np.zeros_like(A)
    for t, (cache, h, dscores, attn, looked) in reversed([*enumerate(caches)]):
        dh = dstate[0] + dscores @ p["W_vocab"].T * mask_h[:, t]
        da, dstate, of_step = cell.step_backward((dh, *dstate[1:]), cache, p)
        of_step = {weight: table[inputs[:, t]].T @ da, bias: da.sum(axis=0), **of_step}
        of_step |= {"W_vocab": h.T @ dscores, "b_vocab": dscores.sum(axis=0)}
        if "W_image" in p:
            of_step["W_image"] = h0.T @ da
            dh0 += da @ p["W_image"].T
        if attends:
            of_step["Wattn"] = attn.T @ da
            dprev_h, dA_t = layers.dot_product_attention_backward(da @ p["Wattn"].T, looked)
            dstate, dA = (dstate[0] + dprev_h, *dstate[1:]), dA + dA_t
        for name, gradient in of_step.items():
            grads[name] += gradient
        np.add.at(grads["W_embed"], inputs[:, t], da @ p[weight].T)
    grads["W_embed"] *= mask_w
    dh0 += sum(dstate) if attends else dstate[0]
    dA = dA + dh0[:, None] / A.shape[1] if attends else dh0
    grads["W_proj"] = x.reshape(-1, D).T @ dA.reshape(-1, H)
    grads["b_proj"] = dA.reshape(-1, H).sum(axis=0)
    return loss, grads
