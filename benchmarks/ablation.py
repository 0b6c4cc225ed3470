"""Times a training step on NumPy without each piece of fast code, to see whether it still pays off.

    python -m benchmarks.ablation notebook coco

Prints rows of docs/develop/results/ablation.csv, from `without` on: by how many per cent a step is
slower.
"""

import contextlib
import csv
import functools
import statistics
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any
from unittest import mock

import numpy as np
from numpy.typing import DTypeLike

from benchmarks.timing import host_clock
from benchmarks.work import CONFIGS, Config, host_batches, make_solver
from xpcap import CaptioningSolver
from xpcap.backend import Array
from xpcap.backend.memory import Workspace
from xpcap.backend.threads import cores
from xpcap.layers import vocabulary_loss
from xpcap.models import batch
from xpcap.ops import HostOps, Ops, overridden, segments

PAIRS, STEPS = 9, 4  # pairs of timings; steps of a timing, of which the first is not counted
# Methods to replace together: two call each other, and the plain `matmul` accepts no blocks
TOGETHER = {
    "matmul_nt": ("row_matmul_nt",),
    "row_matmul_nt": ("matmul_nt",),
    "matmul": ("factor",),
}


class FreshWorkspace(Workspace):
    """A workspace that allocates new memory each time."""

    def take(self, name: str, shape: tuple[int, ...], dtype: DTypeLike | None = None) -> Array:
        return np.empty(shape, dtype or self.dtype)


def each_row(*args: Any, pack: Any = batch.pack, **options: Any) -> batch.Packed:
    """Pack a batch so that no rows share a word.

    The gradients of repeated words are wrong, but the amount of work is right.
    """
    packed = pack(*args, **options)
    rows = np.arange(len(packed.inputs.ids), dtype=np.int32)
    return packed._replace(words=packed.words[packed.inputs.ids], inputs=segments(rows, len(rows)))


def ablations(solver: CaptioningSolver) -> dict[str, Callable[[], AbstractContextManager[object]]]:
    """Contexts that each turn off one optimisation, by name."""
    flat, patch = solver.model.params.flat, functools.partial(functools.partial, mock.patch.object)
    single, fresh = Workspace(flat, 1), FreshWorkspace(flat, cores())

    def without(op: str) -> AbstractContextManager[object]:
        ops = {op, *TOGETHER.get(op, ())}
        return mock.patch.multiple(HostOps, **{name: getattr(Ops, name) for name in ops})

    return {
        "nothing: the same twice": contextlib.nullcontext,
        "packing: each caption as long as the longest may be": patch(solver.model, "_null", -1),
        "the word table: each row projected by itself": patch(batch, "pack", each_row),
        "parts: one, only its large products divided": patch(solver, "_workspace", single),
        "buffers that are kept": patch(solver, "_workspace", fresh),
        "blocks: scores held as a whole": patch(vocabulary_loss, "MIN_ROWS", 1 << 30),
        **{op: functools.partial(without, op) for op in overridden(HostOps)},
    }


def slowdowns(config: Config) -> dict[str, float]:
    """By how many per cent a step is slower without each optimisation; medians over pairs."""
    data, percents = config.data(3), dict[str, float]()
    solver, batches = make_solver(config, data), host_batches(config, data)

    def ms() -> float:
        steps = [functools.partial(solver.step, *batches[k % 3]) for k in range(STEPS)]
        return statistics.median([host_clock(step) for step in steps][1:])

    for name, without in ablations(solver).items():
        ratios = []
        for _ in range(PAIRS):
            complete = ms()
            with without():
                ratios.append(ms() / complete)
        percents[name] = 100 * (statistics.median(ratios) - 1)
    return percents


def main() -> None:
    names = sys.argv[1:] or ["notebook", "coco"]
    columns = [slowdowns(CONFIGS[name]) for name in names]
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(("without", *(f"{name}_percent" for name in names)))
    writer.writerows((key, *(f"{column[key]:+.0f}" for column in columns)) for key in columns[0])


if __name__ == "__main__":
    main()
