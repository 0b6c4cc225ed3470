"""Timings: the right work at the right sizes, clocked outside the warm-up, beside peers that do the
same. How fast it is, no test says.
"""

import dataclasses
import importlib.util
import json
import os
import re
import subprocess
import sys
import textwrap
import types
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import click
import numpy as np
import pytest
from click.testing import CliRunner, Result
from emulated import Emulator
from refusals import refuses

from benchmarks import __main__ as command
from benchmarks import (
    contenders,
    measure,
    parts,
    ranks,
    results,
    step_profile,
    timing,
    work,
)
from benchmarks.measure import Measurement
from benchmarks.textbook import Textbook
from benchmarks.timing import Timer, host_clock
from benchmarks.work import (
    BEAMS,
    BESIDE,
    MOST_WORDS,
    SAMPLING,
    TRAINING,
    sampling_flops,
    training_flops,
)
from xpcap import backend
from xpcap.data.synthetic import LIKE_COCO, draw_data
from xpcap.device import probe
from xpcap.errors import BackendError, OptionError
from xpcap.models import network
from xpcap.ops import HostOps, overridden
from xpcap.runs.recipe import PRESETS

DOCS = (Path(__file__).parents[2] / "benchmarks" / "README.md").read_text(encoding="utf-8")
POPEN = subprocess.Popen
TINY = work.Config("tiny", N=5, D=12, W=6, H=10, V=40)
OTHER = work.Config("other", N=3, D=4, W=5, H=6, V=30)
BRIEF = timing.Plan(rounds=2, batches=2, warm_ms=0, blocks=1, block_ms=0, product=64)
PEERS = ["textbook", "torch padded", "torch packed"]
TORCH = pytest.mark.skipif(
    importlib.util.find_spec("torch") is None,
    reason="torch is not installed: no peer to compare with",
)
LAYOUTS = pytest.mark.parametrize("layout", ["padded", "packed"])
pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def numpy_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(backend.VARIABLE, raising=False)
    monkeypatch.setattr(backend, "_active", None)  # private: nothing else forgets a choice
    for name in results.REDUCED_PRECISION:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every configuration tiny, and timed briefly, in this process."""

    def machine_here(name: str) -> dict[str, str]:
        backend.use_backend(name)
        return timing.machine()

    sizes = {
        name: dataclasses.replace(
            config, N=TINY.N, D=TINY.D, W=TINY.W, H=TINY.H, V=TINY.V, P=min(config.P, 3)
        )
        for name, config in work.CONFIGS.items()
    }
    monkeypatch.setattr(work, "CONFIGS", sizes)
    monkeypatch.setattr(timing, "USUAL", BRIEF)
    monkeypatch.setattr(measure, "machine_in_process", machine_here)
    monkeypatch.setattr(results, "measure_in_process", measure.measure)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """PyTorch on one thread: beside other work on the machine its threads wait for one another,
    small as the work is.
    """
    torch = sys.modules.get("torch") or (
        importlib.util.find_spec("torch") and importlib.import_module("torch")
    )
    threads = torch.get_num_threads() if torch else 0
    if torch:
        torch.set_num_threads(1)
    yield
    if torch:
        torch.set_num_threads(threads)


# What is timed


def test_configurations_on_a_gpu_are_those_that_are_compared_elsewhere() -> None:
    assert work.usual("numpy") == ["notebook", "coco", "flickr8k", "large", "vocab10k"]
    on_a_gpu = [work.CONFIGS[name] for name in work.usual("cupy")]
    assert {(N, V) for N in (25, 64, 128, 512) for V in (1004, 10000)} <= {
        (c.N, c.V) for c in on_a_gpu
    }
    coco, flickr8k = work.CONFIGS["coco"], work.CONFIGS["flickr8k"]
    assert (
        dataclasses.replace(coco, name="coco-dropout", dropout=PRESETS["usual"]["dropout"])
        in on_a_gpu
    )
    assert dataclasses.replace(flickr8k, name="flickr8k-v2540", V=2540) in on_a_gpu


def test_docs_list_the_configurations() -> None:
    for name, c in work.CONFIGS.items():
        if not re.search(r"vocab10k-n\d+", name):
            assert f"| {name} | {c.N} | {c.D} | {c.W} | {c.H} | {c.V} |" in DOCS
    assert "| vocab10k-n25, -n64, -n512 | 25, 64, 512 | 512 | 512 | 512 | 10000 |" in DOCS


def test_captions_are_as_long_and_words_as_common_as_stated() -> None:
    data = draw_data(4000, 3, 1004, seed=1)
    captions, vocabulary = data.split("train").captions, data.vocabulary
    assert captions.shape == (4000, 17)
    assert (captions[:, 0] == vocabulary.start).all()
    ends = np.argmax(captions == vocabulary.end, axis=1)
    words = ends - 1
    assert (words.min(), words.max()) == (LIKE_COCO.low, LIKE_COCO.high)
    assert words.mean() == pytest.approx(10.5, abs=0.15)
    assert words.std() == pytest.approx(2.2, abs=0.2)  # clipping takes a little
    column = np.arange(17)
    assert (captions[column > ends[:, None]] == vocabulary.null).all()
    said = captions[(column > 0) & (column < ends[:, None])]
    assert (said >= 4).all()
    count = np.bincount(said, minlength=1004)[4:]
    assert count[:10] / count.sum() == pytest.approx(
        1 / np.arange(1, 11) / (1 / np.arange(1, 1001)).sum(), rel=0.15
    )
    np.testing.assert_array_equal(
        captions, draw_data(4000, 3, 1004, seed=1).split("train").captions
    )


def test_captions_of_the_ending_model_end_and_vary_as_the_data_do() -> None:
    config = dataclasses.replace(work.CONFIGS["coco"], D=64, W=32, H=64)
    data = config.data(1)
    captions = work.make_ending_model(config, data).sample(config.pictures(), max_length=40)
    null, start, end, unk = range(4)
    assert data.vocabulary.idx_to_word[:4] == ["<NULL>", "<START>", "<END>", "<UNK>"]
    length = np.argmax(captions == end, axis=1) + 1
    assert (np.count_nonzero(captions == end, axis=1) == 1).all()
    assert (captions[np.arange(40) >= length[:, None]] == null).all()
    assert length.mean() == pytest.approx(LIKE_COCO.mean + 1, abs=0.3)
    assert length.std() == pytest.approx(LIKE_COCO.deviation, abs=0.3)
    said = captions[np.arange(40) < length[:, None] - 1]
    assert not np.isin(said, (null, start, unk)).any()
    assert len(np.unique(said)) > 300
    assert len(np.unique(captions, axis=0)) > 700


def test_arithmetic_is_that_of_words_that_are_there() -> None:
    config = work.Config("by hand", N=2, D=3, W=5, H=7, V=11)
    captions = np.array(
        [[1, 4, 5, 2, 0], [1, 4, 2, 0, 0]]
    )  # live rows: START 4 5, START 4; distinct input words: START 4 5
    projection = 2 * (2 * 2 * 3 * 7)
    words = 3 * (2 * 3 * 5 * 28)
    recurrent = 3 * (2 * 5 * 7 * 28)
    vocabulary = 3 * (2 * 5 * 7 * 11)
    assert training_flops(config, [captions], null=0) == projection + words + recurrent + vocabulary
    shorter = np.array([[1, 2, 0], [1, 2, 0]])
    less = projection + 3 * (2 * 1 * 5 * 28) + 3 * (2 * 2 * 7 * 28) + 3 * (2 * 2 * 7 * 11)
    assert (
        training_flops(config, [captions, shorter], null=0)
        == (projection + words + recurrent + vocabulary + less) / 2
    )
    said = np.array(
        [[4, 5, 4, 6], [4, 2, 0, 0]]
    )  # fed in: START 4 5; 6 comes last, and END is not fed
    assert sampling_flops(config, said, null=0, end=2) == 2 * 2 * 3 * 7 + 2 * 3 * 5 * 28 + 6 * (
        2 * 7 * 28 + 2 * 7 * 11
    )
    wide = sampling_flops(
        config, said, null=0, end=2, width=3
    )  # two first words, and three hypotheses for each of four others
    assert wide == 2 * 2 * 3 * 7 + 2 * 3 * 5 * 28 + (2 + 3 * 4) * (2 * 7 * 28 + 2 * 7 * 11)


# How


def a_clock(steps: list[int], blocks: list[int], ms: float) -> Any:
    """A clock by which a step takes ms milliseconds, each of the first two a hundred times as long,
    as if kernels were compiled in them.
    """

    def clock(work: Any) -> float:
        before = len(steps)
        work()
        blocks.append(len(steps) - before)
        return ms * (blocks[-1] + 99 * max(0, min(2, len(steps)) - before))

    return clock


def test_blocks_are_whole_cycles_and_the_warm_up_is_not_among_them() -> None:
    steps: list[int] = []
    blocks: list[int] = []
    timer = Timer(
        steps.append,
        a_clock(steps, blocks, 10),
        timing.Plan(batches=2, warm_ms=55, blocks=3, block_ms=55),
    )
    timer.warm_up()
    assert blocks == [
        2,
        2,
        2,
        2,
    ]  # 2000 milliseconds, which say nothing of how slow a step is, then three times 20
    assert timer.run(between=lambda: blocks.append(0)) == 10
    assert blocks[4:] == [
        0,
        2,
        6,
        0,
        2,
        6,
        0,
        2,
        6,
        0,
    ]  # after what came between a cycle untimed; three cycles of 20 milliseconds are at least 55
    assert steps == [0, 1] * (len(steps) // 2)


def test_slow_steps_are_warmed_up_by_two_cycles_and_timed_three_times_in_all_rounds() -> None:
    steps: list[int] = []
    blocks: list[int] = []
    timer = Timer(
        steps.append,
        a_clock(steps, blocks, 600),
        timing.Plan(rounds=2, batches=2, warm_ms=9000, blocks=3),
    )
    timer.warm_up()
    assert timer.run() == 600
    assert blocks == [2, 2, 2, 2]  # two blocks of a cycle in each of two rounds


def test_a_block_keeps_no_loss() -> None:
    losses: list[weakref.ref[np.ndarray]] = []
    alive: list[int] = []

    def step(_: int) -> np.ndarray:
        alive.append(sum(loss() is not None for loss in losses))
        losses.append(weakref.ref(loss := np.zeros(())))
        return loss

    Timer(step, host_clock, timing.Plan(warm_ms=0, block_ms=0)).warm_up()
    assert len(alive) == 6
    assert not any(alive)


def test_what_is_timed_trains() -> None:
    data = TINY.data(2)
    job = contenders.CONTENDERS["xpcap"].train(TINY, data, "numpy")
    assert isinstance(job, work.Job)
    losses = [float(job.step(k % 2)) for k in range(60)]  # type: ignore[arg-type]
    assert np.mean(losses[-2:]) < 0.98 * np.mean(losses[:2])
    assert job.clock is host_clock


def test_contenders_take_turns_at_each_configuration_and_are_compared_round_by_round(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    turns: list[tuple[str, list[str]]] = []
    ms = {
        "xpcap": [9.0, 2.0, 1.0],
        "textbook": [90.0, 10.0, 7.0],
        "torch padded": [9.0, 4.0, 1.5],
        "torch packed": [1.0, 1.0, 8.0],
    }
    rounds = {(name, kind): iter(times) for name, times in ms.items() for kind in work.WORKS}

    def fake(contender: str, configs: Any, plan: Any, name: str, works: Any) -> Any:
        assert name == "numpy"
        turns.append((contender, [config.name for config in configs]))
        gemm = 100.0 if contender == "xpcap" else None
        return [
            Measurement(next(rounds[contender, work]), 50.0, 40.0, gemm, 0.25, 7_000_000)
            for work in works
        ]

    monkeypatch.setattr(results, "measure_in_process", fake)
    # private: it imports PyTorch, of which these tables need nothing but a version
    monkeypatch.setattr(results, "_check_peers", lambda peers, name: {"torch": "0"})
    result, sampling = results.bench([TINY], ["textbook", "torch"], timing.Plan(rounds=3))
    assert turns == 3 * [(name, ["tiny"]) for name in ("xpcap", *PEERS)]
    assert (result.ms, result.ms_textbook, result.ms_padded, result.ms_packed) == (2, 10, 4, 1)
    assert (result.ratio_textbook, result.ratio_padded, result.ratio_packed) == (
        7,
        1.5,
        0.5,
    )  # 10/9/7, 1/2/1.5, 0.1/0.5/8
    assert (result.tokens_per_s, result.gflops, result.gemm_gflops, result.gemm_fraction) == (
        25_000,
        40,
        100,
        0.4,
    )
    assert (result.memory, result.feeding, result.machine["torch"]) == (7_000_000, 0.25, "0")
    assert (result.work, sampling.work) == (TRAINING, SAMPLING)
    rounds = {(name, kind): iter(times * 2) for name, times in ms.items() for kind in work.WORKS}
    turns.clear()
    results.bench([TINY, OTHER], ["textbook"], timing.Plan(rounds=3))
    assert turns == 3 * [
        (name, [config]) for config in ("tiny", "other") for name in ("xpcap", "textbook")
    ]


def test_a_process_of_its_own_measures_alike() -> None:
    here, there = (
        list(run("xpcap", [TINY, OTHER], BRIEF, "numpy"))
        for run in (measure.measure, measure.measure_in_process)
    )
    assert [m.tokens for m in here] == [m.tokens for m in there]
    assert all(m.ms > 0 and m.gflops > 0 and m.gemm_gflops > 0 for m in (*here, *there))  # type: ignore[operator]
    for training, sampling in (there[:2], there[2:]):
        assert 7 * 3 <= training.tokens <= 16 * 5
        assert 0 < training.feeding < 1  # type: ignore[operator]
        assert sampling.tokens > 7000
        assert (sampling.feeding, sampling.memory) == (None, None)


def test_memory_is_that_of_the_process_alone() -> None:
    memory = timing.peak_memory()
    if memory is None:
        pytest.skip("this system does not tell the peak memory of a process")
    mine = np.ones(30_000_000)  # 240 MB
    assert timing.peak_memory() >= memory  # type: ignore[operator]
    training, _ = measure.measure_in_process("xpcap", [TINY], BRIEF, "numpy")
    assert 1e7 < training.memory < mine.nbytes  # type: ignore[operator]


def test_what_a_process_finds_wrong_is_said_here() -> None:
    with refuses(
        BackendError,
        function="use_backend",
        thing="backend",
        got="'cupi' does not exist",
    ):
        list(measure.measure_in_process("xpcap", [TINY], BRIEF, "cupi"))


def test_a_process_that_ends_early_is_an_error(capfd: pytest.CaptureFixture[str]) -> None:
    with refuses(
        BackendError,
        function="bench",
        got="nobody stopped with exit status 1",
        expected="an answer",
    ):
        list(measure.measure_in_process("nobody", [TINY], BRIEF, "numpy"))
    assert "KeyError" in capfd.readouterr().err


# The machine


def test_versions_of_cuda_and_its_driver_are_read_as_people_say_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert [timing.cuda_version(n) for n in (12090, 13000, 13020)] == ["12.9", "13.0", "13.2"]
    file = tmp_path / "version"
    monkeypatch.setattr(timing, "DRIVER", file)
    assert timing.driver() == "unknown version"
    for line in (
        "NVIDIA UNIX x86_64 Kernel Module  580.159.04  Tue",
        "NVIDIA UNIX Open Kernel Module for x86_64  580.159.04  Release Build",
    ):
        file.write_text(f"NVRM version: {line}\nGCC version: 12.2.0\n")
        assert timing.driver() == "580.159.04"


# Single operations


def test_operations_that_are_timed_alone_have_a_fast_version() -> None:
    timed = parts.op_times(pairs=1)
    assert {name.split(",")[0] for name in timed} <= {*overridden(HostOps)}


# The command


def call(*args: object) -> Result:
    return CliRunner().invoke(command.main, [str(arg) for arg in args])


def good(*args: object) -> Result:
    result = call(*args)
    assert result.exit_code == 0, result.output
    return result


def test_every_option_is_described() -> None:
    options = [p for p in command.main.params if isinstance(p, click.Option)]
    assert set(re.findall(r"^\| `(--[^`]+)`", DOCS, re.MULTILINE)) == {p.opts[-1] for p in options}
    assert all(p.help for p in options)


def test_commands_in_the_docs_run(tiny: None) -> None:
    commands = re.findall(r"^    python -m benchmarks (.*)$", DOCS, re.MULTILINE)
    assert len(commands) > 3
    for words in commands:
        if "cupy" not in words and ("torch" not in words or importlib.util.find_spec("torch")):
            good(*words.split())


def test_bench_prints_the_machine_and_a_table_for_each_kind_of_work(tiny: None) -> None:
    output = good("--config", "coco", "--config", "notebook", "--config", "coco").output
    about, training, sampling = output.split("\n\n")
    assert about.startswith("backend numpy\n")
    assert re.search(r"^blas threads \d+$", about, re.MULTILINE)
    for text, title in (
        (training, "training step of N captions"),
        (sampling, "greedy sampling of 1,000 pictures"),
    ):
        lines = text.splitlines()
        assert lines[0].startswith(title)
        assert [line.split()[0] for line in lines[2:]] == ["config", "coco", "notebook"]
        assert lines[1].split() == [
            "xpcap",
            "textbook",
            "needed",
            "GEMM",
            "share",
            *(["peak"] if text is training else []),
        ]


def test_bench_prints_a_list_of_objects(tiny: None) -> None:
    found = json.loads(good("--json").stdout)
    assert [(row["work"], row["config"]) for row in found] == [
        (kind, config) for kind in work.WORKS for config in work.usual("numpy")
    ]
    training, sampling = found[0], found[-1]
    without = {"ms_padded", "ms_packed", "ratio_padded", "ratio_packed"}
    assert {key for key, value in training.items() if value is None} == without
    assert {key for key, value in sampling.items() if value is None} >= {"feeding", "memory"}
    assert training["machine"]["blas"]


def test_scaling_times_training_of_coco_at_other_batches_and_vocabularies(
    tiny: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timing, "USUAL", dataclasses.replace(BRIEF, rounds=1, batches=1))
    found = json.loads(good("--scaling", "--json").stdout)
    assert {row["work"] for row in found} == {TRAINING}
    base = work.CONFIGS["coco"]
    batches = [row["sizes"]["N"] for row in found if row["sizes"]["V"] == base.V]
    assert batches == [2**k for k in range(3, 11)]
    words = [row["sizes"]["V"] for row in found if row["sizes"]["N"] == base.N]
    assert words == [1000 * k for k in (1, 2, 5, 10, 20, 50)]
    assert all(row["ms"] > 0 and row["ms_textbook"] is None for row in found)


def test_scaling_of_other_sizes_is_refused_before_anything_is_timed() -> None:
    result = call("--scaling", "--config", "coco")
    assert result.exit_code == 2
    assert "--config and --scaling are given, expected one or the other" in result.output


def test_unknown_names_are_mended() -> None:
    assert "did you mean 'flickr8k'" in call("--config", "flickr8").output
    for words, variable in ((["--backend", "cupi"], {}), ([], {backend.VARIABLE: "cupi"})):
        with mock.patch.dict(os.environ, variable):
            result = call(*words)
        assert result.exit_code == 2
        assert "did you mean 'cupy'" in result.output
        assert all(f"{name}=cupi: " in result.output for name in variable)
    with refuses(OptionError, cause="did you mean 'torch'"):
        results.bench([TINY], ["torsh"])


def test_a_torch_that_is_not_there_is_named_with_its_remedy(
    tiny: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.delitem(sys.modules, "benchmarks.peer_torch", raising=False)
    monkeypatch.delattr("benchmarks.peer_torch", raising=False)
    result = call("--peer", "torch")
    assert result.exit_code == 1
    assert "torch cannot be imported (ModuleNotFoundError" in result.output
    assert "pip install 'torch" in result.output


@pytest.mark.parametrize("name", results.REDUCED_PRECISION)
def test_less_than_float32_is_refused(
    name: str, tiny: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, "1")
    result = call("--config", "coco")
    assert result.exit_code == 1
    assert f"{name} is 1, expected it unset" in result.output
    monkeypatch.setenv(name, "0")
    good("--config", "coco")


# The peers


def test_the_textbook_has_our_loss_and_our_gradients() -> None:
    data = TINY.data(1)
    batch = data.minibatch("train", np.arange(5))
    ours = work.host_model(TINY, data)
    loss, grads = ours.loss(*batch)
    theirs = Textbook(dict(ours.params), null=0, start=1, learning_rate=1e-3, clip=50)
    got, got_grads = theirs.loss(*batch)
    assert got == pytest.approx(float(loss), rel=work.LOSS_TOLERANCE)
    assert set(got_grads) == set(grads)
    for name, expected in grads.items():
        assert got_grads[name].dtype == np.float32
        np.testing.assert_allclose(got_grads[name], expected, rtol=1e-4, atol=1e-6, err_msg=name)


@pytest.mark.parametrize("clip", [0.5, 50.0])
def test_the_textbook_steps_as_our_solver_does(clip: float) -> None:
    data = TINY.data(1)
    batch = data.minibatch("train", np.arange(5))
    solver = work.make_solver(TINY, data)
    solver.clip_norm = clip
    before = solver.model.params.copy()
    theirs = Textbook(dict(before), null=0, start=1, learning_rate=1e-3, clip=clip)
    for _ in range(5):
        solver.step(*batch)
        theirs.step(*batch)
    for (
        name,
        after,
    ) in (
        solver.model.params.items()
    ):  # in the mean: where there is next to no gradient, it matters where Adam adds epsilon
        assert (
            np.abs(theirs.params[name] - after).mean() < 0.05 * np.abs(after - before[name]).mean()
        ), name


def test_the_textbook_drops_features_words_and_states_and_their_gradients_alike() -> None:
    """By a difference along a random direction in float64, with the same masks each time."""
    data = TINY.data(1)
    features, captions = data.minibatch("train", np.arange(5))
    rng = np.random.default_rng(0)
    params = {
        name: value.astype(float) for name, value in work.host_model(TINY, data).params.items()
    }
    course = Textbook(params, null=0, start=1, learning_rate=1e-3, clip=50, dropout=0.5)

    def loss(step: float) -> float:
        np.random.seed(3)
        course.params = {name: value + step * direction[name] for name, value in params.items()}
        return course.loss(features.astype(float), captions, 0.5)[0]

    direction = {name: rng.standard_normal(value.shape) for name, value in params.items()}
    here = loss(0.0)
    np.random.seed(3)
    slope = sum(
        float((grad * direction[name]).sum())
        for name, grad in course.loss(features.astype(float), captions, 0.5)[1].items()
    )
    assert (loss(1e-5) - loss(-1e-5)) / 2e-5 == pytest.approx(slope, rel=1e-6)
    assert course.loss(features.astype(float), captions, 0.5)[0] != here  # other masks
    assert (
        course.step(features, captions)
        != course.step(features, captions)
        != course.loss(features, captions)[0]
    )


@TORCH
@LAYOUTS
def test_the_peer_drops_in_training_alone(layout: str, one_thread: None) -> None:
    """The loss before training equals ours, which checks it; a step's does not, and no two are
    alike.
    """
    from benchmarks import peer_torch

    config = dataclasses.replace(TINY, dropout=0.5)
    data = config.data(1)
    job = peer_torch.train(config, data, "numpy", layout)
    model = peer_torch.Captioner(config, 0)
    batch = peer_torch.LAYOUTS[layout](
        *data.minibatch("train", np.arange(5)), 0, peer_torch.device_of("numpy")
    )
    with mock.patch.object(model.drop, "forward", side_effect=lambda x: x) as dropped:
        model(batch)
    assert [call.args[0].shape[-1] for call in dropped.call_args_list] == [
        config.D,
        config.W,
        config.H,
    ]
    plain = work.host_model(config, data).score(*data.minibatch("train", np.arange(5))).nll / 5
    first, *later = (float(job.step(0).detach()) for _ in range(3))  # type: ignore[attr-defined]
    assert abs(first - plain) > 1e-3
    assert len({first, *later}) == 3


@TORCH
@LAYOUTS
@pytest.mark.parametrize(
    "config",
    [
        TINY,
        dataclasses.replace(TINY, P=3),
        *(dataclasses.replace(TINY, cell=cell) for cell in ("gru", "rnn")),
    ],
    ids=["lstm", "attention", "gru", "rnn"],
)
def test_the_peer_has_our_loss_and_our_gradients(
    config: work.Config, layout: str, one_thread: None
) -> None:
    from benchmarks import peer_torch

    data = config.data(2)
    features, captions = data.minibatch("train", np.arange(5))
    ours = work.make_model(config, data)
    loss, grads = ours.loss(features, captions)
    model = peer_torch.Attentive if config.P else peer_torch.Captioner
    theirs = model(config, data.vocabulary.null)
    theirs.copy_from(ours.params)
    got = theirs(
        peer_torch.LAYOUTS[layout](
            features, captions, data.vocabulary.null, peer_torch.device_of("numpy")
        )
    )
    got.backward()
    assert float(got.detach()) == pytest.approx(float(loss), rel=work.LOSS_TOLERANCE)
    theirs.copy_from(grads)  # our gradients, laid out as theirs
    bias = theirs.recurrent.bias_ih if config.P else theirs.recurrent.bias_ih_l0
    for name, parameter in theirs.named_parameters():
        expected = parameter
        if name.startswith("recurrent.bias_hh"):
            if config.cell == "gru":  # its new block is scaled by the reset gate
                continue
            expected = bias  # both biases have the gradient of the one
        np.testing.assert_allclose(
            parameter.grad.numpy(), expected.detach().numpy(), rtol=1e-4, atol=1e-6, err_msg=name
        )


@pytest.mark.parametrize(
    "contender",
    [
        "textbook",
        pytest.param("torch padded", marks=TORCH),
        pytest.param("torch packed", marks=TORCH),
    ],
)
def test_a_peer_trains_says_what_we_say_and_is_timed(contender: str, one_thread: None) -> None:
    training, sampling = measure.measure(contender, [TINY], BRIEF, "numpy")
    assert training.ms > 0
    assert sampling.ms > 0
    assert (training.memory, training.gemm_gflops, training.feeding) == (None, None, None)
    data = TINY.data(2)
    job = contenders.CONTENDERS[contender].train(TINY, data, "numpy")
    assert isinstance(job, work.Job)
    losses = [
        getattr(loss, "detach", lambda loss=loss: loss)()
        for loss in (job.step(k % 2) for k in range(60))
    ]
    assert np.mean(losses[-2:]) < 0.98 * np.mean(losses[:2])
    ours, theirs = (
        contenders.CONTENDERS[name].sample(TINY, data, "numpy")() for name in ("xpcap", contender)
    )
    assert ours.shape == theirs.shape == (1000, MOST_WORDS)
    assert (ours == theirs).mean() >= work.SAME_IDS


@TORCH
def test_the_peers_captured_step_is_its_step(one_thread: None) -> None:
    """Replayed on the memory that it was captured on, which each batch is copied to."""
    from benchmarks import peer_torch

    data, captured = TINY.data(6), []

    def capture(work: Any) -> Any:
        captured.append(work)
        return work  # as a graph would: the same work on the same memory

    (model, batches), (other, _) = (
        peer_torch._on_device(TINY, data, "numpy", "padded") for _ in range(2)
    )
    step, replayed = (
        peer_torch.training_step(model),
        peer_torch.captured_step(other, batches, capture),
    )
    assert 1 < len(captured) == len({len(batch.words) for batch in batches})
    losses = [(step(batch).item(), replayed(batch).item()) for batch in 2 * batches]
    assert all(ours == theirs for ours, theirs in losses)


def test_on_a_card_a_peer_is_timed_in_a_graph_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """In training alone, and named in the table."""
    asked: list[tuple[str, list[str]]] = []

    def fake(contender: str, configs: Any, plan: Any, name: str, works: Any) -> Any:
        asked.append((contender, list(works)))
        ms = 3.0 if contender == "torch graph" else 4.0
        return [Measurement(ms, 50.0, 40.0, 100.0, None, None) for _ in configs for _ in works]

    monkeypatch.setattr(results, "measure_in_process", fake)
    monkeypatch.setattr(results, "_check_peers", lambda peers, name: {})  # private: as above
    about = {"backend": "cupy", "card": "Card 0"}
    found = results.bench([TINY], ["torch"], timing.Plan(rounds=2), about=about)
    assert asked[: len(asked) // 2] == [
        *((name, list(work.WORKS)) for name in ("xpcap", "torch padded", "torch packed")),
        ("torch graph", [TRAINING]),
    ]
    assert [(one.work, one.ms_graph, one.ratio_graph) for one in found] == [
        (TRAINING, 3.0, 0.75),
        (SAMPLING, None, None),
    ]
    (_, (first, *_)), (_, (second, *_)) = results.tables(found)
    assert [cell.strip() for cell in first].count("torch graph") == 1
    assert "torch graph" not in [cell.strip() for cell in second]


def test_a_graph_whose_process_fails_is_a_row_that_says_why(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The sizes before it and the other contenders are timed; without a graph it is an error."""

    def fake(contender: str, configs: Any, plan: Any, name: str, works: Any) -> Iterator[Any]:
        for k, config in enumerate(config for config in configs for _ in works):
            if contender == failing and k:
                raise BackendError("bench", "", f"{contender} at {config.name} stopped")
            yield Measurement(4.0, 50.0, 40.0, 100.0, None, None)

    monkeypatch.setattr(results, "measure_in_process", fake)
    monkeypatch.setattr(results, "_check_peers", lambda peers, name: {})  # private: as above
    large = dataclasses.replace(TINY, name="large", N=512)

    def bench() -> list[results.Result]:
        about = {"backend": "cupy", "card": "Card 0"}
        return results.bench([TINY, large], ["torch"], BRIEF, works=[TRAINING], about=about)

    failing = "torch graph"
    small, large_one = (one.to_json() for one in bench())
    assert (small["ms_graph"], small.get("why_no_graph")) == (4.0, None)
    assert large_one.get("ms_graph") is None
    assert large_one["why_no_graph"] == "bench: torch graph at large stopped"
    assert "torch graph at large" in str(results.tables(bench()))
    failing = "torch padded"
    with refuses(BackendError, got="torch padded at large stopped"):
        bench()


