"""What a card runs with, and two runs that should be one."""

from pathlib import Path

import pytest
from emulated import Emulator

from benchmarks import card
from benchmarks.same import same
from xpcap.runs.folder import BEST, HISTORY, LAST


def test_runs_are_the_same_to_the_last_byte(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = tmp_path / "whole", tmp_path / "stopped"
    for run in runs:
        run.mkdir()
        for name in (BEST, LAST, HISTORY):
            (run / name).write_bytes(b"parameters")
    assert same(*map(str, runs)) == 0
    (runs[1] / LAST).write_bytes(b"parameterz")
    (runs[1] / BEST).unlink()
    assert same(*map(str, runs)) == 1
    alike, other = capsys.readouterr().out.splitlines()
    assert alike == f"the same bytes: {BEST}, {LAST}, {HISTORY}"
    assert other == f"{LAST} differs; {BEST} is missing"


def test_emulated_libraries_are_named_with_the_card_and_the_variables(
    device: Emulator, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "0")
    assert card.libraries().startswith("emulated, driver ")
    lines = capsys.readouterr().out.splitlines()
    assert "NVIDIA_TF32_OVERRIDE=0" in lines
    assert any(line.startswith("cupy-cuda") and ", installed by " in line for line in lines)
    for name in card.LIBRARIES:
        assert any(line.startswith(f"{name}: ") for line in lines)
    assert any(line.startswith("headers: ") for line in lines)
