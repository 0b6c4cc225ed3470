"""Profile of a training step on a card: time of host and device by part.

    python -m benchmarks.step_profile
    python -m benchmarks.step_profile --fused 0 64 128 256

`--fused` profiles anew for each of these numbers of sequences up to which one kernel computes a
step of the LSTM, to find the best FUSED.

Marks are set wherever one part gives way to another: the host's clock is read and an event
recorded. An event's time is when the device gets to it, so idle time would count as that of the
part that it waited for. To keep it from idling, it multiplies large matrices first, until the host
has handed over the whole step.
"""

import argparse
import contextlib
import functools
import itertools
import math
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from types import ModuleType
from typing import Any, NamedTuple
from unittest import mock

import numpy as np

from benchmarks.step_paths import launch_anew
from benchmarks.timing import device_clock, host_clock
from benchmarks.work import CONFIGS, Config, batch_rows, make_solver
from xpcap.backend import array_module, get_backend, use_backend
from xpcap.cli.shared import table
from xpcap.errors import BackendError, OptionError
from xpcap.ops import device
from xpcap.training.solver import CaptioningSolver

USUAL_CONFIGS = ("notebook", "coco-n64", "coco", "coco-dropout", "vocab10k")
STEPS, WARM_UP = 40, 5
PRODUCT = 2048  # size of the matrices that keep the device busy
# The parts of a step: functions and methods, replaced wherever they were imported. All that exist
# count, and one of a part must be entered in each step. A part inside another is counted apart.
SEAMS = {
    "packing": (
        "xpcap.models.batch:prepare_parts",
        "xpcap.models.device_batch:DeviceNetwork._sent",
    ),
    "masks": ("xpcap.models.batch:draw_masks",),
    "gradients": (
        "xpcap.device.replay:Replay.run",
        "xpcap.models.network:Network.part_gradients",
    ),
    "update": (
        "xpcap.optim:clip_by_global_norm",
        "xpcap.training.optimizer:Optimizer.update",
        "xpcap.training.losses:LossBuffer.add",
    ),
}
# Parts of the gradients, which a step enters that does not repeat the launches of another
LOOPS = {
    "loop_forward": ("xpcap.layers.recurrent:forward_loop",),
    "loop_backward": ("xpcap.layers.recurrent:backward_loop",),
    "vocabulary": ("xpcap.layers.vocabulary_loss:vocabulary_loss",),
}
REST = "rest"
PARTS = (*SEAMS, *LOOPS, REST)
Times = dict[str, float]  # milliseconds by part


class StepProfile(NamedTuple):
    """A training step of one configuration by part; medians over steps.

    Setting the marks counts: a few microseconds for each change of part.
    """

    config: Config
    host: Times
    device: Times


