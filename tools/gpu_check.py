"""Checks a machine with a CUDA card, and leaves one page about it for a report: python
tools/gpu_check.py [PAGE]; `make gpu-check` does it too.

Every part runs, whatever became of those before, each in processes of its own with this Python's
packages. Nothing is installed, and nothing is changed on the machine but the page, which is written
anew after each part.
"""

import argparse
import datetime
import importlib.util
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parents[1]
LIMIT = 3600.0  # seconds that a command may take: a card that hangs does not keep its page back
SETTINGS = ("CUPY_", "CUBLAS_", "CUDA_", "NVIDIA_", "TORCH_", "XPCAP_", "OMP_", "OPENBLAS_")
NO_PYTEST = (
    "pytest is missing; pip install '.[cuda12,dev]' installs it, or '.[cuda13,dev]' where the"
    " machine's CUDA is 13"
)
DESCRIBE = (
    "import json; from benchmarks.measure import machine_in_process;"
    " print(json.dumps(machine_in_process('cupy')))"
)


class Found(NamedTuple):
    """What a part found: its exit status, one line, and Markdown."""

    status: int
    line: str
    text: str


class Part(NamedTuple):
    """A part of the check, and a heading for it."""

    title: str
    run: Callable[[], Found]


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


def run(*words: str, limit: float = LIMIT) -> Done:
    """Run Python with these arguments in the project's folder, and show what it prints as it
    comes.
    """
    lines = []
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH")))),
        "PYTHONUNBUFFERED": "1",
    }
    with subprocess.Popen(
        [sys.executable, *words],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    ) as child:
        timer = threading.Timer(limit, child.kill)
        timer.start()
        try:
            assert child.stdout is not None
            for line in child.stdout:
                print(line, end="", flush=True)
                lines.append(line)
        except BaseException:
            child.kill()
            raise
        finally:
            timer.cancel()
    if child.returncode == -signal.SIGKILL:
        lines.append(f"killed; the limit is {limit:g} s\n")
    return Done(
        child.returncode if child.returncode >= 0 else 128 - child.returncode, clean("".join(lines))
    )


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
    done = run("-c", DESCRIBE)
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
    table = "\n".join(["| | |", "|---|---|", *rows])
    return Found(
        done.status,
        about.get("card", done.last),
        table if done.status == 0 else f"{table}\n\n{fence(done.last)}",
    )


def gpu_tests(*words: str) -> Found:
    """The tests marked gpu; none passed is a failure too."""
    if importlib.util.find_spec("pytest") is None:
        return Found(1, NO_PYTEST, "")
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        done = run(
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


def parity() -> Found:
    return _command("cli.py", "verify", "--backend", "cupy")


def speed() -> Found:
    torch = run("-c", "import torch; assert torch.cuda.is_available(), 'torch sees no GPU'")
    found = _command(
        "-m", "benchmarks", "--backend", "cupy", *(() if torch.status else ("--peer", "torch"))
    )
    how = "beside PyTorch" if torch.status == 0 else f"without PyTorch ({torch.last})"
    return found._replace(line=how if found.status == 0 else f"{how}: {found.line}")


def parts_of_a_step() -> Found:
    """On the card itself, host and device; and the host on a fake device, which is told how long a
    call takes.
    """
    found = [_command("-m", "benchmarks.step_profile"), _command("-m", "benchmarks", "--host-time")]
    lines = [one.line for one in found if one.status] or ["in microseconds"]
    return Found(
        max(one.status for one in found), "; ".join(lines), "\n\n".join(one.text for one in found)
    )


def _command(*words: str) -> Found:
    done = run(*words)
    return Found(
        done.status,
        done.last,
        f"`python {' '.join(words)}`, exit status {done.status}\n\n{fence(done.output)}",
    )


PARTS = (
    Part("Machine", machine),
    Part("GPU tests", gpu_tests),
    Part("Parity", parity),
    Part("Speed", speed),
    Part("Where a step's time goes", parts_of_a_step),
)


# The page


def check(parts: Sequence[Part], page: Path) -> int:
    """Run every part, write the page after each, and return the worst exit status."""
    done: list[tuple[str, Found, float]] = []
    for part in parts:
        print(f"\n== {part.title}", flush=True)
        start, interrupted = time.perf_counter(), False
        try:
            found = part.run()
        except KeyboardInterrupt:
            found, interrupted = Found(128 + signal.SIGINT, "interrupted", ""), True
        except (
            Exception
        ) as error:  # whatever it is belongs on the page, and the other parts still run
            found = Found(1, clean(f"{type(error).__name__}: {error}"), "")
        done.append((part.title, found, time.perf_counter() - start))
        page.write_text(
            written(done, [part.title for part in parts[len(done) :]]), encoding="utf-8"
        )
        if interrupted:
            break
    print(f"\n{summary(done)}\n\nwrote {page}")
    return max(found.status for _, found, _ in done)


def written(done: Sequence[tuple[str, Found, float]], left: Sequence[str]) -> str:
    """The page, as far as the check has come."""
    head = (
        f"# xpcap on a card\n\n{datetime.datetime.now().astimezone():%Y-%m-%d %H:%M %z}, commit"
        f" {_commit()}. `make gpu-check` wrote this page."
    )
    rows = [
        f"| {title} | {'ok' if found.status == 0 else 'FAILED'} | {found.line.replace('|', '/')} |"
        f" {seconds:.0f} |"
        for title, found, seconds in done
    ]
    rows += [f"| {title} | not run | | |" for title in left]
    table = "\n".join(["| part | | | seconds |", "|---|---|---|---|", *rows])
    sections = [f"## {title}\n\n{found.text or found.line}" for title, found, _ in done]
    return "\n\n".join([head, table, *sections]) + "\n"


def summary(done: Sequence[tuple[str, Found, float]]) -> str:
    """A line for each part."""
    return "\n".join(
        f"{'ok    ' if found.status == 0 else 'FAILED'}  {title}: {found.line}"
        for title, found, _ in done
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
