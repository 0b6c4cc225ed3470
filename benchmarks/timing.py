"""Clocks and blocks of steps that time work; and a machine's speed, description and load."""

import contextlib
import math
import os
import platform
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import numpy as np

from xpcap import __version__
from xpcap.backend import Array, get_array_module, get_backend, is_device_array
from xpcap.backend.plain_code import current_code
from xpcap.backend.switch import array_module

# Runs a function, and returns its milliseconds
Clock = Callable[[Callable[[], object]], float]


@dataclass(frozen=True)
class Plan:
    """How much to time.

    Contenders take turns for `rounds` rounds. In each round a contender runs an untimed cycle
    through its `batches`, which may compile kernels, then warms up for at least one more cycle and
    `warm_ms`, then runs `blocks` blocks of complete cycles, each of about `block_ms`. The time of a
    round is its median block, and the time of a contender its median round.

    If a step of the second cycle takes longer than `slow_ms`, the warm-up ends there, and the
    `blocks` blocks are spread over all rounds.
    """

    rounds: int = 3
    batches: int = 3
    warm_ms: float = 300.0
    blocks: int = 3
    block_ms: float = 200.0
    slow_ms: float = 500.0
    product: int = 2048  # size of the square matrices multiplied between blocks


USUAL = Plan()


def host_clock(work: Callable[[], object]) -> float:
    """Milliseconds of wall-clock time."""
    start = time.perf_counter()
    work()
    return 1e3 * (time.perf_counter() - start)


def device_clock(xp: ModuleType) -> Clock:
    """A clock for the current CuPy device: milliseconds between two events, from an idle device."""

    def clock(work: Callable[[], object]) -> float:
        start, end = xp.cuda.Event(), xp.cuda.Event()
        xp.cuda.Device().synchronize()
        start.record()
        work()
        end.record()
        end.synchronize()
        return float(xp.cuda.get_elapsed_time(start, end))

    return clock


def clock_of(like: Array) -> Clock:
    """The clock for work on the device that holds `like`."""
    return device_clock(get_array_module(like)) if is_device_array(like) else host_clock


class Timer:
    """A timer of `step`, a function of the batch number: `warm_up` first, then `run`."""

    def __init__(self, step: Callable[[int], object], clock: Clock, plan: Plan) -> None:
        self._step, self._clock, self._plan = step, clock, plan
        self._count, self._blocks = 1, plan.blocks  # cycles in a block, blocks

    def warm_up(self) -> None:
        """Run until memory, caches and clock rates are stable; choose the cycles of a block."""
        plan = self._plan
        self._cycles(1)
        total_ms = cycle_ms = self._cycles(1)
        if cycle_ms > plan.slow_ms * plan.batches:
            self._blocks = math.ceil(plan.blocks / plan.rounds)
        else:
            while total_ms < plan.warm_ms:
                total_ms += (cycle_ms := self._cycles(1))
        self._count = max(1, math.ceil(plan.block_ms / cycle_ms)) if cycle_ms > 0 else 1

    def run(self, between: Callable[[], object] | None = None) -> float:
        """Milliseconds per step, the median over blocks; `between` is called before and after each.

        An untimed cycle follows each call, because BLAS threads may spin for 30 to 100 ms after a
        product and slow the first steps.
        """
        times = []
        for _ in range(self._blocks):
            if between is not None:
                between()
                self._cycles(1)
            times.append(self._cycles(self._count))
        if between is not None:
            between()
        return statistics.median(times) / (self._count * self._plan.batches)

    def _cycles(self, count: int) -> float:
        def work() -> None:
            for _ in range(count):
                for k in range(self._plan.batches):
                    self._step(k)  # the result is freed at once, as in training

        return self._clock(work)


