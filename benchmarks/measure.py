"""One round of one contender, in this process or in one of its own.

In one of its own the threads and memory of one library cannot slow another, nor its context on a
card shut another out. For xpcap a large matrix product is timed too, to show how fast the machine
is then.
"""

import dataclasses
import functools
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.contenders import CONTENDERS
from benchmarks.timing import MatrixProduct, Plan, Timer, busy_neighbour, host_clock, machine
from benchmarks.work import (
    BEAM,
    BEAMS,
    BESIDE,
    GREEDY,
    SAMPLING,
    TRAINING,
    WIDTH,
    WORKS,
    Config,
    batch_rows,
    check_same_captions,
    host_model,
    make_ending_model,
    sampling_flops,
    training_flops,
    works_of,
)
from xpcap.backend import array_module, use_backend
from xpcap.errors import EXPECTED, BackendError
from xpcap.way import VARIABLE, is_plain

OURS = "xpcap"


class Measurement(NamedTuple):
    """One round of a contender at one kind of work, in plain numbers, to be sent as JSON."""

    ms: float  # per training step, or to caption all pictures
    tokens: float  # words that it trains on or samples, END included
    gflops: float  # GFLOP/s, counting only the arithmetic that is needed
    gemm_gflops: float | None = None  # of a large matrix product between the blocks; xpcap's only
    feeding: float | None = None  # share of a step spent preparing its batch
    memory: int | None = None  # bytes: peak of this process on the host, or held on the GPU


def measure(
    contender: str,
    configs: Iterable[Config],
    plan: Plan,
    backend: str,
    works: Sequence[str] = WORKS,
) -> Iterator[Measurement]:
    """Time a contender on a backend, or on its device: each kind of work of each configuration."""
    for config in configs:
        for work in works_of(config, works):
            yield _MEASURE[work](contender, config, plan, backend)


def _measure_training(contender: str, config: Config, plan: Plan, backend: str) -> Measurement:
    data = config.data(plan.batches)
    job = CONTENDERS[contender].train(config, data, backend)
    timer = Timer(job.step, job.clock, plan)
    timer.warm_up()
    memory = job.memory()  # before the matrix product adds to it
    ms, rate = _run(timer, contender, plan)
    captions, null = (
        data.split("train").captions[batch_rows(config, data)],
        data.vocabulary.null,
    )  # (batches, N, T+1)
    tokens = np.count_nonzero(captions[..., 1:] != null) / plan.batches
    feeding = None if job.feed is None else _feeding_share(job.feed, ms, plan)
    return Measurement(
        ms, float(tokens), training_flops(config, captions, null) / ms / 1e6, rate, feeding, memory
    )


def _measure_captions(
    contender: str, config: Config, plan: Plan, backend: str, *, beam: bool
) -> Measurement:
    data = config.data(1)  # for its vocabulary
    prepare = CONTENDERS[contender].search if beam else CONTENDERS[contender].sample
    assert prepare is not None  # bench refuses a beam of the textbook
    policy, width, sample = (
        BEAM if beam else GREEDY,
        WIDTH if beam else 1,
        prepare(config, data, backend),
    )
    captions = np.empty(0)

    def step(_: int) -> None:
        nonlocal captions
        captions = sample()

    timer = Timer(step, host_clock, dataclasses.replace(plan, batches=1))
    timer.warm_up()
    if contender != OURS or backend != "numpy":
        check_same_captions(
            captions,
            host_model(config, data, make_ending_model),
            config.pictures(),
            policy,
            f"{config.name}, {contender}",
        )
    ms, rate = _run(timer, contender, plan)
    null, end = data.vocabulary.null, data.vocabulary.end
    flops = sampling_flops(config, captions, null, end, width)
    return Measurement(ms, float(np.count_nonzero(captions != null)), flops / ms / 1e6, rate)


def _measure_beside(contender: str, config: Config, plan: Plan, backend: str) -> Measurement:
    with busy_neighbour():
        return _measure_training(contender, config, plan, backend)


_MEASURE: dict[str, Callable[[str, Config, Plan, str], Measurement]] = {
    TRAINING: _measure_training,
    BESIDE: _measure_beside,
    SAMPLING: functools.partial(_measure_captions, beam=False),
    BEAMS: functools.partial(_measure_captions, beam=True),
}


def _run(timer: Timer, contender: str, plan: Plan) -> tuple[float, float | None]:
    """Milliseconds per step, and for xpcap the GFLOP/s of a large matrix product."""
    if contender != OURS:
        return timer.run(), None
    gauge = MatrixProduct(array_module(), plan.product)
    return timer.run(between=gauge), gauge.gflops


def _feeding_share(feed: Callable[[int], object], ms: float, plan: Plan) -> float:
    timer = Timer(
        feed, host_clock, dataclasses.replace(plan, warm_ms=0, block_ms=plan.block_ms / 10)
    )
    timer.warm_up()
    feeding = timer.run()
    return feeding / (ms + feeding)


# In a process of its own


def measure_in_process(
    contender: str,
    configs: Iterable[Config],
    plan: Plan,
    backend: str,
    works: Sequence[str] = WORKS,
) -> Iterator[Measurement]:
    """`measure`, in a fresh process.

    Raises
    ------
    BackendError : the process failed. The message says why, or else standard error does.
    """
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
    """Description of the machine by a fresh process, which puts `backend` in force.

    This process then has no context on a card.

    Raises
    ------
    BackendError : the backend is not usable here, with the reason.
    """
    (answer,) = _answers(f"backend {backend}", {"machine": backend})
    return answer


def _answers(who: str, task: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Start a process on a task; yield the objects that it prints, one a line, as they come."""
    root = str(Path(__file__).parents[1])
    environment = {
        **os.environ,
        VARIABLE: str(int(is_plain())),
        "PYTHONPATH": os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH")))),
    }
    command = [
        sys.executable,
        "-c",
        "from benchmarks.measure import child; child()",
        json.dumps(task),
    ]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            for line in process.stdout:
                answer = json.loads(line)
                if "error" in answer:
                    raise BackendError(*answer["error"])
                yield answer
        except BaseException:
            process.kill()
            raise
    if process.returncode:
        raise BackendError(
            "bench",
            "",
            f"{who} stopped with exit status {process.returncode}",
            expected="an answer",
            cause="its own output is above",
        )


def child() -> None:
    """Do the task in the first argument, in the process that `_answers` starts."""
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
        print(json.dumps({"error": error.args}), flush=True)
