"""What options of training cost a step: the step of `bench --config NAME` with each, in processes of their own, in turn.

python tests/step_cost.py [NAME...]
"""

import statistics
import subprocess
import sys
import time

import xpcap.blas  # noqa: F401 - before NumPy, whose BLAS reads its settings from the environment when it is loaded

# isort: split
import numpy as np

from xpcap.bench.configs import CLIP, CONFIGS, LEARNING_RATE, SEED
from xpcap.models import CaptioningRNN
from xpcap.training import CaptioningSolver, CrossEntropy

WAYS = {
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
    model = CaptioningRNN(data.vocabulary.word_to_idx, config.D, config.W, config.H, "lstm", np.float32, seed=SEED, **options)
    solver = CaptioningSolver(
        model, data, update_rule="adam", optim_config={"learning_rate": LEARNING_RATE}, batch_size=config.N, clip_norm=CLIP, seed=SEED,
        objective=objective,
    )  # fmt: skip
    taken = []
    for k in range(STEPS):
        start = time.perf_counter()
        solver.train_batch(np.arange(k * config.N, (k + 1) * config.N))
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
                once = subprocess.run([sys.executable, __file__, "--once", name, way], check=True, capture_output=True, text=True)
                times.append(float(once.stdout))
        for way, times in found.items():
            middle = statistics.median(times)
            print(
                f"| {name} | {way} | {middle:.1f} ms ({min(times):.1f} to {max(times):.1f}) | {middle / statistics.median(found['init']) - 1:+.1%} |"
            )


if __name__ == "__main__":
    main()
