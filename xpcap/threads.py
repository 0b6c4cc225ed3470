"""Threads: a lock on NumPy's BLAS for the program's threads, and parallel work on the host's cores.

BLAS can spread one product over the cores, but the work between two products stays on one core. A
part of the work for each core occupies both, with BLAS on one thread in each.

Import this before NumPy: it loads NumPy with a variable set that OpenBLAS reads as it is loaded.
"""

import contextlib
import contextvars
import ctypes
import dataclasses
import functools
import os
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, ParamSpec, TypeVar

from threadpoolctl import ThreadpoolController

# an idle thread of OpenBLAS spins for 2**this clock ticks before it sleeps; 26 by default
WAIT_VARIABLE = "OPENBLAS_THREAD_TIMEOUT"
SHORT_WAIT = "20"  # a third of a millisecond: longer than most gaps between two products
AVX512 = ("SkylakeX", "Cooperlake", "SapphireRapids")  # processors by OpenBLAS's names
PATIENCE = 0.2  # seconds: threads that spin after a product of the program's own sleep by then
FORK_PATIENCE = 5.0  # seconds that a fork waits for the lock on BLAS, held for a training step, say


@contextlib.contextmanager
def _short_wait() -> Iterator[None]:
    os.environ[WAIT_VARIABLE] = SHORT_WAIT
    try:
        yield
    finally:
        del os.environ[WAIT_VARIABLE]


# if so, it is too late for the variable: OpenBLAS reads it when it is loaded
NUMPY_CAME_FIRST = "numpy" in sys.modules
with contextlib.nullcontext() if NUMPY_CAME_FIRST or WAIT_VARIABLE in os.environ else _short_wait():
    # with the usual wait, of 30 to 100 ms, OpenBLAS's idle threads get in the way of ours
    import numpy as np


def symbol(library: ctypes.CDLL, name: str) -> Any:
    """A function of an OpenBLAS, under any prefix or suffix of its names; None if it is missing."""
    names = (
        f"{prefix}{name}{suffix}" for prefix in ("", "scipy_") for suffix in ("", "64_", "_64", "_")
    )
    return next((getattr(library, full) for full in names if hasattr(library, full)), None)


def shorten_wait(path: str) -> bool:
    """Let idle threads of a loaded OpenBLAS sleep after the short wait; return True if they do.

    The library reads the variable again and ends its threads, which start anew at the next product,
    as after a fork. It stays as it is where the caller has set the variable, where the library has
    no such functions, and where another thread of the process is at work: it may be at a product.
    """
    library = ctypes.PyDLL(path)  # these calls keep the interpreter's lock
    read, stop, wait = (
        symbol(library, name)
        for name in ("openblas_read_env", "blas_thread_shutdown", "openblas_thread_timeout")
    )
    if WAIT_VARIABLE in os.environ or None in (read, stop, wait) or wait() != 0:
        return False
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        time.sleep(1e-3)
        if _others_sleep():
            with _short_wait():
                read()
            stop()
            return bool(wait() == int(SHORT_WAIT))
    return False


def _others_sleep() -> bool:
    """True if all other threads sleep, as far as Linux shows, and cannot wake at once.

    Threads that wait for the interpreter's lock sleep. A thread that has just got it holds it for a
    switch interval at least, unless it gives it away.
    """
    if not sys.platform.startswith("linux") or not getattr(sys, "_is_gil_enabled", lambda: True)():
        return False
    libc, text = ctypes.PyDLL(None), ctypes.create_string_buffer(512)
    threads = list(Path("/proc/self/task").iterdir())  # gives the lock away for the last time
    start = time.monotonic()
    for thread in threads:
        if int(thread.name) == threading.get_native_id():
            continue
        # Python's own open and read would give it away again
        file = libc.open(bytes(thread / "stat"), os.O_RDONLY)
        size = libc.read(file, text, len(text))
        libc.close(file)
        if size > 0 and not text.raw[:size].rpartition(b")")[2].startswith(b" S"):
            return False
    return time.monotonic() - start < sys.getswitchinterval() / 2


P = ParamSpec("P")
R = TypeVar("R")


