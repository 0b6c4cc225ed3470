"""The captioner's forward and backward pass, over one packed part of a batch on the model's device."""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from xpcap.backend import Array, get_array_module
from xpcap.layers.vocabulary import blocks, vocabulary_loss
from xpcap.memory import Buffer, fresh
from xpcap.models.config import ModelConfig
from xpcap.models.image import Image, image_backward, image_forward
from xpcap.models.masks import Masks
from xpcap.models.packing import PackedCaptions
from xpcap.models.parameters import Parameters
from xpcap.models.scores import log_mean, normalise
from xpcap.ops import gather, gather_plus, gather_plus_image, product, scatter, segment_sum, weighted_sum
from xpcap.threads import on_cores

GRADIENTS = "grads"  # the buffer of all gradients in a workspace
Member = tuple[ModelConfig, Parameters]  # a model, of those whose probabilities are averaged


class Score(NamedTuple):
    """Teacher-forced scores of a batch: total negative log-likelihood (0-d), number of words predicted correctly (0-d), number of words (int)."""

    nll: Array
    correct: Array
    tokens: int


class Part(NamedTuple):
    """A minibatch, or one part of it, on the model's device, in packed order."""

    table: Array  # (m, D) or (m, P, D); the features are table[packed.order]
    packed: PackedCaptions
    masks: Masks
    weights: Array | None = None  # (L,) weight of each row with a target, already divided by the batch's total; None: 1 / total each


class Forward(NamedTuple):
    """The forward pass's results and cache."""

    image: Image
    vectors: Array  # (K, W) after dropout
    cell: Any  # the cell's cache
    hidden: Array  # (L, H) hidden states of rows with a target, after dropout


def gradients(config: ModelConfig, params: Parameters, part: Part, scale: float, smoothing: float, buffer: Buffer) -> tuple[Array, Parameters]:
    """The loss and gradients of one part; a batch's are the sum over its parts. `scale` weights each caption if the part has no weights."""
    packed, grads = part.packed, _gradients_in(params, buffer)
    forward_pass = forward(config, params, part, buffer)
    weights = scale if part.weights is None else part.weights
    vocabulary, out = (params["W_vocab"], params["b_vocab"]), (grads["W_vocab"], grads["b_vocab"])
    nll, (dh, _, _) = vocabulary_loss(forward_pass.hidden, *vocabulary, packed.targets, weights, buffer.scope("vocabulary"), out, smoothing)
    backward(config, params, dh, part, forward_pass, grads, buffer)
    return weighted_sum(nll, weights, buffer("loss", ())), grads


def nothing(params: Parameters, buffer: Buffer) -> tuple[Array, Parameters]:
    """Loss and gradients of no captions: zeros."""
    grads, loss = _gradients_in(params, buffer), buffer("loss", ())
    grads.flat[...] = 0
    loss[...] = 0
    return loss, grads


def _gradients_in(params: Parameters, buffer: Buffer) -> Parameters:
    grads: Parameters = buffer.made(GRADIENTS, params.flat.shape, functools.partial(Parameters, params.shapes), of=params)
    return grads


def score(members: Sequence[Member], part: Part) -> Score:
    """Teacher-forced scores of a part, without dropout, by the mean of the probabilities that the models give each word."""
    hidden, targets = [forward(config, params, part, fresh(params.flat)).hidden for config, params in members], part.packed.targets
    xp, vocabulary = get_array_module(hidden[0]), members[0][0].vocabulary
    nll, right = xp.zeros((), np.float64), xp.zeros((), np.int64)
    for rows in blocks(len(targets), vocabulary, hidden[0]):
        scores = log_mean([h[rows] @ params["W_vocab"] + params["b_vocab"] for h, (_, params) in zip(hidden, members, strict=True)])
        right = right + (scores.argmax(axis=1) == targets[rows]).sum()
        log_p = normalise(scores)[xp.arange(len(scores)), targets[rows]]
        nll = nll - log_p.sum(dtype=np.float64)
    return Score(nll, right, len(targets))


def forward(config: ModelConfig, params: Parameters, part: Part, buffer: Buffer) -> Forward:
    """From features and words to the hidden states of the rows with a target."""
    packed, masks, keep = part.packed, part.masks, 1 - config.dropout
    cell, rows = config.recurrent, packed.rows
    weight, bias = (params[name] for name in cell.inputs)
    image = image_forward(config, params, part.table, packed.order, masks.features, buffer)
    vectors = gather(params["W_embed"], packed.words, buffer("vectors", (len(packed.words), config.wordvec)), masks.words, keep)  # (K, W)
    projected = product(vectors, weight, out=buffer("projected", (len(vectors), len(bias))))
    a = buffer("a", (rows.R, len(bias)))  # (R, G): each word is projected once, and each image
    if image.term is None:
        gather_plus(projected, packed.inputs.ids, bias, a)
    else:
        gather_plus_image(projected, packed.inputs.ids, bias, image.term, rows, a)
    term = {} if image.attention is None else {"term": image.attention}
    own = cell_params(config, params)
    h, cache = cell.rows_forward(a, image.start(cell.states), own, rows, buffer.scope("cell"), **term)
    if packed.kept is None and masks.hidden is None:
        return Forward(image, vectors, cache, h)
    return Forward(image, vectors, cache, gather(h, packed.kept, buffer("hidden", (len(packed.targets), config.hidden)), masks.hidden, keep))


def cell_params(config: ModelConfig, params: Parameters) -> dict[str, Array]:
    """The parameters of the cell."""
    return {name: params[name] for name in config.cell_shapes()}


def backward(config: ModelConfig, params: Parameters, dh: Array, part: Part, forward_pass: Forward, grads: Parameters, buffer: Buffer) -> None:
    """Write the gradients of all parameters but W_vocab and b_vocab to `grads`, given dh (L, H) of `Forward.hidden`."""
    packed, masks, keep, (image, vectors, cache, _) = part.packed, part.masks, 1 - config.dropout, forward_pass
    if packed.kept is not None:
        dh = scatter(dh, packed.kept, buffer("dh_rows", (packed.rows.R, dh.shape[1])), masks.hidden, keep)  # (R, H)
    elif masks.hidden is not None:
        dh = gather(dh, None, buffer("dh_rows", dh.shape), masks.hidden, keep)
    weight, bias = config.recurrent.inputs
    own = {name: grads[name] for name in config.cell_shapes() if name not in (weight, bias)}
    da, dstate0, found = config.recurrent.rows_backward(dh, cache, buffer.scope("cell"), own)
    if missing := [name for name in own if name not in found]:
        raise ValueError(f"rows_backward of cell {config.cell!r} returned no gradient of {missing[0]}")
    for name, grad in own.items():
        if found[name] is not grad:  # a cell need not write to the arrays that it is given
            grads[name] = found[name]
    dwords = segment_sum(da, packed.inputs, out=buffer("dwords", (len(vectors), da.shape[1])))  # (K, G)
    dwords.sum(axis=0, out=grads[bias])

    def weights_and_image() -> None:
        image_backward(config, params, da, dstate0, packed.rows, image, grads, buffer)
        product(vectors.T, dwords, out=grads[weight])

    def words() -> None:
        dvectors = product(dwords, params[weight].T, out=buffer("dvectors", vectors.shape))  # (K, W)
        scatter(dvectors, packed.words, grads["W_embed"], masks.words, keep)

    on_cores(params.flat, dwords.size * config.wordvec, weights_and_image, words)