@TORCH
@LAYOUTS
def test_the_peers_beam_finds_the_captions_that_ours_finds(layout: str, one_thread: None) -> None:
    ours, theirs = (
        contenders.CONTENDERS[name].search(TINY, TINY.data(1), "numpy")()
        for name in ("xpcap", f"torch {layout}")
    )  # type: ignore[misc]
    assert ours.shape == theirs.shape == (1000, MOST_WORDS)
    assert (ours == theirs).mean() >= work.SAME_IDS
    greedy = contenders.CONTENDERS["xpcap"].sample(TINY, TINY.data(1), "numpy")()
    assert (ours == greedy).mean() < 0.9


@pytest.mark.parametrize(
    "contender",
    ["xpcap", pytest.param("torch padded", marks=TORCH), pytest.param("torch packed", marks=TORCH)],
)
def test_attention_is_timed_in_training_alone_and_without_the_textbook(
    contender: str, one_thread: None
) -> None:
    attentive = dataclasses.replace(TINY, P=3)
    (training,) = measure.measure(contender, [attentive], BRIEF, "numpy")
    assert training.ms > 0
    plain, captions = TINY.data(1), attentive.data(1).split("train").captions
    needed = training_flops(attentive, [captions], plain.vocabulary.null) - training_flops(
        TINY, [captions], plain.vocabulary.null
    )
    rows = int((captions[:, 1:] != plain.vocabulary.null).sum())
    assert needed == 2 * 2 * 5 * 2 * 12 * 10 + 2 * rows * (3 * 10 * 40 + 6 * 3 * 10)
    for peers, works, expected in (
        (("textbook",), [TRAINING], "the textbook has no such captioner"),
        ((), [SAMPLING], "only training is timed"),
    ):
        with refuses(OptionError, function="bench", expected=expected):
            results.bench([attentive], peers, BRIEF, works=works)


