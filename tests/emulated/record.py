"""What the emulated device did: launches, reads, transfers and waits, each with the place in the program that asked for it."""

import contextlib
import functools
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import xpcap

HERE = str(Path(__file__).parent) + os.sep
PACKAGE = str(Path(xpcap.__file__).parent) + os.sep
CONVERSIONS = PACKAGE + "backend.py"  # to_numpy and asarray: who called them says more


class Launch(NamedTuple):
    """One piece of work given to the device: a kernel, a product, a memset or a copy on the device."""

    kind: str  # elementwise, reduction, product, gather, scatter, copy, memset, scan, sort or raw
    name: str
    place: str


class Read(NamedTuple):
    """One wait for a value that the host wanted: from get() to an f-string. `how` names the way."""

    how: str
    place: str


class Transfer(NamedTuple):
    """One copy from the host to the device."""

    nbytes: int
    place: str


class Wait(NamedTuple):
    """One synchronisation that reads nothing."""

    how: str
    place: str


class Counts:
    """Everything the device did while these counts were open, in order."""

    def __init__(self) -> None:
        self.launches: list[Launch] = []
        self.reads: list[Read] = []
        self.transfers: list[Transfer] = []
        self.waits: list[Wait] = []
        self.events: list[Launch | Read | Transfer | Wait] = []  # all of them, in order

    def kinds(self) -> Counter[str]:
        """Launches by kind."""
        return Counter(launch.kind for launch in self.launches)

    def names(self) -> Counter[str]:
        """Launches by kind and name, as in ``"product dot"``."""
        return Counter(f"{launch.kind} {launch.name}" for launch in self.launches)

    def places(self) -> Counter[str]:
        """Launches by the line that asked for them: where the time goes."""
        return Counter(launch.place for launch in self.launches)

    def reset(self) -> None:
        """Forget what was counted so far."""
        for events in (self.launches, self.reads, self.transfers, self.waits, self.events):
            events.clear()

    def __str__(self) -> str:
        launches = ", ".join(f"{count} {kind}" for kind, count in self.kinds().most_common())
        return f"{len(self.launches)} launches ({launches}), {len(self.reads)} reads, {len(self.transfers)} transfers, {len(self.waits)} waits"


class Emulator(Counts):
    """The emulated machine: what it counted since it was installed or reset, and what it pretends to be."""

    def __init__(self) -> None:
        super().__init__()
        self._open: list[Counts] = []
        self.configure()

    def configure(self, devices: int = 1, name: str = "emulated", free: int = 8 << 30, total: int = 16 << 30) -> None:
        """A fresh machine: number of devices, their name, bytes free and in all on each."""
        self.reset()
        self._open.clear()
        self.devices, self.name, self.free, self.total = devices, name, free, total
        self.pool_used, self.pool_free = 0, 0  # bytes that CuPy's memory pool says it has given out, and holds back
        self.current = 0  # the current device
        self.clock = 0  # synchronisations so far; an event is ready once one came after it
        self.copies: list[Callable[[], None]] = []  # to pinned memory, in order; what they bring is there after a wait
        self.atomics = 0  # atomic additions so far: the order of each is another one

    @contextlib.contextmanager
    def counting(self) -> Iterator[Counts]:
        """Counts of their own for what happens inside the ``with``; they stay as they are afterwards."""
        counts = Counts()
        self._open.append(counts)
        try:
            yield counts
        finally:
            self._open.remove(counts)

    def _record(self, events: str, event: Any) -> None:
        for counts in (self, *self._open):
            getattr(counts, events).append(event)
            counts.events.append(event)

    def launch(self, kind: str, name: str) -> None:
        self._record("launches", Launch(kind, name, place()))

    def read(self, how: str) -> None:
        self.clock += 1
        self.arrive()
        self._record("reads", Read(how, place()))

    def transfer(self, nbytes: int) -> None:
        self._record("transfers", Transfer(nbytes, place()))

    def wait(self, how: str, begun: int | None = None) -> None:
        """Wait for everything, or for the first `begun` copies to pinned memory."""
        self.clock += 1
        self.arrive(begun)
        self._record("waits", Wait(how, place()))

    def arrive(self, begun: int | None = None) -> None:
        for i, bring in enumerate(self.copies[:begun]):
            bring()
            self.copies[i] = lambda: None


def place() -> str:
    """The nearest line of xpcap that led here, its conversions apart; without one, the nearest line outside the emulation."""
    frame: Any = sys._getframe(2)
    best: Any = None
    while frame is not None:
        path = frame.f_code.co_filename
        if path.startswith(PACKAGE):
            best = frame
            if path != CONVERSIONS:
                break
        elif best is None and not path.startswith(HERE):
            best = frame
        frame = frame.f_back
    return "?" if best is None else f"{known(best.f_code.co_filename)}:{best.f_lineno} ({best.f_code.co_name})"


@functools.cache
def known(path: str) -> str:
    """A file as a reader knows it: from the package on, or its name."""
    return Path(path).relative_to(Path(PACKAGE).parent).as_posix() if path.startswith(PACKAGE) else Path(path).name


EMULATOR = Emulator()  # one a process: arrays and kernels made by one test speak to the machine that is installed now
