"""Runs of pytest for mutants: a trace of which tests reach which function, and tests of a copy.

The copies' tests run in processes forked from one that has loaded the package and all tests. As a
script it is that process: one request a line from standard input, as JSON, and one line in answer.
"""

import ast
import contextlib
import gc
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any, NamedTuple, TextIO

import pytest

COPIED = "xpcap", "tests", "benchmarks", "docs", "tools", "pyproject.toml", "cli.py", "README.md"
COPIED = *COPIED, "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md", "LICENSE", "Makefile"
CHOSEN = "not slow and not nightly and not gpu and not threads"
# Tests of form and of texts, whole suites within a test, and this tool's own
LEFT_OUT = "tests/package/", "tests/tools/", "test_golden.py", "test_device_mutants.py"
BUSY = 3  # a time limit is of the processor's seconds, and of so many times as many on the clock
MEMORY = 6 << 30  # bytes that a run may take
ENVIRONMENT = {
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
}


def copied(root: Path, to: Path, rewritten: bool = False) -> Path:
    """A copy of the project, without its compiled files; every Python file of the package may be
    rewritten from its syntax tree, as a mutant's file is.
    """
    for name in COPIED:
        source = root / name
        if source.is_dir():
            shutil.copytree(source, to / name, ignore=shutil.ignore_patterns("__pycache__"))
        elif source.exists():
            to.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, to / name)
    for path in (to / "xpcap").rglob("*.py") if rewritten else ():
        text = ast.unparse(ast.parse(path.read_text(encoding="utf-8")))
        path.write_text(f"{text}\n", encoding="utf-8")
    return to


@contextlib.contextmanager
def changed(path: Path, text: str) -> Iterator[None]:
    """A file with another text for a while."""
    before, stat = path.read_bytes(), path.stat()
    path.write_text(text, encoding="utf-8")
    try:
        yield
    finally:
        path.write_bytes(before)
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def files_of_tests(root: Path) -> list[str]:
    """Files of the tests that may catch a mutant."""
    names = [path.relative_to(root).as_posix() for path in (root / "tests").rglob("test_*.py")]
    return [name for name in sorted(names) if not any(out in name for out in LEFT_OUT)]


# ---- which tests reach a function


class Trace:
    """A plugin of pytest: outcome, seconds and functions of the package of each test.

    A test has the functions and seconds of its module's and session's fixtures too, whichever test
    set them up: alone it would set them up itself.
    """

    def __init__(self, root: Path) -> None:
        self.tests: dict[str, dict[str, Any]] = {}
        self._package = f"{root / 'xpcap'}{os.sep}"
        self._seen: set[Any] = set()
        self._fixtures: dict[object, tuple[set[Any], float]] = {}
        self._elsewhere = 0.0  # seconds of the present test that went into fixtures of others
        self._outcome = ""

    def _profile(self, frame: Any, event: str, _: object) -> None:
        if event == "call":
            self._seen.add(frame.f_code)

    @contextlib.contextmanager
    def _traced(self) -> Iterator[None]:
        threading.setprofile(self._profile)
        sys.setprofile(self._profile)
        try:
            yield
        finally:
            sys.setprofile(None)
            threading.setprofile(None)

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef: Any) -> Any:
        if fixturedef.scope == "function":
            return (yield)
        outer, self._seen, start = self._seen, set(), time.perf_counter()
        try:
            return (yield)
        finally:
            took = time.perf_counter() - start
            self._fixtures[fixturedef] = self._seen, took
            self._elsewhere += took
            self._seen = outer

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: Any) -> Any:
        self._seen, self._elsewhere, self._outcome = set(), 0.0, "passed"
        start = time.perf_counter()
        try:
            return (yield)
        finally:
            seconds = time.perf_counter() - start - self._elsewhere
            for definitions in item._fixtureinfo.name2fixturedefs.values():
                for one in definitions:
                    codes, took = self._fixtures.get(one, (set(), 0.0))
                    self._seen |= codes
                    seconds += took
            self.tests[item.nodeid] = {
                "outcome": self._outcome,
                "seconds": round(seconds, 3),
                "functions": sorted(filter(None, map(self._name, self._seen))),
            }

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_setup(self) -> Any:
        with self._traced():
            return (yield)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self) -> Any:
        with self._traced():
            return (yield)

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.outcome != "passed":
            self._outcome = report.outcome

    def _name(self, code: Any) -> str | None:
        """Such as ``optim.py:adam.step``; code outside functions has none."""
        if not code.co_filename.startswith(self._package):
            return None
        parts = [part for part in code.co_qualname.split(".") if not part.startswith("<")]
        return (
            f"{code.co_filename.removeprefix(self._package)}:{'.'.join(parts)}" if parts else None
        )


