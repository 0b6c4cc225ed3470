"""Host time of a training step on a card, measured without one.

It runs on the emulated device of the tests under its meter: calls take the time that is published.
A step is a step of `train`: a minibatch from resident features, loss, gradients, clipping, Adam,
recording. The clock stops in the stand-in, so what is left is our own Python, divided by part. Of
all steps those count that lost least time to other processes.
"""

import contextlib
import dataclasses
import functools
import importlib.util
import itertools
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple
from unittest.mock import patch

import numpy as np

from benchmarks.work import SEED, Config, make_solver
from xpcap.data.dataset import CaptionData
from xpcap.data.synthetic import draw_data
from xpcap.errors import BackendError, install
from xpcap.models import CaptioningRNN
from xpcap.training.objectives import CrossEntropy
from xpcap.training.solver import CaptioningSolver

SIZES = (25, 64, 128, 256, 512)
STEPS, WARM_UP = 400, 20
BATCHES = 100  # the steps go round them: more than any cache of batches holds, as in training
KEPT = 10  # one in so many steps counts: those that lost least time to other processes
CELL = "lstm"


class Work(NamedTuple):
    """What a step trains, besides its batch size."""

    inject: str
    dropout: float = 0.4
    smoothing: float = 0.1
    views: int = 1  # of each picture, one of which a step draws
    features: int | tuple[int, int] = 512


WORKS = {
    "init": Work("init", dropout=0, smoothing=0),
    "default": Work("every-step", views=2),  # of `train`, with mirror views
    "attention": Work("attention", features=(25, 64)),
}

# The parts of a step: functions and methods, replaced wherever they were imported. All that exist
# count, and one of a part must be entered in each step. A part inside another is counted apart.
SEAMS = {
    "packing": ("xpcap.models.batch:prepare_batch",),
    "masks": ("xpcap.models.batch:masks_of",),
    "gradients": ("xpcap.models.network:Network.gradients",),
    "update": (
        "xpcap.optim:clip_by_global_norm",
        "xpcap.training.optimizer:Optimizer.update",
        "xpcap.training.losses:LossBuffer.add",
    ),
}
# Parts of the gradients, which a step enters that does not repeat the launches of another
LOOPS = {
    "loop_forward": ("xpcap.layers.recurrent:rows_forward",),
    "loop_backward": ("xpcap.layers.recurrent:rows_backward",),
    "vocabulary": ("xpcap.layers.vocabulary_loss:vocabulary_loss",),
}
REST = "rest"
PARTS = (*SEAMS, REST)
HOST_TIME = (
    "host time of a training step of N captions on a card, from published times of calls: at most"
    " 16 time steps, LSTM; float32"
)


class HostTime(NamedTuple):
    """Host time of a training step of N captions, medians over steps."""

    n: int
    work: str  # a name in WORKS
    graphs: bool  # whether a step's launches are one CUDA graph
    ms: float  # with the time that calls take
    python_ms: float  # without it: our own Python
    calls: int  # launches, products, copies, memsets and transfers
    parts: dict[str, float]  # microseconds of our own Python
    reads: int  # waits for a value from the device
    allocations: int  # arrays taken from CuPy's pool


@contextlib.contextmanager
def metered() -> Iterator[Any]:
    """The emulated device of the tests as the backend, and its meter.

    BackendError : cupy cannot be imported, which needs no device, or pytest is not installed.
    """
    if importlib.util.find_spec("pytest") is None:
        raise BackendError(
            "host_time",
            "pytest",
            "is not installed",
            expected="what the tests need: they emulate the device",
            cause=f"{install('dev')} installs it",
        )
    sys.path.append(str(Path(__file__).parents[1] / "tests"))
    try:
        from emulated import meter
    finally:
        sys.path.pop()
    with meter.metered() as running:
        yield running


