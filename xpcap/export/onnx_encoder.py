"""A picture encoder that is an ONNX graph, in front of a captioner's: from pixels to features."""

from typing import Any

import numpy as np

from xpcap.encoders.grid import pooling_weights
from xpcap.encoders.onnx import OnnxEncoder
from xpcap.errors import DataError
from xpcap.export.tensor import Tensor, graph_input, weight
from xpcap.onnx_graph import OPSET, Graph, Operator

PREFIX = "encoder/"  # of the names in its graph


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
        came = f"is not read by onnx {onnx.__version__}"
        raise DataError(
            "export_onnx",
            f"the network of encoder {encoder.name!r}",
            f"{came}: {' '.join(str(error).split())[:200]}",
            cause="damaged, or too new?",
        ) from error
    return onnx.compose.add_prefix(model, PREFIX)


def is_own(operators: Any) -> bool:
    """True for the OperatorSetIdProto of ONNX's own operators."""
    return operators.domain in ("", "ai.onnx")


def opset_of(model: Any) -> int:
    """The version of ONNX's own operators in a ModelProto; None: that of graphs without another."""
    versions = () if model is None else model.opset_import
    return max(
        (one.version for one in versions if is_own(one)), default=OPSET if model is None else 1
    )


def add_encoder(graph: Graph, encoder: OnnxEncoder, model: Any, weights: str) -> Tensor:
    """Add a network, with the scaling before it and the pooling behind it.

    The input is `pixels` (N, height, width, 3), uint8, of pictures scaled to that size (bicubic).

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
        one for one in network.input if one.name not in {each.name for each in network.initializer}
    ]
    batch = source.type.tensor_type.shape.dim[0].dim_value or "N"  # a network may take one picture
    pixels = graph_input(graph, "pixels", np.uint8, (batch, *encoder.size, 3))
    graph.scope = "pixels/"
    x = pixels.astype(np.float32) - weight(graph, "pixels.offset", encoder.offset)
    x = x / weight(graph, "pixels.scale", encoder.scale)
    x = x if encoder.channels_last else x.transpose(0, 3, 1, 2)
    graph.add("Identity", x.name, outputs=[source.name])
    for node in network.node:
        graph.operators.append(Operator(node.output, _reads(node), node.SerializeToString(True)))
    for one in network.initializer:
        if weights == "float32" or one.data_type != TensorProto.FLOAT or len(one.dims) < 2:
            graph.weights[one.name] = one.SerializeToString(True)
        else:
            graph.constant(numpy_helper.to_array(one), one.name, half=True)
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
        for one in node.attribute
        for graph in (*one.graphs, *([one.g] if one.HasField("g") else []))
    ]
    return {*node.input, *(name for graph in inner for each in graph.node for name in _reads(each))}
