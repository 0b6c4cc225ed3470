"""Methods of the emulated array: reads, copies, views and reductions. Each call is first held
against the signature that cupy documents.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from emulated import indexing, memory, products, real
from emulated.arrays import array, cast, deliver, fresh, ndarray, supported, view, wrap
from emulated.record import EMULATOR, SCRATCH

REDUCTIONS = "sum", "max", "mean", "argmax", "all", "cumsum"


# Reads: every way from the device to the host


def get(
    self: ndarray, stream: Any = None, order: str = "C", out: Any = None, blocking: bool = True
) -> np.ndarray:
    return read(self, "get", out) if blocking else begin_to_read(self, out)


def begin_to_read(x: ndarray, out: np.ndarray) -> np.ndarray:
    """A copy that is under way until somebody waits for it."""
    from emulated.cuda import is_pinned

    if not is_pinned(out) or (out.shape, out.dtype) != (x.shape, x.dtype):
        raise ValueError("cupy.ndarray.get(blocking=False): expected out= like it in pinned memory")
    value = array(x, "get").copy()
    EMULATOR.launch("fetch", "get")
    EMULATOR.begin_copy(lambda: out.__setitem__(..., value))
    return out


def read(x: ndarray, how: str, out: Any = None) -> np.ndarray:
    """The elements on the host, counted."""
    memory.use(x.host)
    EMULATOR.read(how)
    if out is None:
        return x.host.copy()
    out[...] = x.host
    return out


def truth(self: ndarray) -> bool:
    if self.size != 1:
        raise ValueError("The truth value of an array with other than one element is ambiguous.")
    return bool(read(self, "bool"))


def upload(self: ndarray, arr: np.ndarray, stream: Any = None) -> None:
    """From pinned memory the copy is under way until somebody waits, and the memory has to stay as
    it is until then; from any other the host waits.
    """
    from emulated.cuda import is_pinned

    if not isinstance(arr, np.ndarray) or arr.dtype != self.dtype or arr.shape != self.shape:
        raise TypeError(f"cupy.ndarray.set: expected a host array of {self.dtype} {self.shape}")
    if stream is not None and stream.ptr != EMULATOR.stream_ptr:
        raise ValueError(f"cupy.ndarray.set: was given to {stream!r}, expected the current stream")
    EMULATOR.transfer(arr.nbytes)
    array(self, "set")[...] = arr
    if not is_pinned(arr):
        EMULATOR.wait("set from memory that is not pinned", EMULATOR.stream_ptr)
        return
    sent = arr.copy()

    def check() -> None:
        if not np.array_equal(arr, sent):
            raise RuntimeError(
                "cupy.ndarray.set: pinned memory was written to before its copy ended"
            )

    EMULATOR.begin_copy(check)


def send(host: np.ndarray) -> ndarray:
    """A host array on the device."""
    supported(host.dtype)
    EMULATOR.transfer(host.nbytes)
    return fresh(host)


# Copies


def copy(self: ndarray, order: str = "C") -> ndarray:
    if self.size:
        EMULATOR.launch("copy", "copy")
    return fresh(array(self, "copy").copy(order))


def astype(
    self: ndarray,
    dtype: Any,
    order: str = "K",
    casting: Any = None,
    subok: Any = None,
    copy: bool = True,
) -> ndarray:
    target = supported(dtype)
    if target == self.dtype and not copy:
        return self
    memory = array(self, "astype")
    if self.size:
        EMULATOR.launch("copy", "astype")
    return fresh(cast(memory, target, "astype").copy(order))


def fill(self: ndarray, value: Any) -> None:
    if isinstance(value, ndarray | np.ndarray):
        raise TypeError("cupy.ndarray.fill: got an array, expected a scalar")
    indexing.fill(array(self, "fill"), value)


# Views


def as_view(self: ndarray, host: np.ndarray) -> ndarray:
    """What NumPy made of our memory: a view, or a copy, which is a launch."""
    if host.size and not np.may_share_memory(host, self.host):
        EMULATOR.launch("copy", "reshape")
        return fresh(host)
    return view(host, self)


def reshape(self: ndarray, *shape: Any, order: str = "C", copy: Any = None) -> ndarray:
    return as_view(self, self.host.reshape(*shape, order=order))


def ravel(self: ndarray, order: str = "C") -> ndarray:
    return as_view(self, self.host.reshape(-1, order=order))


def transpose(self: ndarray, *axes: Any) -> ndarray:
    return view(self.host.transpose(*axes), self)


# Reductions and sorting


def reduction(name: str) -> Callable[..., ndarray]:
    def reduce(self: ndarray, **arguments: Any) -> ndarray:
        out = arguments.pop("out", None)
        with np.errstate(all="ignore"):
            result = np.asarray(getattr(np, name)(array(self, name), **arguments), order="C")
        # With CUB, which CuPy uses by default, it takes scratch
        EMULATOR.launch("scan" if name == "cumsum" else "reduction", name, SCRATCH)
        return deliver(result, out, name)

    return reduce


def argsort(self: ndarray, axis: Any = -1) -> ndarray:
    EMULATOR.launch("sort", "argsort", self.nbytes, SCRATCH)
    return wrap(np.argsort(array(self, "argsort"), axis, kind="stable"))


def sort(self: ndarray, axis: int = -1) -> None:
    EMULATOR.launch("sort", "sort", SCRATCH)
    array(self, "sort").sort(axis, kind="stable")


def stable(kind: Any) -> None:
    if kind not in (None, "stable"):
        raise ValueError(f"cupy sorts stably and knows kinds None and 'stable', got {kind!r}")


METHODS: dict[str, Callable[..., Any]] = {
    "get": get,
    "set": upload,
    "copy": copy,
    "astype": astype,
    "fill": fill,
    "reshape": reshape,
    "ravel": ravel,
    "transpose": transpose,
    "take": indexing.take,
    "dot": products.dot,
    "argsort": argsort,
    "sort": sort,
}


def checked(name: str, method: Callable[..., Any], by_name: bool) -> Callable[..., Any]:
    """`method` with calls that cupy would not take refused; it may take cupy's names of arguments."""

    def call(self: ndarray, *args: Any, **kwargs: Any) -> Any:
        bound = real.bind(f"ndarray.{name}", (self, *args), kwargs)
        if not by_name:
            return method(self, *args, **kwargs)
        bound.pop("self")
        return method(self, **bound)

    return call


def _attach() -> None:
    for name, method in METHODS.items():
        setattr(ndarray, name, checked(name, method, by_name=False))
    for name in REDUCTIONS:
        setattr(ndarray, name, checked(name, reduction(name), by_name=True))

    def conversion(convert: Callable[[np.ndarray], Any]) -> Callable[[ndarray], Any]:
        return lambda self: convert(read(self, convert.__name__))

    for convert in (float, int, repr, str):
        setattr(ndarray, f"__{convert.__name__}__", conversion(convert))
    ndarray.__bool__ = truth
    ndarray.__format__ = lambda self, spec: format(read(self, "format"), spec)
    ndarray.__copy__ = lambda self: copy(self)
    ndarray.__deepcopy__ = lambda self, memo: copy(self)


_attach()
