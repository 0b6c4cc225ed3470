"""Profile of work on NumPy: time by operation and by shape of product, beside the machine's limits.

    python -m benchmarks.host_profile
    python -m benchmarks.host_profile notebook self-critical beam

Every operation of xpcap.ops and every product is timed in the thread that calls it. Milliseconds
are of all cores together: a product on two threads of BLAS counts twice, and an operation without
the products and operations that it calls. A thread that waits for Python's lock counts as at work.
*python* is the time outside operations and products, *idle* that of cores without a thread at work.
Timing itself costs a few percent, of a small batch a third.

The limit is the time of the products at the speed of a large one, and that of the arrays of all
other operations at the speed of copying. Both speeds are measured before and after the work. Small
products without packing, and arrays in a cache, can be faster.
"""

import argparse
import collections
import contextlib
import functools
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple
from unittest import mock

import numpy as np

from benchmarks.timing import MatrixProduct, host_clock
from benchmarks.work import (
    BEAM,
    CONFIGS,
    GREEDY,
    Config,
    batch_rows,
    make_ending_model,
    make_solver,
    usual,
)
from xpcap import threads
from xpcap.cli.shared import table
from xpcap.ops import HostOps
from xpcap.ops.base import OPERATIONS
from xpcap.ops.host import UNPACKED
from xpcap.runs.recipe import PRESETS, Recipe
from xpcap.threads import cores, free_cores, parallel_map, split_evenly
from xpcap.training.objectives import SelfCritical

STEPS, WARM_UP, LARGE, COPIED = 12, 3, 2048, 1 << 26  # COPIED: bytes
PRODUCT, WAIT, PYTHON, IDLE = "products", "wait", "python", "idle"
SHOWN = 12  # shapes of products
# The first stage of `train`'s default on Flickr8k
DEFAULT = Config(
    "default",
    PRESETS["many"]["batch_size"],
    D=1280,
    V=2539,
    dropout=Recipe.dropout,
    every_step=True,
)


class Shape(NamedTuple):
    """A product x (n, k) @ w (k, m), how its factors lie in memory, and the threads it runs on."""

    n: int
    k: int
    m: int
    form: str  # of each factor N if its rows are contiguous, T if its columns; a comma: w is in blocks
    threads: int


class Cost:
    """Calls of one kind, their processor seconds, and what they worked on."""

    def __init__(self) -> None:
        self.calls, self.seconds, self.amount = 0, 0.0, 0.0  # amount: bytes, or operations

    def add(self, seconds: float, amount: float) -> None:
        self.calls += 1
        self.seconds += seconds
        self.amount += amount


