"""Table docs/develop/results/ops.csv: operations with and without their fast version.

    python -m benchmarks.parts

Times are milliseconds, medians of 31 pairs in turn. They mean something if nothing else runs.
"""

import functools
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from xpcap.layers.lstm import LSTM
from xpcap.layers.recurrent import forward_steps
from xpcap.memory import Workspace
from xpcap.ops import CellBuffers, HostOps, LossTerms, Ops, segments, single_step
from xpcap.threads import parallel_map

PAIRS = 31


def in_turn(functions: Sequence[Callable[[], Any]], runs: int) -> list[list[float]]:
    """Milliseconds of each function by run; each run calls all of them."""
    taken: list[list[float]] = []
    for _ in range(runs):
        times = []
        for function in functions:
            start = time.perf_counter()
            function()
            times.append(1e3 * (time.perf_counter() - start))
        taken.append(times)
    return taken


def time_op(call: Callable[[Ops], Any], pairs: int = PAIRS) -> tuple[float, float]:
    """Milliseconds of a call with the fast versions of operations, and by their equations."""
    ways = [functools.partial(call, ops) for ops in (HostOps(), Ops())]
    fast, slow = np.median(in_turn(ways, pairs), axis=0)
    return float(fast), float(slow)


def op_times(pairs: int = PAIRS) -> dict[str, tuple[float, float]]:
    """Milliseconds with and without the fast version, by operation, at sizes of training."""
    rng = np.random.default_rng(0)
    words = 1 / np.arange(1, 351)
    rows = rng.standard_normal((1500, 2048)).astype("f4")
    ids = rng.choice(350, 1500, p=words / words.sum())
    scores = rng.standard_normal((1500, 1004)).astype("f4")
    terms = LossTerms(np.ones(1500, "f4"))
    w, dw, m, v = rng.standard_normal((4, 5_300_000)).astype("f4")
    a, r, c = rng.standard_normal((3, 128, 2048)).astype("f4")
    c, Wh = c[:, :512].copy(), rows[:512]
    (h, c_next, tanh_c), blocks = (c.copy() for _ in range(3)), a.copy()
    halves = [slice(0, 64), slice(64, 128)]

    def step(ops: Ops, half: slice) -> None:
        before, after, saved = (c, c), (h, c_next), (blocks, tanh_c)
        states = (tuple(x[half] for x in arrays) for arrays in (before, after, saved))
        loop = CellBuffers(a[half], r[half], *states)
        step_fn = forward_steps(ops, LSTM, loop, ops.factor(Wh), Workspace.fresh(Wh))
        for _ in range(16):
            step_fn(single_step(64))

    def back(ops: Ops, half: slice) -> None:
        for _ in range(16):
            ops.matmul_nt(a[half], Wh, c[half])

    groups, out, gathered, squares = segments(ids, 350), scores.copy(), rows.copy(), v * v
    calls: dict[str, Callable[[Ops], Any]] = {
        "segment_sum": lambda ops: ops.segment_sum(rows, groups),
        "global_norm": lambda ops: ops.global_norm(w),
        "clip_by_norm": lambda ops: ops.clip_by_norm(dw, 5.0),
        "adam_update": lambda ops: ops.adam_update(w, dw, m, squares, 1e-3, 0.9, 0.999, 1e-8),
        "softmax_loss": lambda ops: ops.softmax_loss(scores, ids, terms, out),
        "gather": lambda ops: ops.gather(rows[:350], ids, gathered),
        "cell_steps, LSTM, 16 times": lambda ops: parallel_map(
            functools.partial(step, ops), halves
        ),
        "matmul_nt, 16 times": lambda ops: parallel_map(functools.partial(back, ops), halves),
    }
    return {name: time_op(call, pairs) for name, call in calls.items()}


def main() -> None:
    for name, (fast, plain) in op_times().items():
        print(f"{name}: {fast:.2f} ms, plain {plain:.2f} ms")


if __name__ == "__main__":
    main()
