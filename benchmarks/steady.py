"""Many steps of `train` on a card: whether memory and time stay as they are, and batches fit.

    python -m benchmarks.steady --captions 64 --steps 1000

A row for each tenth of the steps. A batch that does not fit the layout makes the buffers of
unpadded steps grow if it is the largest so far, which is rare; the exit status is 1 if memory grows
in each of the last five tenths.
"""

import argparse
import functools
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from benchmarks.step_paths import BATCHES, device_workspace
from benchmarks.timing import peak_memory
from benchmarks.work import CONFIGS, SEED, Config, make_solver
from xpcap.backend import array_module, use_backend
from xpcap.cli.shared import table
from xpcap.errors import BackendError

TENTHS, LAST = 10, 5


class Tenth(NamedTuple):
    """A tenth of the steps: time of one, and bytes after the last."""

    ms: float
    used: int  # by arrays of CuPy's pool
    pool: int  # of the pool
    free: int  # on the card, whoever uses the rest
    host: int  # peak of this process, where the system tells


class Steady(NamedTuple):
    """Training by steps of random batches."""

    tenths: list[Tenth]
    steps: int
    fits: int  # steps that repeat the record, the first among them
    refused: str  # why there is no record

    @property
    def fault(self) -> str:
        """What is wrong; empty if nothing is."""
        last = [tenth.used for tenth in self.tenths[-LAST - 1 :]]
        grows = all(before < after for before, after in pairwise(last))
        return f"memory grows: {last[-1] - last[0]:,} bytes in the last half" if grows else ""

    @property
    def summary(self) -> str:
        """One line: the fault, batches that fit, times and memory."""
        slowest, fastest = (f(tenth.ms for tenth in self.tenths) for f in (max, min))
        return "; ".join(
            [
                self.fault or f"memory is flat at {self.tenths[-1].used / 1e6:.0f} MB",
                f"{self.fits / self.steps:.1%} of {self.steps:,} batches fit",
                f"{fastest:.2f} to {slowest:.2f} ms a step",
                f"launched anew: {self.refused}" if self.refused else "repeated as a list",
            ]
        )


def steady(config: Config, steps: int) -> Steady:
    """Train on the current backend, a device."""
    xp, data, rng = array_module(), config.data(BATCHES), np.random.default_rng(SEED)
    solver, pool = make_solver(config, data), xp.get_default_memory_pool()
    tenths = []
    for _ in range(TENTHS):
        start = time.perf_counter()
        for _ in range(steps // TENTHS):
            solver.train_batch(rng.permutation(BATCHES * config.N)[: config.N])
        float(solver.loss_history[-1])  # waits for the device
        ms = 1e3 * (time.perf_counter() - start) / (steps // TENTHS)
        free, _ = xp.cuda.runtime.memGetInfo()
        tenths.append(Tenth(ms, pool.used_bytes(), pool.total_bytes(), free, peak_memory() or 0))
    replay = device_workspace(solver).replay
    fits = replay.repeats + 1 if replay.nodes else 0
    return Steady(tenths, steps // TENTHS * TENTHS, fits, replay.refused)


def tenth_rows(found: Steady) -> list[tuple[str, ...]]:
    """A table: headings, then a row for each tenth."""
    rows: list[tuple[str, ...]] = [
        ("steps", "ms a step", "used MB", "pool MB", "free on the card MB", "host's peak MB")
    ]
    for k, (ms, *sizes) in enumerate(found.tenths, 1):
        count = f"{k * found.steps // TENTHS:,}"
        rows.append((count, f"{ms:.3f}", *(f"{size / 1e6:,.2f}" for size in sizes)))
    return rows


def main(words: Sequence[str] | None = None) -> int:
    """Print a table of the tenths, and a summary."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.steady")
    whole = functools.partial(parser.add_argument, type=int)
    whole("--captions", default=64, help="captions a batch, at most 512 (default: 64)")
    whole("--steps", default=1000, help="training steps, at least 10 (default: 1000)")
    given = parser.parse_args(words)
    try:
        use_backend("cupy")
    except BackendError as error:
        sys.exit(str(error))
    found = steady(replace(CONFIGS["coco-dropout"], N=given.captions), given.steps)
    print(f"{table(tenth_rows(found))}\n{found.summary}")
    return int(bool(found.fault))


if __name__ == "__main__":
    sys.exit(main())
