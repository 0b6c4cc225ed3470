"""A stand-in for CuPy that computes nothing: its calls only take the time that is published.

Arrays are real cupy arrays over fake pointers: shapes, slices and views are cupy's own; what would
reach the driver is a stub, which a meter counts. A read returns ones. What is not modelled raises a
NotImplementedError. Unlike the emulated device of the tests, which computes everything with NumPy,
it leaves our own Python as the only other thing that takes time.
"""

import contextlib
import functools
import math
import time
from collections.abc import Callable, Iterator
from types import ModuleType, SimpleNamespace
from typing import Any, NamedTuple

import numpy as np

from xpcap.backend import stand_in
from xpcap.device import cublas
from xpcap.device.probe import import_cupy
from xpcap.errors import InvalidValueError

# What calls cost


class Cost(NamedTuple):
    """Time that the host is busy with one call."""

    microseconds: float
    source: str


COSTS = {
    "launch": Cost(
        2.5,
        "a launch of a kernel through the driver's binding, its arguments packed before, assumed:"
        " what `cuLaunchKernel` takes of the 8 to 9 that are published for CuPy's RawKernel",
    ),
    "graph": Cost(
        10.0,
        "a launch of a CUDA graph of 60 to 160 kernels, assumed: NVIDIA gives 2.5 where they follow"
        " each other, from CUDA 12.6 on, and before that 2 and 0.2 a kernel",
    ),
    "dot": Cost(14.0, "`cupy.dot`: 12 to 16 are published"),
    "gemm": Cost(
        6.0,
        "a raw cuBLAS call, assumed: a plain driver launch, published as 4 to 6, and cuBLAS's"
        " choice of an algorithm",
    ),
    "ufunc": Cost(
        11.0,
        "a ufunc, reduction, copy or memset: 11 in CuPy's pull request 3298 (2020); 19 to 20 in"
        " 8457 (2025)",
    ),
    "index": Cost(
        15.0,
        "reading or writing at an index array, assumed: more than a ufunc, since indices are"
        " checked and arranged",
    ),
    "transfer": Cost(10.0, "a copy from the host, assumed"),
    "event": Cost(2.0, "recording an event or asking for it, assumed"),
    "read": Cost(10.0, "a copy to the host, assumed, without the wait for the device"),
    "allocation": Cost(
        2.0, "an array from CuPy's pool, assumed; a call that returns a fresh array includes it"
    ),
}
# What is handed to the driver; reads wait, and are counted apart
CALLS = ("launch", "graph", "dot", "gemm", "ufunc", "index", "transfer")


