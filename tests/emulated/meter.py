"""A meter of the host's time on the emulated device.

Kernels and cuBLAS's products compute nothing then, and fresh memory holds ones. Time stands still in
the stand-in, and goes on by what is published for the call: what is left is the time of our own
Python. Attributes of arrays are found as quickly as cupy's, and count as ours.
"""

import contextlib
import functools
import inspect
import time
from collections import Counter
from collections.abc import Callable, Iterator
from types import FunctionType
from typing import Any, NamedTuple

import pytest

from emulated import blas, cuda
from emulated.arrays import ndarray
from emulated.elementwise import Ufunc
from emulated.module import replace_cupy
from emulated.record import EMULATOR
from xpcap import backend
from xpcap.device import probe


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
    "view": Cost(1.0, "a view of an array: 0.5 to 2 measured of CuPy 14.2, without a device"),
    "question": Cost(0.1, "asking for the current stream or device and the like, assumed"),
}
# What is handed to the driver; reads wait, and are counted apart
CALLS = ("launch", "graph", "dot", "gemm", "ufunc", "index", "transfer")
# By the emulated device's kinds of work; what is not here is a ufunc
KINDS = {
    **{kind: kind for kind in COSTS},
    "raw": "launch",
    "product": "dot",
    "gather": "index",
    "scatter": "index",
    "fetch": "read",
}
# Methods of arrays that are no call: they look at an attribute, or make errors
UNTIMED = ("__array_function__", "__array_ufunc__", "__getattr__", "__init_subclass__", "__len__")


class Meter:
    """A count of calls by kind, the seconds that they take, and those that passed in the stand-in."""

    def __init__(self) -> None:
        self._costs = {kind: 1e-6 * cost.microseconds for kind, cost in COSTS.items()}
        self._inside, self._charged, self._entry = False, False, 0.0
        self._reset()
        self._entry = self._time_of_entry()
        self._reset()

    def _reset(self) -> None:
        self.counts: Counter[str] = Counter(dict.fromkeys(COSTS, 0))
        self.seconds = self.passed = 0.0

    @property
    def calls(self) -> int:
        """Calls that reached the driver."""
        return sum(self.counts[kind] for kind in CALLS)

    def _time_of_entry(self) -> float:
        """Seconds of entering and leaving a call, which no clock inside it sees."""
        nothing, calls, times = self.timed(lambda *_: None), 2000, []
        for _ in range(5):
            self.passed, start = 0.0, time.perf_counter()
            for _ in range(calls):
                nothing((1,), (2,), ())
            times.append((time.perf_counter() - start - self.passed) / calls)
        return min(times)

    def count(self, kind: str) -> None:
        """Count work by its kind. An allocation takes time where it is all that a call does."""
        kind = KINDS.get(kind, "ufunc")
        self.counts[kind] += 1
        if kind != "allocation":
            self._charge(kind)

    def _charge(self, kind: str) -> None:
        self._charged = True
        self.seconds += self._costs[kind]

    def timed(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """`function`, outside which the time goes on that passes in it."""

        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            if self._inside:
                return function(*args, **kwargs)
            start, allocations = time.perf_counter(), self.counts["allocation"]
            self._inside, self._charged = True, False
            try:
                result = function(*args, **kwargs)
            finally:
                self._inside = False
            if not self._charged:
                if self.counts["allocation"] > allocations:
                    self._charge("allocation")
                else:
                    self.count("view" if isinstance(result, ndarray) else "question")
            self.passed += time.perf_counter() - start + self._entry
            return result

        return call


@contextlib.contextmanager
def metered() -> Iterator[Meter]:
    """The emulated device as the backend of the process inside the ``with``, under a meter.

    Raises
    ------
    BackendError : cupy cannot be imported. It needs no device.
    """
    probe.import_cupy()
    with pytest.MonkeyPatch.context() as patch:
        EMULATOR.configure(free=64 << 30, total=80 << 30)  # features are resident
        meter = Meter()
        patch.setattr(EMULATOR, "meter", meter)
        module = replace_cupy(patch)
        put(meter, module, patch)
        status = probe.BackendStatus("cupy", True, module.__version__, ("emulated",), "")
        patch.setattr(probe, "cupy_status", functools.cache(lambda device: status))
        patch.setattr(backend, "_active", "cupy")
        yield meter


def put(meter: Meter, module: Any, patch: pytest.MonkeyPatch) -> None:
    """Let a meter time whatever a program may call of the module that stands for cupy."""
    for owner in (ndarray, Ufunc, cuda.Event, cuda.Stream, cuda.Graph, cuda.Device, blas.Entry):
        for name, method in list(vars(owner).items()):
            if isinstance(method, FunctionType) and name not in UNTIMED:
                patch.setattr(owner, name, meter.timed(method))
    patch.setattr(ndarray, "T", property(meter.timed(ndarray.T.fget)))
    cupy = module.cuda
    cupy.driver.launchKernel = lambda *_: meter.count("launch")
    cupy.alloc_pinned_memory = lambda size: cuda.PinnedMemory(size)
    for space in (cupy, cupy.runtime, cupy.driver, cupy.device, cupy.stream):
        for name, member in list(vars(space).items()):
            if inspect.isroutine(member):
                setattr(space, name, meter.timed(member))