class Lock:
    """A reentrant lock that a forked process finds free.

    Any lock that outlives a call is one of these: a thread that held it when another one forked
    does not exist in the new process, and would never release it there.
    """

    _known: ClassVar["weakref.WeakSet[Lock]"] = weakref.WeakSet()

    def __init__(self) -> None:
        self._lock = threading.RLock()  # noqa: TID251 - in a Lock
        self._known.add(self)

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *error: object) -> None:
        self._lock.release()

    def acquire(self, timeout: float) -> bool:
        """Take the lock within some seconds; False: another thread kept it."""
        return self._lock.acquire(timeout=timeout)

    def release(self) -> None:
        """Give the lock back."""
        self._lock.release()

    @classmethod
    def free_all(cls) -> list["Lock"]:
        """Free all locks that other threads hold, and return those."""
        held = []
        for lock in list(cls._known):
            if lock.acquire(0):
                lock.release()
            else:
                lock._lock = threading.RLock()  # noqa: TID251 - in a Lock
                held.append(lock)
        return held


class _Library(NamedTuple):
    """A BLAS library's functions that read and set its number of threads."""

    threads: Callable[[], int]
    limit: Callable[[int], object]
    each_thread: bool  # whether a limit counts only for the thread that sets it


def _library(controller: Any) -> _Library:
    """The functions of a library that threadpoolctl found.

    OpenBLAS's own, unless OpenMP runs its threads: from threadpoolctl 3.8 on, only the thread that
    set a limit first may set another one, and elsewhere nothing happens.
    """
    openmp = getattr(controller, "threading_layer", None) == "openmp"
    if controller.internal_api == "openblas" and not openmp:
        library = ctypes.CDLL(controller.filepath)
        get, put = (symbol(library, f"openblas_{verb}_num_threads") for verb in ("get", "set"))
        if get is not None and put is not None:
            return _Library(get, put, False)
    return _Library(lambda: int(controller.num_threads), controller.set_num_threads, openmp)


# True in a part of parallel work: BLAS is on one thread, and its lock is held
in_part = contextvars.ContextVar("xpcap_part", default=False)


class Blas:
    """The BLAS libraries of this process, and the lock under which threads of the program use them.

    The number of BLAS threads belongs to the whole process, and a product's last bits depend on it.
    So threads that compute with xpcap hold a lock where BLAS has several: each sees all of them, or
    the one that it asked for.
    """

    def __init__(self) -> None:
        controllers = ThreadpoolController().select(user_api="blas").lib_controllers
        self._libraries = [_library(controller) for controller in controllers]
        openblas = [each for each in controllers if each.internal_api == "openblas"]
        if NUMPY_CAME_FIRST and len(openblas) == 1:  # of several, one is SciPy's
            shorten_wait(openblas[0].filepath)
        # Whether all libraries compute small products without packing their factors first
        kernels = [getattr(each, "architecture", "") for each in controllers]
        self.has_small_kernels = 0 < len(openblas) == len(controllers) and {*kernels} <= {*AVX512}
        self._blas_lock = Lock()
        self._waiting: set[object] = set()  # a request for each thread that waits for that lock
        self._counts_lock = Lock()  # of the next two
        self._before: list[int] | None = None  # threads of each library, while they are held to one
        self._threads = 1

    def threads(self) -> int:
        """Threads that BLAS may use, by environment or caller; 1 if no library can be asked."""
        with self._counts_lock:
            return self._threads if self._before is not None else self._smallest_limit()

    def _smallest_limit(self) -> int:
        return min([library.threads() for library in self._libraries], default=1)

    def limit(self, threads: int) -> None:
        """Limit BLAS to at most `threads` threads from now on."""
        for library in self._libraries:
            library.limit(min(threads, library.threads()))

    def keep_this_thread_to_one(self) -> None:
        """Limit BLAS to one thread for this thread of the pool, if limits belong to threads."""
        for library in self._libraries:
            if library.each_thread:
                library.limit(1)

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """A lock on all threads of BLAS, reentrant; none where BLAS has one thread."""
        if in_part.get() or self.threads() == 1:
            yield
            return
        request = object()
        self._waiting.add(request)
        try:
            with self._blas_lock:
                self._waiting.discard(request)
                yield
        finally:
            self._waiting.discard(request)

    def has_waiters(self) -> bool:
        """True while another thread waits for the lock."""
        return bool(self._waiting)

    def yield_to_waiters(self) -> None:
        """Let the threads that wait now have the lock first, between two pieces of long work."""
        before = set(self._waiting)
        while before & self._waiting:
            time.sleep(1e-3)  # a thread that wakes takes a tenth of that

    @contextlib.contextmanager
    def on_one_thread(self) -> Iterator[None]:
        """Hold the lock, and BLAS to one thread; then restore it, except for others' own changes."""
        with self.lock():
            if in_part.get() or self._before is not None or self.threads() == 1:
                yield
                return
            try:
                with self._counts_lock:
                    self._threads = self._smallest_limit()
                    self._before = [library.threads() for library in self._libraries]
                    for library in self._libraries:
                        library.limit(1)
                yield
            finally:
                self._give_back()

    def _give_back(self) -> None:
        with self._counts_lock:
            for library, threads in zip(self._libraries, self._before or (), strict=False):
                if library.threads() == 1:
                    library.limit(threads)
            self._before = None

    def begin_fork(self) -> bool:
        """Take the lock for a fork, if other threads allow it soon; True if `end_fork` must free it.

        Before a fork OpenBLAS ends its threads. If another thread is at a product then, one of them
        may sleep through that, and the fork, which waits for it, never returns.
        """
        return self.threads() > 1 and self._blas_lock.acquire(FORK_PATIENCE)

    def end_fork(self) -> None:
        """Free the lock after a fork."""
        self._blas_lock.release()

    def after_fork(self, held: Sequence[Lock]) -> None:
        """Forget the other threads, which a forked process does not have, and `held` their locks."""
        self._waiting.clear()
        if self._blas_lock in held:
            self._give_back()


