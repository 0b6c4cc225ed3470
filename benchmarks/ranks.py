"""Training steps of one process and of ranks under mpiexec, in turn, as rows of Markdown.

    python -m benchmarks.ranks [--config NAME...] [--steps N] [--rounds R]

A contender warms up for 3 steps, then times every step of CaptioningSolver on rank 0. A round gives
the median step, a row the median round. All contenders share out the configuration's batch of N
captions.

"summing" is the time that rank 0 spends in the group's sums, and so also waits there. "last to sum"
takes, in each step, the rank that spent the least: the last to come waits for nobody.
"""

import argparse
import contextlib
import dataclasses
import importlib.util
import json
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.timing import THREADS, processor
from benchmarks.work import CONFIGS, Config, batch_rows, check_same_loss, host_model, make_solver
from xpcap.backend import Array
from xpcap.distributed import Group, init
from xpcap.threads import cores

RANKS = (2, 4)
WARM_UP = 3
MPIEXEC = Path(sys.executable).with_name("mpiexec")
CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
GRACE = 10  # seconds that mpiexec may take to end its ranks


class Contender(NamedTuple):
    """Ranks that take the steps, and the threads of each."""

    ranks: int
    threads: int

    def __str__(self) -> str:
        start = "1 process" if self.ranks == 1 else f"{self.ranks} ranks"
        each = (
            f"{self.threads}"
            f" thread{'s' if self.threads > 1 else ''}{' each' if self.ranks > 1 else ''}"
        )
        return f"{start}, {each}{oversubscribed(self.ranks)}"


@dataclasses.dataclass(frozen=True)
class Task:
    """A worker's task."""

    steps: int
    config: dict[str, Any] = dataclasses.field(default_factory=dict)
    threads: int = 1


class SumTimer:
    """The seconds and bytes of a group's sums from now on."""

    def __init__(self, group: Group) -> None:
        self._all_reduce, group.all_reduce = group.all_reduce, self  # type: ignore[method-assign]
        self.seconds: list[float] = []  # of each step
        self.bytes = 0  # of the latest

    def begin(self) -> None:
        """A step begins."""
        self.seconds.append(0.0)
        self.bytes = 0

    def __call__(self, flat: Array) -> None:
        start = time.perf_counter()
        self._all_reduce(flat)
        self.seconds[-1] += time.perf_counter() - start
        self.bytes += flat.nbytes


def oversubscribed(ranks: int) -> str:
    """A remark on ranks that share cores."""
    return f", on {CORES} cores" if ranks > CORES else ""


def milliseconds(step: Callable[[Any], object], batches: Iterable[Any]) -> float:
    """Median of the steps after the warm-up."""
    taken = []
    for batch in batches:
        start = time.perf_counter()
        step(batch)
        taken.append(time.perf_counter() - start)
    return 1e3 * statistics.median(taken[WARM_UP:])


def our_steps(task: Task) -> dict[str, Any]:
    """Steps of xpcap's solver, alone or on ranks."""
    config, group = Config(**task.config), init()
    data = config.data(WARM_UP + task.steps)
    rows, solver = batch_rows(config, data), make_solver(config, data, group=group)
    timer = SumTimer(group)

    def step(numbers: Any) -> None:
        timer.begin()
        solver.train_batch(numbers)

    taken = milliseconds(step, rows)
    if not config.dropout:
        check_same_loss(
            solver.loss_history[0],
            host_model(config, data),
            data.minibatch("train", rows[0]),
            f"{config.name}, {group.size} rank(s)",
        )
    everyone = group.gather(timer.seconds[WARM_UP:])
    return {
        "ms": taken,
        "threads": cores(),
        "bytes": timer.bytes,
        "summing": 1e3 * statistics.median(everyone[0]),
        "last": 1e3 * statistics.median(map(min, zip(*everyone, strict=True))),
    }


def work(text: str) -> None:
    """Do a worker's task; the first rank prints a line of JSON."""
    answer = our_steps(Task(**json.loads(text)))
    if init().rank == 0:
        print(json.dumps(answer), flush=True)


def command(task: Task, ranks: int) -> list[str]:
    """The command line that does a task."""
    start = [str(MPIEXEC), "-n", str(ranks)] if ranks > 1 else []
    mpi = ["-m", "mpi4py"] if ranks > 1 else []
    worker = ["-m", "benchmarks.ranks", "--worker", json.dumps(dataclasses.asdict(task))]
    return [*start, sys.executable, *mpi, *worker]


