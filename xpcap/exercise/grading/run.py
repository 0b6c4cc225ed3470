"""A process of a submission: questions go out with their inputs, observations come back.

`ask` writes a folder for child.py, which answers each question by a file. A process that ends early
costs the question that it was at; the next one begins with the question after. Limits are a time, and
those of `resource`; where bubblewrap is installed, the process also has no network and changes no file
but those of its folder.
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

from xpcap.exercise import table
from xpcap.exercise.grading import child
from xpcap.exercise.grading.cases import Cases

HERE = Path(__file__).parent
START = 60.0  # seconds that Python and NumPy may take to start on a busy machine
IN_ALL = 6.0  # times the limit of a question: the time of all questions
VERSION = sysconfig.get_python_version()
PACKAGES = f"the standard library of Python {VERSION} and NumPy {np.__version__}"  # and no more
ONE_THREAD = {f"{one}_NUM_THREADS": "1" for one in ("OPENBLAS", "OMP", "MKL", "VECLIB_MAXIMUM")}


class Question(NamedTuple):
    """A use of a submission's functions.

    name : a function of the table
    probe : of probes.py; "" to import modules alone
    modules : dotted Python modules to import first
    functions : "module:name" of each function that the probe gets
    names : results that are noted
    cases : inputs
    right : functions that right ones replace first, each with where it is: "module:name"; of a module
        that cannot be imported "module:"
    """

    name: str
    probe: str
    modules: Sequence[str]
    functions: Sequence[str] = ()
    names: Sequence[str] = ()
    cases: Cases = {}  # noqa: RUF012 - never changed
    right: Mapping[str, str] = {}


class Line(NamedTuple):
    """A line of a student's file; `number` 0 where it is not known."""

    file: str = ""
    number: int = 0
    text: str = ""


class Note(NamedTuple):
    """What was noted of a stage beside arrays; see `probes.Record`."""

    error: tuple[str, str, Line] | None = None  # type, message, line
    number: int | None = None
    none: bool = False
    types: Mapping[str, str] = {}
    names: Sequence[str] = ()
    missing: Sequence[str] = ()


class Observation(NamedTuple):
    """What a probe observed: arrays by ``stage.name``, notes by stage."""

    arrays: Mapping[str, np.ndarray]
    notes: Mapping[str, Note]

    def note(self, stage: str) -> Note:
        return self.notes.get(stage, Note())

    def error(self, stage: str) -> tuple[str, str, Line] | None:
        return self.note(stage).error


