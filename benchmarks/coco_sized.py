"""An epoch over random data of COCO's size: its time, the share of it spent feeding, and memory.

    python -m benchmarks.coco_sized

400,000 captions of 82,783 pictures with 512 features each, 1,004 words, in batches of 128: 3,125
steps.
"""

import argparse
import time
from typing import Any

import numpy as np

from benchmarks.timing import peak_memory
from xpcap import CaptioningRNN, CaptioningSolver
from xpcap.data.dataset import CaptionData, Split
from xpcap.data.features import fit_scaling
from xpcap.data.loader import BatchLoader
from xpcap.data.synthetic import draw_data

PICTURES, D, V, N = 82_783, 512, 1004, 128
SAMPLES = 8  # of memory


def coco_sized(captions: int) -> CaptionData:
    """Captions as all contenders get them, each of a random picture."""
    rng = np.random.default_rng(0)
    drawn = draw_data(captions, 1, V, seed=0)
    features = rng.standard_normal((PICTURES, D), dtype=np.float32)
    images = [f"picture{i}" for i in range(PICTURES)]
    split = Split(
        drawn.split("train").captions,
        rng.integers(0, PICTURES, captions, dtype=np.int32),
        features,
        images,
    )
    return CaptionData(
        drawn.vocabulary, {"train": split}, scaling=fit_scaling("standardize", features)
    )


def resident() -> int:
    """Bytes of memory that this process holds now, on Linux."""
    with open("/proc/self/statm", encoding="ascii") as file:  # noqa: PTH123 - not a file on disk
        return int(file.read().split()[1]) * 4096


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--captions", type=int, default=400_000)
    given = parser.parse_args()
    data = coco_sized(given.captions)
    model = CaptioningRNN(data.vocabulary.word_to_idx, D, 256, 512, "lstm", np.float32, seed=0)
    memory: list[tuple[int, float]] = []

    def sample_memory(solver: Any) -> None:
        if solver.iteration % max(1, solver.steps_per_epoch // SAMPLES) == 0:
            memory.append((solver.iteration, resident() / 1e6))

    rule: dict[str, Any] = {
        "update_rule": "adam",
        "clip_norm": 50.0,
        "batch_size": N,
        "num_epochs": 1,
        "seed": 0,
        "verbose": False,
    }
    solver = CaptioningSolver(model, data, on_step=sample_memory, progress=True, **rule)
    solver.train()
    seconds = solver.times[0]["train_seconds"]
    loader, timed = BatchLoader(data, model.params.flat), min(200, given.captions // N) * N
    rows = np.random.default_rng(1).permutation(given.captions)[:timed].reshape(-1, N)
    start = time.perf_counter()
    for batch in rows:
        loader.minibatch("train", batch)
    feeding = (time.perf_counter() - start) / len(rows)
    step = seconds / solver.steps_per_epoch
    print(
        f"{solver.steps_per_epoch} steps in {seconds:.0f} s, {1e3 * step:.1f} ms each, of which"
        f" feeding takes {1e3 * feeding:.2f} ms ({feeding / step:.1%})"
    )
    print(
        "memory by step: "
        + ", ".join(f"{k}: {mb:.0f} MB" for k, mb in memory)
        + f"; peak {(peak_memory() or 0) / 1e6:.0f} MB"
    )


if __name__ == "__main__":
    main()
