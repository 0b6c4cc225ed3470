"""A device that computes nothing: what each call costs the host, and a meter that counts calls and lets that time pass."""

import contextlib
import math
import time
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np


class Cost(NamedTuple):
    """How long the host is busy with one call."""

    microseconds: float
    source: str


COSTS = {
    "kernel": Cost(8.5, "a launch through CuPy's RawKernel: 8 to 9 are published"),
    "dot": Cost(14.0, "`cupy.dot`: 12 to 16 are published"),
    "gemm": Cost(6.0, "a raw cuBLAS call, assumed: a plain driver launch, published as 4 to 6, and cuBLAS's choice of an algorithm"),
    "ufunc": Cost(11.0, "a ufunc, reduction, copy or memset: 11 in CuPy's pull request 3298 (2020); 19 to 20 in 8457 (2025)"),
    "index": Cost(15.0, "reading or writing at an index array, assumed: more than a ufunc, since indices are checked and arranged"),
    "transfer": Cost(10.0, "a copy from the host, assumed"),
    "event": Cost(2.0, "recording an event or asking for it, assumed"),
    "read": Cost(10.0, "a copy to the host, assumed, without the wait for the device"),
    "allocation": Cost(2.0, "an array from CuPy's pool, assumed; a call that returns a fresh array includes it"),
}
CALLS = ("kernel", "dot", "gemm", "ufunc", "index", "transfer")  # what is handed to the driver; reads wait, and are counted apart


class Meter:
    """Counts calls by kind, and the seconds that passed in stubs.

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
        """Seconds that entering and leaving a stub takes around what `take` sees: they are part of a call's time, not of ours."""
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
        """Count a call whose stub began at `start` (of perf_counter), and spin until it has taken its time, entry included."""
        self.counts[kind] += 1
        end = start + self._costs[kind] - self._entry
        while (now := time.perf_counter()) < end:
            pass
        self.seconds += now - start + self._entry

    def stub(self, kind: str, result: Callable[..., Any]) -> Callable[..., Any]:
        """A function that takes the time of one call of that kind and returns what `result` returns."""

        def call(*args: Any, **kwargs: Any) -> Any:
            start = time.perf_counter()
            value = result(*args, **kwargs)
            self.take(kind, start)
            return value

        return call

    def array(self, shape: Any, dtype: Any) -> Any:
        """A fresh array as the result of a stub, at an address that no other array has. Counts an allocation."""
        self.counts["allocation"] += 1
        size = max(1, math.prod(shape if isinstance(shape, tuple) else (shape,)) * np.dtype(dtype).itemsize)
        pointer = self._memory.MemoryPointer(self._memory.UnownedMemory(self._free, size, None, 0), 0)
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
    """A module of a few members; the others are not modelled."""

    def __init__(self, name: str, **members: Any) -> None:
        super().__init__(name)
        vars(self).update(members)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        raise not_modelled(f"{self.__name__}.{name}")


def not_modelled(what: str) -> NotImplementedError:
    """The error for a call that would run on a real device, or fail without one."""
    return NotImplementedError(f"fake device: {what} is not modelled, expected a call that a training step makes; add it to xpcap/bench/fake_cupy.py")


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
