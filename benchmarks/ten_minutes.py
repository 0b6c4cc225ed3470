"""Ten minutes with a GPU: eight answers with numbers, the first part of docs/develop/gpu-check.md.

    python -m benchmarks.ten_minutes

If an answer fails, the next one follows. The exit status is 1 if an answer fails, or if xpcap's
kernels do not compute the equations. The last line is the verdict.
"""

import argparse
import contextlib
import functools
import math
import os
import statistics
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import numpy as np

from benchmarks.gpu import libraries
from benchmarks.step_paths import (
    BATCHES,
    PATHS,
    device_workspace,
    draw_batches,
    gpu_config,
    on_path,
)
from benchmarks.timing import device_clock, host_clock
from benchmarks.work import LOSS_TOLERANCE, Config
from xpcap.backend import get_backend, to_numpy, use_backend
from xpcap.backend.cublas import Product, multiply
from xpcap.backend.switch import array_module
from xpcap.cli.shared import table
from xpcap.ops import DeviceOps, Ops, device, overridden
from xpcap.training.objectives import loss_and_gradients
from xpcap.training.solver import CaptioningSolver

HELPERS = Path(__file__).parents[1] / "tests" / "helpers"
GRADIENT_TOLERANCE = 3e-5  # of a tensor, relative to its largest value
SHOWN = 3  # faults in the verdict
REPEATS = 200  # of a launch between two events
WARM_UP = 10  # steps
PRODUCT = 2048  # size of the matrices that keep the device busy
ROWS, INNER, COLUMNS = 64, 512, 2048  # sizes of the product of the seventh answer

Rows = list[tuple[str, ...]]  # of a table
Tensors = dict[str, np.ndarray]  # loss and gradients by name


class Times(NamedTuple):
    """Milliseconds of a step."""

    ms: float  # of consecutive steps
    host: float  # until the host has launched the step
    device: float  # of the launched work, which does not wait for the host


@dataclass
class Check:
    """The settings of the check, and results that later answers use."""

    config: Config
    steps: int
    gpu: str = "a GPU"
    faults: list[str] = field(default_factory=list)
    worst: dict[str, tuple[float, str]] = field(default_factory=dict)  # error and tensor, by path
    times: dict[str, Times] = field(default_factory=dict)
    nodes: Sequence[Any] = ()

    @contextlib.contextmanager
    def surviving(self, title: str) -> Iterator[None]:
        """Record any exception, of a GPU, driver or library, as a fault, and continue."""
        try:
            yield
        except Exception as error:
            self.faults.append(f"{title}: {line_of(error)}")
            print(f"FAILED: {self.faults[-1]}", flush=True)


def line_of(error: Exception) -> str:
    """An error in one line, with the line that raised it."""
    *_, frame = traceback.extract_tb(error.__traceback__)
    text, *_ = [*str(error).strip().splitlines(), ""]
    return f"{type(error).__name__}: {text} ({Path(frame.filename).name}:{frame.lineno})"


# ---- 1 and 2: versions and kernels


def versions(check: Check) -> None:
    """Print versions and paths, and the seconds of compiling into an empty cache."""
    check.gpu = libraries()
    data, cache = check.config.data(1), Path(os.environ["CUPY_CACHE_DIR"])

    def compile_kernels() -> None:
        for name in device.CUDA.files:
            load(name)

    def warm_up(path: str) -> None:
        with on_path(path, check.config, data) as solver:
            solver.warm_up()

    rows: Rows = [("compiling", "files in the cache", "seconds")]
    for name, compiling in (
        (f"xpcap's {len(device.CUDA.files)} kernels", compile_kernels),
        ("other kernels of training", functools.partial(warm_up, "list")),
        ("kernels of the plain code", functools.partial(warm_up, "plain")),
    ):
        before = len([*cache.glob("*")])
        seconds = host_clock(compiling) / 1e3
        rows.append((name, str(len([*cache.glob("*")]) - before), f"{seconds:.1f}"))
    print(table(rows))


def load(name: str) -> Any:
    """A kernel for float32, compiled or from CuPy's cache, as a RawKernel."""
    code = device.CUDA.source(device.CUDA.files[name])
    kernel = array_module().RawModule(code=code, options=("-DREAL=float",)).get_function(name)
    assert kernel.kernel  # compiles it
    return kernel


def attributes(check: Check) -> None:
    """Print registers, spilled bytes and shared memory of each kernel."""
    keys = "num_regs", "local_size_bytes", "shared_size_bytes"
    rows: Rows = [("kernel", "registers", "spilled bytes", "shared bytes")]
    for name in device.CUDA.files:
        with check.surviving(name):
            numbers = load(name).attributes
            rows.append((name, *(str(numbers[key]) for key in keys)))
    print(table(rows))


# ---- 3 and 4: errors


