"""NumPy's BLAS: its threads, taken by one thread of the program at a time, and keeping small products on one while another process needs the cores."""

import contextlib
import contextvars
import ctypes
import functools
import os
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, ParamSpec, TypeVar

import numpy as np
from threadpoolctl import ThreadpoolController

from xpcap.openblas import NUMPY_CAME_FIRST, shorten_wait, symbol

P = ParamSpec("P")
R = TypeVar("R")


class _Library(NamedTuple):
    """A BLAS library, and how to read and set its number of threads."""

    threads: Callable[[], int]
    limit: Callable[[int], object]
    each_thread: bool  # whether a limit counts only for the thread that sets it


def _library(found: Any) -> _Library:
    """The functions of a library that threadpoolctl found.

    OpenBLAS's own, unless OpenMP runs its threads: from threadpoolctl 3.8 on, only the thread that set a limit first may set another one, and
    elsewhere nothing happens.
    """
    openmp = getattr(found, "threading_layer", None) == "openmp"
    if found.internal_api == "openblas" and not openmp:
        library = ctypes.CDLL(found.filepath)
        get, put = symbol(library, "openblas_get_num_threads"), symbol(library, "openblas_set_num_threads")
        if get is not None and put is not None:
            return _Library(get, put, False)
    return _Library(lambda: int(found.num_threads), found.set_num_threads, openmp)


in_part = contextvars.ContextVar("xpcap_part", default=False)  # a part of work on several cores: BLAS is on one thread, and the turn is taken


class Blas:
    """The BLAS libraries of this process.

    Their number of threads belongs to the whole process, and a product's last bits depend on it. So threads of the program that compute with xpcap
    take turns where BLAS has several threads: each sees all of them, or the one that it asked for.
    """

    def __init__(self) -> None:
        found = ThreadpoolController().select(user_api="blas").lib_controllers
        self._libraries = [_library(library) for library in found]
        openblas = [library.filepath for library in found if library.internal_api == "openblas"]
        if NUMPY_CAME_FIRST and len(openblas) == 1:  # of several, one is SciPy's
            shorten_wait(openblas[0])
        self._turn = threading.RLock()
        self._waiting: set[object] = set()  # a request for each thread that waits for its turn
        self._lock = threading.Lock()  # of the next two
        self._before: list[int] | None = None  # threads of each library, while they are held to one
        self._threads = 1

    def threads(self) -> int:
        """Threads that BLAS may use, as the environment or the caller set them; 1 where no library can be asked."""
        with self._lock:
            return self._threads if self._before is not None else self._least()

    def _least(self) -> int:
        return min([library.threads() for library in self._libraries], default=1)

    def limit(self, threads: int) -> None:
        """Let BLAS use so many threads from now on, or as many as it has, if those are fewer."""
        for library in self._libraries:
            library.limit(min(threads, library.threads()))

    def keep_this_thread_to_one(self) -> None:
        """For a thread that only ever works on parts: where each thread has a limit of its own, set this one's."""
        for library in self._libraries:
            if library.each_thread:
                library.limit(1)

    @contextlib.contextmanager
    def turn(self) -> Iterator[None]:
        """Have all threads of BLAS: other threads of the program that want them wait, or that hold them to one are waited for.

        A thread may take the turn again within its own. With one thread of BLAS there is nothing to wait for.
        """
        if in_part.get() or self.threads() == 1:
            yield
            return
        request = object()
        self._waiting.add(request)
        try:
            with self._turn:
                self._waiting.discard(request)
                yield
        finally:
            self._waiting.discard(request)

    def wanted(self) -> bool:
        """True while another thread waits for its turn."""
        return bool(self._waiting)

    def give_way(self) -> None:
        """Between two turns of long work: let the threads that wait now have theirs first."""
        before = set(self._waiting)
        while before & self._waiting:
            time.sleep(1e-3)  # a thread that wakes takes a tenth of that

    @contextlib.contextmanager
    def on_one_thread(self) -> Iterator[None]:
        """Hold BLAS to one thread, for a turn, and give back what it had. What was set by somebody else meanwhile stays."""
        with self.turn():
            if in_part.get() or self._before is not None or self.threads() == 1:
                yield
                return
            try:
                with self._lock:
                    self._threads, self._before = self._least(), [library.threads() for library in self._libraries]
                    for library in self._libraries:
                        library.limit(1)
                yield
            finally:
                self._give_back()

    def _give_back(self) -> None:
        with self._lock:
            for library, threads in zip(self._libraries, self._before or (), strict=False):
                if library.threads() == 1:
                    library.limit(threads)
            self._before = None

    def after_fork(self) -> None:
        """In a forked process: end a turn of a thread that is not there any more."""
        self._lock = threading.Lock()
        if self._turn.acquire(blocking=False):
            self._turn.release()
        else:
            self._turn = threading.RLock()
            self._give_back()


