"""Check a machine with an NVIDIA GPU, and write a page about it: python tools/gpu_check.py [PAGE], or
`make gpu-check`.

It runs the commands of docs/develop/gpu-check.md, each in a separate process with this Python's
packages. After a failure, the next part runs. Nothing is installed, and only the page is written,
again after each part.
"""

import argparse
import contextlib
import datetime
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
COMMANDS = ROOT / "docs" / "develop" / "gpu-check.md"
PART = re.compile(r"^## (.+) \((\d+) min\)\n\n(\S(?s:.+?))\n\n((?:    .+\n)+)", re.MULTILINE)
NEEDED = "  # needed"  # marks a command: if it fails, the part is left out
RESULT = "  # result"  # marks a command: its last line is the part's result
GPU = ".*, driver .*, commit [^:]*"  # in the first part's result
PYTHON = sys.executable
TOOLKIT = Path(os.environ.get("CUDA_PATH", "/usr/local/cuda")) / "bin"
GRACE = 10.0  # seconds in which a killed command may print where it hangs
WIDEST, LONGEST = 400, 24_000  # characters of a result in the table, and of an output
QUESTIONS = """\
## Please add

A reader will ask, and no program can answer:

- Did other programs, or a screen, use the GPU at the same time?
- What changed last on the machine: driver, CUDA, CuPy, the GPU?
- If a part FAILED: does it fail again, what does `sudo dmesg | grep -iE "xid|nvrm" | tail` print, and
  does another program with CUDA, such as PyTorch, run on this GPU?"""


class Part(NamedTuple):
    """Commands of the page, their time limit in seconds, and what they decide."""

    title: str
    limit: float
    decides: str
    commands: Sequence[str]


class Done(NamedTuple):
    """A finished command: its exit status and output."""

    command: str
    status: int
    output: str

    @property
    def last(self) -> str:
        """The last line that it printed."""
        lines = (line.strip() for line in reversed(self.output.splitlines()))
        return next(filter(None, lines), "no output")


class Result(NamedTuple):
    """The result of a part."""

    part: Part
    state: str
    lines: Sequence[str]  # the last line of each command, or of those that failed
    done: Sequence[Done]
    seconds: float


class LeftOutError(Exception):
    """The machine lacks something that a part needs; the message names it."""


def parts_of(text: str) -> list[Part]:
    """Parts of a page of commands."""
    parts = []
    for title, minutes, decides, commands in PART.findall(text):
        lines = textwrap.dedent(commands).splitlines()
        parts.append(Part(title, 60.0 * int(minutes), " ".join(decides.split()), lines))
    return parts


def run_part(part: Part) -> Result:
    """Run a part's commands."""
    start, done, state, lines = time.monotonic(), list[Done](), "ok", list[str]()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        try:
            for command in part.commands:
                remaining = max(1.0, part.limit - (time.monotonic() - start))
                finished = run(command, remaining, Path(folder))
                if not command.endswith(NEEDED):
                    done.append(finished)
                elif finished.status:
                    raise LeftOutError(finished.last)
        except LeftOutError as reason:
            state, lines = "left out", [str(reason)]
        except KeyboardInterrupt:
            state = "interrupted"
    failed = [command for command in done if command.status]
    if failed and state != "interrupted":
        state, lines = "FAILED", []
    shown = failed or [d for d in done if d.command.endswith(RESULT)] or done
    lines = lines or list(dict.fromkeys(command.last for command in shown))
    return Result(part, state, lines, done, time.monotonic() - start)


