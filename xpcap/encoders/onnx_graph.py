"""Writes networks as ONNX, in memory: the few messages of onnx.proto that a network of fixed sizes needs, without the onnx package."""

from collections.abc import Mapping, Sequence

import numpy as np

OPSET, IR_VERSION = 13, 8
FLOAT, INT, INTS = 1, 2, 7  # TensorProto.FLOAT; AttributeProto.INT and INTS


class Graph:
    """A network of one input and one output, built from its input on.

    Parameters
    ----------
    shape : of the input, called ``"pictures"``; a text stands for a size that may vary
    """

    def __init__(self, shape: Sequence[int | str]) -> None:
        self.input = "pictures"
        self._shape, self._nodes, self._weights = shape, b"", b""
        self._names = 0

    def node(self, kind: str, *inputs: str | np.ndarray, **attributes: int | Sequence[int]) -> str:
        """Add an operator of ONNX; arrays among its inputs become weights, float32. Returns the name of its output."""
        names = [name if isinstance(name, str) else self._weight(name) for name in inputs]
        output = self._name()
        fields = b"".join(_text(1, name) for name in names) + _text(2, output) + _text(4, kind)
        self._nodes += _text(1, fields + b"".join(_text(5, _attribute(key, value)) for key, value in attributes.items()))
        return output

    def to_bytes(self, output: str, shape: Sequence[int | str], metadata: Mapping[str, str] | None = None) -> bytes:
        """The model as an ONNX file has it. `output` is the name of what it gives, of that shape."""
        ends = _text(11, _value(self.input, self._shape)) + _text(12, _value(output, shape))
        graph = self._nodes + _text(2, "network") + self._weights + ends
        told = b"".join(_text(14, _text(1, key) + _text(2, value)) for key, value in (metadata or {}).items())
        return _number(1, IR_VERSION) + _text(2, "xpcap") + _text(7, graph) + _text(8, _text(1, "") + _number(2, OPSET)) + told

    def _name(self) -> str:
        self._names += 1
        return f"x{self._names}"

    def _weight(self, array: np.ndarray) -> str:
        name = self._name()
        dims = b"".join(_number(1, size) for size in array.shape)
        self._weights += _text(5, dims + _number(2, FLOAT) + _text(8, name) + _text(9, array.astype("<f4").tobytes()))
        return name


def _value(name: str, shape: Sequence[int | str]) -> bytes:
    """ValueInfoProto of a float tensor."""
    dims = b"".join(_text(1, _text(2, size) if isinstance(size, str) else _number(1, size)) for size in shape)
    return _text(1, name) + _text(2, _text(1, _number(1, FLOAT) + _text(2, dims)))


def _attribute(name: str, value: int | Sequence[int]) -> bytes:
    if isinstance(value, int):
        return _text(1, name) + _number(3, value) + _number(20, INT)
    return _text(1, name) + b"".join(_number(8, one) for one in value) + _number(20, INTS)


# Protocol buffers: a field is its number and kind, then a number, or a length and that many bytes.


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _text(field: int, value: str | bytes) -> bytes:
    content = value.encode() if isinstance(value, str) else value
    return _varint(field << 3 | 2) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    """Seven bits a byte, the lowest first; the eighth says that more follow."""
    groups = bytearray()
    while value > 0x7F:
        groups.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*groups, value])
