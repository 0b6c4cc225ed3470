"""Rounds of contenders in turn; results as tables."""

import statistics
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict
from types import ModuleType
from typing import Any, NamedTuple

from benchmarks.measure import OURS, Measurement, measure, measure_in_process
from benchmarks.timing import USUAL, Plan, machine
from benchmarks.work import (
    BEAMS,
    BESIDE,
    MOST_WORDS,
    PICTURES,
    SAMPLING,
    TRAINING,
    WORKS,
    Config,
    works_of,
)
from xpcap.device import cublas
from xpcap.errors import BackendError, OptionError, install, unknown
from xpcap.progress import bar

# Contenders by the name of the peer
PEERS = {"textbook": ("textbook",), "torch": ("torch padded", "torch packed")}
GRAPH = "torch graph"  # timed with torch on a card besides; it only trains
REDUCED_PRECISION = (
    *cublas.REDUCED_PRECISION,
    "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE",
)  # PyTorch's, too
Rounds = dict[str, list[Measurement]]  # by contender


class Result(NamedTuple):
    """Timings of one kind of work at one configuration: medians over rounds. None: not timed.

    A ratio is the peer's time divided by ours in the same round: above 1, xpcap is faster.
    """

    config: Config
    work: str
    ms: float
    ms_textbook: float | None
    ms_padded: float | None
    ms_packed: float | None
    ratio_textbook: float | None
    ratio_padded: float | None
    ratio_packed: float | None
    gflops: float  # xpcap's GFLOP/s, counting only the arithmetic that is needed
    gemm_gflops: float | None  # GFLOP/s of a large matrix product
    gemm_fraction: float | None  # gflops / gemm_gflops in the same round
    tokens_per_s: float  # target or sampled words, END included
    feeding: float | None  # share of a step spent preparing its batch
    memory: int | None  # bytes: peak of xpcap's process on the host, or size of CuPy's pool
    machine: dict[str, str]
    slowdown: float | None = None  # time beside a busy neighbour / time alone, in the same round
    ms_graph: float | None = None  # PyTorch's padded step in a captured CUDA graph
    ratio_graph: float | None = None
    why_no_graph: str | None = None

    def to_json(self) -> dict[str, Any]:
        """A JSON object; fields that are None by default appear only if they have a value."""
        sizes, rare = asdict(self.config), self._field_defaults
        fields = {**self._asdict(), "config": sizes.pop("name"), "sizes": sizes}
        return {key: value for key, value in fields.items() if key not in rare or value is not None}


def bench(
    configs: Sequence[Config],
    peers: Sequence[str] = (),
    plan: Plan = USUAL,
    progress: bool = False,
    works: Sequence[str] = WORKS,
    about: dict[str, str] | None = None,
) -> list[Result]:
    """Time training and sampling on the current backend, or on that of `about`.

    Parameters
    ----------
    configs : what to time, for example values of CONFIGS
    peers : names in PEERS. On NumPy, or with any peer, each contender runs in its own process
    plan : how many rounds, blocks and steps to time
    progress : show a progress bar if standard error is a terminal
    works : kinds of work to time: WORKS, or BESIDE or BEAMS as well
    about : the machine and its backend, from machine_in_process; then only other processes use that
        backend, and this one holds no context on a card in exclusive-process mode. None: the
        current one

    Returns
    -------
    results : a Result for each kind of work and configuration, grouped by kind of work

    Raises
    ------
    OptionError : an unknown peer; textbook on a GPU, with BEAMS or attention; captions with
        attention.
    BackendError : a peer is not installed, or the environment turns float32 into less.
    """
    alone, about = about is None, about or machine()
    backend = about["backend"]
    if "textbook" in peers and BEAMS in works:
        raise OptionError(
            "bench",
            "`peers`",
            "names textbook",
            expected="torch alone: the textbook has no beam search",
        )
    if others := [config.name for config in configs if not config.is_the_textbooks]:
        if "textbook" in peers:
            raise OptionError(
                "bench",
                "`peers`",
                "names textbook",
                expected=f"torch alone for {others[0]}: the textbook has no such captioner",
            )
        if not all(works_of(config, works) for config in configs):
            raise OptionError(
                "bench",
                others[0],
                "is given for captions",
                expected="other sizes: of this captioner only training is timed",
            )
    about |= _check_peers(peers, backend)
    _check_float32()
    contenders = [OURS, *(contender for peer in peers for contender in PEERS[peer])]
    if backend != "numpy" and TRAINING in works and "torch" in peers:
        contenders.append(GRAPH)
    run = measure if alone and backend != "numpy" and contenders == [OURS] else measure_in_process
    found: dict[tuple[str, Config], Rounds] = {
        (work, config): {name: [] for name in contenders if work in _works(name, works)}
        for work in works
        for config in configs
        if work in works_of(config, works)
    }
    no_graph: dict[tuple[str, Config], str] = {}  # why, by task
    with bar((), "bench", plan.rounds * sum(map(len, found.values())), shown=progress) as steps:
        for _ in range(plan.rounds):
            for contender, group in _turns(contenders, configs, backend):
                own = _works(contender, works)
                tasks = [(work, config) for config in group for work in works_of(config, own)]
                measurements: Iterable[Measurement | str]
                measurements = run(contender, group, plan, backend, own)
                if contender == GRAPH:
                    measurements = _or_why_not(measurements, len(tasks))
                for task, measurement in zip(tasks, measurements, strict=True):
                    if isinstance(measurement, str):
                        no_graph[task] = measurement
                    else:
                        found[task][contender].append(measurement)
                    steps.update()
    return [
        _result(config, work, rounds, about, found.get((TRAINING, config)))._replace(
            why_no_graph=no_graph.get((work, config))
        )
        for (work, config), rounds in found.items()
    ]