def traced(root: Path, part: int, parts: int) -> dict[str, dict[str, Any]]:
    """What the fast suite's tests reach, of every n-th file: `Trace` in this process."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's jobs may ignore it
    os.chdir(root)
    sys.path.insert(0, str(root))
    os.environ.update(ENVIRONMENT, PYTHONPATH=str(root))
    trace = Trace(root)
    options = ["-q", "-p", "no:cacheprovider", f"--basetemp={root / 'temporary'}", "-m", CHOSEN]
    pytest.main([*options, *files_of_tests(root)[part::parts]], plugins=[trace])
    return trace.tests


# ---- running tests of a copy


class Outcome(NamedTuple):
    """Of a run up to the first test that fails: "passed", "failed", "nothing ran" or "timed out".

    `why` is the exception's name, or what pytest wrote.
    """

    outcome: str
    test: str = ""
    why: str = ""
    passed: tuple[str, ...] = ()


class Runner:
    """A context manager that runs tests of one copy of the project, with a file changed or not."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._ready = False

    def __enter__(self) -> "Runner":
        hidden = "PYTEST_", "PYTHON"
        env = {name: x for name, x in os.environ.items() if not name.startswith(hidden)}
        self._process = subprocess.Popen(
            [sys.executable, "-P", __file__, str(self.root)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=env | ENVIRONMENT | {"PYTHONPATH": str(self.root)},
        )
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()

    def run(
        self,
        tests: Iterable[str],
        seconds: float,
        file: str = "",
        text: str = "",
        but: Iterable[str] = (),
    ) -> Outcome:
        """Run tests, or all of some files, up to the first that fails or the time limit.

        `file` of the package has another `text` meanwhile. Tests named in `but` are left out.
        """
        assert self._process.stdin
        assert self._process.stdout
        if not self._ready:  # it has loaded the package as it is
            self._ready = bool(self._process.stdout.readline())
        request = {"tests": list(tests), "seconds": seconds, "file": file}
        request["but"] = list(but)
        path = self.root / "xpcap" / file
        with changed(path, text) if file else contextlib.nullcontext():
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
            in_time = json.loads(self._process.stdout.readline())
        shutil.rmtree(self.root / ".hypothesis", ignore_errors=True)
        lines = (self.root / "reports").read_text(encoding="utf-8").splitlines()
        reports = [json.loads(line) for line in lines]
        passed = tuple(test for test, outcome, _ in reports if outcome == "passed")
        for test, outcome, why in reports:
            if outcome == "failed":
                return Outcome("failed", test, why, passed)
        if not in_time:
            return Outcome("timed out", passed=passed)
        return Outcome("passed" if passed else "nothing ran", passed=passed)


class _Reports:
    """A plugin of pytest: a line of JSON for each test."""

    def __init__(self, path: Path) -> None:
        self.failed = False
        self._file = path.open("w", encoding="utf-8")

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: Any, call: Any) -> Any:
        report = yield
        if report.when == "call" or report.failed:
            why = call.excinfo.typename if call.excinfo else ""
            self._file.write(json.dumps([item.nodeid, report.outcome, why]) + "\n")
            self._file.flush()
            self.failed = self.failed or report.failed
        return report


