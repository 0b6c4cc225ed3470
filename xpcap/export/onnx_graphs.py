"""ONNX graphs of a captioner: from features to a state, one decoding step, and greedy decoding.

They come from the equations of models/network.py and of the cell, run on tensors that record
operations. There are N pictures of P regions and V words. A state has the cell's arrays, such as h
(N, H) and c (N, H), then constants of `inject`: image (N, G) and regions (N, P, H).
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from xpcap.backend import Array, to_numpy
from xpcap.backend.memory import Workspace
from xpcap.backend.plain_code import plain
from xpcap.data.features import FeatureScaling, Projection
from xpcap.data.vocabulary import SPECIAL, Vocabulary
from xpcap.export.tensor import (
    BATCH,
    Tensor,
    UnsupportedError,
    graph_input,
    graph_output,
    row_count,
    weight,
)
from xpcap.files.onnx_file import Graph
from xpcap.layers.attention import Attention
from xpcap.models import CaptioningRNN, ModelConfig
from xpcap.models.network import Network
from xpcap.reranking.index import keeps_all

WEIGHTS = ("float32", "float16")  # dtypes of matrices in a file; sums and states are float32


class _Parameters(dict[str, Array]):
    """Parameters by name, without a flat array."""

    flat = None


class _Tensors(Workspace):
    """A workspace that returns new tensors of a graph."""

    def __init__(self, graph: Graph) -> None:
        super().__init__(np.empty(0, np.float32))
        self._graph = graph

    def take(self, name: str, shape: tuple[int, ...], dtype: DTypeLike | None = None) -> Array:
        return Tensor(self._graph, None, np.zeros(shape, dtype or self.dtype))


class _RecordedNetwork(Network):
    """A network whose arrays are tensors of a graph; it keeps the attention of its last step."""

    attention: Attention | None = None

    def _attention(self, A: Array) -> Attention:
        self.attention = super()._attention(A)
        return self.attention


class GraphCaptioner:
    """Adds the equations of a model to a graph.

    Parameters
    ----------
    model, scaling : of a run
    weights : one of WEIGHTS
    """

    def __init__(self, model: CaptioningRNN, scaling: FeatureScaling, weights: str) -> None:
        self.config: ModelConfig = model.config
        self._params = {
            name: np.asarray(to_numpy(array), np.float32) for name, array in model.params.items()
        }
        self._scaling = scaling
        self._half = weights == "float16"

    @property
    def state(self) -> list[str]:
        """Names of the arrays of a state that steps change."""
        return [name.replace(" ", "_") for name in self.config.recurrent.states]

    @property
    def constants(self) -> list[str]:
        """Names of the arrays of a state that stay the same."""
        return ["image"] * self.config.every_step + ["regions"] * self.config.attends

    def features(self, graph: Graph) -> Tensor:
        """An input with the encoder's features, not scaled."""
        return graph_input(graph, "features", np.float32, ("N", *self.config.feature_shape))

    def preprocess(self, features: Tensor) -> Tensor:
        """Features after the run's scaling."""
        graph = features.graph
        scaling = self._scaling
        if scaling.mean is None or scaling.scale is None:
            return features
        mean, scale = (weight(graph, f"scaling.{k}", v) for k, v in scaling._asdict().items())
        return (features - mean) / scale

    def start(self, x: Tensor) -> list[Tensor]:
        """The state before the first word, from preprocessed features."""
        with plain():  # fast versions do not take these tensors
            x.graph.scope = "start/"
            return [*self._network(x.graph).start(x)]

    def step(self, words: Tensor, state: Sequence[Tensor]) -> tuple[Tensor, list[Tensor], Any]:
        """Logits, the next state and, for a model with attention, the weights of regions."""
        graph = words.graph
        with plain():  # fast versions do not take these tensors
            network = self._network(graph)
            graph.scope = "word/"
            a = network.project(words)
            graph.scope = "cell/"
            state = network.step(a, tuple(state))
            graph.scope = "scores/"
            scores = network.scores(state[0])
        return scores, [*state], network.attention and network.attention.weights

    def _network(self, graph: Graph) -> _RecordedNetwork:
        params: Any = _Parameters(
            (name, weight(graph, name, array, self._half and array.ndim > 1))
            for name, array in self._params.items()
        )

        return _RecordedNetwork(self.config, params, _Tensors(graph))


# ---- The graphs


