"""Forward and backward pass of the captioner over one part of a batch, on the model's device."""

import functools
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from xpcap.backend import Array, get_array_module, to_numpy
from xpcap.errors import InvalidValueError
from xpcap.layers.attention import Attention
from xpcap.layers.vocabulary_loss import blocks, vocabulary_loss
from xpcap.memory import Buffer, allocator
from xpcap.models.batch import Part
from xpcap.models.config import ModelConfig
from xpcap.models.parameters import Parameters
from xpcap.ops import LossTerms, PackedSequences, contiguous, get_ops, log_mean_softmax, replayed
from xpcap.threads import run_parallel

GRADIENTS = "grads"  # name of the buffer of all gradients in a workspace
Member = tuple[ModelConfig, Parameters]  # a model of an ensemble


class Score(NamedTuple):
    """Teacher-forced scores of a batch."""

    nll: Array  # 0-d; negative log-likelihood, summed over words
    correct: Array  # 0-d; number of words predicted correctly
    tokens: int  # number of words


class Image(NamedTuple):
    """Projected images of N captions, and the cache of their projection."""

    x: Array  # (N, D) after dropout; of grids (N*P, D), region by region
    h0: Array  # (N, H)
    term: Array | None  # (N, G), added to the pre-activation of every step
    attention: Attention | None

    def start(self, states: int) -> tuple[Array | None, ...]:
        """The `states` first arrays: h0; with attention h0 in each, else None, which is zeros."""
        return (self.h0, *[None if self.attention is None else self.h0] * (states - 1))


class Forward(NamedTuple):
    """Cache of `forward`, with its result."""

    image: Image
    vectors: Array  # (K, W) after dropout
    cell: object  # the cell's cache
    hidden: Array  # (L, H) hidden states of rows with a target, after dropout


# ---- Loss and gradients


def gradients(
    config: ModelConfig, params: Parameters, part: Part, terms: LossTerms, buffer: Buffer
) -> tuple[Array, Parameters]:
    """Loss and gradients of one part; those of a batch are the sum over its parts.

    On a device what a padded part launches is recorded, and run again for parts of its layout: all
    that differs lies in what was uploaded.
    """
    terms = replace(terms, scale=part.scale)
    layout, records = part.packed.layout, buffer.records
    if layout is None or records is None or not config.recurrent.replayable:
        return _gradients(config, params, part, terms, buffer)
    compute = functools.partial(_gradients, config, params, part, terms, buffer)
    sizes = layout, len(part.packed.words), part.table.shape
    addresses = params.flat.data.ptr, part.table.data.ptr
    key = config, sizes, addresses, terms.key, part.masks.hidden is None
    return replayed(records, key, compute, lambda done: (done[0], done[1].flat), buffer.graphs)


def _gradients(
    config: ModelConfig, params: Parameters, part: Part, terms: LossTerms, buffer: Buffer
) -> tuple[Array, Parameters]:
    grads = _gradients_in(params, buffer)
    cache = forward(config, params, part, buffer)
    nll, (dh, _, _) = vocabulary_loss(
        cache.hidden,
        params["W_vocab"],
        params["b_vocab"],
        part.packed.targets,
        terms,
        buffer=buffer.scope("vocabulary"),
        out=(grads["W_vocab"], grads["b_vocab"]),
    )
    backward(config, params, dh, part, cache, grads, buffer)
    return get_ops(nll).weighted_sum(nll, terms.scale, buffer("loss", ())), grads


def zero_gradients(params: Parameters, buffer: Buffer) -> tuple[Array, Parameters]:
    """Loss and gradients of no captions."""
    grads, loss = _gradients_in(params, buffer), buffer("loss", ())
    grads.flat[...] = 0
    loss[...] = 0
    return loss, grads


def _gradients_in(params: Parameters, buffer: Buffer) -> Parameters:
    make = functools.partial(Parameters, params.shapes)
    return buffer.cached(GRADIENTS, params.flat.shape, make, of=params)


