"""Host time: a call takes what is published for it, the rest is our own Python, and nothing stays
behind.
"""

import contextlib
import functools
import itertools
import json
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from emulated import MISSING, Emulator, real
from emulated import meter as meters
from emulated.meter import COSTS, metered

from benchmarks import __main__ as command
from benchmarks import host_decoding, host_time
from xpcap import backend
from xpcap.device import cublas, probe
from xpcap.layers.cells import CELLS
from xpcap.models import Parameters
from xpcap.ops import packed
from xpcap.runs.recipe import PRESETS, TrainOptions
from xpcap.training.losses import LossBuffer
from xpcap.training.optimizer import Optimizer

ROOT = Path(__file__).parents[2]
NEEDS_CUPY = pytest.mark.skipif(not real.is_installed(), reason=MISSING)
KEYS = ["n", "work", "graphs", "ms", "python_ms", "calls", "parts", "reads", "allocations"]
PARTS = ["packing", "masks", "gradients", "update", "rest"]
BRIEF = (
    "import functools; from benchmarks import __main__, host_time; host_time.host_times ="
    " functools.partial(host_time.host_times, (6,), steps=3, warm_up=1); __main__.main()"
)


@pytest.fixture(autouse=True)
def real_cupy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(backend.VARIABLE, raising=False)
    monkeypatch.setattr(backend, "_active", None)


def measure(work: str = "default") -> host_time.HostTime:
    return host_time.host_times((6,), (work,), (False,), steps=3, warm_up=1)[0]


def call(*args: str) -> Result:
    return CliRunner().invoke(command.main, args)


@NEEDS_CUPY
def test_host_time_prints_the_objects_that_are_promised() -> None:
    command = [sys.executable, "-c", BRIEF, "--host-time", "--json"]
    rows = json.loads(
        subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    )
    works = [(work, graphs) for work in ("init", "default", "attention") for graphs in (0, 1)]
    assert [(row["n"], row["work"], row["graphs"]) for row in rows] == [
        (6, *work) for work in works
    ]
    for row in rows:
        assert list(row) == KEYS
        assert list(row["parts"]) == PARTS
        assert 0 < row["python_ms"] < row["ms"]
        none = [part for part, value in row["parts"].items() if value == 0]
        assert none == (["masks"] if row["work"] == "init" else [])
        assert row["reads"] == 0


