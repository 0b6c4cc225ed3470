"""Screens HDF5 files from strangers in a separate process with limits before they are opened here: a call into HDF5 cannot be interrupted."""

import atexit
import contextlib
import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

from xpcap.errors import DataError

SCRIPT = Path(__file__).with_name("hdf5_check.py")
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS"), "1")  # so that it can fork
WALL_SECONDS, BYTES_A_SECOND = 30.0, 5e6  # the last resort, if the limit on CPU time does not end the other process

_known: set[tuple[Any, ...]] = set()  # files that this process wrote or has screened, and that have not changed since


def look_through(function: str, path: Path, most: int | None, expected: str) -> None:
    """Check that an HDF5 file is plain and can be read to its end, which most damaged or malicious files cannot.

    Parameters
    ----------
    function, expected : for messages: who asks, and for what
    most : features of more bytes are not read; None: read all

    Raises
    ------
    DataError : it links to another file, claims more than it stores, takes too long, or makes HDF5 fail.
    """
    try:
        now = (*_as_it_is(path), most)
    except OSError as error:
        raise DataError(f"{function}: {path} cannot be opened, expected {expected}; is the path right? ({error})") from error
    if now in _known:
        return
    if wrong := _helper.ask(path.resolve(), most):
        raise DataError(f"{function}: {path} {wrong}, expected {expected}; truncated, damaged or of another kind?")
    _known.add(now)


def trust(path: Path, most: int | None) -> None:
    """Note that this process wrote the file, so that `look_through` accepts it as long as it is unchanged."""
    _known.add((*_as_it_is(path), most))


def _as_it_is(path: Path) -> tuple[Any, ...]:
    about = path.stat()
    return str(path.resolve()), about.st_dev, about.st_ino, about.st_size, about.st_mtime_ns, about.st_ctime_ns


class Helper:
    """The screening process: started on first use, ended with this one."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.process: subprocess.Popen[str] | None = None

    def ask(self, path: Path, most: int | None) -> str:
        """What is wrong with a file; empty if nothing is."""
        seconds = WALL_SECONDS + path.stat().st_size / BYTES_A_SECOND
        with self.lock:
            try:
                answer = self._within(seconds, self._started(), json.dumps({"path": str(path), "most": most}))
            except BaseException:  # a late answer would be taken for that to the next question
                self.end()
                raise
            if not answer:
                self.end()
                return "could not be looked through: it takes too long, or makes the HDF5 library fail"
        return str(json.loads(answer))

    def end(self) -> None:
        """End the process, if it runs."""
        if self.process is not None:
            process, self.process = self.process, None
            process.kill()
            process.wait()
            _close(process)

    def forget(self) -> None:
        """After a fork: leave the process to the parent."""
        self.lock = threading.Lock()
        if self.process is not None:
            process, self.process = self.process, None
            process.returncode = 0  # else Popen warns that it still runs
            _close(process)

    def _started(self) -> subprocess.Popen[str]:
        if self.process is None or self.process.poll() is not None:
            self.end()
            command = [sys.executable, "-P", str(SCRIPT)]
            self.process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, encoding="utf-8",
                env={**os.environ, **ONE_THREAD}, start_new_session=True,  # Ctrl-C is for this process alone
            )  # fmt: skip
            if self._exchange(self.process, "") != "ready\n":
                self.end()
                raise OSError(f"look_through: {sys.executable} does not run {SCRIPT}, expected it to with h5py; is the installation whole?")
        return self.process

    def _within(self, seconds: float, process: subprocess.Popen[str], question: str) -> str:
        timer = threading.Timer(seconds, process.kill)
        timer.start()
        try:
            return self._exchange(process, question)
        finally:
            timer.cancel()
            timer.join()

    @staticmethod
    def _exchange(process: subprocess.Popen[str], question: str) -> str:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            if question:
                process.stdin.write(question + "\n")
                process.stdin.flush()
            return process.stdout.readline()
        except BrokenPipeError:
            return ""


def _close(process: subprocess.Popen[str]) -> None:
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with contextlib.suppress(OSError):  # unsent data for a process that has ended
                pipe.close()


_helper = Helper()
atexit.register(_helper.end)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_helper.forget)