def _or_why_not(measurements: Iterable[Measurement], count: int) -> Iterator[Measurement | str]:
    """So many measurements; from where their process fails on, the reason in their place."""
    done = 0
    try:
        for measurement in measurements:
            yield measurement
            done += 1
    except BackendError as error:
        yield from [str(error)] * (count - done)


def _works(contender: str, works: Sequence[str]) -> Sequence[str]:
    """The kinds of work that a contender does."""
    return [TRAINING] if contender == GRAPH else works


def _turns(
    contenders: Sequence[str], configs: Sequence[Config], backend: str
) -> list[tuple[str, Sequence[Config]]]:
    """Processes of a round: a contender each, with the configurations that it times.

    On the host each configuration gets a process of its own. Its peak memory is then due to that
    configuration alone, and contenders are timed right after one another, since a shared machine's
    speed drifts. A GPU is steady but slow to start, so one process times all configurations.
    """
    if backend == "numpy":
        return [(contender, [config]) for config in configs for contender in contenders]
    return [(contender, configs) for contender in contenders]


def _check_peers(peers: Sequence[str], backend: str) -> dict[str, str]:
    """Versions of the peers; an error, before anything is timed, if one of them cannot run."""
    for peer in peers:
        if peer not in PEERS:
            raise unknown("bench", "peer", peer, PEERS)
    if "textbook" in peers and backend != "numpy":
        raise OptionError(
            "bench",
            "",
            f"peer textbook on backend {backend}",
            expected="numpy: the textbook's step is plain NumPy",
        )
    if "torch" not in peers:
        return {}
    peer_torch = _import_peer()
    if backend != "numpy":
        peer_torch.check_usable()
    found: dict[str, str] = peer_torch.about(backend)
    return found


def _import_peer() -> ModuleType:
    try:
        from benchmarks import peer_torch
    except Exception as error:  # a broken installation can raise anything, not just ImportError
        what = f"{type(error).__name__}: {error}"
        raise BackendError(
            "bench",
            "torch",
            f"cannot be imported ({what})",
            expected="it to be timed as a peer",
            cause=f"is it installed in this environment? {install('bench')} installs it",
        ) from error
    return peer_torch


def _check_float32() -> None:
    """Refuse products in TF32, with factors of ten bits, or in float32 of shorter numbers."""
    if found := cublas.reduced_precision(REDUCED_PRECISION):
        name, _, value = found[0].partition("=")
        raise BackendError(
            "bench",
            name,
            f"is {value}",
            expected="it unset: xpcap and its peers multiply in plain float32 alike",
        )


def _result(
    config: Config, work: str, rounds: Rounds, about: dict[str, str], alone: Rounds | None
) -> Result:
    ours = rounds[OURS]
    rounds = {name: found for name, found in rounds.items() if len(found) == len(ours)}
    slowdowns = (
        [m.ms / before.ms for m, before in zip(ours, alone[OURS], strict=True)]
        if work == BESIDE and alone
        else []
    )
    times = {
        contender: statistics.median(m.ms for m in measurements)
        for contender, measurements in rounds.items()
    }
    ratios = {
        name: statistics.median(m.ms / own.ms for m, own in zip(measurements, ours, strict=True))
        for name, measurements in rounds.items()
    }
    return Result(
        config=config,
        work=work,
        ms=times[OURS],
        ms_textbook=times.get("textbook"),
        ms_padded=times.get("torch padded"),
        ms_packed=times.get("torch packed"),
        ratio_textbook=ratios.get("textbook"),
        ratio_padded=ratios.get("torch padded"),
        ratio_packed=ratios.get("torch packed"),
        ms_graph=times.get(GRAPH),
        ratio_graph=ratios.get(GRAPH),
        gflops=statistics.median(m.gflops for m in ours),
        gemm_gflops=_median(ours, lambda m: m.gemm_gflops),
        gemm_fraction=_median(
            ours, lambda m: None if m.gemm_gflops is None else m.gflops / m.gemm_gflops
        ),
        tokens_per_s=1e3 * ours[-1].tokens / times[OURS],
        feeding=_median(ours, lambda m: m.feeding),
        memory=ours[-1].memory,
        slowdown=statistics.median(slowdowns) if slowdowns else None,
        machine=about,
    )


