"""The captioner's forward and backward pass, over one packed part of a batch on the model's device."""

from typing import Any, NamedTuple

import numpy as np

from xpcap.backend import Array, get_array_module
from xpcap.cores import on_cores
from xpcap.layers.cells import CELLS
from xpcap.layers.dropout import apply_mask
from xpcap.layers.vocabulary import blocks, vocabulary_loss
from xpcap.models.config import ModelConfig
from xpcap.models.masks import Masks
from xpcap.models.packing import PackedCaptions
from xpcap.models.parameters import Parameters
from xpcap.ops import gather, log_softmax, product, segment_sum
from xpcap.workspace import Buffer, fresh


class Score(NamedTuple):
    """Teacher-forced scores of a batch: total negative log-likelihood (0-d), number of words predicted correctly (0-d), number of words (int)."""

    nll: Array
    correct: Array
    tokens: int


class Part(NamedTuple):
    """A minibatch, or one part of it, on the model's device, in packed order."""

    features: Array  # (N, D)
    packed: PackedCaptions
    masks: Masks
    weights: Array | None = None  # (N,) weight of each caption, already divided by the batch's total; None: 1 / total each


class Forward(NamedTuple):
    """The forward pass's results and cache."""

    features: Array  # (N, D) after dropout
    vectors: Array  # (K, W) after dropout
    cell: Any  # the cell's cache
    hidden: Array  # (L, H) hidden states of rows with a target, after dropout


def gradients(config: ModelConfig, params: Parameters, part: Part, scale: float, buffer: Buffer) -> tuple[Array, Parameters]:
    """The loss and gradients of one part; a batch's are the sum over its parts. `scale` weights each caption if the part has no weights."""
    packed = part.packed
    grads = Parameters(params.shapes, buffer("grads", params.flat.shape))
    forward_pass = forward(config, params, part, buffer)
    row_scale = buffer("row_scale", (len(packed.targets),))
    row_scale[...] = scale if part.weights is None else _per_target(part.weights, packed)
    vocabulary, out = (params["W_vocab"], params["b_vocab"]), (grads["W_vocab"], grads["b_vocab"])
    nll, (dh, _, _) = vocabulary_loss(forward_pass.hidden, *vocabulary, packed.targets, row_scale, buffer.scope("vocabulary"), out)
    backward(config, params, dh, part, forward_pass, grads, buffer)
    return (nll.sum() * scale if part.weights is None else (nll * row_scale).sum()), grads


def score(config: ModelConfig, params: Parameters, part: Part) -> Score:
    """Teacher-forced scores of a part, without dropout."""
    hidden, targets = forward(config, params, part, fresh(params.flat)).hidden, part.packed.targets
    xp = get_array_module(hidden)
    nll, right = xp.zeros((), np.float64), xp.zeros((), np.int64)
    for rows in blocks(len(hidden), config.vocabulary):
        scores = hidden[rows] @ params["W_vocab"] + params["b_vocab"]
        right = right + (scores.argmax(axis=1) == targets[rows]).sum()
        nll = nll - log_softmax(scores)[xp.arange(len(scores)), targets[rows]].sum(dtype=np.float64)
    return Score(nll, right, len(targets))


def forward(config: ModelConfig, params: Parameters, part: Part, buffer: Buffer) -> Forward:
    """From features and words to the hidden states of the rows with a target."""
    packed, masks, keep = part.packed, part.masks, 1 - config.dropout
    cell = CELLS[config.cell]
    x = apply_mask(part.features, masks.features, keep)  # (N, D)
    h0 = product(x, params["W_proj"], out=buffer("h0", (packed.rows.N, config.hidden)))
    h0 += params["b_proj"]
    vectors = apply_mask(params["W_embed"][packed.words], masks.words, keep)  # (K, W)
    projected = product(vectors, params["Wx"], out=buffer("projected", (len(vectors), len(params["b"]))))
    projected += params["b"]
    ids = packed.inputs.ids
    a = gather(projected, ids, out=buffer("a", (len(ids), projected.shape[1])))  # (R, G): each distinct word is projected once
    h, cache = cell.rows_forward(a, cell.initial(h0), params["Wh"], packed.rows, buffer.scope("cell"))
    hidden = apply_mask(h, masks.hidden, keep)  # (R, H)
    if packed.kept is not None:
        hidden = hidden[packed.kept]
    return Forward(x, vectors, cache, hidden)


def backward(config: ModelConfig, params: Parameters, dh: Array, part: Part, forward_pass: Forward, grads: Parameters, buffer: Buffer) -> None:
    """Write the gradients of all parameters but W_vocab and b_vocab to `grads`, given dh (L, H) of `Forward.hidden`."""
    packed, masks, keep, (x, vectors, cache, _) = part.packed, part.masks, 1 - config.dropout, forward_pass
    if packed.kept is not None:
        dh_rows = buffer("dh_rows", (packed.rows.R, dh.shape[1]))
        dh_rows[...] = 0
        dh_rows[packed.kept] = dh
        dh = dh_rows
    dh = apply_mask(dh, masks.hidden, keep)  # (R, H)
    da, (dh0, *_), _ = CELLS[config.cell].rows_backward(dh, cache, buffer.scope("cell"), dWh=grads["Wh"])
    dwords = segment_sum(da, packed.inputs, out=buffer("dwords", (len(vectors), da.shape[1])))  # (K, G)
    dwords.sum(axis=0, out=grads["b"])

    def weights_and_image() -> None:
        product(vectors.T, dwords, out=grads["Wx"])
        product(x.T, dh0, out=grads["W_proj"])
        dh0.sum(axis=0, out=grads["b_proj"])

    def words() -> None:
        dvectors = product(dwords, params["Wx"].T, out=buffer("dvectors", vectors.shape))  # (K, W)
        grads["W_embed"][...] = 0
        grads["W_embed"][packed.words] = apply_mask(dvectors, masks.words, keep)  # words are distinct, so assignment suffices

    on_cores(params.flat, dwords.size * config.wordvec, weights_and_image, words)


def _per_target(weights: Array, packed: PackedCaptions) -> Array:
    """Expand caption weights (N,) to the rows with a target, (L,)."""
    caption = packed.rows.caption
    return weights[caption if packed.kept is None else caption[packed.kept]]
