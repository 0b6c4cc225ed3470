"""What each fast way buys in a training step on NumPy: the same steps with all of them and without one, in turn, in one process.

python tests/tricks.py coco vocab10k
"""

import contextlib
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from unittest import mock

import numpy as np

from xpcap import CaptioningSolver, kernels
from xpcap.backend import Array
from xpcap.bench import CONFIGS
from xpcap.bench.work import host_batches, make_solver
from xpcap.cores import cores
from xpcap.layers import vocabulary
from xpcap.workspace import Workspace

ROUNDS, STEPS = 9, 4  # of each way; of each turn, the first not counted


class Forgetful(Workspace):
    """A workspace that keeps nothing."""

    def __init__(self, like: Array, parts: int = 1) -> None:
        super().__init__(like)
        self._others = [Forgetful(like) for _ in range(parts - 1)]

    def __call__(self, name: str, shape: tuple[int, ...]) -> Array:
        return np.empty(shape, self._dtype)


def ways(solver: CaptioningSolver) -> dict[str, Callable[[], AbstractContextManager[object]]]:
    """Contexts in which one thing is done the plain way."""
    flat, parts = solver.model.params.flat, cores()
    kept, one, forgetful = Workspace(flat, parts), Workspace(flat, 1), Forgetful(flat, parts)

    @contextlib.contextmanager
    def without(op: str) -> Iterator[None]:
        with mock.patch.object(kernels, "TABLE", tuple(kernel for kernel in kernels.TABLE if kernel.op != op)):
            yield

    found: dict[str, Callable[[], AbstractContextManager[object]]] = {
        "all": lambda: mock.patch.object(solver, "_workspace", kept),
        "one part, BLAS on all cores": lambda: mock.patch.object(solver, "_workspace", one),
        "buffers made anew": lambda: mock.patch.object(solver, "_workspace", forgetful),
        "scores held as a whole": lambda: mock.patch.object(vocabulary, "LEAST", 1 << 30),
    }
    return found | {f"plain {op}": lambda op=op: without(op) for op in kernels.HOST}  # type: ignore[misc]


def main() -> None:
    for name in sys.argv[1:] or ["coco"]:
        config = CONFIGS[name]
        data = config.data(3)
        solver, batches = make_solver(config, data), host_batches(config, data)
        contexts = ways(solver)
        times: dict[str, list[float]] = {way: [] for way in contexts}
        for _ in range(ROUNDS):
            for way, context in contexts.items():
                with context():
                    for k in range(STEPS):
                        start = time.perf_counter()
                        solver.step(*batches[k % 3])
                        if k:
                            times[way].append(1e3 * (time.perf_counter() - start))
        whole = statistics.median(times["all"])
        print(f"{name}: {whole:.1f} ms a step")
        for way, found in times.items():
            if way != "all":
                print(f"  {way}: {statistics.median(found):.1f} ms, {statistics.median(found) / whole - 1:+.1%}")


if __name__ == "__main__":
    main()
