"""Cost of training options: a step with each, in processes of their own, in turn.

python -m benchmarks.step_cost [NAME...]
"""

import statistics
import subprocess
import sys
import time
from typing import Any

import numpy as np

from benchmarks.work import CONFIGS, SEED, batch_rows, make_solver
from xpcap.models import CaptioningRNN
from xpcap.training import CrossEntropy

WAYS: dict[str, dict[str, Any]] = {
    "init": {},
    "every-step": {"inject": "every-step"},
    "smoothing": {"smoothing": 0.1},
    "dropout": {"dropout": 0.3},
}
ROUNDS, STEPS, WARM_UP = 5, 25, 5


def step_ms(name: str, way: str) -> float:
    """Median milliseconds of a step."""
    config, options = CONFIGS[name], dict(WAYS[way])
    data = config.data(STEPS)
    objective = CrossEntropy(options.pop("smoothing", 0))
    model = CaptioningRNN(
        data.vocabulary.word_to_idx,
        config.D,
        config.W,
        config.H,
        "lstm",
        np.float32,
        seed=SEED,
        **options,
    )
    solver = make_solver(config, data, model, objective=objective)
    taken = []
    for captions in batch_rows(config, data):
        start = time.perf_counter()
        solver.train_batch(captions)
        taken.append(time.perf_counter() - start)
    return 1000 * statistics.median(taken[WARM_UP:])


def main() -> None:
    if sys.argv[1:2] == ["--once"]:
        print(step_ms(*sys.argv[2:]))
        return
    for name in sys.argv[1:] or ("coco", "flickr8k"):
        found: dict[str, list[float]] = {way: [] for way in WAYS}
        for _ in range(ROUNDS):
            for way, times in found.items():
                once = subprocess.run(
                    [sys.executable, "-m", "benchmarks.step_cost", "--once", name, way],
                    check=True,
                    capture_output=True,
                    text=True,
                )
                times.append(float(once.stdout))
        for way, times in found.items():
            middle = statistics.median(times)
            print(
                f"| {name} | {way} | {middle:.1f} ms ({min(times):.1f} to {max(times):.1f}) |"
                f" {middle / statistics.median(found['init']) - 1:+.1%} |"
            )


if __name__ == "__main__":
    main()
