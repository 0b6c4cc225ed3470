"""Measures one round of a contender, in this process or in a fresh one.

In a fresh process, the threads and memory of one library cannot slow another, and its context on a
GPU cannot lock another out. For xpcap a large matrix product is timed too, to gauge the machine.
"""

import contextlib
import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.contenders import CONTENDERS
from benchmarks.timing import MatrixProduct, Plan, Timer, busy_process, host_clock, machine
from benchmarks.work import (
    BEAM,
    BUSY,
    POLICIES,
    WIDTH,
    Config,
    batch_rows,
    check_same_captions,
    host_model,
    sampling_flops,
    training_flops,
    works_of,
)
from xpcap.backend import use_backend
from xpcap.backend.plain_code import VARIABLE, is_plain
from xpcap.backend.switch import array_module
from xpcap.errors import EXPECTED, BackendError

OURS = "xpcap"


class Measurement(NamedTuple):
    """A round of a contender at one kind of work, as numbers that can be sent as JSON."""

    ms: float  # per training step, or to caption all pictures
    words: float  # words of a step or of all captions, END included
    gflops: float  # GFLOP/s, counting only necessary arithmetic
    gemm_gflops: float | None = None  # of a large matrix product between the blocks; xpcap only
    memory: int | None = None  # bytes: peak of this process on the host, or held on the GPU


def measure(
    contender: str, configs: Iterable[Config], plan: Plan, backend: str, works: Sequence[str]
) -> Iterator[Measurement]:
    """Time each kind of work at each configuration, for a contender on a backend's device."""
    for config in configs:
        for work in works_of(config, works):
            if work in POLICIES:
                yield _measure_captions(contender, config, plan, backend, work)
            else:
                with busy_process() if work == BUSY else contextlib.nullcontext():
                    yield _measure_step(contender, config, plan, backend)


def _measure_step(contender: str, config: Config, plan: Plan, backend: str) -> Measurement:
    data = config.data(plan.batches)
    job = CONTENDERS[contender].train(config, data, backend)
    timer = Timer(job.step, job.clock, plan)
    timer.warm_up()
    memory = job.memory()  # before the matrix product adds to it
    ms, rate = _run(timer, contender, plan)
    captions = data.split("train").captions[batch_rows(config, data)]  # (batches, N, T+1)
    null = data.vocabulary.null
    words = np.count_nonzero(captions[..., 1:] != null) / plan.batches
    gflops = training_flops(config, captions, null) / ms / 1e6
    return Measurement(ms, float(words), gflops, rate, memory)


def _measure_captions(
    contender: str, config: Config, plan: Plan, backend: str, work: str
) -> Measurement:
    data = config.data(1)  # for its vocabulary
    sample, captions = CONTENDERS[contender].caption(config, data, backend, work), np.empty(0)

    def step(_: int) -> None:
        nonlocal captions
        captions = sample()

    timer = Timer(step, host_clock, dataclasses.replace(plan, batches=1))
    timer.warm_up()
    if contender != OURS or backend != "numpy":
        ours, title = host_model(config, data, ending=True), f"{config.name}, {contender}"
        check_same_captions(captions, ours, config.pictures(), POLICIES[work], title)
    ms, rate = _run(timer, contender, plan)
    null, end = data.vocabulary.null, data.vocabulary.end
    flops = sampling_flops(config, captions, null, end, WIDTH if work == BEAM else 1)
    return Measurement(ms, float(np.count_nonzero(captions != null)), flops / ms / 1e6, rate)


def _run(timer: Timer, contender: str, plan: Plan) -> tuple[float, float | None]:
    """Milliseconds per step and, for xpcap, GFLOP/s of a large matrix product."""
    if contender != OURS:
        return timer.run(), None
    gauge = MatrixProduct(array_module(), plan.product)
    return timer.run(between=gauge), gauge.gflops


# In a fresh process


def measure_in_process(
    contender: str, configs: Iterable[Config], plan: Plan, backend: str, works: Sequence[str]
) -> Iterator[Measurement]:
    """`measure` in a fresh process. BackendError : it failed; its output has the reason."""
    task = {
        "contender": contender,
        "configs": [dataclasses.asdict(config) for config in configs],
        "plan": dataclasses.asdict(plan),
        "backend": backend,
        "works": list(works),
    }
    for answer in _answers(contender, task):
        yield Measurement(**answer)


def machine_in_process(backend: str) -> dict[str, str]:
    """Describe the machine in a fresh process, which uses `backend`: on a GPU in exclusive-process
    mode, a context of this process would lock out the processes that are timed.

    BackendError : the backend is not usable here.
    """
    (answer,) = _answers(f"backend {backend}", {"machine": backend})
    return answer


def _answers(title: str, task: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Start a process with a task, and yield the JSON objects that it prints, one per line."""
    root = str(Path(__file__).parents[1])
    environment = {
        **os.environ,
        VARIABLE: str(int(is_plain())),
        "PYTHONPATH": os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH")))),
    }
    code = "from benchmarks.measure import child; child()"
    command = [sys.executable, "-c", code, json.dumps(task)]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            for line in process.stdout:
                answer = json.loads(line)
                if "error" in answer:
                    raise BackendError(answer["error"])
                yield answer
        except BaseException:
            process.kill()
            raise
    if process.returncode:
        raise BackendError(
            f"{title} stopped with exit status {process.returncode}, expected an answer; its output"
            " is above"
        )


def child() -> None:
    """Do the task of the first argument, in the process that `_answers` starts."""
    task = json.loads(sys.argv[1])
    try:
        if "machine" in task:
            use_backend(task["machine"])
            print(json.dumps(machine()))
            return
        configs = [Config(**config) for config in task["configs"]]
        for measurement in measure(
            task["contender"], configs, Plan(**task["plan"]), task["backend"], task["works"]
        ):
            print(json.dumps(measurement._asdict()), flush=True)
    except (*EXPECTED, ArithmeticError) as error:
        print(json.dumps({"error": str(error)}), flush=True)
