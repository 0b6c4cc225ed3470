"""Build ONNX files without the onnx package: operators, the weights that they read, metadata."""

import contextlib
import struct
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import DTypeLike

from xpcap.errors import DataError

OPSET = 18
IR_VERSION = 8
# The number of each dtype in TensorProto, by NumPy's character
ELEMENTS = dict(zip("fBbilqO?ed", (1, 2, 3, 6, 7, 7, 8, 9, 10, 11), strict=True))
# Types in AttributeProto
FLOAT = 1
INT = 2
STRING = 3
GRAPH = 5
INTS = 7
MAX_NAMED = 8  # numbers of a constant whose name lists them

Size = int | str  # a letter if it varies


class Operator(NamedTuple):
    """An operator; one copied from another network has its NodeProto as `content`."""

    kind: str
    reads: Sequence[str]
    outputs: Sequence[str]
    attributes: Mapping[str, Any] = {}
    content: bytes = b""


class GraphPart:
    """Operators, inputs and outputs of a graph, or of a subgraph, such as the body of a Loop."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.operators = list[Operator]()
        self.inputs = list[bytes]()
        self.outputs = list[bytes]()  # as ValueInfoProto
        self.named: dict[str, str] = {}  # value: the output that it becomes

    def needed(self) -> tuple[list[Operator], set[str]]:
        """The operators that outputs depend on, in order, and the names of all values read."""
        reads = set(self.named)
        needed = []
        for operator in reversed(self.operators):
            if reads.intersection(operator.outputs):
                needed.append(operator)
                reads.update(operator.reads)
                for value in operator.attributes.values():
                    reads |= value.needed()[1] if isinstance(value, GraphPart) else set()
        return needed[::-1], reads

    def content(self, named: Mapping[str, str], weights: Sequence[bytes] = ()) -> bytes:
        """The GraphProto; `named` is that of the graphs around it."""
        named = {**named, **self.named}
        operators = [x.content or _operator(x, named) for x in self.needed()[0]]
        messages = {
            1: operators,
            2: [self.name.encode()],
            5: weights,
            11: self.inputs,
            12: self.outputs,
        }
        return b"".join(_field(number, x) for number, items in messages.items() for x in items)


class Graph:
    """A network under construction. The file omits operators that no output needs.

    Attributes
    ----------
    scope : str
        Prefix of the names of the next operators, such as ``start/``.
    part : GraphPart
        The graph or subgraph that they are added to.
    weights : dict of str to array or TensorProto
    """

    def __init__(self, name: str = "network") -> None:
        self.scope = ""
        self.part = GraphPart(name)
        self.weights: dict[str, np.ndarray | bytes] = {}
        self._names: Counter[str] = Counter()
        self._operators = self.part.operators  # of the outermost graph, where weights are cast

    def input(self, name: str, dtype: DTypeLike, shape: Sequence[Size]) -> str:
        """Declare an input; return its name."""
        self.part.inputs.append(_value(name, dtype, shape))
        return name

    def output(self, name: str, value: str, dtype: DTypeLike, shape: Sequence[Size]) -> None:
        """Declare an output, and the value that it has."""
        part = self.part
        is_computed = any(value in x.outputs for x in part.operators if not x.content)
        if value in part.named or not is_computed:
            value = self.node("Identity", value)
        part.named[value] = name
        part.outputs.append(_value(name, dtype, shape))

    def node(self, kind: str, *inputs: str | np.ndarray, **attributes: Any) -> str:
        """Add an ONNX operator with one output; return the output's name. Arrays become constants.

        Attributes are numbers, text, sequences of whole numbers, or a GraphPart.
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
        self.part.operators.append(Operator(kind, names, outputs, attributes))

    def constant(self, value: Any, name: str = "", half: bool = False) -> str:
        """Add an array under a name, once; return the name. Up to MAX_NAMED numbers name themselves.

        half : store it as float16, named ``NAME.float16``, and cast it to float32
        DataError : a number is too large for float16.
        """
        array = np.asarray(value)
        if not name and array.size <= MAX_NAMED:
            name = f"{array.dtype} {array.tolist()}"
        name = name or self._new_name(f"{self.scope}constant")
        stored = f"{name}.float16" if half else name
        if half and np.abs(array).max(initial=0) > np.finfo(np.float16).max:
            raise DataError(
                f"the matrix {name} has a number beyond ±65,504, which float16 cannot hold; export"
                " with `weights` float32"
            )
        if half and stored not in self.weights:
            self._operators.insert(0, Operator("Cast", [stored], [name], {"to": ELEMENTS["f"]}))
        self.weights.setdefault(stored, array.astype(np.float16) if half else array)
        return name

    @contextlib.contextmanager
    def body(self, name: str) -> Iterator[GraphPart]:
        """Add operators, inputs and outputs inside the ``with`` to a subgraph."""
        outer = self.part
        self.part = GraphPart(name)
        yield self.part
        self.part = outer

    def to_bytes(self, metadata: Mapping[str, str] | None = None, opset: int = OPSET) -> bytes:
        """The ONNX file; equal graphs have equal bytes."""
        reads = self.part.needed()[1]
        weights = [
            x if isinstance(x, bytes) else _tensor(name, x)
            for name, x in self.weights.items()
            if name in reads
        ]
        model = _field(1, IR_VERSION) + _field(2, "xpcap")
        model += _field(7, self.part.content({}, weights))
        model += _field(8, _field(1, "") + _field(2, opset))
        return model + b"".join(
            _field(14, _field(1, key) + _field(2, value)) for key, value in (metadata or {}).items()
        )

    def _new_name(self, stem: str) -> str:
        self._names[stem] += 1
        return stem if self._names[stem] == 1 else f"{stem}.{self._names[stem]}"


# ---- Messages


def _operator(operator: Operator, named: Mapping[str, str]) -> bytes:
    values = ((1, operator.reads), (2, operator.outputs))
    fields = [_field(number, named.get(x, x)) for number, names in values for x in names]
    fields += [_field(3, operator.outputs[0]), _field(4, operator.kind)]
    fields += [_field(5, _attribute(*item, named)) for item in operator.attributes.items()]
    return b"".join(fields)


def _attribute(name: str, value: Any, named: Mapping[str, str]) -> bytes:
    if isinstance(value, GraphPart):
        content = _field(6, value.content(named))
        kind = GRAPH
    elif isinstance(value, int):
        content = _field(3, value)
        kind = INT
    elif isinstance(value, float):
        content = _varint(2 << 3 | 5) + struct.pack("<f", value)
        kind = FLOAT
    elif isinstance(value, str):
        content = _field(4, value)
        kind = STRING
    else:
        content = b"".join(_field(8, x) for x in value)
        kind = INTS
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
    groups = bytearray()
    value %= 1 << 64  # a negative number in two's complement
    while value > 0x7F:
        groups.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*groups, value])
