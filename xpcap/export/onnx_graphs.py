"""A captioner as ONNX graphs: from features to a state, one decoding step, and greedy decoding.

The equations are those of models/network.py, in ONNX operators. N pictures of P regions, V words;
a state is h (N, H), for an LSTM also c (N, H), then what `inject` adds and no step changes: image
(N, G) and regions (N, P, H).
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from xpcap.backend import to_numpy
from xpcap.data.features import Preprocessing, Projection
from xpcap.data.vocabulary import SPECIAL, Vocabulary
from xpcap.models import CaptioningRNN, ModelConfig

WEIGHTS = ("float32", "float16", "int8")  # of matrices in a file; sums and states are float32
MIDDLE = 128  # zero point of uint8; signed weights overflow 16 bits on processors without VNNI


class Value(NamedTuple):
    """An input or output of a graph. Sizes that vary are letters."""

    name: str
    dtype: type
    dims: Sequence[int | str]


# ---- A graph under construction


class Builder:
    """Operators in their order, and the weights that they read.

    Parameters
    ----------
    weights : one of WEIGHTS
    outer : the graph around this one, which is the body of a Loop; it holds the weights
    """

    def __init__(self, weights: str, outer: "Builder | None" = None) -> None:
        self.weights = weights
        self.nodes: list[Any] = []
        self.initializers: dict[str, Any] = {} if outer is None else outer.initializers
        self._outer = outer
        self._names = 0

    def several(self, kind: str, *inputs: str, names: Sequence[str], **attributes: Any) -> None:
        """Add an operator whose outputs have these names."""
        from onnx import helper

        self.nodes.append(helper.make_node(kind, list(inputs), list(names), **attributes))

    def node(self, kind: str, *inputs: str, name: str | None = None, **attributes: Any) -> str:
        """Add an operator with one output; return its name, which is a number if none is given."""
        name = name or self.new_name()
        self.several(kind, *inputs, names=[name], **attributes)
        return name

    def new_name(self) -> str:
        """A name of the graph's own."""
        if self._outer is not None:
            return self._outer.new_name()
        self._names += 1
        return f"x{self._names}"

    def constant(self, name: str, value: Any) -> str:
        """Add an array or a number as it is, once."""
        from onnx import numpy_helper

        if name not in self.initializers:
            self.initializers[name] = numpy_helper.from_array(np.array(value), name)
        return name

    def cast(self, x: str, dtype: type, name: str | None = None) -> str:
        return self.node("Cast", x, name=name, to=_element(dtype))

    def product(self, x: str, name: str, matrix: np.ndarray, *, of_state: bool = True) -> str:
        """x (..., k) times a matrix (k, m), which `weights` stores.

        `of_state`: x is a state or a word, whose numbers are of one size. Others, such as features,
        keep float16 where `weights` is int8: one scale for all would leave most of them few levels.
        """
        if self.weights == "int8" and of_state:
            levels, scale = quantise(matrix, axis=0)
            q, x_scale, zero = names = [self.new_name() for _ in range(3)]
            self.several("DynamicQuantizeLinear", x, names=names)
            middle = self.constant("middle", np.uint8(MIDDLE))
            total = self.node("MatMulInteger", q, self.constant(name, levels), zero, middle)
            unit = self.node("Mul", x_scale, self.constant(f"{name}.scale", scale))
            return self.node("Mul", self.cast(total, np.float32), unit)
        stored = self.constant if self.weights == "float32" else self._widened
        return self.node("MatMul", x, stored(name, matrix))

    def _widened(self, name: str, matrix: np.ndarray) -> str:
        """A matrix stored as float16, cast once in the outer graph."""
        whole = f"{name}.float32"
        if name not in self.initializers:
            self.constant(name, matrix.astype(np.float16))
            (self._outer or self).cast(name, np.float32, whole)
        return whole

    def stored(self, weight: Any) -> None:
        """Add a weight of another network, a TensorProto; its float32 matrices as float16, unless
        `weights` is float32.
        """
        from onnx import TensorProto, numpy_helper

        whole = weight.data_type != TensorProto.FLOAT or len(weight.dims) < 2
        if self.weights == "float32" or whole:
            self.initializers[weight.name] = weight
            return
        half = self.constant(f"{weight.name}.float16", numpy_helper.to_array(weight).astype("f2"))
        self.cast(half, np.float32, weight.name)

    def rows(self, ids: str, name: str, table: np.ndarray) -> str:
        """Rows `ids` (n,) of a table (k, m), which `weights` stores."""
        if self.weights == "float32":
            return self.node("Gather", self.constant(name, table), ids)
        if self.weights == "float16":
            return self.cast(
                self.node("Gather", self.constant(name, table.astype(np.float16)), ids), np.float32
            )
        levels, scale = quantise(table, axis=1)
        found = self.cast(self.node("Gather", self.constant(name, levels), ids), np.float32)
        centred = self.node("Sub", found, self.constant("middle.float32", np.float32(MIDDLE)))
        scales = self.node("Gather", self.constant(f"{name}.scale", scale), ids)
        return self.node("Mul", centred, scales)

    def graph(self, name: str, inputs: Sequence[Value], outputs: Sequence[Value]) -> Any:
        """The GraphProto; of a body without the weights."""
        from onnx import helper

        weights = [] if self._outer else list(self.initializers.values())
        return helper.make_graph(
            self.nodes, name, _infos(inputs), _infos(outputs), initializer=weights
        )