class Marks:
    """Beginnings of the parts of a step, on the host and on the device."""

    def __init__(self, xp: ModuleType) -> None:
        self._xp = xp
        self._events: list[Any] = []  # kept from step to step: making one takes time
        self._marks: list[tuple[str, float]] = []

    def begin(self) -> None:
        """Begin a step."""
        self._marks.clear()
        self.mark(REST)

    def mark(self, part: str) -> None:
        """Let `part` run from now on."""
        k = len(self._marks)
        if k == len(self._events):
            self._events.append(self._xp.cuda.Event())
        self._events[k].record()
        self._marks.append((part, time.perf_counter()))

    def timed(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """`function`, which counts as that part."""

        @functools.wraps(function)
        def run(*args: Any, **kwargs: Any) -> Any:
            before = self._marks[-1][0] if self._marks else REST
            self.mark(part)
            try:
                return function(*args, **kwargs)
            finally:
                self.mark(before)

        return run

    def read(self) -> tuple[Times, Times]:
        """End the step, wait for it, and add up host and device times."""
        self.mark(REST)
        events = self._events[: len(self._marks)]
        events[-1].synchronize()
        host, device = dict.fromkeys(PARTS, 0.0), dict.fromkeys(PARTS, 0.0)
        for k, ((part, start), (_, end)) in enumerate(
            zip(self._marks[:-1], self._marks[1:], strict=True)
        ):
            host[part] += 1e3 * (end - start)
            device[part] += float(self._xp.cuda.get_elapsed_time(events[k], events[k + 1]))
        return host, device


def step_profiles(
    configs: Sequence[Config], steps: int = STEPS, warm_up: int = WARM_UP
) -> list[StepProfile]:
    """Profile a training step of each configuration on the current backend, a device.

    Raises
    ------
    OptionError : the backend is numpy, which has no events.
    """
    xp = array_module()
    if xp is np:
        raise OptionError(
            "step_profiles",
            "backend",
            f"is {get_backend()}",
            expected="cupy: a device's events divide the step",
        )
    marks = Marks(xp)
    with seams(marks.timed):
        return [_profile(marks, config, Ahead(xp), steps, warm_up) for config in configs]


@contextlib.contextmanager
def seams(timed: Callable[[str, Callable[..., Any]], Callable[..., Any]]) -> Iterator[None]:
    """Replace each function of the parts of a step by `timed(part, function)` inside the ``with``."""
    with contextlib.ExitStack() as stack:
        for part, names in {**SEAMS, **LOOPS}.items():
            for owner, name, function in itertools.chain.from_iterable(map(_holders, names)):
                stack.enter_context(mock.patch.object(owner, name, timed(part, function)))
        yield


def _holders(named: str) -> list[tuple[Any, str, Any]]:
    """Every (owner, name, function) of the function at ``module:name`` or ``module:Class.name``."""
    module_name, _, path = named.partition(":")
    module, (*classes, name) = sys.modules[module_name], path.split(".")  # a step has imported it
    owner = getattr(module, classes[0], None) if classes else module
    function = vars(owner).get(name) if owner else None
    if function is None:
        return []
    if classes:
        return [(owner, name, function)]
    modules = [
        module for name, module in sorted(sys.modules.items()) if name.split(".")[0] == "xpcap"
    ]
    return [
        (module, name, function)
        for module in modules
        for name, value in list(vars(module).items())
        if value is function
    ]


def _profile(marks: Marks, config: Config, ahead: "Ahead", steps: int, warm_up: int) -> StepProfile:
    data = config.data(warm_up + steps)
    solver, rows = make_solver(config, data), batch_rows(config, data)
    launch_anew(solver)  # so that its parts show
    for captions in rows[:warm_up]:
        host, _ = _step(marks, solver, captions, lambda: None)
    last = sum(host.values())
    found = [
        _step(marks, solver, captions, functools.partial(ahead.keep_busy, 2 * last))
        for captions in rows[warm_up:]
    ]
    medians = [
        {part: statistics.median(times[k][part] for times in found) for part in PARTS}
        for k in range(2)
    ]
    return StepProfile(config, *medians)


def _step(
    marks: Marks, solver: CaptioningSolver, captions: np.ndarray, before: Callable[[], object]
) -> tuple[Times, Times]:
    before()
    marks.begin()
    solver.train_batch(captions)
    return marks.read()


class Ahead:
    """Work for the device to do while the host gets ahead of it."""

    def __init__(self, xp: ModuleType) -> None:
        self._xp, self._x = xp, xp.ones((PRODUCT, PRODUCT), np.float32)
        self._out, clock = xp.empty_like(self._x), device_clock(xp)
        self._multiply()
        self._ms = statistics.median(clock(self._multiply) for _ in range(3))

    def keep_busy(self, ms: float) -> None:
        """Hand over products that take the device at least `ms` milliseconds."""
        for _ in range(math.ceil(ms / self._ms)):
            self._multiply()

    def apart(self, work: Callable[[], object], ms: float) -> tuple[float, float]:
        """Milliseconds of host and of device for work that takes the host some `ms`."""
        before, behind = self._xp.cuda.Event(), self._xp.cuda.Event()
        self.keep_busy(2 * ms)
        before.record()
        host = host_clock(work)
        behind.record()
        behind.synchronize()
        return host, float(self._xp.cuda.get_elapsed_time(before, behind))

    def _multiply(self) -> None:
        self._xp.dot(self._x, self._x, out=self._out)


def profile_rows(results: Sequence[StepProfile]) -> list[tuple[str, ...]]:
    """A table: headings, then a row of host and of device microseconds for each configuration."""
    lines = [("config", "", "step us", *PARTS)]
    for result in results:
        for where, times in (("host", result.host), ("device", result.device)):
            lines.append(
                (
                    result.config.name,
                    where,
                    *(f"{1e3 * ms:.0f}" for ms in (sum(times.values()), *times.values())),
                )
            )
    return lines


def main(words: Sequence[str] | None = None) -> None:
    """Print the parts of a step at the usual configurations."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.step_profile")
    parser.add_argument("--fused", type=int, nargs="+", metavar="N", help="numbers to try as FUSED")
    numbers = parser.parse_args(words).fused
    try:
        use_backend("cupy")
    except BackendError as error:
        sys.exit(str(error))
    for fused in numbers or [device.FUSED]:
        with mock.patch.object(device, "FUSED", fused):
            rows = profile_rows(step_profiles([CONFIGS[name] for name in USUAL_CONFIGS]))
        print(f"FUSED {fused}\n{table(rows)}", flush=True)


if __name__ == "__main__":
    main()
