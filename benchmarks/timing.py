"""How work is timed: clocks, a warm-up, the median over blocks of steps, and a matrix product between blocks to gauge the machine."""

import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType

import numpy as np

from xpcap.backend import Array, get_array_module, is_device_array

Clock = Callable[[Callable[[], object]], float]  # runs a function and returns the milliseconds it took


@dataclass(frozen=True)
class Plan:
    """How much to time.

    Contenders take turns for `rounds` rounds. In each round a contender runs an untimed cycle through its `batches`, in which kernels may be
    compiled, warms up for at least one more and `warm_ms`, then runs `blocks` blocks of whole cycles, about `block_ms` each. The median block
    stands for the round, the median round for the contender.

    If a step of the second cycle takes longer than `slow_ms`, the warm-up ends there, and the `blocks` blocks are spread over all rounds.
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
    """A clock for the current CuPy device: milliseconds between an event before the work and one after it, on an otherwise idle device."""

    def clock(work: Callable[[], object]) -> float:
        before, behind = xp.cuda.Event(), xp.cuda.Event()
        xp.cuda.Device().synchronize()
        before.record()
        work()
        behind.record()
        behind.synchronize()
        return float(xp.cuda.get_elapsed_time(before, behind))

    return clock


def clock_of(like: Array) -> Clock:
    """The clock for work on the device that holds `like`."""
    return device_clock(get_array_module(like)) if is_device_array(like) else host_clock


class Timer:
    """Times `step`, a function of the batch number. Call `warm_up` first, then `run`."""

    def __init__(self, step: Callable[[int], object], clock: Clock, plan: Plan) -> None:
        self._step, self._clock, self._plan = step, clock, plan
        self._count, self._blocks = 1, plan.blocks  # cycles in a block, blocks

    def warm_up(self) -> None:
        """Run until memory, caches and clock rates have settled, and work out how many cycles make a block."""
        plan = self._plan
        self._cycles(1)
        spent = once = self._cycles(1)
        if once > plan.slow_ms * plan.batches:
            self._blocks = math.ceil(plan.blocks / plan.rounds)
        else:
            while spent < plan.warm_ms:
                spent += (once := self._cycles(1))
        self._count = max(1, math.ceil(plan.block_ms / once)) if once > 0 else 1

    def run(self, between: Callable[[], object] | None = None) -> float:
        """Milliseconds per step, the median over blocks. `between` is called before each block and after the last.

        An untimed cycle follows each call, because BLAS threads may spin for 30 to 100 ms after a product and slow the first steps.
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
                    self._step(k)  # a result is let go at once, as in training

        return self._clock(work)


class MatrixProduct:
    """Gauges how fast a backend multiplies two float32 matrices (size, size). Each call times one product; `gflops` is their median."""

    def __init__(self, xp: ModuleType, size: int) -> None:
        a, b = np.random.default_rng(0).standard_normal((2, size, size), dtype=np.float32)
        self._xp, self._a, self._b = xp, xp.asarray(a), xp.asarray(b)
        self._out = xp.zeros_like(self._a)
        self._clock = clock_of(self._a)
        self._times: list[float] = []
        self()  # to warm up
        self._times.clear()

    def __call__(self) -> None:
        """Time one product."""
        self._times.append(self._clock(lambda: self._xp.dot(self._a, self._b, out=self._out)))

    @property
    def gflops(self) -> float:
        """GFLOP/s, the median over calls; a multiplication and an addition count as two operations."""
        return 2 * len(self._a) ** 3 / statistics.median(self._times) / 1e6
