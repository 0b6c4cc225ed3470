"""Checks a machine with a CUDA card, and leaves one page about it: python tools/gpu_check.py [PAGE];
`make gpu-check` does it too.

It runs the commands of docs/develop/gpu-check.md, each in a process of its own with this Python's
packages. Whatever becomes of one, the next part runs; one that fails is tried again. Nothing is
installed, and nothing is changed on the machine but the page, which is written anew after each part.
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
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parents[1]
COMMANDS = ROOT / "docs" / "develop" / "gpu-check.md"
PART = re.compile(r"^## (.+) \((\d+) min\)\n\n(\S(?s:.+?))\n\n((?:    .+\n)+)", re.MULTILINE)
NEEDED = "  # needed"  # behind a command: the part is left out if it fails
CARD = ".*, driver .*, commit [^:]*"  # in the first part's result
RESULT = "  # result"  # behind a command: its last line stands for the part
PYTHON = sys.executable
TOOLKIT = Path(os.environ.get("CUDA_PATH", "/usr/local/cuda")) / "bin"
AGAIN = 300.0  # seconds: a longer part is not tried again
GRACE = 10.0  # seconds for a command that is killed to say where it hangs
WIDEST, LONGEST = 400, 24_000  # characters of a result in the table, and of an output
QUESTIONS = """\
## Please add

What no program finds out, and a reader asks next:

- Was the card yours alone, or did others, or a screen, use it meanwhile?
- What changed last on the machine: driver, CUDA, CuPy, the card?
- If a part FAILED: what does `sudo dmesg | grep -iE "xid|nvrm" | tail` print, and does another
  program with CUDA, such as PyTorch, run on this card?"""


class Part(NamedTuple):
    """Commands of the page, the seconds that they may take together, and what they decide."""

    title: str
    limit: float
    decides: str
    commands: Sequence[str]


class Done(NamedTuple):
    """A command that has ended: its exit status, and all that it printed."""

    command: str
    status: int
    output: str

    @property
    def last(self) -> str:
        """The last line that it printed."""
        lines = (line.strip() for line in reversed(self.output.splitlines()))
        return next(filter(None, lines), "no output")


class Result(NamedTuple):
    """What became of a part."""

    part: Part
    state: str
    lines: Sequence[str]  # the last of each command, or of those that failed
    done: Sequence[Done]
    seconds: float


class LeftOutError(Exception):
    """The machine lacks what a part needs; the message says what."""


def parts_of(text: str) -> list[Part]:
    """Parts of a page of commands."""
    return [
        Part(
            title,
            60.0 * int(minutes),
            " ".join(decides.split()),
            textwrap.dedent(commands).splitlines(),
        )
        for title, minutes, decides, commands in PART.findall(text)
    ]


def run_part(part: Part) -> Result:
    """Run a part's commands."""
    start, done, state, lines = time.monotonic(), list[Done](), "ok", list[str]()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        try:
            for command in part.commands:
                left = max(1.0, part.limit - (time.monotonic() - start))
                one = run(command.removesuffix(NEEDED), left, Path(folder))
                if not command.endswith(NEEDED):
                    done.append(one)
                elif one.status:
                    raise LeftOutError(one.last)
        except LeftOutError as reason:
            state, lines = "left out", [str(reason)]
        except KeyboardInterrupt:
            state = "interrupted"
    failed = [one for one in done if one.status]
    if failed and state != "interrupted":
        state = "FAILED"
    told = failed or [one for one in done if one.command.endswith(RESULT)] or done
    lines = lines or list(dict.fromkeys(one.last for one in told))
    return Result(part, state, lines, done, time.monotonic() - start)


def run(command: str, limit: float, folder: Path) -> Done:
    """Run a command in the project's folder, with `folder` as $OUT.

    LeftOutError : its program is not here.
    """
    words = [
        word.replace("$OUT", folder.as_posix()) for word in shlex.split(command, comments=True)
    ]
    variables = [word for word in words if re.match("[A-Z_]+=", word)]
    name, *rest = words[len(variables) :]
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    environment = {**os.environ, "PYTHONPATH": path, "PYTHONIOENCODING": "utf-8"}
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
            status, end = 124, f"killed at the part's time limit, after {limit:.0f} s"
        except BaseException:
            kill(child)
            raise
        output.seek(0)
        text = output.read().replace(folder.as_posix(), "$OUT") + end
    if status < 0:
        status, text = 128 - status, f"{text}\nended by {signal.Signals(-status).name}"
    done = Done(command, status, clean(text))
    return with_tests(done, folder / "tests.xml") if (folder / "tests.xml").exists() else done


def kill(child: "subprocess.Popen[bytes]") -> None:
    """End a command, and what it started where there are process groups: Python then says where it
    was.
    """
    if not hasattr(os, "killpg"):
        child.kill()
        child.wait()
        return
    for number in (signal.SIGABRT, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError, subprocess.TimeoutExpired):
            os.killpg(child.pid, number)
            child.wait(GRACE)


