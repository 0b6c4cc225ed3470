"""The check of a machine with a card: every part runs, whatever becomes of the others, and the page
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
TESTS = """
import warnings
import pytest

@pytest.mark.gpu
def test_right() -> None:
    warnings.warn("of CuPy")

@pytest.mark.gpu
def test_wrong() -> None:
    assert 1 + 1 == 3

@pytest.mark.gpu
def test_left_out() -> None:
    pytest.skip("no second card")

def test_of_something_else() -> None:
    raise AssertionError
"""
HANGS = """
import subprocess, sys
if len(sys.argv) == 1:
    subprocess.Popen([sys.executable, __file__, "child"], stdin=subprocess.PIPE).wait()
sys.stdin.read()
"""


def part(title: str, *commands: str, limit: float = 60.0) -> Part:
    return Part(title, limit, f"what {title} is for", commands)


def python(code: str) -> str:
    return f'python -c "{code}"'


def test_a_part_that_fails_does_not_stop_the_rest(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is tried again. What the machine lacks is no failure."""
    at_first = f"p = pathlib.Path('{(tmp_path / 'mark').as_posix()}'); new = not p.exists()"
    parts = [
        part("one", python("print('one | in a line')"), python("print('two lines')")),
        part("two", python("raise SystemExit('wrong')"), python("print('and goes on')")),
        part("three", python(f"import pathlib; {at_first}; p.touch(); raise SystemExit(new)")),
        part("four", python("import os; os.abort()")),
        part("five", python("raise SystemExit('no second card')") + gpu_check.NEEDED, "false"),
        part("six", "no-such-profiler --stats"),
        part("seven", python("print('told')") + gpu_check.RESULT, python("print('not told')")),
        part("eight", "NAME=value " + python("import os; print(os.environ['NAME'])")),
    ]
    page = tmp_path / "page.md"
    assert gpu_check.check(parts, page) == 1
    text, shown = page.read_text(encoding="utf-8"), capsys.readouterr().out
    for title, state, line in (
        ("one", "ok", "one / in a line<br>two lines"),
        ("two", "FAILED twice", "wrong"),
        ("three", "FAILED, then ok", "no output"),
        ("four", "FAILED twice", "ended by SIGABRT"),
        ("five", "left out", "no second card"),
        ("six", "left out", "no-such-profiler is not installed"),
        ("seven", "ok", "told"),
        ("eight", "ok", "value"),
    ):
        assert f"| {title} | {state} | {line} | what {title} is for | " in text
        assert f"{state}: {line.replace('<br>', '; ').replace('/', '|')}\n" in shown
    assert text.count("and goes on\n") == 2
    assert "Fatal Python error: Aborted" in text
    assert gpu_check.check(parts[4:], page) == 0


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


def test_tests_are_counted_and_the_first_failure_is_shown(tmp_path: Path) -> None:
    """By the command of the page: a warning is no error, and counted."""
    file = tmp_path / "test_some.py"
    (tests,) = (part for part in PARTS if part.title == "GPU tests")
    command = tests.commands[-1].replace(
        "python -m pytest", f"python -m pytest -c pyproject.toml {file.as_posix()}"
    )
    file.write_text(TESTS)
    done = gpu_check.run(command, 60, tmp_path)
    assert done.status == 1
    assert re.match(r"1 failed, 1 passed, 1 skipped, 1 deselected, 1 warning in ", done.last)
    assert "UserWarning: of CuPy" in done.output
    assert done.output.startswith("test_wrong: @pytest.mark.gpu\n")
    assert ": 1 passed, 1 failed, 1 skipped\n" in done.output
    assert "SKIPPED [1]" in done.output
    file.write_text(TESTS.replace("1 + 1 == 3", "True"))
    assert gpu_check.run(command, 60, tmp_path).status == 0
    file.write_text(re.sub("warnings.warn.*|assert .*", "pytest.skip('no card')", TESTS))
    assert gpu_check.run(command, 60, tmp_path).status == 1


def test_a_warning_of_cupys_own_is_no_error_and_any_other_is() -> None:
    """As pyproject.toml has it, so for `pytest -m gpu` on a card too."""

    def warn(module: str) -> None:
        exec("import warnings; warnings.warn('slow here')", {"__name__": module})

    with warnings.catch_warnings(record=True) as shown:
        warn("cupy._x")
        for other in ("xpcap.ops.device", "scupy"):
            with pytest.raises(UserWarning, match="slow here"):
                warn(other)
    assert [str(one.message) for one in shown] == ["slow here"]


def test_the_page_holds_no_place_of_this_machine_and_the_ends_of_long_outputs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    home = Path(os.sep) / "home" / "somebody"
    monkeypatch.setattr(Path, "home", lambda: home)
    text = f"{gpu_check.ROOT}/xpcap/ops/base.py and {home}/.cupy"
    assert gpu_check.clean(text) == "./xpcap/ops/base.py and ~/.cupy"
    monkeypatch.setattr(gpu_check, "LONGEST", 600)
    shown = gpu_check.section(Done("command", 0, "a" * 500 + "b" * 500))
    assert re.search(r"\n    a{200}\n    ... 400 characters ...\n    b{400}$", shown)


def test_every_part_of_the_page_is_read() -> None:
    """From the quickest on, and each answer of the ten minutes is shown; tests under the sanitizer are those of kernels, and there are some."""
    assert [part.title for part in PARTS] == re.findall(r"^## (.*) \(", COMMANDS, re.MULTILINE)
    assert [part.limit for part in PARTS[:3]] == [600, 60, 1800]
    titles = [f"{number}. {title}" for number, title in enumerate(ten_minutes.ANSWERS, 1)]
    printed = re.findall(r"^    (\d\. .*)$", COMMANDS, re.MULTILINE)
    assert list(dict.fromkeys(printed)) == titles
    checked = [part.commands[0] for part in PARTS if "compute-sanitizer" in part.commands[0]]
    assert [re.findall("--tool (.*) --error", command) for command in checked] == [
        ["memcheck --report-api-errors no"],
        ["racecheck"],
    ]
    word = re.fullmatch(".* -k (.*)", checked[0])
    text = (gpu_check.ROOT / "tests" / "ops" / "test_kernels.py").read_text(encoding="utf-8")
    assert word is not None
    assert re.search(rf"@pytest.mark.gpu\n(@.*\n)*def test_\w*{word[1]}", text)


@pytest.mark.skipif(CUPY.usable, reason="there is a card: make gpu-check is the test")
@pytest.mark.slow
def test_without_a_card_each_command_says_so_and_the_rest_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So each takes the options that it is given."""
    monkeypatch.setenv("CUPY_TF32", "0")
    monkeypatch.setattr(gpu_check, "AGAIN", 0.0)
    monkeypatch.setenv("PATH", "")
    page = tmp_path / "page.md"
    parts = [part for part in PARTS if part.title != "GPU tests"]
    assert gpu_check.check(parts, page) == 1
    text = page.read_text(encoding="utf-8")
    rows = [line.split(" | ") for line in text.splitlines() if " | FAILED | " in line]
    assert [title.removeprefix("| ") for title, *_ in rows] == [
        part.title
        for part in parts
        if part.commands[0].startswith(("python", "xpcap", "CUDA"))
        and not part.commands[0].endswith(gpu_check.NEEDED)
    ]
    assert all("cannot be used" in result for _, _, result, *_ in rows)
    assert text.count(" | left out | ") == len(parts) - len(rows)
    assert "| Card | left out | nvidia-smi is not installed |" in text
    assert "CUPY_TF32=0\n" in text
    assert "Traceback" not in text
