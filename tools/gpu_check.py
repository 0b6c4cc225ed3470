"""Checks a machine with a CUDA card, and leaves one page about it for a report: python
tools/gpu_check.py [PAGE]; `make gpu-check` does it too.

Every part runs, whatever became of those before, each in processes of its own with this Python's
packages, and within a time limit. What the machine lacks is left out, with the reason. Nothing is
installed, and nothing is changed on the machine but the page, which is written anew after each
part.
"""

import argparse
import datetime
import functools
import importlib.util
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parents[1]
LIMIT = 1200.0  # seconds that a command may take: a card that hangs does not keep its page back
SETTINGS = ("CUPY_", "CUBLAS_", "CUDA_", "NVIDIA_", "TORCH_", "XPCAP_", "OMP_", "OPENBLAS_")
NO_PYTEST = (
    "pytest is missing; pip install '.[cuda12,dev]' installs it, or '.[cuda13,dev]' where the"
    " machine's CUDA is 13"
)
PYTHON = sys.executable
DESCRIBE = (
    "import json; from benchmarks.measure import machine_in_process;"
    " print(json.dumps(machine_in_process('cupy')))"
)
COUNT = "import xpcap; print(len(xpcap.backend_status()['cupy'].devices))"
# Without CuPy's pool each array has memory of its own, whose bounds the sanitizer knows
WITHOUT_POOL = (
    "import cupy, pytest, sys; cupy.cuda.set_allocator(None); sys.exit(pytest.main(sys.argv[1:]))"
)
CONFIGS = ("notebook", "coco-n64", "coco", "large")  # of the benchmarks: 25 to 512 captions
CAPTIONS = (25, 64, 128)
WIDEST = 200  # characters of a result in the table
FUSED = (0, 32, 64, 128, 256)


class LeftOutError(Exception):
    """The machine lacks what a part needs; the message says what."""


class Found(NamedTuple):
    """What a part found: its exit status, one line, and Markdown. Without a status: left out."""

    status: int | None
    line: str
    text: str

    @property
    def state(self) -> str:
        return {None: "left out", 0: "ok"}.get(self.status, "FAILED")


class Part(NamedTuple):
    """A part of the check, a heading for it, and what its result decides."""

    title: str
    run: Callable[[], Found]
    decides: str = ""


class Done(NamedTuple):
    """A command that has ended: its exit status and all that it printed."""

    status: int
    output: str

    @property
    def last(self) -> str:
        """The last line that it printed."""
        return next(
            (line.strip() for line in reversed(self.output.splitlines()) if line.strip()),
            "no output",
        )


def run(*words: str, limit: float = LIMIT, **settings: str) -> Done:
    """Run a command in the project's folder, with variables of the environment, and show what it
    prints as it comes.
    """
    lines = []
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH")))),
        "PYTHONUNBUFFERED": "1",
        **settings,
    }
    with subprocess.Popen(
        words,
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    ) as child:
        timer = threading.Timer(limit, _kill, [child])
        timer.start()
        try:
            assert child.stdout is not None
            for line in child.stdout:
                print(line, end="", flush=True)
                lines.append(line)
        except BaseException:
            _kill(child)
            raise
        finally:
            timer.cancel()
    if child.returncode == -signal.SIGKILL:
        lines.append(f"killed; the limit is {limit:g} s\n")
    return Done(
        child.returncode if child.returncode >= 0 else 128 - child.returncode, clean("".join(lines))
    )


def _kill(child: subprocess.Popen[str]) -> None:
    """Kill a command and what it started, which would hold its output open."""
    if hasattr(os, "killpg"):
        os.killpg(child.pid, signal.SIGKILL)
    else:
        child.kill()


def program(name: str) -> str:
    """A program's path, from this Python's environment or PATH. LeftOutError : it is not here."""
    beside = Path(sys.executable).with_name(name)
    path = str(beside) if beside.exists() else shutil.which(name)
    if path is None:
        raise LeftOutError(f"{name} is not installed")
    return path


def clean(text: str) -> str:
    """The text without the places of this machine's folders."""
    for folder, name in ((ROOT, "."), (Path.home(), "~")):
        if folder != Path(folder.anchor):
            text = text.replace(str(folder), name)
    return text


def fence(output: str) -> str:
    """What a command printed, as it stands."""
    return f"```\n{output.strip()}\n```" if output.strip() else ""


# The parts


def machine() -> Found:
    done = run(PYTHON, "-c", DESCRIBE)
    about = {"python": platform.python_version(), "system": platform.platform()}
    if done.status == 0:
        about = json.loads(done.last) | {"system": platform.platform()}
    about |= {
        name: value for name, value in sorted(os.environ.items()) if name.startswith(SETTINGS)
    }
    rows = [
        f"| {key.replace('_', ' ') if key.islower() else key} | {clean(value)} |"
        for key, value in about.items()
    ]
    texts = ["\n".join(["| | |", "|---|---|", *rows])]
    if done.status:
        texts.append(fence(done.last))
    texts.append(command(PYTHON, "cli.py", "info").text)
    try:
        texts.append(command(program("nvidia-smi")).text)
    except LeftOutError as reason:
        texts.append(f"{reason}.")
    return Found(done.status, about.get("card", done.last), "\n\n".join(texts))


