"""The host's cores: xpcap divides work among them, and holds BLAS to one thread meanwhile.

BLAS can spread one product over the cores. But the work between two products stays on one core;
threads that share a small product wait for each other whenever another process occupies a core; and
the bits of results depend on their number. So xpcap divides batches and large products itself.
"""

import contextlib
import contextvars
import ctypes
import functools
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any, NamedTuple, TypeVar

import numpy as np
from threadpoolctl import ThreadpoolController

from xpcap.backend.plain_code import is_plain

AVX512 = ("SkylakeX", "Cooperlake", "SapphireRapids")  # OpenBLAS's names of processors


class _Library(NamedTuple):
    """A BLAS library's functions that read and set its number of threads."""

    threads: Callable[[], int]
    limit: Callable[[int], object]
    each_thread: bool  # a limit applies only to the thread that sets it


def _symbol(library: ctypes.CDLL, name: str) -> Any:
    """A function of an OpenBLAS, under any prefix or suffix of its names; None if it is missing."""
    names = (
        f"{prefix}{name}{suffix}" for prefix in ("", "scipy_") for suffix in ("", "64_", "_64", "_")
    )
    return next((getattr(library, full) for full in names if hasattr(library, full)), None)


def _library(controller: Any) -> _Library:
    """The functions of a library that threadpoolctl found.

    They are OpenBLAS's own, unless OpenMP runs its threads: threadpoolctl 3.8 and newer changes a
    limit only in the thread that first set one, and does nothing in any other.
    """
    openmp = getattr(controller, "threading_layer", None) == "openmp"
    if controller.internal_api == "openblas" and not openmp:
        library = ctypes.PyDLL(controller.filepath)  # these calls keep the interpreter's lock
        read, set_ = (_symbol(library, f"openblas_{verb}_num_threads") for verb in ("get", "set"))
        if read is not None and set_ is not None:
            return _Library(read, set_, False)
    return _Library(lambda: int(controller.num_threads), controller.set_num_threads, openmp)


class _Thread(threading.local):
    """A thread's holds of BLAS, and the limits to restore after them."""

    depth = 0  # number of nested `one_blas_thread`
    before: tuple[int, ...] = ()  # limits of the libraries with `each_thread`


class _Blas:
    """The BLAS libraries of this process; each has one thread while any thread holds them."""

    def __init__(self) -> None:
        controllers = ThreadpoolController().select(user_api="blas").lib_controllers
        libraries = [_library(controller) for controller in controllers]
        self._shared = [library for library in libraries if not library.each_thread]
        self._each_thread = [library for library in libraries if library.each_thread]
        # Whether all libraries compute small products without packing their factors first
        kernels = [
            controller.internal_api == "openblas" and getattr(controller, "architecture", "")
            for controller in controllers
        ]
        self.has_small_kernels = bool(kernels) and {*kernels} <= {*AVX512}
        self._lock = threading.Lock()  # guards the fields below
        self._holders = 0  # number of threads that hold the libraries
        self._before: list[int] = []  # limits of the shared libraries, to restore
        self._cores = 1
        self._thread = _Thread()

    def cores(self) -> int:
        with self._lock:
            return self._cores if self._holders else self._smallest_limit()

    def _smallest_limit(self) -> int:
        libraries = (*self._shared, *self._each_thread)
        return min((library.threads() for library in libraries), default=1)

    def limit(self, threads: int) -> None:
        for library in (*self._shared, *self._each_thread):
            library.limit(min(threads, library.threads()))

    def hold(self) -> None:
        """Limit the libraries to one thread, until this thread has called `release` as often."""
        self._thread.depth += 1
        if self._thread.depth > 1:
            return
        with self._lock:
            self._holders += 1
            if self._holders == 1:
                self._cores = self._smallest_limit()
                self._before = [library.threads() for library in self._shared]
                for library in self._shared:
                    library.limit(1)
        self._thread.before = tuple(library.threads() for library in self._each_thread)
        for library in self._each_thread:
            library.limit(1)

    def release(self) -> None:
        self._thread.depth -= 1
        if self._thread.depth:
            return
        with self._lock:
            self._holders -= 1
            if not self._holders:
                _restore(self._shared, self._before)
                self._before = []
        _restore(self._each_thread, self._thread.before)

    def after_fork(self) -> None:
        """Forget the other threads, which do not exist in a forked process."""
        self._lock = threading.Lock()
        if self._before and not self._thread.depth:
            _restore(self._shared, self._before)
            self._before = []
        self._holders = int(self._thread.depth > 0)


