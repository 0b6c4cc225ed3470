"""Kill training at random moments and resume it: in the end, files must equal those of unbroken
training, byte for byte.

python tools/kill.py --kills 100 --seed 0
python tools/kill.py --kills 20 --ranks 2

With ranks, a random rank is killed; the others, and mpiexec, have to end within TIMEOUT seconds.
"""

import argparse
import dataclasses
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from xpcap.data import write_dataset
from xpcap.drawings import generate

ROOT = Path(__file__).parents[1]
TIMEOUT = 10
CLOCK = {"times.jsonl", ".lock"}  # files that may differ between equal runs
SIZES = "--hidden 48 --wordvec 24 --epochs 4 --score-epochs 0 --batch-size 16".split()
OVERFITTING = "--feature-scaling standardize --save-every 60s --lr 0.05 --patience 1"
VARIANTS = [
    options.split()
    for options in (
        "--dropout 0.3 --save-every 5 --epochs 3 --score-epochs 3",
        "--cell rnn --save-every 1 --lr 0.003",
        "--cell gru --dropout 0.2 --save-every 0.05s --lr-decay 0.5 --seed 1",
        OVERFITTING,  # the best epoch is not the last
    )
]


@dataclasses.dataclass
class Count:
    """Counts of kills and runs."""

    kills: int = 0
    runs: int = 0
    in_training: int = 0  # kills after a first checkpoint and before the last epoch was saved
    slowest: float = 0.0  # seconds from the kill of a rank to the end of all


def command(data: Path, out: Path, options: list[str], ranks: int = 1) -> list[str]:
    train = [str(ROOT / "cli.py"), "train", str(data), "--out", str(out)]
    train += [*SIZES, *options, "--resume"]
    if ranks == 1:
        return [sys.executable, *train]
    mpiexec = str(Path(sys.executable).with_name("mpiexec"))
    return [mpiexec, "-n", str(ranks), sys.executable, "-m", "mpi4py", *train]


def process_of(out: Path, rank: int) -> int | None:
    """Process id of a rank of the run at `out`; None if it does not exist yet, or no longer."""
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if (
                str(out).encode() in (entry / "cmdline").read_bytes()
                and f"\0PMI_RANK={rank}\0".encode() in (entry / "environ").read_bytes()
            ):
                return int(entry.name)
        except OSError:  # the process is another user's, or has ended
            continue
    return None


def kill(
    process: "subprocess.Popen[bytes]", out: Path, ranks: int, draw: random.Random, count: Count
) -> None:
    """Kill a process, or one of its ranks. SystemExit : the other ranks do not end."""
    rank = process_of(out, draw.randrange(ranks)) if ranks > 1 else None
    if rank is None:
        process.kill()
        process.communicate()
        return
    began = time.monotonic()
    os.kill(rank, signal.SIGKILL)
    try:
        process.communicate(timeout=TIMEOUT)
    except subprocess.TimeoutExpired:
        raise SystemExit(f"{TIMEOUT} s after a rank was killed, others are running") from None
    count.slowest = max(count.slowest, time.monotonic() - began)


def start(arguments: list[str]) -> "subprocess.Popen[bytes]":
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}
    return subprocess.Popen(
        arguments, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=environment
    )


def finish(process: "subprocess.Popen[bytes]") -> None:
    _, errors = process.communicate()
    if process.returncode != 0:
        raise SystemExit(
            f"a resumed run failed with status {process.returncode}:\n{errors.decode()}"
        )


def files(out: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(out)): path.read_bytes()
        for path in out.rglob("*")
        if path.is_file() and path.name not in CLOCK
    }


def differing(ours: Path, theirs: Path) -> set[str]:
    """Names of files that differ between two runs."""
    a, b = files(ours), files(theirs)
    return {name for name in a.keys() | b.keys() if a.get(name) != b.get(name)}


def kill_runs(kills: int, seed: int, ranks: int = 1) -> Count:
    """Kill runs of all variants in turn, each up to eight times, and let them end.

    SystemExit : a run differs from the unbroken one.
    """
    draw, count, durations = random.Random(seed), Count(), dict[int, float]()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = folder / "data.h5"
        write_dataset(data, generate(0, train=200, val=30))
        while count.kills < kills:
            k = count.runs % len(VARIANTS)
            unbroken, out = folder / f"whole{k}" / "run", folder / f"broken{count.runs}" / "run"
            if k not in durations:
                began = time.monotonic()
                finish(start(command(data, unbroken, VARIANTS[k], ranks)))
                durations[k] = time.monotonic() - began
            for _ in range(min(8, kills - count.kills)):
                process = start(command(data, out, VARIANTS[k], ranks))
                try:
                    process.wait(draw.uniform(0, durations[k]))
                except subprocess.TimeoutExpired:
                    kill(process, out, ranks, draw, count)
                    count.kills += 1
                    count.in_training += (out / "last.safetensors").exists()
                    continue
                finish(process)  # it ended before the kill
                break
            finish(start(command(data, out, VARIANTS[k], ranks)))
            if names := differing(out, unbroken):
                raise SystemExit(
                    f"seed {seed}, run {count.runs} ({' '.join(VARIANTS[k])}):"
                    f" {', '.join(sorted(names))} differ from the unbroken run"
                )
            count.runs += 1
    return count


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--ranks", type=int, default=1)
    arguments = parser.parse_args()
    began = time.monotonic()
    count = kill_runs(arguments.kills, arguments.seed, arguments.ranks)
    if arguments.ranks > 1:
        print(
            f"{arguments.ranks} ranks; after one was killed, the others ended within"
            f" {count.slowest:.1f} s"
        )
    print(
        f"{count.kills} kills ({count.in_training} after a checkpoint), {count.runs} runs,"
        f" seed {arguments.seed}, {time.monotonic() - began:.0f} s: all resumed, and every file but"
        " times.jsonl equals that of the unbroken run"
    )


if __name__ == "__main__":
    main()
