"""A picture encoder that is an ONNX graph, in front of a captioner's: from pixels to features."""

from typing import Any

import numpy as np

from xpcap.encoders.grid import pooling_weights
from xpcap.encoders.onnx import OnnxEncoder
from xpcap.errors import DataError, OptionError
from xpcap.export.onnx_graphs import Builder, Value

PREFIX = "encoder/"  # of the names in its graph


def load_encoder(encoder: OnnxEncoder) -> Any:
    """The encoder's ModelProto, its names with a prefix. DataError : onnx cannot read it."""
    import onnx

    try:
        model = onnx.load_model_from_string(encoder.read())
        onnx.checker.check_model(model)
    except Exception as error:  # onnx and protobuf have no error in common
        raise DataError(
            "export_onnx",
            f"the network of encoder {encoder.name!r}",
            f"is not read by onnx {onnx.__version__}: {' '.join(str(error).split())[:200]}",
            cause="damaged, or too new?",
        ) from error
    return onnx.compose.add_prefix(model, PREFIX)


def opset_of(model: Any) -> int:
    """The version of ONNX's own operators in a model."""
    return max(
        (one.version for one in model.opset_import if one.domain in ("", "ai.onnx")), default=1
    )


def converted(model: Any, opset: int, name: str) -> Any:
    """The model with operators of an opset. OptionError : one has no equivalent there."""
    from onnx import version_converter

    if opset_of(model) == opset:
        return model
    try:
        return version_converter.convert_version(model, opset)
    except Exception as error:  # the converter raises what C++ gives it
        raise OptionError(
            "export_onnx",
            "`opset`",
            f"is {opset}",
            expected=f"{opset_of(model)}, that of encoder {name!r}, or one with its operators:"
            f" {' '.join(str(error).split())[:200]}",
        ) from error


def add_encoder(graph: Builder, encoder: OnnxEncoder, model: Any, features: str) -> Value:
    """Add a network, with the scaling before it and the pooling behind it.

    Parameters
    ----------
    model : as `converted` returns it
    features : the name of what it computes, float32 (N, D) or (N, K*K, D)

    Returns
    -------
    the input: pixels (N, height, width, 3), uint8, of pictures scaled to that size (bicubic)
    """
    network = model.graph
    (source,) = [
        one
        for one in network.input
        if one.name not in {weight.name for weight in network.initializer}
    ]
    batch = source.type.tensor_type.shape.dim[0].dim_value or "N"  # a network may take one picture
    pixels = Value("pixels", np.uint8, (batch, *encoder.size, 3))
    x = graph.cast(pixels.name, np.float32)
    x = graph.node("Sub", x, graph.constant("pixels.offset", encoder.offset))
    divisor = graph.constant("pixels.scale", encoder.scale)
    if encoder.channels_last:
        graph.node("Div", x, divisor, name=source.name)
    else:
        graph.node("Transpose", graph.node("Div", x, divisor), perm=(0, 3, 1, 2), name=source.name)
    output = PREFIX + encoder.output
    nodes, names = _needed(network, output)
    for weight in network.initializer:
        if weight.name in names:
            graph.stored(weight)
    graph.nodes.extend(nodes)
    if encoder.grid is None:
        graph.node("Flatten", output, axis=1, name=features)
        return pixels
    height, width, _ = encoder.map_of(np.zeros((*encoder.size, 3), np.uint8)).shape
    K, last = encoder.grid, encoder.channels_last
    average = np.kron(pooling_weights(height, K), pooling_weights(width, K)).astype(
        np.float32
    )  # (K*K, h*w)
    rows = output if last else graph.node("Transpose", output, perm=(0, 2, 3, 1))
    D = encoder.shape[-1]
    flat = graph.constant("regions of a map", np.array([-1, height * width, D]))
    rows = graph.node("Reshape", rows, flat)
    graph.node("MatMul", graph.constant("grid", average), rows, name=features)
    return pixels


def _needed(network: Any, output: str) -> tuple[list[Any], set[str]]:
    """The operators that make an output, in order, and the names that they read: a classifier that
    the feature does not pass through stays behind.
    """
    names, nodes = {output}, []
    for node in reversed(network.node):
        if names.intersection(node.output):
            nodes.append(node)
            names |= _reads(node)
    return nodes[::-1], names


def _reads(node: Any) -> set[str]:
    """Names that an operator reads, the graphs inside it included."""
    inner = [
        graph
        for one in node.attribute
        for graph in (*one.graphs, *([one.g] if one.HasField("g") else []))
    ]
    return {*node.input, *(name for graph in inner for each in graph.node for name in _reads(each))}