def gpu_tests(*words: str) -> Found:
    """The tests marked gpu; none passed is a failure too."""
    if importlib.util.find_spec("pytest") is None:
        return Found(1, NO_PYTEST, "")
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        done = run(
            PYTHON,
            "-m",
            "pytest",
            "-m",
            "gpu",
            "-q",
            "-p",
            "no:cacheprovider",
            "--junitxml",
            str(report),
            *words,
        )
        if not report.exists():
            return Found(done.status or 1, done.last, fence(done.output))
        cases = list(ElementTree.parse(report).iter("testcase"))
    outcomes = [
        (
            case,
            next((child for child in case if child.tag in ("failure", "error", "skipped")), None),
        )
        for case in cases
    ]
    count = Counter(
        (
            "passed"
            if child is None
            else {"failure": "failed", "error": "failed"}.get(child.tag, child.tag)
        )
        for _, child in outcomes
    )
    reasons = Counter(
        child.get("message", "")
        for _, child in outcomes
        if child is not None and child.tag == "skipped"
    )
    failed = [
        f"- `{case.get('classname')}::{case.get('name')}`"
        for case, child in outcomes
        if child is not None and child.tag != "skipped"
    ]
    text = [
        *failed,
        *(f"- {n} skipped: {clean(reason)}" for reason, n in reasons.items()),
        *([fence(done.output)] if failed else []),
    ]
    line = ", ".join(f"{count[kind]} {kind}" for kind in ("passed", "failed", "skipped"))
    return Found(done.status or int(count["passed"] == 0), line, "\n".join(text))


def command(*words: str, line: str = "", limit: float = LIMIT, **settings: str) -> Found:
    """A command, and `line` about it if it succeeds, else the last line that it printed."""
    done = run(*words, limit=limit, **settings)
    shown = [*(f"{name}={value}" for name, value in settings.items()), *words]
    text = clean(" ".join(shown).replace(PYTHON, "python"))
    return Found(
        done.status,
        done.last if done.status or not line else line,
        f"`{text}`, exit status {done.status}\n\n{fence(done.output)}",
    )


def together(found: Sequence[Found], names: Sequence[object] = ()) -> Found:
    """Several commands as one part: all their lines, or those of the ones that failed."""
    named = [
        one._replace(line=f"{name}: {one.line}")
        for name, one in zip(names, found, strict=bool(names))
    ] or found
    lines = [one.line for one in named if one.status] or [one.line for one in named]
    texts = "\n\n".join(one.text for one in found)
    return Found(max(one.status or 0 for one in found), "; ".join(lines), texts)


def parity(**settings: str) -> Found:
    return command(PYTHON, "cli.py", "verify", "--backend", "cupy", **settings)


def paths() -> Found:
    words = PYTHON, "-m", "benchmarks.step_paths", "--captions"
    return together([command(*words, str(n)) for n in CAPTIONS], CAPTIONS)


def sanitizer(tool: str) -> Found:
    """Each kernel's tests under compute-sanitizer."""
    words = program("compute-sanitizer"), "--tool", tool, "--error-exitcode", "9"
    tests = "-q", "-p", "no:cacheprovider", "-m", "gpu", "-k", "kernel_equals"
    return command(*words, PYTHON, "-c", WITHOUT_POOL, *tests, limit=3 * LIMIT)


def speed() -> Found:
    torch = run(PYTHON, "-c", "import torch; assert torch.cuda.is_available(), 'torch sees no GPU'")
    how = f"without PyTorch ({torch.last})" if torch.status else "beside PyTorch"
    peer = () if torch.status else ("--peer", "torch")
    configs = [word for name in CONFIGS for word in ("--config", name)]
    words = PYTHON, "-m", "benchmarks", "--backend", "cupy", *configs, *peer
    found = command(*words, line=how, limit=3 * LIMIT)
    return found._replace(line=f"{how}: {found.line}") if found.status else found


def timeline() -> Found:
    """Launches, copies and gaps of few steps, as NVIDIA's profiler sees them."""
    nsys = program("nsys")
    with tempfile.TemporaryDirectory() as folder:
        report = str(Path(folder) / "step")
        words = nsys, "profile", "--stats=true", "--cuda-graph-trace=node", "-o", report
        steps = PYTHON, "-m", "benchmarks.step_paths", "--steps", "40"
        return command(*words, *steps, line="times of calls and kernels")


def parts_of_a_step() -> Found:
    words = PYTHON, "-m", "benchmarks.step_profile", "--fused", *map(str, FUSED)
    return command(*words, line=f"in microseconds, FUSED {', '.join(map(str, FUSED))}")


