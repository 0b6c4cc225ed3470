"""The check of a machine with a card: every part runs, the worst status counts, and the page says
what became of each.
"""

import os
import warnings
from pathlib import Path

import gpu_check
import pytest
from conftest import CUPY
from gpu_check import Found, Part

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

        return Part(title, run)

    page = tmp_path / "page.md"
    parts = [
        part("one", 0),
        part("two", 3),
        part("three", 0, RuntimeError("the driver went away")),
        part("four", 1),
        part("five", 0),
    ]
    assert gpu_check.check(parts, page) == 3
    assert ran == ["one", "two", "three", "four", "five"]
    text, shown = page.read_text(), capsys.readouterr().out
    for title, state in zip(ran, ("ok", "FAILED", "FAILED", "FAILED", "ok"), strict=True):
        line = "RuntimeError: the driver went away" if title == "three" else f"{title} in a line"
        assert f"| {title} | {state} | {line} | 0 |" in text
        assert f"{state:6}  {title}: {line}" in shown
        assert f"## {title}\n\n{line if title == 'three' else f'all of {title}'}" in text
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
    assert "| three | not run |" in page.read_text()


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


def test_a_command_that_hangs_ends_and_says_so() -> None:
    done = gpu_check.run("-c", "while True: pass", limit=0.5)
    assert done.status == 137
    assert done.last == "killed; the limit is 0.5 s"


def test_the_page_holds_no_place_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    home = Path(os.sep) / "home" / "somebody"
    monkeypatch.setattr(Path, "home", lambda: home)
    assert (
        gpu_check.clean(f"{gpu_check.ROOT}/xpcap/ops/base.py and {home}/.cupy")
        == "./xpcap/ops/base.py and ~/.cupy"
    )


@pytest.mark.skipif(CUPY.usable, reason="there is a card: make gpu-check is the test")
@pytest.mark.slow
def test_without_a_card_the_page_says_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUPY_TF32", "0")
    page = tmp_path / "page.md"
    assert (
        gpu_check.check(
            [part for part in gpu_check.PARTS if part.title in ("Machine", "Parity", "Speed")], page
        )
        == 1
    )
    text = page.read_text()
    assert text.count("FAILED") == 3
    assert text.count("backend cupy cannot be used") >= 3
    assert "| CUPY_TF32 | 0 |" in text
    assert "python -m benchmarks --backend cupy`, exit status 1" in text
    assert "Traceback" not in text