def forward(config: ModelConfig, params: Parameters, part: Part, buffer: Buffer) -> Forward:
    """Hidden states of the rows with a target, from features and words."""
    packed, masks, keep = part.packed, part.masks, 1 - config.dropout
    ops, cell, rows = get_ops(params.flat), config.recurrent, packed.rows
    weight, bias = (params[name] for name in cell.inputs)
    image = image_forward(config, params, part.table, packed.order, masks.features, buffer)

    # Each distinct word and each image is projected once; rows gather the results.
    K, G = len(packed.words), len(bias)
    out = buffer("vectors", (K, config.wordvec))
    vectors = ops.gather(params["W_embed"], packed.words, out, masks.words, keep)  # (K, W)
    shape = K, G
    projected = ops.matmul(vectors, weight, out=buffer("projected", shape))  # (K, G)
    a = buffer("a", (rows.R, G))
    if image.term is None:
        ops.gather_plus(projected, packed.inputs.ids, bias, a)
    else:
        ops.gather_plus_image(projected, packed.inputs.ids, bias, image.term, rows, a)

    extra = {} if image.attention is None else {"extra_term": image.attention}
    own = cell_params(config, params)
    h, cache = cell.rows_forward(
        a, image.start(cell.states), own, rows, buffer.scope("cell"), **extra
    )
    if packed.target_rows is not None or masks.hidden is not None:
        out = buffer("hidden", (len(packed.targets), config.hidden))
        h = ops.gather(contiguous(h), packed.target_rows, out, masks.hidden, keep)
    return Forward(image, vectors, cache, h)


def backward(
    config: ModelConfig,
    params: Parameters,
    dh: Array,
    part: Part,
    cache: Forward,
    grads: Parameters,
    buffer: Buffer,
) -> None:
    """Write all gradients but those of W_vocab and b_vocab, given dh (L, H) of `cache.hidden`."""
    packed, masks, keep = part.packed, part.masks, 1 - config.dropout
    ops, (image, vectors, loop, _) = get_ops(params.flat), cache
    weight, bias = config.recurrent.inputs
    if packed.target_rows is not None:
        out = buffer("dh_rows", (packed.rows.R, dh.shape[1]))
        dh = ops.scatter(dh, packed.target_rows, out, masks.hidden, keep)  # (R, H)
    elif masks.hidden is not None:
        dh = ops.gather(dh, None, buffer("dh_rows", dh.shape), masks.hidden, keep)

    own = {name: grads[name] for name in config.cell_shapes() if name not in (weight, bias)}
    da, dstate0, found = config.recurrent.rows_backward(dh, loop, buffer.scope("cell"), own)
    da, dstate0 = contiguous(da), tuple(contiguous(dstate) for dstate in dstate0)
    if missing := [name for name in own if name not in found]:
        raise InvalidValueError(
            "CaptioningRNN.loss",
            f"rows_backward of cell {config.cell!r}",
            f"returned no gradient of {missing[0]}",
            expected=f"those of {', '.join(own)}",
        )
    for name, grad in own.items():
        if found[name] is not grad:  # a cell need not write to the arrays that it is given
            grads[name] = found[name]

    # Rows of one word share its projection, so their gradients add up before the products.
    out = buffer("dwords", (len(vectors), da.shape[1]))
    dwords = ops.segment_sum(da, packed.inputs, out=out)  # (K, G)
    ops.column_sum(dwords, out=grads[bias])

    def weights_and_image() -> None:
        image_backward(config, params, da, dstate0, packed.rows, image, grads, buffer)
        ops.matmul(vectors.T, dwords, out=grads[weight])

    def words() -> None:
        out = buffer("dvectors", vectors.shape)
        dvectors = ops.matmul(dwords, params[weight].T, out=out)  # (K, W)
        ops.scatter(dvectors, packed.words, grads["W_embed"], masks.words, keep)

    run_parallel(params.flat, dwords.size * config.wordvec, weights_and_image, words)


def cell_params(config: ModelConfig, params: Parameters) -> dict[str, Array]:
    return {name: params[name] for name in config.cell_shapes()}


# ---- The image


