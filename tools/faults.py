"""Lets the steps of every write of a training fail, one after the other: what was saved before must
open, and go on to the same bytes.

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

from xpcap import files
from xpcap.models import ModelConfig
from xpcap.runs.folder import BEST, LAST, RERANKING, load_state
from xpcap.runs.run import open_run

OPTIONS = "--hidden 8 --wordvec 4 --epochs 2 --save-every 6 --dropout 0.2".split()
OPTIONS += "--inject init --lr-decay 0.5".split()  # so that more epochs can follow
STAGED = [*OPTIONS, *"--score-epochs 1 --samples 2".split()]
RANKED = [*STAGED, "--neighbours"]  # it takes many times as long, for one file more
STEPS = {
    "create": errno.ENOSPC,
    "write": errno.ENOSPC,
    "flush": errno.EIO,
    "rename": errno.EIO,  # of files that replace others
    "place": errno.EIO,  # of new files alone
    "flush_folder": errno.EIO,
}
ERRORS = (errno.ENOSPC, errno.EIO, errno.EACCES, errno.EFBIG)


def _shapes() -> dict[str, tuple[int, ...]]:
    data = commands.few(0)
    return ModelConfig(len(data.vocabulary), (data.feature_dim,), 4, 8).shapes()


class Fault(NamedTuple):
    """The `nth` time that `step` is done for the file called `name`, it fails with this error
    number.
    """

    name: str
    step: str
    nth: int
    error: int


class ShortOfRoom:
    """A file that takes a part of what it is given, and then fails."""

    def __init__(self, file: BinaryIO, error: int) -> None:
        self._file, self._error = file, error

    def __enter__(self) -> "ShortOfRoom":
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
    """Every step of a write is noted as (name, step) meanwhile, and the one of `fault` fails."""
    done: list[tuple[str, str]] = []

    def fails(step: str, path: Path) -> bool:
        name = path.name
        while part := re.fullmatch(
            r"\.(.+)\.[0-9a-f]{8}\.part", name
        ):  # a new file's is in another
            name = part[1]
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

    def create(path: Path, original: Any = files._create) -> Any:
        if fails("create", path):
            raise OSError(fault.error, errno.errorcode[fault.error])  # type: ignore[union-attr]
        file = original(path)
        return (
            ShortOfRoom(file, fault.error) if fault is not None and fails("write", path) else file
        )

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "_create", create)
        for step in ("flush", "rename", "place", "flush_folder"):
            patch.setattr(files, f"_{step}", instead(step, getattr(files, f"_{step}")))
        yield done


def points(folder: Path, options: list[str]) -> tuple[list[Fault], dict[str, bytes]]:
    """Every step of every write of one training, and the files that it leaves.

    Of RANKED only the steps of RERANKING.
    """
    with failing_at(None) as done:
        commands.good("train", "--out", folder / "whole" / "run", *options)
    seen: dict[tuple[str, str], int] = {}
    found = []
    for name, step in done:
        seen[name, step] = seen.get((name, step), 0) + 1
        found += [
            Fault(name, named, seen[name, step], STEPS[named])
            for named in (("create", "write") if step == "create" else (step,))
        ]
    if options == RANKED:
        found = [fault for fault in found if fault.name == RERANKING]
    return found, kill.files(folder / "whole" / "run")


def check(fault: Fault, whole: dict[str, bytes], folder: Path, options: list[str]) -> str:
    """Train with the fault, then without; the output of the first. AssertionError : it was not
    what is promised.

    Training goes on without its page; any other fault ends it.
    """
    out = folder / "broken" / "run"
    with failing_at(fault):
        result = commands.call("train", "--out", out, *options)
    if result.exit_code == 0:
        assert fault.name == "index.html", fault
        assert kill.files(out) == whole, fault
        return result.output
    assert result.exit_code == 1, f"{fault}: {result.output}"
    assert isinstance(result.exception, SystemExit), f"{fault}: {result.exception!r}"
    assert list(out.rglob(".*.part")) == [], fault
    if out.exists():
        load_state(out / LAST, _shapes())
        if (out / BEST).exists():
            open_run(out)
    commands.good("train", "--out", out, *options, "--resume")
    assert kill.files(out) == whole, fault
    return result.output


def chosen(found: list[Fault]) -> list[Fault]:
    """For the suite: each step of each file once, the second time it is done where there is one."""
    return [
        fault
        for fault in found
        if fault.nth == max(min(f.nth, 2) for f in found if f[:2] == fault[:2])
    ]


def main() -> None:
    began = time.monotonic()
    steps = 0
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        commands.use_few_pictures(patch)
        for options in (STAGED, RANKED):
            found, whole = points(Path(folder, str(len(options))), options)
            for fault, error in zip(found, itertools.cycle(ERRORS), strict=False):
                with tempfile.TemporaryDirectory() as place:
                    check(fault._replace(error=error), whole, Path(place), options)
            steps += len(found)
            print(f"{steps} faults", flush=True)
    print(
        f"{steps} steps of writes failed once, with {len(ERRORS)} errors in turn, in"
        f" {time.monotonic() - began:.0f} s: what was saved before went on"
    )


if __name__ == "__main__":
    main()
