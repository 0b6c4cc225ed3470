"""Mutants of the package: small changes, drawn anew, each of which some test must notice.

    python tools/mutants.py                          of the files that the working tree changes
    python tools/mutants.py --base REV               of those that have changed since a commit
    python tools/mutants.py xpcap/optim.py           of some files or folders
    python tools/mutants.py --all --seed 5 --count 150 --log LOG    of the whole package

A mutant is caught if one of the quickest tests that reach its function fails. The first run traces
which tests reach which function, in some minutes; `--map` keeps that for others. Survivors are
printed with the tests that reach them: a gap in a contract wants a test of that contract, and much
else is equivalent. See mutant_sites.py for what is changed.
"""

import argparse
import json
import queue
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from itertools import accumulate, islice
from pathlib import Path
from typing import Any

import patterns
from mutant_runs import Outcome, Runner, copied, traced
from mutant_sites import KINDS, Definition, Mutant, Package, drawn

ROOT = Path(__file__).parents[1]
QUICKEST, OTHERS = 12, 3  # tests that a mutant has to pass, by different functions
SECONDS = 60  # that the tests of a mutant may take
SLOW = 20  # seconds of a test that is too slow to look with
TOGETHER = 12  # seconds, as traced, that the tests of a mutant may take together
SHOWN = 5  # tests that are printed of a survivor
VERDICTS = ("caught", "survived", "crashed", "timed out")
# What a change of no meaning raises; of a transfer it may be the finding, as for an array of
# another library
CRASHES = "TypeError AttributeError NameError UnboundLocalError ImportError SyntaxError".split()


class Reach:
    """Which tests reach a function: a file that `trace` wrote, and what mirrors its folder."""

    def __init__(self, traces: dict[str, dict[str, Any]]) -> None:
        self._passing = {
            test: trace for test, trace in traces.items() if trace["outcome"] == "passed"
        }
        self._tests: dict[str, list[str]] = {}
        for test, trace in sorted(self._passing.items(), key=lambda item: item[1]["seconds"]):
            for function in trace["functions"]:
                self._tests.setdefault(function.partition(":")[2], []).append(test)

    def chosen(self, mutant: Mutant, rng: random.Random) -> list[str]:
        """The quickest tests that reach a mutant's function, one of each parametrised test, and a
        few others; of code that runs in other processes, tests of its room.
        """
        found = [test for test in self._tests.get(mutant.function, ()) if self._is_quick(test)]
        if not found:
            rooms = mirrored(mutant.file)
            found = [
                test
                for test in self._passing
                if test.startswith(tuple(rooms)) and self._is_quick(test)
            ]
            rng.shuffle(found)
        one_each = list({test.partition("[")[0]: test for test in reversed(found)}.values())[::-1]
        first = one_each[:QUICKEST]
        rest = sorted(set(found) - set(first))
        return self._affordable(first + rng.sample(rest, min(OTHERS, len(rest))))

    def _affordable(self, tests: list[str]) -> list[str]:
        seconds = accumulate(self._passing[test]["seconds"] for test in tests)
        return [
            test for test, sum_ in zip(tests, seconds, strict=True) if sum_ < TOGETHER
        ] or tests[:1]

    def _is_quick(self, test: str) -> bool:
        return bool(self._passing[test]["seconds"] < SLOW)


def mirrored(file: str) -> list[str]:
    """Where tests of a file of the package are, as beginnings of paths."""
    room, _, rest = file.partition("/")
    return [f"tests/{room}/"] if rest else [f"tests/test_{room.removesuffix('.py')}"]


# ---- looking for a test


