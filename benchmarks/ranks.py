"""Training steps of one process and of ranks under mpiexec, in turn, as rows of Markdown.

    python -m benchmarks.ranks [--config NAME...] [--steps N] [--rounds R] [--weak] [--dropout P]
    [--peer torch] python -m benchmarks.ranks --sums [--steps N] [--rounds R]

A contender warms up for 3 steps, then times every step of CaptioningSolver on rank 0. A round gives
the median step, a row the median round. All contenders share out the configuration's batch of N
captions. With --weak every rank has N captions, and the process on all cores as many as the fewest
ranks together. --peer torch adds PyTorch: one process on all cores, and DistributedDataParallel
over gloo.

"summing" is the time that rank 0 spends in the group's sums, and so also waits there. "last to sum"
takes, in each step, the rank that spent the least: the last to come waits for nobody. PyTorch sums
while it computes gradients, so these two are not known of it.

--sums times the sum alone, of arrays of several sizes. Up to 4 KB it gathers and adds in the order
of ranks; above, it is MPI's Allreduce.
"""

import argparse
import contextlib
import dataclasses
import importlib.util
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.timing import THREADS, processor
from benchmarks.work import CONFIGS, Config, batch_rows, check_same_loss, host_model, make_solver
from xpcap.backend import Array, array_module
from xpcap.distributed import Group, init
from xpcap.models.batch import deal
from xpcap.threads import cores

RANKS = (2, 4)
WARM_UP = 3
SIZES = tuple(4**k * 4096 for k in range(8))  # bytes: 4 KB to 64 MB
MPIEXEC = Path(sys.executable).with_name("mpiexec")
CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
OURS, SUMS, LAYOUTS = (
    "xpcap",
    "sums",
    ("padded", "packed"),
)  # what a worker does; PyTorch has a step for each layout
GRACE = 10  # seconds that mpiexec may take to end its ranks


class Contender(NamedTuple):
    """A program that takes the steps, with its ranks and the threads of each."""

    who: str
    ranks: int
    threads: int
    weak: int = 1  # a step has this many times N captions in weak scaling

    def __str__(self) -> str:
        library = self.who if self.who == OURS else f"torch, {self.who}"
        start = (
            "1 process"
            if self.ranks == 1
            else f"{self.ranks} {'ranks' if self.who == OURS else 'processes of DDP'}"
        )
        each = (
            f"{self.threads}"
            f" thread{'s' if self.threads > 1 else ''}{' each' if self.ranks > 1 else ''}"
        )
        return f"{library}: {start}, {each}{oversubscribed(self.ranks)}"


@dataclasses.dataclass(frozen=True)
class Task:
    """A worker's task. Rank and size are for PyTorch: to others mpiexec tells them."""

    who: str
    steps: int
    config: dict[str, Any] = dataclasses.field(default_factory=dict)
    threads: int = 1
    rank: int = 0
    size: int = 1
    port: int = 0  # where PyTorch's processes meet


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


def torch_steps(task: Task) -> dict[str, Any]:
    """Steps of bench's PyTorch model, in one process or as one of several."""
    import torch
    from torch import distributed

    from benchmarks import peer_torch

    torch.set_num_threads(task.threads)
    config, host = Config(**task.config), torch.device("cpu")
    data = config.data(WARM_UP + task.steps)
    null, ours = data.vocabulary.null, host_model(config, data)
    whole = [data.minibatch("train", numbers) for numbers in batch_rows(config, data)]
    deals = [deal(captions, null, task.size)[task.rank] for _, captions in whole]
    batches = [
        peer_torch.LAYOUTS[task.who](features[mine], captions[mine], null, host)
        for (features, captions), mine in zip(whole, deals, strict=True)
    ]
    model: Any = peer_torch.Captioner(config, null)
    model.copy_from(ours.params)
    summed = 0
    with torch.no_grad():
        loss = model.eval()(batches[0]) / task.size
    model.train()
    if task.size > 1:
        address = f"tcp://127.0.0.1:{task.port}"
        distributed.init_process_group(
            "gloo", address, timedelta(seconds=60), world_size=task.size, rank=task.rank
        )
        distributed.all_reduce(loss)
        model = torch.nn.parallel.DistributedDataParallel(model, gradient_as_bucket_view=True)
        summed = sum(value.nbytes for value in model.parameters())
    check_same_loss(
        float(loss), ours, whole[0], f"{config.name}, torch {task.who}, {task.size} process(es)"
    )
    taken = milliseconds(peer_torch.training_step(model), batches)
    if task.size > 1:
        distributed.destroy_process_group()
    return {
        "ms": taken,
        "threads": torch.get_num_threads(),
        "bytes": summed,
        "summing": None,
        "last": None,
    }