def operations(check: Check) -> None:
    """Print the largest error of each operation's kernels against NumPy's float64, in units of the
    tolerance of its tests. The tests compare with CuPy, too, which takes minutes of compiling.
    """
    sys.path.append(str(HELPERS))
    import operations as known  # type: ignore[import-not-found]

    rows: Rows = [("operation", *known.TOLERANCES)]
    for name in overridden(DeviceOps):
        with check.surviving(name):
            worst = []
            for dtype, (_, tolerance) in known.TOLERANCES.items():
                errors = [0.0]
                for call in known.TABLE[name].calls(known.Draw(dtype)):
                    with np.errstate(all="ignore"):
                        ours = known.run(DeviceOps(), name, call)
                        with use_backend("numpy"):
                            expected = known.run(Ops(), name, call, known.wide)
                    errors += map(relative, ours, expected)
                worst.append(max(errors) / tolerance)
            rows.append((name, *(f"{error:.2f}" for error in worst)))
            if not max(worst) <= 1:
                raise ArithmeticError(f"wrong by {max(worst):.3g} tolerances")
    print(table(rows))


def relative(x: np.ndarray, y: np.ndarray) -> float:
    """The largest difference, relative to the largest finite value of y; NaN equals NaN."""
    unlike = ~((x == y) | (np.isnan(x) & np.isnan(y)))
    largest = np.abs(y[np.isfinite(y)]).max(initial=0)
    with np.errstate(all="ignore"):
        errors = np.abs(x[unlike].astype(float) - y[unlike]) / largest
    return float(np.nan_to_num(errors, nan=np.inf).max(initial=0))


def first_step(check: Check) -> None:
    """Compare loss and gradients of the first step in fast, repeated and plain code with NumPy's."""
    data, tensors_by_path = check.config.data(BATCHES), dict[str, Tensors]()
    with on_path("list", check.config, data) as solver:
        replay = device_workspace(solver).replay
        for captions in draw_batches(check.config, BATCHES):
            tensors_by_path["fast"] = gradients(solver, captions)
            if replay.nodes:  # the batch fits the layout
                break
        tensors_by_path["repeated"] = gradients(solver, captions)
        if not replay.repeats:
            check.faults.append(f"no step is repeated: {replay.refused or 'no batch fits'}")
    for name in ("plain", "numpy"):
        with on_path(name, check.config, data) as solver:
            tensors_by_path[name] = gradients(solver, captions)
    expected = tensors_by_path.pop("numpy")
    rows: Rows = [("step", *expected)]
    for name, tensors in tensors_by_path.items():
        errors = {key: relative(x, expected[key]) for key, x in tensors.items()}
        worst, tensor = check.worst[name] = max((e, key) for key, e in errors.items())
        rows.append((name, *(f"{error:.1e}" for error in errors.values())))
        if not (errors["loss"] <= LOSS_TOLERANCE and worst <= GRADIENT_TOLERANCE):
            check.faults.append(f"the first step, {name}, is wrong in {tensor} by {worst:.2g}")
    print(f"NumPy's loss is {float(expected['loss']):.6f}; relative differences from NumPy:")
    print(table(rows))


def gradients(solver: CaptioningSolver, captions: np.ndarray) -> Tensors:
    """Loss and gradients of a batch, with the dropout masks of the first step."""
    batch = solver._loader.minibatch("train", captions)._replace(step=0)
    loss, grads = loss_and_gradients(solver.objective, solver.model, batch, solver._workspace)
    return {name: to_numpy(x).copy() for name, x in {"loss": loss, **grads}.items()}


# ---- 5, 6 and 7: times


class BusyDevice:
    """Keeps the device busy with products while the host launches work, so that device times do not
    include waiting for the host.
    """

    def __init__(self) -> None:
        self._xp = array_module()
        self._x = self._xp.ones((PRODUCT, PRODUCT), np.float32)
        self._out, clock = self._xp.empty_like(self._x), device_clock(self._xp)
        self._multiply()
        self._ms = statistics.median(clock(self._multiply) for _ in range(3))

    def host_and_device_ms(self, work: Callable[[], object], ms: float) -> tuple[float, float]:
        """Milliseconds on the host and on the device, for work that takes the host about `ms`."""
        start, end = self._xp.cuda.Event(), self._xp.cuda.Event()
        for _ in range(math.ceil(2 * ms / self._ms)):
            self._multiply()
        start.record()
        host = host_clock(work)
        end.record()
        end.synchronize()
        return host, float(self._xp.cuda.get_elapsed_time(start, end))

    def _multiply(self) -> None:
        self._xp.dot(self._x, self._x, out=self._out)


def paths(check: Check) -> None:
    """Print milliseconds of a step on each path, in all and on host and device."""
    data, batches = check.config.data(BATCHES), draw_batches(check.config, check.steps)
    busy_device = BusyDevice()
    for name in PATHS:
        with on_path(name, check.config, data) as solver:
            check.times[name] = timed(solver, batches, busy_device)
            check.nodes = device_workspace(solver).replay.nodes  # finally those of "list"
    rows: Rows = [("path", "ms a step", "host", "device")]
    rows += [(name, *(f"{ms:.3f}" for ms in times)) for name, times in check.times.items()]
    print(table(rows))


