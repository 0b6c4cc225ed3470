"""A student's files, and calls of their functions in a process of its own (child.py)."""

import ast
import contextlib
import itertools
import os
import queue
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple, Self

import numpy as np

from xpcap.errors import DataError, InvalidValueError
from xpcap.exercise.grading import child
from xpcap.exercise.grading.child import Handle, Opaque
from xpcap.options import Real

__all__ = ["Handle", "Opaque", "Returned", "Stopped", "StudentError", "Submission", "course_files"]

HERE = Path(child.__file__).parent
FILES = {  # of the course, in its package
    "rnn_layers": "rnn_layers.py",
    "rnn": "classifiers/rnn.py",
    "optim": "optim.py",
    "captioning_solver": "captioning_solver.py",
    "coco_utils": "coco_utils.py",
    "gradient_check": "gradient_check.py",
}
GRADED = ("rnn_layers", "rnn", "optim", "captioning_solver")
GIVEN = ("affine_forward", "affine_backward")  # what the course's layers.py has besides
MOST_FILE, MOST_FILES = 10**6, 500  # bytes of a file, files of a folder
MOST_IN_ALL = 4 * 10**6  # bytes of a folder's files
SKIPPED = {"datasets", "build", "node_modules", "__pycache__"}  # folders
START = 60.0  # seconds that Python and NumPy may take to start on a busy machine
SLICE = 0.05  # seconds between two looks at what the process has printed
# of the environment, what Python, NumPy and their libraries may need to start
ENVIRONMENT = ("PATH", "SYSTEMROOT", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")
ONE_THREAD = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)


Names = Mapping[str, set[str]]  # of course modules
Message = tuple[dict[str, Any], list[np.ndarray]]
Answer = tuple[dict[str, Any], bytearray]
TOO_MUCH = f"printed, or wrote to a file, more than {child.MOST_OUTPUT // 2**20} MB"
NONSENSE = "answered what no function returns"
# of a message that a submission wrote itself
ODD = (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)


class StudentError(Exception):
    """The student's code raised.

    Attributes
    ----------
    type, message : of the error
    file, line, text : the last line of the student's that led to it; "", 0 and "" if there is none
    """

    def __init__(self, type: str, message: str, file: str = "", line: int = 0, text: str = ""):
        super().__init__(f"{type}: {message}{_at(file, line, text)}")
        self.type, self.message, self.file, self.line, self.text = type, message, file, line, text


class Stopped(Exception):  # noqa: N818
    """The student's process ended or was ended; the next call starts another, without handles.

    Attributes
    ----------
    reason : such as "did not end within 10 seconds"
    file, line, text : the student's line that ran; "", 0 and "" where that is not known
    """

    def __init__(self, reason: str, file: str = "", line: int = 0, text: str = ""):
        super().__init__(reason + _at(file, line, text))
        self.reason, self.file, self.line, self.text = reason, file, line, text


def _at(file: str, line: int, text: str) -> str:
    return f" ({file}, line {line}: {text})" if line else ""


class Returned(NamedTuple):
    """The result of a call.

    Attributes
    ----------
    values : the results; a lone one as a tuple of one
    is_tuple : a tuple came back
    arguments : if asked for, the arrays among the arguments as they were after the call, None for
        other arguments
    shared : pairs (result, argument) of indices of arrays that share memory
    shared_results : pairs of results that share memory
    warnings : Python's and NumPy's, such as "RuntimeWarning: overflow encountered in exp
        (rnn_layers.py, line 7)"
    printed : the first 2,000 characters
    """

    values: tuple[Any, ...]
    is_tuple: bool
    arguments: tuple[Any, ...]
    shared: tuple[tuple[int, int], ...]
    shared_results: tuple[tuple[int, int], ...]
    warnings: tuple[str, ...]
    printed: str


def course_files() -> dict[str, bytes]:
    """The course's files in plain NumPy: path in the package, content."""
    files = {
        path: re.sub(
            r"\bxpcap\.exercise\.reference\b",
            child.PACKAGE,
            (HERE.parent / "reference" / f"{name}.py").read_text(encoding="utf-8"),
        )
        for name, path in FILES.items()
    }
    source = files[FILES["rnn_layers"]]
    given = [
        ast.get_source_segment(source, node)
        for node in ast.parse(source).body
        if isinstance(node, ast.FunctionDef) and node.name in GIVEN
    ]
    files["layers.py"] = "\n\n\n".join(["import numpy as np", *map(str, given)]) + "\n"
    return {name: text.encode("utf-8") for name, text in files.items()}


