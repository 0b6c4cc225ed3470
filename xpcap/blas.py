"""NumPy's BLAS library: how many threads it has, holding it to one, and keeping small products on one while another process needs the cores."""

import contextlib
import functools
import os
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

from threadpoolctl import ThreadpoolController

WAIT_VARIABLE = "OPENBLAS_THREAD_TIMEOUT"  # an idle thread of OpenBLAS spins for 2**this clock ticks before it sleeps; 26 by default
SHORT_WAIT = "20"  # a third of a millisecond: longer than most gaps between two products


def _load_numpy() -> None:
    """Load NumPy with the short wait: with the usual one, of 30 to 100 ms, OpenBLAS's idle threads get in the way of ours.

    OpenBLAS reads the variable once, when it is loaded. Where NumPy is there already, or the variable is set, all stays as it is.
    """
    if "numpy" in sys.modules or WAIT_VARIABLE in os.environ:
        return
    os.environ[WAIT_VARIABLE] = SHORT_WAIT
    try:
        import numpy  # noqa: F401
    finally:
        del os.environ[WAIT_VARIABLE]


_load_numpy()

import numpy as np  # noqa: E402 - loaded above


class Blas:
    """The BLAS libraries of this process."""

    def __init__(self) -> None:
        self._libraries = ThreadpoolController().select(user_api="blas")
        self._lock = threading.Lock()
        self._holders = 0
        self._limit: Any = None
        self._threads = 1

    def threads(self) -> int:
        """Threads that BLAS may use, as the environment or the caller set them; 1 where no library can be asked."""
        with self._lock:
            return self._threads if self._holders else min((library.num_threads for library in self._libraries.lib_controllers), default=1)

    def limit(self, threads: int) -> None:
        """Let BLAS use so many threads from now on, or as many as it has, if those are fewer."""
        self._libraries.limit(limits=min(threads, self.threads()))

    @contextlib.contextmanager
    def on_one_thread(self) -> Iterator[None]:
        """Hold BLAS to one thread. Of several holders at the same time the first sets the limit and the last takes it off."""
        threads = self.threads()
        with self._lock:
            if not self._holders:
                self._threads, self._limit = threads, self._libraries.limit(limits=1)
            self._holders += 1
        try:
            yield
        finally:
            with self._lock:
                self._holders -= 1
                if not self._holders:
                    self._limit.restore_original_limits()


@functools.cache
def blas() -> Blas:
    """The one of this process."""
    return Blas()


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
