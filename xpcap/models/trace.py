"""The trace of given captions: states, gates, word probabilities, and gradients through time."""

from typing import NamedTuple

import numpy as np

from xpcap.backend import Array, asarray, get_array_module, to_numpy
from xpcap.layers.attention import Attention
from xpcap.layers.cell import Activation
from xpcap.models.batch import caption_lengths
from xpcap.models.network import Image, Network
from xpcap.ops import PackedSequences, get_ops

CAPTIONS_AT_ONCE = 16  # captions whose gradients are computed together, with T * T / 2 rows each


class Saturation(NamedTuple):
    """Shares (N, T) of an activation's H units beyond its limits, with hardly any gradient."""

    below: np.ndarray
    above: np.ndarray
    low: float
    high: float


class Trace(NamedTuple):
    """Values inside a model at each step of N captions, on the host and in the model's dtype.

    Step t reads captions[:, t] and predicts captions[:, t + 1]. It starts from states[name][:, t]
    and ends in states[name][:, t + 1]. After the end of a caption everything is 0.

    states : each array (N, T+1, H) of the cell's state by name, "h" first; an LSTM has "h" and "c".
        [:, 0] is the state before the first step
    gates : each block (N, T, H) after its nonlinearity by name, as in `Cell.block_values`; an LSTM has
        "i", "f", "o" and "g"
    log_probabilities : array (N, T, V), log-probabilities of the next word
    saturation : Saturation of each of `Cell.activations` by name; an LSTM has "gate i", "gate f" and
        "gate o"
    gradient_norms : array (N, T, T+1) for each name in `states`; [n, t, k] is the Euclidean norm of
        the gradient of -log p(captions[n, t + 1]) with respect to states[name][n, k], with the state's
        other arrays constant. 0 for k > t + 1, and for NULL targets
    """

    states: dict[str, np.ndarray]
    gates: dict[str, np.ndarray]
    log_probabilities: np.ndarray
    saturation: dict[str, Saturation]
    gradient_norms: dict[str, np.ndarray]


def trace(network: Network, image: Image, captions: np.ndarray, null: int) -> Trace:
    """The trace of checked captions (N, T+1), int; `image` has their pictures in the same order."""
    cell = network.cell
    params = network.params
    like = network.params.flat
    xp = get_array_module(like)
    N = len(captions)
    T = captions.shape[1] - 1
    words = asarray(captions.T, like=like)  # (T+1, N)
    a = network.project(words[:T].reshape(-1)).reshape(T, N, -1)
    if image.term is not None:
        a += image.term

    def attention(pictures: slice, times: int) -> Attention | None:
        """Attention for the sequences of `pictures`, repeated `times` times."""
        if image.attention is None:
            return None
        A = xp.tile(image.attention.A[pictures], (times, 1, 1))
        return Attention(A, params["Wattn"])

    # States, step by step as in sampling
    state = tuple(
        xp.zeros_like(image.h0) if x is None else x for x in image.start(len(cell.states))
    )
    steps = [state]
    for t in range(T):
        state = network.cell_step(a[t].copy(), state, image.attention)
        steps.append(state)
    states = [xp.stack(arrays) for arrays in zip(*steps, strict=True)]  # each (T+1, N, H)

    # Gates, with each step as a separate sequence
    rows = PackedSequences.full(T * N, 1)
    before = tuple(_rows(x[:T]) for x in states)
    _, cache = cell.rows_forward(
        _rows(a).copy(), before, network.cell_params, rows, None, attention(slice(N), T)
    )
    gates = cell.block_values(cache)
    activations = cell.activations(cache)

    # Word probabilities, and the gradient of each step's loss with respect to its h
    scores = network.scores(_rows(states[0][1:]))
    log_p = get_ops(scores).log_softmax_(scores)  # (T*N, V)
    dscores = xp.exp(log_p)
    dscores[xp.arange(T * N), words[1:].ravel()] -= 1
    dh = (dscores @ params["W_vocab"].T).reshape(T, N, -1)

    # A cell returns the gradient of its initial state. So each loss needs a sequence from every earlier
    # state: the sequence (k, caption) starts from state k and takes steps k..t. Sequences with
    # k <= t - j have a step j.
    norms = xp.zeros((len(cell.states), T, T + 1, N), like.dtype)
    for first in range(0, N, CAPTIONS_AT_ONCE):
        block = slice(first, min(first + CAPTIONS_AT_ONCE, N))
        n = block.stop - first
        for t in range(T):
            norms[0, t, t + 1, block] = _norm(dh[t, block])
            rows = PackedSequences.of([k * n for k in range(t + 1, 0, -1)], (t + 1) * n)
            inputs = xp.concatenate([_rows(a[j : t + 1, block]) for j in range(t + 1)])
            before = tuple(_rows(x[: t + 1, block]) for x in states)
            _, cache = cell.rows_forward(
                inputs, before, network.cell_params, rows, None, attention(block, t + 1)
            )
            upstream = xp.zeros((rows.R, dh.shape[2]), like.dtype)
            for step in rows.steps:
                upstream[step.rows][-n:] = dh[t, block]  # the last n sequences end with this step
            _, gradients, _ = cell.rows_backward(upstream, cache)
            for k, gradient in enumerate(gradients):
                norms[k, t, : t + 1, block] = _norm(gradient).reshape(t + 1, n)

    # Copy to the host, captions first, with 0 after their ends
    live = caption_lengths(captions, null)[:, None] > np.arange(T)  # (N, T)
    begun = np.concatenate((np.ones((N, 1), bool), live), axis=1)  # (N, T+1)
    has_loss = live & (captions[:, 1:] != null)

    def by_caption(x: Array, mask: np.ndarray = live) -> np.ndarray:
        """Steps (T, N, H) or rows (T*N, H) as (N, T, H), with 0 outside the mask."""
        steps = to_numpy(x).reshape(mask.shape[1], N, -1).swapaxes(0, 1)
        return np.where(mask[:, :, None], steps, 0).astype(like.dtype, copy=False)

    def saturation(activation: Activation) -> Saturation:
        beyond = activation.values < activation.low, activation.values > activation.high
        shares = [by_caption(x.mean(axis=1, keepdims=True))[:, :, 0] for x in beyond]
        return Saturation(shares[0], shares[1], activation.low, activation.high)

    names = cell.states
    by_loss = np.moveaxis(to_numpy(norms), 3, 1)  # (states, N, T, T+1)
    return Trace(
        {name: by_caption(x, begun) for name, x in zip(names, states, strict=True)},
        {name: by_caption(gate) for name, gate in gates.items()},
        by_caption(log_p),
        {name: saturation(activation) for name, activation in activations.items()},
        {
            name: np.where(has_loss[:, :, None], values, 0).astype(like.dtype, copy=False)
            for name, values in zip(names, by_loss, strict=True)
        },
    )


def _rows(x: Array) -> Array:
    """Steps (T, N, H) as rows (T*N, H)."""
    return x.reshape(-1, x.shape[2])


def _norm(x: Array) -> Array:
    """Euclidean norm (n,) of rows (n, H)."""
    return get_array_module(x).sqrt((x * x).sum(axis=1))
