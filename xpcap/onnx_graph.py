"""ONNX graphs as bytes, without the onnx package: operators, the weights that they read, metadata."""

import contextlib
import struct
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import DTypeLike

OPSET, IR_VERSION = 18, 8
# NumPy's letter of a dtype: its number in TensorProto
ELEMENTS = dict(zip("fBbilqO?ed", (1, 2, 3, 6, 7, 7, 8, 9, 10, 11), strict=True))
FLOAT, INT, STRING, GRAPH, INTS = 1, 2, 3, 5, 7  # of AttributeProto
SMALL = 8  # numbers of a constant that names itself

Size = int | str  # a letter for one that varies


class Operator(NamedTuple):
    """An operator of a graph, as a NodeProto, and the values that it makes and reads."""

    outputs: Sequence[str]
    reads: Iterable[str]
    content: bytes


class Body:
    """A graph inside an operator, such as a Loop; an attribute, once it is complete."""

    content: bytes
    reads: frozenset[str]


class Graph:
    """A network under construction. What no output needs is left out.

    Attributes
    ----------
    scope : str
        What names of the next operators and values begin with, such as ``start/``.
    operators : list of Operator
    weights : dict of str to array or TensorProto
    """

    def __init__(self, name: str = "network") -> None:
        self.name, self.scope = name, ""
        self.operators: list[Operator] = []
        self.weights: dict[str, np.ndarray | bytes] = {}
        self._casts: list[Operator] = []  # of weights, before all others
        self._ends: dict[int, list[bytes]] = {11: [], 12: []}  # inputs and outputs
        self._outputs: list[str] = []
        self._names: Counter[str] = Counter()

    def input(self, name: str, dtype: DTypeLike, shape: Sequence[Size]) -> str:
        """Declare an input; return its name."""
        self._ends[11].append(_value(name, dtype, shape))
        return name

    def output(self, name: str, of: str, dtype: DTypeLike, shape: Sequence[Size]) -> None:
        """Declare an output, and the value that it has."""
        if name != of:
            self.add("Identity", of, outputs=[name])
        self._ends[12].append(_value(name, dtype, shape))
        self._outputs.append(name)

    def node(self, kind: str, *inputs: str | np.ndarray, **attributes: Any) -> str:
        """Add an operator of ONNX with one output, arrays as constants; return the output's name.

        Attributes are numbers, texts, whole numbers in a sequence, or a Body.
        """
        known = (x.removesuffix(".float16") for x in inputs if isinstance(x, str))
        weight = next((f"_{x}" for x in known if {x, f"{x}.float16"} & self.weights.keys()), "")
        name = self._new_name(f"{self.scope}{kind}{weight}")
        self.add(kind, *inputs, outputs=[name], **attributes)
        return name

    def add(
        self, kind: str, *inputs: str | np.ndarray, outputs: Sequence[str], **attributes: Any
    ) -> None:
        """Add an operator whose outputs have these names."""
        names = [x if isinstance(x, str) else self.constant(x) for x in inputs]
        self.operators.append(_operator(kind, names, outputs, attributes))

    def constant(self, value: Any, name: str = "", half: bool = False) -> str:
        """Add an array, once; return its name. A few numbers have a name without being given one.

        `half` : store it as float16, named ``NAME.float16``, and cast it to float32
        """
        array = np.asarray(value)
        if not name and array.size <= SMALL:
            name = f"{array.dtype} {array.tolist()}"
        name = name or self._new_name(f"{self.scope}constant")
        stored = f"{name}.float16" if half else name
        if half and stored not in self.weights:
            self._casts.append(_operator("Cast", [stored], [name], {"to": ELEMENTS["f"]}))
        self.weights.setdefault(stored, array.astype(np.float16) if half else array)
        return name

    @contextlib.contextmanager
    def body(self, name: str) -> Iterator[Body]:
        """Let operators, inputs and outputs inside the ``with`` be those of a graph in this one.

        It may read the values of this graph; its weights are this graph's.
        """
        outer, body = (self.operators, self._ends, self._outputs), Body()
        self.operators, self._ends, self._outputs = [], {11: [], 12: []}, []
        yield body
        kept, body.reads = _needed(self.operators, self._outputs)
        body.content = self._content(name, kept, {})
        self.operators, self._ends, self._outputs = outer

    def to_bytes(self, metadata: Mapping[str, str] | None = None, opset: int = OPSET) -> bytes:
        """The ONNX file; equal graphs have equal bytes."""
        kept, reads = _needed([*self._casts, *self.operators], self._outputs)
        weights = {name: array for name, array in self.weights.items() if name in reads}
        parts = [
            *(_field(1, IR_VERSION), _field(2, "xpcap")),
            _field(7, self._content(self.name, kept, weights)),
            _field(8, _field(1, "") + _field(2, opset)),
            *(_field(14, _field(1, k) + _field(2, v)) for k, v in (metadata or {}).items()),
        ]
        return b"".join(parts)

    def _content(
        self, name: str, kept: list[Operator], weights: Mapping[str, np.ndarray | bytes]
    ) -> bytes:
        tensors = (x if isinstance(x, bytes) else _tensor(key, x) for key, x in weights.items())
        parts = [_field(1, operator.content) for operator in kept]
        parts += [_field(2, name), *(_field(5, tensor) for tensor in tensors)]
        parts += [_field(number, end) for number, ends in self._ends.items() for end in ends]
        return b"".join(parts)

    def _new_name(self, stem: str) -> str:
        self._names[stem] += 1
        return stem if self._names[stem] == 1 else f"{stem}.{self._names[stem]}"


