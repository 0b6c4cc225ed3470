"""OpenBLAS's own functions, and how long its idle threads spin before they sleep. Loads NumPy, so it is imported before anything else does."""

import contextlib
import ctypes
import os
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

WAIT_VARIABLE = "OPENBLAS_THREAD_TIMEOUT"  # an idle thread of OpenBLAS spins for 2**this clock ticks before it sleeps; 26 by default
SHORT_WAIT = "20"  # a third of a millisecond: longer than most gaps between two products
PATIENCE = 0.2  # seconds: threads that spin after a product of the program's own sleep by then


@contextlib.contextmanager
def _short_wait() -> Iterator[None]:
    os.environ[WAIT_VARIABLE] = SHORT_WAIT
    try:
        yield
    finally:
        del os.environ[WAIT_VARIABLE]


NUMPY_CAME_FIRST = "numpy" in sys.modules  # then it is too late for the variable: OpenBLAS reads it when it is loaded
if not NUMPY_CAME_FIRST and WAIT_VARIABLE not in os.environ:
    with _short_wait():  # with the usual one, of 30 to 100 ms, OpenBLAS's idle threads get in the way of ours
        import numpy  # noqa: F401


def symbol(library: Any, name: str) -> Any:
    """A function of an OpenBLAS, whose names may have been built with a prefix or suffix; None where it has none of that name."""
    names = (f"{prefix}{name}{suffix}" for prefix in ("", "scipy_") for suffix in ("", "64_", "_64", "_"))
    return next((getattr(library, full) for full in names if hasattr(library, full)), None)


def shorten_wait(path: str) -> bool:
    """Let the idle threads of an OpenBLAS that is loaded already sleep after the short wait; return whether they do.

    The library reads the variable again and ends its threads, which start anew at the next product, as after a fork. It stays as it is where the
    caller has set the variable, where the library has no such functions, and where another thread of the process is at work: it may be at a product.
    """
    library = ctypes.PyDLL(path)  # these calls keep the interpreter's lock
    read, stop, wait = (symbol(library, name) for name in ("openblas_read_env", "blas_thread_shutdown", "openblas_thread_timeout"))
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
    """True if all other threads of the process sleep, as far as Linux tells, and none of Python's can wake before this one has acted on it.

    Threads that wait for the interpreter's lock sleep. A thread that has just got it keeps it for a switch interval at least, unless it gives it away.
    """
    if not sys.platform.startswith("linux") or not getattr(sys, "_is_gil_enabled", lambda: True)():
        return False
    libc, text = ctypes.PyDLL(None), ctypes.create_string_buffer(512)
    threads = list(Path("/proc/self/task").iterdir())  # gives the lock away for the last time
    start = time.monotonic()
    for thread in threads:
        if int(thread.name) == threading.get_native_id():
            continue
        file = libc.open(bytes(thread / "stat"), os.O_RDONLY)  # Python's own open and read would give it away again
        size = libc.read(file, text, len(text))
        libc.close(file)
        if size > 0 and not text.raw[:size].rpartition(b")")[2].startswith(b" S"):
            return False
    return time.monotonic() - start < sys.getswitchinterval() / 2
