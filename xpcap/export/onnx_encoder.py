"""Add a picture encoder's ONNX graph to a captioner's: from pixels to features."""

from typing import Any

import numpy as np

from xpcap.encoders.grid import pooling_weights
from xpcap.encoders.onnx import OnnxEncoder
from xpcap.errors import DataError
from xpcap.export.tensor import Tensor, graph_input, graph_output, weight
from xpcap.files.onnx_file import OPSET, Graph, Operator

PREFIX = "encoder/"  # of the names in its graph


def load_encoder(encoder: OnnxEncoder) -> Any:
    """The encoder's ModelProto, converted to OPSET or newer, with a prefix before all names.

    DataError : onnx cannot read or convert it.
    """
    import onnx
    from onnx import version_converter

    model = None
    try:
        model = onnx.load_model_from_string(encoder.read())
        onnx.checker.check_model(model)
        if opset_of(model) < OPSET:
            model = version_converter.convert_version(model, OPSET)
    except Exception as error:  # errors of onnx and protobuf have no common class
        got = f"cannot be read by onnx {onnx.__version__}"
        raise DataError(
            f"the network of encoder {encoder.name!r} {got}: {' '.join(str(error).split())[:200]};"
            " damaged, or newer than this onnx?"
        ) from error
    return onnx.compose.add_prefix(model, PREFIX)


def is_own(operators: Any) -> bool:
    """True for the OperatorSetIdProto of ONNX's own operators."""
    return operators.domain in ("", "ai.onnx")


def opset_of(model: Any) -> int:
    """The version of ONNX's operators in a ModelProto; for None that of graphs without an encoder."""
    versions = () if model is None else model.opset_import
    return max(
        (opset.version for opset in versions if is_own(opset)),
        default=OPSET if model is None else 1,
    )


def add_encoder(graph: Graph, encoder: OnnxEncoder, model: Any, weights: str) -> Tensor:
    """Add a network, with scaling of the pictures before it and pooling after it.

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
    batch = source.type.tensor_type.shape.dim[0].dim_value or "N"  # it may be fixed at 1
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
    output = PREFIX + encoder.output
    N = pixels.shape[0]
    last = encoder.channels_last
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
    """Names that an operator reads, including those that its subgraphs read."""
    names = set(node.input)
    for attribute in node.attribute:
        for graph in (*attribute.graphs, attribute.g):  # without a subgraph, `g` has no nodes
            names.update(*map(_reads, graph.node))
    return names


# ---- Scale pictures as Pillow does; few levels differ


def scaled(pixels: Tensor, height: int, width: int) -> Tensor:
    """Scale pictures (N, h, w, 3), uint8, of any size, to (N, height, width, 3), bicubic.

    There are two passes, each rounded to whole levels. As in Pillow from version 13 on, the height is
    scaled first if it shrinks by more than twice as many pixels as the width.
    """
    graph = pixels.graph
    shape = graph.node("Shape", pixels.name)
    h, w = (
        Tensor(graph, graph.node("Gather", shape, np.array(axis)), np.array(pixels.shape[axis]))
        for axis in (1, 2)
    )
    x = pixels.transpose(0, 3, 1, 2).copy()
    with graph.body("height first") as height_first:
        y = _resized(_resized(x, 2, height), 3, width)
        graph_output(graph, "height, then width", y)
    with graph.body("width first") as width_first:
        graph_output(graph, "width, then height", _resized(_resized(x, 3, width), 2, height))
    test = (h > height) & (h - height > 2 * (w - width))
    out = graph.node("If", test.name, then_branch=height_first, else_branch=width_first)
    return Tensor(graph, out, y.like).transpose(0, 2, 3, 1)


def _resized(x: Tensor, axis: int, size: int) -> Tensor:
    bicubic = {"mode": "cubic", "cubic_coeff_a": -0.5, "exclude_outside": 1, "antialias": 1}
    name = x.graph.node("Resize", x.name, "", "", np.array([size]), axes=[axis], **bicubic)
    return Tensor(x.graph, name, np.repeat(x.like.take([0], axis), size, axis))
