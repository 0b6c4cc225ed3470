"""Functions of arrays, whose recorded graphs ONNX Runtime runs as NumPy runs the functions."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from refusals import refuses

from xpcap.errors import DataError
from xpcap.export.tensor import UnsupportedError, graph_input, graph_output, weight
from xpcap.files.onnx_file import Graph
from xpcap.ops import log_softmax, sigmoid
from xpcap.ops.softmax import softmax

runtime = pytest.importorskip("onnxruntime", reason="the extra `images` is not installed")
onnx = pytest.importorskip("onnx", reason="the extra `export` is not installed")

rng = np.random.default_rng(0)
W = rng.standard_normal((6, 4)).astype(np.float32)


def in_place(x: Any) -> Any:
    """Writes through views show in the array, as reads do."""
    y, part = x.copy(), x[:, 2:]
    y *= 2
    y.reshape(-1, 2, 3)[...] += x.reshape(-1, 2, 3)
    column = x[:, :, None]
    np.matmul(column, np.ones((1, 1), "f4"), out=y[:, :, None])
    y[:] = y.T.T + 1
    x += 1
    return y[:, 2:] * part


def buffers(x: Any) -> Any:
    out = np.empty_like(x)
    out[...] = x
    np.tanh(out, out=out)
    np.add(out, np.zeros_like(x), out=out)
    out /= np.ones_like(x).sum(axis=1, keepdims=True)
    return x.max(axis=-1, keepdims=True) + np.clip(out, -0.1, 0.1)


@pytest.mark.parametrize(
    "function",
    [
        in_place,
        buffers,
        lambda x: x @ W,
        lambda x: x.dot(W).mean(axis=1),
        lambda x: W.T @ x.T,
        lambda x: np.concatenate((x[:, 1:3], 1 / (x**2 + 1), -x[:, :1]), axis=1),
        lambda x: sigmoid(x) + log_softmax(x),
        lambda x: np.where(x > 0.5, x, 0.25 * x) - np.float32(1),
        lambda x: np.where(-x >= 0, 1, np.exp(-np.abs(x))) / (1 + np.exp(-np.abs(x))),
        lambda x: x[:, 3] * x[..., -1] + x.min(axis=1) + x.sum(axis=1),
        lambda x: (x[:, None, ::2] * x[..., None]).sum(axis=(1, 2)),
        lambda x: np.take(x, np.array([0, 0, 5]), axis=1),
        lambda x: x.argmax(axis=1),
        lambda x: x[:, 0].sum() * x[:, 1].max() + x * np.float32(W[0, 0]),
        lambda x: ~((x < 0) | (x >= 1)) & (x <= 2),
        lambda x: x.astype(np.int64) / 2,
        lambda x: np.exp(np.float64(0.5) * x),
        lambda x: np.maximum(np.abs(x), np.rint(x)).reshape(-1, 3).transpose((1, 0)),
    ],
)
def test_a_function_and_its_graph_agree_for_any_number_of_rows(
    function: Callable[[Any], Any],
) -> None:
    graph = Graph()
    found = function(graph_input(graph, "x", np.float32, ("N", 6)))
    graph.output("y", found.name, found.dtype, ["d"] * found.ndim)
    session = runtime.InferenceSession(graph.to_bytes())
    for n in (1, 3):
        x = rng.standard_normal((n, 6)).astype(np.float32)
        wanted = function(x.copy())
        (y,) = session.run(None, {"x": x})
        assert (y.dtype, y.shape) == (wanted.dtype, wanted.shape)
        np.testing.assert_allclose(y, wanted, rtol=1e-5, atol=1e-6)


def test_equations_that_runtimes_know_become_one_operator_each() -> None:
    graph = Graph()
    x = graph_input(graph, "x", np.float32, ("N", 6))
    p = np.empty_like(x)
    p[...] = x
    graph_output(graph, "y", sigmoid(x) + softmax(p, out=p))
    nodes = onnx.load_from_string(graph.to_bytes()).graph.node
    assert [node.op_type for node in nodes] == ["Sigmoid", "Softmax", "Add"]


def test_a_table_stored_as_float16_is_cast_whole_once_and_its_rows_alone() -> None:
    graph = Graph()
    table = weight(graph, "table", W, half=True)
    ids = graph_input(graph, "ids", np.int64, ("N",))
    graph_output(graph, "rows", table[ids] @ table.T @ table)
    content = graph.to_bytes()
    (rows,) = runtime.InferenceSession(content).run(None, {"ids": np.array([5, 0])})
    half = W.astype(np.float16).astype(np.float32)
    np.testing.assert_allclose(rows, half[[5, 0]] @ half.T @ half, rtol=1e-5)
    nodes = [(node.op_type, *node.input) for node in onnx.load_from_string(content).graph.node]
    assert [kind for kind, *_ in nodes].count("Cast") == 2
    assert ("Gather", "table.float16", "ids") in nodes


def test_a_number_that_float16_cannot_hold_is_refused_with_its_matrix() -> None:
    with refuses(DataError, "the matrix table", "beyond ±65,504", "`weights`"):
        weight(Graph(), "table", W * 1e6, half=True)


@pytest.mark.parametrize(
    ("formula", "named"),
    [
        ("np.empty_like(x) + 1", "before anything is written"),
        ("x[:, :2].__setitem__(..., 0)", "a part of an array"),
        ("np.add(x, 1, out=np.zeros((7, 6)))", "array of NumPy"),
        ("x[x > 0]", "neither a number nor a slice"),
        ("x[[0, 1]]", "neither a number nor a slice"),
        ("x[:, ::-1] + 1", "backwards"),
        ("x.astype(np.int64) | 1", "bitwise_or of numbers"),
        ("[row for row in x]", "depends on numbers of an array"),
        ("x.sum(dtype=np.float64)", "dtype"),
    ],
)
def test_what_has_no_form_is_refused_by_name(formula: str, named: str) -> None:
    x = graph_input(Graph(), "x", np.float32, ("N", 6))
    with pytest.raises(TypeError, match=named) as caught:
        eval(formula, {"np": np, "x": x})
    assert isinstance(caught.value, UnsupportedError) or named == "dtype"
