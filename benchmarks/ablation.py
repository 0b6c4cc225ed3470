"""Ablation of a training step on NumPy: with all optimisations and without one, in turn.

python -m benchmarks.ablation coco vocab10k
"""

import contextlib
import statistics
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any
from unittest import mock

import numpy as np
from numpy.typing import DTypeLike

from benchmarks.work import CONFIGS, host_batches, make_solver
from xpcap import CaptioningSolver
from xpcap.backend import Array
from xpcap.layers import vocabulary_loss
from xpcap.memory import Workspace
from xpcap.models import batch
from xpcap.ops import HostOps, Ops, overridden, segments
from xpcap.threads import cores

PAIRS, STEPS = (
    9,
    4,
)  # pairs of timings, without one and with all; steps per timing, the first not counted
# Methods that an operation needs: two call each other, and the plain `matmul` takes no blocks
TOGETHER = {
    "matmul_nt": ("row_matmul_nt",),
    "row_matmul_nt": ("matmul_nt",),
    "matmul": ("factor",),
}


class Forgetful(Workspace):
    """A workspace that allocates fresh memory each time."""

    def take(self, name: str, shape: tuple[int, ...], dtype: DTypeLike | None = None) -> Array:
        return np.empty(shape, dtype or self.dtype)


def each_row(*args: Any, pack: Any = batch.pack, **options: Any) -> batch.Packed:
    """Pack so that no rows share a word.

    Only the amount of work is right: the gradient of a repeated word is that of its last row.
    """
    packed = pack(*args, **options)
    rows = np.arange(len(packed.inputs.ids), dtype=np.int32)
    return packed._replace(words=packed.words[packed.inputs.ids], inputs=segments(rows, len(rows)))


def ways(solver: CaptioningSolver) -> dict[str, Callable[[], AbstractContextManager[object]]]:
    """Contexts that each turn off one optimisation, by name."""
    flat, parts = solver.model.params.flat, cores()
    one, forgetful = Workspace(flat, 1), Forgetful(flat, parts)

    def without(op: str) -> AbstractContextManager[object]:
        ops = {op, *TOGETHER.get(op, ())}
        return mock.patch.multiple(HostOps, **{name: getattr(Ops, name) for name in ops})

    found: dict[str, Callable[[], AbstractContextManager[object]]] = {
        "nothing (twice the same)": contextlib.nullcontext,
        "packing: each caption as long as the longest may be": lambda: mock.patch.object(
            solver.model, "_null", -1
        ),
        "the word table: each row projected by itself": lambda: mock.patch.object(
            batch, "pack", each_row
        ),
        "parts: one, only its large products divided": lambda: mock.patch.object(
            solver, "_workspace", one
        ),
        "kept buffers": lambda: mock.patch.object(solver, "_workspace", forgetful),
        "blocks: scores held as a whole": lambda: mock.patch.object(
            vocabulary_loss, "MIN_ROWS", 1 << 30
        ),
    }
    return found | {op: lambda op=op: without(op) for op in overridden(HostOps)}


def milliseconds(solver: CaptioningSolver, batches: list[Any], count: int = STEPS) -> float:
    """Milliseconds per step: the median of `count` steps, without the first."""
    times = []
    for k in range(count):
        start = time.perf_counter()
        solver.step(*batches[k % len(batches)])
        times.append(1e3 * (time.perf_counter() - start))
    return statistics.median(times[1:])


def main() -> None:
    for name in sys.argv[1:] or ["coco"]:
        config = CONFIGS[name]
        data = config.data(3)
        solver, batches = make_solver(config, data), host_batches(config, data)
        print(
            f"{name}: {milliseconds(solver, batches, 10):.1f} ms a step; median slowdown over"
            f" {PAIRS} alternating pairs, without"
        )
        for way, context in ways(solver).items():
            ratios = []
            for _ in range(PAIRS):
                whole = milliseconds(solver, batches)
                with context():
                    ratios.append(milliseconds(solver, batches) / whole)
            print(f"  {way}: {statistics.median(ratios) - 1:+.1%}", flush=True)


if __name__ == "__main__":
    main()
