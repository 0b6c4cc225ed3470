"""Contenders in turn, round after round, and what comes of it: one row for each configuration."""

import os
import statistics
from collections.abc import Sequence
from dataclasses import asdict
from types import ModuleType
from typing import Any, NamedTuple

from xpcap.backend import get_backend
from xpcap.bench.apart import measure_apart
from xpcap.bench.configs import WORK, Config
from xpcap.bench.contenders import Measurement, measure
from xpcap.bench.machine import machine
from xpcap.bench.timing import USUAL, Plan
from xpcap.errors import BackendError, OptionError, unknown
from xpcap.progress import bar

PEERS = {"torch": ("torch padded", "torch packed")}  # the contenders that an option stands for
TF32 = ("CUPY_TF32", "NVIDIA_TF32_OVERRIDE", "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE")


class Result(NamedTuple):
    """A configuration on this machine. Ratios are a peer's milliseconds over ours: above 1 we are faster; None where it was not timed."""

    config: Config
    work: str
    ms: float
    ms_padded: float | None
    ms_packed: float | None
    ratio_padded: float | None
    ratio_packed: float | None
    tokens_per_s: float  # target words, END included
    memory: int | None  # bytes that CuPy's pool took for it; None on the host
    machine: dict[str, str]

    def to_json(self) -> dict[str, Any]:
        """As an object for a program to read: the configuration by its name, and its sizes."""
        sizes = asdict(self.config)
        return {**self._asdict(), "config": sizes.pop("name"), "sizes": sizes}


def bench(configs: Sequence[Config], peers: Sequence[str] = (), plan: Plan = USUAL, progress: bool = False) -> list[Result]:
    """Time the training step on the backend in force.

    Parameters
    ----------
    configs : what to time, such as values of CONFIGS
    peers : names in PEERS. With any, each contender has a process of its own
    plan : how much is timed
    progress : show a progress bar where standard error is a terminal

    Raises
    ------
    OptionError : an unknown name, or peers on the host. BackendError : a peer that is not there, or TF32 asked for by the environment.
    """
    about = machine() | _check_peers(peers)
    _check_tf32()
    contenders = ["xpcap", *(contender for peer in peers for contender in PEERS[peer])]
    run = measure if len(contenders) == 1 else measure_apart
    found: dict[tuple[str, Config], list[Measurement]] = {(contender, config): [] for contender in contenders for config in configs}
    with bar((), progress, "bench", plan.rounds * len(found)) as steps:
        for _ in range(plan.rounds):
            for contender in contenders:
                for config, measurement in zip(configs, run(contender, configs, plan, get_backend()), strict=True):
                    found[contender, config].append(measurement)
                    steps.update()
    return [_result(config, {contender: found[contender, config] for contender in contenders}, about) for config in configs]


def _check_peers(peers: Sequence[str]) -> dict[str, str]:
    """What there is to say of the peers, which must be there before anything is timed."""
    for peer in peers:
        if peer not in PEERS:
            raise unknown("bench", "peer", peer, PEERS)
    if peers and get_backend() == "numpy":
        raise OptionError(f"bench: peer {peers[0]} on backend numpy, expected cupy: peers are timed on a GPU so far")
    if not peers:
        return {}
    peer_torch = _import_peer()
    peer_torch.check_usable()
    about: dict[str, str] = peer_torch.about()
    return about


def _import_peer() -> ModuleType:
    try:
        from xpcap.bench import peer_torch
    except Exception as error:  # a broken installation raises far more than ImportError
        what = f"{type(error).__name__}: {error}"
        raise BackendError(f"bench: torch cannot be imported ({what}), expected it for --peer torch; is it installed in this environment?") from error
    return peer_torch


def _check_tf32() -> None:
    """TF32 rounds products to ten bits: none of the contenders may use it."""
    for name in TF32:
        if os.environ.get(name, "0") not in ("", "0"):
            raise BackendError(f"bench: {name} is {os.environ[name]}, expected it unset: TF32 stays off, for this package and for its peers")


def _result(config: Config, found: dict[str, list[Measurement]], about: dict[str, str]) -> Result:
    ms = {contender: statistics.median(m.ms for m in measurements) for contender, measurements in found.items()}
    ours, padded, packed = ms["xpcap"], ms.get("torch padded"), ms.get("torch packed")
    last = found["xpcap"][-1]
    return Result(config, WORK, ours, padded, packed, _over(padded, ours), _over(packed, ours), 1e3 * last.tokens / ours, last.memory, about)


def _over(theirs: float | None, ours: float) -> float | None:
    return None if theirs is None else theirs / ours


HEAD = ("config", "N", "D", "W", "H", "V", "ms", "torch padded", "ratio", "torch packed", "ratio", "tokens/s", "device MB")


def table(results: Sequence[Result]) -> list[tuple[str, ...]]:
    """Results as rows of text under a row of headings; columns that nothing stands in are left out."""
    rows = []
    for result in results:
        times = (result.ms, result.ms_padded, result.ratio_padded, result.ms_packed, result.ratio_packed)
        memory = None if result.memory is None else result.memory / 1e6
        sizes = map(str, asdict(result.config).values())
        rows.append((*sizes, *(_text(x, ".2f") for x in times), _text(result.tokens_per_s, ",.0f"), _text(memory, ",.0f")))
    shown = [i for i in range(len(HEAD)) if any(row[i] for row in rows)]
    return [tuple(row[i] for i in shown) for row in (HEAD, *rows)]


def _text(x: Any, form: str) -> str:
    return "" if x is None else format(x, form)