class Recorder:
    """Costs of operations and of products, from any thread."""

    def __init__(self) -> None:
        self.operations: dict[str, Cost] = collections.defaultdict(Cost)
        self.shapes: dict[Shape, Cost] = collections.defaultdict(Cost)
        self.parts = 0.0  # seconds that threads of the pool were at work
        self._lock, self._inner = threads.Lock(), threading.local()

    def operation(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, timed without what is timed inside; also a function that it returns."""

        @functools.wraps(function)
        def timed(*args: Any, **kwargs: Any) -> Any:
            with self._timed(name, args):
                result = function(*args, **kwargs)
            return self.operation(name, result) if callable(result) else result

        return timed

    def product(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """np.dot or np.matmul, timed by shape."""

        @functools.wraps(function)
        def timed(x: Any, w: Any, *args: Any, **kwargs: Any) -> Any:
            blocks = w.shape[0] if w.ndim == 3 else 1
            small = w.ndim == 3 or x.shape[0] * x.shape[1] * w.shape[1] <= UNPACKED
            alone = small or free_cores() == 1 or threads.blas()._before is not None
            used = 1 if alone else free_cores()
            start = time.perf_counter()
            result = function(x, w, *args, **kwargs)
            seconds = time.perf_counter() - start
            form = "".join("NT"[a.strides[-2] < a.strides[-1]] for a in (x, w))
            columns = blocks * w.shape[-1]
            shape = Shape(x.shape[0], x.shape[1], columns, form + "," * (w.ndim == 3), used)
            self._inner.seconds = getattr(self._inner, "seconds", 0.0) + seconds
            with self._lock:
                self.shapes[shape].add(used * seconds, 2 * x.size * columns)
                if used > 1:  # threads of BLAS beside this one
                    self.parts += (used - 1) * seconds
            return result

        return timed

    def part(self, submit: Callable[..., Any]) -> Callable[..., Any]:
        """A pool's submit, whose work counts as that of a core."""

        @functools.wraps(submit)
        def timed(run: Any, work: Any, *args: Any) -> Any:
            name = getattr(self._inner, "name", None)  # of the operation that divides its work

            def timed_work(*items: Any) -> Any:
                self._inner.seconds, start = 0.0, time.perf_counter()
                try:
                    return work(*items)
                finally:
                    seconds = time.perf_counter() - start
                    with self._lock:
                        self.parts += seconds
                        if name is not None:
                            self.operations[name].seconds += seconds - self._inner.seconds

            return submit(run, timed_work, *args)

        return timed

    @contextlib.contextmanager
    def _timed(self, name: str, args: Sequence[Any]) -> Iterator[None]:
        before, self._inner.seconds = getattr(self._inner, "seconds", 0.0), 0.0
        outer, self._inner.name = getattr(self._inner, "name", None), name
        start = time.perf_counter()
        try:
            yield
        finally:
            self._inner.name = outer
            whole = time.perf_counter() - start
            own = whole - self._inner.seconds
            self._inner.seconds = before + whole
            amount = sum(x.nbytes for x in args if isinstance(x, np.ndarray))
            with self._lock:
                self.operations[name].add(own, amount)


@contextlib.contextmanager
def recording() -> Iterator[Recorder]:
    """Time all operations and products inside the ``with``."""
    recorder, pool = Recorder(), threads._pool()
    with contextlib.ExitStack() as stack:
        for name in OPERATIONS:
            function = recorder.operation(name, getattr(HostOps, name))
            stack.enter_context(mock.patch.object(HostOps, name, function))
        for name in ("dot", "matmul"):
            product = recorder.product(getattr(np, name))
            stack.enter_context(mock.patch.object(np, name, product))
        stack.enter_context(mock.patch.object(pool, "submit", recorder.part(pool.submit)))
        stack.enter_context(
            mock.patch.object(threads, "wait", recorder.operation(WAIT, threads.wait))
        )
        yield recorder


# ---- The work


def training(config: Config) -> Callable[[int], object]:
    """A training step of a configuration."""
    data = config.data(WARM_UP + STEPS)
    solver, rows = make_solver(config, data), batch_rows(config, data)
    return lambda k: solver.train_batch(rows[k % len(rows)])


def self_critical() -> Callable[[int], object]:
    """A self-critical step of `train`'s default."""
    data = DEFAULT.data(WARM_UP + STEPS)
    model, objective = make_ending_model(DEFAULT, data), SelfCritical(data)
    solver = make_solver(DEFAULT, data, model, objective=objective)
    pictures = DEFAULT.N // objective.samples
    return lambda k: solver.train_batch(pictures * k + np.arange(pictures))


def decoding(policy: Any) -> Callable[[int], object]:
    """Captions of 1,000 pictures at the sizes of Flickr8k."""
    config = CONFIGS["flickr8k"]
    model, pictures = make_ending_model(config, config.data(1)), config.pictures()
    return lambda k: model.sample(pictures, policy=policy)


WORKS: dict[str, Callable[[], Callable[[int], object]]] = {
    **{name: functools.partial(training, config) for name, config in CONFIGS.items()},
    "default": functools.partial(training, DEFAULT),
    "self-critical": self_critical,
    "greedy": functools.partial(decoding, GREEDY),
    "beam": functools.partial(decoding, BEAM),
}
USUAL = (*usual("numpy"), "demo", "small", "default", "self-critical", "beam")


# ---- The machine


class Machine:
    """Speed of a large product and of copying, on all cores; each call measures both."""

    def __init__(self) -> None:
        self._product = MatrixProduct(np, LARGE)
        self._from, self._to = np.ones((2, COPIED), np.uint8)
        self._seconds: list[float] = []

    def __call__(self) -> None:
        self._product()
        parts = split_evenly(COPIED, cores())

        def copy(part: slice) -> None:
            self._to[part] = self._from[part]

        self._seconds.append(host_clock(lambda: parallel_map(copy, parts)) / 1e3)

    @property
    def operations(self) -> float:
        """Of a product, a second."""
        return self._product.gflops * 1e9

    @property
    def bandwidth(self) -> float:
        """Bytes read or written a second."""
        return 2 * COPIED / statistics.median(self._seconds)


# ---- The tables


class Profile(NamedTuple):
    """Costs of `calls` calls of one work, of `ms` milliseconds each, and `plain_ms` untimed."""

    recorder: Recorder
    machine: Machine
    calls: int
    ms: float
    plain_ms: float


def profiled(work: Callable[[int], object], calls: int) -> Profile:
    """Profile a work, of which `calls` calls are recorded after `WARM_UP` others."""
    machine = Machine()
    times = [host_clock(functools.partial(work, k)) for k in range(WARM_UP + calls)]
    machine()
    with recording() as recorder:
        recorded = [host_clock(functools.partial(work, k)) for k in range(WARM_UP, WARM_UP + calls)]
    machine()
    plain = statistics.median(times[WARM_UP:])
    return Profile(recorder, machine, calls, sum(recorded) / calls, plain)


def shape_rows(profile: Profile) -> list[tuple[str, ...]]:
    """A row for each of the shapes that take the most time; n is that of a first step, at most."""
    peak = profile.machine.operations
    lines: list[tuple[str, ...]] = [
        ("product", "form", "threads", "calls", "ms", "GF/s", "of the peak")
    ]
    merged: dict[tuple[Any, ...], tuple[int, Cost]] = {}
    for shape, cost in profile.recorder.shapes.items():
        key = _power(shape.n), shape.k, _power(shape.m), shape.form, shape.threads
        _, total = merged.setdefault(key, (shape.n, Cost()))
        total.calls += cost.calls
        total.seconds += cost.seconds
        total.amount += cost.amount
    ordered = sorted(merged.items(), key=lambda item: -item[1][1].seconds)
    for (n, k, m, form, used), (_, cost) in ordered[:SHOWN]:
        rate = cores() * cost.amount / cost.seconds
        lines.append(
            (
                f"{n} x {k} x {m}",
                form,
                str(used),
                f"{cost.calls / profile.calls:.1f}",
                f"{1e3 * cost.seconds / profile.calls:.2f}",
                f"{rate / 1e9:.0f}",
                f"{rate / peak:.0%}",
            )
        )
    return lines


def _power(n: int) -> str:
    """A size up to 128 as the power of two that it does not exceed, a larger one by its leading digits."""
    if n >= 128:
        return f"{float(f'{n:.1g}'):.0f}" if n > 4096 else str(-(-n // 128) * 128)
    return f"<={1 << max(0, (n - 1).bit_length())}"


def operation_rows(profile: Profile) -> list[tuple[str, ...]]:
    """A row for each operation, then products, Python and idle cores."""
    recorder, calls = profile.recorder, profile.calls
    lines: list[tuple[str, ...]] = [("operation", "calls", "ms", "share", "GB/s")]
    whole = cores() * profile.ms
    operations = dict(recorder.operations)
    waited = operations.pop(WAIT, Cost())
    rows = [
        (name, cost.calls / calls, 1e3 * cost.seconds / calls, cost.amount / cost.seconds / 1e9)
        for name, cost in operations.items()
    ]
    products = [*recorder.shapes.values()]
    seconds = sum(cost.seconds for cost in products)
    rows.append((PRODUCT, sum(cost.calls for cost in products) / calls, 1e3 * seconds / calls, 0))
    pool = 1e3 * recorder.parts / calls
    known = sum(ms for _, _, ms, _ in rows)
    idle = whole - profile.ms - pool + 1e3 * waited.seconds / calls
    rows.append((PYTHON, 0, whole - known - idle, 0))
    rows.append((IDLE, 0, idle, 0))
    for name, count, ms, rate in sorted(rows, key=lambda row: -row[2]):
        if ms / whole >= 0.001:
            shown = f"{count:.0f}" if count else "", f"{ms:.2f}", f"{ms / whole:.1%}"
            lines.append((name, *shown, f"{rate:.0f}" if rate else ""))
    return lines


def limit(profile: Profile) -> tuple[float, float]:
    """Milliseconds of the products at the machine's peak, and of the other operations' bytes."""
    recorder, machine = profile.recorder, profile.machine
    operations = sum(cost.amount for cost in recorder.shapes.values()) / profile.calls
    size = sum(cost.amount for cost in recorder.operations.values()) / profile.calls
    return 1e3 * operations / machine.operations, 1e3 * size / machine.bandwidth


def report(name: str, profile: Profile) -> str:
    """The tables of one work."""
    arithmetic, transfer = limit(profile)
    machine = profile.machine
    return "\n".join(
        (
            f"{name}: {profile.plain_ms:.2f} ms, {profile.ms:.2f} while it is profiled; limit"
            f" {arithmetic + transfer:.2f}: products {arithmetic:.2f} at"
            f" {machine.operations / 1e9:.0f} GF/s, other operations {transfer:.2f} at"
            f" {machine.bandwidth / 1e9:.0f} GB/s",
            table(operation_rows(profile)),
            "",
            table(shape_rows(profile)),
            "",
        )
    )


def main(words: Sequence[str] | None = None) -> None:
    """Print a profile of each work."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.host_profile",
        description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    known = ", ".join(WORKS)
    parser.add_argument("works", nargs="*", metavar="WORK", help=f"of {known}; several by default")
    given = parser.parse_args(words).works
    if unknown := [name for name in given if name not in WORKS]:
        parser.error(f"no work is named {unknown[0]}; they are {known}")
    for name in given or USUAL:
        slow = name in ("greedy", "beam", "self-critical")
        print(report(name, profiled(WORKS[name](), 3 if slow else STEPS)), flush=True)


if __name__ == "__main__":
    main()