def _median(
    measurements: Sequence[Measurement], value: Callable[[Measurement], float | None]
) -> float | None:
    values = [x for m in measurements if (x := value(m)) is not None]
    return statistics.median(values) if values else None


# Tables

Rows = list[tuple[str, ...]]


class Column(NamedTuple):
    """A column: heading in two lines, value of a result, and number format."""

    above: str
    heading: str
    value: Callable[[Result], str | float | None]
    form: str = ""


COLUMNS = (
    Column("", "config", lambda r: r.config.name),
    Column("", "N", lambda r: r.config.N),
    Column("", "D", lambda r: r.config.D),
    Column("", "W", lambda r: r.config.W),
    Column("", "H", lambda r: r.config.H),
    Column("", "V", lambda r: r.config.V),
    Column("", "P", lambda r: r.config.P or None),
    Column("", "dropout", lambda r: r.config.dropout or None, "g"),
    Column("xpcap", "ms", lambda r: r.ms, ".2f"),
    Column("times", "alone", lambda r: r.slowdown, ".2f"),
    Column("textbook", "ms", lambda r: r.ms_textbook, ".1f"),
    Column("", "ratio", lambda r: r.ratio_textbook, ".2f"),
    Column("torch padded", "ms", lambda r: r.ms_padded, ".2f"),
    Column("", "ratio", lambda r: r.ratio_padded, ".2f"),
    Column("torch packed", "ms", lambda r: r.ms_packed, ".2f"),
    Column("", "ratio", lambda r: r.ratio_packed, ".2f"),
    Column("torch graph", "ms", lambda r: r.why_no_graph or r.ms_graph, ".2f"),
    Column("", "ratio", lambda r: r.ratio_graph, ".2f"),
    Column("needed", "GFLOP/s", lambda r: r.gflops, ".0f"),
    Column("GEMM", "GFLOP/s", lambda r: r.gemm_gflops, ".0f"),
    Column("share", "of GEMM", lambda r: r.gemm_fraction, ".0%"),
    Column("", "words/s", lambda r: r.tokens_per_s, ",.0f"),
    Column("", "feeding %", lambda r: None if r.feeding is None else 100 * r.feeding, ".2f"),
    Column(
        "peak",
        "MB",
        lambda r: r.memory / 1e6 if r.memory is not None and on_host(r) else None,
        ",.0f",
    ),
    Column(
        "device", "MB", lambda r: None if r.memory is None or on_host(r) else r.memory / 1e6, ",.0f"
    ),
)


def on_host(result: Result) -> bool:
    return result.machine["backend"] == "numpy"


def tables(results: Sequence[Result]) -> list[tuple[str, Rows]]:
    """A title and a table for each kind of work: two rows of headings, then one for each result.

    Empty columns are left out. The widest table fits into a terminal of 160 columns.
    """
    works = dict.fromkeys(result.work for result in results)
    return [
        (_title(work), _rows([result for result in results if result.work == work]))
        for work in works
    ]


def _title(work: str) -> str:
    if work in (SAMPLING, BEAMS):
        joint = ":" if work == BEAMS else " of"
        return f"{work}{joint} {PICTURES:,} pictures, at most {MOST_WORDS} words each; float32"
    return f"{work.replace('step', 'step of N captions')}: loss, gradients, clipping, Adam; float32"


def _rows(results: Sequence[Result]) -> Rows:
    columns = [
        (column.above, column.heading, *(_text(column, result) for result in results))
        for column in COLUMNS
    ]
    columns = [column for column in columns if any(column[2:])]
    return list(zip(*(_pad(column, left=k == 0) for k, column in enumerate(columns)), strict=True))


def _text(column: Column, result: Result) -> str:
    value = column.value(result)
    if value is None or isinstance(value, str):
        return value or ""
    return format(value, column.form)


def _pad(cells: Sequence[str], left: bool) -> list[str]:
    width = max(map(len, cells))
    return [cell.ljust(width) if left else cell.rjust(width) for cell in cells]
