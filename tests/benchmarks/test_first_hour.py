"""What the first hour with a GPU runs, on the emulated device: eight answers, whatever becomes of
one, with a verdict that names a fault; and paths of a step that train as NumPy does.
"""

import functools
from typing import Any

import numpy as np
import pytest
from emulated import Emulator

from benchmarks import gpu, step_paths, ten_minutes
from benchmarks.step_paths import PathResult, summary
from benchmarks.work import Config
from xpcap.backend.launch import KernelLaunch, Kernels
from xpcap.ops import device as device_ops
from xpcap.training.solver import CaptioningSolver

TINY = Config("tiny", N=5, D=12, W=6, H=10, V=40)
WORDS = ["--captions", "5", "--steps", "4"]


@pytest.fixture
def small(device: Emulator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step_paths, "CONFIGS", {"coco": TINY})
    monkeypatch.setattr(ten_minutes, "REPEATS", 2)
    monkeypatch.setattr(ten_minutes, "overridden", lambda _: ["matmul", "argmax", "cell_steps"])
    monkeypatch.setattr(ten_minutes, "PRODUCT", 16)


def answers(text: str) -> list[str]:
    """What is printed under each title."""
    found = text.strip().split("\n\n")
    assert [answer.splitlines()[0] for answer in found] == [
        f"{number}. {title}" for number, title in enumerate(ten_minutes.ANSWERS, 1)
    ]
    return ["\n".join(answer.splitlines()[1:]) for answer in found]


@pytest.mark.slow
@pytest.mark.usefixtures("small")
def test_emulated_ten_minutes_give_eight_answers_with_numbers(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert ten_minutes.main(WORDS) == 0
    runs, spills, ops, first, paths, launches, product, verdict = answers(capsys.readouterr().out)
    assert f"xpcap's {len(device_ops.CUDA.files)} kernels " in runs
    assert len(spills.splitlines()) == 1 + len(device_ops.CUDA.files)
    assert [row.split()[0] for row in ops.splitlines()[1:]] == ["matmul", "argmax", "cell_steps"]
    assert [row.split()[0] for row in first.splitlines()[2:]] == ["fast", "repeated", "plain"]
    assert [row.split("  ")[0] for row in paths.splitlines()[1:]] == list(step_paths.PATHS)
    assert launches.splitlines()[-1].startswith(f"{len(launches.splitlines()) - 2} launches, ")
    assert {"gemm", "lstm_step"} < {row.split()[0] for row in launches.splitlines()}
    assert float(product.rpartition(" us, difference ")[2]) < 1e-5
    assert verdict.startswith("emulated, driver ")
    assert ": CUDA kernels agree (" in verdict
    assert "; FUSED " in verdict


@pytest.mark.slow
@pytest.mark.usefixtures("small")
def test_emulated_ten_minutes_name_what_is_wrong_and_go_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A kernel that computes wrongly, and an answer that fails."""
    read, cuda = Kernels._read, device_ops.CUDA  # private: where a text comes from

    def fails(*_: object) -> None:
        raise RuntimeError("CUDA_ERROR_INVALID_IMAGE\nand a page of advice")

    monkeypatch.setattr(cuda, "_loaded", {})
    monkeypatch.setattr(cuda, "source", functools.cache(cuda._source))
    monkeypatch.setattr(
        Kernels, "_read", lambda self, name: read(self, name).replace("+ i * g", "- i * g")
    )
    monkeypatch.setattr(ten_minutes, "load", fails)
    assert ten_minutes.main(WORDS) == 1
    runs, spills, ops, first, *others, verdict = answers(capsys.readouterr().out)
    failed = "RuntimeError: CUDA_ERROR_INVALID_IMAGE (test_first_hour.py:"
    assert f"FAILED: What runs: {failed}" in runs
    assert f"FAILED: softmax_loss: {failed}" in spills
    assert ops.startswith("FAILED: cell_steps: ArithmeticError: wrong by ")
    assert float(first.splitlines()[2].split()[1]) > 1e-3 > float(first.splitlines()[4].split()[1])
    assert " us, difference " in others[-1]
    assert ": --plain helps; " in verdict
    assert f"softmax_loss: {failed}" in verdict


@pytest.mark.usefixtures("device")
def test_emulated_libraries_are_named_with_the_gpu_and_the_variables(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "0")
    assert gpu.libraries().startswith("emulated, driver ")
    lines = capsys.readouterr().out.splitlines()
    assert "NVIDIA_TF32_OVERRIDE=0" in lines
    assert any(line.startswith("cupy-cuda") and ", installed by " in line for line in lines)
    for name in (*gpu.LIBRARIES, "headers"):
        assert any(line.startswith(f"{name}: ") for line in lines)


@pytest.mark.slow
@pytest.mark.usefixtures("small")
def test_emulated_paths_train_as_numpy_does_and_repeat_their_launches(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert step_paths.main(["--captions", "5", "--steps", "10"]) == 0
    *rows, line = capsys.readouterr().out.splitlines()[1:]
    assert [row.split("  ")[0] for row in rows] == ["numpy", *step_paths.PATHS]
    numbers = [row.replace(", FUSED 0", "").split() for row in rows]
    assert [row[6] == "-" for row in numbers] == [True, True, True, True, False, False]
    assert int(numbers[4][6]) > int(numbers[5][6])  # launches, without FUSED and with it
    assert all(float(row[2]) <= float(row[1]) <= float(row[3]) for row in numbers)
    assert line.startswith("5 captions: all train as NumPy does; ms a step: numpy ")


@pytest.mark.slow
@pytest.mark.usefixtures("small")
def test_emulated_paths_that_compute_nothing_or_leak_are_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The first fault is the list's alone."""
    held: list[Any] = []
    train = CaptioningSolver.train_batch

    def leaking(solver: CaptioningSolver, captions: np.ndarray) -> None:
        held.append(solver.model.params.flat[:64].copy())
        train(solver, captions)

    monkeypatch.setattr(KernelLaunch, "call", lambda self: lambda: None)
    monkeypatch.setattr(CaptioningSolver, "train_batch", leaking)
    assert step_paths.main(["--captions", "5", "--steps", "10"]) == 1
    line = capsys.readouterr().out
    assert "; list does not train as NumPy does" in line
    assert "padded takes more memory from block to block" in line


@pytest.mark.parametrize(
    ("launches", "loss", "says"),
    [
        (0, 0.0, "list repeats no launches"),
        (9, float("nan"), "list does not train as NumPy does"),
        (9, 0.0, "all train as NumPy does; ms a step: list 1.00"),
    ],
)
def test_a_summary_is_what_the_paths_show(launches: int, loss: float, says: str) -> None:
    assert summary([PathResult("list", [1.0], loss, 0.0, launches)]).startswith(says)


@pytest.mark.gpu
def test_paths_on_a_gpu_train_as_numpy_does() -> None:
    assert step_paths.main(["--captions", "25", "--steps", "20"]) == 0
