"""Timings: the right work at the right sizes, clocked outside the warm-up, beside a peer that does the same. How fast it is, no test says."""

import dataclasses
import importlib.util
import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import call, good
from emulated import Emulator

from xpcap import backend, bench
from xpcap.bench import apart, contenders, machine, results
from xpcap.bench.contenders import Measurement, make_solver, measure
from xpcap.bench.timing import host_clock, time_step
from xpcap.data.synthetic import LIKE_COCO, draw_data
from xpcap.errors import BackendError, OptionError

TINY = bench.Config("tiny", N=5, D=12, W=6, H=10, V=40)
OTHER = bench.Config("other", N=3, D=4, W=5, H=6, V=30)
BRIEF = bench.Plan(rounds=2, batches=2, warm_ms=0, blocks=1, block_ms=0)
TORCH = pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="torch is not installed: no peer to compare with")
LAYOUTS = pytest.mark.parametrize("layout", ["padded", "packed"])


@pytest.fixture(autouse=True)
def numpy_unless_said_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(backend.VARIABLE, raising=False)
    monkeypatch.setattr(backend, "_active", None)
    for name in results.TF32:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every configuration tiny, and timed briefly."""
    monkeypatch.setattr(bench, "CONFIGS", {name: dataclasses.replace(TINY, name=name) for name in bench.CONFIGS})
    monkeypatch.setattr(bench, "USUAL", BRIEF)


# What is timed


def test_configurations_have_the_sizes_that_are_compared_elsewhere() -> None:
    sizes = {name: (c.N, c.D, c.W, c.H, c.V) for name, c in bench.CONFIGS.items()}
    assert sizes["notebook"] == (25, 512, 256, 512, 1004)
    assert sizes["coco"] == (128, 512, 256, 512, 1004)
    assert sizes["flickr8k"] == (128, 1280, 256, 512, 2539)
    assert sizes["large"] == (512, 512, 256, 512, 1004)
    assert sizes["vocab10k"] == (128, 512, 512, 512, 10000)
    assert bench.usual("numpy") == ["notebook", "coco", "flickr8k", "large", "vocab10k"]
    on_a_gpu = [bench.CONFIGS[name] for name in bench.usual("cupy")]
    assert {(N, V) for N in (25, 64, 128, 512) for V in (1004, 10000)} <= {(c.N, c.V) for c in on_a_gpu}


def test_docs_list_the_configurations() -> None:
    text = (Path(__file__).parent.parent / "docs" / "commands.md").read_text(encoding="utf-8")
    for name, c in bench.CONFIGS.items():
        if not re.search(r"vocab10k-n\d+", name):
            assert f"| {name} | {c.N} | {c.D} | {c.W} | {c.H} | {c.V} |" in text
    assert "| vocab10k-n25, -n64, -n512 | 25, 64, 512 | 512 | 512 | 512 | 10000 |" in text


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
    assert count[:10] / count.sum() == pytest.approx(1 / np.arange(1, 11) / (1 / np.arange(1, 1001)).sum(), rel=0.15)
    np.testing.assert_array_equal(captions, draw_data(4000, 3, 1004, seed=1).split("train").captions)


# How


def test_blocks_are_whole_cycles_and_the_warm_up_is_not_among_them() -> None:
    steps: list[int] = []
    blocks: list[int] = []

    def clock(work: Any) -> float:
        """A step takes ten milliseconds, each of the first two forty."""
        before = len(steps)
        work()
        blocks.append(len(steps) - before)
        return 10.0 * blocks[-1] + 30.0 * max(0, min(2, len(steps)) - before)

    ms = time_step(steps.append, clock, bench.Plan(batches=2, warm_ms=110, blocks=3, block_ms=55))
    assert ms == 10
    assert blocks == [2, 2, 2, 6, 6, 6]  # 80, 20 and 20 milliseconds to warm up; then three cycles of 20 are at least 55
    assert steps == [0, 1] * (len(steps) // 2)


def test_numpy_is_timed_alone_in_this_process() -> None:
    found = bench.bench([TINY, OTHER], plan=BRIEF)
    assert [result.config for result in found] == [TINY, OTHER]
    for result in found:
        tokens = result.tokens_per_s * result.ms / 1e3
        assert 7 * result.config.N <= tokens <= 16 * result.config.N
        assert result.ms > 0
        assert (result.ms_padded, result.ratio_packed, result.memory) == (None, None, None)
        assert result.machine["backend"] == "numpy"
        assert result.machine["numpy"] == np.__version__
    assert bench.table(found)[0] == ("config", "N", "D", "W", "H", "V", "ms", "tokens/s")


def test_what_is_timed_trains() -> None:
    data = TINY.data(2)
    job = contenders.CONTENDERS["xpcap"](TINY, data, "numpy")
    losses = [float(job.step(k % 2)) for k in range(60)]  # type: ignore[arg-type]
    assert np.mean(losses[-2:]) < 0.98 * np.mean(losses[:2])
    assert job.clock is host_clock


def test_contenders_take_turns_each_in_a_process_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    turns: list[str] = []
    ms = {"xpcap": iter([9.0, 2.0, 1.0]), "torch padded": iter([3.0, 4.0, 5.0]), "torch packed": iter([1.0, 1.0, 8.0])}

    def fake(contender: str, configs: Any, plan: Any, name: str) -> Any:
        assert name == "numpy"
        turns.append(contender)
        return [Measurement(next(ms[contender]), 50.0, 7) for _ in configs]

    monkeypatch.setattr(results, "_check_peers", lambda peers: {"torch": "0"})
    monkeypatch.setattr(results, "measure_apart", fake)
    (result,) = bench.bench([TINY], ["torch"], bench.Plan(rounds=3))
    assert turns == 3 * ["xpcap", "torch padded", "torch packed"]
    assert (result.ms, result.ms_padded, result.ms_packed, result.ratio_padded, result.ratio_packed) == (2, 4, 1, 2, 0.5)
    assert (result.tokens_per_s, result.memory, result.machine["torch"]) == (25_000, 7, "0")
    head, row = bench.table([result])
    assert dict(zip(head, row, strict=True))["device MB"] == "0"
    assert row[6:11] == ("2.00", "4.00", "2.00", "1.00", "0.50")


def test_a_process_of_its_own_measures_alike() -> None:
    here, there = (list(run("xpcap", [TINY, OTHER], BRIEF, "numpy")) for run in (measure, apart.measure_apart))
    assert [m.tokens for m in here] == [m.tokens for m in there]
    assert all(m.ms > 0 for m in there)


def test_what_a_process_finds_wrong_is_said_here() -> None:
    with pytest.raises(BackendError, match="backend 'cupi' does not exist"):
        list(apart.measure_apart("xpcap", [TINY], BRIEF, "cupi"))


def test_a_process_that_ends_early_is_an_error(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(BackendError, match="bench: nobody stopped with exit status 1, expected timings"):
        list(apart.measure_apart("nobody", [TINY], BRIEF, "numpy"))
    assert "KeyError" in capfd.readouterr().err


# The machine


def test_versions_of_cuda_and_its_driver_are_read_as_people_say_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert [machine.cuda_version(n) for n in (12090, 13000, 13020)] == ["12.9", "13.0", "13.2"]
    file = tmp_path / "version"
    monkeypatch.setattr(machine, "DRIVER", file)
    assert machine.driver() == "of unknown version"
    for line in ("NVIDIA UNIX x86_64 Kernel Module  580.159.04  Tue", "NVIDIA UNIX Open Kernel Module for x86_64  580.159.04  Release Build"):
        file.write_text(f"NVRM version: {line}\nGCC version: 12.2.0\n")
        assert machine.driver() == "580.159.04"


# The command


def test_bench_prints_the_machine_and_one_table(tiny: None) -> None:
    lines = good("bench", "--config", "coco", "--config", "notebook", "--config", "coco").output.splitlines()
    assert lines[0] == "backend numpy"
    assert any(line.startswith("numpy ") for line in lines)
    assert [line.split()[0] for line in lines[-3:]] == ["config", "coco", "notebook"]


def test_bench_prints_a_list_of_objects(tiny: None) -> None:
    found = json.loads(good("bench", "--json").stdout)
    assert [row["config"] for row in found] == bench.usual("numpy")
    assert set(found[0]) == {
        "config", "work", "ms", "ms_padded", "ms_packed", "ratio_padded", "ratio_packed", "tokens_per_s", "memory", "sizes", "machine",
    }  # fmt: skip
    assert found[0]["work"] == "training step"


def test_peers_are_refused_on_numpy_and_unknown_names_mended() -> None:
    result = call("bench", "--peer", "torch")
    assert result.exit_code == 2
    assert "peers are timed on a GPU so far" in result.output
    assert "did you mean 'flickr8k'" in call("bench", "--config", "flickr").output
    with pytest.raises(OptionError, match="did you mean 'torch'"):
        bench.bench([TINY], ["torsh"])


@pytest.mark.parametrize("name", results.TF32)
def test_tf32_is_refused(name: str, tiny: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "1")
    result = call("bench", "--config", "coco")
    assert result.exit_code == 1
    assert f"{name} is 1, expected it unset" in result.output
    monkeypatch.setenv(name, "0")
    good("bench", "--config", "coco")


# The peer


@TORCH
@LAYOUTS
def test_the_peer_has_our_loss_and_our_gradients(layout: str) -> None:
    from xpcap.bench import peer_torch

    data = TINY.data(2)
    features, captions = data.minibatch("train", np.arange(5))
    ours = make_solver(TINY, data).model
    loss, grads = ours.loss(features, captions)
    theirs = peer_torch.Captioner(TINY.D, TINY.W, TINY.H, TINY.V, data.vocabulary.null)
    theirs.copy_from(ours.params)
    got = theirs(peer_torch.LAYOUTS[layout](features, captions, data.vocabulary.null, peer_torch.device_of("numpy")))
    got.backward()
    assert float(got.detach()) == pytest.approx(float(loss), rel=peer_torch.LOSS_TOLERANCE)
    theirs.copy_from(grads)  # our gradients, laid out as theirs
    bias = theirs.lstm.bias_ih_l0
    for name, parameter in theirs.named_parameters():
        expected = bias if name == "lstm.bias_hh_l0" else parameter  # both biases have the gradient of the one
        np.testing.assert_allclose(parameter.grad.numpy(), expected.detach().numpy(), rtol=1e-4, atol=1e-6, err_msg=name)


@TORCH
@LAYOUTS
def test_the_peer_is_timed_and_trains(layout: str) -> None:
    (measurement,) = measure(f"torch {layout}", [TINY], BRIEF, "numpy")
    assert measurement.ms > 0
    assert measurement.memory is None
    job = contenders.CONTENDERS[f"torch {layout}"](TINY, TINY.data(2), "numpy")
    losses = [float(job.step(k % 2).detach()) for k in range(60)]  # type: ignore[attr-defined]
    assert np.mean(losses[-2:]) < 0.98 * np.mean(losses[:2])


@TORCH
@LAYOUTS
def test_a_peer_that_does_other_work_is_not_timed(layout: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from xpcap.bench import peer_torch

    monkeypatch.setattr(peer_torch, "GATES", (0, 1, 2, 3))
    with pytest.raises(ArithmeticError, match=f"tiny, torch {layout} has loss .* where ours is .*: not the same work"):
        contenders.CONTENDERS[f"torch {layout}"](TINY, TINY.data(2), "numpy")


# On a device


def test_emulated_bench_times_by_events_and_reads_nothing(device: Emulator) -> None:
    job = contenders.CONTENDERS["xpcap"](TINY, TINY.data(2), "cupy")
    job.step(0)
    device.reset()
    assert job.clock(lambda: [job.step(k) for k in (0, 1)]) > 0
    assert device.reads == []
    assert [wait.how for wait in device.waits] == ["Stream.synchronize", "Event.synchronize"]


def test_emulated_bench_says_what_card_it_was(device: Emulator, tiny: None) -> None:
    found = json.loads(good("bench", "--backend", "cupy", "--config", "coco", "--json").stdout)
    assert found[0]["machine"]["card"] == "emulated"
    assert found[0]["machine"]["cuda_runtime"] == "13.0"
    assert found[0]["machine"]["driver"].endswith("(CUDA 13.0)")
    assert found[0]["memory"] >= 0
    output = good("bench", "--backend", "cupy", "--config", "coco").output
    assert "card emulated" in output
    assert "device MB" in output


def test_emulated_bench_wants_a_torch_that_sees_the_card(device: Emulator, tiny: None, monkeypatch: pytest.MonkeyPatch) -> None:
    if importlib.util.find_spec("torch") is not None:
        result = call("bench", "--backend", "cupy", "--peer", "torch")
        assert "finds no CUDA device" in result.output
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.delitem(sys.modules, "xpcap.bench.peer_torch", raising=False)
    monkeypatch.delattr(bench, "peer_torch", raising=False)
    result = call("bench", "--backend", "cupy", "--peer", "torch")
    assert result.exit_code == 1
    assert "torch cannot be imported (ModuleNotFoundError" in result.output


@pytest.mark.gpu
def test_a_card_is_timed_beside_torch_where_it_is_there(tiny: None) -> None:
    torch = importlib.util.find_spec("torch") and __import__("torch")
    peers = ["--peer", "torch"] if torch and torch.cuda.is_available() else []
    (row,) = json.loads(good("bench", "--backend", "cupy", "--config", "coco", "--json", *peers).stdout)
    assert row["ms"] > 0
    assert row["memory"] > 0
    assert row["machine"]["card"]
    assert all((row[key] is not None) == bool(peers) for key in ("ratio_padded", "ratio_packed"))