def program(name: str) -> list[str]:
    """The program of this Python, of the path, or of CUDA's toolkit."""
    if name in ("python", "xpcap"):
        return [PYTHON] if name == "python" else [PYTHON, "-m", "xpcap"]
    places = Path(PYTHON).parent, os.environ.get("PATH", os.defpath), TOOLKIT
    if path := shutil.which(name, path=os.pathsep.join(map(str, places))):
        return [path]
    raise LeftOutError(f"{name} is not installed")


def with_tests(done: Done, report: Path) -> Done:
    """The result of pytest with its tests by file, and failures first; none passed is one too."""
    files: defaultdict[str, Counter[str]] = defaultdict(Counter)
    failures: list[str] = []
    for case in ElementTree.parse(report).iter("testcase"):
        bad = [child for child in case if child.tag in ("failure", "error")]
        failures += [f"{case.get('name')}: {child.text}" for child in bad]
        skipped = case.find("skipped") is not None
        outcome = "failed" if bad else "skipped" if skipped else "passed"
        files[case.get("classname", "")][outcome] += 1
    counts = (", ".join(f"{n} {how}" for how, n in count.items()) for count in files.values())
    rows = [f"{file}: {count}" for file, count in zip(files, counts, strict=True)]
    passed = any(count["passed"] for count in files.values())
    output = "\n".join([*failures[:1], *rows, done.output])
    return done._replace(status=done.status or int(not passed), output=output)


def clean(text: str) -> str:
    """The text without the places of this machine's folders."""
    for folder, name in ((ROOT, "."), (Path.home(), "~")):
        if folder != Path(folder.anchor):
            text = text.replace(str(folder), name)
    return text


def check(parts: Sequence[Part], page: Path) -> int:
    """Run every part, write the page after each, and return 0 if none failed."""
    results: list[Result] = []
    for part in parts:
        print(f"== {part.title}, at most {part.limit / 60:.0f} min", flush=True)
        results.append(result := run_part(part))
        page.write_text(written(results, parts[len(results) :]), encoding="utf-8")
        if result.state == "FAILED" and result.seconds < AGAIN:
            again = run_part(part)
            state = "FAILED twice" if again.state == "FAILED" else "FAILED, then ok"
            results[-1] = result = result._replace(state=state, done=[*result.done, *again.done])
            page.write_text(written(results, parts[len(results) :]), encoding="utf-8")
        print(f"{result.state}: {'; '.join(result.lines)}\n", flush=True)
        if result.state == "interrupted":
            return 130
    print(f"wrote {page}")
    return int(any(result.state.startswith("FAILED") for result in results))


def written(results: Sequence[Result], left: Sequence[Part]) -> str:
    """The page, as far as the check has come."""
    lines = [result.lines[-1] for result in results[:1] if result.lines]
    cards = [found[0] for line in lines if (found := re.match(CARD, line))]
    rows = ["| part | state | result | decides | seconds |", "|---|---|---|---|---|"]
    for result in results:
        title, _, decides, _ = result.part
        shown = "<br>".join(short(line) for line in result.lines)
        rows.append(f"| {title} | {result.state} | {shown} | {decides} | {result.seconds:.0f} |")
    rows += [f"| {part.title} | not run | | {part.decides} | |" for part in left]
    sections = [
        "\n\n".join([f"## {result.part.title}", *map(section, result.done)])
        for result in results
        if result.done
    ]
    title = f"# xpcap on {short(cards[0]) if cards else 'a card'}"
    date = (
        f"{datetime.datetime.now().astimezone():%Y-%m-%d %H:%M %z}; written by tools/gpu_check.py."
    )
    return "\n\n".join([title, date, "\n".join(rows), QUESTIONS, *sections]) + "\n"


def section(done: Done) -> str:
    """A command and what it printed, but for the middle of something long."""
    text = done.output.strip()
    if cut := max(0, len(text) - LONGEST):
        text = f"{text[: LONGEST // 3]}\n... {cut} characters ...\n{text[-LONGEST * 2 // 3 :]}"
    command = done.command.split("  #")[0]
    return f"`{command}`, exit status {done.status}:\n\n{textwrap.indent(text, '    ')}"


def short(line: str) -> str:
    """A line for a cell of the table; its section has all of it."""
    return textwrap.shorten(line.replace("|", "/"), WIDEST, placeholder=" ...")


def main() -> int:
    parser = argparse.ArgumentParser(
        description="Check a machine with a CUDA card, and write a page about it."
    )
    parser.add_argument(
        "page",
        nargs="?",
        type=Path,
        help="the page to write, never over a file; default: gpu-check.md, or gpu-check-2.md, ...",
    )
    names = ("gpu-check.md", *(f"gpu-check-{k}.md" for k in range(2, 1000)))
    page = parser.parse_args().page or next(path for path in map(Path, names) if not path.exists())
    if page.exists():
        parser.error(f"{page} exists, and is not overwritten; choose another name")
    return check(parts_of(COMMANDS.read_text(encoding="utf-8")), page)


if __name__ == "__main__":
    sys.exit(main())
