"""Times training steps of one process and of two ranks under mpiexec, in turn.

    python -m benchmarks.ranks [CONFIGURATION...]

Prints rows of docs/develop/results/ranks.csv, from the configuration on. Ranks share the batch of N
captions. A round is the median step of rank 0; a row has the median, lowest and highest round.
"""

import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.timing import THREADS
from benchmarks.work import CONFIGS, batch_rows, check_same_loss, host_model, make_solver
from xpcap.backend.threads import cores
from xpcap.distributed import init

WARM_UP, STEPS, ROUNDS = 3, 30, 5
MPIEXEC = [str(Path(sys.executable).with_name("mpiexec")), "-n", "2"]
PROCESSES = {"1 process, 1 thread": 1, "1 process, all cores": None, "2 ranks": None}


def steps(name: str) -> None:
    """Train in this process or rank; rank 0 prints milliseconds per step and its threads."""
    config, group = CONFIGS[name], init()
    data, times = config.data(WARM_UP + STEPS), []
    solver, batches = make_solver(config, data, group), batch_rows(config, data)
    for rows in batches:
        start = time.perf_counter()
        solver.train_batch(rows)
        times.append(1e3 * (time.perf_counter() - start))
    first, title = data.minibatch("train", batches[0]), f"{name}, {group.size} rank(s)"
    check_same_loss(solver.loss_history[0], host_model(config, data), first, title)
    if group.rank == 0:
        print(json.dumps([statistics.median(times[WARM_UP:]), cores()]), flush=True)


def timed(processes: str, name: str) -> tuple[float, int]:
    """Milliseconds per step, and threads, of `steps` in fresh processes."""
    # PROCESSES has the number of threads, so the environment must not set it
    environment = {key: value for key, value in os.environ.items() if key not in THREADS}
    environment |= {"PYTHONPATH": str(Path(__file__).parents[1]), "XPCAP_BACKEND": "numpy"}
    if PROCESSES[processes]:
        environment["OPENBLAS_NUM_THREADS"] = str(PROCESSES[processes])
    mpi = processes == "2 ranks"
    python = [*MPIEXEC, sys.executable, "-m", "mpi4py"] if mpi else [sys.executable]
    command = [*python, "-m", "benchmarks.ranks", "--steps", name]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    ms, threads = json.loads(done.stdout.splitlines()[-1])
    return ms, threads


def main() -> None:
    names = sys.argv[1:] or ["coco", "flickr8k", "demo"]
    if names[0] == "--steps":
        steps(names[1])
        return
    print("configuration,captions,processes,ms,lowest_ms,highest_ms,threads")
    for name in names:
        timings: dict[str, list[tuple[float, int]]] = {processes: [] for processes in PROCESSES}
        for processes in ROUNDS * [*PROCESSES]:
            timings[processes].append(timed(processes, name))
        for processes, rounds in timings.items():
            times = [ms for ms, _ in rounds]
            ends = f"{statistics.median(times):.1f},{min(times):.1f},{max(times):.1f}"
            print(f'{name},{CONFIGS[name].N},"{processes}",{ends},{rounds[0][1]}', flush=True)


if __name__ == "__main__":
    main()
