"""Processes of a submission: questions go out with their inputs, observations come back.

`ask` writes a folder for child.py, has it started under confinement, and reads its frames, each of
bounded size and within a time. A process that ends early costs the question that it was at; the next
one begins with the question after. This is the one border at which what a submission says becomes
arrays and text.
"""

import contextlib
import itertools
import json
import os
import queue
import re
import shutil
import signal
import struct
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import IO, Any, NamedTuple

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load

from xpcap.exercise import table
from xpcap.exercise.grading import child
from xpcap.exercise.grading.cases import Cases
from xpcap.exercise.grading.confine import Confined, Confinement, Limits
from xpcap.exercise.grading.probes import NUMBERS
from xpcap.files import lock

HERE = Path(__file__).parent
SCRIPTS = ("child.py", "probes.py", "hardening.py")  # what a process has of ours
START = 60.0  # seconds that Python and NumPy may take to start on a busy machine
LATER = 3.0  # seconds that a process has to end itself after a question's limit
IN_ALL = 6.0  # times the limit of a question: the time of the questions of a file in all
SLICE = 0.05  # seconds between two looks at limits that the system does not hold
MAX_ANSWER = 8 * 2**20  # bytes of a frame
MAX_HEADER = 2**18  # bytes of the names in a frame, and of what is kept of faults
MAX_LINE, MAX_NAMES = 200, 20  # characters of a line's text, names in a note
MAX_COUNT, MAX_AXES = 10**9, 8  # of results or calls, and of an array
LIMITS = {"disk": 32 * 2**20, "file": 10 * 2**20, "files": 128, "processes": 64}
NONSENSE = "answered what no function returns"
LEFT_BEHIND = "started a process that did not end with it"


class Question(NamedTuple):
    """A use of a submission's functions.

    name : a function of the table
    probe : of probes.py; "" to import modules alone
    modules : dotted Python modules to import first
    functions : "module:name" of each function that the probe gets
    names : results that are noted
    cases : inputs
    right : functions that right ones replace first, each with where it is: "module:name"
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


@contextlib.contextmanager
def in_turn(file: Path | None) -> Iterator[None]:
    """Wait for the lock of a file, and hold it within the block. None: at once."""
    with contextlib.ExitStack() as stack:
        if file is not None:
            lock(stack.enter_context(file.open("ab")), held=None)
        yield


def ask(
    files: Mapping[str, bytes],
    shown: Mapping[str, str],
    questions: Sequence[Question],
    confinement: Confinement,
    *,
    seconds: float,
    memory: float,
    seed: int = 0,
    right: str = "",
) -> list[Observation | Stopped]:
    """The answers to questions about files, which lie in folders of their own.

    files : path in the course's package to content
    shown : of these, the student's to their own names
    seed : of random numbers that a submission draws, the same for each question
    right : source of right functions, for questions that have `right`
    """
    answers: dict[int, Observation | Stopped] = {}
    left = list(range(len(questions)))
    end = time.monotonic() + _in_all(seconds)
    with tempfile.TemporaryDirectory(prefix="xpcap-", ignore_cleanup_errors=True) as folder:
        _write(Path(folder), files, shown, questions, {"seconds": seconds, "seed": seed})
        for script in SCRIPTS:
            shutil.copyfile(HERE / script, Path(folder, script))
        if right:
            Path(folder, f"{child.RIGHT}.py").write_text(right, encoding="utf-8")
        while left:
            if time.monotonic() > end:
                late = Stopped(f"was not reached: the file took its {_in_all(seconds):g} seconds")
                answers |= dict.fromkeys(left, late)
                break
            process = _Process(Path(folder), confinement, shown, seconds, memory)
            found = process.answers(left, end)
            answers |= zip(left, found, strict=False)
            last, left = left[len(found) - 1], left[len(found) :]
            if isinstance(found[-1], Stopped) and found[-1].is_slow:
                waits = Stopped(f"was not asked: {questions[last].name} does not end")
                answers |= dict.fromkeys(_above(questions, last, left), waits)
                left = [k for k in left if k not in answers]
    return [answers[k] for k in range(len(questions))]


def _above(questions: Sequence[Question], slow: int, left: Sequence[int]) -> list[int]:
    """The questions left that cannot end where one does not: all, if it is an import."""
    name, is_import = questions[slow].name, not questions[slow].probe
    known = [k for k in left if questions[k].name in table.FUNCTIONS]
    return [k for k in known if is_import or name in table.builds_on(questions[k].name)]


def _in_all(seconds: float) -> float:
    """The seconds of a file's questions and of the starts of its processes."""
    return IN_ALL * seconds + START


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


