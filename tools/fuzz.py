"""Opens bad files by the thousand: each must be read or refused, by an error that is expected,
in bounded CPU time and memory.

python tools/fuzz.py --kind dataset --cases 10000 --seed 0
"""

import argparse
import importlib
import multiprocessing
import os
import random
import resource
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[1]
sys.path += [str(ROOT), str(ROOT / "tests" / "helpers")]

from xpcap.errors import EXPECTED  # noqa: E402 - after its place is known

KINDS = ("dataset", "checkpoint", "captions")
MEMORY = 300  # MB a process at most
MOST = 20.0  # seconds of CPU time for a case; most take less than one
HUNG = 120.0  # seconds after which a case that has not ended hangs
STATUS = Path("/proc/self/status")


class Case(NamedTuple):
    """What became of one case."""

    number: int
    outcome: str  # "refused", "accepted", or what should not have happened; empty when it begins
    seconds: float = 0.0  # of CPU time
    peak: int = 0  # MB, of the process


class Result(NamedTuple):
    """Cases of one kind."""

    kind: str
    cases: int
    outcomes: Counter[str]
    slowest: float
    peak: int
    broken: list[str]  # the promise that a case broke

    def __str__(self) -> str:
        counts = ", ".join(f"{count} {outcome}" for outcome, count in self.outcomes.most_common())
        return (
            f"{self.kind}: {self.cases} cases: {counts}; slowest {self.slowest:.2f} s of CPU"
            f" time, peak {self.peak} MB"
        )


def run_cases(kind: str, cases: int, seed: int) -> Result:
    """Try so many cases in processes that may crash or hang."""
    result = Result(kind, cases, Counter(), 0.0, 0, [])
    done = 0
    while done < cases:
        begun = done
        for case in _in_process(kind, seed, done, cases - done):
            begun = case.number
            if case.outcome:
                done = begun + 1
                result = _count(result, case)
        if done < cases:
            crash = f"case {begun}: the process crashed, or hung for {HUNG:g} s"
            result.outcomes["crashed or hung"] += 1
            result.broken.append(crash)
            done = begun + 1
    if result.peak > MEMORY:
        result.broken.append(f"peak memory {result.peak} MB")
    return result


def _count(result: Result, case: Case) -> Result:
    expected = case.outcome in ("refused", "accepted")
    result.outcomes[case.outcome if expected else "unexpected"] += 1
    if not expected:
        result.broken.append(f"case {case.number}: {case.outcome}")
    elif case.seconds > MOST:
        result.broken.append(f"case {case.number}: {case.seconds:.1f} s of CPU time")
    return result._replace(
        slowest=max(result.slowest, case.seconds), peak=max(result.peak, case.peak)
    )


def _in_process(kind: str, seed: int, first: int, cases: int) -> Iterator[Case]:
    """Cases as a process of its own begins and ends them, until it ends, crashes or hangs."""
    start = multiprocessing.get_context("spawn")
    ours, theirs = start.Pipe(duplex=False)
    os.environ["OPENBLAS_NUM_THREADS"] = "1"
    process = start.Process(target=try_cases, args=(kind, seed, first, cases, theirs))
    process.start()
    theirs.close()
    try:
        while ours.poll(HUNG):
            yield ours.recv()
    except EOFError:
        pass
    finally:
        process.kill()
        process.join()


def try_cases(kind: str, seed: int, first: int, cases: int, told: Connection) -> None:
    """Try cases in this process, and tell what became of each."""
    warnings.simplefilter("error")
    tried = importlib.import_module(f"fuzzing.{kind}")
    for number in range(first, first + cases):
        told.send(Case(number, ""))
        outcome, seconds = _try(tried, f"{kind} {seed} {number}")
        told.send(Case(number, outcome, seconds, _peak()))


def _try(tried: Any, name: str) -> tuple[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        tried.make(random.Random(name), Path(folder))
        before = time.process_time()
        try:
            tried.use(Path(folder))
            outcome = "accepted"
        except (*EXPECTED, OSError):
            outcome = "refused"
        except Exception as error:
            outcome = f"{type(error).__name__}: {str(error)[:200]!r}"
        return outcome, time.process_time() - before


def _peak() -> int:
    """MB that this process had at most."""
    if STATUS.exists():  # without what was there before this program, which getrusage counts
        return int(STATUS.read_text().split("VmHWM:")[1].split()[0]) // 2**10
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // unit


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kind", choices=(*KINDS, "all"), default="all")
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    cases = broken = 0
    for kind in KINDS if given.kind == "all" else (given.kind,):
        began = time.monotonic()
        result = run_cases(kind, given.cases, given.seed)
        print(f"{result}; seed {given.seed}, {time.monotonic() - began:.0f} s", flush=True)
        print("".join(f"  {line}\n" for line in result.broken[:50]), end="")
        cases, broken = cases + result.cases, broken + len(result.broken)
    print(f"{cases:,} cases, {broken} of them broke a promise")
    sys.exit(1 if broken else 0)


if __name__ == "__main__":
    main()