_blas: Blas | None = None
_first = Lock()


def blas() -> Blas:
    """The process-wide instance, created at the first call."""
    global _blas
    if _blas is None:
        with _first:
            _blas = _blas or Blas()
    return _blas


def in_turn(function: Callable[P, R]) -> Callable[P, R]:
    """Decorator of functions whose products use all threads of BLAS: hold the lock on it.

    Only if the first argument that is an array, or has an array as `like`, is NumPy's.
    """

    @functools.wraps(function)
    def taking_turns(*args: P.args, **kwargs: P.kwargs) -> R:
        for argument in (*args, *kwargs.values()):
            first = getattr(argument, "like", argument)
            if hasattr(first, "dtype"):
                break
        if not isinstance(first, np.ndarray):
            return function(*args, **kwargs)
        with blas().lock():
            return function(*args, **kwargs)

    return taking_turns


@dataclasses.dataclass(slots=True)
class _Shape:
    """Times and bits of the products of one shape so far."""

    usual: float = np.inf  # fewest seconds on all threads
    single: float = np.inf  # fewest seconds on one thread
    compared: int = 0  # BLAS threads whose bits were compared with one thread's
    same: bool = False  # whether those were equal


class ContentionGuard:
    """Small products on one BLAS thread while another process occupies a core.

    A product on two threads waits for the slower one. If another process holds a core, that thread
    can be off the processor for many milliseconds, while OpenBLAS's other thread spins. On one
    thread the product would take less than twice its usual time. So a product that takes
    milliseconds longer than that shows contention: for a pause, products stay on one thread; then
    one of them tries all threads again. Pauses get longer while the contention lasts.

    Results do not depend on this: a shape goes to one thread only after a product of that shape
    gave the same bits both ways. A shape's first product in a pause is computed twice to find out;
    without contention none is. Factors that are mostly zero and results that are not finite prove
    nothing: then the next product of the shape is compared.
    """

    # seconds longer than on one thread; waking a thread takes a tenth, a neighbour's turn far more
    LATE = 2e-3
    MIN_PAUSE, MAX_PAUSE = 0.05, 2.0  # seconds
    MAX_SHAPES = 1024  # remembered; a step of 128 captions has up to 256, two per number of rows

    def __init__(self) -> None:
        self._shape = functools.lru_cache(self.MAX_SHAPES)(lambda key: _Shape())
        self._until, self._pause = 0.0, self.MIN_PAUSE

    def dot(self, x: np.ndarray, w: np.ndarray, out: np.ndarray) -> np.ndarray:
        """np.dot(x, w, out=out)."""
        shape = self._shape((x.shape, w.shape, x.strides, w.strides, x.dtype.char))
        start = time.perf_counter()
        if start < self._until:
            return self._in_pause(shape, x, w, out)
        np.dot(x, w, out=out)
        self._judge(shape, start, time.perf_counter())
        return out

    def _judge(self, shape: _Shape, start: float, end: float) -> None:
        """Set the pause by a product on all threads; the first one of a shape shows nothing."""
        seconds = end - start
        late = seconds - self.LATE
        alone = shape.single
        if alone == np.inf and late > shape.usual:
            alone = blas().threads() * shape.usual  # at most, until it is measured
        if late > alone:
            self._until, self._pause = end + self._pause, min(2 * self._pause, self.MAX_PAUSE)
        elif shape.usual < np.inf:
            self._pause = max(self._pause / 2, self.MIN_PAUSE)
        shape.usual = min(shape.usual, seconds)

    def _in_pause(self, shape: _Shape, x: np.ndarray, w: np.ndarray, out: np.ndarray) -> np.ndarray:
        """Compute on one thread if that is known to give the same bits; if unknown, compare."""
        threads = blas().threads()
        known = shape.compared == threads
        if known and shape.same:
            return self._alone(shape, x, w, out)
        np.dot(x, w, out=out)
        dense = (np.count_nonzero(factor) > factor.size // 4 for factor in (x, w))
        if not known and np.isfinite(out).all() and all(dense):
            shape.same = self._alone(shape, x, w).tobytes() == out.tobytes()
            shape.compared = threads
        return out

    def _alone(
        self, shape: _Shape, x: np.ndarray, w: np.ndarray, out: np.ndarray | None = None
    ) -> np.ndarray:
        """Compute on one thread, and time it."""
        with blas().on_one_thread():
            start = time.perf_counter()
            result: np.ndarray = np.dot(x, w, out=out)
            shape.single = min(shape.single, time.perf_counter() - start)
        return result


@functools.cache
def contention_guard() -> ContentionGuard:
    """The process-wide instance."""
    return ContentionGuard()


Item = TypeVar("Item")
Result = TypeVar("Result")

WORTH_WAKING = 1 << 24  # multiplications


@functools.cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(
        max(1, (os.cpu_count() or 1) - 1),
        thread_name_prefix="xpcap",
        initializer=blas().keep_this_thread_to_one,
    )


class _Fork(threading.local):
    """The locks that a thread holds while it forks."""

    has_blas = has_gate = False


_fork = _Fork()
_gate = Lock()  # to begin calls that a fork waits for
_calls: set[object] = set()  # that are under way, one for each


@contextlib.contextmanager
def before_forks() -> Iterator[None]:
    """Make forks wait for a call into a library that has locks of its own.

    A process that is forked while another thread holds such a lock would wait for it for ever.
    """
    call = object()
    with _gate:
        _calls.add(call)
    try:
        yield
    finally:
        _calls.discard(call)


def _before_fork() -> None:
    end = time.monotonic() + FORK_PATIENCE
    _fork.has_blas = _blas is not None and _blas.begin_fork()
    _fork.has_gate = _gate.acquire(max(0.0, end - time.monotonic()))
    while _calls and time.monotonic() < end:
        time.sleep(1e-3)


def _after_fork_in_parent() -> None:
    if _fork.has_gate:
        _gate.release()
    if _fork.has_blas and _blas is not None:
        _blas.end_fork()
    _fork.has_blas = _fork.has_gate = False


def _after_fork_in_child() -> None:
    """Let go of what the parent's other threads held: a forked process has none of them."""
    _pool.cache_clear()
    _calls.clear()
    held = Lock.free_all()
    if _blas is not None:
        _blas.after_fork(held)
    _after_fork_in_parent()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_before_fork,
        after_in_parent=_after_fork_in_parent,
        after_in_child=_after_fork_in_child,
    )