def sums(task: Task) -> dict[str, float]:
    """Milliseconds of a sum over ranks, by the number of bytes."""
    group, taken = init(), {}
    for size in SIZES:
        flat = array_module().full(size // 4, 0, "f4")
        taken[str(size)] = milliseconds(group.all_reduce, [flat] * (WARM_UP + task.steps))
    return taken


def work(text: str) -> None:
    """Do a worker's task; the first rank prints a line of JSON."""
    task = Task(**json.loads(text))
    answer = {OURS: our_steps, SUMS: sums}.get(task.who, torch_steps)(task)
    if (task.rank or init().rank) == 0:
        print(json.dumps(answer), flush=True)


def free_port() -> int:
    """A port of this machine that nobody listens at."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def commands(task: Task, ranks: int) -> list[list[str]]:
    """Command lines that do a task: one, or for PyTorch one for each process."""

    def worker(task: Task, *before: str) -> list[str]:
        return [
            sys.executable,
            *before,
            "-m",
            "benchmarks.ranks",
            "--worker",
            json.dumps(dataclasses.asdict(task)),
        ]

    if task.who in LAYOUTS:
        port = free_port()
        return [
            worker(dataclasses.replace(task, rank=rank, size=ranks, port=port))
            for rank in range(ranks)
        ]
    if ranks > 1:
        return [[str(MPIEXEC), "-n", str(ranks), *worker(task, "-m", "mpi4py")]]
    return [worker(task)]


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
    lines, seconds = commands(task, ranks), 120 + 20 * task.steps
    own = environment(one_thread=task.who == OURS and ranks == task.threads == 1)
    with contextlib.ExitStack() as stack:
        started: list[subprocess.Popen[str]] = []
        for line in lines:
            out = subprocess.DEVNULL if started else subprocess.PIPE
            started.append(
                subprocess.Popen(line, env=own, stdout=out, text=True, start_new_session=True)
            )
            stack.callback(end, started[-1])
        try:
            answer, _ = started[0].communicate(timeout=seconds)
            status = started[0].returncode or next(
                filter(None, (process.wait(timeout=GRACE) for process in started)), 0
            )
        except subprocess.TimeoutExpired:
            raise SystemExit(
                f"benchmarks.ranks: {task.who} on {ranks} process(es) took more than {seconds} s, expected"
                " an answer; ended them"
            ) from None
    if status:
        raise SystemExit(
            f"benchmarks.ranks: {task.who} on {ranks} process(es) has exit status {status}, expected 0;"
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


def contenders(peer: str | None) -> list[Contender]:
    """All of them; the first is the measure of the others."""
    fewest = RANKS[0]

    def one(who: str) -> Contender:
        return Contender(who, 1, CORES, fewest)

    def several(who: str, ranks: int) -> Contender:
        return Contender(who, ranks, max(1, CORES // ranks), ranks)

    ours = [Contender(OURS, 1, 1), one(OURS), *(several(OURS, ranks) for ranks in RANKS)]
    return ours + [
        each for layout in LAYOUTS if peer for each in (one(layout), several(layout, fewest))
    ]


def time_steps(base: Config, given: argparse.Namespace) -> None:
    """Print the rows of a configuration."""
    found: dict[Contender, list[dict[str, Any]]] = {
        contender: [] for contender in contenders(given.peer)
    }
    sizes = {contender: base.N * (contender.weak if given.weak else 1) for contender in found}
    for _ in range(given.rounds):
        for contender, answers in found.items():
            config = dataclasses.replace(
                base,
                N=sizes[contender],
                dropout=base.dropout if given.dropout is None else given.dropout,
            )
            task = Task(contender.who, given.steps, dataclasses.asdict(config), contender.threads)
            answers.append(ask(task, contender.ranks))
            if answers[-1]["threads"] != contender.threads:
                raise SystemExit(
                    f"benchmarks.ranks: {contender}: a process has {answers[-1]['threads']} threads,"
                    f" expected {contender.threads}"
                )
    first = None
    for contender, answers in found.items():
        times = [answer["ms"] for answer in answers]
        rate = 1e3 * sizes[contender] / statistics.median(times)
        first = first or rate
        summing = [
            (
                ""
                if answers[0][key] is None
                else f"{statistics.median(answer[key] for answer in answers):.2f} ms"
            )
            for key in ("summing", "last")
        ]
        print(
            f"| {base.name} | {contender} | {sizes[contender]} | {statistics.median(times):.1f} ms"
            f" ({min(times):.1f} to {max(times):.1f}) | {rate:,.0f} | {rate / first:.2f} |"
            f" {' | '.join(summing)} | {answers[0]['bytes']:,} |",
            flush=True,
        )


def time_sums(given: argparse.Namespace) -> None:
    """Print a row for each size of a sum and number of ranks."""
    found: dict[int, list[dict[str, float]]] = {ranks: [] for ranks in RANKS}
    for _ in range(given.rounds):
        for ranks, answers in found.items():
            answers.append(ask(Task(SUMS, given.steps), ranks))
    table("ranks", "bytes", "a sum", "bandwidth")
    for ranks, answers in found.items():
        for size in SIZES:
            times = [answer[str(size)] for answer in answers]
            middle = statistics.median(times)
            spread = f"{middle:.3f} ms ({min(times):.3f} to {max(times):.3f})"
            print(
                f"| {ranks}{oversubscribed(ranks)} | {size:,} | {spread} |"
                f" {size / middle / 1e6:.2f} GB/s |",
                flush=True,
            )


def table(*columns: str) -> None:
    """Print the head of a table."""
    print(f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}", flush=True)


def require(peer: str | None) -> None:
    """Exit if something is missing here."""
    missing = [
        name
        for name in ("mpi4py", *([peer] if peer else []))
        if importlib.util.find_spec(name) is None
    ]
    missing += [] if MPIEXEC.exists() else [str(MPIEXEC)]
    if missing:
        print(
            f"benchmarks.ranks: missing {', '.join(missing)}, expected it beside {sys.executable}; pip"
            " install '.[mpi,bench]' installs it",
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
    parser.add_argument(
        "--steps", type=int, default=30, help="timed steps, or sums of each size, in a round"
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--weak", action="store_true", help="N captions for every rank, not for all together"
    )
    parser.add_argument(
        "--dropout", type=float, help="instead of the configuration's, which mostly is 0"
    )
    parser.add_argument("--peer", choices=["torch"], help="time PyTorch too")
    parser.add_argument("--sums", action="store_true", help="time sums alone")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.worker:
        work(given.worker)
        return
    if min(given.steps, given.rounds) < 1:
        parser.error(f"--steps {given.steps} --rounds {given.rounds}: expected at least 1")
    if odd := [name for name in given.config if given.peer and CONFIGS[name].N % RANKS[0]]:
        parser.error(
            f"--config {odd[0]} --peer {given.peer}: a batch of {CONFIGS[odd[0]].N}, expected one"
            f" that {RANKS[0]} processes can halve"
        )
    require(given.peer)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # on the way out it ends the workers
    what = "sums" if given.sums else "steps"
    print(
        f"{processor()}, {CORES} cores; {given.steps} {what} after {WARM_UP}, medians over"
        f" {given.rounds} round(s), lowest and highest in brackets\n"
    )
    if given.sums:
        time_sums(given)
        return
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