_blas: Blas | None = None
_first = threading.Lock()


def blas() -> Blas:
    """The one of this process, made at the first call."""
    global _blas
    if _blas is None:
        with _first:
            _blas = _blas or Blas()
    return _blas


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=lambda: _blas.after_fork() if _blas else None)


def in_turn(function: Callable[P, R]) -> Callable[P, R]:
    """Decorate a function whose products use all threads of BLAS: it takes a turn if its first argument is a host array, or has one as `like`."""

    @functools.wraps(function)
    def taking_turns(*args: P.args, **kwargs: P.kwargs) -> R:
        first = args[0] if args else next(iter(kwargs.values()), None)
        if not isinstance(getattr(first, "like", first), np.ndarray):
            return function(*args, **kwargs)
        with blas().turn():
            return function(*args, **kwargs)

    return taking_turns


class Crowding:
    """Notices that another process keeps a core busy, and takes small products on one BLAS thread until it has gone.

    A product on two threads waits for the slower one. If a process of another login holds a core, that thread can be off the processor for
    many milliseconds, while OpenBLAS's other thread spins. On one thread the product would take less than twice its usual time, neighbour or
    not. So a product that takes milliseconds longer than it is known to take on one thread gives the neighbour away: for a pause, products
    stay on one thread; then one of them tries all threads again. Pauses get longer while the neighbour stays.

    Results do not depend on any of this: a shape goes to one thread only after a product of that shape gave the same bits both ways. Where its
    first factors are mostly zero, equal bits say nothing, and the shape stays on all threads.
    """

    LATE = 2e-3  # seconds longer than on one thread: waking a sleeping thread takes a tenth of that, a neighbour's turn several times as long
    SHORTEST, LONGEST = 0.05, 2.0  # seconds of a pause

    def __init__(self) -> None:
        self._known: dict[Any, float] = {}  # by shapes: the fewest seconds on one thread; infinite where bits differ
        self._until, self._pause = 0.0, self.SHORTEST

    def dot(self, x: np.ndarray, w: np.ndarray, out: np.ndarray) -> np.ndarray:
        """np.dot(x, w, out=out)."""
        key = (x.shape, w.shape, x.strides, w.strides, x.dtype.char)
        single, start = self._known.get(key), time.perf_counter()
        if single is None:
            return self._learn(key, x, w, out)
        if start < self._until and single < np.inf:
            with blas().on_one_thread():
                np.dot(x, w, out=out)
            self._known[key] = min(single, time.perf_counter() - start)
            return out
        np.dot(x, w, out=out)
        self._judge(start, time.perf_counter(), single + self.LATE)
        return out

    def _judge(self, start: float, end: float, most: float) -> None:
        """Learn from a product on all threads that took from `start` to `end`, where up to `most` seconds are usual."""
        if end - start > most:
            self._until, self._pause = end + self._pause, min(2 * self._pause, self.LONGEST)
        elif most < np.inf:
            self._pause = max(self._pause / 2, self.SHORTEST)

    def _learn(self, key: Any, x: np.ndarray, w: np.ndarray, out: np.ndarray) -> np.ndarray:
        """A shape's first product, both ways: are the bits the same, and how long does one thread take?"""
        telling = all(np.count_nonzero(factor) > factor.size // 4 for factor in (x, w))
        with blas().on_one_thread():
            start = time.perf_counter()
            alone = np.dot(x, w)
            seconds = time.perf_counter() - start
        np.dot(x, w, out=out)
        self._known[key] = seconds if telling and np.array_equal(alone, out, equal_nan=True) else np.inf
        return out


@functools.cache
def crowding() -> Crowding:
    """The one of this process."""
    return Crowding()