def cores() -> int:
    """Number of cores for parallel work: the threads that NumPy's BLAS may use.

    That is the number of the machine's cores, or a limit set by ``OPENBLAS_NUM_THREADS``,
    ``OMP_NUM_THREADS`` or threadpoolctl. It is 1 where BLAS cannot be held to one thread (Apple's
    Accelerate), which then spreads its products itself.
    """
    return blas().threads()


def free_cores() -> int:
    """`cores`, or 1 inside a part of parallel work, whose other cores are taken."""
    return 1 if in_part.get() else blas().threads()


def parallel_map(work: Callable[[Item], Result], parts: Sequence[Item]) -> list[Result]:
    """[work(part) for part in parts], in parallel: the first in this thread, the others in the pool.

    An exception is raised once all have ended. Within another parallel map the parts are done one
    after the other. Waits while another thread of the program works in parallel.
    """
    if len(parts) < 2 or in_part.get():
        return [work(part) for part in parts]
    with blas().on_one_thread():
        token = in_part.set(True)
        try:
            futures = [
                _pool().submit(contextvars.copy_context().run, work, part) for part in parts[1:]
            ]
            try:
                first = work(parts[0])
            finally:
                wait(futures)
        finally:
            in_part.reset(token)
    return [first, *(future.result() for future in futures)]


def run_parallel(like: object, work: int, *tasks: Callable[[], object]) -> None:
    """Run independent tasks: in parallel on the host, in turn on a device, which has its own cores.

    `like` is an array of their library, `work` the multiplications of a task; a small task is done
    before a thread has woken.
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
    """0..length divided into at most `parts` slices, none of which is empty unless `length` is 0."""
    return divide(length, max(1, min(parts, length)))
