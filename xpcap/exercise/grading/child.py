"""The process that runs a submission: it answers requests over pipes, with arrays as raw bytes.

A script, started by submission.py, which also uses its `pack` and `unpack`. It imports NumPy and
the standard library alone, and refuses what no submission needs: files elsewhere, other processes,
the network, xpcap itself.
"""

import contextlib
import faulthandler
import importlib
import importlib.abc
import importlib.util
import io
import itertools
import json
import linecache
import math
import os
import signal
import struct
import sys
import traceback
import types
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NoReturn

import numpy as np

PACKAGE = "cs231n"
KINDS = "biufcSU"  # of dtypes that travel
MOST_BYTES = 2**28  # of the arrays of one message
MOST_VALUES, MOST_DEPTH, MOST_TEXT = 100_000, 30, 10_000  # members, nesting, characters
MOST_NAME = 100  # characters of a type's name
MOST_PRINTED = 2_000  # characters that come back of what a call printed
MOST_OUTPUT = 10 * 2**20  # bytes that the process may print in a call, or write to a file
MOST_WARNINGS = 20
GB = 10**9
ALIGNED = 16  # bytes
OUT_OF_MEMORY = 77  # exit status where not even the answer fits
LATER = 5.0  # seconds after which the process ends itself if the grader did not
HEAD = struct.Struct("<QQ")


@dataclass(frozen=True)
class Handle:
    """A value that stays in the process of the submission, such as a cache."""

    number: int


@dataclass(frozen=True)
class Opaque:
    """A value that does not travel, such as a matrix or an object of the student's."""

    type: str


# Values as a JSON header and raw bytes


def pack(value: Any, arrays: list[np.ndarray]) -> Any:
    """The JSON form of a value; its arrays are appended to `arrays`."""
    return _Packer(arrays).pack(value, 0)


class _Packer:
    def __init__(self, arrays: list[np.ndarray]) -> None:
        self.arrays = arrays
        self.offset = sum(_padded(array.nbytes) for array in arrays)
        self.values = 0

    def pack(self, value: Any, depth: int) -> Any:
        kind = type(value)
        if value is None or kind is bool or kind is float:
            return value
        if kind is np.ndarray or isinstance(value, np.generic):
            return self._array(value)
        if kind is int:
            return value if abs(value) < 2**63 else _opaque(value)
        self.values += 1
        if kind is str:
            return value[:MOST_TEXT]
        if kind is Handle:
            return {"handle": value.number}
        if kind is Opaque:
            return {"opaque": value.type}
        if depth > MOST_DEPTH or not isinstance(value, tuple | list | dict):
            return _opaque(value)
        self.values += len(value)
        if self.values > MOST_VALUES:
            return {"opaque": f"{kind.__name__[:MOST_NAME]} of too many members"}
        if isinstance(value, dict):
            return {
                "dict": [
                    [self.pack(key, depth + 1), self.pack(one, depth + 1)]
                    for key, one in value.items()
                ]
            }
        members = [self.pack(one, depth + 1) for one in value]
        return members if isinstance(value, list) else {"tuple": members}

    def _array(self, value: Any) -> Any:
        array = np.asarray(value)
        if array.dtype.kind not in KINDS:
            return {"opaque": f"array of {array.dtype}"}
        if self.offset + array.nbytes > MOST_BYTES:
            return {"opaque": f"array of shape {array.shape}"}
        offset = self.offset
        self.offset += _padded(array.nbytes)
        self.arrays.append(array)
        form = [array.dtype.str, list(array.shape), offset]
        return {"array" if type(value) is np.ndarray else "scalar": form}


def _opaque(value: Any) -> dict[str, str]:
    return {"opaque": type(value).__name__[:MOST_NAME]}


