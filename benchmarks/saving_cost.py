"""Cost of checkpoints and checks: the same training steps with and without, in turn.

    python -m benchmarks.saving_cost flickr8k.h5

The model has the image in its initial state alone: with the image at every step, a checkpoint is
1.25 times as large. Checkpoints are written far more often than usual, so that their cost stands
out of the noise; it is then reported for usual intervals.
"""

import argparse
import statistics
import tempfile
import time
import timeit
from pathlib import Path
from typing import Any

import numpy as np

from xpcap import CaptioningRNN, CaptioningSolver, open_data, runs
from xpcap.data.features import fit_scaling
from xpcap.runs import folder as run_folder
from xpcap.runs.saver import Checkpointer, Interval, RunWriter, StopRequest
from xpcap.training.state import TrainingState

STEPS, EVERY = 60, 2.0  # steps of a block; seconds between checkpoints


class CountingWriter(RunWriter):
    """Writes a run folder and counts its checkpoints."""

    count = 0

    def write(self, state: TrainingState, times: list[dict[str, Any]] | None) -> None:
        self.count += 1
        super().write(state, times)


def block(solver: CaptioningSolver, rows: np.ndarray, saver: Checkpointer | None) -> float:
    """Seconds that STEPS steps take, the last write included."""
    start = time.perf_counter()
    for k in range(STEPS):
        batch = rows[k * solver.batch_size : (k + 1) * solver.batch_size]
        solver._record.add(*solver._step(solver._loader.minibatch("train", batch)))
        if saver is not None:
            saver.step(solver)
    solver.loss_history  # noqa: B018 - reads what is on the device
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("--pairs", type=int, default=9)
    given = parser.parse_args()
    data = open_data(given.data)
    options = runs.Recipe().suited_to(len(data.split("train").captions))
    assert options.batch_size is not None
    data.scaling = fit_scaling(options.feature_scaling, data.split("train").features)
    model = CaptioningRNN(
        data.vocabulary.word_to_idx,
        data.feature_dim,
        options.wordvec,
        options.hidden,
        options.cell,
        dropout=options.dropout,
        seed=0,
    )
    solver = CaptioningSolver(
        model,
        data,
        update_rule="adam",
        batch_size=options.batch_size,
        optim_config={"learning_rate": options.lr},
        clip_norm=options.clip,
        seed=0,
    )
    rows = np.random.default_rng(0).permutation(len(data.split("train").captions))[
        : STEPS * solver.batch_size
    ]
    plain, extra, writes = [], [], 0
    with tempfile.TemporaryDirectory() as folder:
        writer = CountingWriter(Path(folder), 1, data.scaling, run_folder.digest(data.vocabulary))
        block(solver, rows, None)
        for _ in range(given.pairs):
            writer.count = 0
            saver = Checkpointer(Interval(seconds=EVERY), writer, StopRequest())
            plain.append(block(solver, rows, None))
            extra.append((block(solver, rows, saver) - plain[-1]) / max(writer.count, 1))
            writes += writer.count
        size = (Path(folder) / run_folder.LAST).stat().st_size
    step, cost = statistics.median(plain) / STEPS, statistics.median(extra)
    loss, norm = np.float32(1), np.float32(1)
    check = (
        min(timeit.repeat(lambda: np.isfinite(loss) and np.isfinite(norm), number=1000, repeat=5))
        / 1000
    )
    print(
        f"{given.pairs} pairs of {STEPS} steps, {writes} checkpoints of {size / 1e6:.1f} MB;"
        " medians"
    )
    print(f"a step: {step * 1e3:.1f} ms; its check: {check * 1e6:.1f} us, {check / step:.4%}")
    print(
        f"a checkpoint: {cost * 1e3:.0f} ms of training, so {cost / 60:.2%} of it every 60s (the"
        f" default), {cost / 30:.2%} every 30s"
    )


if __name__ == "__main__":
    main()