class Meter:
    """A count of calls by kind, and of the seconds that passed in stubs.

    Parameters
    ----------
    ndarray, memory : CuPy's array type and its module of memory
    """

    def __init__(self, ndarray: Any, memory: ModuleType) -> None:
        self.counts = dict.fromkeys(COSTS, 0)
        self.seconds = 0.0
        self.ndarray, self._memory, self._free = ndarray, memory, 1 << 40
        self._costs = {kind: 1e-6 * cost.microseconds for kind, cost in COSTS.items()}
        self._entry = self._time_of_entry()

    @property
    def calls(self) -> int:
        """Calls that reached the driver."""
        return sum(self.counts[kind] for kind in CALLS)

    def _time_of_entry(self) -> float:
        """Seconds of entering and leaving a stub, unseen by `take`: a call's time, not ours."""
        self._entry, calls = 0.0, 2000
        stub = self.stub("entry", lambda *_: None)
        self._costs["entry"], self.counts["entry"] = 0.0, 0
        times = []
        for _ in range(5):
            self.seconds, start = 0.0, time.perf_counter()
            for _ in range(calls):
                stub((1,), (2,), ())
            times.append((time.perf_counter() - start - self.seconds) / calls)
        del self._costs["entry"], self.counts["entry"]
        self.seconds = 0.0
        return min(times)

    def take(self, kind: str, start: float) -> None:
        """Count a call whose stub began at `start` (perf_counter); spin until its time is up."""
        self.counts[kind] += 1
        end = start + self._costs[kind] - self._entry
        while (now := time.perf_counter()) < end:
            pass
        self.seconds += now - start + self._entry

    def stub(self, kind: str, result: Callable[..., Any]) -> Callable[..., Any]:
        """`result` as a function that takes the time of a call of that kind."""

        def call(*args: Any, **kwargs: Any) -> Any:
            start = time.perf_counter()
            value = result(*args, **kwargs)
            self.take(kind, start)
            return value

        return call

    def array(self, shape: Any, dtype: Any) -> Any:
        """A fresh array as the result of a stub, at an address of its own. Counts an allocation."""
        self.counts["allocation"] += 1
        size = max(
            1, math.prod(shape if isinstance(shape, tuple) else (shape,)) * np.dtype(dtype).itemsize
        )
        pointer = self._memory.MemoryPointer(
            self._memory.UnownedMemory(self._free, size, None, 0), 0
        )
        self._free += -(-size // 512) * 512
        return self.ndarray(shape, dtype, pointer)

    def empty(self, shape: Any, dtype: Any = float) -> Any:
        """cupy.empty: nothing reaches the driver where the pool has memory."""
        start = time.perf_counter()
        value = self.array(shape, dtype)
        self.counts["allocation"] -= 1  # `take` counts it
        self.take("allocation", start)
        return value


class StandIn(ModuleType):
    """A module of a few members; asking for others raises that they are not modelled."""

    def __init__(self, name: str, **members: Any) -> None:
        super().__init__(name)
        vars(self).update(members)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        raise not_modelled(f"{self.__name__}.{name}")


def not_modelled(what: str) -> NotImplementedError:
    """The error for a call that would run on a real device, or fail without one."""
    return NotImplementedError(
        f"fake device: {what} is not modelled, expected a call that a training step makes; add it"
        " to benchmarks/fake_cupy.py"
    )


@contextlib.contextmanager
def replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    """An attribute of a module or class replaced inside the ``with``."""
    missing = object()
    before = vars(owner).get(name, missing)
    setattr(owner, name, value)
    try:
        yield
    finally:
        if before is missing:
            delattr(owner, name)
        else:
            setattr(owner, name, before)


# Arrays and functions

OPERATORS = {
    "add": "add",
    "sub": "subtract",
    "mul": "multiply",
    "truediv": "true_divide",
    "and": "bitwise_and",
    "or": "bitwise_or",
}
COMPARISONS = {
    "lt": "less",
    "le": "less_equal",
    "gt": "greater",
    "ge": "greater_equal",
    "eq": "equal",
    "ne": "not_equal",
}
UNARY = {"neg": "negative", "abs": "absolute", "invert": "invert"}
REDUCTIONS = ("sum", "max", "min", "argmax", "mean", "all", "any")
UNTOUCHED = (
    "view", "transpose", "swapaxes", "squeeze",
    "__len__", "__iter__", "__init__", "__new__", "__array_finalize__", "__class_getitem__",
)  # fmt: skip
CONSTANTS = (
    "newaxis",
    "pi",
    "e",
    "inf",
    "nan",
    "dtype",
    "finfo",
    "iinfo",
    "ndarray",
    "ufunc",
    "__version__",
)
SHAPES = (np.shape, np.ndim, np.size)  # of NumPy: they look at no element
FREE, TOTAL = 64 << 30, 80 << 30  # bytes of the device: features are resident
Function = Callable[..., Any]


@contextlib.contextmanager
def fake_device() -> Iterator[Meter]:
    """The fake device as the backend inside the ``with``, for the whole process.

    Raises
    ------
    BackendError : cupy cannot be imported. It needs no device.
    """
    cupy = import_cupy()
    meter = Meter(cupy.ndarray, cupy.cuda.memory)
    with contextlib.ExitStack() as stack:
        for name, method in _methods(cupy.ndarray, meter).items():
            stack.enter_context(replaced(cupy.ndarray, name, method))
        stack.enter_context(stand_in(_module(cupy, meter)))
        stack.enter_context(replaced(cublas, "load_library", lambda version: _LIBRARY))
        yield meter


class _Entry:
    """A function of cuBLAS itself, called in a capture, which takes no time of a step."""

    argtypes: tuple[Any, ...] = ()

    def __call__(self, *args: int) -> int:
        return 0


_LIBRARY = SimpleNamespace(
    cublasSgemm_v2=_Entry(),
    cublasDgemm_v2=_Entry(),
    cublasSetStream_v2=_Entry(),
    cublasSetWorkspace_v2=_Entry(),
)

# Results of stubs


@functools.cache
def _dtype(name: str, kinds: tuple[Any, ...]) -> Any:
    """Dtype of a ufunc's result for operands of these dtypes; a scalar is given by its type."""
    return getattr(np, name)(
        *(np.empty(0, kind) if isinstance(kind, np.dtype) else kind(1) for kind in kinds)
    ).dtype


@functools.cache
def _reduced(
    name: str, shape: tuple[int, ...], dtype: Any, axis: Any, keepdims: bool
) -> tuple[tuple[int, ...], Any]:
    """Shape and dtype of a reduction."""
    axes = (
        set(range(len(shape)))
        if axis is None
        else {k % len(shape) for k in (axis if isinstance(axis, tuple) else (axis,))}
    )
    kept = tuple(
        1 if k in axes else size for k, size in enumerate(shape) if keepdims or k not in axes
    )
    return kept, np.asarray(getattr(np.zeros(1, dtype), name)()).dtype


def _is_indexed(index: Any) -> bool:
    """True if an index holds arrays or lists, and not just numbers and slices."""
    parts = index if isinstance(index, tuple) else (index,)
    return any(hasattr(part, "dtype") or isinstance(part, list) for part in parts)


def _picked_shape(shape: tuple[int, ...], index: Any) -> tuple[int, ...]:
    """Shape of x[index] for one index array, or one for each of the first axes."""
    arrays = index if isinstance(index, tuple) else (index,)
    if any(
        isinstance(x, (list, np.ndarray)) or getattr(x, "dtype", np.dtype(bool)).kind not in "iu"
        for x in arrays
    ):
        raise not_modelled("an index other than integer arrays on the device")
    return np.broadcast_shapes(*(x.shape for x in arrays)) + shape[len(arrays) :]


# Methods of arrays


def _methods(ndarray: Any, meter: Meter) -> dict[str, Any]:
    """Methods by name: stubs, or errors where not modelled. Views stay cupy's own."""
    refused = {
        name: _refuse(f"cupy.ndarray.{name}")
        for name, value in vars(ndarray.__mro__[1]).items()
        if _is_method(name, value)
    }
    return {
        **refused,
        **_operators(meter),
        **_indexing(ndarray, meter),
        **_reads(meter),
        **_copies(ndarray, meter),
    }


def _is_method(name: str, value: Any) -> bool:
    special = name.startswith("__")
    return callable(value) and name not in UNTOUCHED and (special or not name.startswith("_"))


def _refuse(what: str) -> Function:
    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise not_modelled(what)

    return refuse


def _ufunc(name: str, meter: Meter) -> Function:
    def result(*operands: Any, out: Any = None, dtype: Any = None) -> Any:
        if any(isinstance(x, np.ndarray) for x in operands):
            raise TypeError(f"cupy.{name}: got a numpy.ndarray, expected device arrays and scalars")
        if out is not None:
            return out
        kinds = tuple(x.dtype if isinstance(x, meter.ndarray) else type(x) for x in operands)
        return meter.array(
            np.broadcast_shapes(*(np.shape(x) for x in operands)), dtype or _dtype(name, kinds)
        )

    return meter.stub("ufunc", result)


def _operators(meter: Meter) -> dict[str, Function]:
    found: dict[str, Function] = {}
    for name, ufunc in OPERATORS.items():
        call = found[f"__{name}__"] = _ufunc(ufunc, meter)
        found[f"__r{name}__"] = lambda self, other, call=call: call(other, self)
        found[f"__i{name}__"] = lambda self, other, call=call: call(self, other, out=self)
    for name, ufunc in {**COMPARISONS, **UNARY}.items():
        found[f"__{name}__"] = _ufunc(ufunc, meter)
    for name in REDUCTIONS:
        found[name] = _reduction(name, meter)
    found["dot"] = found["__matmul__"] = _dot(meter)
    return found


def _reduction(name: str, meter: Meter) -> Function:
    def result(
        self: Any, axis: Any = None, dtype: Any = None, out: Any = None, keepdims: bool = False
    ) -> Any:
        if out is not None:
            return out
        shape, found = _reduced(name, self.shape, self.dtype, axis, keepdims)
        return meter.array(shape, dtype or found)

    return meter.stub("ufunc", result)


def _dot(meter: Meter) -> Function:
    def result(a: Any, b: Any, out: Any = None) -> Any:
        if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[0]:
            raise not_modelled(f"a product of shapes {a.shape} and {b.shape}")
        return meter.array((a.shape[0], b.shape[1]), a.dtype) if out is None else out

    return meter.stub("dot", result)


def _indexing(ndarray: Any, meter: Meter) -> dict[str, Function]:
    view = ndarray.__getitem__
    pick = meter.stub(
        "index", lambda self, index: meter.array(_picked_shape(self.shape, index), self.dtype)
    )
    put, fill = meter.stub("index", _written), meter.stub("ufunc", _written)

    def getitem(self: Any, index: Any) -> Any:
        if type(index) is slice or not _is_indexed(index):
            return view(self, index)
        return pick(self, index)

    def setitem(self: Any, index: Any, value: Any) -> None:
        (put if _is_indexed(index) else fill)(self, index, value)

    return {"__getitem__": getitem, "__setitem__": setitem}


def _written(self: Any, index: Any, value: Any) -> None:
    if isinstance(value, np.ndarray) and value.ndim:
        raise InvalidValueError(
            "cupy.ndarray.__setitem__",
            "",
            "got a numpy.ndarray",
            expected="a device array or a scalar",
        )
    if _is_indexed(index):
        _picked_shape(self.shape, index)


def _reads(meter: Meter) -> dict[str, Function]:
    """Methods that read elements: all of them wait for the device."""
    results: dict[str, Function] = {
        "get": lambda self, **_: np.ones(self.shape, self.dtype),
        "tolist": lambda self: np.ones(self.shape, self.dtype).tolist(),
        "item": lambda self, *_: np.ones((), self.dtype).item(),
        "__float__": lambda self: 1.0,
        "__int__": lambda self: 1,
        "__bool__": lambda self: True,
    }
    return {name: meter.stub("read", result) for name, result in results.items()}


def _copies(ndarray: Any, meter: Meter) -> dict[str, Function]:
    reshape, function = ndarray.reshape, ndarray.__array_function__

    def reshaped(self: Any, *shape: Any, **options: Any) -> Any:
        if not self._c_contiguous:
            raise not_modelled("cupy.ndarray.reshape of an array that is not C-contiguous")
        return reshape(self, *shape, **options)

    def array_function(self: Any, func: Any, types: Any, args: Any, kwargs: Any) -> Any:
        if func not in SHAPES:
            raise not_modelled(f"numpy.{func.__name__} of a device array")
        return function(self, func, types, args, kwargs)

    return {
        "reshape": reshaped,
        "__array_function__": array_function,
        "copy": meter.stub("ufunc", lambda self: meter.array(self.shape, self.dtype)),
        "astype": meter.stub("ufunc", lambda self, dtype: meter.array(self.shape, dtype)),
        "fill": meter.stub("ufunc", lambda self, value: None),
        "set": meter.stub("transfer", lambda self, host, stream=None: None),
    }


# The module


class Ufunc:
    """A ufunc without its methods."""

    def __init__(self, name: str, meter: Meter) -> None:
        self.__name__, self._call = name, _ufunc(name, meter)

    def __call__(self, *operands: Any, **options: Any) -> Any:
        return self._call(*operands, **options)

    def __getattr__(self, name: str) -> Any:
        raise not_modelled(f"cupy.{self.__name__}.{name}")


def _module(cupy: ModuleType, meter: Meter) -> StandIn:
    """The module that stands in for cupy."""
    types = {
        name: value
        for name, value in vars(cupy).items()
        if isinstance(value, type) and issubclass(value, np.generic)
    }
    ufuncs = {
        name: Ufunc(name, meter)
        for name, value in vars(cupy).items()
        if isinstance(value, cupy.ufunc)
    }
    pool = StandIn("pool", free_bytes=lambda: 0)
    kernel = SimpleNamespace(kernel=SimpleNamespace(ptr=1))
    return StandIn(
        "cupy",
        **{name: getattr(cupy, name) for name in CONSTANTS},
        **types,
        **ufuncs,
        **_creation(meter),
        **_functions(meter),
        cuda=_cuda(meter),
        RawModule=lambda *_, **__: SimpleNamespace(get_function=lambda name: kernel),
        get_default_memory_pool=lambda: pool,
        get_default_pinned_memory_pool=lambda: StandIn("pinned pool", free_all_blocks=lambda: None),
    )


def _cuda(meter: Meter) -> StandIn:
    gemm = meter.stub(
        "gemm", lambda handle, transa, transb, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc: None
    )
    modes = dict.fromkeys(("getMathMode", "getPointerMode"), lambda handle: 0)
    version = {"getVersion": lambda handle: 130_000}
    binding = StandIn("cupy.cuda.cublas", sgemm=gemm, dgemm=gemm, **modes, **version)
    runtime = StandIn(
        "cupy.cuda.runtime",
        getDeviceCount=lambda: 1,
        getDevice=lambda: 0,
        memGetInfo=lambda: (FREE, TOTAL),
    )
    graph = SimpleNamespace(launch=meter.stub("graph", lambda: None))
    stream = StandIn("stream", ptr=1 << 20, begin_capture=lambda: None, end_capture=lambda: graph)
    device = StandIn("cupy.cuda.device", get_cublas_handle=lambda: 1)
    launch = meter.stub(
        "launch", lambda f, gx, gy, gz, bx, by, bz, shared, stream, kernel_params, extra: None
    )
    driver = StandIn("cupy.cuda.driver", ctxGetCurrent=lambda: 1, launchKernel=launch)
    current = SimpleNamespace(id=0, use=lambda: None)
    pinned = {
        "alloc_pinned_memory": bytearray,
        "get_current_stream": lambda: SimpleNamespace(ptr=0),
        "Event": _event(meter),
    }
    return StandIn(
        "cupy.cuda",
        cublas=binding,
        runtime=runtime,
        driver=driver,
        device=device,
        Device=lambda device=0: current,
        Stream=lambda non_blocking: stream,
        **pinned,
    )


def _event(meter: Meter) -> Function:
    """cupy.cuda.Event: little work for the host, and no wait, as the device is never behind."""
    call = meter.stub("event", lambda *_: None)
    return lambda disable_timing=False: SimpleNamespace(record=call, synchronize=call)


def _creation(meter: Meter) -> dict[str, Function]:
    """Functions that create arrays; all but `empty` launch a kernel or a memset."""
    filled = meter.stub("ufunc", lambda shape, dtype=float: meter.array(shape, dtype))
    filled_like = meter.stub("ufunc", lambda a, dtype=None: meter.array(a.shape, dtype or a.dtype))
    return {
        "empty": meter.empty,
        "empty_like": lambda a, dtype=None: meter.empty(a.shape, dtype or a.dtype),
        **dict.fromkeys(("zeros", "ones"), filled),
        **dict.fromkeys(("zeros_like", "ones_like"), filled_like),
        "full": meter.stub("ufunc", lambda shape, fill_value, dtype: meter.array(shape, dtype)),
        "arange": meter.stub("ufunc", lambda stop, dtype=int: meter.array(stop, dtype)),
    }


def _functions(meter: Meter) -> dict[str, Function]:
    send = meter.stub("transfer", lambda host, dtype: meter.array(host.shape, dtype or host.dtype))

    def asarray(a: Any, dtype: Any = None) -> Any:
        if isinstance(a, meter.ndarray):
            return a if dtype is None or a.dtype == dtype else a.astype(dtype)
        return send(np.asarray(a), dtype)

    def take(a: Any, indices: Any, axis: int, out: Any = None) -> Any:
        if axis != 0:
            raise not_modelled(f"cupy.take along axis {axis}")
        return meter.array(_picked_shape(a.shape, indices), a.dtype) if out is None else out

    return {
        "asarray": asarray,
        "asnumpy": lambda a: a.get(),
        "take": meter.stub("index", take),
        "copyto": meter.stub("ufunc", lambda dst, src: None),
        **dict.fromkeys(("dot", "matmul"), _dot(meter)),
        **{name: _reduction(name, meter) for name in REDUCTIONS},
    }
