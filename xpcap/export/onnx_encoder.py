"""A picture encoder that is an ONNX graph, in front of a captioner's: from pixels to features."""

from collections.abc import Callable
from typing import Any

import numpy as np

from xpcap.encoders.grid import pooling_weights
from xpcap.encoders.onnx import OnnxEncoder
from xpcap.errors import DataError
from xpcap.export.tensor import Tensor, graph_input, graph_output, weight
from xpcap.onnx_graph import OPSET, Graph, Operator

PREFIX = "encoder/"  # of the names in its graph
BLOCK = 16  # rows that are scaled by one product: fewer gather more, more multiply zeros
HALF = 1 << 11  # weights are whole numbers of 1 / HALF**2


def load_encoder(encoder: OnnxEncoder) -> Any:
    """The encoder's ModelProto with operators of OPSET or newer, its names with a prefix.

    DataError : onnx cannot read it, or has no such operators for it.
    """
    import onnx
    from onnx import version_converter

    model = None
    try:
        model = onnx.load_model_from_string(encoder.read())
        onnx.checker.check_model(model)
        if opset_of(model) < OPSET:
            model = version_converter.convert_version(model, OPSET)
    except Exception as error:  # onnx and protobuf have no error in common
        got = f"cannot be read by onnx {onnx.__version__}"
        raise DataError(
            "export_onnx",
            f"the network of encoder {encoder.name!r}",
            f"{got}: {' '.join(str(error).split())[:200]}",
            cause="damaged, or newer than this onnx?",
        ) from error
    return onnx.compose.add_prefix(model, PREFIX)


def is_own(operators: Any) -> bool:
    """True for the OperatorSetIdProto of ONNX's own operators."""
    return operators.domain in ("", "ai.onnx")


def opset_of(model: Any) -> int:
    """The version of ONNX's own operators in a ModelProto; None: that of graphs without another."""
    versions = () if model is None else model.opset_import
    return max(
        (opset.version for opset in versions if is_own(opset)),
        default=OPSET if model is None else 1,
    )


def add_encoder(graph: Graph, encoder: OnnxEncoder, model: Any, weights: str) -> Tensor:
    """Add a network, with the scaling before it and the pooling behind it.

    The input is `pixels` (N, height, width, 3), uint8, of N pictures of one size.

    Parameters
    ----------
    model : as `load_encoder` returns it
    weights : one of WEIGHTS

    Returns
    -------
    the features, float32 (N, D) or (N, K*K, D)
    """
    from onnx import TensorProto, numpy_helper

    network = model.graph
    (source,) = [
        value
        for value in network.input
        if value.name not in {tensor.name for tensor in network.initializer}
    ]
    batch = source.type.tensor_type.shape.dim[0].dim_value or "N"  # a network may take one picture
    pixels = graph_input(graph, "pixels", np.uint8, (batch, "height", "width", 3))
    graph.scope = "pixels/"
    x = scaled(pixels, *encoder.size).astype(np.float32)
    x = x - weight(graph, "pixels.offset", encoder.offset)
    x = x / weight(graph, "pixels.scale", encoder.scale)
    x = x if encoder.channels_last else x.transpose(0, 3, 1, 2)
    graph.add("Identity", x.name, outputs=[source.name])
    for node in network.node:
        content = node.SerializeToString(deterministic=True)
        graph.part.operators.append(
            Operator(node.op_type, [*_reads(node)], node.output, content=content)
        )
    for tensor in network.initializer:
        is_matrix = tensor.data_type == TensorProto.FLOAT and len(tensor.dims) > 1
        if weights == "float32" or not is_matrix:
            graph.weights[tensor.name] = tensor.SerializeToString(True)
        else:
            graph.constant(numpy_helper.to_array(tensor), tensor.name, half=True)
    output, N, last = PREFIX + encoder.output, pixels.shape[0], encoder.channels_last
    graph.scope = "features/"
    if encoder.grid is None:
        flat = graph.node("Flatten", output, axis=1)
        return Tensor(graph, flat, np.zeros((N, *encoder.shape), np.float32))
    height, width, D = encoder.map_of(np.zeros((*encoder.size, 3), np.uint8)).shape
    shape = (N, height, width, D) if last else (N, D, height, width)
    cells = Tensor(graph, output, np.zeros(shape, np.float32))
    rows = (cells if last else cells.transpose(0, 2, 3, 1)).reshape(N, height * width, D)
    average = np.kron(*(pooling_weights(size, encoder.grid) for size in (height, width)))
    pooled: Tensor = weight(graph, "grid", average.astype(np.float32)) @ rows
    return pooled


