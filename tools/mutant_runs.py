"""Runs of pytest for mutants: a trace of which tests reach which function, and tests of a copy.

The copies' tests run in processes forked from one that has loaded the libraries, but none of the
code under test. As a script it is that process: one request a line from standard input, as JSON,
and one line in answer.
"""

import ast
import contextlib
import importlib
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

COPIED = "xpcap", "tests", "benchmarks", "docs", "tools", "pyproject.toml", "cli.py", "README.md"
COPIED = *COPIED, "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md", "LICENSE", "Makefile"
CHOSEN = "not hunt and not gpu and not threads"
# Tests of form and of texts, whole suites within a test, and this tool's own
LEFT_OUT = "tests/package/", "tests/tools/", "test_golden.py", "test_planted.py"
LOADED = (
    "numpy.testing",
    "numpy.random",
    "h5py",
    "click.testing",
    "tqdm",
    "safetensors.numpy",
    "filelock",
    "threadpoolctl",
    "PIL.Image",
    "matplotlib.figure",
    "jinja2",
    "nltk",
    "regex",
    "onnx",
    "onnxruntime",
    "cupy",
)
BUSY = 3  # a time limit is of the processor's seconds, and of so many times as many on the clock
MEMORY = 6 << 30  # bytes that a run may take
ENVIRONMENT = {
    "PYTHONDONTWRITEBYTECODE": "1",
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
    files = [
        name
        for path in sorted((root / "tests").rglob("test_*.py"))
        if not any(out in (name := path.relative_to(root).as_posix()) for out in LEFT_OUT)
    ]
    trace = Trace(root)
    options = ["-q", "-p", "no:cacheprovider", f"--basetemp={root / 'temporary'}", "-m", CHOSEN]
    pytest.main([*options, *files[part::parts]], plugins=[trace])
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
    """A context manager that runs tests of one copy of the project."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def __enter__(self) -> "Runner":
        hidden = "PYTEST_", "PYTHON"
        env = {name: x for name, x in os.environ.items() if not name.startswith(hidden)}
        self._process = subprocess.Popen(
            [sys.executable, "-P", __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=env | ENVIRONMENT,
        )
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()

    def run(self, tests: Iterable[str], seconds: float) -> Outcome:
        """Run tests or files of tests, up to the first that fails or the time limit."""
        assert self._process.stdin
        assert self._process.stdout
        request = {"root": str(self.root), "tests": list(tests), "seconds": seconds}
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        in_time = json.loads(self._process.stdout.readline())
        shutil.rmtree(self.root / ".hypothesis", ignore_errors=True)
        shutil.rmtree(self.root / "temporary", ignore_errors=True)
        lines = (self.root / "reports").read_text(encoding="utf-8").splitlines()
        reports = [json.loads(line) for line in lines]
        passed = tuple(test for test, outcome, _ in reports if outcome == "passed")
        for test, outcome, why in reports:
            if outcome == "failed":
                return Outcome("failed", test, why, passed)
        if not in_time:
            return Outcome("timed out", passed=passed)
        if not passed:
            return Outcome(
                "nothing ran", why=(self.root / "log").read_text(errors="replace")[-500:]
            )
        return Outcome("passed", passed=passed)


class _Reports:
    """A plugin of pytest: a line of JSON for each test."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("w", encoding="utf-8")

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: Any, call: Any) -> Any:
        report = yield
        if report.when == "call" or report.failed:
            why = call.excinfo.typename if call.excinfo else ""
            self._file.write(json.dumps([item.nodeid, report.outcome, why]) + "\n")
            self._file.flush()
        return report


def main() -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's jobs may ignore it
    for name in LOADED:
        with contextlib.suppress(ImportError), warnings.catch_warnings(action="ignore"):
            importlib.import_module(name)
    for line in sys.stdin:
        request = json.loads(line)
        root = Path(request["root"])
        (root / "reports").write_text("")
        child = os.fork()
        if not child:
            try:
                _become(root, request["tests"], request["seconds"])
            finally:
                os._exit(70)  # of an exception that pytest does not know
        in_time = _waited(child, request["seconds"])
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child, signal.SIGKILL)  # with what it left running
        print(json.dumps(in_time), flush=True)


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


def _become(root: Path, tests: list[str], seconds: float) -> None:
    """Run pytest in `root`, as if this process had started there, on no other xpcap."""
    os.setsid()
    resource.setrlimit(resource.RLIMIT_CPU, (int(seconds), resource.RLIM_INFINITY))
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, resource.RLIM_INFINITY))
    os.chdir(root)
    log = os.open(root / "log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(log, 1)
    os.dup2(log, 2)
    sys.path.insert(0, str(root))
    os.environ["PYTHONPATH"] = str(root)
    status = pytest.main(
        [
            "-x",
            "-q",
            "-p",
            "no:cacheprovider",
            "--hypothesis-seed=0",
            f"--basetemp={root / 'temporary'}",
            "-m",
            CHOSEN,
            *tests,
        ],
        plugins=[_Reports(root / "reports")],
    )
    sys.stdout.flush()
    os._exit(int(status))


if __name__ == "__main__":
    main()
