"""Networks as ONNX, in memory, without the onnx package: the few messages that fixed sizes need."""

from collections.abc import Mapping, Sequence

import numpy as np

OPSET, IR_VERSION = 13, 8
FLOAT, INT, INTS = 1, 2, 7  # TensorProto.FLOAT; AttributeProto.INT and INTS


class Graph:
    """A network of one input of a `shape`, with texts for sizes that vary, and one output."""

    def __init__(self, shape: Sequence[int | str]) -> None:
        self.input = "pictures"
        self._shape, self._nodes, self._weights = shape, b"", b""
        self._names = 0

    def node(self, kind: str, *inputs: str | np.ndarray, **attributes: int | Sequence[int]) -> str:
        """Add an operator of ONNX, arrays as float32 weights; return the name of its output."""
        names = [name if isinstance(name, str) else self._weight(name) for name in inputs]
        output = self._name()
        fields = [*(_field(1, name) for name in names), _field(2, output), _field(4, kind)]
        fields += [_field(5, _attribute(key, value)) for key, value in attributes.items()]
        self._nodes += _field(1, b"".join(fields))
        return output

    def to_bytes(
        self, output: str, shape: Sequence[int | str], metadata: Mapping[str, str] | None = None
    ) -> bytes:
        """The ONNX file with an output, as `node` returned it, its shape, and metadata."""
        ends = _field(11, _value(self.input, self._shape)) + _field(12, _value(output, shape))
        graph = self._nodes + _field(2, "network") + self._weights + ends
        model = _field(1, IR_VERSION) + _field(2, "xpcap") + _field(7, graph)
        model += _field(8, _field(1, "") + _field(2, OPSET))
        return model + b"".join(
            _field(14, _field(1, key) + _field(2, value)) for key, value in (metadata or {}).items()
        )

    def _name(self) -> str:
        self._names += 1
        return f"x{self._names}"

    def _weight(self, array: np.ndarray) -> str:
        """Add a TensorProto. Returns its name."""
        name = self._name()
        dims = b"".join(_field(1, size) for size in array.shape)
        content = _field(8, name) + _field(9, array.astype("<f4").tobytes())
        self._weights += _field(5, dims + _field(2, FLOAT) + content)
        return name


def _value(name: str, shape: Sequence[int | str]) -> bytes:
    dims = b"".join(_field(1, _field(2 if isinstance(size, str) else 1, size)) for size in shape)
    return _field(1, name) + _field(2, _field(1, _field(1, FLOAT) + _field(2, dims)))


def _attribute(name: str, value: int | Sequence[int]) -> bytes:
    if isinstance(value, int):
        return _field(1, name) + _field(3, value) + _field(20, INT)
    return _field(1, name) + b"".join(_field(8, one) for one in value) + _field(20, INTS)


def _field(number: int, value: int | str | bytes) -> bytes:
    """A field of a protocol buffer: number and kind, then a number, or a length and its bytes."""
    if isinstance(value, int):
        return _varint(number << 3) + _varint(value)
    content = value.encode() if isinstance(value, str) else value
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    """Seven bits a byte, the lowest first; the eighth is set if more follow."""
    groups = bytearray()
    while value > 0x7F:
        groups.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*groups, value])
