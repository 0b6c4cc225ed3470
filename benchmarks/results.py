"""Runs rounds of the contenders in turn, and prints results in columns of docs/develop/results."""

import statistics
from collections.abc import Callable, Iterator, Sequence
from types import ModuleType
from typing import NamedTuple

from benchmarks.measure import OURS, Measurement, measure_in_process
from benchmarks.timing import USUAL, Plan
from benchmarks.work import BEAM, BUSY, MAX_WORDS, PICTURES, POLICIES, STEP, Config, works_of
from xpcap.backend import cublas
from xpcap.errors import BackendError, OptionError, install
from xpcap.progress import bar

PEERS = {"torch": ("torch padded", "torch packed")}  # contenders by the name of the peer
TEXTBOOK = "textbook"  # always timed on NumPy, if it can do the work
REDUCED_PRECISION = (
    *cublas.REDUCED_PRECISION,
    "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE",
)  # PyTorch's, too
Rounds = dict[str, list[Measurement]]  # by contender


class Result(NamedTuple):
    """Timings of one kind of work at one configuration: medians over rounds.

    A ratio is the contender's time divided by xpcap's in the same round: above 1, xpcap is faster.
    """

    work: str
    config: Config
    ms: dict[str, float]  # by contender
    ratios: dict[str, float]
    needed_gflops: float  # xpcap's GFLOP/s, counting only necessary arithmetic
    gemm_gflops: float  # of a large matrix product in the same process
    words_per_s: float  # xpcap's, END included
    memory: int | None  # bytes: peak of xpcap's process on the host, or size of CuPy's pool
    times_alone: float | None  # time on a busy machine / time alone, in the same round

    @property
    def limit(self) -> float:
        """Milliseconds of the necessary products at the speed of the large product."""
        return self.ms[OURS] * self.needed_gflops / self.gemm_gflops


def bench(
    configs: Sequence[Config],
    works: Sequence[str],
    backend: str,
    peers: Sequence[str] = (),
    plan: Plan = USUAL,
    progress: bool = False,
) -> list[Result]:
    """Time kinds of work on a backend, each contender in a fresh process.

    Parameters
    ----------
    configs : configurations, for example values of CONFIGS
    works : kinds of work: STEP, BUSY after it, GREEDY or BEAM
    peers : names in PEERS
    plan : numbers of rounds, blocks and steps
    progress : show a progress bar if standard error is a terminal

    Returns
    -------
    results : a Result for each kind of work and configuration, grouped by kind of work

    Raises
    ------
    OptionError : captions are asked of a configuration for which only the step is timed.
    BackendError : an environment variable reduces the precision of float32, or a process fails.
    """
    for config in configs:
        if not works_of(config, works):
            raise OptionError(
                f"{config.name} is given for captions, expected another configuration: for this one"
                " only the step is timed"
            )
    if settings := cublas.reduced_precision(REDUCED_PRECISION):
        name, _, value = settings[0].partition("=")
        raise BackendError(
            f"{name} is {value}, expected it to be unset, so that xpcap and its peers multiply in"
            " float32"
        )
    turns = list(_turns(configs, works, backend, peers))
    rounds: dict[tuple[str, Config], Rounds] = {
        (work, config): {}
        for work in works
        for config in configs
        if work in works_of(config, works)
    }
    count = sum(len(works_of(config, works)) for _, group in turns for config in group)
    with bar((), "bench", plan.rounds * count, shown=progress) as steps:
        for contender, group in plan.rounds * turns:
            tasks = [(work, config) for config in group for work in works_of(config, works)]
            measurements = measure_in_process(contender, group, plan, backend, works)
            for task, measurement in zip(tasks, measurements, strict=True):
                rounds[task].setdefault(contender, []).append(measurement)
                steps.update()
    return [_result(work, config, rounds) for work, config in rounds]


def _turns(
    configs: Sequence[Config], works: Sequence[str], backend: str, peers: Sequence[str]
) -> Iterator[tuple[str, Sequence[Config]]]:
    """Processes of a round: the contender of each, and the configurations that it times.

    On the host each configuration gets its process. Peak memory is then due to that configuration
    alone, and contenders are timed right after one another, since a shared machine's speed drifts.
    A GPU is steady but slow to start, so one process times all configurations.
    """
    others = [contender for peer in peers for contender in PEERS[peer]]
    if backend != "numpy":
        yield from ((contender, configs) for contender in (OURS, *others))
        return
    for config in configs:
        textbook = [] if config.step_alone or BEAM in works else [TEXTBOOK]
        yield from ((contender, [config]) for contender in (OURS, *textbook, *others))