class Bench:
    """Copies of the project with a process each, for as many threads."""

    def __init__(self, workers: int, folder: Path | None, rewritten: bool) -> None:
        self.workers = workers
        self._folder, self._rewritten = folder, rewritten
        self._free: queue.Queue[Runner] = queue.Queue()
        self._sound: dict[str, bool] = {}
        self._lock = threading.Lock()

    def __enter__(self) -> "Bench":
        self._stack = ExitStack()
        work = self._stack.enter_context(tempfile.TemporaryDirectory(dir=self._folder))
        for k in range(self.workers):
            root = copied(ROOT, Path(work).resolve() / str(k), self._rewritten)
            self._free.put(self._stack.enter_context(Runner(root)))
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.__exit__(*error)

    @contextmanager
    def runner(self) -> Iterator[Runner]:
        runner = self._free.get()
        try:
            yield runner
        finally:
            self._free.put(runner)

    def caught(
        self, file: str, change: tuple[str, str, str], tests: list[str], seconds: float
    ) -> Outcome:
        """Run tests with a function changed; tests that fail without the change do not count."""
        with self.runner() as runner:
            path = runner.root / "xpcap" / file
            text, count = patterns.in_python(path.read_text(encoding="utf-8"), *change)
            assert count == 1, f"{change}: found {count} times in {file}, expected once"
            unsound: set[str] = set()
            while True:
                outcome = runner.run(tests, seconds, file, text, unsound)
                if outcome.outcome != "failed" or self._is_sound(outcome.test, runner):
                    return outcome
                unsound.add(outcome.test)

    def _is_sound(self, test: str, runner: Runner) -> bool:
        """Whether a test passes alone, without any change."""
        if test not in self._sound:
            passes = runner.run([test], SECONDS).outcome == "passed"
            with self._lock:
                self._sound[test] = passes
        return self._sound[test]


def verdict_on(bench: Bench, mutant: Mutant, tests: list[str]) -> tuple[str, str]:
    """How a mutant fares, one of VERDICTS, and the test that caught it."""
    change = mutant.function, mutant.pattern, mutant.instead
    outcome = bench.caught(mutant.file, change, tests, SECONDS)
    if tests and outcome.outcome == "nothing ran":
        return "crashed", ""
    if outcome.outcome == "failed":
        crashed = outcome.why in CRASHES and mutant.kind != "transfers"
        return "crashed" if crashed else "caught", outcome.test
    return ("timed out" if outcome.outcome == "timed out" else "survived"), ""


