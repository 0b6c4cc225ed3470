"""The check of a machine with a card: every part runs, the worst status counts, and the page says
what became of each.
"""

import os
import re
import warnings
from pathlib import Path

import gpu_check
import pytest
from gpu_check import Done, Found, LeftOutError, Part
from libraries import CUPY

TESTS = """
import pytest

@pytest.mark.gpu
def test_right() -> None:
    pass

@pytest.mark.gpu
def test_wrong() -> None:
    assert 1 + 1 == 3

@pytest.mark.gpu
def test_left_out() -> None:
    pytest.skip("no second card")

def test_of_something_else() -> None:
    raise AssertionError
"""


def test_a_part_that_fails_does_not_stop_the_rest(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ran: list[str] = []

    def part(title: str, status: int, error: Exception | None = None) -> Part:
        def run() -> Found:
            ran.append(title)
            if error is not None:
                raise error
            return Found(status, f"{title} in a line", f"all of {title}")

        return Part(title, run, f"what {title} is for")

    page = tmp_path / "page.md"
    parts = [
        part("one", 0),
        part("two", 3),
        part("three", 0, RuntimeError("the driver went away")),
        part("four", 1),
        part("five", 0, LeftOutError("no second card")),
    ]
    assert gpu_check.check(parts, page) == 3
    assert ran == ["one", "two", "three", "four", "five"]
    text, shown = page.read_text(), capsys.readouterr().out
    states = "ok", "FAILED", "FAILED", "FAILED", "left out"
    lines = {"three": "RuntimeError: the driver went away", "five": "no second card"}
    for title, state in zip(ran, states, strict=True):
        line = lines.get(title, f"{title} in a line")
        assert f"| {title} | {state} | {line} | what {title} is for | 0 |" in text
        assert f"{state:8}  {title}: {line}" in shown
        assert f"## {title}\n\n{lines.get(title, f'all of {title}')}" in text
    assert gpu_check.check(parts[4:], page) == 0
    assert gpu_check.check(parts[:1], page) == 0


def test_an_interrupt_leaves_the_page_as_far_as_it_came(tmp_path: Path) -> None:
    def interrupted() -> Found:
        raise KeyboardInterrupt

    page = tmp_path / "page.md"
    parts = [
        Part("one", lambda: Found(0, "done", "")),
        Part("two", interrupted),
        Part("three", lambda: Found(0, "", "")),
    ]
    assert gpu_check.check(parts, page) == 130
    assert "| one | ok | done" in page.read_text()
    assert "| two | FAILED | interrupted" in page.read_text()
    assert "| three | not run | |" in page.read_text()


def test_tests_are_counted_and_failures_named(tmp_path: Path) -> None:
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers = gpu\n")
    file = tmp_path / "test_some.py"
    file.write_text(TESTS)
    found = gpu_check.gpu_tests(str(file))
    assert (found.status, found.line) == (1, "1 passed, 1 failed, 1 skipped")
    assert "- `test_some::test_wrong`\n" in found.text
    assert "- 1 skipped: no second card" in found.text
    assert "assert (1 + 1) == 3" in found.text
    file.write_text(
        TESTS.replace("1 + 1 == 3", "pytest.skip('no card')").replace(
            "    pass", "    pytest.skip('no card')"
        )
    )
    assert gpu_check.gpu_tests(str(file))[:2] == (1, "0 passed, 0 failed, 3 skipped")


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


def test_a_missing_pytest_is_named_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    found = gpu_check.gpu_tests()
    assert found.status == 1
    assert "pytest is missing; pip install '.[cuda12,dev]'" in found.line


def test_a_command_that_hangs_ends_with_what_it_started_and_says_so() -> None:
    hangs = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'while True: pass'])"
    done = gpu_check.run(gpu_check.PYTHON, "-c", hangs, limit=1)
    assert done.status == 137
    assert done.last == "killed; the limit is 1 s"


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The commands that would run, on a machine with two cards and every program."""
    ran: list[list[str]] = []

    def run(*words: str, limit: float = 0, **settings: str) -> Done:
        ran.append([*(f"{name}={value}" for name, value in settings.items()), *words])
        return Done(0, "2\n")

    monkeypatch.setattr(gpu_check, "run", run)
    monkeypatch.setattr(gpu_check, "program", lambda name: name)
    return ran


def test_tests_under_the_sanitizer_are_those_of_kernels_on_a_card(
    commands: list[list[str]],
) -> None:
    """And there are some: its word is in the name of a test marked gpu."""
    found = gpu_check.sanitizer("racecheck")
    (words,) = commands
    assert words[:3] == ["compute-sanitizer", "--tool", "racecheck"]
    word = words[words.index("-k") + 1]
    text = (gpu_check.ROOT / "tests" / "ops" / "test_kernels.py").read_text(encoding="utf-8")
    assert re.search(rf"@pytest.mark.gpu\n(@.*\n)*def test_\w*{word}", text)
    assert (found.status, found.line) == (0, "2")


def test_what_the_machine_lacks_is_left_out_with_the_reason(
    commands: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu_check, "run", lambda *words, **_: Done(0, "1\n"))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    with pytest.raises(LeftOutError, match="two cards are needed; visible: 1"):
        gpu_check.two_cards()
    monkeypatch.undo()
    monkeypatch.setenv("PATH", "")
    with pytest.raises(LeftOutError, match="nsys is not installed"):
        gpu_check.timeline()


def test_the_page_holds_no_place_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    home = Path(os.sep) / "home" / "somebody"
    monkeypatch.setattr(Path, "home", lambda: home)
    assert (
        gpu_check.clean(f"{gpu_check.ROOT}/xpcap/ops/base.py and {home}/.cupy")
        == "./xpcap/ops/base.py and ~/.cupy"
    )


@pytest.mark.skipif(CUPY.usable, reason="there is a card: make gpu-check is the test")
@pytest.mark.slow
def test_without_a_card_each_command_says_so_and_the_rest_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So each takes the options that it is given."""
    monkeypatch.setenv("CUPY_TF32", "0")
    page = tmp_path / "page.md"
    parts = [part for part in gpu_check.PARTS if part.run is not gpu_check.gpu_tests]
    assert all(part.decides for part in parts)
    assert gpu_check.check(parts, page) == 1
    text = page.read_text()
    rows = [line.split(" | ") for line in text.splitlines() if " | FAILED | " in line]
    assert len(rows) == 7
    assert all("cannot be used" in result for _, _, result, *_ in rows)
    assert text.count(" | left out | ") == len(parts) - 7
    assert "nvidia-smi is not installed." in text
    assert "| CUPY_TF32 | 0 |" in text
    assert "Traceback" not in text
