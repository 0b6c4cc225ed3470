"""Run a submission in a child process, which answers questions by observations.

`ask` writes a folder for child.py, which answers each question by a file. If the process ends early,
its question fails, and a new process begins with the next one. Processes have a time limit and those
of `resource`; with bubblewrap, they also have no network and can write only to their folder.
"""

import contextlib
import functools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np

from xpcap.cs231n import table
from xpcap.cs231n.grading import child
from xpcap.cs231n.grading.cases import Cases

HERE = Path(__file__).parent
START_SECONDS = 60.0  # that Python and NumPy may take to start on a busy machine
TOTAL_FACTOR = 6.0  # the time limit of all questions over that of one
VERSION = sysconfig.get_python_version()
PACKAGES = f"the standard library of Python {VERSION} and NumPy {np.__version__}"
ONE_THREAD = {f"{blas}_NUM_THREADS": "1" for blas in ("OPENBLAS", "OMP", "MKL", "VECLIB_MAXIMUM")}


class Question(NamedTuple):
    """A probe to run on a submission's functions.

    name : a function of the table, or a module
    probe : name in probes.py; "" to import modules only
    modules : dotted Python modules to import first
    functions : "module:name" of each function that the probe gets
    names : results to record
    cases : inputs
    replaced : functions to replace by the reference first, each with its "module:name", or "module:"
        if that module cannot be imported
    """

    name: str
    probe: str
    modules: Sequence[str]
    functions: Sequence[str] = ()
    names: Sequence[str] = ()
    cases: Cases = {}  # noqa: RUF012 - never changed
    replaced: Mapping[str, str] = {}


class Line(NamedTuple):
    """A line of a student's file; `number` is 0 if it is unknown."""

    file: str = ""
    number: int = 0
    text: str = ""


class Note(NamedTuple):
    """Observations of a stage other than arrays; see `probes.Record`."""

    error: tuple[str, str, Line] | None = None  # type, message, line
    number: int | None = None
    none: bool = False
    types: Mapping[str, str] = {}
    names: Sequence[str] = ()
    missing: Sequence[str] = ()


class Observation(NamedTuple):
    """Observations of a probe: arrays by ``stage.name``, notes by stage."""

    arrays: Mapping[str, np.ndarray]
    notes: Mapping[str, Note]

    def note(self, stage: str) -> Note:
        return self.notes.get(stage, Note())

    def error(self, stage: str) -> tuple[str, str, Line] | None:
        return self.note(stage).error


class Stopped(NamedTuple):
    """The process ended, or was killed, before it answered a question.

    is_slow : it reached the time limit of the question
    """

    reason: str
    line: Line = Line()
    is_slow: bool = False


def ask(
    files: Mapping[str, bytes],
    shown: Mapping[str, str],
    questions: Sequence[Question],
    *,
    seconds: float,
    memory: float,
    seed: int = 0,
    reference: str = "",
) -> list[Observation | Stopped]:
    """The answers to questions about files, which run in a temporary folder.

    files : path in the course's package to content
    shown : path of a student's file to the student's name of it
    seconds : time limit of a question; all have `TOTAL_FACTOR` times that, plus `START_SECONDS`
    memory : limit in GB, beyond what Python and NumPy need
    seed : of random numbers that a submission draws, the same for each question
    reference : source of the reference functions, for questions that have `replaced`
    """
    answers: dict[int, Observation | Stopped] = {}
    remaining = list(range(len(questions)))
    total = TOTAL_FACTOR * seconds + START_SECONDS
    end = time.monotonic() + total
    with tempfile.TemporaryDirectory(prefix="xpcap-", ignore_cleanup_errors=True) as temporary:
        folder = Path(temporary).resolve()
        settings = {"seconds": seconds, "memory": memory, "seed": seed}
        _write(folder, files, shown, questions, settings)
        for script in ("child.py", "probes.py"):
            shutil.copyfile(HERE / script, folder / script)
        (folder / f"{child.REFERENCE}.py").write_text(reference, encoding="utf-8")
        while remaining:
            status = _run(folder, remaining, max(0.0, end - time.monotonic()))
            for k in list(remaining):
                if (answer := folder / child.ANSWERS / f"{k}.json").exists():
                    answers[k] = _observation(answer)
                    remaining.remove(k)
                else:
                    break
            if not remaining:
                break
            if status is None:
                late = Stopped(
                    f"was not finished when all functions had used their {total:g} seconds"
                )
                answers |= dict.fromkeys(remaining, late)
                break
            k = remaining.pop(0)
            answers[k] = stopped = _stopped(status, folder, shown, settings)
            if stopped.is_slow:
                skipped = Stopped(f"was not run: {questions[k].name} does not end")
                blocked = _blocked_by(questions, k, remaining)
                answers |= dict.fromkeys(blocked, skipped)
                remaining = [number for number in remaining if number not in blocked]
    return [answers[k] for k in range(len(questions))]


def _blocked_by(questions: Sequence[Question], slow: int, remaining: Sequence[int]) -> list[int]:
    """Remaining questions that call the slow one, so cannot end either; all, if it is an import."""
    name = questions[slow].name
    is_import = not questions[slow].probe
    probes = [k for k in remaining if questions[k].name in table.FUNCTIONS]
    return [k for k in probes if is_import or name in table.builds_on(questions[k].name)]


