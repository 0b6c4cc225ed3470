"""Network: forward and backward pass of the captioner over one part of a batch, on its device."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from xpcap.backend import Array, get_array_module, to_numpy
from xpcap.layers.attention import Attention
from xpcap.layers.vocabulary_loss import blocks, vocabulary_loss
from xpcap.memory import Buffer, Workspace, allocator
from xpcap.models.batch import Part
from xpcap.models.config import ModelConfig
from xpcap.models.parameters import Parameters
from xpcap.ops import (
    DeviceOps,
    PackedSequences,
    State,
    constant_factor,
    contiguous,
    get_ops,
)
from xpcap.threads import run_parallel

GRADIENTS = "grads"  # name of the buffer of all gradients in a workspace


class Score(NamedTuple):
    """Teacher-forced scores of a batch."""

    nll: Array  # 0-d; negative log-likelihood, summed over words
    correct: Array  # 0-d; number of words predicted correctly
    tokens: int  # number of words


class Image(NamedTuple):
    """Projected images of N captions: the first state, and the terms of every step."""

    x: Array  # (N, D) after dropout; of grids (N*P, D), region by region
    h0: Array  # (N, H)
    term: Array | None  # (N, G), added to the pre-activation of every step
    attention: Attention | None

    def start(self, states: int) -> tuple[Array | None, ...]:
        """The `states` first arrays: h0; with attention h0 in each, else None, which is zeros."""
        return (self.h0, *[None if self.attention is None else self.h0] * (states - 1))


@dataclass(frozen=True, eq=False)
class Forward:
    """Cache of `Network.forward`, with its result. It equals itself alone."""

    image: Image
    vectors: Array  # (K, W) after dropout
    cell: Any  # the cell's cache
    hidden: Array  # (L, H) hidden states of rows with a target, after dropout


class Network:
    """A captioner's equations, over its parameters, in the memory of one pass.

    config : ModelConfig
    params : Parameters, with the shapes of the config
    buffer : memory for results and temporaries; None: fresh memory
    """

    def __init__(
        self, config: ModelConfig, params: Parameters, buffer: Buffer | None = None
    ) -> None:
        self.config, self.params, self.cell = config, params, config.recurrent
        self.buffer = buffer or allocator(params.flat)
        self._ops, self._keep = get_ops(params.flat), 1 - config.dropout

    @property
    def cell_params(self) -> dict[str, Array]:
        """The cell's parameters by name."""
        return {name: self.params[name] for name in self.config.cell_shapes()}

    # ---- Loss and gradients

    def gradients(self, part: Part, workspace: Workspace | None = None) -> tuple[Array, Parameters]:
        """Loss and gradients of one part; those of a batch are the sum over its parts.

        What a padded part launches is recorded in the workspace, and repeated for the next ones:
        all that differs lies in what was uploaded.
        """
        if workspace is None or not part.padded or not isinstance(self._ops, DeviceOps):
            return self._gradients(part)
        # A record keeps its arrays alive, so no other ones have their addresses
        addresses = self.params.flat.data.ptr, part.table.data.ptr, len(part.table)
        key = addresses, self.config, part.hidden_mask is None, part.terms.key
        return workspace.replay.run(key, lambda: self._gradients(part))

    def _gradients(self, part: Part) -> tuple[Array, Parameters]:
        grads, buffer, part = self._empty_gradients(), self.buffer, part.on_device()
        cache = self.forward(part)
        nll, (dh, _, _) = vocabulary_loss(
            cache.hidden,
            self.params["W_vocab"],
            self.params["b_vocab"],
            part.targets,
            part.terms,
            buffer=buffer.scope("vocabulary"),
            out=(grads["W_vocab"], grads["b_vocab"]),
        )
        self.backward(dh, part, cache, grads)
        return self._ops.weighted_sum(nll, part.terms.scale, buffer("loss", ())), grads

    def zero_gradients(self) -> tuple[Array, Parameters]:
        """Loss and gradients of no captions."""
        grads, loss = self._empty_gradients(), self.buffer("loss", ())
        grads.flat[...] = 0
        loss[...] = 0
        return loss, grads

    def _empty_gradients(self) -> Parameters:
        shapes = self.params.shapes
        return Parameters(shapes, self.buffer(GRADIENTS, self.params.flat.shape))

    def forward(self, part: Part) -> Forward:
        """Hidden states of the rows with a target, from features and words."""
        part, buffer, ops = part.on_device(), self.buffer, self._ops
        weight, bias = (self.params[name] for name in self.cell.inputs)
        image, rows = self.image(part.table, part.pictures, part.feature_mask), part.rows

        # Each distinct word and each image is projected once; rows gather the results.
        K, G = len(part.words), len(bias)
        out = buffer("vectors", (K, self.config.wordvec))
        embedding = self.params["W_embed"]
        vectors = ops.gather(embedding, part.words, out, part.word_mask, self._keep)  # (K, W)
        projected = ops.matmul(vectors, weight, out=buffer("projected", (K, G)))
        a = buffer("a", (rows.R, G))
        if image.term is None:
            ops.gather_plus(projected, part.inputs.ids, bias, a)
        else:
            ops.gather_plus_image(projected, part.inputs.ids, bias, image.term, rows, a)

        state0, scope = image.start(len(self.cell.states)), buffer.scope("cell")
        h, cache = self.cell.rows_forward(a, state0, self.cell_params, rows, scope, image.attention)
        if part.target_rows is not None or part.hidden_mask is not None:
            out = buffer("hidden", (len(part.targets), self.config.hidden))
            h = ops.gather(contiguous(h), part.target_rows, out, part.hidden_mask, self._keep)
        return Forward(image, vectors, cache, h)

    def backward(self, dh: Array, part: Part, cache: Forward, grads: Parameters) -> None:
        """Write all gradients but those of W_vocab and b_vocab, given dh (L, H) of `cache.hidden`."""
        buffer, ops = self.buffer, self._ops
        image, vectors, (weight, bias) = cache.image, cache.vectors, self.cell.inputs
        if part.target_rows is not None:
            out = buffer("dh_rows", (part.rows.R, dh.shape[1]))
            dh = ops.scatter(dh, part.target_rows, out, part.hidden_mask, self._keep)  # (R, H)
        elif part.hidden_mask is not None:
            dh = ops.gather(dh, None, buffer("dh_rows", dh.shape), part.hidden_mask, self._keep)
        da, dstate0 = self._cell_backward(dh, cache.cell, grads)

        # Rows of one word share its projection, so their gradients add up before the products.
        out = buffer("dwords", (len(vectors), da.shape[1]))
        dwords = ops.segment_sum(da, part.inputs, out=out)  # (K, G)
        ops.column_sum(dwords, out=grads[bias])

        def weights_and_image() -> None:
            self.image_backward(da, dstate0, part.rows, image, grads)
            ops.matmul(vectors.T, dwords, out=grads[weight])

        def words() -> None:
            out = buffer("dvectors", vectors.shape)
            dvectors = ops.matmul(dwords, self.params[weight].T, out=out)  # (K, W)
            ops.scatter(dvectors, part.words, grads["W_embed"], part.word_mask, self._keep)

        work = dwords.size * self.config.wordvec
        run_parallel(self.params.flat, work, weights_and_image, words)

    def _cell_backward(self, dh: Array, loop: Any, grads: Parameters) -> tuple[Array, State]:
        """da (R, G) and dstate0 of the cell's loop; the gradients of its parameters go to `grads`."""
        recurrent = {name: grads[name] for name in self.cell.recurrent_names()}
        da, dstate0, _ = self.cell.rows_backward(dh, loop, self.buffer.scope("cell"), recurrent)
        return contiguous(da), tuple(contiguous(dstate) for dstate in dstate0)

    # ---- The image

    def image(self, table: Array, pictures: Array, mask: Array | None = None) -> Image:
        """Projected images of table[pictures], after dropout if there is a mask (N, D)."""
        take = self._ops.gather_regions if self.config.attends else self._ops.gather
        out = self.buffer("x", (len(pictures), *self.config.feature_shape))
        return self.project_image(take(table, pictures, out, mask, self._keep))

    def project_image(self, features: Array) -> Image:
        """Projected images of features (N, D), or grids (N, P, D)."""
        config, params, buffer, ops = self.config, self.params, self.buffer, self._ops
        N, H, (*regions, D) = len(features), config.hidden, config.feature_shape
        x = features.reshape(math.prod((N, *regions)), D)
        projected = ops.matmul(x, params["W_proj"], out=buffer("projected image", (len(x), H)))
        ops.add_rows(projected, params["b_proj"])
        h0, attention, term = projected, None, None
        if config.attends:
            attention = self._attention(projected.reshape(N, *regions, H))
            h0 = attention.start()
        if config.every_step:
            term = ops.matmul(h0, params["W_image"], out=buffer("image", (N, config.columns)))
        return Image(x, h0, term, attention)

    def _attention(self, A: Array) -> Attention:
        """Attention to projected regions A (N, P, H)."""
        return Attention(A, self.params["Wattn"], self.buffer.scope("attention"))

    def image_backward(
        self, da: Array, dstate0: State, rows: PackedSequences, image: Image, grads: Parameters
    ) -> None:
        """Gradients of W_proj, b_proj, W_image and Wattn, from da (R, G) and dstate0, to `grads`.

        dstate0 is overwritten.
        """
        (x, h0, term, attention), ops, (dh0, *others) = image, self._ops, dstate0
        if term is not None:
            dterm = ops.sequence_sum(da, rows, self.buffer("dimage", term.shape))  # (N, G)
            ops.matmul(h0.T, dterm, out=grads["W_image"])
            ops.matmul_add(dterm, self.params["W_image"].T, dh0, self.buffer)
        if attention is None:
            dprojected = dh0
        else:
            for other in others:  # c0 is h0
                ops.add_rows(dh0, other)
            dA, _ = attention.gradients(da, dh0, rows, grads["Wattn"])
            dprojected = dA.reshape(len(x), self.config.hidden)
        ops.matmul(x.T, dprojected, out=grads["W_proj"])
        ops.column_sum(dprojected, out=grads["b_proj"])

    # ---- One step

    def start(self, features: Array) -> State:
        """State before the first word: the cell's, then the image's terms of every step, if any."""
        image, zeros = self.project_image(features), get_array_module(features).zeros_like
        state0 = image.start(len(self.cell.states))
        state = (zeros(image.h0) if x is None else x for x in state0)
        constant = image.term, None if image.attention is None else image.attention.A
        return (*state, *(array for array in constant if array is not None))

    def project(self, words: Array) -> Array:
        """Pre-activations (n, G) of words (n,), in the buffer."""
        ops, buffer, (weight, bias) = self._ops, self.buffer, self.cell.inputs
        out = buffer("vectors", (len(words), self.config.wordvec))
        vectors = ops.gather(self.params["W_embed"], contiguous(words), out=out)
        out = buffer("a", (len(words), self.config.columns))
        factor = constant_factor(self.params[weight], buffer.scope(weight))
        a = ops.matmul(vectors, factor, out=out)
        a += self.params[bias]
        return a

    def step(self, a: Array, state: State) -> State:
        """The state after pre-activations a (n, G) of words, which are overwritten.

        The state is that of `start`: only the cell's arrays change.
        """
        n = len(self.cell.states)
        state, constants = state[:n], state[n:]
        if self.config.every_step:
            a += constants[0]
        attention = self._attention(constants[-1]) if self.config.attends else None
        return (*self.cell_step(a, state, attention), *constants)

    def cell_step(self, a: Array, state: State, attention: Attention | None) -> State:
        """The cell's state after whole pre-activations a (n, G), which are overwritten."""
        return self.cell.advance(a, state, self.cell_params, self.buffer.scope("cell"), attention)

    def scores(self, h: Array) -> Array:
        """Scores (n, V) of the next word from hidden states (n, H), in the buffer."""
        W_vocab, b_vocab = self.params["W_vocab"], self.params["b_vocab"]
        out = self.buffer("scores", (len(h), len(b_vocab)))
        factor = constant_factor(W_vocab, self.buffer.scope("W_vocab"))
        scores = self._ops.matmul(contiguous(h), factor, out=out)
        scores += b_vocab
        return scores


