"""A tensor that records operations on it as operators of ONNX.

NumPy's functions and operators work on it as on an array, so running an equation once on such tensors
gives its ONNX form. Writing in place and through views works as for arrays.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.lib.mixins import NDArrayOperatorsMixin
from numpy.typing import DTypeLike

from xpcap.files.onnx_file import ELEMENTS, Graph, Size
from xpcap.ops import sigmoid
from xpcap.ops.softmax import softmax

BATCH = 7  # pictures in a recorded example; the graph takes any number, along the first axis
SLICE_END = (1 << 63) - 1  # end of a slice that takes everything
Producers = Mapping[str, tuple[Any, Sequence[str]]]  # value to its operator and inputs


class UnsupportedError(TypeError):
    """An operation that cannot be recorded as ONNX."""


class Tensor(NDArrayOperatorsMixin):
    """A value of a graph.

    Parameters
    ----------
    graph : the graph under construction
    name : name of the value; None: nothing has been written to it yet
    like : an array of its shape and dtype, with BATCH rows for N
    """

    def __init__(self, graph: Graph, name: str | None, like: np.ndarray) -> None:
        self.graph = graph
        self.like = like
        self._name = name
        self.dtype = like.dtype
        self.shape = like.shape
        self.ndim = like.ndim
        self.size = like.size

    @property
    def name(self) -> str:
        """The value's name in the graph."""
        if self._name is None:
            raise UnsupportedError("reading an array before anything is written to it")
        return self._name

    def write(self, value: Any) -> "Tensor":
        """Replace its value, and return it."""
        if not isinstance(value, Tensor) or value.shape != self.shape:
            value = np.zeros_like(self) + value
        self._name = value.astype(self.dtype).name
        return self

    def record(self, kind: str, *inputs: Any, like: np.ndarray, **attributes: Any) -> "Tensor":
        """The result of an operator, with the shape of `like`; inputs that are arrays are constants."""
        names = [x.name if isinstance(x, Tensor) else np.asarray(x) for x in inputs]
        return Tensor(self.graph, self.graph.node(kind, *names, **attributes), like)

    # ---- Attributes of an array

    @property
    def T(self) -> "Tensor":  # noqa: N802 - NumPy's name
        return self.transpose()

    def __len__(self) -> int:
        return self.shape[0]

    def astype(self, dtype: DTypeLike, copy: bool = True) -> "Tensor":
        like = np.zeros_like(self.like, dtype)
        if like.dtype == self.dtype:
            return self.copy() if copy else self
        return self.record("Cast", self, like=like, to=ELEMENTS[like.dtype.char])

    def copy(self) -> "Tensor":
        return Tensor(self.graph, self.name, self.like)

    def reshape(self, *shape: Any) -> "Tensor":
        """Reshape; the size of the first axis is inferred."""
        return View(self, self.like.reshape(*shape), _reshaped, writable=True)

    def transpose(self, *axes: Any) -> "Tensor":
        axes = axes[0] if axes and isinstance(axes[0], tuple) else axes
        order = axes or tuple(reversed(range(self.ndim)))
        return View(
            self,
            self.like.transpose(order),
            lambda x, like: x.record("Transpose", x, like=like, perm=order),
        )

    def __getitem__(self, key: Any) -> "Tensor":
        if isinstance(key, Tensor | np.ndarray) and key.dtype.kind in "iu":
            return _take(self, key)
        key = key if isinstance(key, tuple) else (key,)
        if not all(item is None or isinstance(item, int | slice | type(Ellipsis)) for item in key):
            raise UnsupportedError("an index that is neither a number nor a slice")
        if Ellipsis in key:
            at = key.index(Ellipsis)
            named = sum(item is not None for item in key) - 1
            key = (*key[:at], *[slice(None)] * (self.ndim - named), *key[at + 1 :])
        cuts = []
        for axis, item in enumerate(item for item in key if item is not None):
            n = self.shape[axis]
            cut = slice(item, item + 1 or None) if isinstance(item, int) else item
            start, stop, step = cut.indices(n)
            if step < 1:
                raise UnsupportedError("a slice that runs backwards")
            if (start, stop, step) != (0, n, 1):
                cuts.append((start, SLICE_END if stop == n else stop, axis, step))
        keeps_axes = all(isinstance(item, slice) for item in key)
        if keeps_axes and not cuts:
            return self

        def read(x: Tensor, like: np.ndarray) -> Tensor:
            if cuts:
                ends = (np.array(end, np.int64) for end in zip(*cuts, strict=True))
                x = x.record("Slice", x, *ends, like=like)
            return x if keeps_axes else _reshaped(x, like)

        return View(self, self.like[key], read, writable=not cuts)

    def __setitem__(self, key: Any, value: Any) -> None:
        self[key].write(value)

    def __getattr__(self, name: str) -> Any:
        function = None if name.startswith("__") else getattr(np, name, None)
        if function in FUNCTIONS and function is not None:
            return functools.partial(function, self)
        raise AttributeError(name) if name.startswith("__") else UnsupportedError(name)

    # ---- NumPy's protocols

    def __array_ufunc__(
        self, ufunc: np.ufunc, method: str, *inputs: Any, out: Any = (None,), **options: Any
    ) -> "Tensor":
        kind = UFUNCS.get(ufunc)
        if kind is None or method != "__call__" or options:
            raise UnsupportedError(ufunc.__name__ + f".{method}" * (method != "__call__"))
        likes = [_like(x) for x in inputs]
        with np.errstate(all="ignore"):
            like = np.asarray(ufunc(*likes))
        dtype = np.result_type(*likes) if like.dtype.kind == "b" else like.dtype
        if kind in ("And", "Or", "Not") and dtype.kind != "b":
            raise UnsupportedError(f"{ufunc.__name__} of numbers")
        result = self.record(kind, *(_as(x, dtype) for x in inputs), like=like)
        return _into(out[0], _fused(result) if kind == "Div" else result)

    def __array_function__(
        self, function: Any, types: Any, args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> "Tensor":
        if function not in FUNCTIONS:
            raise UnsupportedError(function.__name__)
        options = dict(kwargs)
        out = options.pop("out", None)
        return _into(out, FUNCTIONS[function](*args, **options))

    def _needs_numbers(self, *_: object, **__: object) -> Any:
        raise UnsupportedError("a choice or a loop that depends on numbers of an array")

    __array__ = __bool__ = __int__ = __float__ = __index__ = __iter__ = _needs_numbers


class View(Tensor):
    """A view of a tensor, which changes with it: `read` computes its value from the base's.

    `writable` : it has all elements of its base, in their order
    """

    def __init__(
        self,
        base: Tensor,
        like: np.ndarray,
        read: Callable[[Tensor, np.ndarray], Tensor],
        writable: bool = False,
    ) -> None:
        super().__init__(base.graph, None, like)
        self._base = base
        self._read = read
        self._writable = writable
        self._base_name = ""  # name of the base's value when the view was read

    @property
    def name(self) -> str:
        if self._base_name != self._base.name:
            self._base_name = self._base.name
            self._name = self._read(self._base, self.like).name
        return super().name

    def write(self, value: Any) -> Tensor:
        if not self._writable:
            raise UnsupportedError("writing to a part of an array")
        written = Tensor(self.graph, None, self.like).write(value)
        self._base.write(_reshaped(written, self._base.like))
        return self


def weight(graph: Graph, name: str, array: np.ndarray, half: bool = False) -> Tensor:
    """An array that a graph stores under this name, as float16 if `half`."""
    return Tensor(graph, graph.constant(array, name, half), array)


def graph_input(
    graph: Graph, name: str, dtype: DTypeLike, shape: Sequence[Size], batch: int = BATCH
) -> Tensor:
    """An input of a graph; sizes that are letters vary, and are `batch` in the example."""
    like = np.zeros([batch if isinstance(size, str) else size for size in shape], dtype)
    return Tensor(graph, graph.input(name, dtype, shape), like)


def graph_output(graph: Graph, name: str, x: Tensor, *sizes: Size) -> None:
    """Declare an output; `sizes` replace those of its example."""
    graph.output(name, x.name, x.dtype, sizes or (row_count(x), *x.shape[1:])[: x.ndim])


def row_count(x: Tensor) -> Size:
    """N, or the fixed number of pictures of a graph."""
    return "N" if x.shape[:1] in ((), (BATCH,)) else len(x)


def _like(x: Any) -> Any:
    return x.like if isinstance(x, Tensor) else x


def _as(x: Any, dtype: np.dtype) -> Any:
    return x.astype(dtype, copy=False) if isinstance(x, Tensor) else np.asarray(x, dtype)


def _into(out: Any, result: Tensor) -> Tensor:
    if out is not None and not isinstance(out, Tensor):
        raise UnsupportedError("writing to an array of NumPy")
    return result if out is None else out.write(result)


def _fused(quotient: Tensor) -> Tensor:
    """A quotient; one that ends the equation of a function in FUSED becomes its faster operator."""
    graph = quotient.graph
    producers = {} if graph.part.name == "pattern" else _producers(graph)
    for kind, function in FUSED.items() if producers else ():
        example = graph_input(Graph("pattern"), "x", np.float32, ("N", 2))
        root = function(example).name
        names = dict[str, str]()
        if _fits(root, _producers(example.graph), quotient.name, producers, names):
            return Tensor(graph, graph.node(kind, names["x"]), quotient.like)
    return quotient


def _fits(
    node: str, pattern: Producers, name: str, producers: Producers, names: dict[str, str]
) -> bool:
    """True if a value is computed like a node of a pattern; `names` receives the value that is x."""
    if node not in pattern:  # x, or a constant
        return names.setdefault(node, name if node == "x" else node) == name
    expected, nodes = pattern[node]
    operator, inputs = producers.get(name, ("", ()))
    pairs = zip(nodes, inputs, strict=False)
    return expected == operator and all(_fits(p, pattern, n, producers, names) for p, n in pairs)


def _producers(graph: Graph) -> Producers:
    return {x.outputs[0]: ((x.kind, x.attributes), x.reads) for x in graph.part.operators}


def _reshaped(x: Tensor, like: np.ndarray) -> Tensor:
    shape = [-1, *like.shape[1:]] if like.ndim else []
    return x.record("Reshape", x, np.array(shape, np.int64), like=like)


# ---- NumPy's functions

UFUNCS: dict[np.ufunc, str] = {
    getattr(np, name): kind or name.title()
    for name, _, kind in (
        pair.partition(":")
        for pair in "add subtract:Sub multiply:Mul divide:Div matmul:MatMul power:Pow negative:Neg"
        " absolute:Abs sign exp log sqrt tanh sin cos floor ceil rint:Round maximum:Max minimum:Min"
        " greater less equal greater_equal:GreaterOrEqual less_equal:LessOrEqual logical_and:And"
        " logical_or:Or logical_not:Not bitwise_and:And bitwise_or:Or invert:Not".split()
    )
}


def _reduced(kind: str, function: Any) -> Callable[..., Tensor]:
    def reduced(x: Tensor, axis: Any = None, *, keepdims: bool = False) -> Tensor:
        like = np.asarray(function(x.like, axis=axis, keepdims=keepdims))
        axes = np.array(range(x.ndim) if axis is None else np.atleast_1d(axis), np.int64)
        return x.astype(like.dtype).record(kind, x, axes, like=like, keepdims=int(keepdims))

    return reduced


def _where(condition: Any, x: Any, y: Any) -> Tensor:
    first = next(x for x in (condition, x, y) if isinstance(x, Tensor))
    like = np.where(*map(_like, (condition, x, y)))
    branches = (_as(branch, like.dtype) for branch in (x, y))
    return first.record("Where", condition, *branches, like=like)


def _concatenated(arrays: Sequence[Any], axis: int = 0) -> Tensor:
    first = next(x for x in arrays if isinstance(x, Tensor))
    like = np.concatenate([*map(_like, arrays)], axis=axis)
    return first.record("Concat", *(_as(x, like.dtype) for x in arrays), like=like, axis=axis)


def _zeros(x: Tensor, dtype: DTypeLike | None = None) -> Tensor:
    shape = x.graph.node("Shape", x.name)
    zeros = Tensor(x.graph, x.graph.node("ConstantOfShape", shape), np.zeros(x.shape, "f4"))
    return zeros.astype(dtype or x.dtype)


def _take(table: Tensor, ids: Any, axis: int = 0) -> Tensor:
    """Rows of a table; if it is stored as float16, only these rows are cast."""
    like = np.take(table.like, _like(ids), axis=axis)
    half = f"{table.name}.float16"
    if half not in table.graph.weights:
        return table.record("Gather", table, ids, like=like, axis=axis)
    stored = Tensor(table.graph, half, table.like)
    return stored.record("Gather", stored, ids, like=like.astype("f2"), axis=axis).astype("f4")


# Functions whose equations end with a quotient, by ONNX's name
FUSED: dict[str, Callable[..., Any]] = {"Sigmoid": sigmoid, "Softmax": softmax}
FUNCTIONS: dict[Any, Callable[..., Any]] = {
    np.sum: _reduced("ReduceSum", np.sum),
    np.mean: _reduced("ReduceMean", np.mean),
    np.max: _reduced("ReduceMax", np.max),
    np.min: _reduced("ReduceMin", np.min),
    np.argmax: lambda x, axis: x.record(
        "ArgMax", x, like=x.like.argmax(axis), axis=axis, keepdims=0
    ),
    np.where: _where,
    np.concatenate: _concatenated,
    np.take: _take,
    np.dot: np.matmul,  # for arrays of one or two axes
    np.reshape: lambda x, shape: x.reshape(shape),
    np.transpose: lambda x, axes=(): x.transpose(*axes or ()),
    np.clip: lambda x, low, high: np.minimum(np.maximum(x, low), high),
    np.zeros_like: _zeros,
    np.ones_like: lambda x, dtype=None: _zeros(x, dtype) + 1,
    np.empty_like: lambda x, dtype=None: Tensor(x.graph, None, np.zeros_like(x.like, dtype)),
}