def test_a_beam_is_timed_by_itself_and_without_the_textbook(tiny: None) -> None:
    (row,) = json.loads(good("--beam", "--config", "coco", "--json").stdout)
    assert (row["work"], row["ms"] > 0, row["ms_textbook"]) == (BEAMS, True, None)
    assert (
        "beam search, 5 hypotheses: 1,000 pictures, at most 16 words each; float32"
        in good("--beam", "--config", "coco").output
    )
    for options, says in (
        (["--peer", "textbook"], "--peer names textbook"),
        (["--scaling"], "--beam and --scaling"),
        (["--neighbour"], "--neighbour and --beam"),
    ):
        result = call("--beam", *options)
        assert result.exit_code == 2
        assert says in result.output


@pytest.mark.parametrize(
    "contender",
    [
        "textbook",
        pytest.param("torch padded", marks=TORCH),
        pytest.param("torch packed", marks=TORCH),
    ],
)
def test_a_peer_that_does_other_work_is_not_timed(
    contender: str, one_thread: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if contender == "textbook":
        monkeypatch.setattr("benchmarks.textbook.sigmoid", np.tanh)
    else:
        wrong = {"lstm": (sys.modules["torch"].nn.LSTM, (0, 1, 2, 3))}
        monkeypatch.setattr("benchmarks.peer_torch.CELLS", wrong)
    with pytest.raises(
        ArithmeticError, match=f"tiny, {contender} has loss .* and xpcap .*: not the same work"
    ):
        contenders.CONTENDERS[contender].train(TINY, TINY.data(2), "numpy")
    with pytest.raises(
        ArithmeticError,
        match=(
            f"tiny, {contender} agrees with xpcap on NumPy in .* of the word ids, .*: not the same"
            " work"
        ),
    ):
        list(measure.measure(contender, [TINY], BRIEF, "numpy", [SAMPLING]))


# On a device


def test_emulated_bench_times_by_events_and_reads_nothing(device: Emulator) -> None:
    job = contenders.CONTENDERS["xpcap"].train(TINY, TINY.data(2), "cupy")
    assert isinstance(job, work.Job)
    job.step(0)
    device.reset()
    assert job.clock(lambda: [job.step(k) for k in (0, 1)]) > 0
    assert device.reads == []
    assert [wait.how for wait in device.waits] == ["Device.synchronize", "Event.synchronize"]


@pytest.mark.nightly
def test_emulated_bench_says_what_card_it_was(device: Emulator, tiny: None) -> None:
    found = json.loads(good("--backend", "cupy", "--config", "coco", "--json").stdout)
    assert found[0]["machine"]["card"] == "emulated"
    assert found[0]["machine"]["cuda_runtime"] == "13.0"
    assert found[0]["machine"]["driver"].endswith("(CUDA 13.0)")
    assert found[0]["memory"] >= 0
    assert [(row["work"], row["gemm_fraction"] > 0, row["feeding"]) for row in found] == [
        (kind, True, None) for kind in work.WORKS
    ]
    output = good("--backend", "cupy", "--config", "coco").output
    assert "card emulated" in output
    assert re.search(r"\bdevice$", output, re.MULTILINE)
    assert not re.search(r"\bpeak$", output, re.MULTILINE)


def test_emulated_bench_checks_our_own_device_before_timing_it(
    device: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With dropout too: losses are compared without it."""
    train, sample, _ = contenders.CONTENDERS["xpcap"]
    config = dataclasses.replace(TINY, dropout=0.5)
    train(config, TINY.data(2), "cupy")
    right = network.vocabulary_loss

    def spoilt(*args: Any, **options: Any) -> Any:
        nll, grads = right(*args, **options)
        return nll * (1 + 1e-4), grads

    monkeypatch.setattr(network, "vocabulary_loss", spoilt)
    with pytest.raises(
        ArithmeticError,
        match=r"tiny, xpcap on cupy has loss .* and xpcap on NumPy .*: not the same work",
    ):
        train(config, TINY.data(2), "cupy")
    monkeypatch.setitem(
        contenders.CONTENDERS,
        "xpcap",
        contenders.Contender(train, lambda *args: lambda: sample(*args)()[::-1]),
    )
    with pytest.raises(
        ArithmeticError, match=r"tiny, xpcap agrees with xpcap on NumPy in .* of the word ids"
    ):
        list(measure.measure("xpcap", [TINY], BRIEF, "cupy", [SAMPLING]))


def test_bench_of_a_card_leaves_it_to_other_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """In exclusive-process mode a context here would shut out the processes that are timed."""

    def probed(device: int, plain: bool) -> Any:
        raise AssertionError("the process that only hands out work has probed the card")

    def timed(contender: str, configs: Any, plan: Any, name: str, works: Any) -> Any:
        assert name == "cupy:1"
        return [Measurement(1.0, 50.0, 40.0) for _ in configs for _ in works]

    asked: list[str] = []
    monkeypatch.setattr(probe, "cupy_status", probed)
    monkeypatch.setattr(
        measure,
        "machine_in_process",
        lambda name: asked.append(name) or {"backend": "cupy:1", "card": "a card"},
    )
    monkeypatch.setattr(results, "measure_in_process", timed)
    assert "card a card" in good("--backend", "cupy:1", "--config", "coco").output
    monkeypatch.setenv(backend.VARIABLE, "cupy:1")
    assert "coco-dropout" in good().output
    assert asked == ["cupy:1", "cupy:1"]


def test_a_process_of_its_own_describes_the_machine_or_says_why_not() -> None:
    assert measure.machine_in_process("numpy") == timing.machine()
    with pytest.raises(BackendError, match="backend cupy:99 cannot be used"):
        measure.machine_in_process("cupy:99")


@pytest.mark.nightly
def test_emulated_parts_of_a_step_add_up_to_it(
    device: Emulator, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """By the device's events and the host's clock; the device is kept busy first; afterwards the
    step is as it was.
    """
    monkeypatch.setattr(step_profile, "PRODUCT", 64)
    before = network.vocabulary_loss
    with backend.use_backend("cupy"), device.counting() as counts:
        plain, dropped = step_profile.step_profiles(
            [TINY, dataclasses.replace(TINY, name="drops", dropout=0.5)], steps=3, warm_up=1
        )
    assert network.vocabulary_loss is before
    for times in (plain.host, plain.device, dropped.host, dropped.device):
        assert all(ms > 0 for part, ms in times.items() if part != "masks")
    assert (plain.device["masks"], dropped.device["masks"] > 0) == (0, True)
    assert any(
        launch.kind == "product" and launch.place.startswith("step_profile.py:")
        for launch in counts.launches
    )
    heading, *rows = step_profile.profile_rows([plain, dropped])
    assert [row[:2] for row in rows] == [
        (name, where) for name in ("tiny", "drops") for where in ("host", "device")
    ]
    assert {len(row) for row in rows} == {len(heading)}
    with refuses(
        OptionError, function="step_profiles", thing="backend", got="is numpy", expected="cupy"
    ):
        step_profile.step_profiles([TINY])
    monkeypatch.setattr(step_profile, "CONFIGS", {"tiny": TINY})
    monkeypatch.setattr(step_profile, "USUAL_CONFIGS", ("tiny",))
    step_profile.main(["--fused", "0", "128"])
    lines = [line.split()[:2] for line in capsys.readouterr().out.splitlines()]
    table = [["config", "step"], ["tiny", "host"], ["tiny", "device"]]
    assert lines == [["FUSED", "0"], *table, ["FUSED", "128"], *table]


def test_marks_charge_each_moment_to_the_innermost_part() -> None:
    """By a clock that shows the number of times it was read."""
    ticks = iter(range(100))
    event = mock.Mock(
        side_effect=lambda: types.SimpleNamespace(record=lambda: None, synchronize=lambda: None)
    )
    xp: Any = types.SimpleNamespace(
        cuda=types.SimpleNamespace(Event=event, get_elapsed_time=lambda a, b: 10.0)
    )
    with mock.patch.object(
        step_profile.time, "perf_counter", side_effect=lambda: 1e-3 * next(ticks)
    ):
        marks = step_profile.Marks(xp)
        masks = marks.timed("masks", lambda: None)
        packing = marks.timed("packing", lambda: (masks(), masks()))
        for _ in range(2):
            marks.begin()
            packing()
            host, device = marks.read()
    assert {part: round(ms) for part, ms in host.items() if ms} == {
        "rest": 2,
        "packing": 3,
        "masks": 2,
    }
    assert {part: ms for part, ms in device.items() if ms} == {
        "rest": 20,
        "packing": 30,
        "masks": 20,
    }
    assert event.call_count == 8  # kept for the second step


@TORCH
def test_emulated_bench_wants_a_torch_that_sees_the_card(device: Emulator, tiny: None) -> None:
    assert "finds no CUDA device" in call("--backend", "cupy", "--peer", "torch").output


def test_emulated_bench_refuses_the_textbook(device: Emulator, tiny: None) -> None:
    result = call("--backend", "cupy", "--peer", "textbook")
    assert result.exit_code == 2
    assert "peer textbook on backend cupy, expected numpy" in result.output


@pytest.mark.gpu
def test_a_card_is_timed_beside_torch_where_it_is_there() -> None:
    """In processes of their own: this one has CuPy, makes errors of warnings, and holds a
    context.
    """

    def run(code: str) -> str:
        return subprocess.run(
            [sys.executable, "-c", textwrap.dedent(code)],
            capture_output=True,
            text=True,
            check=True,
        ).stdout

    torch = (
        importlib.util.find_spec("torch") is not None
        and run("import torch; print(torch.cuda.is_available())") == "True\n"
    )
    rows = json.loads(
        run(f"""
        import json
        from benchmarks import measure, results, timing, work
        config, plan = work.Config(**{dataclasses.asdict(TINY)}), timing.Plan(**{dataclasses.asdict(BRIEF)})
        results = results.bench([config], {("torch",) if torch else ()}, plan, about=measure.machine_in_process("cupy"))
        print(json.dumps([result.to_json() for result in results]))
    """)
    )
    assert [row["work"] for row in rows] == list(work.WORKS)
    assert rows[0]["memory"] > 0
    for row in rows:
        assert row["ms"] > 0
        assert row["gemm_fraction"] > 0
        assert row["machine"]["card"]
        assert all((row[key] is not None) == torch for key in ("ratio_padded", "ratio_packed"))
    assert ["ratio_graph" in row for row in rows] == [torch, False]


@pytest.mark.gpu
def test_parts_of_a_step_on_a_card_are_timed_by_its_events() -> None:
    with backend.use_backend("cupy"):
        (result,) = step_profile.step_profiles(
            [dataclasses.replace(TINY, dropout=0.5)], steps=3, warm_up=1
        )
    assert min(*result.host.values(), *result.device.values()) > 0


def test_beside_a_neighbour_is_timed_and_set_against_alone(tiny: None) -> None:
    """The neighbour runs while that work is timed, and is gone afterwards."""
    alone, beside = json.loads(good("--config", "coco", "--neighbour", "--json").stdout)
    assert (alone["work"], beside["work"]) == (TRAINING, BESIDE)
    assert beside["slowdown"] > 0
    assert "slowdown" not in alone
    title, heading = (
        good("--config", "coco", "--neighbour").output.split("\n\n")[2].splitlines()[:2]
    )
    assert title.startswith("training step of N captions beside a busy process")
    assert "times" in heading
    assert "--neighbour and --scaling are given" in call("--neighbour", "--scaling").output


def test_a_neighbour_is_a_session_of_its_own_and_leaves_with_us() -> None:
    started: list[subprocess.Popen[bytes]] = []
    with (
        mock.patch.object(
            timing.subprocess,
            "Popen",
            side_effect=lambda *a, **k: started.append(POPEN(*a, **k)) or started[0],
        ),
        timing.busy_neighbour(),
    ):
        assert os.getsid(started[0].pid) == started[0].pid != os.getsid(0)
        assert started[0].poll() is None
    assert started[0].poll() is not None
    orphan = subprocess.Popen([sys.executable, "-c", timing.SPIN], stdin=subprocess.PIPE)
    orphan.stdin.close()  # as if whoever started it had died
    assert orphan.wait() == 0


def test_an_error_of_ranks_names_its_script(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(ranks, "MPIEXEC", tmp_path / "mpiexec")
    with pytest.raises(SystemExit):
        ranks.require()
    assert capsys.readouterr().err.startswith("benchmarks.ranks: missing ")
    monkeypatch.setattr(ranks, "command", lambda *_: [sys.executable, "-c", "raise SystemExit(3)"])
    with pytest.raises(SystemExit, match=r"^benchmarks\.ranks: .* has exit status 3, expected 0"):
        ranks.ask(ranks.Task(1), 1)