def _needed(
    operators: Sequence[Operator], outputs: Iterable[str]
) -> tuple[list[Operator], frozenset[str]]:
    """The operators that outputs depend on, in order, and the names of all values that are read."""
    reads, kept = {*outputs}, []
    for operator in reversed(operators):
        if reads.intersection(operator.outputs):
            kept.append(operator)
            reads.update(operator.reads)
    return kept[::-1], frozenset(reads)


# ---- Messages


def _operator(
    kind: str, inputs: Sequence[str], outputs: Sequence[str], attributes: Mapping[str, Any]
) -> Operator:
    fields = [_field(1, name) for name in inputs] + [_field(2, name) for name in outputs]
    fields += [_field(3, outputs[0]), _field(4, kind)]
    fields += [_field(5, _attribute(key, value)) for key, value in attributes.items()]
    inner = [value.reads for value in attributes.values() if isinstance(value, Body)]
    return Operator(outputs, {*inputs}.union(*inner), b"".join(fields))


def _attribute(name: str, value: Any) -> bytes:
    if isinstance(value, Body):
        content, kind = _field(6, value.content), GRAPH
    elif isinstance(value, str):
        content, kind = _field(4, value), STRING
    elif isinstance(value, int):
        content, kind = _field(3, value), INT
    elif isinstance(value, float):
        content, kind = _varint(2 << 3 | 5) + struct.pack("<f", value), FLOAT
    else:
        content, kind = b"".join(_field(8, one) for one in value), INTS
    return _field(1, name) + content + _field(20, kind)


def _tensor(name: str, array: np.ndarray) -> bytes:
    fields = [_field(1, size) for size in array.shape]
    fields += [_field(2, ELEMENTS[array.dtype.char]), _field(8, name)]
    if array.dtype == object:  # texts
        return b"".join([*fields, *(_field(6, text) for text in array.ravel())])
    little = array.astype(array.dtype.newbyteorder("<"), copy=False)
    return b"".join([*fields, _field(9, little.tobytes())])


def _value(name: str, dtype: DTypeLike, shape: Sequence[Size]) -> bytes:
    dims = b"".join(_field(1, _field(2 if isinstance(size, str) else 1, size)) for size in shape)
    kind = _field(1, ELEMENTS[np.dtype(dtype).char]) + _field(2, dims)
    return _field(1, name) + _field(2, _field(1, kind))


def _field(number: int, value: int | str | bytes) -> bytes:
    """A field of a protocol buffer: number and kind, then a number, or a length and its bytes."""
    if isinstance(value, int):
        return _varint(number << 3) + _varint(value)
    content = value.encode() if isinstance(value, str) else value
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    """Seven bits a byte, the lowest first; the eighth is set if more follow."""
    groups, value = bytearray(), value % (1 << 64)  # two's complement of a negative number
    while value > 0x7F:
        groups.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*groups, value])