def run(command: str, limit: float, folder: Path) -> Done:
    """Run a command in the project's folder, with `folder` as $OUT.

    LeftOutError : its program is not installed.
    """
    words = [
        word.replace("$OUT", folder.as_posix()) for word in shlex.split(command, comments=True)
    ]
    variables = [word for word in words if re.match("[A-Z_]+=", word)]
    name, *rest = words[len(variables) :]
    paths = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    environment = {**os.environ, "PYTHONPATH": paths, "PYTHONIOENCODING": "utf-8"}
    environment |= dict.fromkeys(("PYTHONUNBUFFERED", "PYTHONFAULTHANDLER"), "1")
    environment |= dict(word.split("=", 1) for word in variables)
    with Path(folder, "output").open("w+", encoding="utf-8", errors="replace") as output:
        child = subprocess.Popen(
            [*program(name), *(PYTHON if word == "python" else word for word in rest)],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            status, end = child.wait(limit), ""
        except subprocess.TimeoutExpired:
            kill(child)
            status, end = 124, f"\nkilled at the part's time limit, after {limit:.0f} s"
        except BaseException:
            kill(child)
            raise
        output.seek(0)
        text = output.read().replace(folder.as_posix(), "$OUT") + end
    if status < 0:
        status, text = 128 - status, f"{text}\nended by {signal.Signals(-status).name}"
    for path, shown in ((ROOT, "."), (Path.home(), "~")):  # the page shows no local paths
        if path != Path(path.anchor):
            text = text.replace(str(path), shown)
    return Done(command, status, text)


def kill(child: "subprocess.Popen[bytes]") -> None:
    """End a command and, if there are process groups, its children; Python prints a traceback."""
    if not hasattr(os, "killpg"):
        child.kill()
        child.wait()
        return
    for number in (signal.SIGABRT, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError, subprocess.TimeoutExpired):
            os.killpg(child.pid, number)
            child.wait(GRACE)


def program(name: str) -> list[str]:
    """The command line of a program of this Python, of the path, or of CUDA's toolkit."""
    if name in ("python", "xpcap"):
        return [PYTHON] if name == "python" else [PYTHON, "-m", "xpcap"]
    folders = Path(PYTHON).parent, os.environ.get("PATH", os.defpath), TOOLKIT
    if path := shutil.which(name, path=os.pathsep.join(map(str, folders))):
        return [path]
    raise LeftOutError(f"{name} is not installed")


def check(parts: Sequence[Part], page: Path) -> int:
    """Run every part, write the page after each, and return 0 if none failed."""
    results: list[Result] = []
    for k, part in enumerate(parts, 1):
        print(f"== {part.title}, at most {part.limit / 60:.0f} min", flush=True)
        results.append(result := run_part(part))
        page.write_text(written(results, parts[k:]), encoding="utf-8")
        print(f"{result.state}: {'; '.join(result.lines)}\n", flush=True)
        if result.state == "interrupted":
            return 130
    print(f"wrote {page}")
    return int(any(result.state == "FAILED" for result in results))


def written(results: Sequence[Result], remaining: Sequence[Part]) -> str:
    """The page, with results so far and the remaining parts."""
    rows = ["| part | state | result | decides | seconds |", "|---|---|---|---|---|"]
    for (title, _, decides, _), state, lines, _, seconds in results:
        shown = "<br>".join(map(short, lines))
        rows.append(f"| {title} | {state} | {shown} | {decides} | {seconds:.0f} |")
    rows += [f"| {part.title} | not run | | {part.decides} | |" for part in remaining]
    sections = [
        "\n\n".join([f"## {result.part.title}", *map(section, result.done)])
        for result in results
        if result.done
    ]
    verdict = re.match(GPU, "\n".join(results[0].lines[-1:]))
    title = f"# xpcap on {short(verdict[0]) if verdict else 'a GPU'}"
    now = datetime.datetime.now().astimezone()
    date = f"{now:%Y-%m-%d %H:%M %z}; written by tools/gpu_check.py."
    return "\n\n".join([title, date, "\n".join(rows), QUESTIONS, *sections]) + "\n"


def section(done: Done) -> str:
    """A command and its output, without the middle of a long one."""
    text = done.output.strip()
    if cut := max(0, len(text) - LONGEST):
        text = f"{text[: LONGEST // 3]}\n... {cut} characters ...\n{text[-LONGEST * 2 // 3 :]}"
    command = done.command.split("  #")[0]
    return f"`{command}`, exit status {done.status}:\n\n{textwrap.indent(text, '    ')}"


def short(line: str) -> str:
    """A line shortened for a cell of the table; its section has all of it."""
    return textwrap.shorten(line.replace("|", "/"), WIDEST, placeholder=" ...")


def main() -> int:
    parser = argparse.ArgumentParser(
        description="Check a machine with an NVIDIA GPU, and write a page about it."
    )
    page_help = "page to write; never overwrites a file; default: gpu-check.md, gpu-check-2.md, ..."
    parser.add_argument("page", nargs="?", type=Path, help=page_help)
    names = ("gpu-check.md", *(f"gpu-check-{k}.md" for k in range(2, 1000)))
    page = parser.parse_args().page or next(path for path in map(Path, names) if not path.exists())
    if page.exists():
        parser.error(f"{page} exists; choose another name")
    return check(parts_of(COMMANDS.read_text(encoding="utf-8")), page)


if __name__ == "__main__":
    sys.exit(main())