def start_graph(captioner: GraphCaptioner, index: Projection | None = None) -> Graph:
    """The graph from features to the state before the first word.

    `index` : projection of a PhotoIndex; adds outputs `projected` (N, d) and, if the projection keeps
    all components, `norm` (N,), the norm of the centred feature
    """
    graph = Graph("start")
    x = captioner.preprocess(captioner.features(graph))
    names = [*captioner.state, *captioner.constants]
    for name, array in zip(names, captioner.start(x), strict=True):
        graph_output(graph, name, array)
    if index is not None:
        pooled = x.mean(axis=1) if captioner.config.attends else x
        mean, components = index
        centred = pooled - weight(graph, "index.mean", mean)
        graph_output(graph, "projected", centred @ weight(graph, "index.components", components))
        if keeps_all(index):
            graph_output(graph, "norm", np.sqrt((centred * centred).sum(axis=1)))
    return graph


def step_graph(captioner: GraphCaptioner, batch: int = BATCH) -> Graph:
    """The graph from words and a state to the logits of the next words, and the next state.

    `batch` : number of captions in the recorded example
    """
    graph = Graph("step")
    config = captioner.config
    words = graph_input(graph, "words", np.int64, ("N",), batch)
    shapes = {"image": (config.columns,), "regions": (config.feature_shape[0], config.hidden)}
    state = [
        graph_input(graph, name, np.float32, ("N", *shapes.get(name, (config.hidden,))), batch)
        for name in (*captioner.state, *captioner.constants)
    ]
    scores, after, attention = captioner.step(words, state)
    graph_output(graph, "scores", scores)
    for name, array in zip(captioner.state, after, strict=False):
        graph_output(graph, f"next_{name}", array)
    if attention is not None:
        graph_output(graph, "attention", attention)
    return graph


def require_form(captioner: GraphCaptioner) -> None:
    """Raise TypeError if the cell's step cannot be recorded, or its graph depends on the batch size."""
    small, large = (step_graph(captioner, batch) for batch in (BATCH, BATCH + 4))
    sizes = ([(name, np.shape(x)) for name, x in graph.weights.items()] for graph in (small, large))
    if small.part.operators != large.part.operators or next(sizes) != next(sizes):
        raise UnsupportedError("the number of rows as a number")


def greedy_graph(
    captioner: GraphCaptioner, vocabulary: Vocabulary, length: int, features: Tensor | None = None
) -> Graph:
    """The graph from features to the likeliest word at each step, up to `length` including END.

    `features` : the result of a graph that computes features; None: they are the input
    """
    if features is None:
        features = captioner.features(Graph("greedy"))
    graph = features.graph
    state = captioner.start(captioner.preprocess(features))
    state, constants = state[: len(captioner.state)], state[len(captioner.state) :]
    zeros: Any = np.zeros_like(state[0][:, 0], np.int64)
    carried = [zeros + vocabulary.start, zeros > 0, *state]
    names = ["words", "ended", *captioner.state]
    with graph.body("word") as body:
        graph.input("round", np.int64, ())
        graph.input("going", np.bool_, ())
        words, ended, *state = [
            graph_input(graph, f"last_{name}", x.dtype, ("N", *x.shape[1:]))
            for name, x in zip(names, carried, strict=True)
        ]
        scores, after, _ = captioner.step(words, [*state, *constants])
        graph.scope = "choice/"
        banned = np.zeros(len(vocabulary), np.float32)
        banned[[vocabulary.null, vocabulary.start, vocabulary.unk]] = -np.inf
        allowed = scores + weight(graph, "never", banned)
        chosen: Any = np.where(ended, vocabulary.null, allowed.argmax(axis=1))
        top = scores.max(axis=1)  # probabilities include banned words, as in decoding
        total = np.exp(scores - top[:, None]).sum(axis=1)
        likelihood: Any = np.where(ended, np.float32(0), np.exp(allowed.max(axis=1) - top) / total)
        over = ended | (chosen == vocabulary.end)
        graph_output(graph, "go_on", (~over).astype(np.int64).sum() > 0)
        for name, x in zip(names, (chosen, over, *after[: len(state)]), strict=True):
            graph_output(graph, f"next_{name}", x)
        graph_output(graph, "written", chosen)
        graph_output(graph, "likelihood", likelihood)
    graph.scope = "captions/"
    ends = [*(f"last of {name}" for name in names), "ids", "likelihoods"]
    first = (np.int64(length), np.bool_(True), *(x.name for x in carried))
    graph.add("Loop", *first, outputs=ends, body=body)
    ids = graph.node("Transpose", "ids")
    sizes = (row_count(features), "T")
    texts = ["" if word in SPECIAL else word for word in vocabulary.idx_to_word]
    table = graph.constant(np.array(texts, dtype=object), "texts")
    graph.output("captions", ids, np.int64, sizes)
    graph.output("words", graph.node("Gather", table, ids), object, sizes)
    graph.output("probabilities", graph.node("Transpose", "likelihoods"), np.float32, sizes)
    return graph
