"""The check at the start, on the emulated device: a fast way that is right is used; of any other a line
tells, and the plain way computes.
"""

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("PIL")  # test_emulated_step

from commands import SMALL, call, few, good
from emulated import Emulator, real
from ranks import together
from refusals import refuses
from test_emulated_step import make, make_data

import xpcap
from xpcap import selfcheck
from xpcap.device.launch import Kernel, Kernels
from xpcap.errors import BackendError, OptionError
from xpcap.models import Beam, Policy, Sampling
from xpcap.ops import device as ops_device
from xpcap.runs.folder import CONFIG, HISTORY
from xpcap.shapes import write_pictures
from xpcap.training import solver as solver_module

is_stored = selfcheck.is_stored
SMALL_STEPS: dict[str, Any] = {"inject": "init"}
HOLES: dict[str, Any] = {"inject": "every-step", "clip_norm": None, "dropout": 0.0, "hole": True}
LARGE: dict[str, Any] = {"batch_size": 24, "inject": "attention+every-step"}


@pytest.fixture(autouse=True)
def untried(device: Emulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A card that nobody has tried."""
    monkeypatch.setattr(selfcheck, "is_stored", is_stored)
    monkeypatch.setenv("CUPY_CACHE_DIR", str(tmp_path / "kernels"))


@pytest.fixture
def check_lines(capsys: pytest.CaptureFixture[str]) -> Callable[[], list[str]]:
    """The lines of checks since the last call."""
    return lambda: [
        line
        for line in capsys.readouterr().err.splitlines()
        if "CUDA kernels" in line or "plain way" in line
    ]


def planted(text: str, instead: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernels whose source differs."""
    read, hits = Kernels._read, list[str]()

    def mutated(self: Kernels, name: str) -> str:
        source = read(self, name)
        hits.extend([name] if text in source else [])
        return source.replace(text, instead)

    monkeypatch.setattr(Kernels, "_read", mutated)
    kernels = Kernels("xpcap.ops", ops_device.CUDA.constants, ops_device.CUDA.threads)
    monkeypatch.setattr(ops_device, "CUDA", kernels)
    kernels.files  # noqa: B018 - reads them all
    assert hits, "no kernel has this text"


def error(status: int) -> Exception:
    """An error of CUDA, as CuPy raises it."""
    failure: Exception = real.look_up("cuda.runtime.CUDARuntimeError")(status)
    return failure


class CUBLASError(RuntimeError):
    """As CuPy's, which is only there with cuBLAS."""

    __module__ = "cupy_backends.cuda.libs.cublas"


def check_is_numpys(solver: Any, **options: Any) -> None:
    """The losses are those of NumPy."""
    numpy = make("numpy", **options)
    numpy.train()
    np.testing.assert_allclose(solver.loss_history, numpy.loss_history, rtol=5e-6)


POLICIES = Policy(max_length=6, forbid=[0]), Beam(3, max_length=6), Sampling(max_length=6, seed=1)


def check_captions(solver: Any, **options: Any) -> None:
    """Captions by each policy are those of NumPy with the same parameters."""
    numpy, features = make("numpy", **options).model, make_data(inject=options["inject"])
    numpy.params.flat[...] = xpcap.to_numpy(solver.model.params.flat)
    for policy in POLICIES:
        ours, theirs = (
            model.sample(features.split("train").features, policy=policy)
            for model in (solver.model, numpy)
        )
        np.testing.assert_array_equal(ours, theirs)


def test_emulated_agreement_is_a_line_for_each_work_and_is_stored(
    device: Emulator, check_lines: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    solver = make("cupy", select="cider")
    solver.warm_up()
    lines = check_lines()
    assert [line.split(": ")[1] for line in lines] == [
        f"emulated, {work}" for work in ("training", "scoring", "greedy decoding")
    ]
    assert all("CUDA kernels agree with the plain equations; the largest" in line for line in lines)
    with device.counting() as counts:
        make("cupy", select="cider").warm_up()
    assert check_lines() == []
    monkeypatch.setattr(selfcheck, "_ways", {})  # as in another process
    with device.counting() as again:
        make("cupy", select="cider").warm_up()
    assert check_lines() == []
    assert again.names() == counts.names()
    make("cupy", batch_size=7).warm_up()
    assert ["training: CUDA kernels agree" in line for line in check_lines()] == [True]


@pytest.mark.parametrize("content", [None, "", "another card"])
def test_emulated_agreement_whose_file_is_of_no_use_is_checked_again(
    content: str | None,
    tmp_path: Path,
    check_lines: Callable[[], list[str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It cannot be written, or is cut short, or not that of this work."""
    if content is None:
        (tmp_path / "kernels").write_text("no folder")
    make("cupy").warm_up()
    for file in (tmp_path / "kernels").glob("xpcap-agreement-*"):
        file.write_text(content or "")
    before = check_lines()
    monkeypatch.setattr(selfcheck, "_ways", {})
    make("cupy").warm_up()
    assert check_lines() == before != []


def test_emulated_flipped_sign_is_found_and_the_plain_way_trains(
    check_lines: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    planted("f * c_prev + i * g", "f * c_prev - i * g", monkeypatch)
    solver = make("cupy")
    solver.train()
    (training, *others) = check_lines()
    assert "training: CUDA kernels differ from the plain equations by " in training
    assert "; going on in the plain way, which is slower" in training
    assert others == []  # all that the solver computes is plain
    assert solver.way == solver.state().meta["way"] == "plain"
    check_is_numpys(solver)


def test_emulated_run_on_a_wrong_kernel_is_numpys_and_says_plain(
    few_pictures: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command's numbers, config.json, and how it goes on."""
    numpy, cupy = (
        ("train", "--out", tmp_path / backend, *SMALL, "--backend", backend)
        for backend in ("numpy", "cupy")
    )
    good(*numpy)
    planted("f * c_prev + i * g", "f * c_prev - i * g", monkeypatch)
    output = good(*cupy).output
    assert output.count("CUDA kernels differ") == 1
    assert json.loads((tmp_path / "cupy" / CONFIG).read_text())["way"] == "plain"
    losses = [
        [
            json.loads(line)["val_loss"]
            for line in (tmp_path / name / HISTORY).read_text().splitlines()
        ]
        for name in ("numpy", "cupy")
    ]
    np.testing.assert_allclose(*losses, rtol=1e-5)
    result = call(*cupy, "--resume")
    assert result.exit_code == 2
    assert "began in the plain way" in result.output
    good(*cupy, "--resume", "--plain", "--epochs", 3)


def kernels() -> list[str]:
    return sorted(ops_device.CUDA.files)


@pytest.mark.parametrize("kernel", kernels())
def test_emulated_error_of_a_kernel_leads_to_the_plain_way(
    kernel: str, check_lines: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each kernel of training, scoring and decoding in turn, of whatever cell and entry of the image."""
    launch, hits = Kernel.__call__, list[str]()

    def failing(self: Kernel, *args: Any) -> None:
        if self.name == kernel:
            hits.append(kernel)
            raise error(701)
        launch(self, *args)

    monkeypatch.setattr(Kernel, "__call__", failing)
    for options in (SMALL_STEPS, HOLES, LARGE):
        if options is LARGE:
            monkeypatch.setattr("xpcap.ops.device.FUSED", 8)
        solver = make("cupy", num_epochs=1, **options)
        solver.warm_up()
        check_captions(solver, **options)
        if hits:
            break
    assert hits, "no work launches it"
    assert any("CUDA kernels fail (CUDARuntimeError: " in line for line in check_lines())
    solver.train()
    check_is_numpys(solver, num_epochs=1, **options)


def test_emulated_error_of_each_product_leads_to_the_plain_way(
    check_lines: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each that differs from all before it in its sizes and flags."""
    import cupy

    sgemm, shapes, fails = cupy.cuda.cublas.sgemm, list[tuple[int, ...]](), [-1]

    def failing(*args: int) -> None:
        shapes.append(args[1:6])
        if len(shapes) == fails[0]:
            raise CUBLASError("CUBLAS_STATUS_EXECUTION_FAILED")
        sgemm(*args)

    monkeypatch.setattr(cupy.cuda.cublas, "sgemm", failing)
    make("cupy", inject="every-step").warm_up()
    first = [shapes.index(shape) + 1 for shape in dict.fromkeys(shapes)]
    monkeypatch.setattr(selfcheck, "is_stored", lambda key: False)
    for fails[0] in first:
        monkeypatch.setattr(selfcheck, "_ways", {})
        shapes.clear()
        check_lines()
        make("cupy", inject="every-step").warm_up()
        assert "CUDA kernels fail (CUBLASError: CUBLAS_STATUS" in check_lines()[0], fails


def test_emulated_wrong_choice_of_words_is_found(
    check_lines: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernels of training are right; captions are those of the plain way."""
    planted("words[blockIdx.x] = places[0]", "words[blockIdx.x] = 1 - places[0] % 2", monkeypatch)
    solver = make("cupy", inject="init")
    check_captions(solver, inject="init")
    greedy = check_lines()[0]
    assert "greedy decoding: CUDA kernels differ from the plain equations by " in greedy


def test_emulated_error_that_ends_all_work_says_what_to_type(
    few_pictures: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, device: Emulator
) -> None:
    """After it CuPy alone fails as well, until another process begins."""
    launch, solver = device.launch, make("cupy")

    def failing(*args: Any) -> None:
        raise error(700)

    def dies(self: Kernel, *args: Any) -> None:
        monkeypatch.setattr(device, "launch", failing)
        failing()

    monkeypatch.setattr(Kernel, "__call__", dies)
    result = call("train", "--out", tmp_path / "run", *SMALL, "--backend", "cupy")
    assert result.exit_code == 1
    assert isinstance(result.exception, SystemExit)
    last = result.output.splitlines()[-1]
    assert last.startswith("Error: checked_way: emulated fails at training (CUDARuntimeError: ")
    assert last.endswith("start again with --plain, or --backend numpy")
    for _ in range(2):  # a second call is no way around the check
        with refuses(BackendError, function="checked_way"):
            solver.train()
    monkeypatch.setattr(device, "launch", launch)
    good("train", "--out", tmp_path / "run", *SMALL, "--backend", "cupy", "--plain")


@pytest.mark.parametrize(
    "command",
    [
        ["evaluate", "run"],
        ["train", "--out", "run", "--resume", "--epochs", 3],
        ["caption", "run", "--split", "val"],
        ["look", "run", "drawing.png"],
        ["verify"],
    ],
    ids=lambda command: command[0],
)
@pytest.mark.usefixtures("few_pictures", "run")
def test_emulated_error_in_the_middle_of_a_command_is_a_message(
    command: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What failed, and what to type: training goes on from its last checkpoint."""
    if command[0] == "look":
        write_pictures("drawings", few(0), "val")
        next(Path("drawings").glob("*.png")).rename("drawing.png")
    monkeypatch.setattr(selfcheck, "is_stored", lambda key: True)  # tried, and right
    monkeypatch.setattr(selfcheck, "_ways", {})

    def failing(self: Kernel, *args: Any) -> None:
        raise error(719)

    monkeypatch.setattr(Kernel, "__call__", failing)
    result = call(*command, "--backend", "cupy")
    assert isinstance(result.exception, SystemExit)
    assert result.exit_code == 1
    last = result.output.splitlines()[-1]
    assert "the GPU fails (CUDARuntimeError: cudaErrorLaunchFailure" in last
    assert "--backend numpy computes on the CPU" in last
    if command[0] == "train":
        assert "continue with: " in last
        assert "train --out run --resume --backend numpy" in last


class OthersBeam(Beam):
    """A policy of somebody else's."""


def test_emulated_policy_from_elsewhere_vouches_for_greedy_decoding_alone(
    check_lines: Callable[[], list[str]],
) -> None:
    model, features = make("cupy").model, make_data().split("train").features
    for policy in (OthersBeam(3, max_length=6), Beam(3, max_length=6)):
        model.sample(features, policy=policy)
    assert [line.split(": ")[1] for line in check_lines()] == [
        "emulated, greedy decoding",
        "emulated, beam decoding",
    ]


@pytest.mark.parametrize("more", [[], ["--plain"]], ids=["fast", "plain"])
def test_emulated_training_and_captions_need_no_reduction_that_may_not_compile(
    more: list[str], device: Emulator, few_pictures: None
) -> None:
    """Neither way takes CuPy's with CUB, whose headers may not be found; the fast way leaves it on."""
    device.cub_fails = True
    output = good("train", "--out", "run", *SMALL, "--backend", "cupy", *more).output
    assert "CUDA kernels fail" not in output
    for beam in (1, 3):
        good("caption", "run", "--split", "val", "--backend", "cupy", "--beam", beam, *more)
    assert device.reduction_accelerators == ([] if more else ["cub"])


def test_emulated_ranks_go_one_way(
    check_lines: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """That of a rank whose card is wrong."""
    thread = threading.local()
    ways = "fast", "plain"
    monkeypatch.setattr(solver_module, "checked_way", lambda *args, **more: ways[thread.rank])

    def train(group: Any) -> Any:
        thread.rank = group.rank
        solver = make("cupy", group=group)
        solver.train_batch(np.arange(12))
        return solver

    with xpcap.use_backend("cupy"):  # which a rank that is done leaves in force
        solvers = together(2, train)
    assert [solver.way for solver in solvers] == ["plain", "plain"]
    assert [line.split("xpcap: ")[1] for line in check_lines()] == [
        "rank 1 computes in the plain way, so all ranks do"
    ]


def test_emulated_state_of_the_fast_way_is_not_continued_on_a_wrong_card(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first = make("cupy")
    first.train()
    state = first.state()
    monkeypatch.setattr(selfcheck, "_ways", {})
    monkeypatch.setattr(selfcheck, "is_stored", lambda key: False)
    planted("f * c_prev + i * g", "f * c_prev - i * g", monkeypatch)
    with refuses(OptionError, got="began in the fast way"):
        make("cupy").restore(state)