def _restore(libraries: Sequence[_Library], before: Sequence[int]) -> None:
    """Restore limits, except of a library whose limit the program has changed meanwhile."""
    for library, threads in zip(libraries, before, strict=True):
        if library.threads() == 1:
            library.limit(threads)


_blas = _Blas()


class one_blas_thread(contextlib.ContextDecorator):  # noqa: N801 - reads as a verb
    """Context, or decorator, that limits BLAS to one thread and then restores its limit.

    xpcap computes all products on the host inside it, unless plain code runs. So neither their bits
    nor their time next to a busy process depend on BLAS's threads or on other threads of the
    program.
    """

    def __enter__(self) -> None:
        if not is_plain():
            _blas.hold()

    def __exit__(self, *error: object) -> None:
        if not is_plain():
            _blas.release()


def has_small_kernels() -> bool:
    """True if BLAS computes small products without packing their factors first."""
    return _blas.has_small_kernels


def limit_cores(cores: int) -> None:
    """Use at most this number of the host's cores from now on."""
    _blas.limit(cores)


# ---- Parallel work

Item = TypeVar("Item")
Result = TypeVar("Result")

WORTH_WAKING = 1 << 24  # multiplications of a task that is worth waking a thread
_in_part = contextvars.ContextVar("xpcap_part", default=False)


@functools.cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(max(1, (os.cpu_count() or 1) - 1), thread_name_prefix="xpcap")


def _after_fork() -> None:
    """Forget the threads of the pool, which do not exist in a forked process."""
    _pool.cache_clear()
    _blas.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def cores() -> int:
    """Number of cores for parallel work: the threads that NumPy's BLAS may use.

    That is the number of the machine's cores, or a limit set by ``OPENBLAS_NUM_THREADS``,
    ``OMP_NUM_THREADS`` or threadpoolctl. It is 1 if BLAS cannot be limited to one thread, as
    Apple's Accelerate, and in plain code: there BLAS spreads its products itself.
    """
    return 1 if is_plain() else _blas.cores()


def free_cores() -> int:
    """`cores`, or 1 inside a part of parallel work, whose other parts use the other cores."""
    return 1 if _in_part.get() else cores()


def parallel_map(work: Callable[[Item], Result], parts: Sequence[Item]) -> list[Result]:
    """[work(part) for part in parts], in parallel: the first in this thread, the others in the pool.

    An exception is raised once all have ended. Inside another parallel map, and in plain code, the
    parts run one after the other. BLAS has one thread meanwhile, unless plain code runs.
    """
    run = one_blas_thread()(work)
    if len(parts) < 2 or _in_part.get() or is_plain():
        return [run(part) for part in parts]
    token = _in_part.set(True)
    futures: list[Future[Result]] = []
    submit = _pool().submit
    context = contextvars.copy_context
    try:
        futures.extend(submit(context().run, run, part) for part in parts[1:])
        first = run(parts[0])
    finally:
        wait(futures)
        _in_part.reset(token)
    return [first, *(future.result() for future in futures)]


def run_parallel(like: object, work: int, *tasks: Callable[[], object]) -> None:
    """Run independent tasks: in parallel on the host, one after the other on a device.

    `like` is an array of their library, `work` the number of multiplications of a task: a small
    task ends before a thread wakes.
    """
    if isinstance(like, np.ndarray) and work >= WORTH_WAKING:
        parallel_map(lambda task: task(), tasks)
    else:
        for task in tasks:
            task()


def divide(n: int, count: int) -> list[slice]:
    """0..n as `count` contiguous slices, whose sizes differ by at most one; some may be empty."""
    return [slice(n * k // count, n * (k + 1) // count) for k in range(count)]


def split_evenly(length: int, parts: int) -> list[slice]:
    """0..length divided into at most `parts` slices, none of them empty unless `length` is 0."""
    return divide(length, max(1, min(parts, length)))
