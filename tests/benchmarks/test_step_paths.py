"""The paths of a step on a card: each trains as NumPy does, and one that does not is named."""

from typing import Any

import pytest
from emulated import Emulator

from benchmarks import step_paths
from benchmarks.step_paths import PathResult, summary
from benchmarks.work import Config
from xpcap.device.replay import Replay

TINY = Config("tiny", N=5, D=12, W=6, H=10, V=40, dropout=0.4)
pytestmark = pytest.mark.slow


def test_emulated_paths_train_as_numpy_does_and_repeat_their_launches(
    device: Emulator, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(step_paths, "CONFIGS", {"coco-dropout": TINY})
    assert step_paths.main(["--captions", "5", "--steps", "6"]) == 0
    lines = capsys.readouterr().out.splitlines()
    rows = [line.split() for line in lines[1:5]]
    assert [row[0] for row in rows] == ["numpy", "unpadded", "list", "graph"]
    assert [row[4] == "-" for row in rows] == [True, True, False, False]
    assert rows[3][5:] == "as a CUDA graph".split()
    assert lines[5].startswith("all train as NumPy does; graph accepted; ms a step: numpy ")


def test_emulated_path_that_computes_nothing_fails(
    device: Emulator, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(step_paths, "CONFIGS", {"coco-dropout": TINY})
    # private: a fault of the list alone, beside which the graph is right
    monkeypatch.setattr(Replay, "_run_list", lambda self: None)
    assert step_paths.main(["--captions", "5", "--steps", "6"]) == 1
    assert "list does not train as NumPy does" in capsys.readouterr().out


@pytest.mark.gpu
def test_paths_on_a_card_train_as_numpy_does() -> None:
    assert step_paths.main(["--captions", "25", "--steps", "20"]) == 0


@pytest.mark.parametrize(
    ("found", "line"),
    [
        (PathResult("list", 1, 0, 0, 0, False), "list repeats no launches"),
        (PathResult("graph", 1, float("nan"), 0, 9, True), "graph does not train as NumPy does"),
        (PathResult("graph", 1, 0, 0, 9, False), "all train as NumPy does; graph refused; ms"),
    ],
)
def test_a_summary_is_what_the_paths_show(found: Any, line: str) -> None:
    assert summary([found]).startswith(line)