class MatrixProduct:
    """Gauges a backend's speed: each call times a product of two float32 matrices (size, size)."""

    def __init__(self, xp: ModuleType, size: int) -> None:
        a, b = np.random.default_rng(0).standard_normal((2, size, size), dtype=np.float32)
        self._xp, self._a, self._b = xp, xp.asarray(a), xp.asarray(b)
        self._out = xp.zeros_like(self._a)
        self._clock = clock_of(self._a)
        self._times: list[float] = []
        self()  # warms up
        self._times.clear()

    def __call__(self) -> None:
        self._times.append(self._clock(lambda: self._xp.dot(self._a, self._b, out=self._out)))

    @property
    def gflops(self) -> float:
        """GFLOP/s, the median over calls; a multiplication and an addition are two operations."""
        return 2 * len(self._a) ** 3 / statistics.median(self._times) / 1e6


# The machine

DRIVER = Path("/proc/driver/nvidia/version")
PROCESSOR = Path("/proc/cpuinfo")
STATUS = Path("/proc/self/status")
# Environment variables in the order in which OpenBLAS reads them
THREADS = ("OPENBLAS_NUM_THREADS", "GOTO_NUM_THREADS", "OMP_NUM_THREADS")


def machine() -> dict[str, str]:
    """Processor or GPU, and versions, for the current backend."""
    versions = {"numpy": np.__version__, "python": platform.python_version(), "xpcap": __version__}
    host = {
        "backend": get_backend(),
        "code": current_code(),
        "processor": f"{processor()}, {os.cpu_count()} cores",
    }
    xp = array_module()
    if xp is np:
        return {**host, "blas": blas(), "blas_threads": blas_threads(), **versions}
    runtime = xp.cuda.runtime
    name = runtime.getDeviceProperties(xp.cuda.Device().id)["name"]
    gpu = {
        "gpu": name.decode() if isinstance(name, bytes) else str(name),
        "driver": f"{driver()} (CUDA {cuda_version(runtime.driverGetVersion())})",
        "cuda_runtime": cuda_version(runtime.runtimeGetVersion()),  # CuPy's own
        "cupy": xp.__version__,
    }
    return {**gpu, **host, **versions}


def cuda_version(number: int) -> str:
    """CUDA's version number as people write it: 13020 is 13.2."""
    return f"{number // 1000}.{number % 1000 // 10}"


def driver() -> str:
    """Version of NVIDIA's kernel module, as Linux reports it."""
    text = DRIVER.read_text() if DRIVER.is_file() else ""
    match = re.search(r"Kernel Module.*?\s(\d+\.[\d.]+)", text)
    return match[1] if match else "unknown version"


def processor() -> str:
    """Name of the processor, from Linux if possible, else from Python."""
    text = PROCESSOR.read_text() if PROCESSOR.is_file() else ""
    match = re.search(r"model name\s*: (.*)", text)
    return match[1] if match else platform.processor() or platform.machine()


def blas() -> str:
    """NumPy's BLAS library and its version."""
    library = np.show_config(mode="dicts")["Build Dependencies"]["blas"]
    return f"{library.get('name', 'unknown')} {library.get('version', '')}".strip()


def blas_threads() -> str:
    """Number of BLAS threads: from the environment, or the number of cores of this process."""
    settings = [os.environ[name] for name in THREADS if os.environ.get(name)]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return settings[0] if settings else str(cores)


def peak_memory() -> int | None:
    """Peak resident memory of this process in bytes, as Linux reports it; None elsewhere."""
    text = STATUS.read_text() if STATUS.is_file() else ""
    match = re.search(r"^VmHWM:\s*(\d+) kB", text, re.MULTILINE)
    return 1024 * int(match[1]) if match else None


# A busy machine

SPIN = """
import os, sys, threading
# It ends when its parent does
threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()
while True:
    pass
"""


@contextlib.contextmanager
def busy_process() -> Iterator[None]:
    """Keep a core busy with a process of another session; Linux divides time between sessions."""
    with subprocess.Popen(
        [sys.executable, "-c", SPIN], stdin=subprocess.PIPE, start_new_session=True
    ) as child:
        try:
            yield
        finally:
            child.kill()
