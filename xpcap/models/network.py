"""Network: loss and gradients of a batch, by a forward and a backward pass over its parts."""

import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from xpcap.backend import Array, get_array_module, to_numpy
from xpcap.backend.memory import Workspace
from xpcap.backend.threads import parallel_map, run_parallel
from xpcap.layers.attention import Attention
from xpcap.layers.cell import Params
from xpcap.layers.vocabulary_loss import blocks, vocabulary_loss
from xpcap.models.batch import NO_TERMS, Batch, Part, prepare_parts
from xpcap.models.config import ModelConfig
from xpcap.models.parameters import Parameters
from xpcap.ops import Factor, LossTerms, PackedSequences, State, contiguous, get_ops

GRADIENTS = "grads"  # name of the array of all gradients in a workspace
# Least captions of a part, and multiplications of its steps' product, for which a core pays off
MIN_CAPTIONS_PER_CORE = 8
MIN_PRODUCT = 1 << 23


class Score(NamedTuple):
    """Likelihood and accuracy of a batch, with teacher forcing."""

    nll: Array  # 0-d; negative log-likelihood, summed over words
    correct: Array  # 0-d; number of words predicted correctly
    tokens: int  # number of words


class Image(NamedTuple):
    """The projected images of N captions: their initial states and terms of every step."""

    x: Array  # (N, D) after dropout; for grids (N*P, D), region by region
    h0: Array  # (N, H)
    term: Array | None  # (N, G), added to the pre-activation of every step
    attention: Attention | None

    def start(self, states: int) -> tuple[Array | None, ...]:
        """The cell's initial state: h0, then h0 again with attention, else None, which means zeros."""
        return (self.h0, *[None if self.attention is None else self.h0] * (states - 1))


@dataclass(frozen=True, eq=False)
class Forward:
    """Cache and result of `Network.forward`. Compared by identity."""

    image: Image
    vectors: Array  # (K, W) after dropout
    cell: Any  # the cell's cache
    hidden: Array  # (L, H) hidden states of the rows with a target, after dropout


