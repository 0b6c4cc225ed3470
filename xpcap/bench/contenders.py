"""Who is timed: each contender gets a configuration ready, and is then asked for one step after another."""

import gc
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import numpy as np

from xpcap.backend import array_module, use_backend
from xpcap.bench.configs import CLIP, LEARNING_RATE, SEED, Config
from xpcap.bench.timing import Clock, Plan, clock_of, time_step
from xpcap.data.dataset import CaptionData
from xpcap.data.feed import Feed
from xpcap.models import CaptioningRNN
from xpcap.solver import CaptioningSolver


class Job(NamedTuple):
    """A contender that is ready: `step(k)` is a training step on batch k, `clock` times it, `memory` says what it holds on a device."""

    step: Callable[[int], object]
    clock: Clock
    memory: Callable[[], int | None]


Ready = Callable[[Config, CaptionData, str], Job]  # on the backend of that name


class Measurement(NamedTuple):
    """What one round says of a contender: numbers only, so that they can come from another process."""

    ms: float  # a step
    tokens: float  # target words in a step, END included
    memory: int | None  # bytes on the device, None on the host


def measure(contender: str, configs: Iterable[Config], plan: Plan, backend: str) -> Iterator[Measurement]:
    """Time a contender on a backend, or on the device that is meant by it, one configuration after the other."""
    for config in configs:
        yield _measure(contender, config, plan, backend)


def _measure(contender: str, config: Config, plan: Plan, backend: str) -> Measurement:
    data = config.data(plan.batches)
    job = CONTENDERS[contender](config, data, backend)
    tokens = np.count_nonzero(data.split("train").captions[:, 1:] != data.vocabulary.null) / plan.batches
    return Measurement(time_step(job.step, job.clock, plan), float(tokens), job.memory())


def batch_rows(config: Config, data: CaptionData) -> np.ndarray:
    """The numbers of the captions of each batch, (batches, N)."""
    return np.arange(len(data.split("train").captions)).reshape(-1, config.N)


def make_solver(config: Config, data: CaptionData) -> CaptioningSolver:
    """A fresh model of ours and its solver, on the backend in force: the same weights every time."""
    model = CaptioningRNN(data.vocabulary.word_to_idx, config.D, config.W, config.H, "lstm", np.float32, seed=SEED)
    rate = {"learning_rate": LEARNING_RATE}
    return CaptioningSolver(model, data, update_rule="adam", optim_config=rate, batch_size=config.N, clip_norm=CLIP, seed=SEED)


def ready_xpcap(config: Config, data: CaptionData, backend: str) -> Job:
    """This package, as its solver steps: on a device the features lie there already, captions are packed and sent step by step."""
    use_backend(backend)
    xp = array_module()
    pool = None if xp is np else xp.get_default_memory_pool()
    if pool is not None:
        gc.collect()
        pool.free_all_blocks()  # what it holds in the end is then this configuration's
    solver = make_solver(config, data)
    flat = solver.model.params.flat
    feed = Feed(data, flat)
    batches = [feed.minibatch("train", rows) for rows in batch_rows(config, data)]
    return Job(lambda k: solver.step(*batches[k]), clock_of(flat), lambda: None if pool is None else int(pool.total_bytes()))


def ready_torch(layout: str) -> Ready:
    """PyTorch with its batches `padded` or `packed`; imported when it is its turn, and CuPy is not."""

    def ready(config: Config, data: CaptionData, backend: str) -> Job:
        from xpcap.bench import peer_torch

        return peer_torch.ready(config, data, backend, layout)

    return ready


CONTENDERS: dict[str, Ready] = {"xpcap": ready_xpcap, "torch padded": ready_torch("padded"), "torch packed": ready_torch("packed")}