class Submission:
    """A student's file, folder or module, in a process of its own while the ``with`` block runs.

    Parameters
    ----------
    path : file of any name; folder ``cs231n``, or one that holds it; dotted name of a module, which
        is found without being imported
    seconds : most for a call, and for importing a module
    memory : most GB of the process, beyond what Python and NumPy take. Linux alone holds to it
    reference : the course's modules, such as "rnn_layers", that come from our files although the
        submission brings them

    Attributes
    ----------
    defines : course module to the course's names in it that the submission defines; a module that
        it brings nothing of is absent
    path : the file or folder

    Raises
    ------
    DataError : there is no such file, folder or module, it defines nothing of the course, or it is
        too large to be it.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        seconds: float = 10.0,
        memory: float = 2.0,
        reference: Collection[str] = (),
    ) -> None:
        self.seconds = Real(above=0).check("grade", "`seconds`", seconds)
        self.memory = Real(above=0).check("grade", "`memory`", memory)
        self.path = _find(path)
        course = course_files()
        known = {
            module: {name for name in _names(course[FILES[module]]) if name[0] != "_"}
            for module in GRADED
        }
        brought, self._shown = _read(self.path, known)
        self._own = {
            file: content
            for file, content in brought.items()
            if file not in {FILES[module] for module in reference}
        }
        self._homes = _homes(self._own, known)
        if not self._homes:
            raise DataError(
                "grade",
                self.path,
                "defines nothing of the course",
                expected="functions such as lstm_step_forward, the class CaptioningRNN or"
                " CaptioningSolver, or update rules such as adam",
                cause="is it the right file?",
            )
        self.defines = {module: set(files) for module, files in self._homes.items()}
        self._files = {**course, **self._own}
        self._broken: dict[str, StudentError | Stopped] = {}  # by module that cannot be imported
        self._imported: set[str] = set()  # modules, in the present process
        self._handles = itertools.count(0, 10**9)  # the first `Handle` of each process
        self._process: _Process | None = None
        self._folder: tempfile.TemporaryDirectory[str] | None = None

    def __enter__(self) -> Self:
        self._folder = tempfile.TemporaryDirectory(prefix="xpcap-", ignore_cleanup_errors=True)
        package = self._root / child.PACKAGE
        for name, content in self._files.items():
            file = package / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
        for folder in {package, *(package / name for name in _folders(self._files))}:
            (folder / "__init__.py").touch()
        return self

    def __exit__(self, *_: object) -> None:
        self._end()
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None

    def call(
        self,
        name: str,
        *args: Any,
        keep: bool = False,
        arguments: bool = False,
        module: str | None = None,
    ) -> Returned:
        """Call a function of the student's, or ``probe.NAME``, one of probes.py.

        Parameters
        ----------
        args : nested None, bool, int, float, str, list, tuple, dict, arrays, and `Handle`
        keep : leave the last element of a returned tuple in the process, as `Handle`
        arguments : also send the arguments back as they are after the call
        module : the course's, such as "rnn_layers". A function's follows from its name if the
            submission defines it; a probe's is imported first, within a time of its own

        Raises
        ------
        StudentError, Stopped : see there. A module that cannot be imported raises the same at each
            call for it.
        """
        probe = name.startswith("probe.")
        if module is None and not probe:
            module = next((one for one, names in self.defines.items() if name in names), None)
            if module is None:
                raise InvalidValueError("Submission.call", self.path, f"does not define {name}")
        if module is not None:
            self.load(module)
        packed: list[np.ndarray] = []
        request = {
            "act": "probe" if probe else "call",
            "name": name.removeprefix("probe."),
            "module": "" if probe else self._home(str(module), name),
            "arguments": child.pack(list(args), packed),
            "keep": keep,
            "back": arguments,
        }
        answer, content = self._ask(request, packed)
        try:
            return _returned(answer, content)
        except ODD:
            self._end()
            raise Stopped(NONSENSE) from None

    def forget(self) -> None:
        """Drop the values of all handles."""
        if self._process is not None:
            self._ask({"act": "forget"})

    def load(self, module: str) -> None:
        """Import a course module in the process, once; `call` does so first.

        Raises
        ------
        StudentError, Stopped : it cannot be imported, now and at each later call for it.
        """
        if module in self._broken:
            raise self._broken[module]
        if module in self._imported:
            return
        files = sorted(set(self._homes.get(module, {}).values())) or [FILES[module]]
        for file in files:
            try:
                self._ask({"act": "import", "module": _dotted(file)})
            except (StudentError, Stopped) as error:
                self._broken[module] = error
                raise
        self._imported.add(module)

    def _home(self, module: str, name: str) -> str:
        """The dotted Python module that has a name of a course module."""
        return _dotted(self._homes.get(module, {}).get(name, FILES[module]))

    def _modules(self) -> dict[str, str]:
        """The dotted Python module of each course module: where most of its names are."""
        homes = {module: list(files.values()) for module, files in self._homes.items()}
        return {
            module: _dotted(max(homes.get(module, [file]), key=homes.get(module, [file]).count))
            for module, file in FILES.items()
        }

    @property
    def _root(self) -> Path:
        if self._folder is None:
            raise RuntimeError("Submission: calls need a `with` block around them")
        return Path(self._folder.name).resolve() / "root"

    def _ask(
        self, request: dict[str, Any], arrays: Collection[np.ndarray] = ()
    ) -> tuple[dict[str, Any], bytearray]:
        """The answer of the process to a request; starts one if there is none."""
        if self._process is None:
            setup = {
                "root": str(self._root),
                "files": {file: self._shown[file] for file in self._own},
                "folders": [str(self._root / child.PACKAGE / one) for one in ("", "classifiers")],
                "modules": self._modules(),
                "first": next(self._handles),
                "seconds": self.seconds,
                "memory": self.memory,
            }
            self._process = _Process(self._root.parent, setup)
        try:
            self._process.check_started()
            answer, content = self._process.ask(request, list(arrays), self.seconds)
        except _Ended as ended:
            where = self._last_line(*self._process.last_line())
            self._end()
            raise Stopped(ended.reason, *where) from None
        try:
            if "memory" in answer:
                self._end()
                raise Stopped(_out_of_memory(self.memory), *_where(answer["memory"]))
            if "error" in answer:
                error = answer["error"]
                raise StudentError(str(error["type"]), str(error["message"]), *_where(error))
        except ODD:
            self._end()
            raise Stopped(NONSENSE) from None
        return answer, content

    def _last_line(self, file: str, line: int) -> tuple[str, int, str]:
        """A line of the student's, with its text, under the student's name of the file."""
        if file not in self._own:
            return "", 0, ""
        lines = self._own[file].decode("utf-8", "replace").splitlines()
        text = lines[line - 1].strip()[:200] if 0 < line <= len(lines) else ""
        return self._shown[file], line, text

    def _end(self) -> None:
        if self._process is not None:
            self._process.end()
        self._process = None
        self._imported.clear()


def _where(form: dict[str, Any]) -> tuple[str, int, str]:
    return str(form["file"]), int(form["line"]), str(form["text"])


def _out_of_memory(memory: float) -> str:
    return f"needed more than {memory:g} GB of memory"


def _returned(answer: dict[str, Any], content: bytearray) -> Returned:
    values = child.unpack(answer["values"], content)
    back = child.unpack(answer.get("arguments", {"tuple": []}), content)
    if not isinstance(values, tuple) or not isinstance(back, tuple):
        raise TypeError("values that are no tuple")
    shared = answer["shared"]
    return Returned(
        values,
        bool(answer["is_tuple"]),
        back,
        tuple([(int(i), int(j)) for i, j in shared["arguments"]]),
        tuple([(int(i), int(j)) for i, j in shared["results"]]),
        tuple(map(str, answer["warnings"])),
        str(answer["printed"]),
    )


# The files of a submission


def _find(path: str | Path) -> Path:
    """The file or folder at a path, or of a dotted module, which is not imported."""
    file = Path(path)
    if file.exists():
        return file
    *packages, name = str(path).split(".")
    if all(map(str.isidentifier, (*packages, name))):
        for folder in (".", *sys.path):
            for found in (Path(folder, *packages, name), Path(folder, *packages, f"{name}.py")):
                if found.exists():
                    return found
    raise DataError(
        "grade",
        path,
        "does not exist",
        expected="a file, a folder, or the name of a module that Python can find",
    )


def _read(path: Path, known: Names) -> tuple[dict[str, bytes], dict[str, str]]:
    """Python files by their path in the package, and these paths by that in the submission."""
    if path.is_file():
        content = _content(path)
        names = _names(content)
        module = max(known, key=lambda module: len(names & known[module]))
        file = _beside(content, FILES[module])
        return {file: content}, {file: path.name}
    root = _package(path)
    files, shown = {}, {}
    for found in _python_files(root):
        name = found.relative_to(root).as_posix()
        content = _content(found)
        file = name if "/" in name else _beside(content, name)
        files[file], shown[file] = content, found.relative_to(path).as_posix()
        if len(files) > MOST_FILES or sum(map(len, files.values())) > MOST_IN_ALL:
            raise DataError(
                "grade",
                path,
                f"has more than {MOST_FILES} Python files, or more than {MOST_IN_ALL:,} bytes of"
                " them",
                expected="a few",
                cause="is it the right folder?",
            )
    return files, shown


def _beside(content: bytes, file: str) -> str:
    """`file` where its relative imports lead into the package: of two dots, from classifiers/."""
    dots = [len(dots) for dots in re.findall(rb"^\s*from\s+(\.+)", content, re.MULTILINE)]
    name = file.rpartition("/")[2]
    if max(dots, default=0) > 1:
        return f"classifiers/{name}"
    return name if dots else file


def _package(path: Path) -> Path:
    """The folder of the course's package: the nearest of that name, or `path` itself."""
    for pattern in (child.PACKAGE, f"*/{child.PACKAGE}", f"*/*/{child.PACKAGE}"):
        if found := sorted(one for one in path.glob(pattern) if one.is_dir()):
            return found[0]
    return path


