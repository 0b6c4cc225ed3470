"""Runs of pytest in processes forked from one that has loaded the heavy libraries already.

It has loaded none of the code under test. This file is also its script: one request a line from
standard input, as JSON, and one line in answer.
"""

import contextlib
import importlib
import json
import os
import signal
import subprocess
import sys
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

LOADED = (
    "pytest",
    "numpy.testing",
    "h5py",
    "click.testing",
    "tqdm",
    "safetensors.numpy",
    "filelock",
    "threadpoolctl",
    "PIL.Image",
    "cupy",
)
OPTIONS = ("-x", "-q", "-p", "no:cacheprovider", "-o", "verbosity_assertions=2")
SECONDS = 300  # time limit of one run


class Result(NamedTuple):
    """Pytest's outcome of one test: "passed", "failed", "error" or "skipped", and the reason."""

    outcome: str
    why: str


class Sandbox:
    """A context manager that runs tests of copies of the project."""

    def __enter__(self) -> "Sandbox":
        hidden = "PYTEST_", "PYTHON"
        env = {name: x for name, x in os.environ.items() if not name.startswith(hidden)}
        command = [sys.executable, "-P", __file__]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env
        )
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()

    def run(self, root: Path, tests: Iterable[str]) -> list[Result]:
        """Run tests of the project at `root`, up to the first that fails."""
        report, log = root / "report.xml", root / "log.txt"
        report.unlink(missing_ok=True)  # of an earlier run: a process that dies leaves none
        arguments = [
            *OPTIONS,
            f"--basetemp={root / 'temporary'}",
            f"--junit-xml={report}",
            *(f"tests/{test}" for test in tests),
        ]
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(json.dumps([str(root), str(log), arguments]) + "\n")
        self._process.stdin.flush()
        status = self._process.stdout.readline().strip()
        results = (
            [_result(case) for case in ElementTree.parse(report).iter("testcase")]
            if report.exists()
            else []
        )
        if not results and status.startswith("-"):
            return [Result("failed", f"the process died of {signal.Signals(-int(status)).name}")]
        return results or [
            Result(
                "error",
                f"no test ran (status {status or 'unknown'}):"
                f" {log.read_text() if log.exists() else ''}",
            )
        ]


def _result(case: ElementTree.Element) -> Result:
    for kind, outcome in (("failure", "failed"), ("error", "error"), ("skipped", "skipped")):
        if (found := case.find(kind)) is not None:
            return Result(outcome, " ".join(found.get("message", "").split()))
    return Result("passed", "")


# ---- the process itself


def main() -> None:
    for name in LOADED:
        with contextlib.suppress(ImportError), warnings.catch_warnings(action="ignore"):
            importlib.import_module(name)
    for line in sys.stdin:
        child = os.fork()
        if not child:
            _become(*json.loads(line))
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


def _become(root: str, log: str, arguments: list[str]) -> None:
    """Run pytest in `root`, as if this process had started there, on no other xpcap."""
    signal.alarm(SECONDS)
    os.chdir(root)
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(output, 1)
    os.dup2(output, 2)
    sys.path.insert(0, root)
    os.environ["PYTHONPATH"] = root
    import pytest

    import xpcap

    assert str(xpcap.__file__).startswith(f"{root}{os.sep}"), xpcap.__file__
    status = int(pytest.main(arguments))
    sys.stdout.flush()
    os._exit(status)


if __name__ == "__main__":
    main()
