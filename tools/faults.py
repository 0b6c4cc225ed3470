"""Let each step of each write of training fail, one at a time: the previous save must open, and
training must continue from it to the same bytes.

python tools/faults.py
"""

import errno
import itertools
import re
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

sys.path.append(str(Path(__file__).parents[1] / "tests" / "helpers"))

import commands
import kill
import pytest

from xpcap.files import read_write
from xpcap.models import ModelConfig
from xpcap.runs.folder import BEST, LAST, RERANKING, load_state
from xpcap.runs.run import open_run

OPTIONS = "--hidden 8 --wordvec 4 --epochs 2 --save-every 6 --dropout 0.2".split()
OPTIONS += "--inject init --lr-decay 0.5".split()  # with which a run can get more epochs
STAGED = [*OPTIONS, *"--score-epochs 1 --samples 2".split()]
RERANKED = [*STAGED, "--neighbours"]  # takes many times as long, and writes one more file
STEPS = {
    "create": errno.ENOSPC,
    "write": errno.ENOSPC,
    "flush": errno.EIO,
    "rename": errno.EIO,  # only for files that replace others
    "place": errno.EIO,  # only for new files
    "flush_folder": errno.EIO,
}
ERRORS = (errno.ENOSPC, errno.EIO, errno.EACCES, errno.EFBIG)


def _shapes() -> dict[str, tuple[int, ...]]:
    data = commands.few(0)
    return ModelConfig(len(data.vocabulary), (data.feature_dim,), 4, 8).shapes()


class Fault(NamedTuple):
    """The `nth` time that `step` runs for the file `name`, it fails with this error number."""

    name: str
    step: str
    nth: int
    error: int


class FullFile:
    """A file that writes half of the content, and then fails."""

    def __init__(self, file: BinaryIO, error: int) -> None:
        self._file, self._error = file, error

    def __enter__(self) -> "FullFile":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def write(self, content: Any) -> int:
        self._file.write(memoryview(content).cast("B")[: len(content) // 2])
        self._file.flush()
        raise OSError(self._error, errno.errorcode[self._error])

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


@contextmanager
def failing_at(fault: Fault | None) -> Iterator[list[tuple[str, str]]]:
    """Record every step of a write as (name, step), and let the step of `fault` fail."""
    done: list[tuple[str, str]] = []

    def fails(step: str, path: Path) -> bool:
        name = path.name
        # A new file has a temporary name inside another
        while match := re.fullmatch(r"\.(.+)\.[0-9a-f]{8}\.part", name):
            name = match[1]
        done.append((name, step))
        return fault is not None and (name, step, done.count((name, step))) == fault[:3]

    def instead(step: str, original: Any) -> Any:
        def run(first: Any, *rest: Any) -> Any:
            path = {
                "flush": lambda: first.name,
                "rename": lambda: first,
                "place": lambda: first,
                "flush_folder": lambda: done[-1][0],
            }[step]()
            if fails(step, Path(path)):
                raise OSError(fault.error, errno.errorcode[fault.error])  # type: ignore[union-attr]
            return original(first, *rest)

        return run

    def create(path: Path, original: Any = read_write._create) -> Any:
        if fails("create", path):
            raise OSError(fault.error, errno.errorcode[fault.error])  # type: ignore[union-attr]
        file = original(path)
        return FullFile(file, fault.error) if fault is not None and fails("write", path) else file

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(read_write, "_create", create)
        for step in ("flush", "rename", "place", "flush_folder"):
            patch.setattr(read_write, f"_{step}", instead(step, getattr(read_write, f"_{step}")))
        yield done


def points(folder: Path, options: list[str]) -> tuple[list[Fault], dict[str, bytes]]:
    """A fault for every step of every write of training, and the files that it writes.

    For RERANKED only the steps of RERANKING.
    """
    with failing_at(None) as done:
        commands.good("train", "--out", folder / "unbroken" / "run", *options)
    counts: dict[tuple[str, str], int] = {}
    faults = []
    for name, step in done:
        counts[name, step] = counts.get((name, step), 0) + 1
        faults += [
            Fault(name, kind, counts[name, step], STEPS[kind])
            for kind in (("create", "write") if step == "create" else (step,))
        ]
    if options == RERANKED:
        faults = [fault for fault in faults if fault.name == RERANKING]
    return faults, kill.files(folder / "unbroken" / "run")


def check(fault: Fault, expected: dict[str, bytes], folder: Path, options: list[str]) -> str:
    """Train with the fault, then resume without it; returns the first output.

    A fault of the page does not end training; any other fault does. AssertionError : otherwise, or
    the files differ from the expected ones.
    """
    out = folder / "broken" / "run"
    with failing_at(fault):
        result = commands.call("train", "--out", out, *options)
    if result.exit_code == 0:
        assert fault.name == "index.html", fault
        assert kill.files(out) == expected, fault
        return result.output
    assert result.exit_code == 1, f"{fault}: {result.output}"
    assert isinstance(result.exception, SystemExit), f"{fault}: {result.exception!r}"
    assert list(out.rglob(".*.part")) == [], fault
    if out.exists():
        load_state(out / LAST, _shapes())
        if (out / BEST).exists():
            open_run(out)
    commands.good("train", "--out", out, *options, "--resume")
    assert kill.files(out) == expected, fault
    return result.output


def chosen(faults: list[Fault]) -> list[Fault]:
    """The faults for the test suite: the second time of each step of each file, or the only one."""
    return [
        fault
        for fault in faults
        if fault.nth == max(min(f.nth, 2) for f in faults if f[:2] == fault[:2])
    ]


def main() -> None:
    began = time.monotonic()
    steps = 0
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        commands.use_few_pictures(patch)
        for options in (STAGED, RERANKED):
            faults, expected = points(Path(folder, str(len(options))), options)
            for fault, error in zip(faults, itertools.cycle(ERRORS), strict=False):
                with tempfile.TemporaryDirectory() as temporary:
                    check(fault._replace(error=error), expected, Path(temporary), options)
            steps += len(faults)
            print(f"{steps} faults", flush=True)
    print(
        f"{steps} steps of writes failed once, with {len(ERRORS)} errors in turn, in"
        f" {time.monotonic() - began:.0f} s: training continued from each previous save"
    )


if __name__ == "__main__":
    main()