def _python_files(root: Path) -> Iterator[Path]:
    """The *.py files of a folder; links are followed to files inside it alone."""
    inside = root.resolve()
    for folder, folders, files in os.walk(root):
        folders[:] = sorted(one for one in folders if one[0] != "." and one not in SKIPPED)
        for name in sorted(files):
            file = Path(folder, name)
            plain = re.fullmatch(r"\w+\.py", name) and name != "__init__.py"
            if plain and file.is_file() and file.resolve().is_relative_to(inside):
                yield file


def _content(path: Path) -> bytes:
    with path.open("rb") as file:
        content = file.read(MOST_FILE + 1)
    if len(content) > MOST_FILE:
        raise DataError(
            "grade", path, f"has more than {MOST_FILE:,} bytes", expected="a file of Python"
        )
    return content


def _names(content: bytes) -> set[str]:
    """Names that a file defines at module level; of one that is no Python, those after def."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the student's escapes
            body = ast.parse(content).body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        found = re.findall(rb"^(?:def|class)\s+(\w+)", content, re.MULTILINE)
        return {name.decode("utf-8", "replace") for name in found}
    names: set[str] = set()
    for node in body:
        names |= _bound(node)
    return names


def _bound(node: ast.stmt) -> set[str]:
    """Names that a statement defines, also within if and try."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return {node.name}
    if isinstance(node, ast.Assign):
        return {target.id for target in node.targets if isinstance(target, ast.Name)}
    inner = [*getattr(node, "body", ()), *getattr(node, "orelse", ())]
    return {name for one in inner if isinstance(one, ast.stmt) for name in _bound(one)}


