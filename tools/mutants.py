"""Frozen mutants: small changes of the package, each of which a named test must notice.

`mutants.json` has them, and those that no test noticed. A mutant is a pattern in a function, see
mutant_sites.py, so moving and formatting code do not lose it.

    python tools/mutants.py recheck                 plant each one, run its test, and its room's if need be
    python tools/mutants.py recheck --part 1/4      a quarter of them; --only NAME for one
    python tools/mutants.py draw --kind transfers --seed 3 --near layers --replaces NAME
                                                    another of a kind, where code has gone
    python tools/mutants.py trace --map MAP         which tests reach which function
    python tools/mutants.py make --seed 0 --count 200 --map MAP --log LOG
                                                    how the table was made; without --map, only the draw
"""

import argparse
import ast
import json
import queue
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from itertools import accumulate, islice
from pathlib import Path
from typing import Any, NamedTuple

from mutant_runs import Outcome, Runner, copied, files_of_tests, traced
from mutant_sites import KINDS, Definition, Mutant, Package, drawn, patterns

ROOT = Path(__file__).parents[1]
TABLE = Path(__file__).with_suffix(".json")
QUICKEST, OTHERS = 12, 3  # tests that a new mutant has to pass, by different functions
SECONDS, ROOM_SECONDS = 60, 240  # that the tests of a mutant may take, and those of a room
SLOW = 20  # seconds of a test that is too slow to look with
TOGETHER = 12  # seconds, as traced, that the tests may take which a new mutant has to pass
# What a change of no meaning raises; of a transfer it may be the finding, as for an array of
# another library
CRASHES = "TypeError AttributeError NameError UnboundLocalError ImportError SyntaxError".split()


class Frozen(NamedTuple):
    """A mutant that a test catches, a row of the table.

    `test` is a test without its file, of the folder `room` of tests/; `breaks` says what goes
    wrong; `replaces` names a mutant whose code has gone.
    """

    name: str
    kind: str
    function: str
    pattern: str
    instead: str
    test: str
    room: str
    breaks: str
    replaces: str = ""


def frozen() -> list[Frozen]:
    return [Frozen(**row) for row in json.loads(TABLE.read_text(encoding="utf-8"))["mutants"]]


# ---- tests by name


class Tests:
    """The tests of a project, by function name and folder."""

    def __init__(self, root: Path) -> None:
        self._files: dict[str, list[str]] = {}
        for path in sorted((root / "tests").rglob("test_*.py")):
            for name, node in patterns.definitions(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.FunctionDef) and node.name.startswith("test"):
                    file = path.relative_to(root).as_posix()
                    self._files.setdefault(name.replace(".", "::"), []).append(file)

    def node(self, test: str, room: str) -> str | None:
        """Pytest's node id; None where no file, or more than one in that folder, has the test."""
        file, _, name = test.rpartition(".py::")
        found = self._files.get(name.partition("[")[0], [])
        found = [path for path in found if not file or path.endswith(f"/{file}.py")]
        if len(found) > 1:
            found = [path for path in found if room_of_test(path) == room]
        return f"{found[0]}::{name}" if len(found) == 1 else None

    def short(self, node: str) -> str:
        """The test without its file, or with it where two of a folder share the name."""
        file, _, name = node.partition("::")
        alone = self.node(name, room_of_test(file)) == node
        return name if alone else f"{Path(file).name}::{name}"


def room_of_test(file: str) -> str:
    """Folder of a test below tests/; empty for those that lie in tests/ itself."""
    return Path(file.partition("::")[0]).parent.as_posix().removeprefix("tests").strip("/")


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


# ---- making the table