class Network:
    """A captioner's equations, with its parameters and the memory of one pass.

    config : ModelConfig
    params : Parameters, with the shapes of the config
    memory : memory for results and temporaries; None: new arrays
    """

    def __init__(
        self, config: ModelConfig, params: Parameters, memory: Workspace | None = None
    ) -> None:
        self.config = config
        self.params = params
        self.cell = config.recurrent
        self.memory = memory or Workspace.fresh(params.flat)
        self._ops = get_ops(params.flat)
        self._keep = 1 - config.dropout
        self._factors: dict[str, Factor] = {}

    def within(self, memory: Workspace) -> "Network":
        """The same network with other memory."""
        return type(self)(self.config, self.params, memory)

    @property
    def cell_params(self) -> dict[str, Array]:
        """The cell's parameters by name."""
        return {name: self.params[name] for name in self.config.cell_shapes()}

    @functools.cached_property
    def _step_params(self) -> Params:
        """The cell's parameters, laid out for the steps of decoding."""
        return self.cell.laid_out(self.cell_params, self.memory.scope("cell"))

    # ---- Loss and gradients

    def gradients(
        self,
        batch: Batch,
        null: int,
        *,
        seed: int | None = None,
        terms: LossTerms = NO_TERMS,
    ) -> tuple[Array, Parameters]:
        """Loss and gradients of a checked batch; arguments as in `prepare_parts`.

        A large enough batch is divided into as many parts as the memory has. They are computed in
        parallel, and their results are added in order.
        """
        size = self.config.hidden * self.config.columns  # the size of Wh in most cells
        min_captions = max(MIN_CAPTIONS_PER_CORE, -(-MIN_PRODUCT // size))
        memories = self.memory.parts[: max(1, batch.computed // min_captions)]
        parts = prepare_parts(
            batch, self.config, self.params.flat, null, memories, seed=seed, terms=terms
        )
        results = parallel_map(lambda part: self.within(part.memory).part_gradients(part), parts)
        loss, grads = results[0]
        for part_loss, part_grads in results[1:]:
            loss = loss + part_loss
            flat = grads.flat
            flat += part_grads.flat
        return loss, grads

    def part(self, batch: Batch, null: int) -> Part:
        """A checked batch as one part, without dropout."""
        like = self.params.flat
        (part,) = prepare_parts(batch, self.config, like, null, [self.memory])
        return part

    def part_gradients(self, part: Part) -> tuple[Array, Parameters]:
        """Loss and gradients of one part."""
        grads = self._empty_gradients()
        cache = self.forward(part)
        nll, dh = vocabulary_loss(
            cache.hidden,
            self.params["W_vocab"],
            self.params["b_vocab"],
            part.packed.targets,
            part.terms,
            self.memory.scope("vocabulary"),
            out=(grads["W_vocab"], grads["b_vocab"]),
        )
        self.backward(dh, part, cache, grads)
        loss = self.memory.take("loss", ())
        return self._ops.weighted_sum(nll, part.terms.scale, loss), grads

    def zero_gradients(self) -> tuple[Array, Parameters]:
        """Loss and gradients of no captions."""
        grads = self._empty_gradients()
        loss = self.memory.take("loss", ())
        grads.flat[...] = 0
        loss[...] = 0
        return loss, grads

    def _empty_gradients(self) -> Parameters:
        shapes = self.params.shapes
        return Parameters(shapes, self.memory.take(GRADIENTS, self.params.flat.shape))

    def forward(self, part: Part) -> Forward:
        """Hidden states of the rows with a target, from features and words."""
        packed = part.packed
        masks = part.masks
        memory = self.memory
        ops = self._ops
        weight, bias = (self.params[name] for name in self.cell.inputs)
        image = self.image(part.table, part.pictures, masks.features)
        rows = packed.rows

        # Each distinct word and each image is projected once; rows gather the results.
        K = len(packed.words)
        G = len(bias)
        out = memory.take("vectors", (K, self.config.wordvec))
        vectors = ops.gather(self.params["W_embed"], packed.words, out, masks.words, self._keep)
        projected = ops.matmul(vectors, weight, out=memory.take("projected", (K, G)))
        a = memory.take("a", (rows.R, G))
        if image.term is None:
            ops.gather_plus(projected, packed.inputs.ids, bias, a)
        else:
            ops.gather_plus_image(projected, packed.inputs.ids, bias, image.term, rows, a)

        state0 = image.start(len(self.cell.states))
        scope = memory.scope("cell")
        h, cache = self.cell.run_forward(a, state0, self.cell_params, rows, scope, image.attention)
        if packed.target_rows is not None or masks.hidden is not None:
            out = memory.take("hidden", (len(packed.targets), self.config.hidden))
            h = ops.gather(h, packed.target_rows, out, masks.hidden, self._keep)
        return Forward(image, vectors, cache, h)

    def backward(self, dh: Array, part: Part, cache: Forward, grads: Parameters) -> None:
        """Write all gradients but those of W_vocab and b_vocab, given dh (L, H), that of `cache.hidden`."""
        packed = part.packed
        masks = part.masks
        memory = self.memory
        ops = self._ops
        image = cache.image
        vectors = cache.vectors
        weight, bias = self.cell.inputs
        if packed.target_rows is not None:
            out = memory.take("dh_rows", (packed.rows.R, dh.shape[1]))
            dh = ops.scatter(dh, packed.target_rows, out, masks.hidden, self._keep)  # (R, H)
        elif masks.hidden is not None:
            out = memory.take("dh_rows", dh.shape)
            dh = ops.gather(dh, None, out, masks.hidden, self._keep)
        recurrent = {name: grads[name] for name in self.cell.recurrent_names()}
        da, dstate0, _ = self.cell.run_backward(dh, cache.cell, memory.scope("cell"), recurrent)

        # Rows of one word share its projection, so their gradients are summed before the products
        out = memory.take("dwords", (len(vectors), da.shape[1]))
        dwords = ops.segment_sum(da, packed.inputs, out=out)  # (K, G)
        ops.column_sum(dwords, out=grads[bias])

        def weights_and_image() -> None:
            self.image_backward(da, dstate0, packed.rows, image, grads)
            ops.matmul(vectors.T, dwords, out=grads[weight])

        def words() -> None:
            out = memory.take("dvectors", vectors.shape)
            dvectors = ops.matmul(dwords, self.params[weight].T, out=out)  # (K, W)
            ops.scatter(dvectors, packed.words, grads["W_embed"], masks.words, self._keep)

        work = dwords.size * self.config.wordvec
        run_parallel(self.params.flat, work, weights_and_image, words)

    # ---- The image

    def image(self, table: Array, pictures: Array, mask: Array | None = None) -> Image:
        """Projected images of table[pictures], after dropout if there is a mask (N, D)."""
        gather = self._ops.gather_regions if self.config.attends else self._ops.gather
        out = self.memory.take("x", (len(pictures), *self.config.feature_shape))
        return self.project_image(gather(table, pictures, out, mask, self._keep))

    def project_image(self, features: Array) -> Image:
        """Projected images of features (N, D), or grids (N, P, D)."""
        config = self.config
        params = self.params
        memory = self.memory
        ops = self._ops
        N = len(features)
        H = config.hidden
        *regions, D = config.feature_shape
        x = features.reshape(math.prod((N, *regions)), D)
        out = memory.take("projected image", (len(x), H))
        projected = ops.matmul(x, params["W_proj"], out=out)
        ops.add_rows(projected, params["b_proj"])
        h0 = projected
        attention = None
        term = None
        if config.attends:
            attention = self._attention(projected.reshape(N, *regions, H))
            h0 = attention.start()
        if config.every_step:
            out = memory.take("image", (N, config.columns))
            term = ops.matmul(h0, params["W_image"], out=out)
        return Image(x, h0, term, attention)

    def _attention(self, A: Array) -> Attention:
        """Attention to projected regions A (N, P, H)."""
        return Attention(A, self.params["Wattn"], self.memory.scope("attention"))

    def image_backward(
        self, da: Array, dstate0: State, rows: PackedSequences, image: Image, grads: Parameters
    ) -> None:
        """Write the gradients of W_proj, b_proj, W_image and Wattn, given da (R, G) and dstate0.

        dstate0 is overwritten.
        """
        x, h0, term, attention = image
        ops = self._ops
        dh0, *others = dstate0
        if term is not None:
            dterm = ops.sequence_sum(da, rows, self.memory.take("dimage", term.shape))  # (N, G)
            ops.matmul(h0.T, dterm, out=grads["W_image"])
            ops.matmul_add(dterm, self.params["W_image"].T, dh0, self.memory)
        if attention is None:
            dprojected = dh0
        else:
            for dc0 in others:  # c0 is h0
                ops.add_rows(dh0, dc0)
            dA, _ = attention.gradients(da, dh0, rows, grads["Wattn"])
            dprojected = dA.reshape(len(x), self.config.hidden)
        ops.matmul(x.T, dprojected, out=grads["W_proj"])
        ops.column_sum(dprojected, out=grads["b_proj"])

    # ---- One step

    def start(self, features: Array) -> State:
        """State before the first word: the cell's state, then the image's terms of every step, if any."""
        image = self.project_image(features)
        zeros = get_array_module(features).zeros_like
        state0 = image.start(len(self.cell.states))
        state = (zeros(image.h0) if x is None else x for x in state0)
        constant = image.term, None if image.attention is None else image.attention.A
        return (*state, *(array for array in constant if array is not None))

    def project(self, words: Array) -> Array:
        """Pre-activations (n, G) for words (n,); the next call overwrites them."""
        ops = self._ops
        memory = self.memory
        weight, bias = self.cell.inputs
        out = memory.take("vectors", (len(words), self.config.wordvec))
        vectors = ops.gather(self.params["W_embed"], contiguous(words), out=out)
        out = memory.take("a", (len(words), self.config.columns))
        a = ops.matmul(vectors, self._factor(weight), out=out)
        a += self.params[bias]
        return a

    def advance(self, a: Array, state: State) -> tuple[Array, State]:
        """Scores (n, V) and the next state, given pre-activations a (n, G), as in `Stepper.advance`."""
        state = self.step(a, state)
        return self.scores(state[0]), state

    def step(self, a: Array, state: State) -> State:
        """The next state, given pre-activations a (n, G) of words, which are overwritten.

        A state has the form of `start`; only the cell's arrays change.
        """
        n = len(self.cell.states)
        state, constants = state[:n], state[n:]
        if self.config.every_step:
            a += constants[0]
        attention = self._attention(constants[-1]) if self.config.attends else None
        return (*self.cell_step(a, state, attention), *constants)

    def cell_step(self, a: Array, state: State, attention: Attention | None) -> State:
        """The cell's next state, given complete pre-activations a (n, G), which are overwritten."""
        return self.cell.advance(a, state, self._step_params, self.memory.scope("cell"), attention)

    def scores(self, h: Array) -> Array:
        """Scores (n, V) of the next word, given h (n, H); the next call overwrites them."""
        b_vocab = self.params["b_vocab"]
        out = self.memory.take("scores", (len(h), len(b_vocab)))
        scores = self._ops.matmul(contiguous(h), self._factor("W_vocab"), out=out)
        scores += b_vocab
        return scores

    def _factor(self, name: str) -> Factor:
        """A weight in the layout for products of few rows, which is made once."""
        if name not in self._factors:
            memory = self.memory.scope(name)
            self._factors[name] = self._ops.factor(self.params[name], memory)
        return self._factors[name]


# ---- Given captions


def score(network: Network, part: Part) -> Score:
    """Likelihood and accuracy of a part with teacher forcing, without dropout."""
    xp = get_array_module(part.table)
    ops = get_ops(part.table)
    targets = part.packed.targets
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
    """Log-probability (N, T) of each target of a part, by caption and step, on the host."""
    packed = part.packed
    log_probabilities = [
        to_numpy(_target_log_probabilities(scores, packed.targets[rows]))
        for rows, scores in _target_scores(network, part)
    ]
    return packed.unpack(np.concatenate(log_probabilities), packed.target_rows)


def _target_log_probabilities(scores: Array, targets: Array) -> Array:
    """Log-probabilities (n,) of targets (n,); scores (n, V) are overwritten."""
    rows = get_array_module(scores).arange(len(scores))
    return get_ops(scores).log_softmax_(scores)[rows, targets]


def _target_scores(network: Network, part: Part) -> Iterator[tuple[slice, Array]]:
    """Blocks of the rows with a target, each with the scores (n, V) of all words."""
    h = network.forward(part).hidden
    for rows in blocks(len(part.packed.targets), network.config.vocabulary, h):
        yield rows, network.scores(h[rows])
