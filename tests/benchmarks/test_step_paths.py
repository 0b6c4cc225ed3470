"""The paths of a step on a card: each trains as NumPy does, and one that does not is named. Many
steps of one: memory that grows is named.
"""

from typing import Any
from unittest import mock

import numpy as np
import pytest
from emulated import Emulator

from benchmarks import steady, step_paths
from benchmarks.step_paths import PathResult, launch_anew, summary
from benchmarks.work import Config, batch_rows, make_solver
from xpcap.backend import use_backend
from xpcap.device.launch import KernelLaunch
from xpcap.models.device_batch import DeviceNetwork
from xpcap.training.solver import CaptioningSolver

TINY = Config("tiny", N=5, D=12, W=6, H=10, V=40, dropout=0.4)
pytestmark = pytest.mark.slow


def test_emulated_paths_train_as_numpy_does_and_repeat_their_launches(
    device: Emulator, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(step_paths, "CONFIGS", {"coco-dropout": TINY})
    assert step_paths.main(["--captions", "5", "--steps", "6"]) == 0
    lines = capsys.readouterr().out.splitlines()
    rows = [line.split() for line in lines[1:6]]
    assert [row[0] for row in rows] == ["numpy", *step_paths.PATHS]
    assert [row[6] == "-" for row in rows] == [True, True, True, True, False]
    assert rows[4][7] != "-"
    assert all(float(row[2]) <= float(row[1]) <= float(row[3]) for row in rows)
    assert lines[6].startswith("5 captions: all train as NumPy does; ms a step: numpy ")


def test_emulated_path_that_computes_nothing_fails(
    device: Emulator, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(step_paths, "CONFIGS", {"coco-dropout": TINY})
    monkeypatch.setattr(
        KernelLaunch, "call", lambda self: lambda: None
    )  # a fault of the list alone
    assert step_paths.main(["--captions", "5", "--steps", "6"]) == 1
    assert "list does not train as NumPy does" in capsys.readouterr().out


def test_emulated_steps_that_are_launched_anew_are_padded(device: Emulator) -> None:
    """As the steps of training are, whose parts a profile shows."""
    with use_backend("cupy"):
        data = TINY.data(4)
        solver = make_solver(TINY, data)
        launch_anew(solver)
        sent = DeviceNetwork._sent
        padded = []
        with mock.patch.object(
            DeviceNetwork,
            "_sent",
            lambda *args: (part := sent(*args), padded.append(part.padded))[0],
        ):
            for captions in batch_rows(TINY, data):
                solver.train_batch(captions)
    assert len(padded) == 4
    assert sum(padded) >= 2


@pytest.mark.parametrize("leaks", [False, True])
def test_emulated_memory_that_grows_with_the_steps_is_named(
    leaks: bool,
    device: Emulator,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(steady, "CONFIGS", {"coco-dropout": TINY})
    if leaks:
        held: list[Any] = []
        train = CaptioningSolver.train_batch

        def leaking(solver: CaptioningSolver, captions: np.ndarray) -> None:
            held.append(solver.model.params.flat[:64].copy())
            train(solver, captions)

        monkeypatch.setattr(CaptioningSolver, "train_batch", leaking)
    assert steady.main(["--captions", "5", "--steps", "20"]) == leaks
    _, *rows, line = capsys.readouterr().out.splitlines()
    assert [row.split()[0] for row in rows] == [str(k) for k in range(2, 21, 2)]
    assert line.startswith("memory grows: " if leaks else "memory is flat at ")
    assert " of 20 batches fit; " in line
    assert line.endswith("; repeated as a list")


@pytest.mark.gpu
def test_paths_on_a_card_train_as_numpy_does() -> None:
    assert step_paths.main(["--captions", "25", "--steps", "20"]) == 0


@pytest.mark.parametrize(
    ("found", "line"),
    [
        (PathResult("list", 1, 0, 0, 0), "list repeats no launches"),
        (PathResult("list", 1, float("nan"), 0, 9), "list does not train as NumPy does"),
        (PathResult("list", 1, 0, 0, 9), "all train as NumPy does; ms a step: list 1.00"),
    ],
)
def test_a_summary_is_what_the_paths_show(found: Any, line: str) -> None:
    assert summary([found]).startswith(line)
