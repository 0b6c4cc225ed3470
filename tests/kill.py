"""Kills trainings at random moments and goes on with them: in the end they must equal unbroken ones, byte for byte.

python tests/kill.py --kills 100 --seed 0
"""

import argparse
import dataclasses
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from xpcap.data import write_dataset
from xpcap.data.pictures import generate

ROOT = Path(__file__).parent.parent
CLOCK = {"times.jsonl", ".lock"}  # what two equal runs need not have in common
SIZES = ["--hidden", "48", "--wordvec", "24", "--epochs", "4", "--batch-size", "16"]
VARIANTS = [
    ["--dropout", "0.3", "--save-every", "5"],
    ["--cell", "rnn", "--save-every", "1", "--lr", "0.003"],
    ["--dropout", "0.2", "--save-every", "0.05s", "--lr-decay", "0.5", "--seed", "1"],
    ["--feature-scaling", "standardize", "--save-every", "60s", "--lr", "0.05", "--patience", "1"],  # overfits: the best is not the last
]


@dataclasses.dataclass
class Count:
    """What was done so far."""

    kills: int = 0
    runs: int = 0
    in_training: int = 0  # kills after a first checkpoint and before the last epoch was saved


def command(data: Path, out: Path, options: list[str]) -> list[str]:
    return [sys.executable, str(ROOT / "cli.py"), "train", str(data), "--out", str(out), *SIZES, *options, "--resume"]


def start(arguments: list[str]) -> "subprocess.Popen[bytes]":
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}
    return subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=environment)


def finish(process: "subprocess.Popen[bytes]") -> None:
    _, errors = process.communicate()
    if process.returncode != 0:
        raise SystemExit(f"a run that was gone on with failed with {process.returncode}:\n{errors.decode()}")


def files(out: Path) -> dict[str, bytes]:
    return {str(path.relative_to(out)): path.read_bytes() for path in out.rglob("*") if path.is_file() and path.name not in CLOCK}


def break_and_go_on(data: Path, out: Path, options: list[str], longest: float, most: int, draw: random.Random, count: Count) -> None:
    """Kill one run up to `most` times, at any moment that an unbroken one may have, then let it end."""
    for _ in range(most):
        process = start(command(data, out, options))
        try:
            process.wait(draw.uniform(0, longest))
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            count.kills += 1
            count.in_training += (out / "last.safetensors").exists()
            continue
        finish(process)  # it was quicker
        break
    finish(start(command(data, out, options)))
    count.runs += 1


def hunt(kills: int, seed: int) -> Count:
    """Kill so many times, over the variants in turn; a SystemExit where anything differs in the end."""
    draw, count = random.Random(seed), Count()
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder, "data.h5")
        write_dataset(data, generate(0, train=200, val=30))
        unbroken: dict[int, tuple[dict[str, bytes], float]] = {}
        while count.kills < kills:
            k = count.runs % len(VARIANTS)
            if k not in unbroken:
                began = time.monotonic()
                finish(start(command(data, Path(folder, f"whole{k}", "run"), VARIANTS[k])))
                unbroken[k] = files(Path(folder, f"whole{k}", "run")), time.monotonic() - began
            whole, seconds = unbroken[k]
            out = Path(folder, f"broken{count.runs}", "run")
            break_and_go_on(data, out, VARIANTS[k], seconds, min(8, kills - count.kills), draw, count)
            different = {name for name in whole.keys() | files(out).keys() if whole.get(name) != files(out).get(name)}
            if different:
                raise SystemExit(
                    f"seed {seed}, run {count.runs} ({' '.join(VARIANTS[k])}): {', '.join(sorted(different))} differ from the unbroken run"
                )
    return count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    began = time.monotonic()
    count = hunt(arguments.kills, arguments.seed)
    print(
        f"{count.kills} kills ({count.in_training} with a checkpoint there), {count.runs} runs, seed {arguments.seed}, "
        f"{time.monotonic() - began:.0f} s: all went on, and every file but times.jsonl equals that of the unbroken run"
    )


if __name__ == "__main__":
    main()
