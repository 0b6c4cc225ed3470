"""Opens bad files by the thousand: each must be read or refused, by an error that is expected,
in bounded CPU time and memory.

python tools/fuzz.py --kind dataset --cases 10000 --seed 0
"""

import argparse
import importlib
import json
import os
import queue
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import effort

from xpcap.errors import EXPECTED

KINDS = ("dataset", "checkpoint", "captions")
MEMORY = 300  # MB a process at most
HUNG = 120.0  # seconds after which a case that has not ended hangs
ROOT = Path(__file__).parents[1]
STATUS = Path("/proc/self/status")


class Result(NamedTuple):
    """Cases of one kind."""

    kind: str
    cases: int
    outcomes: Counter[str]  # "refused", "accepted", or what should not have happened
    slowest: float  # CPU seconds
    peak: int  # MB, of the process or of what it started
    broken: list[str]  # the promise that a case broke

    def __str__(self) -> str:
        counts = ", ".join(f"{count} {outcome}" for outcome, count in self.outcomes.most_common())
        return (
            f"{self.kind}: {self.cases} cases: {counts}; slowest {self.slowest:.2f} s of CPU"
            f" time, peak {self.peak} MB"
        )


def try_cases(kind: str, seed: int, first: int, cases: int) -> Iterator[dict[str, Any]]:
    """What became of each case, in this process."""
    tried = importlib.import_module(f"fuzzing.{kind}")
    for case in range(first, first + cases):
        yield {"begins": case}
        outcome, seconds = _try(tried, f"{kind} {seed} {case}")
        yield {"case": case, "outcome": outcome, "seconds": seconds, "peak": _peak()}


def _try(tried: Any, name: str) -> tuple[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        tried.make(random.Random(name), Path(folder))
        before = effort.cpu_seconds()
        try:
            tried.use(Path(folder))
            outcome = "accepted"
        except (*EXPECTED, OSError):
            outcome = "refused"
        except Exception as error:
            outcome = f"{type(error).__name__}: {str(error)[:200]!r}"
        return outcome, effort.cpu_seconds() - before


def _peak() -> int:
    """MB that this process, or one that it has started and that has ended, had at most."""
    import resource

    unit = 2**20 if sys.platform == "darwin" else 2**10
    own, others = (
        resource.getrusage(who).ru_maxrss // unit
        for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )
    if (
        STATUS.exists()
    ):  # where it does not count what was there before this program was started, as getrusage does
        own = int(STATUS.read_text().split("VmHWM:")[1].split()[0]) // 2**10
    return max(own, others)


def run_cases(kind: str, cases: int, seed: int) -> Result:
    """Try so many cases in processes that may crash or hang."""
    outcomes: Counter[str] = Counter()
    slowest, peak, done, broken = 0.0, 0, 0, []
    while done < cases:
        began = done
        for told in _told(kind, seed, done, cases - done):
            if "begins" in told:
                began = told["begins"]
                continue
            done = told["case"] + 1
            expected = told["outcome"] in ("refused", "accepted")
            outcomes[told["outcome"] if expected else "unexpected"] += 1
            slowest, peak = max(slowest, told["seconds"]), max(peak, told["peak"])
            if not expected:
                broken.append(f"case {told['case']}: {told['outcome']}")
            elif told["seconds"] > effort.MOST:
                broken.append(f"case {told['case']}: {told['seconds']:.1f} s of CPU time")
        if done < cases:
            outcomes["crashed or hung"] += 1
            broken.append(f"case {began}: the process crashed, or hung for {HUNG:g} s")
            done = began + 1
    if peak > MEMORY:
        broken.append(f"peak memory {peak} MB")
    return Result(kind, cases, outcomes, slowest, peak, broken)


def _told(kind: str, seed: int, first: int, cases: int) -> Iterator[dict[str, Any]]:
    """What a process of its own tells of its cases, until it ends or has to be ended."""
    arguments = [
        sys.executable,
        "-W",
        "error",
        __file__,
        "--worker",
        kind,
        "--seed",
        str(seed),
        "--first",
        str(first),
        "--cases",
        str(cases),
    ]
    environment = {
        **os.environ,
        "OPENBLAS_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "tests" / "helpers"))),
    }
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True, env=environment) as process:
        lines: queue.Queue[str] = queue.Queue()
        threading.Thread(target=_listen, args=(process.stdout, lines)).start()
        while True:
            try:
                line = lines.get(timeout=HUNG)
            except queue.Empty:
                process.kill()
                return
            if not line:
                return
            yield json.loads(line)


def _listen(pipe: Any, lines: "queue.Queue[str]") -> None:
    for line in pipe:
        lines.put(line)
    lines.put("")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kind", choices=(*KINDS, "all"), default="all")
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--worker", choices=KINDS, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.worker:
        for told in try_cases(given.worker, given.seed, given.first, given.cases):
            print(json.dumps(told), flush=True)
        return
    failed = False
    for kind in KINDS if given.kind == "all" else (given.kind,):
        began = time.monotonic()
        result = run_cases(kind, given.cases, given.seed)
        print(f"{result}; seed {given.seed}, {time.monotonic() - began:.0f} s", flush=True)
        for line in result.broken[:50]:
            print(f"  {line}")
        failed = failed or bool(result.broken)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