def _infos(values: Sequence[Value]) -> list[Any]:
    from onnx import helper

    return [
        helper.make_tensor_value_info(one.name, _element(one.dtype), list(one.dims))
        for one in values
    ]


def _element(dtype: type) -> int:
    from onnx import helper

    return int(helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))


def quantise(matrix: np.ndarray, axis: int) -> tuple[np.ndarray, np.ndarray]:
    """A matrix as uint8 around MIDDLE, and the scale of each column (axis 0) or row (axis 1).

    matrix = (levels - MIDDLE) * scale, to half a scale.
    """
    scale = np.abs(matrix).max(axis=axis, keepdims=True) / np.float32(127)
    scale[scale == 0] = 1  # a column of zeros
    levels = (np.rint(matrix / scale) + MIDDLE).astype(np.uint8)
    return levels, scale.astype(np.float32)


# ---- The captioner's equations


class Captioner:
    """The equations of a model whose cell is in STEPS, which add themselves to a Builder."""

    def __init__(self, model: CaptioningRNN, preprocessing: Preprocessing) -> None:
        self.config: ModelConfig = model.config
        self._params = {
            name: np.asarray(to_numpy(array), np.float32) for name, array in model.params.items()
        }
        self._preprocessing = preprocessing

    @property
    def features(self) -> Value:
        """The encoder's features, raw."""
        *regions, D = self.config.feature_shape
        if self._preprocessing.projection is not None:
            D = len(self._preprocessing.projection.mean)
        return Value("features", np.float32, ("N", *regions, D))

    def state(self, prefix: str = "") -> list[Value]:
        """The arrays of a state that change from step to step."""
        names = ("h", "c")[: self.config.recurrent.states]
        return [Value(prefix + name, np.float32, ("N", self.config.hidden)) for name in names]

    @property
    def constants(self) -> list[Value]:
        """The arrays of a state that do not change."""
        config, values = self.config, []
        if config.every_step:
            values.append(Value("image", np.float32, ("N", config.columns)))
        if config.attends:
            P = config.feature_shape[0]
            values.append(Value("regions", np.float32, ("N", P, config.hidden)))
        return values

    @property
    def scores(self) -> Value:
        return Value("scores", np.float32, ("N", self.config.vocabulary))

    @property
    def attention(self) -> list[Value]:
        """The weights of regions in a step, of a model that attends."""
        if not self.config.attends:
            return []
        return [Value("attention", np.float32, ("N", self.config.feature_shape[0]))]

    def _preprocess(self, graph: Builder, features: str) -> str:
        """The name of features after the run's PCA and scaling."""
        x, (projection, scaling) = features, self._preprocessing
        if projection is not None:
            x = graph.node("Sub", x, graph.constant("pca.mean", projection.mean))
            x = graph.node("MatMul", x, graph.constant("pca.components", projection.components))
        if scaling.mean is not None:
            x = graph.node("Sub", x, graph.constant("scaling.mean", scaling.mean))
            x = graph.node("Div", x, graph.constant("scaling.scale", scaling.scale))
        return x

    def add_start(self, graph: Builder, features: str) -> str:
        """Features to the first state, under the names of `state` and `constants`.

        Returns the name of the preprocessed features.
        """
        config, preprocessed = self.config, self._preprocess(graph, features)
        x = graph.product(preprocessed, "W_proj", self._params["W_proj"], of_state=False)
        x = graph.node("Add", x, graph.constant("b_proj", self._params["b_proj"]))
        if config.attends:
            A = graph.node("Identity", x, name="regions")
            total = graph.node("ReduceSum", A, graph.constant("axis 1", [1]), keepdims=0)
            P = graph.constant("number of regions", np.float32(config.feature_shape[0]))
            h = graph.node("Div", total, P, name="h")
        else:
            h = graph.node("Identity", x, name="h")
        if config.recurrent.states == 2:
            if config.attends:
                graph.node("Identity", h, name="c")
            else:  # zeros
                graph.node("ConstantOfShape", graph.node("Shape", h), name="c")
        if config.every_step:
            image = graph.product(h, "W_image", self._params["W_image"], of_state=False)
            graph.node("Identity", image, name="image")
        return preprocessed

    def add_step(self, graph: Builder, words: str, state: Sequence[str]) -> None:
        """Words (N,) and the names of `state` to `scores`, `attention` and the ``next_`` state."""
        config, h = self.config, state[0]
        x = graph.rows(words, "W_embed", self._params["W_embed"])
        a = self._affine(graph, x, "Wx", "b")
        a = graph.node("Add", a, graph.product(h, "Wh", self._params["Wh"]))
        if config.every_step:
            a = graph.node("Add", a, "image")
        if config.attends:
            context = self._attend(graph, h)
            a = graph.node("Add", a, graph.product(context, "Wattn", self._params["Wattn"]))
        h = STEPS[config.cell](graph, a, state, config.hidden)
        scores = graph.product(h, "W_vocab", self._params["W_vocab"])
        bias = graph.constant("b_vocab", self._params["b_vocab"])
        graph.node("Add", scores, bias, name="scores")

    def _affine(self, graph: Builder, x: str, weight: str, bias: str) -> str:
        x = graph.product(x, weight, self._params[weight])
        return graph.node("Add", x, graph.constant(bias, self._params[bias]))

    def _attend(self, graph: Builder, h: str) -> str:
        """The context (N, H): softmax(regions . h / sqrt(H)) . regions."""
        root = graph.constant("root of H", np.float32(np.sqrt(self.config.hidden)))
        axis_1, axis_2 = graph.constant("axis 1", [1]), graph.constant("axis 2", [2])
        scores = graph.node("MatMul", "regions", graph.node("Unsqueeze", h, axis_2))  # (N, P, 1)
        scores = graph.node("Div", graph.node("Squeeze", scores, axis_2), root)
        weights = graph.node("Softmax", scores, axis=1, name="attention")
        row = graph.node("Unsqueeze", weights, axis_1)  # (N, 1, P)
        return graph.node("Squeeze", graph.node("MatMul", row, "regions"), axis_1)


