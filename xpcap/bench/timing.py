"""How a step is timed: a clock, a warm-up, and the median of blocks of steps."""

import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType

from xpcap.backend import Array, get_array_module, is_device_array

Clock = Callable[[Callable[[], object]], float]  # runs what it is given, and says how many milliseconds that took


@dataclass(frozen=True)
class Plan:
    """How much is timed.

    Contenders take turns for `rounds` rounds. In each one warms up for at least two cycles through its `batches` and `warm_ms`, then runs
    `blocks` blocks of whole cycles, of about `block_ms` each; the round counts by its median block, the contender by its median round.
    """

    rounds: int = 3
    batches: int = 3
    warm_ms: float = 300.0
    blocks: int = 3
    block_ms: float = 200.0


USUAL = Plan()


def host_clock(work: Callable[[], object]) -> float:
    """Wall-clock time."""
    start = time.perf_counter()
    work()
    return 1e3 * (time.perf_counter() - start)


def device_clock(xp: ModuleType) -> Clock:
    """Time on the current CuPy device, from an event before the work to one behind it, with nothing else under way."""

    def clock(work: Callable[[], object]) -> float:
        before, behind = xp.cuda.Event(), xp.cuda.Event()
        xp.cuda.Stream.null.synchronize()
        before.record()
        work()
        behind.record()
        behind.synchronize()
        return float(xp.cuda.get_elapsed_time(before, behind))

    return clock


def clock_of(like: Array) -> Clock:
    """The clock for work on the device of `like`."""
    return device_clock(get_array_module(like)) if is_device_array(like) else host_clock


def time_step(step: Callable[[int], object], clock: Clock, plan: Plan) -> float:
    """Milliseconds that `step` takes, which is called with the number of a batch."""

    def cycles(count: int) -> float:
        return clock(lambda: [step(k) for _ in range(count) for k in range(plan.batches)])

    spent = cycles(1)
    spent += (once := cycles(1))
    while spent < plan.warm_ms:
        spent += (once := cycles(1))
    count = max(1, math.ceil(plan.block_ms / once)) if once > 0 else 1
    return statistics.median(cycles(count) for _ in range(plan.blocks)) / (count * plan.batches)
