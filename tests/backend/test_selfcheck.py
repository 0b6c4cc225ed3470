"""The startup check, on the emulated device: fast code that is right is used; of any other a line
tells, and plain code computes.
"""

import contextlib
import functools
import itertools
import json
import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cpu_build
import numpy as np
import pytest
from commands import SMALL, call, few, good
from device_solver import make, make_data
from emulated import Emulator, install_or_skip
from emulated.record import cuda_error
from ranks import together
from refusals import refuses

import xpcap
from xpcap.backend import selfcheck
from xpcap.backend.launch import Kernel, Kernels
from xpcap.backend.plain_code import current_code
from xpcap.drawings import write_pictures
from xpcap.errors import BackendError, OptionError
from xpcap.models import Beam, Policy, Sampling
from xpcap.ops import device as ops_device
from xpcap.ops import get_ops
from xpcap.runs.folder import CONFIG, HISTORY
from xpcap.training import solver as solver_module

pytestmark = pytest.mark.usefixtures("few_threads")

is_stored = selfcheck.is_stored


@pytest.fixture(autouse=True)
def untried(device: Emulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU that nobody has tried."""
    monkeypatch.setattr(selfcheck, "is_stored", is_stored)
    monkeypatch.setenv("CUPY_CACHE_DIR", str(tmp_path / "kernels"))


@pytest.fixture
def check_lines(capsys: pytest.CaptureFixture[str]) -> Callable[[], list[str]]:
    """The lines of checks since the last call."""
    words = re.compile("CUDA kernels|plain code")
    return lambda: [line for line in capsys.readouterr().err.splitlines() if words.search(line)]


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


class CUBLASError(RuntimeError):
    """As CuPy's, which is only there with cuBLAS."""

    __module__ = "cupy_backends.cuda.libs.cublas"


def test_emulated_agreement_is_a_line_for_each_work_of_a_training(
    check_lines: Callable[[], list[str]],
) -> None:
    make("cupy", select="cider").warm_up()
    lines = check_lines()
    assert [line.split(": ")[1] for line in lines] == [
        f"emulated, {work}" for work in ("training", "scoring", "greedy decoding")
    ]
    assert all("CUDA kernels agree with plain code; the largest" in line for line in lines)
    make("cupy", batch_size=7).warm_up()
    assert ["training: CUDA kernels agree" in line for line in check_lines()] == [True]


def add_rows(sizes: str, computed: list[str]) -> str:
    """The code chosen for some small work; `computed` gets the code of each run."""
    with xpcap.use_backend("cupy"):
        x = xpcap.asarray(np.ones((2, 3), "f4"))

        def compute() -> dict[str, Any]:
            computed.append(current_code())
            return {"sum": get_ops(x).add_rows(x.copy(), x[0].copy())}

        return selfcheck.checked_code("adding", (sizes,), x, compute, runs=2)


CHECK = ["fast", "fast", "plain"]


@pytest.mark.parametrize("content", [None, "", "another GPU"])
def test_emulated_agreement_is_stored_and_checked_again_where_its_file_is_of_no_use(
    content: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It cannot be written, or is cut short, or not that of this work."""

    def codes_of(sizes: str) -> list[str]:
        """As another process computes it."""
        monkeypatch.setattr(selfcheck, "_codes", {})
        computed: list[str] = []
        for _ in range(2):
            assert add_rows(sizes, computed) == "fast"
        return computed

    if content is None:
        (tmp_path / "kernels").write_text("no folder")
    assert codes_of("2, 3") == CHECK
    if content is not None:
        assert codes_of("2, 3") == []
        assert codes_of("other sizes") == CHECK
    for file in (tmp_path / "kernels").glob("xpcap-agreement-*"):
        file.write_text(content or "")
    assert codes_of("2, 3") == CHECK


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
    assert output.count("CUDA kernels differ") == 1  # all that it computes is then plain
    assert "training: CUDA kernels differ from plain code by " in output
    assert "; going on with plain code, which is slower" in output
    assert json.loads((tmp_path / "cupy" / CONFIG).read_text())["code"] == "plain"
    histories = ((tmp_path / name / HISTORY).read_text() for name in ("numpy", "cupy"))
    losses = [[json.loads(line)["val_loss"] for line in text.splitlines()] for text in histories]
    np.testing.assert_allclose(*losses, rtol=1e-5)
    result = call(*cupy, "--resume")
    assert result.exit_code == 2
    assert "was begun by plain code" in result.output
    good(*cupy, "--resume", "--plain", "--epochs", 3)


POLICIES = Policy(max_length=6, forbid=[0]), Beam(3, max_length=6), Sampling(max_length=6, seed=1)
# Between them, what launches every kernel: options of a solver, and FUSED
FUSED = ops_device.FUSED
SETTINGS: list[tuple[dict[str, Any], int]] = [
    ({"inject": "init"}, FUSED),
    ({"inject": "every-step", "clip_norm": None, "dropout": 0.0, "hole": True}, FUSED),
    ({"inject": "attention+every-step", "batch_size": 24}, 8),
]


def work_of(setting: int, number: int, patch: pytest.MonkeyPatch) -> Any:
    """Do a work of a setting on a GPU: train, and return the solver, or caption by a policy."""
    options, fused = SETTINGS[setting]
    patch.setattr(ops_device, "FUSED", fused)
    solver = make("cupy", num_epochs=1, **options)
    if not number:
        solver.train()
        return solver
    features = solver.data.split("train").features
    return solver.model.sample(features, policy=POLICIES[number - 1])


@functools.cache
def launching() -> dict[str, tuple[int, int]]:
    """By kernel, the first work that launches it."""
    found: dict[str, tuple[int, int]] = {}
    with pytest.MonkeyPatch.context() as patch:
        device = install_or_skip(patch)
        patch.setattr(ops_device, "CUDA", cpu_build.FEW)
        for work in itertools.product(range(len(SETTINGS)), range(1 + len(POLICIES))):
            with device.counting() as counts:
                work_of(*work, patch)
            for launch in counts.launches:
                if launch.kind == "raw":
                    found.setdefault(launch.name, work)
    return found


def test_every_kernel_is_launched_by_a_work() -> None:
    assert launching().keys() == set(ops_device.CUDA.files)


@pytest.mark.parametrize("setting", range(len(SETTINGS)))
def test_emulated_error_of_a_kernel_leads_to_plain_code(
    setting: int, check_lines: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One kernel of each work that launches any for the first time: training and policies."""
    kernels = {work: kernel for kernel, work in launching().items() if work[0] == setting}
    failing, launch = list[str](), Kernel.__call__

    def fail(self: Kernel, *args: Any) -> None:
        if self.name in failing:
            raise cuda_error(701)
        launch(self, *args)

    monkeypatch.setattr(Kernel, "__call__", fail)
    numpy = make("numpy", num_epochs=1, **SETTINGS[setting][0])
    for (_, number), kernel in kernels.items():
        failing[:] = [kernel]
        monkeypatch.setattr(selfcheck, "_codes", {})
        result = work_of(setting, number, monkeypatch)
        lines = check_lines()
        assert any("CUDA kernels fail (CUDARuntimeError: " in line for line in lines), kernel
        if not number:
            trained = make("numpy", num_epochs=1, **SETTINGS[setting][0])
            trained.train()
            np.testing.assert_allclose(result.loss_history, trained.loss_history, rtol=5e-6)
            continue
        features = numpy.data.split("train").features
        captions = numpy.model.sample(features, policy=POLICIES[number - 1])
        np.testing.assert_array_equal(result, captions)


def test_emulated_error_of_a_product_leads_to_plain_code(
    check_lines: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first one, and the last one that differs from all before it in its sizes and flags."""
    import cupy

    sgemm, shapes, fails = cupy.cuda.cublas.sgemm, list[tuple[int, ...]](), [-1]

    def failing(*args: int) -> None:
        shapes.append(args[1:6])
        if len(shapes) == fails[0]:
            raise CUBLASError("CUBLAS_STATUS_EXECUTION_FAILED")
        sgemm(*args)

    monkeypatch.setattr(cupy.cuda.cublas, "sgemm", failing)
    make("cupy", inject="every-step").warm_up()
    last = max(map(shapes.index, shapes)) + 1
    assert last > 10
    monkeypatch.setattr(selfcheck, "is_stored", lambda key: False)
    for fails[0] in (1, last):
        monkeypatch.setattr(selfcheck, "_codes", {})
        shapes.clear()
        check_lines()
        make("cupy", inject="every-step").warm_up()
        assert "CUDA kernels fail (CUBLASError: CUBLAS_STATUS" in check_lines()[0], fails


def test_emulated_wrong_choice_of_words_is_found(
    check_lines: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernels of training are right; captions are those of plain code."""
    planted("words[blockIdx.x] = columns[0]", "words[blockIdx.x] = 1 - columns[0] % 2", monkeypatch)
    features = make_data().split("train").features
    found, expected = (
        make(backend).model.sample(features, policy=POLICIES[0]) for backend in ("cupy", "numpy")
    )
    np.testing.assert_array_equal(found, expected)
    greedy = check_lines()[0]
    assert "greedy decoding: CUDA kernels differ from plain code by " in greedy


def test_emulated_error_that_ends_all_work_says_what_to_type(
    few_pictures: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, device: Emulator
) -> None:
    """After it CuPy alone fails as well, until another process begins."""
    solver = make("cupy")

    def failing(*args: Any) -> None:
        raise cuda_error(700)

    def dies(self: Kernel, *args: Any) -> None:
        monkeypatch.setattr(device, "launch", failing)
        failing()

    monkeypatch.setattr(Kernel, "__call__", dies)
    result = call("train", "--out", tmp_path / "run", *SMALL, "--backend", "cupy")
    assert result.exit_code == 1
    assert isinstance(result.exception, SystemExit)
    last = result.output.splitlines()[-1]
    assert last.startswith("Error: emulated fails at training (CUDARuntimeError: ")
    assert last.endswith("start again with --plain, or --backend numpy")
    for _ in range(2):  # a second call is no way around the check
        with refuses(BackendError):
            solver.train()


COMMANDS = """evaluate run
train --out run --resume --epochs 3
caption run --split val
look run drawing.png
verify"""


@pytest.mark.parametrize("command", COMMANDS.splitlines())
@pytest.mark.usefixtures("few_pictures", "run")
def test_emulated_error_in_the_middle_of_a_command_is_a_message(
    command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What failed, and what to type: training goes on from its last checkpoint."""
    if command.startswith("look"):
        write_pictures("drawings", few(0), "val")
        next(Path("drawings").glob("*.png")).rename("drawing.png")
    monkeypatch.setattr(selfcheck, "is_stored", lambda key: True)  # tried, and right
    monkeypatch.setattr(selfcheck, "_codes", {})

    def failing(self: Kernel, *args: Any) -> None:
        raise cuda_error(719)

    monkeypatch.setattr(Kernel, "__call__", failing)
    result = call(*command.split(), "--backend", "cupy")
    assert isinstance(result.exception, SystemExit)
    assert result.exit_code == 1
    last = result.output.splitlines()[-1]
    assert "the GPU fails (CUDARuntimeError: cudaErrorLaunchFailure" in last
    assert "--backend numpy computes on the CPU" in last
    if command.startswith("train"):
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


@pytest.mark.parametrize("code", [contextlib.nullcontext, xpcap.plain], ids=["fast", "plain"])
def test_emulated_training_and_captions_need_no_reduction_that_may_not_compile(
    code: Callable[[], Any], device: Emulator, check_lines: Callable[[], list[str]]
) -> None:
    """Neither code reduces by CuPy's CUB, whose headers may not be found; fast code leaves it on."""
    device.cub_fails = True
    with code(), xpcap.use_backend("cupy"):
        solver = make("cupy", num_epochs=1)
        solver.train()
        for policy in POLICIES[:2]:
            solver.model.sample(solver.data.split("train").features, policy=policy)
    assert not any("fail" in line for line in check_lines())
    assert device.reduction_accelerators == ([] if code is xpcap.plain else ["cub"])


def test_emulated_ranks_run_the_same_code(
    check_lines: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """That of a rank whose GPU is wrong."""
    thread = threading.local()
    codes = "fast", "plain"
    monkeypatch.setattr(solver_module, "checked_code", lambda *args, **more: codes[thread.rank])

    def train(group: Any) -> Any:
        thread.rank = group.rank
        solver = make("cupy", group=group)
        solver.train_batch(np.arange(12))
        return solver

    with xpcap.use_backend("cupy"):  # which a rank that is done leaves in force
        solvers = together(2, train)
    assert [solver.code for solver in solvers] == ["plain", "plain"]
    assert [line.split("xpcap: ")[1] for line in check_lines()] == [
        "rank 1 runs plain code, so all ranks do"
    ]


def test_emulated_state_of_fast_code_is_not_continued_on_a_wrong_gpu(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first = make("cupy")
    first.train()
    state = first.state()
    monkeypatch.setattr(selfcheck, "_codes", {})
    monkeypatch.setattr(selfcheck, "is_stored", lambda key: False)
    planted("f * c_prev + i * g", "f * c_prev - i * g", monkeypatch)
    with refuses(OptionError, "was begun by fast code"):
        make("cupy").restore(state)
