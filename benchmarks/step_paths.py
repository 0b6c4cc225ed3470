"""The paths that a step of `train` can take on a card, held against the same steps on NumPy.

    python -m benchmarks.step_paths --captions 64 --steps 200

In the plain way CuPy computes each step by its own operations. Unpadded or padded, every step
launches xpcap's kernels anew; padded, its launches can also be repeated as a list. All train on
the same batches; the exit status is 1 if one of them does not train as NumPy does, or launches anew
where it should repeat.
"""

import argparse
import contextlib
import functools
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any, NamedTuple
from unittest import mock

import numpy as np

from benchmarks.work import CLIP, CONFIGS, LEARNING_RATE, LOSS_TOLERANCE, SEED, Config, make_model
from xpcap import selfcheck
from xpcap.backend import to_numpy, use_backend
from xpcap.cli.shared import table
from xpcap.data.dataset import CaptionData
from xpcap.device.replay import Replay
from xpcap.errors import BackendError
from xpcap.models.device_batch import DeviceWorkspace
from xpcap.training.solver import CaptioningSolver
from xpcap.way import plain

# Adam divides by sqrt(v) + EPSILON: at the usual 1e-8, a gradient near 0 moves a parameter by a
# whole step in the direction of its rounding
EPSILON = 1e-3
PARAMETER_TOLERANCE = LEARNING_RATE / 10  # most that a step of Adam moves one is the whole rate
PATHS = ("plain", "unpadded", "padded", "list")
BATCHES = 8  # of captions to draw from
BLOCKS = 5  # that are timed


class PathResult(NamedTuple):
    """Training by one path."""

    name: str
    ms: float  # a step, the median over blocks of the second half
    loss: float  # worst relative difference from NumPy's loss of a step
    parameter: float  # worst difference from NumPy's parameters after the last step
    launches: int  # that a step repeats; 0: all are made anew
    fits: float | None = None  # share of the batches that repeat them, the first among these
    span: tuple[float, float] = (0.0, 0.0)  # ms a step in the fastest and the slowest block

    @property
    def fault(self) -> str:
        """What is wrong; empty if nothing is."""
        if not (self.loss <= LOSS_TOLERANCE and self.parameter <= PARAMETER_TOLERANCE):
            return f"{self.name} does not train as NumPy does"
        return "list repeats no launches" if self.name == "list" and not self.launches else ""


class Anew(Replay[Any]):
    """A record that is never made: each step is computed."""

    def run(self, key: object, compute: Callable[[], Any]) -> Any:
        return compute()


def launch_anew(solver: CaptioningSolver) -> None:
    """Let no step of a solver on a device repeat another's launches; padding stays."""
    device_workspace(solver).replay = Anew()


def device_workspace(solver: CaptioningSolver) -> DeviceWorkspace:
    """Memory of a solver on a device, with its layout and record."""
    assert isinstance(solver._workspace, DeviceWorkspace)
    return solver._workspace


@contextlib.contextmanager
def on_path(name: str, config: Config, data: CaptionData) -> Iterator[CaptioningSolver]:
    """A solver whose steps take a path, or with "numpy" the host, inside the ``with``.

    It takes the fast way unchecked: what it finds there is the result.
    """
    way = plain() if name == "plain" else contextlib.nullcontext()
    unchecked = mock.patch.object(selfcheck, "is_stored", return_value=True)
    with use_backend("numpy" if name == "numpy" else "cupy"), way, unchecked:
        solver = CaptioningSolver(
            make_model(config, data),
            data,
            update_rule="adam",
            optim_config={"learning_rate": LEARNING_RATE, "epsilon": EPSILON},
            batch_size=config.N,
            clip_norm=CLIP,
            seed=SEED,
        )
        if name == "unpadded":
            device_workspace(solver).layout = None
        elif name == "padded":
            launch_anew(solver)
        yield solver


def draw_batches(config: Config, count: int) -> list[np.ndarray]:
    """Numbers of the captions of each batch."""
    rng = np.random.default_rng(SEED)
    return [rng.permutation(BATCHES * config.N)[: config.N] for _ in range(count)]


def step_paths(config: Config, steps: int) -> list[PathResult]:
    """Train on the backend cupy by each path, and on NumPy first."""
    data, batches = config.data(BATCHES), draw_batches(config, steps)
    half = steps // 2
    block = max(1, (steps - half) // BLOCKS)

    def train(name: str) -> tuple[PathResult, np.ndarray, np.ndarray]:
        with on_path(name, config, data) as solver:
            marks = []
            for k, captions in enumerate(batches):
                if k >= half and (k - half) % block == 0:
                    float(solver.loss_history[-1])  # waits for the device
                    marks.append((k, time.perf_counter()))
                solver.train_batch(captions)
            losses = np.array(solver.loss_history)  # waits, too
            marks.append((steps, time.perf_counter()))
            times = [1e3 * (end - start) / (j - i) for (i, start), (j, end) in pairwise(marks)]
            ms, span = statistics.median(times), (min(times), max(times))
            result = PathResult(name, ms, 0.0, 0.0, 0, span=span)
            if name != "numpy" and (replay := device_workspace(solver).replay).nodes:
                launches, fits = len(replay.nodes), (replay.repeats + 1) / steps
                result = result._replace(launches=launches, fits=fits)
            return result, losses, to_numpy(solver.model.params.flat)

    host, expected, parameters = train("numpy")
    found = [host]
    for name in PATHS:
        result, losses, own = train(name)
        found.append(
            result._replace(
                loss=float(np.max(np.abs(losses - expected) / np.abs(expected))),
                parameter=float(np.max(np.abs(own - parameters))),
            )
        )
    return found


def path_rows(found: Sequence[PathResult]) -> list[tuple[str, ...]]:
    """A table: headings, then a row for each path."""
    rows: list[tuple[str, ...]] = [
        (
            "path",
            "ms a step",
            "from",
            "to",
            "worst loss",
            "worst parameter",
            "launches repeated",
            "fit",
        )
    ]
    for one in found:
        differences = f"{one.loss:.1e}", f"{one.parameter:.1e}"
        repeated = str(one.launches or "-"), "-" if one.fits is None else f"{one.fits:.0%}"
        times = (f"{ms:.3f}" for ms in (one.ms, *one.span))
        rows.append((one.name, *times, *differences, *repeated))
    return rows


def summary(found: Sequence[PathResult]) -> str:
    """One line: what is wrong, or the times."""
    if faults := "; ".join(filter(None, (one.fault for one in found))):
        return faults
    times = ", ".join(f"{one.name} {one.ms:.2f}" for one in found)
    return f"all train as NumPy does; ms a step: {times}"


def main(words: Sequence[str] | None = None) -> int:
    """Print a table of the paths, and a summary."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.step_paths")
    whole = functools.partial(parser.add_argument, type=int)
    whole("--captions", default=64, help="captions a batch, at most 512 (default: 64)")
    whole("--steps", default=200, help="training steps (default: 200)")
    given = parser.parse_args(words)
    try:
        use_backend("cupy")
    except BackendError as error:
        sys.exit(str(error))
    config = replace(CONFIGS["coco-dropout"], N=given.captions)
    found = step_paths(config, given.steps)
    print(f"{table(path_rows(found))}\n{given.captions} captions: {summary(found)}")
    return int(any(one.fault for one in found))


if __name__ == "__main__":
    sys.exit(main())