class _Server:
    """A plugin of pytest that answers requests in place of running all tests.

    Each runs in a child process, which takes a function's new code from its changed file: objects
    that hold the function run that code too. Programs that the tests start read the file.
    """

    def __init__(self, root: Path, requests: TextIO, answers: TextIO) -> None:
        self._root, self._requests, self._answers = root, requests, answers

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        gc.unfreeze()
        functions = _functions(self._root / "xpcap")
        items = {item.nodeid: item for item in session.items}
        gc.freeze()
        print("ready", file=self._answers, flush=True)
        for line in self._requests:
            request = json.loads(line)
            (self._root / "reports").write_text("")
            child = os.fork()
            if not child:
                try:
                    os.setsid()
                    limits = (int(request["seconds"]), resource.RLIM_INFINITY)
                    resource.setrlimit(resource.RLIMIT_CPU, limits)
                    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, resource.RLIM_INFINITY))
                    os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
                    sys.dont_write_bytecode = True
                    if request["file"]:
                        _renew(self._root / "xpcap" / request["file"], functions)
                    self._run(session, _chosen(items, request["tests"], request["but"]))
                finally:
                    os._exit(0)
            in_time = _waited(child, request["seconds"])
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child, signal.SIGKILL)  # with what it left running
            print(json.dumps(in_time), file=self._answers, flush=True)
        return True

    def _run(self, session: pytest.Session, items: list[pytest.Item]) -> None:
        reports = _Reports(self._root / "reports")
        session.config.pluginmanager.register(reports)
        for item, following in zip(items, [*items[1:], None], strict=True):
            session.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
            if reports.failed:
                return


Functions = dict[str, dict[str, list[FunctionType]]]  # by file and qualified name


def _functions(package: Path) -> Functions:
    found: Functions = {}
    for one in gc.get_objects():
        if type(one) is FunctionType and one.__code__.co_filename.startswith(f"{package}{os.sep}"):
            of_file = found.setdefault(one.__code__.co_filename, {})
            of_file.setdefault(one.__code__.co_qualname, []).append(one)
    return found


def _renew(path: Path, functions: Functions) -> None:
    """Let functions run the code that is in their file now."""
    codes: dict[str, list[CodeType]] = {}
    todo = [compile(path.read_text(encoding="utf-8"), str(path), "exec")]
    while todo:
        for one in todo.pop().co_consts:
            if isinstance(one, CodeType):
                todo.append(one)
                codes.setdefault(one.co_qualname, []).append(one)
    for name, known in functions.get(str(path), {}).items():
        # a property's functions share a name
        lines = sorted({one.__code__.co_firstlineno for one in known})
        now = sorted(codes.get(name, []), key=lambda code: code.co_firstlineno)
        if len(lines) == len(now) and "<" not in name:
            for one in known:
                one.__code__ = now[lines.index(one.__code__.co_firstlineno)]


def _chosen(items: dict[str, pytest.Item], tests: list[str], but: list[str]) -> list[pytest.Item]:
    """Tests by name, or all of a file, without some."""
    files: dict[str, list[pytest.Item]] = {}
    for name, item in items.items():
        files.setdefault(name.partition("::")[0], []).append(item)
    found: dict[str, pytest.Item] = {}
    for test in tests:
        some = [items[test]] if test in items else files.get(test, [])
        found |= {item.nodeid: item for item in some}
    return [item for name, item in found.items() if name not in but]


def main(root: Path) -> None:
    """Load the tests of the project at `root` and run those that requests name."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's jobs may ignore it
    requests, answers = os.fdopen(os.dup(0)), os.fdopen(os.dup(1), "w")
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(os.open(root / "log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 1)
    os.dup2(1, 2)
    os.chdir(root)
    sys.path.insert(0, str(root))
    options = [
        "-q",
        "-p",
        "no:cacheprovider",
        "--hypothesis-seed=0",
        "--continue-on-collection-errors",
    ]
    options += [f"--basetemp={root / 'temporary'}", "-m", CHOSEN]
    pytest.main([*options, *files_of_tests(root)], plugins=[_Server(root, requests, answers)])


def _waited(child: int, seconds: float) -> bool:
    """Wait for a process to end; False if it took longer than it may, on its own or on a busy
    machine.
    """
    end = time.monotonic() + BUSY * seconds
    while time.monotonic() < end:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return not (os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGXCPU)
        time.sleep(0.02)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return False


if __name__ == "__main__":
    main(Path(sys.argv[1]))
