"""What the emulated device did: launches, allocations, reads, transfers and waits, each with the
place in the program that asked for it.

Places, and what kernels wrote, take longer to find than the work itself: they are looked for while
somebody counts, in the ``with`` of `Emulator.counting`.
"""

import contextlib
import functools
import os
import sys
import threading
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import xpcap
from emulated import real

HERE = str(Path(__file__).parent) + os.sep
PACKAGE = str(Path(xpcap.__file__).parent) + os.sep
# Who called them says more
CONVERSIONS = tuple(
    f"{PACKAGE}backend/{name}.py" for name in "switch memory launch cublas replay transfers".split()
)
# bytes: the smallest block of CuPy's pool, for scratch memory whose size only CUB and Thrust know
SCRATCH = 512
Place = str | None  # as in "xpcap/backend/switch.py:96 (to_numpy)"; None while nobody counts


class Launch(NamedTuple):
    """One piece of work given to the device: a kernel, a product, a memset or a copy."""

    # elementwise, reduction, product, gather, scatter, copy, fetch, memset, scan, sort or raw
    kind: str
    name: str
    place: Place


class Allocation(NamedTuple):
    """One request for memory from CuPy's pool: a fresh array, or scratch."""

    nbytes: int
    place: Place


class Read(NamedTuple):
    """One wait for a value that the host wanted. `how` names the way, from get() to an f-string."""

    how: str
    place: Place


class Transfer(NamedTuple):
    """One copy from the host to the device."""

    nbytes: int
    place: Place


class Wait(NamedTuple):
    """One synchronisation that reads nothing."""

    how: str
    place: Place