def image_forward(
    config: ModelConfig,
    params: Parameters,
    table: Array,
    order: Array,
    mask: Array | None,
    buffer: Buffer,
) -> Image:
    """Projected images of the features table[order], after dropout if there is a mask (N, D)."""
    shape, N, keep = config.feature_shape, len(order), 1 - config.dropout
    ops = get_ops(table)
    take = ops.gather_regions if config.attends else ops.gather
    features = take(table, order, buffer("x", (N, *shape)), mask, keep)
    return project_image(config, params, features, buffer)


def project_image(
    config: ModelConfig, params: Parameters, features: Array, buffer: Buffer
) -> Image:
    """Projected images of features (N, D), or grids (N, P, D)."""
    ops, N, H = get_ops(features), len(features), config.hidden
    *regions, D = config.feature_shape
    x = features.reshape(math.prod((N, *regions)), D)
    projected = ops.matmul(x, params["W_proj"], out=buffer("projected image", (len(x), H)))
    ops.add_rows(projected, params["b_proj"])
    h0, attention, term = projected, None, None
    if config.attends:
        A = projected.reshape(N, *regions, H)
        attention = Attention(A, params["Wattn"], buffer.scope("attention"))
        h0 = attention.start()
    if config.every_step:
        term = ops.matmul(h0, params["W_image"], out=buffer("image", (N, config.columns)))
    return Image(x, h0, term, attention)


def image_backward(
    config: ModelConfig,
    params: Parameters,
    da: Array,
    dstate0: Sequence[Array],
    rows: PackedSequences,
    image: Image,
    grads: Parameters,
    buffer: Buffer,
) -> None:
    """Gradients of W_proj, b_proj, W_image and Wattn, from da (R, G) and dstate0, to `grads`.

    dstate0 is overwritten.
    """
    x, h0, term, attention = image
    ops, (dh0, *others) = get_ops(da), dstate0
    if term is not None:
        dterm = ops.sequence_sum(da, rows, buffer("dimage", term.shape))  # (N, G)
        ops.matmul(h0.T, dterm, out=grads["W_image"])
        ops.matmul_add(dterm, params["W_image"].T, dh0, buffer)
    if attention is None:
        dprojected = dh0
    else:
        for other in others:  # c0 is h0
            ops.add_rows(dh0, other)
        dA, _ = attention.gradients(da, dh0, rows, grads["Wattn"])
        dprojected = dA.reshape(len(x), config.hidden)
    ops.matmul(x.T, dprojected, out=grads["W_proj"])
    ops.column_sum(dprojected, out=grads["b_proj"])


# ---- Scores


def score(members: Sequence[Member], part: Part) -> Score:
    """Teacher-forced scores of a part, without dropout, by the mean probabilities of the models."""
    xp, targets = get_array_module(part.table), part.packed.targets
    nll, correct = xp.zeros((), np.float64), xp.zeros((), np.int64)
    for rows, scores in _target_scores(members, part):
        correct = correct + (scores.argmax(axis=1) == targets[rows]).sum()
        log_p = get_ops(scores).log_softmax_(scores)[xp.arange(len(scores)), targets[rows]]
        nll = nll - log_p.sum(dtype=np.float64)
    return Score(nll, correct, len(targets))


def log_likelihoods(members: Sequence[Member], part: Part) -> np.ndarray:
    """Log-probability (L,) of each target of a part, by the models' mean probabilities; host."""
    xp, targets = get_array_module(part.table), part.packed.targets
    return np.concatenate(
        [
            to_numpy(get_ops(scores).log_softmax_(scores)[xp.arange(len(scores)), targets[rows]])
            for rows, scores in _target_scores(members, part)
        ]
    )


def _target_scores(members: Sequence[Member], part: Part) -> Iterator[tuple[slice, Array]]:
    """Blocks of the rows with a target, and scores (n, V) of their words, up to a constant."""
    hidden = [forward(*member, part, allocator(member[1].flat)).hidden for member in members]
    for rows in blocks(len(part.packed.targets), members[0][0].vocabulary, hidden[0]):
        pairs = zip(hidden, members, strict=True)
        yield rows, log_mean_softmax([h[rows] @ p["W_vocab"] + p["b_vocab"] for h, (_, p) in pairs])