@NEEDS_CUPY
def test_host_time_shows_a_launch_a_read_and_an_allocation_that_are_one_too_many(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before, update, add = measure(), Optimizer.update, LossBuffer.add

    def update_twice(self: Optimizer, params: Any, grads: Any) -> None:
        update(self, params, grads)
        params.flat *= 1

    def update_copy(self: Optimizer, params: Any, grads: Any) -> None:
        update(self, params, Parameters(grads.shapes, grads.flat * 1))

    def read_and_add(self: LossBuffer, loss: Any, norm: Any) -> None:
        add(self, loss, loss if float(norm) else norm)

    monkeypatch.setattr(Optimizer, "update", update_twice)
    launched = measure()
    assert (launched.calls, launched.reads, launched.allocations) == (
        before.calls + 1,
        before.reads,
        before.allocations,
    )
    monkeypatch.setattr(Optimizer, "update", update_copy)
    allocated = measure()
    assert (allocated.calls, allocated.reads, allocated.allocations) == (
        before.calls + 1,
        before.reads,
        before.allocations + 1,
    )
    monkeypatch.setattr(Optimizer, "update", update)
    monkeypatch.setattr(LossBuffer, "add", read_and_add)
    read = measure()
    assert (read.calls, read.reads, read.allocations) == (
        before.calls,
        before.reads + 1,
        before.allocations,
    )


@NEEDS_CUPY
def test_host_time_leaves_everything_as_it_was() -> None:
    cupy = probe.import_cupy()

    def state() -> list[Any]:
        modules = [
            module for name, module in sorted(sys.modules.items()) if name.split(".")[0] == "xpcap"
        ]
        places = [cupy.ndarray, LossBuffer, backend, *modules]
        return [
            sys.modules["cupy"],
            dict(CELLS),
            *({name: id(value) for name, value in vars(place).items()} for place in places),
        ]

    before = state()
    measure()
    assert state() == before
    with contextlib.suppress(ZeroDivisionError), metered():
        assert state() != before
        raise ZeroDivisionError
    assert state() == before


def test_host_time_counts_what_the_emulated_device_counts(
    device: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(ROOT / "tests" / "device")
    from test_emulated_step import N, count_step, make

    for dropout in (0.0, 0.3):
        counts = count_step(device, make("cupy", dropout=dropout))
        assert counts.reads == []
        with metered() as meter:
            solver = make("cupy", dropout=dropout)
            solver.step(*solver._loader.minibatch("train", np.arange(N))[:2])
            before = meter.calls
            solver._record.add(*solver._step(solver._loader.minibatch("train", np.arange(N))))
        assert meter.calls - before == len(counts.launches) + len(counts.transfers)


@NEEDS_CUPY
def test_host_time_charges_each_call_what_is_published_for_it() -> None:
    calls: dict[str, tuple[Callable[[Any, Any], object], dict[str, int]]] = {
        "a ufunc includes its result": (lambda xp, x: x + 1, {"ufunc": 1, "allocation": 1}),
        "an array from the pool": (lambda xp, x: xp.empty_like(x), {"allocation": 1}),
        "memory that is cleared": (lambda xp, x: xp.zeros(3), {"ufunc": 1, "allocation": 1}),
        "a product of CuPy's": (lambda xp, x: x.dot(x), {"dot": 1, "allocation": 1}),
        "one of ours": (lambda xp, x: cublas.multiply(x, x, x), {"gemm": 1, "question": 2}),
        "an index": (lambda xp, x: x[x.get().argmax() + x[0].astype(int)], {
            "read": 1, "view": 1, "ufunc": 2, "index": 1, "allocation": 3,
        }),
        "a host array": (lambda xp, x: xp.asarray(np.ones(3)), {"transfer": 1, "allocation": 1}),
        "a number on the device": (lambda xp, x: float(x[0, 0]), {"view": 1, "read": 1}),
        "views": (lambda xp, x: x.reshape(2, 8).T[1:], {"view": 3}),
        "attributes": (lambda xp, x: (x.shape, x.data.ptr, x.flags.c_contiguous, len(x)), {}),
    }  # fmt: skip
    with metered() as meter:
        xp = backend.array_module()
        x = xp.ones((4, 4), "f4")
        cublas.multiply(x, x, x)  # makes a handle
        for what, (call, expected) in calls.items():
            before, seconds = meter.counts.copy(), meter.seconds
            call(xp, x)
            assert meter.counts - before == expected, what
            fresh = expected.get("allocation", 0) if set(expected) != {"allocation"} else 0
            charged = sum(n * COSTS[kind].microseconds for kind, n in expected.items())
            charged -= fresh * COSTS["allocation"].microseconds
            assert meter.seconds - seconds == pytest.approx(1e-6 * charged), what


@NEEDS_CUPY
def test_host_time_stands_still_in_the_stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """A call takes its time, and none of that is ours, on a clock that goes on by a tick whenever
    it is read: once between two readings.
    """
    tick, readings = 2.0**-23, itertools.count()
    clockwork = types.SimpleNamespace(perf_counter=lambda: tick * next(readings))
    monkeypatch.setattr(meters, "time", clockwork)
    monkeypatch.setattr(host_time, "time", clockwork)
    with metered() as meter:
        x = backend.array_module().ones((3, 4), "f4")
        before, clock = meter.seconds, host_time.Clock(meter)
        fill = clock.timed("update", x.fill)
        for _ in range(100):
            fill(0)
        clock.switch("rest")
    assert meter.seconds - before == pytest.approx(100e-6 * COSTS["ufunc"].microseconds)
    # Two ticks, before and behind the call, of which one is of entering it; and one to the next
    assert clock.seconds["update"] == pytest.approx(100 * tick, rel=1e-3)
    assert clock.seconds["rest"] == pytest.approx(101 * tick)


@NEEDS_CUPY
def test_host_time_notices_a_part_that_nothing_enters(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(host_time.SEAMS, "gradients", ("xpcap.models.network:renamed",))
    with pytest.raises(NotImplementedError, match="no step entered gradients"):
        measure("init")


@NEEDS_CUPY
def test_host_time_table_has_a_column_for_each_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        host_time,
        "host_times",
        functools.partial(host_time.host_times, (6,), ("default",), (False,), steps=2, warm_up=1),
    )
    title, *lines = call("--host-time").output.splitlines()
    assert "published" in title
    assert len(lines) == 3
    assert len(lines[2].split()) == len(KEYS) - 1 + len(PARTS)


def test_host_time_costs_in_the_docs_are_those_of_the_meter() -> None:
    text = (ROOT / "benchmarks/README.md").read_text(encoding="utf-8")
    section = text.split("\n## Host time of a step on a card\n")[1].split("\n## ")[0]
    table = section.split("\n|---|---|\n")[1].split("\n\n")[0]
    assert table.splitlines() == [
        f"| {cost.microseconds:g} | {cost.source} |" for cost in COSTS.values()
    ]


@pytest.mark.parametrize(
    "other",
    [
        ["--config", "coco"],
        ["--peer", "torch"],
        ["--scaling"],
        ["--neighbour"],
        ["--plot", "a.png"],
        ["--backend", "numpy"],
    ],
)
def test_host_time_refuses_options_of_other_timings(other: list[str]) -> None:
    result = call("--host-time", *other)
    assert result.exit_code == 2
    assert f"{other[0]} and --host-time are given, expected one or the other" in result.output


def test_host_time_says_how_to_get_cupy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cupy", None)
    result = call("--host-time")
    assert result.exit_code == 1
    assert "pip install '.[kernels]'" in result.output
    assert "Traceback" not in result.output


def test_host_time_default_is_the_step_of_train() -> None:
    """Its inject, dropout and smoothing, of mirror views, and batches that no cache has seen."""
    usual, work = TrainOptions(), host_time.WORKS["default"]
    assert (work.inject, work.dropout) == (usual.inject, usual.dropout)
    assert work.smoothing == PRESETS["many"]["smoothing"]
    assert PRESETS["many"]["batch_size"] in host_time.SIZES
    assert work.views == 2
    assert packed._steps.cache_parameters()["maxsize"] < host_time.BATCHES


@NEEDS_CUPY
def test_host_time_by_graph_is_a_few_calls() -> None:
    """A list of launches makes as many calls as a step that decides anew; a graph is one of seven."""
    one, other = host_time.host_times((6,), ("default",), steps=20, warm_up=60)
    assert (one.graphs, other.graphs) == (False, True)
    assert other.calls == 7
    assert one.calls > 60
    assert (other.reads, other.allocations) == (0, 0)


@NEEDS_CUPY
def test_host_time_of_decoding_has_few_calls_and_one_read_a_word_and_array() -> None:
    found = {one.work: one for one in host_decoding.decoding_times(calls=3, warm_up=1)}
    assert [*found] == ["greedy", "sampling", "beam of 5", "self-critical step"]
    calls = {"greedy": 7, "sampling": 8, "beam of 5": 12, "self-critical step": 205}
    for work, one in found.items():
        assert 0 < one.calls <= calls[work], one
        assert 0 < one.python_us < one.us
    assert [round(one.reads) for one in found.values()] == [1, 1, 3, 17]
    assert len({len(line) for line in host_decoding.decoding_rows([*found.values()])}) == 1