class Counts:
    """Everything the device did while these counts were open, in order."""

    launches: list[Launch]
    allocations: list[Allocation]
    reads: list[Read]
    transfers: list[Transfer]
    waits: list[Wait]
    events: list[Any]  # all of them, in order

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget what was counted so far."""
        for name in Counts.__annotations__:
            setattr(self, name, [])

    def kinds(self) -> Counter[str]:
        """Launches by kind."""
        return Counter(launch.kind for launch in self.launches)

    def names(self) -> Counter[str]:
        """Launches by kind and name, as in ``"product dot"``."""
        return Counter(f"{launch.kind} {launch.name}" for launch in self.launches)

    @property
    def products(self) -> list[Launch]:
        """Raw products of cuBLAS."""
        return [launch for launch in self.launches if launch.name.endswith("gemm")]


class Emulator(Counts):
    """The emulated machine: what it counted since it was installed or reset, and what it pretends
    to be.
    """

    def __init__(self) -> None:
        self.configure()

    def configure(
        self,
        devices: int = 1,
        name: str = "emulated",
        free: int = 8 << 30,
        cublas: bool = True,
        busy: tuple[int, ...] = (),
        as_gpu: bool = False,
    ) -> None:
        """A fresh machine: number of devices, their name, bytes free on each, whether cuBLAS's binding
        loads, devices without a context, whether kernels round as on a GPU.
        """
        self.reset()
        self._open: list[Counts] = []
        self.devices, self.name, self.cublas = devices, name, cublas
        self.free, self.total = free, 16 << 30
        # Handles of cuBLAS by address: the threads hold them
        self.handles: Any = weakref.WeakValueDictionary()
        self.pool_free = 0  # bytes that CuPy's memory pool holds back
        # What CuPy's reductions are compiled with, and whether that fails
        self.reduction_accelerators, self.cub_fails = ["cub"], False
        # That of this test: what an earlier one left behind disturbs no count
        self.machine = object()
        self.busy = busy  # devices that refuse a context
        self.as_gpu = as_gpu
        self.seed = 0  # above 0: blocks and threads of a kernel run in a shuffled order
        self.recorded: list[Any] | None = None  # launches of kernels, while they are recorded
        self.contexts: set[int] = set()  # devices that were made current or computed on
        self._thread = threading.local()
        # Work so far, and how much of it is over: on every stream, and by a stream's address
        self.work, self._over, self._over_on = 0, 0, dict[int, int]()
        # Copies to and from pinned memory: which work it is, its stream's address, and what ends it
        self.copies: list[tuple[int, int, Callable[[], None]]] = []
        self.atomics = 0  # atomic additions so far: the order of each is another one

    @property
    def current(self) -> int:
        """The current device of this thread: 0 in a new one, whatever the others have chosen."""
        return getattr(self._thread, "device", 0)

    @current.setter
    def current(self, device: int) -> None:
        if device in self.busy:
            raise cuda_error(46)
        self._thread.device = device
        self.contexts.add(device)

    def bind(self) -> None:
        """Give this thread a context, as calls of CUDA's runtime do, unlike those of its driver."""
        if not self.has_context:
            self.current = self.current

    @property
    def stream(self) -> Any:
        """The stream that this thread has made current; None for the null stream."""
        return getattr(self._thread, "stream", None)

    @stream.setter
    def stream(self, stream: Any) -> None:
        self._thread.stream = stream

    @property
    def stream_ptr(self) -> int:
        """The address of this thread's current stream; 0 for the null stream."""
        return 0 if self.stream is None else self.stream.ptr

    @property
    def thread_handles(self) -> dict[int, Any]:
        """This thread's handles of cuBLAS, by device."""
        if not hasattr(self._thread, "handles"):
            self._thread.handles = {}
        return self._thread.handles  # type: ignore[no-any-return]

    @property
    def has_context(self) -> bool:
        """Whether this thread has a context by now."""
        return hasattr(self._thread, "device")

    @contextlib.contextmanager
    def counting(self) -> Iterator[Counts]:
        """Counts of their own for what happens inside the ``with``; they stay as they are
        afterwards.
        """
        counts = Counts()
        self._open.append(counts)
        try:
            yield counts
        finally:
            self._open.remove(counts)

    @contextlib.contextmanager
    def recording(self) -> Iterator[list[Any]]:
        """Launches of kernels inside the ``with``, with their arguments: cpu_build.Launch."""
        self.recorded = []
        try:
            yield self.recorded
        finally:
            self.recorded = None

    def _record(self, events: str, event: Any) -> None:
        self.bind()
        for counts in (self, *self._open):
            getattr(counts, events).append(event)
            counts.events.append(event)

    def _place(self) -> Place:
        return place() if self._open else None

    def launch(self, kind: str, name: str, *scratch: int) -> None:
        """A launch, and the bytes of each piece of memory that CuPy takes for it besides its
        result.
        """
        if kind == "reduction" and self.cub_fails and "cub" in self.reduction_accelerators:
            error = real.look_up("cuda.compiler.CompileException")
            raise error("cub/cub.cuh(1): error: no such header", "", name, (), "nvrtc")
        where = self._place()
        self._record("launches", Launch(kind, name, where))
        for nbytes in filter(None, scratch):
            self._record("allocations", Allocation(nbytes, where))

    def allocate(self, nbytes: int) -> None:
        if nbytes:
            self._record("allocations", Allocation(nbytes, self._place()))

    def read(self, how: str) -> None:
        self.finish(self.stream_ptr)
        self._record("reads", Read(how, self._place()))

    def transfer(self, nbytes: int) -> None:
        self._record("transfers", Transfer(nbytes, self._place()))

    def wait(self, how: str, *mark: int) -> None:
        """Wait for what `finish` ends."""
        self.finish(*mark)
        self._record("waits", Wait(how, self._place()))

    def begin_copy(self, end: Callable[[], None]) -> None:
        """Begin a copy on the current stream; a wait calls `end`."""
        self.work += 1
        self.copies.append((self.work, self.stream_ptr, end))

    def finish(self, stream: int | None = None, work: int | None = None) -> None:
        """End the work up to a piece of it; on one stream, or on all."""
        work = self.work if work is None else work
        if stream is None:
            self._over = work
        else:
            self._over_on[stream] = max(work, self._over_on.get(stream, 0))
        begun, self.copies = self.copies, []
        for copy in begun:
            number, on, end = copy
            if number <= work and stream in (None, on):
                end()
            else:
                self.copies.append(copy)

    def is_over(self, stream: int, work: int) -> bool:
        """Whether a piece of work on a stream is known to be done."""
        return work <= max(self._over, self._over_on.get(stream, 0))


def cuda_error(status: int) -> Exception:
    """The error type of the real runtime, so that code that catches it is tested."""
    failure: Exception = real.look_up("cuda.runtime.CUDARuntimeError")(status)
    return failure


def place() -> str:
    """The nearest line of xpcap that led here, its conversions apart; without one, the nearest line
    outside the emulation.
    """
    frame: Any = sys._getframe(3)
    best: Any = None
    while frame is not None:
        path = frame.f_code.co_filename
        if path.startswith(PACKAGE):
            best = frame
            if path not in CONVERSIONS:
                break
        elif best is None and not path.startswith(HERE):
            best = frame
        frame = frame.f_back
    code = best.f_code
    return f"{known(code.co_filename)}:{best.f_lineno} ({code.co_name})"


@functools.cache
def known(path: str) -> str:
    """A file as a reader knows it: from the package on, or its name."""
    return (
        Path(path).relative_to(Path(PACKAGE).parent).as_posix()
        if path.startswith(PACKAGE)
        else Path(path).name
    )


# One a process: arrays and kernels made by one test speak to the machine that is installed now
EMULATOR = Emulator()