def _rnn(graph: Builder, a: str, state: Sequence[str], H: int) -> str:
    return graph.node("Tanh", a, name="next_h")


def _lstm(graph: Builder, a: str, state: Sequence[str], H: int) -> str:
    i, f, o, g = parts = [graph.new_name() for _ in "ifog"]
    graph.several("Split", a, graph.constant("gates", [H] * 4), names=parts, axis=1)
    i, f, o = (graph.node("Sigmoid", gate) for gate in (i, f, o))
    kept = graph.node("Mul", f, state[1])
    c = graph.node("Add", kept, graph.node("Mul", i, graph.node("Tanh", g)), name="next_c")
    return graph.node("Mul", o, graph.node("Tanh", c), name="next_h")


# Pre-activations a (N, G) and the names of a state to next_h and, of an LSTM, next_c
STEPS: Mapping[str, Callable[[Builder, str, Sequence[str], int], str]] = {
    "rnn": _rnn,
    "lstm": _lstm,
}


# ---- The graphs


def start_graph(captioner: Captioner, weights: str, index: Projection | None = None) -> Any:
    """Features to the state before the first word.

    `index` : of a PhotoIndex, to compute `projected` (N, d) as well, a photo's direction times its
    norm
    """
    graph = Builder(weights)
    x = captioner.add_start(graph, captioner.features.name)
    outputs = [*captioner.state(), *captioner.constants]
    if index is not None:
        if captioner.config.attends:
            total = graph.node("ReduceSum", x, graph.constant("axis 1", [1]), keepdims=0)
            P = graph.constant("number of regions", np.float32(captioner.config.feature_shape[0]))
            x = graph.node("Div", total, P)
        x = graph.node("Sub", x, graph.constant("index.mean", index.mean))
        components = graph.constant("index.components", index.components)
        graph.node("MatMul", x, components, name="projected")
        outputs.append(Value("projected", np.float32, ("N", index.components.shape[1])))
    return graph.graph("start", [captioner.features], outputs)


