"""The ten minutes that a check of a card begins with: eight answers, whatever becomes of one, and a
verdict that names a fault.
"""

import ctypes
import functools
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
from emulated import Emulator
from emulated.blas import CUBLAS
from emulated.cuda import Stream

from benchmarks import captured, step_profile, ten_minutes
from benchmarks.step_paths import draw_batches, on_path
from benchmarks.work import Config
from xpcap.backend import to_numpy
from xpcap.device.launch import Kernels
from xpcap.ops import device as device_ops

TINY = Config("tiny", N=5, D=12, W=6, H=10, V=40, dropout=0.4)
WORDS = ["--captions", "5", "--steps", "4"]
pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def small(device: Emulator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ten_minutes, "CONFIGS", {"coco-dropout": TINY})
    monkeypatch.setattr(ten_minutes, "REPEATS", 2)
    monkeypatch.setattr(ten_minutes, "overridden", lambda _: ["matmul", "argmax", "cell_steps"])
    monkeypatch.setattr(step_profile, "PRODUCT", 16)


def answers(text: str) -> list[str]:
    """What is printed under each title."""
    found = text.strip().split("\n\n")
    assert [answer.splitlines()[0] for answer in found] == [
        f"{number}. {title}" for number, title in enumerate(ten_minutes.ANSWERS, 1)
    ]
    return ["\n".join(answer.splitlines()[1:]) for answer in found]


def test_emulated_ten_minutes_give_eight_answers_with_numbers(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert ten_minutes.main(WORDS) == 0
    runs, spills, ops, first, paths, launches, product, verdict = answers(capsys.readouterr().out)
    assert "headers: " in runs
    assert f"xpcap's {len(device_ops.CUDA.files)} kernels " in runs
    assert len(spills.splitlines()) == 1 + len(device_ops.CUDA.files)
    assert [row.split()[0] for row in ops.splitlines()[1:]] == ["matmul", "argmax", "cell_steps"]
    assert [row.split()[0] for row in first.splitlines()[2:]] == ["fast", "repeated", "plain"]
    why, _, *rows = paths.splitlines()
    assert why.startswith("no graph: ")
    assert [row.split()[0] for row in rows] == ["plain", "unpadded", "padded", "list,", "list"]
    assert launches.splitlines()[-1].startswith(f"{len(launches.splitlines()) - 2} launches, ")
    assert {"gemm", "lstm_step"} < {row.split()[0] for row in launches.splitlines()}
    assert product.endswith(" us, the same bits")
    assert verdict.startswith("emulated, driver ")
    assert ": CUDA kernels agree (" in verdict
    assert "; FUSED " in verdict


def test_emulated_ten_minutes_name_a_kernel_that_computes_wrongly(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    read, cuda = Kernels._read, device_ops.CUDA  # private: where a text comes from
    monkeypatch.setattr(cuda, "_loaded", {})
    monkeypatch.setattr(cuda, "source", functools.cache(cuda._source))
    monkeypatch.setattr(
        Kernels, "_read", lambda self, name: read(self, name).replace("+ i * g", "- i * g")
    )
    assert ten_minutes.main(WORDS) == 1
    _, _, ops, first, *_, verdict = answers(capsys.readouterr().out)
    assert ops.startswith("FAILED: cell_steps: ArithmeticError: wrong by ")
    assert float(first.splitlines()[2].split()[1]) > 1e-3 > float(first.splitlines()[4].split()[1])
    assert ": --plain helps; 3 faults; cell_steps: " in verdict
    assert "; the first step, fast, is wrong in " in verdict


def test_emulated_ten_minutes_go_on_after_an_answer_that_fails(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(*_: object) -> None:
        raise RuntimeError("CUDA_ERROR_INVALID_IMAGE\nand a page of advice")

    monkeypatch.setattr(ten_minutes, "load", fails)
    assert ten_minutes.main(WORDS) == 1
    runs, spills, *others, verdict = answers(capsys.readouterr().out)
    failed = "RuntimeError: CUDA_ERROR_INVALID_IMAGE (test_ten_minutes.py:"
    assert f"FAILED: What runs: {failed}" in runs
    assert f"FAILED: softmax_loss: {failed}" in spills
    assert others[-1].endswith(" us, the same bits")
    assert f"softmax_loss: {failed}" in verdict


def test_emulated_launches_of_a_capture_compute_what_the_record_does(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Products by ctypes and C's types; a graph that launches nothing is then found out."""

    class Gemm:
        argtypes: Any

        def __call__(self, *given: Any) -> int:
            values = (getattr(x, "value", x) for x in given)
            CUBLAS.sgemm(*(C(x).value for C, x in zip(self.argtypes, values, strict=True)))
            return 0

    def end_capture(self: Stream) -> Any:
        self.synchronize()
        return SimpleNamespace(launch=lambda: None)

    succeeds = Mock(return_value=0)
    library = SimpleNamespace(
        cublasSgemm_v2=Gemm(), cublasSetStream_v2=succeeds, cublasSetWorkspace_v2=succeeds
    )
    pathfinder = pytest.importorskip("cuda.pathfinder")
    monkeypatch.setattr(
        pathfinder, "load_nvidia_dynamic_lib", lambda _: SimpleNamespace(abs_path="")
    )
    monkeypatch.setattr(ctypes, "CDLL", lambda _: library)
    monkeypatch.setattr(Stream, "begin_capture", lambda self: None, raising=False)
    monkeypatch.setattr(Stream, "end_capture", end_capture, raising=False)
    with on_path("list", TINY, TINY.data(8)) as solver:
        replay = solver._workspace.replay
        for captions in draw_batches(TINY, 8):
            expected = ten_minutes.gradients(solver, captions)
            if replay.nodes:
                break
        loss, grads = replay._result
        grads.flat[...] = 0
        captured.Captured(replay)
        assert {name: to_numpy(x).tobytes() for name, x in {"loss": loss, **grads}.items()} == {
            name: x.tobytes() for name, x in expected.items()
        }
        check = ten_minutes.Check(TINY, 4)
        ten_minutes.paths(check)
    assert "graph" not in check.times
    assert "no graph: ArithmeticError: the graph differs " in capsys.readouterr().out
