"""Times one round of one contender. For xpcap it also times a large matrix product, to show how fast the machine is at that moment."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from benchmarks.arithmetic import sampling_flops, training_flops
from benchmarks.configs import BEAMS, BESIDE, SAMPLING, TRAINING, WIDTH, WORKS, Config, works_of
from benchmarks.contenders import CONTENDERS
from benchmarks.neighbour import busy_neighbour
from benchmarks.timing import MatrixProduct, Plan, Timer, host_clock
from benchmarks.work import BEAM, GREEDY, Sample, batch_rows, check_same_captions, host_model, make_speaker
from xpcap.backend import array_module
from xpcap.data.dataset import CaptionData
from xpcap.models import Policy

OURS = "xpcap"


class Measurement(NamedTuple):
    """One round of a contender at one kind of work. Plain numbers, so that another process can send them as JSON."""

    ms: float  # per training step, or to caption all pictures
    tokens: float  # words that it trains on or samples, END included
    gflops: float  # GFLOP/s, counting only the arithmetic that is needed
    gemm_gflops: float | None = None  # GFLOP/s of a large matrix product between the blocks; xpcap only
    feeding: float | None = None  # share of a step spent preparing its batch; None if not timed
    memory: int | None = None  # bytes: peak of this process on the host, or held on the GPU; None if not measured


def measure(contender: str, configs: Iterable[Config], plan: Plan, backend: str, works: Sequence[str] = WORKS) -> Iterator[Measurement]:
    """Time a contender on a backend, or on the device that the backend stands for: for each configuration, each kind of work."""
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
    captions, null = data.split("train").captions[batch_rows(config, data)], data.vocabulary.null  # (batches, N, T+1)
    tokens = np.count_nonzero(captions[..., 1:] != null) / plan.batches
    feeding = None if job.feed is None else _feeding_share(job.feed, ms, plan)
    return Measurement(ms, float(tokens), training_flops(config, captions, null) / ms / 1e6, rate, feeding, memory)


def _measure_sampling(contender: str, config: Config, plan: Plan, backend: str) -> Measurement:
    data = config.data(1)  # for its vocabulary
    return _measure_captions(CONTENDERS[contender].sample(config, data, backend), GREEDY, 1, contender, config, data, plan, backend)


def _measure_searching(contender: str, config: Config, plan: Plan, backend: str) -> Measurement:
    search, data = CONTENDERS[contender].search, config.data(1)
    assert search is not None
    return _measure_captions(search(config, data, backend), BEAM, WIDTH, contender, config, data, plan, backend)


def _measure_captions(
    sample: Sample, policy: Policy, width: int, contender: str, config: Config, data: CaptionData, plan: Plan, backend: str
) -> Measurement:  # fmt: skip
    captions = np.empty(0)

    def step(_: int) -> None:
        nonlocal captions
        captions = sample()

    timer = Timer(step, host_clock, replace(plan, batches=1))
    timer.warm_up()
    if contender != OURS or backend != "numpy":
        check_same_captions(captions, host_model(config, data, make_speaker), config.pictures(), policy, f"{config.name}, {contender}")
    ms, rate = _run(timer, contender, plan)
    null, end = data.vocabulary.null, data.vocabulary.end
    flops = sampling_flops(config, captions, null, end, width)
    return Measurement(ms, float(np.count_nonzero(captions != null)), flops / ms / 1e6, rate)


def _measure_beside(contender: str, config: Config, plan: Plan, backend: str) -> Measurement:
    with busy_neighbour():
        return _measure_training(contender, config, plan, backend)


_MEASURE = {TRAINING: _measure_training, BESIDE: _measure_beside, SAMPLING: _measure_sampling, BEAMS: _measure_searching}


def _run(timer: Timer, contender: str, plan: Plan) -> tuple[float, float | None]:
    """Milliseconds per step, and for xpcap the GFLOP/s of a large matrix product."""
    if contender != OURS:
        return timer.run(), None
    gauge = MatrixProduct(array_module(), plan.product)
    return timer.run(between=gauge), gauge.gflops


def _feeding_share(feed: Callable[[int], object], ms: float, plan: Plan) -> float:
    timer = Timer(feed, host_clock, replace(plan, warm_ms=0, block_ms=plan.block_ms / 10))
    timer.warm_up()
    feeding = timer.run()
    return feeding / (ms + feeding)
