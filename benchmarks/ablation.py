"""Whether each fast version still pays: a training step on NumPy with all of them and without one, in
turn.

    python -m benchmarks.ablation notebook coco

Prints rows of docs/develop/results/ablation.csv, from `without` on: percent that a step takes longer.
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
from xpcap.layers import vocabulary_loss
from xpcap.memory import Workspace
from xpcap.models import batch
from xpcap.ops import HostOps, Ops, overridden, segments
from xpcap.threads import cores

PAIRS, STEPS = 9, 4  # steps of a timing, the first not counted
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
    flat, patch = solver.model.params.flat, functools.partial(functools.partial, mock.patch.object)
    one, forgetful = Workspace(flat, 1), Forgetful(flat, cores())

    def without(op: str) -> AbstractContextManager[object]:
        ops = {op, *TOGETHER.get(op, ())}
        return mock.patch.multiple(HostOps, **{name: getattr(Ops, name) for name in ops})

    return {
        "nothing: the same twice": contextlib.nullcontext,
        "packing: each caption as long as the longest may be": patch(solver.model, "_null", -1),
        "the word table: each row projected by itself": patch(batch, "pack", each_row),
        "parts: one, only its large products divided": patch(solver, "_workspace", one),
        "buffers that are kept": patch(solver, "_workspace", forgetful),
        "blocks: scores held as a whole": patch(vocabulary_loss, "MIN_ROWS", 1 << 30),
        **{op: functools.partial(without, op) for op in overridden(HostOps)},
    }


def slowdowns(config: Config) -> dict[str, float]:
    """Percent that a step takes longer without each optimisation, medians over pairs."""
    data, found = config.data(3), dict[str, float]()
    solver, batches = make_solver(config, data), host_batches(config, data)

    def ms() -> float:
        steps = [functools.partial(solver.step, *batches[k % 3]) for k in range(STEPS)]
        return statistics.median([host_clock(step) for step in steps][1:])

    for name, way in ways(solver).items():
        ratios = []
        for _ in range(PAIRS):
            whole = ms()
            with way():
                ratios.append(ms() / whole)
        found[name] = 100 * (statistics.median(ratios) - 1)
    return found


def main() -> None:
    names = sys.argv[1:] or ["notebook", "coco"]
    found = [slowdowns(CONFIGS[name]) for name in names]
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(("without", *(f"{name}_percent" for name in names)))
    writer.writerows((way, *(f"{slow[way]:+.0f}" for slow in found)) for way in found[0])


if __name__ == "__main__":
    main()
