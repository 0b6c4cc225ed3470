"""Host time of decoding and of a self-critical step on a card, measured as in host_time.py.

python -m benchmarks.host_decoding
"""

import functools
import statistics
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from benchmarks.host_time import KEPT, Clock, _step, metered
from benchmarks.work import Config, make_model, make_solver
from xpcap.backend import Array, array_module
from xpcap.cli.shared import table
from xpcap.data.dataset import CaptionData
from xpcap.models import Beam, Policy
from xpcap.models.batch import FeatureRows
from xpcap.training.objectives import GivenUniforms, SelfCritical

N, WORDS, SAMPLES = 60, 17, 5  # captions; words of each, none ends early; captions of a picture
CALLS, WARM_UP = 100, 5
STEP = "self-critical step"
HOST_DECODING = (
    f"host time of decoding {N} captions of {WORDS} words, a word, and of a self-critical step of"
    f" {N // SAMPLES} pictures with {SAMPLES} captions each, in microseconds"
)


class Decoding(NamedTuple):
    """Host time of a word, or of a step, medians over calls."""

    work: str
    us: float  # with the time that calls take
    python_us: float  # without it: our own Python
    calls: float  # launches, products, copies, memsets and transfers
    reads: float
    allocations: float


class Played(SelfCritical):
    """Self-critical training whose samples, which no kernel draws, are a person's."""

    def _sample(
        self, model: Any, features: Array | FeatureRows, rows: np.ndarray, n: int, step: int
    ) -> np.ndarray:
        super()._sample(model, features, rows, n, step)
        captions = self._data.split("train").captions
        said = captions[(rows + 7 * step) % len(captions), 1 : self._max_length + 1]
        return np.pad(said, ((0, 0), (0, self._max_length - said.shape[1])))


def decoding_times(calls: int = CALLS, warm_up: int = WARM_UP) -> list[Decoding]:
    """Measure a word of each policy, and a self-critical step."""
    config = Config("host time", N // SAMPLES)
    data = config.data(50)
    with metered() as meter:
        measure = functools.partial(_measure, meter, Clock(meter), calls, warm_up)
        model = make_model(config, data)
        features = array_module().empty((N, config.D), np.float32)
        results = [
            measure(name, functools.partial(model.sample, features, policy=policy), WORDS)
            for name, policy in _policies(data).items()
        ]
        solver = make_solver(config, data, model, objective=Played(data, samples=SAMPLES))
        batches = np.arange(calls + warm_up)[:, None] * config.N + np.arange(config.N)
        rows = iter(batches % len(data.split("train").captions))
        return [*results, measure(STEP, lambda: solver.train_batch(next(rows)), 1)]


def _policies(data: CaptionData) -> dict[str, Policy]:
    words = data.vocabulary
    limits: dict[str, Any] = {"max_length": WORDS, "forbid": (words.null, words.start)}
    given = np.random.default_rng(1).random((N, WORDS))
    return {
        "greedy": Policy(**limits),
        "sampling": GivenUniforms(given=given, **limits),
        "beam of 5": Beam(5, **limits),
    }


def _measure(
    meter: Any,
    clock: Clock,
    calls: int,
    warm_up: int,
    name: str,
    work: Callable[[], object],
    words: int,
) -> Decoding:
    for _ in range(warm_up):
        work()
    taken = [_step(meter, clock, work) for _ in range(calls)]
    kept = sorted(taken, key=lambda one: one.lost)[: max(1, calls // KEPT)]
    return Decoding(
        name,
        1e6 * statistics.median(one.seconds for one in kept) / words,
        1e6 * statistics.median(sum(one.parts.values()) for one in kept) / words,
        *(
            round(statistics.median(getattr(one, count) for one in taken) / words, 1)
            for count in ("calls", "reads", "allocations")
        ),
    )


def decoding_rows(results: Sequence[Decoding]) -> list[tuple[str, ...]]:
    """A table: a row of headings, then one for each result."""
    headings = ("", "us", "Python us", "calls", "reads", "allocations")
    lines = [
        (one.work, f"{one.us:.0f}", f"{one.python_us:.0f}", *(f"{x:g}" for x in one[3:]))
        for one in results
    ]
    columns = zip(headings, *lines, strict=True)
    padded = [[cell.rjust(max(map(len, column))) for cell in column] for column in columns]
    return list(zip(*padded, strict=True))


def main() -> None:
    print(f"{HOST_DECODING}\n{table(decoding_rows(decoding_times()))}")


if __name__ == "__main__":
    main()
