"""Compares the code paths of a training step on a GPU with the same steps on NumPy.

    python -m benchmarks.step_paths --captions 64 --steps 200

In plain code, CuPy computes each step with its operations. On the paths "unpadded" and "padded",
every step launches xpcap's kernels anew; on the path "list", a padded step repeats its recorded
launches, with FUSED or without. All train on the same batches. The exit status is 1 if a path does
not train as NumPy does, does not repeat its launches, or needs more memory from block to block.
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

from benchmarks.work import CONFIGS, LEARNING_RATE, LOSS_TOLERANCE, SEED, Config, make_solver
from xpcap.backend import selfcheck, to_numpy, use_backend
from xpcap.backend.plain_code import plain
from xpcap.backend.replay import Replay
from xpcap.backend.switch import array_module
from xpcap.cli.shared import table
from xpcap.data.dataset import CaptionData
from xpcap.errors import BackendError
from xpcap.models.device_batch import DeviceWorkspace
from xpcap.ops import device
from xpcap.training.solver import CaptioningSolver

# Adam divides by sqrt(v) + EPSILON: with the usual 1e-8, the rounding error of a gradient near 0
# would move a parameter by a whole learning rate
EPSILON = 1e-3
PARAMETER_TOLERANCE = LEARNING_RATE / 10  # a step of Adam moves a parameter by at most the rate
PATHS = ("plain", "unpadded", "padded", "list, FUSED 0", "list")
BATCHES = 8  # number of batches in the data
BLOCKS = 5  # of steps that are timed


class PathResult(NamedTuple):
    """Result of training on a path."""

    name: str
    times: Sequence[float]  # ms per step, of each block of the second half
    loss: float  # largest relative difference from NumPy's loss of a step
    parameter: float  # largest difference from NumPy's parameters after the last step
    launches: int = 0  # that a step repeats; 0: all are made anew
    fits: float = 0.0  # share of batches that repeat the recorded step, including the first
    used: Sequence[int] = ()  # bytes of CuPy's pool, before each block and after the last

    @property
    def ms(self) -> float:
        """Milliseconds per step."""
        return statistics.median(self.times)

    @property
    def fault(self) -> str:
        """A sentence about a fault; empty without one."""
        if not (self.loss <= LOSS_TOLERANCE and self.parameter <= PARAMETER_TOLERANCE):
            return f"{self.name} does not train as NumPy does"
        if self.name.startswith("list") and not self.launches:
            return f"{self.name} repeats no launches"
        grows = len(self.used) > BLOCKS and all(a < b for a, b in pairwise(self.used))
        return f"{self.name} takes more memory from block to block" if grows else ""


class NoReplay(Replay[Any]):
    """A Replay that records nothing, so that each step makes its launches anew."""

    def run(self, key: object, compute: Callable[[], Any]) -> Any:
        return compute()


def device_workspace(solver: CaptioningSolver) -> DeviceWorkspace:
    """The workspace of a solver on a device, with its layout and recorded step."""
    assert isinstance(solver._workspace, DeviceWorkspace)
    return solver._workspace


def gpu_config(captions: int) -> Config:
    """Sizes of coco with the dropout of `train`, which a GPU draws itself."""
    return replace(CONFIGS["coco"], N=captions, dropout=0.4)


@contextlib.contextmanager
def on_path(name: str, config: Config, data: CaptionData) -> Iterator[CaptioningSolver]:
    """A solver whose steps take a path, or with "numpy" run on the host, inside the ``with``.

    Fast code is not checked before, so that its errors become the result.
    """
    code = plain() if name == "plain" else contextlib.nullcontext()
    unchecked = mock.patch.object(selfcheck, "is_stored", return_value=True)
    fused = mock.patch.object(device, "FUSED", 0 if "FUSED 0" in name else device.FUSED)
    with use_backend("numpy" if name == "numpy" else "cupy"), code, unchecked, fused:
        solver = make_solver(config, data, epsilon=EPSILON)
        if name == "unpadded":
            device_workspace(solver).layout = None
        elif name == "padded":
            device_workspace(solver).replay = NoReplay()
        yield solver


def draw_batches(config: Config, count: int) -> list[np.ndarray]:
    """Numbers of the captions of each batch."""
    rng = np.random.default_rng(SEED)
    return [rng.permutation(BATCHES * config.N)[: config.N] for _ in range(count)]


def step_paths(config: Config, steps: int) -> list[PathResult]:
    """Train on NumPy, and then on each path on the backend cupy."""
    data, batches = config.data(BATCHES), draw_batches(config, steps)
    block = max(1, steps // 2 // BLOCKS)
    first = steps - BLOCKS * block

    def train(name: str) -> tuple[PathResult, np.ndarray, np.ndarray]:
        times, used = list[float](), list[int]()
        with on_path(name, config, data) as solver:

            def run(batches: Sequence[np.ndarray]) -> float:
                start = time.perf_counter()
                for captions in batches:
                    solver.train_batch(captions)
                float(solver.loss_history[-1])  # waits for the device
                if name != "numpy":
                    used.append(array_module().get_default_memory_pool().used_bytes())
                return 1e3 * (time.perf_counter() - start) / len(batches)

            run(batches[:first])
            times = [run(batches[k : k + block]) for k in range(first, steps, block)]
            losses = np.array(solver.loss_history)
            result = PathResult(name, times, 0.0, 0.0, used=used)
            if name != "numpy" and (replay := device_workspace(solver).replay).nodes:
                launches, fits = len(replay.nodes), (replay.repeats + 1) / steps
                result = result._replace(launches=launches, fits=fits)
            return result, losses, to_numpy(solver.model.params.flat)

    host, expected, parameters = train("numpy")
    results = [host]
    for name in PATHS:
        result, losses, trained = train(name)
        loss = float(np.max(np.abs(losses - expected) / np.abs(expected)))
        parameter = float(np.max(np.abs(trained - parameters)))
        results.append(result._replace(loss=loss, parameter=parameter))
    return results


def path_rows(results: Sequence[PathResult]) -> list[tuple[str, ...]]:
    """The rows of a table: headings, then each path."""
    differences = "worst loss", "worst parameter"
    rows: list[tuple[str, ...]] = [
        ("path", "ms a step", "from", "to", *differences, "launches repeated", "fit", "used MB")
    ]
    for path in results:
        times = (f"{ms:.3f}" for ms in (path.ms, min(path.times), max(path.times)))
        repeated = (str(path.launches), f"{path.fits:.0%}") if path.launches else ("-", "-")
        used = f"{path.used[-1] / 1e6:.2f}" if path.used else "-"
        errors = f"{path.loss:.1e}", f"{path.parameter:.1e}"
        rows.append((path.name, *times, *errors, *repeated, used))
    return rows


def summary(results: Sequence[PathResult]) -> str:
    """The faults or, without any, the times, in a line."""
    if faults := "; ".join(filter(None, (path.fault for path in results))):
        return faults
    times = "; ".join(f"{path.name} {path.ms:.2f}" for path in results)
    return f"all train as NumPy does; ms a step: {times}"


def main(words: Sequence[str] | None = None) -> int:
    """Print a table of the paths, and a summary."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.step_paths")
    add_number = functools.partial(parser.add_argument, type=int)
    add_number("--captions", default=64, help="captions per batch, at most 512 (default: 64)")
    add_number("--steps", default=200, help="training steps, at least 10 (default: 200)")
    arguments = parser.parse_args(words)
    try:
        use_backend("cupy")
    except BackendError as error:
        sys.exit(str(error))
    results = step_paths(gpu_config(arguments.captions), arguments.steps)
    print(f"{table(path_rows(results))}\n{arguments.captions} captions: {summary(results)}")
    return int(any(path.fault for path in results))


if __name__ == "__main__":
    sys.exit(main())