# ---- Scores of given captions


def score(network: Network, part: Part) -> Score:
    """Teacher-forced scores of a part, without dropout."""
    xp, ops, targets = get_array_module(part.table), get_ops(part.table), part.targets
    nll, correct = (xp.zeros((), np.float64) for _ in range(2))
    for rows, scores in _target_scores(network, part):
        correct = correct + _total(ops.argmax(scores) == targets[rows])
        nll = nll - _total(_target_log_probabilities(scores, targets[rows]))
    return Score(nll, correct.astype(np.int64), len(targets))


def _total(x: Array) -> Array:
    """The sum of x (n,), in float64."""
    x = x.astype(np.float64)
    return get_ops(x).weighted_sum(x, 1.0, get_array_module(x).empty(()))


def word_log_probabilities(network: Network, part: Part) -> np.ndarray:
    """Log-probability (N, T) of each target of a part, by caption and step; on the host."""
    targets = part.targets
    log_probabilities = [
        to_numpy(_target_log_probabilities(scores, targets[rows]))
        for rows, scores in _target_scores(network, part)
    ]
    return part.unpack(np.concatenate(log_probabilities), part.target_rows)


def _target_log_probabilities(scores: Array, targets: Array) -> Array:
    """Log-probabilities (n,) of targets (n,); scores (n, V) are overwritten."""
    rows = get_array_module(scores).arange(len(scores))
    return get_ops(scores).log_softmax_(scores)[rows, targets]


def _target_scores(network: Network, part: Part) -> Iterator[tuple[slice, Array]]:
    """Blocks of the rows with a target, and scores (n, V) of their words."""
    h = network.forward(part).hidden
    for rows in blocks(len(part.targets), network.config.vocabulary, h):
        yield rows, network.scores(h[rows])
