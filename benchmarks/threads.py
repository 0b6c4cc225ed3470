"""A training step in the main thread, in another one, and in two at once, in turn.

python -m benchmarks.threads
python benchmarks/threads.py    imports NumPy before xpcap: too late for a short wait
"""

import functools
import statistics
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import threadpoolctl

from xpcap import CaptioningRNN, CaptioningSolver, threads
from xpcap.data.synthetic import draw_data


def in_thread(work: Callable[[], list[float]]) -> list[float]:
    """The result of `work`, done by another thread."""
    found: list[list[float]] = []
    thread = threading.Thread(target=lambda: found.append(work()))
    thread.start()
    thread.join()
    return found[0]


def main(steps: int = 8, rounds: int = 6) -> None:
    data = draw_data(512, 512, 1004, seed=0)
    for batch in (25, 128):
        model = CaptioningRNN(data.vocabulary.word_to_idx, 512, 256, 512, "lstm", seed=0)
        solver = CaptioningSolver(model, data, update_rule="adam", seed=0, verbose=False)
        features, captions = data.minibatch("train", np.arange(batch))
        other = CaptioningSolver(
            CaptioningRNN(data.vocabulary.word_to_idx, 512, 256, 512, "lstm", seed=1),
            data,
            update_rule="adam",
            verbose=False,
        )

        def step(
            solver: CaptioningSolver = solver, features: Any = features, captions: Any = captions
        ) -> list[float]:
            seconds = []
            for _ in range(steps):
                start = time.perf_counter()
                solver.step(features, captions)
                seconds.append(time.perf_counter() - start)
            return seconds

        def both(step: Any = step, other: CaptioningSolver = other) -> list[float]:
            """Seconds a step of either, while both solvers train."""
            start, thread = time.perf_counter(), threading.Thread(target=lambda: step(other))
            thread.start()
            step()
            thread.join()
            return [(time.perf_counter() - start) / (2 * steps)]

        step()
        ways: dict[str, Callable[[], list[float]]] = {
            "main": step,
            "thread": functools.partial(in_thread, step),
            "two threads": both,
        }
        found: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(rounds):
            for name, work in ways.items():
                found[name] += work()
        order = "NumPy before xpcap" if threads.NUMPY_CAME_FIRST else "xpcap before NumPy"
        row = ", ".join(
            f"{name} {1e3 * statistics.median(seconds):.1f}" for name, seconds in found.items()
        )
        print(
            f"threadpoolctl {threadpoolctl.__version__}, {order}, {batch} captions: {row} ms a step"
        )


if __name__ == "__main__":
    main()