class Log:
    """A line of JSON for each mutant that was planted; those of an earlier run are not again.

    path : of the file; None: in memory
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._lock = threading.Lock()
        lines = path.read_text(encoding="utf-8").splitlines() if path and path.exists() else []
        self.rows = [json.loads(line) for line in lines]
        self._done = {(row["function"], row["pattern"], row["instead"]) for row in self.rows}

    def next(self, mutants: Iterator[Mutant]) -> Mutant | None:
        """The next mutant that was not planted yet; None: there is none."""
        with self._lock:
            return next(
                (m for m in mutants if (m.function, m.pattern, m.instead) not in self._done), None
            )

    def write(self, mutant: Mutant, verdict: str, test: str, tests: Sequence[str]) -> None:
        """Add a mutant, its verdict, and the tests that reach it."""
        row = mutant._asdict() | {"verdict": verdict, "test": test, "tests": [*tests]}
        with self._lock:
            self.rows.append(row)
            if self._path is not None:
                with self._path.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(row) + "\n")

    def summary(self) -> list[str]:
        """Survivors with their tests, counts by room, and a line of all."""
        lines = [
            f"survived: {row['file']}: {row['function']}: {row['pattern']}  ->  {row['instead']}\n"
            f"    reached by {', '.join(row['tests'][:SHOWN]) or 'no test'}"
            for row in self.rows
            if row["verdict"] == "survived"
        ]
        rooms: dict[str, Counter[str]] = {}
        for row in self.rows:
            rooms.setdefault(row["file"].partition("/")[0], Counter())[row["verdict"]] += 1
        lines += [f"{room}: {counted(counts)}" for room, counts in sorted(rooms.items())]
        return [*lines, f"all: {counted(sum(rooms.values(), Counter()))}"]


def counted(counts: Counter[str]) -> str:
    """Counts by verdict in words, with the share that is caught of those caught and survived."""
    judged = counts["caught"] + counts["survived"]
    share = f"; {counts['caught'] / judged:.0%} caught" if judged else ""
    words = ", ".join(f"{counts[verdict]} {verdict}" for verdict in VERDICTS if counts[verdict])
    return f"{counts.total()} planted, {words}{share}"


# ---- planting


def planted(arguments: argparse.Namespace) -> int:
    """Draw mutants, plant each one, and print what survives."""
    start = time.monotonic()
    files = None if arguments.all else arguments.files or changed_since(arguments.base)
    if files == []:
        print(f"no file of xpcap/ has changed since {arguments.base}: name files, or --all")
        return 2
    package, reach = Package(ROOT / "xpcap"), Reach(traces(arguments))
    log = Log(arguments.log)
    quotas = {kind: -(-n * arguments.count // sum(KINDS.values())) for kind, n in KINDS.items()}
    drawings = [
        islice(drawn(package, kind, arguments.seed, within(files)), quota)
        for kind, quota in quotas.items()
    ]
    with (
        Bench(arguments.workers, arguments.work, rewritten=True) as bench,
        ThreadPoolExecutor(arguments.workers) as pool,
    ):
        for drawing in drawings:

            def work(mutants: Iterator[Mutant] = drawing) -> None:
                while mutant := log.next(mutants):
                    rng = random.Random(f"{arguments.seed} {mutant.name} {mutant.pattern}")
                    tests = reach.chosen(mutant, rng)
                    log.write(mutant, *verdict_on(bench, mutant, tests), tests)

            for future in [pool.submit(work) for _ in range(arguments.workers)]:
                future.result()
    print("\n".join(log.summary()), f"in {time.monotonic() - start:.0f} s")
    return 0


def changed_since(base: str) -> list[str]:
    """Files of the package that differ from a commit, in the working tree, and new ones."""
    commands = (
        ("git", "diff", "--name-only", "--diff-filter=d", base, "--", "xpcap/*.py"),
        ("git", "ls-files", "--others", "--exclude-standard", "--", "xpcap/*.py"),
    )
    return [
        name
        for command in commands
        for name in subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout.splitlines()
    ]


def within(files: Sequence[str] | None) -> Callable[[Definition], bool] | None:
    """Whether a definition is in one of these files or folders; None: all are."""
    if files is None:
        return None
    names = [name.removeprefix("xpcap/").rstrip("/") for name in files]
    return lambda definition: any(
        definition.file == name or definition.file.startswith(f"{name}/") for name in names
    )


# ---- which tests reach what


def traces(arguments: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """What each test reaches, from the file of `--map` or traced anew."""
    if arguments.map and arguments.map.exists():
        return dict(json.loads(arguments.map.read_text(encoding="utf-8")))
    with tempfile.TemporaryDirectory(dir=arguments.work) as work:
        root = copied(ROOT, Path(work).resolve() / "project", rewritten=True)
        maps = [Path(work) / f"{k}.json" for k in range(arguments.workers)]
        runs = [
            subprocess.Popen(
                (sys.executable, __file__, "--trace", f"{k}/{len(maps)}", str(path), str(root)),
                stdout=subprocess.DEVNULL,
            )
            for k, path in enumerate(maps)
        ]
        for run in runs:
            run.wait()
        parts = [json.loads(path.read_text(encoding="utf-8")) for path in maps]
    found = {test: trace for part in parts for test, trace in part.items()}
    if arguments.map:
        arguments.map.write_text(json.dumps(found), encoding="utf-8")
    return found


def main() -> int:
    if sys.argv[1:2] == ["--trace"]:  # a process of `traces`
        part, path, root = sys.argv[2:]
        k, count = map(int, part.split("/"))
        Path(path).write_text(json.dumps(traced(Path(root), k, count)), encoding="utf-8")
        return 0
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("files", nargs="*", metavar="FILE", help="files or folders of xpcap/")
    parser.add_argument("--base", default="HEAD", metavar="REV")
    parser.add_argument("--all", action="store_true", help="of the whole package")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, default=150, help="mutants to plant (150)")
    parser.add_argument("--map", type=Path, help="file of what tests reach, made if it is missing")
    parser.add_argument("--log", type=Path, help="a line of JSON a mutant; a second run goes on")
    parser.add_argument("--work", type=Path, help="folder for copies, by default the system's")
    parser.add_argument("--workers", type=int, default=2, metavar="N")
    return planted(parser.parse_args())


if __name__ == "__main__":
    sys.exit(main())