def two_cards() -> Found:
    mpiexec = program("mpiexec")
    if importlib.util.find_spec("mpi4py") is None:
        raise LeftOutError("mpi4py is not installed")
    count = run(PYTHON, "-c", COUNT)
    if count.status or int(count.last) < 2:
        raise LeftOutError(f"two cards are needed; visible: {count.last}")
    with tempfile.TemporaryDirectory() as folder:
        words = "-m", "mpi4py", "-m", "xpcap"
        info = command(mpiexec, "-n", "2", PYTHON, *words, "info")
        train = "train", "--backend", "cupy", "--epochs", "1", "--out", str(Path(folder) / "run")
        return together([info, command(mpiexec, "-n", "2", PYTHON, *words, *train)])


PARTS = (
    Part("Machine", machine, "versions, for the report"),
    Part("GPU tests", gpu_tests, "whether kernels, launches and products are right"),
    Part("Parity", parity, "whether layers and training give NumPy's numbers"),
    Part("Paths of a step", paths, "whether graphs become the default, and from where on"),
    Part("Memory", functools.partial(sanitizer, "memcheck"), "whether kernels stay inside arrays"),
    Part("Races", functools.partial(sanitizer, "racecheck"), "whether threads of a block race"),
    Part(
        "Parity, launch by launch",
        functools.partial(parity, CUDA_LAUNCH_BLOCKING="1"),
        "if this passes where parity fails: the order of work",
    ),
    Part(
        "Parity, a stream for each thread",
        functools.partial(parity, CUPY_CUDA_PER_THREAD_DEFAULT_STREAM="1"),
        "whether all work goes to the current stream",
    ),
    Part("Speed", speed, "what the pages may say about speed"),
    Part("Timeline", timeline, "whether gaps or kernels limit"),
    Part("Where a step's time goes", parts_of_a_step, "FUSED, MOST_PADDED"),
    Part("Two cards", two_cards, "whether NCCL sums"),
)


# The page


def check(parts: Sequence[Part], page: Path) -> int:
    """Run every part, write the page after each, and return the worst exit status."""
    done: list[tuple[Part, Found, float]] = []
    for part in parts:
        print(f"\n== {part.title}", flush=True)
        start, interrupted = time.perf_counter(), False
        try:
            found = part.run()
        except KeyboardInterrupt:
            found, interrupted = Found(128 + signal.SIGINT, "interrupted", ""), True
        except LeftOutError as reason:
            found = Found(None, str(reason), "")
        except (
            Exception
        ) as error:  # whatever it is belongs on the page, and the other parts still run
            found = Found(1, clean(f"{type(error).__name__}: {error}"), "")
        done.append((part, found, time.perf_counter() - start))
        page.write_text(written(done, parts[len(done) :]), encoding="utf-8")
        if interrupted:
            break
    print(f"\n{summary(done)}\n\nwrote {page}")
    return max(found.status or 0 for _, found, _ in done)


def written(done: Sequence[tuple[Part, Found, float]], left: Sequence[Part]) -> str:
    """The page, as far as the check has come."""
    head = (
        f"# xpcap on a card\n\n{datetime.datetime.now().astimezone():%Y-%m-%d %H:%M %z}, commit"
        f" {_commit()}. `make gpu-check` wrote this page."
    )
    rows = ["| part | state | result | decides | seconds |", "|---|---|---|---|---|"]
    rows += [
        f"| {part.title} | {found.state} | {short(found.line)} | {part.decides} | {seconds:.0f} |"
        for part, found, seconds in done
    ]
    rows += [f"| {part.title} | not run | | {part.decides} | |" for part in left]
    sections = [f"## {part.title}\n\n{found.text or found.line}" for part, found, _ in done]
    return "\n\n".join([head, "\n".join(rows), *sections]) + "\n"


def short(line: str) -> str:
    """A line for a cell of the table; its section has all of it."""
    return textwrap.shorten(line.replace("|", "/"), WIDEST, placeholder=" ...")


def summary(done: Sequence[tuple[Part, Found, float]]) -> str:
    """A line for each part."""
    return "\n".join(
        f"{found.state:8}  {part.title}: {short(found.line)}" for part, found, _ in done
    )


def _commit() -> str:
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--dirty"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
    except OSError:  # no git here
        return "unknown"
    return done.stdout.strip() or "unknown"


def free_page() -> Path:
    """The first of gpu-check.md, gpu-check-2.md, ... that does not exist."""
    k = 1
    while (page := Path("gpu-check.md" if k == 1 else f"gpu-check-{k}.md")).exists():
        k += 1
    return page


def main() -> int:
    parser = argparse.ArgumentParser(
        description="Check a machine with a CUDA card, and write a page about it."
    )
    parser.add_argument(
        "page",
        nargs="?",
        type=Path,
        help=(
            "the page to write, never over an existing file; default: gpu-check.md, or the next"
            " free name"
        ),
    )
    page = parser.parse_args().page or free_page()
    if page.exists():
        parser.error(f"{page} exists, and is not overwritten; choose another name")
    return check(PARTS, page)


if __name__ == "__main__":
    sys.exit(main())