def versions(peers: Sequence[str], backend: str) -> dict[str, str]:
    """Versions of the peers. BackendError : one of them cannot run here."""
    if "torch" not in peers:
        return {}
    peer_versions: dict[str, str] = _import_peer().about(backend)
    return peer_versions


def _import_peer() -> ModuleType:
    try:
        from benchmarks import peer_torch
    except Exception as error:  # a broken installation can raise any exception
        raise BackendError(
            f"torch cannot be imported ({type(error).__name__}: {error}), expected PyTorch, to time"
            f" it as a peer; is it installed in this environment? {install('bench')} installs it"
        ) from error
    return peer_torch


def _result(work: str, config: Config, all_rounds: dict[tuple[str, Config], Rounds]) -> Result:
    rounds = all_rounds[work, config]
    ours = rounds[OURS]

    def ratio(measurements: Sequence[Measurement], base: Sequence[Measurement]) -> float:
        return statistics.median(m.ms / b.ms for m, b in zip(measurements, base, strict=True))

    ms = {name: statistics.median(m.ms for m in times) for name, times in rounds.items()}
    return Result(
        work,
        config,
        ms,
        {name: ratio(times, ours) for name, times in rounds.items()},
        statistics.median(m.gflops for m in ours),
        statistics.median(m.gemm_gflops or 0.0 for m in ours),
        1e3 * ours[-1].words / ms[OURS],
        ours[-1].memory,
        ratio(ours, all_rounds[STEP, config][OURS]) if work == BUSY else None,
    )


# Columns

Rows = list[tuple[str, ...]]
COLUMNS: dict[str, tuple[Callable[[Result], object], str]] = {  # value and format
    "configuration": (lambda r: r.config.name, ""),
    "N": (lambda r: r.config.N, ""),
    "D": (lambda r: r.config.D, ""),
    "W": (lambda r: r.config.W, ""),
    "H": (lambda r: r.config.H, ""),
    "V": (lambda r: r.config.V, ""),
    "xpcap_ms": (lambda r: r.ms[OURS], ".2f"),
    "torch_padded_ms": (lambda r: r.ms.get("torch padded"), ".2f"),
    "torch_packed_ms": (lambda r: r.ms.get("torch packed"), ".2f"),
    "textbook_ms": (lambda r: r.ms.get(TEXTBOOK), ".2f"),
    "ratio_torch_padded": (lambda r: r.ratios.get("torch padded"), ".2f"),
    "ratio_torch_packed": (lambda r: r.ratios.get("torch packed"), ".2f"),
    "ratio_textbook": (lambda r: r.ratios.get(TEXTBOOK), ".2f"),
    "times_alone": (lambda r: r.times_alone, ".2f"),
    "limit_ms": (lambda r: r.limit, ".2f"),
    "needed_gflops": (lambda r: r.needed_gflops, ".0f"),
    "gemm_gflops": (lambda r: r.gemm_gflops, ".0f"),
    "words_per_s": (lambda r: r.words_per_s, ".0f"),
    "peak_mb": (lambda r: None if r.memory is None else r.memory / 1e6, ".0f"),
}


def cells(result: Result) -> tuple[str, ...]:
    """A cell for each column; empty if its value was not measured."""
    values = ((value(result), form) for value, form in COLUMNS.values())
    return tuple("" if value is None else format(value, form) for value, form in values)


def tables(results: Sequence[Result]) -> list[tuple[str, Rows]]:
    """A title and a table for each kind of work. Empty columns are omitted; the headings of a
    contender's columns have two lines.
    """
    titled: list[tuple[str, Rows]] = []
    for work in dict.fromkeys(result.work for result in results):
        rows = [cells(result) for result in results if result.work == work]
        heads = (column.rsplit("_", 1) if "_" in column else ("", column) for column in COLUMNS)
        columns = [
            (above.replace("_", " "), head, *values)
            for (above, head), values in zip(heads, zip(*rows, strict=True), strict=True)
            if any(values)
        ]
        captions = f"of {PICTURES:,} pictures, at most {MAX_WORDS} words each"
        details = captions if work in POLICIES else "loss, gradients, clipping, Adam"
        titled.append((f"{work}: {details}", list(zip(*columns, strict=True))))
    return titled