class Clock:
    """A clock of our own seconds by part: those that did not pass in the stand-in."""

    def __init__(self, meter: Any) -> None:
        self._meter = meter
        self.begin()

    def begin(self) -> None:
        """Begin a step: nothing is counted yet."""
        self.seconds = dict.fromkeys(PARTS, 0.0)
        self.entered: set[str] = set()
        self._part, self._since = REST, self._own()

    def switch(self, part: str) -> str:
        """Let `part` run from now on, and return the part that ran before."""
        now, before = self._own(), self._part
        self.seconds[before] += now - self._since
        self._part, self._since = part, now
        return before

    def timed(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """`function`, which counts as that part."""

        @functools.wraps(function)
        def run(*args: Any, **kwargs: Any) -> Any:
            before = self.switch(part)
            self.entered.add(part)
            try:
                return function(*args, **kwargs)
            finally:
                self.switch(before)

        return run

    def _own(self) -> float:
        return time.perf_counter() - self._meter.passed


def host_times(
    sizes: Sequence[int] = SIZES,
    works: Sequence[str] = tuple(WORKS),
    graphs: Sequence[bool] = (False, True),
    steps: int = STEPS,
    warm_up: int = WARM_UP,
) -> list[HostTime]:
    """Measure the host time of a step for each batch size and kind of work.

    Parameters
    ----------
    sizes, works, graphs : of the steps
    steps : how many are measured; medians are over a tenth of them
    warm_up : how many come before

    Raises
    ------
    BackendError : cupy cannot be imported, which needs no device, or pytest is not installed.
    """
    with metered() as meter:
        clock = Clock(meter)
        with seams(clock.timed):
            return [
                _measure(meter, clock, n, work, by_graph, steps, warm_up)
                for n in sizes
                for work in works
                for by_graph in graphs
            ]


def host_time_rows(results: Sequence[HostTime]) -> list[tuple[str, ...]]:
    """A table: two rows of headings, then one row for each result; parts in microseconds."""
    headings = [
        ("", "N"),
        ("", "work"),
        ("", "graph"),
        ("", "ms"),
        ("Python", "ms"),
        ("", "calls"),
        ("", "reads"),
        ("", "allocations"),
    ]
    headings += [
        (first, f"{second} us".strip())
        for first, _, second in (part.partition("_") for part in PARTS)
    ]
    lines = [_line(result) for result in results]
    columns = zip(*zip(*headings, strict=True), *lines, strict=True)
    return list(
        zip(
            *([cell.rjust(max(map(len, column))) for cell in column] for column in columns),
            strict=True,
        )
    )


def _line(result: HostTime) -> tuple[str, ...]:
    parts = [f"{result.parts[part]:.0f}" for part in PARTS]
    counts = [str(count) for count in (result.calls, result.reads, result.allocations)]
    return (
        str(result.n),
        result.work,
        "yes" if result.graphs else "no",
        f"{result.ms:.2f}",
        f"{result.python_ms:.2f}",
        *counts,
        *parts,
    )


def _data(n: int, work: Work) -> CaptionData:
    """Captions like those of the contenders, but one of the longest first in each batch of n."""
    data = draw_data(BATCHES * n, work.features, Config("", n).V, SEED)
    split = data.split("train")
    captions = split.captions
    captions[::n] = captions[np.argmax((captions != data.vocabulary.null).sum(axis=1))]
    if work.views > 1:
        features = np.concatenate([split.features] * work.views)
        split = dataclasses.replace(split, features=features, views=work.views)
        data = CaptionData(data.vocabulary, {"train": split}, source=data.source)
    return data


def _solver(n: int, work: Work, graphs: bool) -> CaptioningSolver:
    config, data = Config("host time", n), _data(n, work)
    model = CaptioningRNN(
        data.vocabulary.word_to_idx,
        work.features,
        config.W,
        config.H,
        CELL,
        np.float32,
        dropout=work.dropout,
        inject=work.inject,
        seed=SEED,
    )
    return make_solver(config, data, model, objective=CrossEntropy(work.smoothing), graphs=graphs)


def _measure(
    meter: Any, clock: Clock, n: int, name: str, graphs: bool, steps: int, warm_up: int
) -> HostTime:
    solver = _solver(n, WORKS[name], graphs)
    batches = itertools.cycle(np.arange(BATCHES * n).reshape(BATCHES, n))
    for _ in range(warm_up):
        solver.train_batch(next(batches))
    taken = [
        _step(meter, clock, functools.partial(solver.train_batch, next(batches)))
        for _ in range(steps)
    ]
    if missing := set(SEAMS) - clock.entered - (set() if WORKS[name].dropout else {"masks"}):
        raise NotImplementedError(
            f"host_time: no step entered {', '.join(sorted(missing))}, expected every part; name"
            " its functions in SEAMS"
        )
    kept = sorted(taken, key=lambda step: step.lost)[: max(1, steps // KEPT)]
    return HostTime(
        n,
        name,
        graphs,
        ms=1e3 * statistics.median(step.seconds for step in kept),
        python_ms=1e3 * statistics.median(sum(step.parts.values()) for step in kept),
        parts={part: 1e6 * statistics.median(step.parts[part] for step in kept) for part in PARTS},
        **{
            name: statistics.median_low(getattr(step, name) for step in taken)
            for name in ("calls", "reads", "allocations")
        },
    )


class Step(NamedTuple):
    """Times and counts of one step."""

    seconds: float  # with those that calls take
    lost: float  # seconds that passed while this thread did not run
    parts: dict[str, float]
    calls: int
    reads: int
    allocations: int


def _step(meter: Any, clock: Clock, work: Callable[[], object]) -> Step:
    calls, counts, taken = meter.calls, dict(meter.counts), meter.seconds
    ran = time.thread_time()
    clock.begin()
    start = time.perf_counter()
    work()
    seconds = time.perf_counter() - start
    clock.switch(REST)
    return Step(
        sum(clock.seconds.values()) + meter.seconds - taken,
        seconds - (time.thread_time() - ran),
        clock.seconds,
        meter.calls - calls,
        *(meter.counts[kind] - counts[kind] for kind in ("read", "allocation")),
    )


@contextlib.contextmanager
def seams(
    timed: Callable[[str, Callable[..., Any]], Callable[..., Any]],
    parts: Mapping[str, Sequence[str]] = MappingProxyType(SEAMS),
) -> Iterator[None]:
    """Replace each function of the parts by `timed(part, function)` inside the ``with``."""
    with contextlib.ExitStack() as stack:
        for part, names in parts.items():
            for owner, name, function in itertools.chain.from_iterable(map(_holders, names)):
                stack.enter_context(patch.object(owner, name, timed(part, function)))
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