def step_graph(captioner: Captioner, weights: str) -> Any:
    """Words and a state to the scores of the next words, and the next state."""
    graph, state = Builder(weights), captioner.state()
    words = Value("words", np.int64, ("N",))
    captioner.add_step(graph, words.name, [value.name for value in state])
    outputs = [captioner.scores, *captioner.state("next_"), *captioner.attention]
    return graph.graph("step", [words, *state, *captioner.constants], outputs)


def greedy_graph(
    captioner: Captioner,
    weights: str,
    vocabulary: Vocabulary,
    most: int,
    source: tuple[Builder, Value] | None = None,
) -> Any:
    """Features to the likeliest word at each step, up to `most` words, END included.

    Parameters
    ----------
    source : operators that make the features of another input, and that input
    """
    graph, given = source or (Builder(weights), captioner.features)
    captioner.add_start(graph, captioner.features.name)
    body = _greedy_body(captioner, graph, vocabulary)
    start = graph.constant("start", np.int64(vocabulary.start))
    state = captioner.state()
    N = graph.node("Shape", state[0].name)
    N = graph.node("Slice", N, graph.constant("0", [0]), graph.constant("1", [1]))
    words = graph.node("Expand", start, N)
    ended = graph.node("Expand", graph.constant("false", np.bool_(False)), N)
    names = [graph.new_name() for _ in (*state, "words", "ended")]
    graph.several(
        "Loop",
        graph.constant("most words", np.int64(most)),
        graph.constant("true", np.bool_(True)),
        words,
        ended,
        *(value.name for value in state),
        names=[*names, "by time"],
        body=body,
    )
    captions = graph.node("Transpose", "by time", name="captions")
    texts = ["" if word in SPECIAL else word for word in vocabulary.idx_to_word]
    table = graph.constant("texts", np.array(texts, dtype=object))
    graph.node("Gather", table, captions, name="words")
    outputs = [
        Value("captions", np.int64, (given.dims[0], "T")),
        Value("words", object, (given.dims[0], "T")),
    ]
    return graph.graph("greedy", [given], outputs)


def _greedy_body(captioner: Captioner, outer: Builder, vocabulary: Vocabulary) -> Any:
    """One round of the Loop: words, ended and state to the next ones, and the words to write."""
    graph = Builder(outer.weights, outer)
    state = captioner.state("last_")
    captioner.add_step(graph, "last_words", [value.name for value in state])
    never = np.zeros(len(vocabulary), np.float32)
    never[[vocabulary.null, vocabulary.start, vocabulary.unk]] = -np.inf
    allowed = graph.node("Add", "scores", graph.constant("never", never))
    best = graph.node("ArgMax", allowed, axis=1, keepdims=0)
    null = graph.constant("null", np.int64(vocabulary.null))
    words = graph.node("Where", "last_ended", null, best, name="next_words")
    at_end = graph.node("Equal", words, graph.constant("end", np.int64(vocabulary.end)))
    ended = graph.node("Or", "last_ended", at_end, name="next_ended")
    going = graph.cast(graph.node("Not", ended), np.int64)
    going = graph.node("ReduceSum", going, keepdims=0)
    graph.node("Greater", going, graph.constant("none", np.int64(0)), name="go_on")
    graph.node("Identity", words, name="written")

    def carried(prefix: str) -> list[Value]:
        words = Value(f"{prefix}words", np.int64, ("N",))
        ended = Value(f"{prefix}ended", np.bool_, ("N",))
        return [words, ended, *captioner.state(prefix)]

    inputs = [Value("round", np.int64, ()), Value("going", np.bool_, ()), *carried("last_")]
    outputs = [Value("go_on", np.bool_, ()), *carried("next_"), Value("written", np.int64, ("N",))]
    return graph.graph("word", inputs, outputs)
