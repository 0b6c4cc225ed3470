"""Step, sampling and beam times of two checkouts in turn: is a change slower?

python -m benchmarks.pairs ../before . --config notebook --config coco --pairs 5

Each timing is a process of its own, which imports xpcap and benchmarks of its checkout; the two
change places from pair to pair. A ratio is the second checkout's time divided by the first's, the
median over pairs.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from benchmarks.work import CONFIGS, batch_rows, make_solver
from xpcap.models import Beam, Policy

STEPS, WARM_UP, PICTURES, MOST_WORDS = 15, 3, 500, 20
POLICIES = {"greedy": Policy(max_length=MOST_WORDS), "beam": Beam(5, max_length=MOST_WORDS)}


def milliseconds(name: str) -> dict[str, float]:
    """Medians of a training step and of sampling for a configuration, in this process."""
    config = CONFIGS[name]
    data = config.data(STEPS)
    solver = make_solver(config, data)
    times = []
    for rows in batch_rows(config, data):
        start = time.perf_counter()
        solver.train_batch(rows)
        times.append(time.perf_counter() - start)
    found = {"step": 1000 * statistics.median(times[WARM_UP:])}
    shape = (PICTURES, *solver.model.config.feature_shape)
    pictures = np.random.default_rng(0).standard_normal(shape, np.float32)
    for what, policy in POLICIES.items():
        times = []
        for _ in range(3):
            start = time.perf_counter()
            solver.model.sample(pictures, policy=policy)
            times.append(time.perf_counter() - start)
        found[what] = 1000 * statistics.median(times)
    return found


def measured(checkout: Path, name: str) -> dict[str, float]:
    """`milliseconds` of a checkout, in a process of its own."""
    result = subprocess.run(
        [sys.executable, "-m", "benchmarks.pairs", "--measure", name],
        cwd=checkout,
        env={**os.environ, "PYTHONPATH": str(checkout)},
        capture_output=True,
        text=True,
        check=False,
    )
    if result.returncode:
        raise SystemExit(f"benchmarks.pairs: {name} in {checkout} failed:\n{result.stderr}")
    return json.loads(result.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--measure", metavar="NAME", help=argparse.SUPPRESS)
    parser.add_argument("checkouts", type=Path, nargs="*", metavar="CHECKOUT", help="two of them")
    parser.add_argument("--config", action="append", choices=CONFIGS, help="may be repeated")
    parser.add_argument("--pairs", type=int, default=5)
    given = parser.parse_args()
    if given.measure:
        print(json.dumps(milliseconds(given.measure)))
        return
    if len(given.checkouts) != 2:
        parser.error("expected two checkouts, the one before first")
    before, after = (checkout.resolve() for checkout in given.checkouts)
    print(
        "| configuration | what | before, ms | after, ms | after / before |\n|---|---|---|---|---|"
    )
    for name in given.config or ["notebook", "coco"]:
        pairs = []
        for k in range(given.pairs):
            if k % 2 == 0:
                old, new = measured(before, name), measured(after, name)
            else:
                new, old = measured(after, name), measured(before, name)
            pairs.append((old, new))
        for what in pairs[0][0]:
            olds, news = ([pair[k][what] for pair in pairs] for k in (0, 1))
            ratio = statistics.median(b / a for a, b in zip(olds, news, strict=True))
            times = f"{statistics.median(olds):.1f} | {statistics.median(news):.1f}"
            print(f"| {name} | {what} | {times} | {ratio:.2f} |", flush=True)


if __name__ == "__main__":
    main()