def _padded(size: int) -> int:
    return -(-size // ALIGNED) * ALIGNED


def unpack(form: Any, content: bytearray) -> Any:
    """The value of a JSON form; arrays are views of `content`.

    Raises
    ------
    ValueError, TypeError, KeyError, RecursionError : no form that `pack` makes.
    """
    if isinstance(form, list):
        return [unpack(one, content) for one in form]
    if not isinstance(form, dict):
        return form
    ((kind, inner),) = form.items()
    if kind in ("array", "scalar"):
        name, shape, offset = inner
        dtype = np.dtype(str(name))
        if dtype.kind not in KINDS or min(shape, default=0) < 0:
            raise ValueError(f"array of {dtype} and shape {shape}")
        count = math.prod(shape)
        flat = np.frombuffer(content, dtype, count, offset) if count * dtype.itemsize else ()
        array = np.asarray(flat, dtype).reshape(shape)
        return array if kind == "array" else array[()]
    if kind == "tuple":
        return tuple([unpack(one, content) for one in inner])
    if kind == "dict":
        return {unpack(key, content): unpack(one, content) for key, one in inner}
    if kind == "handle":
        return Handle(int(inner))
    if kind == "opaque":
        return Opaque(str(inner))
    raise ValueError(f"no form: {kind}")


def send(file: IO[bytes], header: Mapping[str, Any], arrays: Sequence[np.ndarray] = ()) -> None:
    """Write a message: two lengths, the header as JSON, the arrays' bytes."""
    text = json.dumps(header).encode("ascii")
    pieces = [HEAD.pack(len(text), sum(_padded(array.nbytes) for array in arrays)), text]
    for array in arrays:
        pieces += [array.tobytes(), bytes(-array.nbytes % ALIGNED)]
    file.write(b"".join(pieces))
    file.flush()


def receive(file: IO[bytes]) -> tuple[dict[str, Any], bytearray]:
    """Read a message; EOFError where the other side has ended, ValueError if it is nonsense."""
    text_size, size = HEAD.unpack(_exactly(file, HEAD.size))
    if max(text_size, size) > MOST_BYTES + MOST_BYTES // 8:
        raise ValueError(f"a message of {text_size + size:,} bytes")
    header = json.loads(_exactly(file, text_size))
    if not isinstance(header, dict):
        raise ValueError("a message without a header")
    return header, _exactly(file, size)


def _exactly(file: IO[bytes], size: int) -> bytearray:
    content = bytearray(size)
    view, done = memoryview(content), 0
    while done < size:
        count = file.readinto(view[done:])  # type: ignore[attr-defined]
        if not count:
            raise EOFError
        done += count
    return content


# Limits, and what is refused


def limit(memory: float) -> None:
    """Limit memory (on Linux) and the size of files, and write no core, where the system can."""
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        # its signal ends the process, where an error could be caught
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        _lower(resource.RLIMIT_FSIZE, MOST_OUTPUT)
        if present := _present():
            _lower(resource.RLIMIT_AS, present + int(memory * GB))


def _lower(which: int, most: int) -> None:
    import resource

    hard = resource.getrlimit(which)[1]
    most = most if hard == resource.RLIM_INFINITY else min(most, hard)
    resource.setrlimit(which, (most, most))


def _present() -> int:
    """Bytes of address space that the process has by now; 0 where that is not known."""
    try:
        pages = Path("/proc/self/statm").read_text(encoding="ascii").split()[0]
    except OSError:
        return 0
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


class NoXpcap(importlib.abc.MetaPathFinder):
    """Refuses to import xpcap."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
        if name.partition(".")[0] == "xpcap":
            raise ImportError(
                f"{name} is what this code is graded against; a submission cannot import it",
                name=name,
            )


WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
# audit event: its arguments that are paths of what changes
CHANGES = {
    "os.mkdir": (0,),
    "os.rmdir": (0,),
    "os.remove": (0,),
    "os.rename": (0, 1),
    "os.link": (0, 1),
    "os.symlink": (1,),
    "os.truncate": (0,),
    "os.chmod": (0,),
    "os.chown": (0,),
    "os.utime": (0,),
    "os.setxattr": (0,),
    "shutil.rmtree": (0,),
}
PROCESSES = (
    "subprocess.Popen",
    "os.system",
    "os.exec",
    "os.fork",
    "os.forkpty",
    "os.posix_spawn",
    "os.spawn",
    "os.startfile",
    "os.kill",
    "os.killpg",
    "pty.spawn",
    "signal.pthread_kill",
)
NETWORK = ("socket.bind", "socket.connect", "socket.getaddrinfo", "socket.sendto")


class AuditHook:
    """An audit hook: an error for what leads out of a submission's own empty folder.

    It answers Python code that does so by mistake or by habit. It is no sandbox.
    """

    def __init__(self, own: str, grader: str) -> None:
        self._own = os.path.realpath(own) + os.sep
        self._grader = os.path.realpath(grader) + os.sep

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, _, flags = arguments
            if isinstance(path, int):
                return
            if flags & WRITING:
                self._check_change(path)
            elif os.path.realpath(os.fsdecode(path)).startswith(self._grader):
                raise PermissionError("a submission cannot read the files of its grader")
        elif event in CHANGES:
            for i in CHANGES[event]:
                if not isinstance(arguments[i], int):
                    self._check_change(arguments[i])
        elif event in PROCESSES:
            raise PermissionError("a submission cannot start or end processes")
        elif event in NETWORK:
            raise PermissionError("a submission cannot use the network")

    def _check_change(self, path: Any) -> None:
        name = os.fsdecode(path)
        if name == os.devnull:
            return
        whole = os.path.realpath(name) + os.sep
        depth = whole.count(os.sep) - self._own.count(os.sep)  # too deep a folder defies removal
        if not whole.startswith(self._own) or depth > MOST_DEPTH:
            raise PermissionError(
                "a submission cannot change files outside the empty folder that it runs in"
            )


# Requests


def load(name: str) -> types.ModuleType:
    """Import a module of the submission. No other line of the package runs what a file says."""
    return importlib.import_module(name)


class Modules:
    """The student's modules as a probe gets them: `rnn_layers`, `rnn`, ...; imported when used."""

    def __init__(self, paths: Mapping[str, str]) -> None:
        self._paths = paths

    def __getattr__(self, name: str) -> types.ModuleType:
        return load(self._paths[name])


class Server:
    """Answers requests with the submission's functions."""

    def __init__(self, setup: Mapping[str, Any], probes: types.ModuleType) -> None:
        self._package = os.path.join(os.path.realpath(setup["root"]), PACKAGE, "")  # noqa: PTH118
        self._files: Mapping[str, str] = setup["files"]  # the student's: path here, and there
        self._student = Modules(setup["modules"])
        self._probes = probes
        self._called: Any = None  # the student's function that runs
        self._handles: dict[int, Any] = {}
        self._numbers = itertools.count(setup["first"])
        self._warnings: list[str] = []
        warnings.showwarning = self._note  # type: ignore[assignment]

    def answer(
        self, request: dict[str, Any], content: bytearray
    ) -> tuple[dict[str, Any], list[np.ndarray]]:
        """The answer to a request, with its arrays."""
        self._warnings.clear()
        self._called = None
        arrays: list[np.ndarray] = []
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("always")
                answer = self._act(request, content, arrays)
        except MemoryError as error:
            answer, arrays = {"memory": self._where(error)}, []
        except BaseException as error:  # also SystemExit and the like
            answer, arrays = {"error": self._described(error)}, []
        answer["warnings"] = list(self._warnings)
        answer["printed"] = _printed()
        return answer, arrays

    def _act(
        self, request: dict[str, Any], content: bytearray, arrays: list[np.ndarray]
    ) -> dict[str, Any]:
        act = request["act"]
        if act == "import":
            load(request["module"])
            return {}
        if act == "forget":
            self._handles.clear()
            return {}
        given = [self._resolved(one) for one in unpack(request["arguments"], content)]
        name = request["name"]
        if act == "probe":
            result = getattr(self._probes, name)(self._student, *given)
        else:
            self._called = getattr(load(request["module"]), name)
            result = self._called(*given)
        values = result if isinstance(result, tuple) else (result,)
        shared = _shared(values, given)
        if request["keep"] and isinstance(result, tuple) and values:
            handle = Handle(next(self._numbers))
            self._handles[handle.number] = values[-1]
            values = (*values[:-1], handle)
        answer = {
            "values": pack(tuple(values), arrays),
            "is_tuple": isinstance(result, tuple),
            "shared": shared,
        }
        if request["back"]:
            answer["arguments"] = pack(
                tuple([one if type(one) is np.ndarray else None for one in given]), arrays
            )
        return answer

    def _resolved(self, value: Any) -> Any:
        """An argument, with the values of handles in their place."""
        if isinstance(value, Handle):
            return self._handles[value.number]
        if isinstance(value, list | tuple):
            return type(value)(self._resolved(one) for one in value)
        if isinstance(value, dict):
            return {key: self._resolved(one) for key, one in value.items()}
        return value

    # Lines of the student's files

    def _own(self, file: str) -> str:
        """The student's name of a file; "" for any other file."""
        inside = os.path.realpath(file).removeprefix(self._package)
        return self._files.get(inside.replace(os.sep, "/"), "")

    def _where(self, error: BaseException) -> dict[str, Any]:
        """The student's last line that led to an error; of a wrong call, the function's first."""
        code = getattr(self._called, "__code__", None)
        lines = [(code.co_filename, code.co_firstlineno)] if code else []
        lines += [
            (frame.f_code.co_filename, line)
            for frame, line in traceback.walk_tb(error.__traceback__)
        ]
        if isinstance(error, SyntaxError):
            lines.append((error.filename or "", error.lineno or 0))
        for file, line in reversed(lines):
            if own := self._own(file):
                text = linecache.getline(file, line).strip()
                return {"file": own, "line": int(line), "text": text[:200]}
        return {"file": "", "line": 0, "text": ""}

    def _described(self, error: BaseException) -> dict[str, Any]:
        try:
            message = error.msg if isinstance(error, SyntaxError) else str(error)
        except BaseException:  # of the student's own error class
            message = "an error that cannot be printed"
        where = self._where(error)
        return {"type": type(error).__name__[:MOST_NAME], "message": str(message)[:500], **where}

    def _note(
        self, message: Any, category: type, file: str, line: int, *_: object, **__: object
    ) -> None:
        if len(self._warnings) < MOST_WARNINGS:
            own = self._own(file)
            at = f" ({own}, line {line})" if own else ""
            text = f"{category.__name__[:MOST_NAME]}: {str(message)[:300]}{at}"
            if text not in self._warnings:
                self._warnings.append(text)


def _shared(values: Sequence[Any], given: Sequence[Any]) -> dict[str, list[tuple[int, int]]]:
    """Pairs of results with arguments, and of results, that share memory."""

    def pairs(one: Iterator[tuple[tuple[int, Any], tuple[int, Any]]]) -> list[tuple[int, int]]:
        return [(i, j) for (i, a), (j, b) in one if _share(a, b)]

    results = [(i, one) for i, one in enumerate(values) if type(one) is np.ndarray]
    arguments = [(j, one) for j, one in enumerate(given) if type(one) is np.ndarray]
    return {
        "arguments": pairs(itertools.product(results, arguments)),
        "results": pairs(itertools.combinations(results, 2)),
    }


def _share(a: np.ndarray, b: np.ndarray) -> bool:
    if not np.may_share_memory(a, b):
        return False
    try:
        return np.shares_memory(a, b, max_work=1000)  # type: ignore[arg-type]
    except np.exceptions.TooHardError:
        return True


def _printed() -> str:
    """The beginning of what was printed since the last call; the file is emptied."""
    for stream in (sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__):
        with contextlib.suppress(Exception):  # the student's own stream may raise anything
            stream.flush()  # type: ignore[union-attr]
    if not os.fstat(2).st_size:
        return ""
    os.lseek(2, 0, os.SEEK_SET)
    text = os.read(2, 4 * MOST_PRINTED).decode("utf-8", "replace")
    os.ftruncate(2, 0)
    return text[:MOST_PRINTED]


def serve(server: Server, requests: IO[bytes], answers: IO[bytes], seconds: float) -> NoReturn:
    """Answer requests until the grader closes its pipe."""
    timer = getattr(signal, "setitimer", None)
    while True:
        try:
            request, content = receive(requests)
        except EOFError:
            os._exit(0)
        if timer:  # for a grader that was killed and cannot end this process
            timer(signal.ITIMER_REAL, seconds + LATER)
        try:
            answer, arrays = server.answer(request, content)
            send(answers, answer, arrays)
        except MemoryError:
            os._exit(OUT_OF_MEMORY)
        if timer:
            timer(signal.ITIMER_REAL, 0)


def main() -> None:
    """Take the pipes from stdin and stdout, answer a first message when ready, then serve."""
    requests, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    setup, _ = receive(requests)
    nowhere = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nowhere, 0)
    os.dup2(2, 1)  # what is printed goes to a file, as stderr does
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    faults = open(setup["faults"], "wb")  # noqa: PTH123, SIM115 - open until the end
    faulthandler.enable(faults)
    if hasattr(faulthandler, "register"):
        faulthandler.register(signal.SIGUSR1, faults)
    spec = importlib.util.spec_from_file_location("probes", setup["probes"])
    assert spec is not None
    assert spec.loader is not None
    probes = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(probes)

    sys.path.insert(0, setup["root"])
    # NumPy's folder, which may have been on the path by PYTHONPATH alone; then those of the
    # submission, for files that import each other without a package
    sys.path += [setup["libraries"], *setup["folders"]]
    sys.meta_path.insert(0, NoXpcap())
    sys.argv = [""]
    server = Server(setup, probes)
    limit(setup["memory"])
    sys.addaudithook(AuditHook(setup["work"], setup["grader"]))
    send(answers, {"ready": True})
    serve(server, requests, answers, setup["seconds"])


if __name__ == "__main__":
    main()
