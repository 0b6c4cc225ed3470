"""Runs the contenders in turn, round after round, and sums up each configuration and kind of work in a Result."""

import os
import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict
from types import ModuleType
from typing import Any, NamedTuple

from benchmarks.apart import measure_apart
from benchmarks.configs import BEAMS, BESIDE, TRAINING, WORKS, Config, works_of
from benchmarks.machine import machine
from benchmarks.measuring import OURS, Measurement, measure
from benchmarks.timing import USUAL, Plan
from xpcap.errors import BackendError, OptionError, install, unknown
from xpcap.progress import bar

PEERS = {"textbook": ("textbook",), "torch": ("torch padded", "torch packed")}  # contenders by the name of the peer
# Variables that let products compute with less than float32, or imitate it; CuPy, cuBLAS and PyTorch read them
IMITATIONS = (
    "CUPY_TF32",
    "NVIDIA_TF32_OVERRIDE",
    "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE",
    "CUBLAS_EMULATE_SINGLE_PRECISION",
    "CUBLAS_EMULATION_STRATEGY",
)
Rounds = dict[str, list[Measurement]]  # by contender


class Result(NamedTuple):
    """Timings of one kind of work at one configuration. None means not timed.

    Times are medians over rounds. A ratio is the peer's time divided by ours in the same round, again the median: above 1, xpcap is faster.
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

    def to_json(self) -> dict[str, Any]:
        """A JSON object with the configuration's name and sizes; `slowdown` appears only if a neighbour was timed."""
        sizes = asdict(self.config)
        fields = {**self._asdict(), "config": sizes.pop("name"), "sizes": sizes}
        return {key: value for key, value in fields.items() if key != "slowdown" or value is not None}


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
    about : the machine and its backend, from machine_apart; only other processes then use that backend, so that this one may hold no context on
        a card in exclusive-process mode. None: the current backend

    Returns
    -------
    results : a Result for each kind of work and configuration, grouped by kind of work

    Raises
    ------
    OptionError : an unknown peer, textbook on a GPU, with BEAMS or attention, or captions with attention. BackendError : a peer is not installed, or the environment turns float32 into less.
    """
    alone, about = about is None, about or machine()
    backend = about["backend"]
    if "textbook" in peers and BEAMS in works:
        raise OptionError("bench: `peers` names textbook, expected torch alone: the textbook has no beam search")
    if attentive := [config.name for config in configs if config.P]:
        if "textbook" in peers:
            raise OptionError(f"bench: `peers` names textbook, expected torch alone for {attentive[0]}: the textbook does not attend")
        if not all(works_of(config, works) for config in configs):
            raise OptionError(f"bench: {attentive[0]} is given for captions, expected other sizes: with attention only training is timed")
    about |= _check_peers(peers, backend)
    _check_float32()
    contenders = [OURS, *(contender for peer in peers for contender in PEERS[peer])]
    run = measure if alone and backend != "numpy" and contenders == [OURS] else measure_apart
    found: dict[tuple[str, Config], Rounds] = {
        (work, config): {name: [] for name in contenders} for work in works for config in configs if work in works_of(config, works)
    }
    with bar((), progress, "bench", plan.rounds * len(found) * len(contenders)) as steps:
        for _ in range(plan.rounds):
            for contender, group in _turns(contenders, configs, backend):
                tasks = [(work, config) for config in group for work in works_of(config, works)]
                for task, measurement in zip(tasks, run(contender, group, plan, backend, works), strict=True):
                    found[task][contender].append(measurement)
                    steps.update()
    return [_result(config, work, rounds, about, found.get((TRAINING, config))) for (work, config), rounds in found.items()]


def _turns(contenders: Sequence[str], configs: Sequence[Config], backend: str) -> list[tuple[str, Sequence[Config]]]:
    """The processes of a round: each is a contender with the configurations that it times.

    On the host each configuration gets a process of its own. Its peak memory is then due to that configuration alone, and contenders are timed
    right after one another, since a shared machine's speed drifts. A GPU is steady but slow to start, so one process times all configurations.
    """
    if backend == "numpy":
        return [(contender, [config]) for config in configs for contender in contenders]
    return [(contender, configs) for contender in contenders]


def _check_peers(peers: Sequence[str], backend: str) -> dict[str, str]:
    """Versions of the peers. Raises before anything is timed if one of them cannot run."""
    for peer in peers:
        if peer not in PEERS:
            raise unknown("bench", "peer", peer, PEERS)
    if "textbook" in peers and backend != "numpy":
        raise OptionError(f"bench: peer textbook on backend {backend}, expected numpy: the textbook's step is plain NumPy")
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
            f"bench: torch cannot be imported ({what}), expected it to be timed as a peer; is it installed in this environment? "
            f"{install('bench')} installs it"
        ) from error
    return peer_torch


def _check_float32() -> None:
    """Refuse to run with products in TF32, which rounds their factors to ten bits, or in float32 put together from shorter numbers."""
    for name in IMITATIONS:
        if os.environ.get(name, "0") not in ("", "0"):
            raise BackendError(f"bench: {name} is {os.environ[name]}, expected it unset: xpcap and its peers multiply in plain float32 alike")


def _result(config: Config, work: str, rounds: Rounds, about: dict[str, str], alone: Rounds | None) -> Result:
    ours = rounds[OURS]
    slowdowns = [m.ms / before.ms for m, before in zip(ours, alone[OURS], strict=True)] if work == BESIDE and alone else []
    times = {contender: statistics.median(m.ms for m in measurements) for contender, measurements in rounds.items()}
    ratios = {name: statistics.median(m.ms / own.ms for m, own in zip(measurements, ours, strict=True)) for name, measurements in rounds.items()}
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
        gflops=statistics.median(m.gflops for m in ours),
        gemm_gflops=_median(ours, lambda m: m.gemm_gflops),
        gemm_fraction=_median(ours, lambda m: None if m.gemm_gflops is None else m.gflops / m.gemm_gflops),
        tokens_per_s=1e3 * ours[-1].tokens / times[OURS],
        feeding=_median(ours, lambda m: m.feeding),
        memory=ours[-1].memory,
        slowdown=statistics.median(slowdowns) if slowdowns else None,
        machine=about,
    )


def _median(measurements: Sequence[Measurement], value: Callable[[Measurement], float | None]) -> float | None:
    values = [x for m in measurements if (x := value(m)) is not None]
    return statistics.median(values) if values else None
