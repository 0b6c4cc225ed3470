"""The check of a machine with a GPU: every part runs, whatever becomes of the others, and the page
says what became of each.
"""

import os
import re
import signal
import types
import warnings
from pathlib import Path

import gpu_check
import pytest
from gpu_check import Done, Part, parts_of
from libraries import CUPY

from benchmarks import ten_minutes

COMMANDS = gpu_check.COMMANDS.read_text(encoding="utf-8")
PARTS = parts_of(COMMANDS)
HANGS = """
import subprocess, sys
if len(sys.argv) == 1:
    subprocess.Popen([sys.executable, __file__, "child"], stdin=subprocess.PIPE).wait()
sys.stdin.read()
"""


def part(title: str, *commands: str) -> Part:
    return Part(title, 60.0, f"what {title} is for", commands)


def python(code: str) -> str:
    return f'python -c "{code}"'


def test_a_part_that_fails_does_not_stop_the_rest(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the machine lacks is no failure; no place of it and no middle of an output is shown."""
    home = Path(os.sep) / "home" / "somebody"
    monkeypatch.setattr(Path, "home", lambda: home)
    monkeypatch.setattr(gpu_check, "LONGEST", 600)
    parts = [
        part("one", python("print('one | in a line')"), python(f"print('two in {home}/a')")),
        part("two", python("raise SystemExit('wrong')"), python("print('and goes on')")),
        part("three", python("import os; os.abort()")),
        part("four", python("raise SystemExit('no second GPU')") + gpu_check.NEEDED, "false"),
        part("five", "no-such-profiler --stats"),
        part("six", python("print('told')") + gpu_check.RESULT, python("print('not told')")),
        part("seven", "NAME=value " + python("import os; print(os.environ['NAME'])")),
        part("eight", python("print('a' * 500 + 'b' * 500)") + gpu_check.RESULT),
    ]
    page = tmp_path / "page.md"
    assert gpu_check.check(parts, page) == 1
    text, shown = page.read_text(encoding="utf-8"), capsys.readouterr().out
    for title, state, line in (
        ("one", "ok", "one / in a line<br>two in ~/a"),
        ("two", "FAILED", "wrong"),
        ("three", "FAILED", "ended by SIGABRT"),
        ("four", "left out", "no second GPU"),
        ("five", "left out", "no-such-profiler is not installed"),
        ("six", "ok", "told"),
        ("seven", "ok", "value"),
    ):
        assert f"| {title} | {state} | {line} | what {title} is for | " in text
        assert f"{state}: {line.replace('<br>', '; ').replace('/ in', '| in')}\n" in shown
    assert "and goes on\n" in text
    assert "Fatal Python error: Aborted" in text
    assert re.search(r"\n    a{200}\n    ... 400 characters ...\n    b{400}$", text, re.MULTILINE)
    assert gpu_check.check(parts[3:], page) == 0


def test_an_interrupt_leaves_the_page_as_far_as_it_came(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*arguments: object) -> Done:
        raise KeyboardInterrupt

    page = tmp_path / "page.md"
    monkeypatch.setattr(gpu_check, "run", interrupted)
    assert gpu_check.check([part("one", "true"), part("two", "true")], page) == 130
    assert "| one | interrupted | " in page.read_text(encoding="utf-8")
    assert "| two | not run | | " in page.read_text(encoding="utf-8")


@pytest.mark.parametrize("groups", [True, False])
def test_a_command_that_hangs_ends_at_the_time_limit(
    groups: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where there are process groups, with what it started; elsewhere, as on Windows, alone."""
    sent: list[int] = []
    if groups:
        send = getattr(os, "killpg", None) or pytest.skip("this system has no process groups")

        def killpg(group: int, number: int) -> None:
            sent.append(number)
            send(group, number)

        monkeypatch.setattr(os, "killpg", killpg)
    else:
        monkeypatch.delattr(os, "killpg", raising=False)
        there = {name: value for name, value in vars(signal).items() if name != "SIGKILL"}
        monkeypatch.setattr(gpu_check, "signal", types.SimpleNamespace(**there))
    (tmp_path / "hangs.py").write_text(HANGS)
    done = gpu_check.run(f"python {(tmp_path / 'hangs.py').as_posix()}", 1, tmp_path)
    assert done.status == 124
    assert done.last == "killed at the part's time limit, after 1 s"
    assert sent == ([signal.SIGABRT, signal.SIGKILL] if groups else [])


def test_a_warning_of_cupys_own_is_no_error_and_any_other_is() -> None:
    """As pyproject.toml has it, so for `pytest -m gpu` on a GPU too."""

    def warn(module: str) -> None:
        exec("import warnings; warnings.warn('slow here')", {"__name__": module})

    with warnings.catch_warnings(record=True) as shown:
        warn("cupy._x")
        for other in ("xpcap.ops.device", "scupy"):
            with pytest.raises(UserWarning, match="slow here"):
                warn(other)
    assert [str(warning.message) for warning in shown] == ["slow here"]


def test_every_part_of_the_page_is_read() -> None:
    """Each answer of the ten minutes is shown; tests under the sanitizer are those of kernels."""
    assert [part.title for part in PARTS] == re.findall(r"^## (.*) \(", COMMANDS, re.MULTILINE)
    assert [part.limit for part in PARTS[:2]] == [600, 60]
    titles = [f"{number}. {title}" for number, title in enumerate(ten_minutes.ANSWERS, 1)]
    printed = re.findall(r"^    (\d\. .*)$", COMMANDS, re.MULTILINE)
    assert list(dict.fromkeys(printed)) == titles
    checked = [part.commands[0] for part in PARTS if "compute-sanitizer" in part.commands[0]]
    text = (gpu_check.ROOT / "tests" / "ops" / "test_kernels.py").read_text(encoding="utf-8")
    assert len(checked) == 2
    for command in checked:
        word = command.rpartition(" -k ")[2]
        assert re.search(rf"@pytest.mark.gpu\n(@.*\n)*def test_\w*{word}", text)


@pytest.mark.skipif(CUPY.usable, reason="there is a GPU: make gpu-check is the test")
@pytest.mark.slow
def test_without_a_gpu_each_command_says_so_and_the_rest_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So each takes the options that it is given."""
    monkeypatch.setenv("CUPY_TF32", "0")
    monkeypatch.setenv("PATH", "")
    page = tmp_path / "page.md"
    assert gpu_check.check(PARTS, page) == 1
    text = page.read_text(encoding="utf-8")
    rows = [line.split(" | ") for line in text.splitlines() if " | FAILED | " in line]
    asked = ("Ten minutes", "Paths of a step", "Parity", "Training", "GPU tests", "Speed")
    assert tuple(title.removeprefix("| ") for title, *_ in rows) == asked
    assert all("cannot be used" in row[2] or "no usable CUDA device" in row[2] for row in rows)
    assert text.count(" | left out | ") == len(PARTS) - len(rows)
    assert "| GPU | left out | nvidia-smi is not installed |" in text
    assert "CUPY_TF32=0\n" in text
    assert "Traceback" not in text
