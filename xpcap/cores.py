"""Work side by side on the cores of the host, each with its own part of it, while BLAS keeps to one thread in each.

BLAS can spread a product over the cores by itself, but only a product: what lies between two products stays on one core, and BLAS's other threads
spin meanwhile, in the way of anybody else's. A part of the work for each core has its products and all between them on that core.
"""

import contextlib
import contextvars
import functools
import os
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any, TypeVar

from threadpoolctl import ThreadpoolController

Part = TypeVar("Part")
Outcome = TypeVar("Outcome")

BLAS_WAIT = "OPENBLAS_THREAD_TIMEOUT"  # for 2**this ticks of its clock an idle thread of OpenBLAS spins before it sleeps; 26 if nobody says
SHORT_WAIT = "20"  # a third of a millisecond, longer than most passes between two products


def _load_numpy() -> None:
    """Load NumPy so that its OpenBLAS has the short wait: in the usual one, of 30 to 100 ms, its threads are in the way of ours.

    It is read once, when the library is loaded. Where NumPy is there already, or the variable is set, all stays as it is.
    """
    if "numpy" in sys.modules or BLAS_WAIT in os.environ:
        return
    os.environ[BLAS_WAIT] = SHORT_WAIT
    try:
        import numpy  # noqa: F401
    finally:
        del os.environ[BLAS_WAIT]


_load_numpy()


class _Blas:
    """The BLAS libraries of this process, held to one thread while anybody works side by side."""

    def __init__(self) -> None:
        self._libraries = ThreadpoolController().select(user_api="blas")
        self._lock = threading.Lock()
        self._holders = 0
        self._limit: Any = None
        self._threads = 1

    def threads(self) -> int:
        """Threads that they may use, by whatever the environment or the caller set; 1 where there is none that can be told."""
        with self._lock:
            return self._threads if self._holders else min((library.num_threads for library in self._libraries.lib_controllers), default=1)

    @contextlib.contextmanager
    def on_one_thread(self) -> Iterator[None]:
        """The first to come sets the limit, the last to leave takes it off: others may work side by side at the same time."""
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


_beside = contextvars.ContextVar("xpcap_beside", default=False)


@functools.cache
def _blas() -> _Blas:
    return _Blas()


@functools.cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(max(1, (os.cpu_count() or 1) - 1), thread_name_prefix="xpcap")


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool.cache_clear)  # a forked process has none of its parent's threads


def cores() -> int:
    """Into how many parts work is worth cutting: the threads that NumPy's BLAS may use.

    That is the machine's cores or what ``OPENBLAS_NUM_THREADS``, ``OMP_NUM_THREADS`` or threadpoolctl made of them, and 1 where BLAS is one
    that cannot be held to one thread (Apple's Accelerate): it then spreads its products as it sees fit.
    """
    return _blas().threads()


def side_by_side(work: Callable[[Part], Outcome], parts: Sequence[Part]) -> list[Outcome]:
    """[work(part) for part in parts], the first in this thread and the others beside it. What one raises is raised once all have ended.

    Work that is itself done beside other work is not cut again: the cores are taken.
    """
    if len(parts) < 2 or _beside.get():
        return [work(part) for part in parts]
    token = _beside.set(True)
    try:
        with _blas().on_one_thread():
            others = [_pool().submit(contextvars.copy_context().run, work, part) for part in parts[1:]]
            try:
                first = work(parts[0])
            finally:
                wait(others)
    finally:
        _beside.reset(token)
    return [first, *(other.result() for other in others)]


def stretches(length: int, parts: int) -> list[slice]:
    """0..length as at most `parts` slices of nearly one size, none of them empty unless length is 0."""
    parts = max(1, min(parts, length))
    return [slice(length * k // parts, length * (k + 1) // parts) for k in range(parts)]