def _homes(files: dict[str, bytes], known: Names) -> dict[str, dict[str, str]]:
    """The file of each name of the course: the course's own file first, then any other."""
    names = {file: _names(content) for file, content in files.items()}
    homes = {}
    for module in GRADED:
        order = sorted(files, key=lambda file: (file != FILES[module], file))
        found = {
            name: next(file for file in order if name in names[file])
            for name in known[module]
            if any(name in defined for defined in names.values())
        }
        if found:
            homes[module] = found
    return homes


def _dotted(file: str) -> str:
    return f"{child.PACKAGE}.{file.removesuffix('.py').replace('/', '.')}"


def _folders(files: Collection[str]) -> set[str]:
    """Every folder of the package that has files in or below it."""
    return {
        parent.as_posix() for file in files for parent in PurePosixPath(file).parents if parent.name
    }


# The process


class _Ended(Exception):  # noqa: N818
    """The process ended, or broke a limit."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class _Process:
    """child.py, its pipes, and a thread that waits at them.

    The thread is what holds the limits on any system: whoever asks waits for it, and no longer than
    the limit. It ends when the process does.
    """

    def __init__(self, folder: Path, setup: dict[str, Any]) -> None:
        work = folder / "work"
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(exist_ok=True)
        self._memory: float = setup["memory"]
        self._faults = folder / "faults"
        self._package = f"{folder / 'root' / child.PACKAGE}{os.sep}"
        self._setup = {
            **setup,
            "work": str(work),
            "faults": str(self._faults),
            "probes": str(HERE / "probes.py"),
            "grader": str(HERE.parents[1]),
            "libraries": str(Path(np.__file__).parents[1]),
        }
        command = [
            *(sys.executable, "-I", "-B", "-X", "utf8"),
            child.__file__,
        ]
        environment = {name: os.environ[name] for name in ENVIRONMENT if name in os.environ}
        environment |= dict.fromkeys(("HOME", "TMPDIR", "TEMP", "TMP", "MPLCONFIGDIR"), str(work))
        environment |= dict.fromkeys(ONE_THREAD, "1")
        self._printed = (folder / "printed").open("ab+")
        self._printed.truncate(0)
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._printed,
            cwd=work,
            env=environment,
            start_new_session=True,
        )
        self._started = self._odd = False
        self._requests: queue.SimpleQueue[Message | None] = queue.SimpleQueue()
        self._answers: queue.SimpleQueue[Answer | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._exchange, daemon=True)
        self._thread.start()

    def check_started(self) -> None:
        """Wait until the process is ready for its first request."""
        if not self._started:
            self._requests.put((self._setup, []))
            self._wait(START, "did not start")
            self._started = True

    def ask(
        self, request: dict[str, Any], arrays: list[np.ndarray], seconds: float
    ) -> tuple[dict[str, Any], bytearray]:
        self._requests.put((request, arrays))
        limit = f"{seconds:g} second{'s' if seconds != 1 else ''}"
        return self._wait(seconds, f"did not end within {limit}")

    def _wait(self, seconds: float, late: str) -> tuple[dict[str, Any], bytearray]:
        end = time.monotonic() + seconds
        while True:
            left = end - time.monotonic()
            try:
                answer = self._answers.get(timeout=min(max(left, 0), SLICE))
            except queue.Empty:
                if os.fstat(self._printed.fileno()).st_size > child.MOST_OUTPUT:
                    raise _Ended(TOO_MUCH) from None
                if left <= 0:
                    self._dump()
                    raise _Ended(late) from None
                continue
            if answer is None:
                raise _Ended(self._cause())
            return answer

    def _exchange(self) -> None:
        """Write a request and read its answer, until an end."""
        requests, answers = self._process.stdin, self._process.stdout
        assert requests is not None
        assert answers is not None
        with contextlib.suppress(OSError), requests, answers:
            try:
                while message := self._requests.get():
                    child.send(requests, *message)
                    self._answers.put(child.receive(answers))
            except EOFError:
                pass
            except ODD:
                self._odd = True
        self._answers.put(None)

    def _cause(self) -> str:
        """The reason of an end that nobody asked for."""
        if self._odd:
            return NONSENSE
        try:
            status = self._process.wait(timeout=1)
        except subprocess.TimeoutExpired:
            return NONSENSE
        if status == child.OUT_OF_MEMORY:
            return _out_of_memory(self._memory)
        if status == -getattr(signal, "SIGXFSZ", 0):
            return TOO_MUCH
        if not self._started:
            self._printed.seek(0)
            last = self._printed.read().decode("utf-8", "replace").strip().splitlines()[-1:]
            return f"did not start: {''.join(last)[:300]}"
        if status >= 0:
            return f"ended its process (exit status {status})"
        names = {one.value: one.name for one in signal.Signals}
        return f"ended its process ({names.get(-status, f'signal {-status}')})"

    def _dump(self) -> None:
        """Have the process write the lines that it is at, where the system can."""
        if hasattr(signal, "SIGUSR1"):
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._process.pid, signal.SIGUSR1)
            end = time.monotonic() + 0.5
            while time.monotonic() < end and not self._faults.stat().st_size:
                time.sleep(0.01)

    def last_line(self) -> tuple[str, int]:
        """The student's file and line of the last dump, of the thread that calls functions."""
        with contextlib.suppress(OSError):
            with self._faults.open("rb") as file:
                text = file.read(2**20).decode("utf-8", "replace")
            for part in text.split("\n\n"):
                frames = re.findall(r'^  File "(.*)", line (\d+)', part, re.MULTILINE)
                if any(name == child.__file__ for name, _ in frames):
                    for name, line in frames:
                        if name.startswith(self._package):
                            own = name.removeprefix(self._package).replace(os.sep, "/")
                            return own, int(line)
        return "", 0

    def end(self) -> None:
        """Kill the process and those it started."""
        if hasattr(os, "killpg"):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)
        else:
            self._process.kill()
        self._process.wait()
        self._requests.put(None)
        self._thread.join(timeout=1)
        self._printed.close()