def made(arguments: argparse.Namespace) -> int:
    package = Package(ROOT / "xpcap")
    quotas = {
        kind: -(-n * arguments.count // 200)
        for kind, n in KINDS.items()
        if not arguments.kind or kind in arguments.kind
    }
    drawings = {
        kind: islice(drawn(package, kind, arguments.seed), int(arguments.spare * n))
        for kind, n in quotas.items()
    }
    if not arguments.map:
        for kind, mutants in drawings.items():
            for one in mutants:
                print(f"{kind}\t{one.file}\t{one.function}\t{one.pattern}\t{one.instead}")
        return 0
    reach = Reach(json.loads(arguments.map.read_text(encoding="utf-8")))
    with (
        Bench(arguments.workers, arguments.work, rewritten=True) as bench,
        ThreadPoolExecutor(arguments.workers) as pool,
    ):
        log = Log(arguments.log)
        for kind, mutants in drawings.items():

            def work(todo: Iterator[Mutant] = mutants, kind: str = kind) -> None:
                while log.count(kind, "caught") < quotas[kind]:
                    one = log.next(todo)
                    if one is None:
                        return
                    rng = random.Random(f"{arguments.seed} {one.name} {one.pattern}")
                    log.write(one, *looked_for(bench, one, reach.chosen(one, rng)))

            for future in [pool.submit(work) for _ in range(arguments.workers)]:
                future.result()
    return 0


def looked_for(bench: Bench, one: Mutant, tests: list[str]) -> tuple[str, Outcome, int, float]:
    """How a mutant fared: caught, crashed, timed out, or not caught."""
    start = time.monotonic()
    change = one.function, one.pattern, one.instead
    outcome = bench.caught(one.file, change, tests, SECONDS)
    verdict = {"failed": "caught", "timed out": "timed out"}.get(outcome.outcome, "not caught")
    if verdict == "caught" and outcome.why in CRASHES and one.kind != "transfers":
        verdict = "crashed"
    if tests and outcome.outcome == "nothing ran":
        verdict = "crashed"
    return verdict, outcome, len(tests), round(time.monotonic() - start, 1)


class Log:
    """A line of JSON for each mutant that was tried; an earlier run's are not tried again."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        self.rows = [json.loads(line) for line in lines]
        self._done = {(row["function"], row["pattern"], row["instead"]) for row in self.rows}

    def count(self, kind: str, verdict: str) -> int:
        return sum(row["kind"] == kind and row["verdict"] == verdict for row in self.rows)

    def next(self, todo: Iterator[Mutant]) -> Mutant | None:
        with self._lock:
            return next(
                (one for one in todo if (one.function, one.pattern, one.instead) not in self._done),
                None,
            )

    def write(self, one: Mutant, verdict: str, outcome: Outcome, tests: int, took: float) -> None:
        row = one._asdict() | {
            "name": one.name,
            "verdict": verdict,
            "test": outcome.test,
            "why": outcome.why,
            "tests": tests,
            "seconds": took,
        }
        with self._lock:
            self.rows.append(row)
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")


# ---- another one


def drew(arguments: argparse.Namespace) -> int:
    """Draw mutants of a kind near some code until a test catches one, and print its row."""
    package = Package(ROOT / "xpcap")
    table = json.loads(TABLE.read_text(encoding="utf-8"))
    rows = [*table["mutants"], *table["not caught"]]
    known = {(row["function"], row["pattern"], row["instead"]) for row in rows}
    drawing = drawn(package, arguments.kind, arguments.seed, near(arguments.near))
    traces = json.loads(arguments.map.read_text(encoding="utf-8")) if arguments.map else {}
    reach, tests = Reach(traces), Tests(ROOT)
    with Bench(1, arguments.work, rewritten=False) as bench:
        for one in drawing:
            if (one.function, one.pattern, one.instead) in known:
                continue
            rng = random.Random(f"{arguments.seed} {one.name} {one.pattern}")
            chosen = reach.chosen(one, rng) or room_files(*mirrored(one.file))
            verdict, outcome, _, _ = looked_for(bench, one, chosen)
            print(f"{verdict}: {one.function}: {one.pattern}  ->  {one.instead}", file=sys.stderr)
            if verdict == "caught":
                row = Frozen(
                    name=one.name,
                    kind=one.kind,
                    function=one.function,
                    pattern=one.pattern,
                    instead=one.instead,
                    test=tests.short(outcome.test),
                    room=room_of_test(outcome.test),
                    breaks=arguments.breaks,
                    replaces=arguments.replaces,
                )
                print(json.dumps(row._asdict(), ensure_ascii=False, indent=1))
                if arguments.add:
                    add(row)
                return 0
    print("no test catches any mutant drawn from there", file=sys.stderr)
    return 1


def near(names: list[str]) -> Callable[[Definition], bool] | None:
    """Whether a definition is in one of the folders, files or functions of these names."""
    if not names:
        return None

    def is_near(one: Definition) -> bool:
        return any(
            one.file == name
            or one.file.startswith(f"{name.rstrip('/')}/")
            or one.name == name
            or one.name.startswith(f"{name}.")
            for name in (name.removeprefix("xpcap/") for name in names)
        )

    return is_near


def add(row: Frozen) -> None:
    """Put a row into the table, in the place of the one that it replaces."""
    table = json.loads(TABLE.read_text(encoding="utf-8"))
    rows = [one for one in table["mutants"] if one["name"] != row.replaces]
    if any(one["name"] == row.name for one in rows):
        row = row._replace(
            name=f"{row.name}-{sum(one['name'].startswith(row.name) for one in rows) + 1}"
        )
    table["mutants"] = [
        *rows,
        {key: value for key, value in row._asdict().items() if value or key == "breaks"},
    ]
    write(table)


def write(table: dict[str, Any]) -> None:
    TABLE.write_text(json.dumps(table, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


# ---- are they still caught?


def rechecked(arguments: argparse.Namespace) -> int:
    start = time.monotonic()
    part, parts = map(int, arguments.part.split("/"))
    rows = frozen()[part - 1 :: parts]
    if arguments.only:
        rows = [row for row in rows if row.name in arguments.only]
    package, tests = Package(ROOT / "xpcap"), Tests(ROOT)
    traces = json.loads(arguments.map.read_text(encoding="utf-8")) if arguments.map else {}
    reach = Reach(traces)
    results: dict[str, dict[str, str]] = {}
    with (
        Bench(arguments.workers, arguments.work, rewritten=False) as bench,
        ThreadPoolExecutor(arguments.workers) as pool,
    ):

        def check(row: Frozen) -> None:
            results[row.name] = result = still_caught(row, package, tests, reach, bench)
            if not arguments.json:
                other = f" by {result['by']}" if result.get("by") else ""
                print(
                    f"{len(results):4d}/{len(rows)} {result['verdict']}{other}: {row.name}",
                    flush=True,
                )

        list(pool.map(check, rows))
    summary: dict[str, Any] = {
        verdict: [name for name in sorted(results) if results[name]["verdict"] == verdict]
        for verdict in ("caught", "caught by another", "survived", "timed out", "code gone")
    }
    numbers = {verdict: len(names) for verdict, names in summary.items()}
    seconds = round(time.monotonic() - start)
    if arguments.json:
        print(json.dumps({"numbers": numbers, "seconds": seconds, "results": results}, indent=1))
    else:
        for verdict in ("survived", "timed out", "code gone"):
            for name in summary[verdict]:
                print(f"{verdict}: {name}: {results[name].get('why', '')}")
        print(", ".join(f"{n} {verdict}" for verdict, n in numbers.items()), f"in {seconds} s")
    return int(numbers["caught"] + numbers["caught by another"] < len(rows))


def still_caught(
    row: Frozen, package: Package, tests: Tests, reach: Reach, bench: Bench
) -> dict[str, str]:
    found = package.matches(row.function, row.pattern)
    if len(found) != 1:
        return {
            "verdict": "code gone",
            "why": f"{len(found)} matches of {row.pattern} in {row.function}",
        }
    file = found[0][0]
    change = row.function, row.pattern, row.instead
    own = tests.node(row.test, row.room)
    if own:
        outcome = bench.caught(file, change, [own], SECONDS)
        if outcome.outcome == "failed":
            return {"verdict": "caught"}
    one = Mutant(row.kind, "", file, row.function, row.pattern, row.instead)
    others = reach.chosen(one, random.Random(row.name))
    others += room_files(*mirrored(file), f"tests/{row.room}/" if row.room else "tests/test_")
    outcome = bench.caught(file, change, others, ROOM_SECONDS)
    if outcome.outcome == "failed":
        return {"verdict": "caught by another", "by": outcome.test}
    if outcome.outcome == "timed out":
        return {
            "verdict": "timed out",
            "why": f"no test of {len(others)} failed in {ROOM_SECONDS} s",
        }
    return {"verdict": "survived", "why": row.breaks}


def room_files(*beginnings: str) -> list[str]:
    """Files of tests whose paths begin so."""
    return [file for file in files_of_tests(ROOT) if file.startswith(beginnings)]


# ---- the command line


def trace(arguments: argparse.Namespace) -> int:
    """Trace in as many processes as there are workers, on a copy whose files are rewritten."""
    if arguments.part:
        part, parts = map(int, arguments.part.split("/"))
        arguments.map.write_text(json.dumps(traced(arguments.work, part - 1, parts)))
        return 0
    with tempfile.TemporaryDirectory(dir=arguments.work) as work:
        root = copied(ROOT, Path(work).resolve() / "project", rewritten=True)
        maps = [Path(work) / f"{k}.json" for k in range(arguments.workers)]
        runs = [
            subprocess.Popen(
                (
                    *(sys.executable, __file__, "trace", f"--part={k + 1}/{len(maps)}"),
                    *(f"--map={one}", f"--work={root}"),
                )
            )
            for k, one in enumerate(maps)
        ]
        for run in runs:
            run.wait()
        found = [json.loads(one.read_text(encoding="utf-8")) for one in maps]
    arguments.map.write_text(json.dumps({test: x for one in found for test, x in one.items()}))
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True)
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--map", type=Path, help="file of `trace`")
    shared.add_argument("--work", type=Path, help="folder for copies, by default the system's")
    shared.add_argument("--workers", type=int, default=2, metavar="N")

    command = commands.add_parser("recheck", parents=[shared], help="are they still caught?")
    command.add_argument("--only", action="append", metavar="NAME")
    command.add_argument("--part", default="1/1", metavar="K/N")
    command.add_argument("--json", action="store_true", help="a summary as JSON")
    command.set_defaults(run=rechecked)

    command = commands.add_parser("draw", parents=[shared], help="another one of a kind")
    command.add_argument("--kind", choices=KINDS, required=True)
    command.add_argument("--seed", type=int, default=0)
    command.add_argument("--near", action="append", default=[], metavar="FOLDER|FILE|FUNCTION")
    command.add_argument("--replaces", default="", metavar="NAME")
    command.add_argument("--breaks", default="", metavar="SENTENCE", help="behaviour it breaks")
    command.add_argument("--add", action="store_true", help="put it into the table")
    command.set_defaults(run=drew)

    command = commands.add_parser("trace", parents=[shared], help="which tests reach what")
    command.add_argument("--part", help=argparse.SUPPRESS)
    command.set_defaults(run=trace)

    command = commands.add_parser("make", parents=[shared], help="draw and try a whole table")
    command.add_argument("--seed", type=int, default=0)
    command.add_argument("--count", type=int, default=200)
    command.add_argument("--kind", action="append", choices=KINDS, help="only these")
    command.add_argument("--spare", type=float, default=2.0, help="draw so many times the count")
    command.add_argument("--log", type=Path, help="a line of JSON for each that was tried")
    command.set_defaults(run=made)

    arguments = parser.parse_args()
    return int(arguments.run(arguments))


if __name__ == "__main__":
    sys.exit(main())