def _write(
    folder: Path,
    files: Mapping[str, bytes],
    shown: Mapping[str, str],
    questions: Sequence[Question],
    settings: Mapping[str, float],
) -> None:
    package = folder / "files" / table.PACKAGE
    for name, content in files.items():
        file = package / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    parents = {parent for name in files for parent in PurePosixPath(name).parents}
    for parent in {PurePosixPath(), PurePosixPath("classifiers"), *parents}:
        (package / parent).mkdir(parents=True, exist_ok=True)
        (package / parent / "__init__.py").touch()
    (folder / child.ANSWERS).mkdir()
    inputs = {}
    planned = []
    for k, question in enumerate(questions):
        names = []
        for case, arrays in question.cases.items():
            for name, value in arrays.items():
                names.append(f"{k}/{case}/{name}")
                inputs[names[-1]] = value
        planned.append({**question._replace(cases={})._asdict(), "inputs": names})
    np.savez(folder / "inputs.npz", **inputs)  # type: ignore[arg-type]
    plan = {
        **settings,
        "questions": planned,
        "shown": {f"{table.PACKAGE}/{file}": name for file, name in shown.items()},
        "folders": [table.PACKAGE, f"{table.PACKAGE}/classifiers"],
    }
    (folder / "plan.json").write_text(json.dumps(plan), encoding="utf-8")


def _run(folder: Path, questions: Sequence[int], seconds: float) -> int | None:
    """Run child.py on these questions; its exit status, or None if it was killed at the time limit."""
    python = [sys.executable, "-P", "-B", "-X", "utf8", str(folder / "child.py")]
    confined = [*bubblewrap(), "--bind", str(folder), str(folder)] if bubblewrap() else []
    with (folder / child.FAULTS).open("wb") as faults:
        process = subprocess.Popen(  # noqa: S603 - it limits itself
            [*confined, *python, *map(str, questions)],
            cwd=folder,
            env={**os.environ, **ONE_THREAD},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=faults,
            start_new_session=True,
        )
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        return None
    finally:
        with contextlib.suppress(ProcessLookupError):  # the group includes its own children
            os.killpg(process.pid, signal.SIGKILL) if hasattr(os, "killpg") else process.kill()
        process.wait()


@functools.cache
def bubblewrap() -> list[str]:
    """The command that runs another without network and with a read-only file system.

    Empty if bubblewrap is not installed or cannot start, as in many containers.
    """
    if (bwrap := shutil.which("bwrap")) is None:
        return []
    command = [bwrap, "--ro-bind", "/", "/", "--dev", "/dev", "--proc", "/proc"]
    command += ["--unshare-all", "--die-with-parent"]
    trial = subprocess.run([*command, "true"], check=False, capture_output=True)  # noqa: S603
    return [] if trial.returncode else command


def _stopped(
    status: int,
    folder: Path,
    shown: Mapping[str, str],
    settings: Mapping[str, float],
) -> Stopped:
    """The reason why a process ended without an answer."""
    faults = (folder / child.FAULTS).read_text(encoding="utf-8", errors="replace")
    line = _line(faults, folder, shown)
    seconds = settings["seconds"]
    if faults.startswith("Timeout"):
        reason = f"did not end within {seconds:g} second{'s' * (seconds != 1)}"
        return Stopped(reason, line, is_slow=True)
    if status == child.OUT_OF_MEMORY:
        return Stopped(f"needed more than {settings['memory']:g} GB of memory", line)
    names = {number.value: number.name for number in signal.Signals}
    name = names.get(-status if status < 0 else status - 128, f"exit status {status}")
    error_lines = faults.strip().splitlines()[-1:] if "exit" in name else []
    return Stopped(": ".join([f"ended its process ({name})", *error_lines])[:200], line)


def _line(faults: str, folder: Path, shown: Mapping[str, str]) -> Line:
    """The student's latest line in faulthandler's traceback of the thread that calls functions."""
    files = f"/files/{table.PACKAGE}/"
    threads = [thread for thread in faults.split("\n\n") if "child.py" in thread]
    for name, number in re.findall(r'^  File "(.*)", line (\d+)', "\n".join(threads), re.M):
        inside = name.replace(os.sep, "/").partition(files)[2]
        if own_name := shown.get(inside):
            source = (folder / "files" / table.PACKAGE / inside).read_bytes()
            lines = source.decode("utf-8", "replace").splitlines()
            k = int(number)
            return Line(own_name, k, lines[k - 1].strip()[:200] if k <= len(lines) else "")
    return Line()


def _observation(answer: Path) -> Observation:
    """The observation that child.py wrote."""
    with np.load(answer.with_suffix(".npz"), allow_pickle=False) as file:
        arrays = dict(file)
    notes = json.loads(answer.read_text(encoding="utf-8"))
    return Observation(arrays, {stage: _note(form) for stage, form in notes.items()})


def _note(form: Mapping[str, Any]) -> Note:
    error = form.get("error")
    return Note(
        error
        and (error["type"], error["message"], Line(error["file"], error["line"], error["text"])),
        form.get("count"),
        form.get("none", False),
        form.get("types", {}),
        form.get("names", ()),
        form.get("missing", ()),
    )