class Stopped(NamedTuple):
    """The process ended, or was ended, at a question.

    is_slow : at its time limit
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
    right: str = "",
) -> list[Observation | Stopped]:
    """The answers to questions about files, which lie in folders of their own.

    files : path in the course's package to content
    shown : of these, the student's to their own names
    seconds : limit of a question; all have `IN_ALL` times that, and `START`
    memory : limit in GB, beyond what Python and NumPy take
    seed : of random numbers that a submission draws, the same for each question
    right : source of right functions, for questions that have `right`
    """
    answers: dict[int, Observation | Stopped] = {}
    left, in_all = list(range(len(questions))), IN_ALL * seconds + START
    end = time.monotonic() + in_all
    with tempfile.TemporaryDirectory(prefix="xpcap-", ignore_cleanup_errors=True) as place:
        folder = Path(place).resolve()
        settings = {"seconds": seconds, "memory": memory, "seed": seed}
        _write(folder, files, shown, questions, settings)
        for script in ("child.py", "probes.py"):
            shutil.copyfile(HERE / script, folder / script)
        (folder / f"{child.RIGHT}.py").write_text(right, encoding="utf-8")
        while left:
            status = _run(folder, left, max(0.0, end - time.monotonic()))
            for k in list(left):
                if (answer := folder / child.ANSWERS / f"{k}.json").exists():
                    answers[k] = _observation(answer)
                    left.remove(k)
                else:
                    break
            if not left:
                break
            if status is None:
                late = Stopped(f"did not end before all took their {in_all:g} seconds")
                answers |= dict.fromkeys(left, late)
                break
            k = left.pop(0)
            answers[k] = stopped = _stopped(status, folder, shown, settings)
            if stopped.is_slow:
                waits = Stopped(f"was not asked: {questions[k].name} does not end")
                above = _above(questions, k, left)
                answers |= dict.fromkeys(above, waits)
                left = [number for number in left if number not in above]
    return [answers[k] for k in range(len(questions))]


def _above(questions: Sequence[Question], slow: int, left: Sequence[int]) -> list[int]:
    """The questions left that cannot end where one does not: all, if it is an import."""
    name, is_import = questions[slow].name, not questions[slow].probe
    known = [k for k in left if questions[k].name in table.FUNCTIONS]
    return [k for k in known if is_import or name in table.builds_on(questions[k].name)]


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
    inputs, asked = {}, []
    for k, question in enumerate(questions):
        names = []
        for case, arrays in question.cases.items():
            for name, value in arrays.items():
                names.append(f"{k}/{case}/{name}")
                inputs[names[-1]] = value
        asked.append({**question._replace(cases={})._asdict(), "inputs": names})
    np.savez(folder / "inputs.npz", **inputs)  # type: ignore[arg-type]
    plan = {
        **settings,
        "questions": asked,
        "shown": {f"{table.PACKAGE}/{file}": name for file, name in shown.items()},
        "folders": [table.PACKAGE, f"{table.PACKAGE}/classifiers"],
    }
    (folder / "plan.json").write_text(json.dumps(plan), encoding="utf-8")


def _run(folder: Path, asked: Sequence[int], seconds: float) -> int | None:
    """The exit status of child.py; None if it was ended after so many seconds."""
    python = [sys.executable, "-P", "-B", "-X", "utf8", str(folder / "child.py")]
    confined = [*bubblewrap(), "--bind", str(folder), str(folder)] if bubblewrap() else []
    with (folder / child.FAULTS).open("wb") as faults:
        process = subprocess.Popen(  # noqa: S603 - it limits itself
            [*confined, *python, *map(str, asked)],
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
        with contextlib.suppress(ProcessLookupError):  # and what it has started
            os.killpg(process.pid, signal.SIGKILL) if hasattr(os, "killpg") else process.kill()
        process.wait()


@functools.cache
def bubblewrap() -> list[str]:
    """The command that runs another without network and with files that it can only read.

    Empty where bubblewrap is not installed, or may not start, as in many containers.
    """
    if (bwrap := shutil.which("bwrap")) is None:
        return []
    command = [bwrap, "--ro-bind", "/", "/", "--dev", "/dev", "--proc", "/proc"]
    command += ["--unshare-all", "--die-with-parent"]
    tried = subprocess.run([*command, "true"], check=False, capture_output=True)  # noqa: S603
    return [] if tried.returncode else command


def _stopped(
    status: int,
    folder: Path,
    shown: Mapping[str, str],
    settings: Mapping[str, float],
) -> Stopped:
    """Why a process has ended without an answer."""
    faults = (folder / child.FAULTS).read_text(encoding="utf-8", errors="replace")
    line, seconds = _line(faults, folder, shown), settings["seconds"]
    if faults.startswith("Timeout"):
        reason = f"did not end within {seconds:g} second{'s' * (seconds != 1)}"
        return Stopped(reason, line, is_slow=True)
    if status == child.OUT_OF_MEMORY:
        return Stopped(f"needed more than {settings['memory']:g} GB of memory", line)
    names = {one.value: one.name for one in signal.Signals}
    name = names.get(-status if status < 0 else status - 128, f"exit status {status}")
    error_lines = faults.strip().splitlines()[-1:] if "exit" in name else []
    return Stopped(": ".join([f"ended its process ({name})", *error_lines])[:200], line)


def _line(faults: str, folder: Path, shown: Mapping[str, str]) -> Line:
    """The student's line in what faulthandler wrote of the thread that calls functions, latest first."""
    files = f"/files/{table.PACKAGE}/"
    parts = [part for part in faults.split("\n\n") if "child.py" in part]
    for name, number in re.findall(r'^  File "(.*)", line (\d+)', "\n".join(parts), re.M):
        inside = name.replace(os.sep, "/").partition(files)[2]
        if own_name := shown.get(inside):
            source = (folder / "files" / table.PACKAGE / inside).read_bytes()
            lines = source.decode("utf-8", "replace").splitlines()
            at = int(number)
            return Line(own_name, at, lines[at - 1].strip()[:200] if at <= len(lines) else "")
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