def environment(one_thread: bool) -> dict[str, str]:
    """This process's environment, with one thread for BLAS, or as many as cores and ranks allow."""
    own = {
        name: value
        for name, value in os.environ.items()
        if name not in (*THREADS, "MKL_NUM_THREADS")
    }
    path = [str(Path(__file__).parents[1]), *filter(None, [own.get("PYTHONPATH")])]
    own |= {"PYTHONPATH": os.pathsep.join(path), "XPCAP_BACKEND": "numpy"}
    return {**own, "OPENBLAS_NUM_THREADS": "1"} if one_thread else own


def ask(task: Task, ranks: int) -> dict[str, Any]:
    """The answer of a task's processes, of which none is left behind."""
    seconds = 120 + 20 * task.steps
    own = environment(one_thread=ranks == task.threads == 1)
    with contextlib.ExitStack() as stack:
        process = subprocess.Popen(
            command(task, ranks), env=own, stdout=subprocess.PIPE, text=True, start_new_session=True
        )
        stack.callback(end, process)
        try:
            answer, _ = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            raise SystemExit(
                f"benchmarks.ranks: {ranks} process(es) took more than {seconds} s, expected an"
                " answer; ended them"
            ) from None
    if process.returncode:
        raise SystemExit(
            f"benchmarks.ranks: {ranks} process(es) has exit status {process.returncode}, expected 0;"
            " their own output is above"
        )
    return dict(json.loads(answer.splitlines()[-1]))


def end(process: "subprocess.Popen[str]") -> None:
    """Terminate a process, since mpiexec has to end its ranks, and kill it if it does not end."""
    if process.poll() is not None:
        return
    process.terminate()
    try:
        process.wait(timeout=GRACE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def contenders() -> list[Contender]:
    """All of them; the first is the measure of the others."""
    several = (Contender(ranks, max(1, CORES // ranks)) for ranks in RANKS)
    return [Contender(1, 1), Contender(1, CORES), *several]


def time_steps(config: Config, given: argparse.Namespace) -> None:
    """Print the rows of a configuration."""
    found: dict[Contender, list[dict[str, Any]]] = {contender: [] for contender in contenders()}
    for _ in range(given.rounds):
        for contender, answers in found.items():
            task = Task(given.steps, dataclasses.asdict(config), contender.threads)
            answers.append(ask(task, contender.ranks))
            if answers[-1]["threads"] != contender.threads:
                raise SystemExit(
                    f"benchmarks.ranks: {contender}: a process has {answers[-1]['threads']} threads,"
                    f" expected {contender.threads}"
                )
    first = None
    for contender, answers in found.items():
        times = [answer["ms"] for answer in answers]
        rate = 1e3 * config.N / statistics.median(times)
        first = first or rate
        summing = [
            f"{statistics.median(answer[key] for answer in answers):.2f} ms"
            for key in ("summing", "last")
        ]
        print(
            f"| {config.name} | {contender} | {config.N} | {statistics.median(times):.1f} ms"
            f" ({min(times):.1f} to {max(times):.1f}) | {rate:,.0f} | {rate / first:.2f} |"
            f" {' | '.join(summing)} | {answers[0]['bytes']:,} |",
            flush=True,
        )


def table(*columns: str) -> None:
    """Print the head of a table."""
    print(f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}", flush=True)


def require() -> None:
    """Exit if something is missing here."""
    missing = [] if importlib.util.find_spec("mpi4py") else ["mpi4py"]
    missing += [] if MPIEXEC.exists() else [str(MPIEXEC)]
    if missing:
        print(
            f"benchmarks.ranks: missing {', '.join(missing)}, expected it beside {sys.executable}; pip"
            " install '.[mpi]' installs it",
            file=sys.stderr,
        )
        sys.exit(2)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--config",
        nargs="+",
        choices=list(CONFIGS),
        metavar="NAME",
        default=["coco", "flickr8k", "vocab10k"],
    )
    parser.add_argument("--steps", type=int, default=30, help="timed steps in a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.worker:
        work(given.worker)
        return
    if min(given.steps, given.rounds) < 1:
        parser.error(f"--steps {given.steps} --rounds {given.rounds}: expected at least 1")
    require()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # on the way out it ends the workers
    print(
        f"{processor()}, {CORES} cores; {given.steps} steps after {WARM_UP}, medians over"
        f" {given.rounds} round(s), lowest and highest in brackets\n"
    )
    table(
        "configuration",
        "contender",
        "captions",
        "a step",
        "captions/s",
        "times the first",
        "summing",
        "last to sum",
        "bytes summed",
    )
    for name in given.config:
        time_steps(CONFIGS[name], given)


if __name__ == "__main__":
    main()