class _Process:
    """child.py: the frames that it writes, and what it says of its faults, both within bounds."""

    def __init__(
        self,
        folder: Path,
        confinement: Confinement,
        shown: Mapping[str, str],
        seconds: float,
        memory: float,
    ) -> None:
        self._folder, self._confinement, self._shown = folder, confinement, shown
        self._seconds, self._memory = seconds, memory
        self._answers, self._faults = bytearray(), bytearray()

    def answers(self, asked: Sequence[int], end: float) -> list[Observation | Stopped]:
        """Answers to the questions `asked`; of a process that ends early the last is why."""
        number = len(asked)
        limits = Limits(memory=self._memory, seconds=_in_all(self._seconds), **LIMITS)
        started = self._confinement.start(
            self._folder,
            list(map(str, asked)),
            limits,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        found: list[Observation | Stopped] = []
        arrived: queue.Queue[tuple[str, bytes]] = queue.Queue(maxsize=64)
        left = threading.Event()
        with started as process:
            streams = {"answers": process.process.stdout, "faults": process.process.stderr}
            threads = [
                threading.Thread(target=_read, args=(stream, name, arrived, left), daemon=True)
                for name, stream in streams.items()
            ]
            for thread in threads:
                thread.start()
            reason = self._take(arrived, process, found, number, end)
            status = None if reason or len(found) == number else self._status(process)
            process.kill()
            self._end(arrived, threads, left)
        if len(found) < number:
            why = reason or self._cause(status)
            found.append(Stopped(why, self._line(), why == self._slow()))
        return found

    def _end(
        self,
        arrived: "queue.Queue[tuple[str, bytes]]",
        threads: Sequence[threading.Thread],
        left: threading.Event,
    ) -> None:
        """Take what is left in the pipes. Where something else holds them open, leave them to it."""
        late = time.monotonic() + LATER
        while time.monotonic() < late and (
            any(thread.is_alive() for thread in threads) or not arrived.empty()
        ):
            with contextlib.suppress(queue.Empty):
                self._keep(*arrived.get(timeout=SLICE))
        left.set()
        while not arrived.empty():  # a thread that waits for room sees that it is left
            arrived.get()

    def _keep(self, name: str, piece: bytes) -> None:
        """Keep the beginning of the faults."""
        self._faults += piece[: MAX_HEADER - len(self._faults)] * (name == "faults")

    def _take(
        self,
        arrived: "queue.Queue[tuple[str, bytes]]",
        process: Confined,
        found: list[Observation | Stopped],
        number: int,
        end: float,
    ) -> str:
        """Take answers until all are found, and "", or until why the process has to be ended."""
        late = min(time.monotonic() + self._seconds + START, end)
        look, begun, ended = 0.0, False, False
        while len(found) < number:
            if (now := time.monotonic()) > late:
                return LEFT_BEHIND if ended else self._slow(late == end)
            if now > look:
                look = now + SLICE
                if reason := process.check():
                    return reason
            try:
                name, piece = arrived.get(timeout=SLICE)
            except queue.Empty:
                if process.process.poll() is not None:  # and yet its pipe is open
                    late, ended = min(late, now + LATER), True
                continue
            if name == "faults":
                self._keep(name, piece)
                continue
            if not piece:
                return ""
            self._answers += piece
            try:
                for content in self._frames():
                    if bool(content) != begun:
                        raise ValueError("a question begins when the one before is answered")
                    begun = not begun
                    if content:
                        found.append(observation(content))
                    if len(found) == number:
                        break
                    late = min(time.monotonic() + self._seconds + LATER, end)
            except ValueError:
                return NONSENSE
        return ""

    def _frames(self) -> Iterator[bytes]:
        """The whole frames that have come, an empty one as a question begins. ValueError : too large."""
        while len(self._answers) >= 8:
            (size,) = struct.unpack("<Q", self._answers[:8])
            if size > MAX_ANSWER:
                raise ValueError(f"a frame of {size:,} bytes")
            if len(self._answers) < 8 + size:
                return
            content = bytes(self._answers[8 : 8 + size])
            del self._answers[: 8 + size]
            yield content

    def _status(self, process: Confined) -> int | None:
        try:
            return process.wait(timeout=LATER)
        except subprocess.TimeoutExpired:
            return None

    def _slow(self, in_all: bool = False) -> str:
        if in_all:
            return f"did not end before the file took its {_in_all(self._seconds):g} seconds"
        return f"did not end within {self._seconds:g} second{'s' * (self._seconds != 1)}"

    def _cause(self, status: int | None) -> str:
        """The reason of an end that nobody asked for."""
        if self._faults.startswith(b"Timeout"):
            return self._slow()
        if status is None or status == 0:
            return NONSENSE
        if status == child.OUT_OF_MEMORY:
            return f"needed more than {self._memory:g} GB of memory"
        number = -status if status < 0 else status - 128
        names = {one.value: one.name for one in signal.Signals}
        if names.get(number) == "SIGXFSZ":
            return f"wrote more than {LIMITS['file'] // 2**20} MB to a file"
        if number in names:
            return f"ended its process ({names[number]})"
        said = self._faults.decode("utf-8", "replace").strip().splitlines()[-1:]
        return f"ended its process (exit status {status})" + (f": {said[0][:200]}" if said else "")

    def _line(self) -> Line:
        """The student's line in what was written of the thread that calls functions, latest first."""
        text = self._faults.decode("utf-8", "replace")
        files = f"/files/{table.PACKAGE}/"
        parts = [part for part in text.split("\n\n") if "child.py" in part]
        for name, number in re.findall(r'^  File "(.*)", line (\d+)', "\n".join(parts), re.M):
            inside = name.replace(os.sep, "/").partition(files)[2]
            if shown := self._shown.get(inside):
                source = (self._folder / "files" / table.PACKAGE / inside).read_bytes()
                lines = source.decode("utf-8", "replace").splitlines()
                at = int(number)
                return Line(shown, at, lines[at - 1].strip()[:200] if at <= len(lines) else "")
        return Line()


def _read(
    stream: IO[bytes],
    name: str,
    arrived: "queue.Queue[tuple[str, bytes]]",
    left: threading.Event,
) -> None:
    """Put what comes of a pipe, and at its end nothing, until nobody takes it any more."""
    with stream:
        while (piece := os.read(stream.fileno(), 2**16)) and not left.is_set():
            arrived.put((name, piece))
        arrived.put((name, b""))


def observation(content: bytes) -> Observation:
    """The observation of a frame, of any bytes. Text is cut where child.py cuts it.

    ValueError : it is none.
    """
    try:
        size = int.from_bytes(content[:8], "little")
        if size > MAX_HEADER:
            raise ValueError(f"a header of {size:,} bytes")
        notes = json.loads(json.loads(content[8 : 8 + size])["__metadata__"]["notes"])
        arrays = {_text(name): _array(value) for name, value in load(content).items()}
        return Observation(arrays, {_text(stage): _note(form) for stage, form in notes.items()})
    except (LookupError, TypeError, AttributeError, RecursionError, SafetensorError) as error:
        raise ValueError(str(error)) from None


def _note(form: Mapping[str, Any]) -> Note:
    """A note of its JSON form, every part of the type and within the bounds that it is to have."""
    error, count, is_none = form.get("error"), form.get("count"), form.get("none", False)
    if not isinstance(is_none, bool):
        raise ValueError(f"{is_none!r} for yes or no")
    return Note(
        None
        if error is None
        else (
            _text(error["type"]),
            _text(error["message"], child.MOST_TEXT),
            Line(
                _text(error["file"], MAX_LINE),
                _number(error["line"]),
                _text(error["text"], MAX_LINE),
            ),
        ),
        None if count is None else _number(count),
        is_none,
        {_text(name): _text(kind) for name, kind in _first(form.get("types", {}).items())},
        [_text(name) for name in _first(form.get("names", ()))],
        [_text(name) for name in _first(form.get("missing", ()))],
    )


def _first(values: Iterable[Any]) -> Iterator[Any]:
    return itertools.islice(values, MAX_NAMES)


def _text(value: str, length: int = child.MOST_NAME) -> str:
    """The beginning of a text, without halves of characters, which no file takes."""
    return value[:length].encode("utf-8", "replace").decode("utf-8")


def _number(value: object) -> int:
    if type(value) is not int or not 0 <= value <= MAX_COUNT:  # a bool is an int
        raise ValueError("no whole number that counts anything")
    return value


def _array(value: np.ndarray) -> np.ndarray:
    """An array of numbers, real ones, with few axes."""
    if value.dtype.kind not in NUMBERS or value.ndim > MAX_AXES:
        raise ValueError(f"an array of {value.dtype} with {value.ndim} axes")
    return value