def timed(
    solver: CaptioningSolver, batches: Sequence[np.ndarray], busy_device: BusyDevice
) -> Times:
    """Times of a solver's steps; those of host and device are medians."""

    def train(batches: Sequence[np.ndarray]) -> None:
        for captions in batches:
            solver.train_batch(captions)
        float(solver.loss_history[-1])  # waits for the device

    train(batches[:WARM_UP])
    ms = host_clock(lambda: train(batches)) / len(batches)
    steps = [functools.partial(solver.train_batch, captions) for captions in batches]
    pairs = [busy_device.host_and_device_ms(step, ms) for step in steps]
    return Times(ms, *map(statistics.median, zip(*pairs, strict=True)))


def launches(check: Check) -> None:
    """Print microseconds of each launch of the recorded step, averaged over many."""
    if not check.nodes:
        raise ArithmeticError("no step was recorded")
    busy_device, times = BusyDevice(), list[float]()
    rows: Rows = [("launch", "grid, or m n k", "us")]
    for node in check.nodes:
        is_product = isinstance(node, Product)
        times.append(microseconds(node.call(), busy_device))
        sizes = " ".join(map(str, node.arguments[2:5] if is_product else node.grid))
        rows.append(("gemm" if is_product else node.kernel.name, sizes, f"{times[-1]:.2f}"))
    print(f"{table(rows)}\n{len(times)} launches, {sum(times):.0f} us")


def microseconds(call: Callable[[], object], busy_device: BusyDevice) -> float:
    """Device time of a call, averaged over many between two events."""

    def work() -> None:
        for _ in range(REPEATS):
            call()

    _, ms = busy_device.host_and_device_ms(work, host_clock(work))
    return 1e3 * ms / REPEATS


def products(check: Check) -> None:
    """Time a product by cuBLAS's sgemm, as xpcap calls it, and by CuPy's matmul."""
    xp, rng, busy_device = array_module(), np.random.default_rng(0), BusyDevice()
    shapes = (ROWS, INNER), (INNER, COLUMNS)
    x, w = (xp.asarray(rng.standard_normal(shape, np.float32)) for shape in shapes)
    ours, theirs = (xp.empty((ROWS, COLUMNS), np.float32) for _ in range(2))
    times = (
        microseconds(lambda: multiply(x, w, ours), busy_device),
        microseconds(lambda: xp.matmul(x, w, out=theirs), busy_device),
    )
    error = relative(to_numpy(ours), to_numpy(theirs))
    print(
        f"{shapes}: cublas.sgemm {times[0]:.2f} us, matmul {times[1]:.2f} us, difference {error:.1e}"
    )
    if not error <= GRADIENT_TOLERANCE:
        raise ArithmeticError(f"the products differ by {error:.1e}")


# ---- 8: verdict


def verdict(check: Check) -> None:
    """Print the faults or, without any, the decisions, in a line."""
    print(f"{check.gpu}: {faults(check) if check.faults else decisions(check)}")


def faults(check: Check) -> str:
    """The first faults, and whether plain code helps."""
    worst, _ = check.worst.get("plain", (np.inf, ""))
    plain = "helps" if worst <= GRADIENT_TOLERANCE else "does not help"
    count = "1 fault" if len(check.faults) == 1 else f"{len(check.faults)} faults"
    return "; ".join([f"--plain {plain}", count, *check.faults[:SHOWN]])


def decisions(check: Check) -> str:
    """Which fast code pays off, if all paths compute the same."""
    ms = {name: times.ms for name, times in check.times.items()}
    worst, tensor = check.worst["repeated"]
    fused = "on" if ms["list"] <= ms["list, FUSED 0"] else "off"
    padding = "pays" if ms["list"] <= ms["unpadded"] else "does not pay: MAX_PADDED"
    return "; ".join(
        [
            f"CUDA kernels agree ({worst:.0e}, {tensor}), --plain ({ms['plain']:.2f} ms) not needed",
            f"list {ms['list']:.2f} ms; FUSED {fused} ({ms['list, FUSED 0']:.2f} without)",
            f"padding {padding} ({ms['unpadded']:.2f} without)",
        ]
    )


ANSWERS: dict[str, Callable[[Check], None]] = {
    "What runs": versions,
    "Registers and spills": attributes,
    "Operations, in units of their tolerance": operations,
    "The first step": first_step,
    "Milliseconds a step": paths,
    "Microseconds a launch": launches,
    "One product": products,
    "Verdict": verdict,
}


def main(words: Sequence[str] | None = None) -> int:
    """Print the eight answers."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ten_minutes")
    add_number = functools.partial(parser.add_argument, type=int)
    add_number("--captions", default=64, help="captions per batch, at most 512 (default: 64)")
    add_number("--steps", default=50, help="steps to time on each path (default: 50)")
    arguments = parser.parse_args(words)
    check = Check(gpu_config(arguments.captions), arguments.steps)
    with (
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as cache,
        mock.patch.dict(os.environ, CUPY_CACHE_DIR=cache),
    ):
        for number, (title, answer) in enumerate(ANSWERS.items(), 1):
            print(f"\n{number}. {title}", flush=True)
            with check.surviving(title):
                answer(check)
            if get_backend() == "numpy":  # the GPU is not usable
                break
    return int(bool(check.faults))


if __name__ == "__main__":
    sys.exit(main())