def _reads(node: Any) -> set[str]:
    """Names that an operator reads, the graphs inside it included."""
    inner = [
        graph
        for attribute in node.attribute
        for graph in (*attribute.graphs, *([attribute.g] if attribute.HasField("g") else []))
    ]
    return {*node.input, *(name for graph in inner for each in graph.node for name in _reads(each))}


# ---- Pictures scaled as Pillow scales them: the levels are equal


def scaled(pixels: Tensor, height: int, width: int) -> Tensor:
    """Pictures (N, h, w, 3), uint8, of any size, as (N, height, width, 3), bicubic.

    Two passes, each rounded to whole levels. As in Pillow from version 13 on, the height is scaled
    first where it shrinks by more than twice as many pixels as the width.
    """
    graph = pixels.graph
    shape = graph.node("Shape", pixels.name)
    h, w = (
        Tensor(graph, graph.node("Gather", shape, np.array(axis)), np.array(pixels.shape[axis]))
        for axis in (1, 2)
    )
    down, across = _scaling(h, height), _scaling(w, width)
    x = pixels.transpose(0, 3, 1, 2).copy()
    with graph.body("height first") as height_first:
        y = _turned(across(_turned(down(x))))
        graph_output(graph, "height, then width", y)
    with graph.body("width first") as width_first:
        graph_output(graph, "width, then height", down(_turned(across(_turned(x)))))
    test = (h > height) & (h - height > 2 * (w - width))
    out = graph.node("If", test.name, then_branch=height_first, else_branch=width_first)
    return Tensor(graph, out, y.like).transpose(0, 2, 3, 1)


def _turned(x: Tensor) -> Tensor:
    return x.transpose(0, 1, 3, 2)


def _scaling(size: Tensor, to: int) -> Callable[[Tensor], Tensor]:
    """A function that scales pictures (N, 3, h, w), uint8, of h = `size` rows to `to` rows.

    A block of rows is a product of weights with the k rows that it reads. Weights are whole, and in
    two halves, so that sums are exact in float32.
    """
    scale = size.astype(np.float64) / to
    stretch = np.maximum(scale, 1.0)
    targets = np.minimum(np.arange(-(-to // BLOCK) * BLOCK), to - 1)  # the last one fills its block
    centres = (targets.reshape(-1, BLOCK, 1) + 0.5) * scale
    count = np.ceil((BLOCK - 1) * scale + 4 * stretch + 1)  # the filter reaches 2 * stretch rows
    offsets = count.record("Range", 0.0, count, 1.0, like=np.arange(count.like))
    reached = np.floor(centres[:, :1] - 2 * stretch) + offsets  # (blocks, 1, k)
    inside = np.clip(reached, 0, size.astype(np.float64) - 1)
    t = np.abs((reached + 0.5 - centres) * (1 / stretch))
    near, far = (1.5 * t - 2.5) * t * t + 1, (((t - 5) * t + 8) * t - 4) * -0.5
    share = np.where(t < 1, near, np.where(t < 2, far, 0.0))
    share = np.where(reached == inside, share, 0.0)
    units = np.rint(share / share.sum(axis=2, keepdims=True) * HALF**2)
    high = np.rint(units / HALF)
    low = (units - high * HALF).astype(np.float32)
    high = high.astype(np.float32)
    rows = inside.record("Squeeze", inside, np.array([1]), like=inside.like[:, 0]).astype(np.int64)

    def apply(x: Tensor) -> Tensor:
        levels = np.take(x, rows, axis=2).astype(np.float32)  # (N, 3, blocks, k, w)
        sums = high @ levels + HALF / 2 + np.floor(low @ levels / HALF)
        y = np.clip(np.floor(sums / HALF), 0, 255).astype(np.uint8)
        width = y.graph.node("Shape", y.name, start=4)  # -1 for it would need a picture
        flat = y.graph.node("Concat", np.array([0, 3, len(targets)]), width, axis=0)
        like = y.like.reshape(len(y), 3, len(targets), -1)
        return Tensor(y.graph, y.graph.node("Reshape", y.name, flat), like)[:, :, :to]

    return apply
