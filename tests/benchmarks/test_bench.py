"""Timings: the right work at the right sizes, clocked outside the warm-up, beside peers that do the
same. How fast it is, no test says.
"""

import csv
import dataclasses
import importlib.util
import io
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from emulated import Emulator
from refusals import refuses

from benchmarks import __main__ as command
from benchmarks import contenders, measure, results, timing, work
from benchmarks.ablation import ablations
from benchmarks.measure import Measurement
from benchmarks.textbook import Textbook
from benchmarks.timing import Timer
from benchmarks.work import BEAM, BUSY, GREEDY, MAX_WORDS, STEP, sampling_flops, training_flops
from xpcap.backend import switch
from xpcap.data.synthetic import LIKE_COCO
from xpcap.errors import BackendError
from xpcap.models import network

ROOT = Path(__file__).parents[2]
DOCS = (ROOT / "benchmarks" / "README.md").read_text(encoding="utf-8")
RESULTS = ROOT / "docs" / "develop" / "results"
TINY = work.Config("tiny", N=5, D=12, W=6, H=10, V=40)
OTHER = work.Config("other", N=3, D=4, W=5, H=6, V=30)
BRIEF = timing.Plan(rounds=2, batches=2, warm_ms=0, blocks=1, block_ms=0, product=64)
TORCH = pytest.mark.skipif(
    importlib.util.find_spec("torch") is None,
    reason="torch is not installed: no peer to compare with",
)
LAYOUTS = pytest.mark.parametrize("layout", ["padded", "packed"])
PEERS = pytest.mark.parametrize(
    "contender",
    ["textbook", *(pytest.param(f"torch {x}", marks=TORCH) for x in ("padded", "packed"))],
)
pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def numpy_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(switch.VARIABLE, raising=False)
    monkeypatch.setattr(switch, "_active", None)  # private: nothing else forgets a choice
    for name in results.REDUCED_PRECISION:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every configuration tiny, and timed briefly, in this process."""

    def machine_here(name: str) -> dict[str, str]:
        switch.use_backend(name)
        return timing.machine()

    sizes = {key: getattr(TINY, key) for key in "NDWHV"}
    for name, config in work.CONFIGS.items():
        tiny = dataclasses.replace(config, **sizes, P=min(config.P, 3))
        monkeypatch.setitem(work.CONFIGS, name, tiny)
    monkeypatch.setattr(timing, "USUAL", BRIEF)
    monkeypatch.setattr(measure, "machine_in_process", machine_here)
    monkeypatch.setattr(results, "measure_in_process", measure.measure)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """PyTorch on one thread: beside other work on the machine its threads wait for one another."""
    if importlib.util.find_spec("torch") is None:
        yield
        return
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


# What is timed


def test_sizes_are_those_of_the_docs() -> None:
    rows = re.findall(r"^\| ([\w-]+(?:, [\w-]+)*) \|((?: \d+ \|){5})$", DOCS, re.MULTILINE)
    listed = {
        name: [int(n) for n in re.findall(r"\d+", sizes)]
        for names, sizes in rows
        for name in names.split(", ")
    }
    for c in work.CONFIGS.values():
        if changed := re.fullmatch(r"coco-([nhv])(\d+)", c.name):
            named = {"name": c.name, "step_alone": True, changed[1].upper(): int(changed[2])}
            assert c == dataclasses.replace(work.CONFIGS["coco"], **named)
        else:
            assert listed[c.name] == [c.N, c.D, c.W, c.H, c.V]


def test_captions_of_the_ending_model_end_and_vary_as_the_data_do() -> None:
    config = dataclasses.replace(work.CONFIGS["coco"], D=64, W=32, H=64)
    data = config.data(1)
    captions = work.make_ending_model(config, data).sample(config.pictures(), max_length=40)
    null, start, end, unk = range(4)
    length = np.argmax(captions == end, axis=1) + 1
    assert (np.count_nonzero(captions == end, axis=1) == 1).all()
    assert (captions[np.arange(40) >= length[:, None]] == null).all()
    assert length.mean() == pytest.approx(LIKE_COCO.mean + 1, abs=0.3)
    assert length.std() == pytest.approx(LIKE_COCO.deviation, abs=0.3)
    words = captions[np.arange(40) < length[:, None] - 1]
    assert not np.isin(words, (null, start, unk)).any()
    assert len(np.unique(words)) > 300
    assert len(np.unique(captions, axis=0)) > 700


def test_arithmetic_is_that_of_words_that_are_there() -> None:
    config = work.Config("by hand", N=2, D=3, W=5, H=7, V=11)
    # Live rows: START 4 5, START 4; distinct input words: START 4 5
    captions = np.array([[1, 4, 5, 2, 0], [1, 4, 2, 0, 0]])
    projection = 2 * (2 * 2 * 3 * 7)
    rest = 3 * (2 * 3 * 5 * 28) + 3 * (2 * 5 * 7 * 28) + 3 * (2 * 5 * 7 * 11)
    assert training_flops(config, [captions], null=0) == projection + rest
    shorter = np.array([[1, 2, 0], [1, 2, 0]])
    less = 3 * (2 * 1 * 5 * 28) + 3 * (2 * 2 * 7 * 28) + 3 * (2 * 2 * 7 * 11)
    assert training_flops(config, [captions, shorter], null=0) == projection + (rest + less) / 2
    grids = dataclasses.replace(config, P=4)
    more = training_flops(grids, [captions], null=0) - training_flops(config, [captions], null=0)
    assert more == 3 * projection + 2 * 5 * (3 * 7 * 28 + 6 * 4 * 7)
    # Fed in: START 4 5; 6 comes last, and END is not fed
    found = np.array([[4, 5, 4, 6], [4, 2, 0, 0]])
    once, each = 2 * 2 * 3 * 7 + 2 * 3 * 5 * 28, 2 * 7 * 28 + 2 * 7 * 11
    assert sampling_flops(config, found, null=0, end=2) == once + 6 * each
    # Two first words, and three hypotheses for each of four others
    assert sampling_flops(config, found, null=0, end=2, width=3) == once + (2 + 3 * 4) * each


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
    steps, blocks = list[int](), list[int]()
    plan = timing.Plan(batches=2, warm_ms=55, blocks=3, block_ms=55)
    timer = Timer(steps.append, a_clock(steps, blocks, 10), plan)
    timer.warm_up()
    # 2000 milliseconds, which say nothing of how slow a step is, then three times 20
    assert blocks == [2, 2, 2, 2]
    assert timer.run(between=lambda: blocks.append(0)) == 10
    # After what came between a cycle untimed; three cycles of 20 milliseconds are at least 55
    assert blocks[4:] == [*3 * [0, 2, 6], 0]
    assert steps == [0, 1] * (len(steps) // 2)
    steps.clear()
    blocks.clear()
    plan = timing.Plan(rounds=2, batches=2, warm_ms=9000, blocks=3)
    slow = Timer(steps.append, a_clock(steps, blocks, 600), plan)
    slow.warm_up()
    assert slow.run() == 600
    assert blocks == [2, 2, 2, 2]  # two blocks of a cycle in each of two rounds


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

    def fake(contender: str, configs: Any, plan: Any, name: str, works: Any) -> Any:
        took = ms[contender][sum(who == contender for who, _ in turns) % 3]
        turns.append((contender, [config.name for config in configs]))
        gemm = 100.0 if contender == "xpcap" else None
        count = sum(len(work.works_of(config, works)) for config in configs)
        return count * [Measurement(took, 50.0, 40.0, gemm, 7_000_000)]

    monkeypatch.setattr(results, "measure_in_process", fake)
    plan = timing.Plan(rounds=3)
    step, greedy = results.bench([TINY], (STEP, GREEDY), "numpy", ["torch"], plan)
    assert turns == 3 * [(name, ["tiny"]) for name in ms]
    assert step.ms == {"xpcap": 2, "textbook": 10, "torch padded": 4, "torch packed": 1}
    # 10/9/7, 1/2/1.5, 0.1/0.5/8
    assert step.ratios == {"xpcap": 1, "textbook": 7, "torch padded": 1.5, "torch packed": 0.5}
    assert (step.words_per_s, step.needed_gflops, step.gemm_gflops) == (25_000, 40, 100)
    assert (step.limit, step.memory, step.work, greedy.work) == (0.8, 7_000_000, STEP, GREEDY)
    turns.clear()
    alone = dataclasses.replace(OTHER, step_alone=True)
    found = results.bench([TINY, alone], (STEP, GREEDY), "numpy", plan=plan)
    one_round = [("xpcap", ["tiny"]), ("textbook", ["tiny"]), ("xpcap", ["other"])]
    assert turns == 3 * one_round
    tasks = [(STEP, "tiny"), (STEP, "other"), (GREEDY, "tiny")]
    assert [(r.work, r.config.name) for r in found] == tasks
    turns.clear()
    results.bench([TINY, OTHER], (BEAM,), "cupy", ["torch"], timing.Plan(rounds=1))
    assert turns == [(name, ["tiny", "other"]) for name in ms if name != "textbook"]


def test_a_process_of_its_own_measures_alike() -> None:
    """Its memory is its own."""
    mine = np.ones(30_000_000)  # 240 MB
    here, there = (
        list(run("xpcap", [TINY, OTHER], BRIEF, "numpy", (STEP, GREEDY)))
        for run in (measure.measure, measure.measure_in_process)
    )
    assert [m.words for m in here] == [m.words for m in there]
    assert all(m.ms > 0 and m.gflops > 0 and m.gemm_gflops > 0 for m in (*here, *there))  # type: ignore[operator]
    for step, greedy in (there[:2], there[2:]):
        assert 7 * 3 <= step.words <= 16 * 5
        assert greedy.words > 7000
        assert step.memory is None or 1e7 < step.memory < mine.nbytes
    assert measure.machine_in_process("numpy") == timing.machine()


def test_what_goes_wrong_in_a_process_is_said_here(capfd: pytest.CaptureFixture[str]) -> None:
    with refuses(BackendError, "'cupi' does not exist"):
        list(measure.measure_in_process("xpcap", [TINY], BRIEF, "cupi", [STEP]))
    with refuses(BackendError, "nobody", "stopped with exit status 1"):
        list(measure.measure_in_process("nobody", [TINY], BRIEF, "numpy", [STEP]))
    assert "KeyError" in capfd.readouterr().err


def test_a_busy_process_is_a_session_of_its_own_and_leaves_with_us(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    start, started = subprocess.Popen, list[subprocess.Popen[bytes]]()

    def noted(*args: Any, **options: Any) -> Any:
        started.append(start(*args, **options))
        return started[-1]

    monkeypatch.setattr(timing.subprocess, "Popen", noted)
    with timing.busy_process():
        assert os.getsid(started[0].pid) == started[0].pid != os.getsid(0)
        assert started[0].poll() is None
    assert started[0].poll() is not None
    orphan = start([sys.executable, "-c", timing.SPIN], stdin=subprocess.PIPE)
    orphan.stdin.close()  # as if whoever started it had died
    assert orphan.wait() == 0


# The command


def call(*args: object) -> Result:
    return CliRunner().invoke(command.main, [str(arg) for arg in args])


def good(*args: object) -> Result:
    result = call(*args)
    assert result.exit_code == 0, result.output
    return result


def test_columns_are_those_of_the_docs() -> None:
    with (RESULTS / "pytorch.csv").open(encoding="utf-8", newline="") as lines:
        columns = next(csv.reader(lines))
    printed = {"date", "machine", "versions", "work", *results.COLUMNS}
    assert set(columns) - printed == {"feeding_percent"}  # of earlier rows
    assert all(f"`{name}`" in DOCS for name in printed - set(columns))


def test_commands_in_the_docs_print_the_machine_and_a_table_for_each_kind_of_work(
    tiny: None,
) -> None:
    commands = re.findall(r"^    python -m benchmarks(?: (.*))?$", DOCS, re.MULTILINE)
    assert len(commands) > 3
    for words in commands:
        if "cupy" not in words and ("torch" not in words or importlib.util.find_spec("torch")):
            good(*words.split())
    usual = good("--config", "coco", "--config", "flickr8k-gru", "--config", "coco").output
    about, step, greedy = usual.split("\n\n")
    assert about.startswith("backend numpy\n")
    assert re.search(r"^blas threads \d+$", about, re.MULTILINE)
    assert step.startswith("step: ")
    assert greedy.startswith("greedy: of 1,000 pictures, at most 16 words each\n")
    assert [line.split()[0] for line in step.splitlines()[3:]] == ["coco", "flickr8k-gru"]
    assert [line.split()[0] for line in greedy.splitlines()[3:]] == ["coco"]


def test_rows_of_the_results_are_printed(tiny: None) -> None:
    rows = [*csv.DictReader(io.StringIO(good("--csv").stdout))]
    assert [(row["work"], row["configuration"]) for row in rows] == [
        (kind, name) for kind in (STEP, GREEDY) for name in work.USUAL
    ]
    for row in rows:
        assert float(row["xpcap_ms"]) > 0 < float(row["ratio_textbook"])
        assert row["torch_padded_ms"] == row["times_alone"] == ""
    (row,) = csv.DictReader(io.StringIO(good("--beam", "--config", "coco", "--csv").stdout))
    assert (row["work"], row["textbook_ms"]) == (BEAM, "")
    alone, beside = csv.DictReader(io.StringIO(good("--busy", "--config", "coco", "--csv").stdout))
    assert (alone["work"], alone["times_alone"], beside["work"]) == (STEP, "", BUSY)
    assert float(beside["times_alone"]) > 0


def test_bad_calls_are_refused_before_anything_is_timed(
    tiny: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(results, "measure_in_process", None)
    for words, says in (
        ("--config flickr8", "did you mean 'flickr8k'"),
        ("--backend cupi", "did you mean 'cupy'"),
        ("--busy --beam", "--busy and --beam are given, expected only one of them"),
        ("--beam --config demo", "demo is given for captions, expected another configuration"),
    ):
        result = call(*words.split())
        assert (result.exit_code, says in " ".join(result.output.split())) == (2, True), (
            result.output
        )
    for name in results.REDUCED_PRECISION:
        with monkeypatch.context() as patch:
            patch.setenv(name, "1")
            result = call("--config", "coco")
        assert (result.exit_code, f"{name} is 1, expected it to be" in result.output) == (1, True)
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.delitem(sys.modules, "benchmarks.peer_torch", raising=False)
    monkeypatch.delattr("benchmarks.peer_torch", raising=False)
    result = call("--peer", "torch")
    assert result.exit_code == 1
    assert "torch cannot be imported (ModuleNotFoundError" in result.output
    assert "pip install 'torch" in result.output


# The peers


@pytest.mark.parametrize("clip", [0.5, 50.0])
def test_the_textbook_has_our_gradients_and_steps_as_our_solver_does(clip: float) -> None:
    data = TINY.data(1)
    minibatch = data.minibatch("train", np.arange(5))
    loss, grads = work.host_model(TINY, data).loss(*minibatch)
    solver = work.make_solver(TINY, data)
    solver.clip_norm = clip
    before = solver.model.params.copy()
    theirs = Textbook(dict(before), null=0, start=1, learning_rate=1e-3, clip=clip)
    got, got_grads = theirs.loss(*minibatch)
    assert got == pytest.approx(float(loss), rel=work.LOSS_TOLERANCE)
    assert set(got_grads) == set(grads)
    for name, expected in grads.items():
        assert got_grads[name].dtype == np.float32
        np.testing.assert_allclose(got_grads[name], expected, rtol=1e-4, atol=1e-6, err_msg=name)
    for step in range(5):
        solver.step(*minibatch)
        theirs.step(*minibatch)
        if step == 0:  # by its moments, as Adam's steps hardly depend on a length
            norm, moment = (
                np.sqrt(sum(float(np.sum(x**2)) for x in arrays))
                for arrays in (got_grads.values(), (c["m"] for c in theirs.configs.values()))
            )
            assert moment == pytest.approx(0.1 * min(norm, clip), rel=1e-5)
    # In the mean: where there is next to no gradient, it matters where Adam adds epsilon
    for name, after in solver.model.params.items():
        moved = np.abs(after - before[name]).mean()
        assert np.abs(theirs.params[name] - after).mean() < 0.05 * moved, name


@TORCH
@LAYOUTS
@pytest.mark.parametrize(
    "changes", [{}, {"P": 3}, {"cell": "gru"}, {"cell": "rnn"}], ids=["lstm", "P", "gru", "rnn"]
)
def test_the_peer_has_our_loss_and_our_gradients(
    changes: dict[str, Any], layout: str, one_thread: None
) -> None:
    from benchmarks import peer_torch

    config = dataclasses.replace(TINY, **changes)
    data = config.data(2)
    features, captions = data.minibatch("train", np.arange(5))
    ours = work.make_model(config, data)
    loss, grads = ours.loss(features, captions)
    theirs = (peer_torch.Attentive if config.P else peer_torch.Captioner)(config, 0)
    theirs.copy_from(ours.params)
    device = peer_torch.device_of("numpy")
    got = theirs(peer_torch.LAYOUTS[layout](features, captions, 0, device))
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


@PEERS
def test_a_peer_trains_finds_our_captions_and_is_timed(contender: str, one_thread: None) -> None:
    works = [STEP, GREEDY] if contender == "textbook" else [STEP, GREEDY, BEAM]
    for found in measure.measure(contender, [TINY], BRIEF, "numpy", works):
        assert found.ms > 0  # its captions were compared with ours
        assert (found.memory, found.gemm_gflops) == (None, None)
    for name in ("xpcap", contender):
        job = contenders.CONTENDERS[name].train(TINY, TINY.data(2), "numpy")
        losses = [job.step(k % 2) for k in range(60)]
        losses = [float(x.detach() if hasattr(x, "detach") else x) for x in losses]
        assert np.mean(losses[-2:]) < 0.98 * np.mean(losses[:2])
    kinds = (work for work in works if work != STEP)
    shapes = [
        contenders.CONTENDERS[contender].caption(TINY, TINY.data(1), "numpy", kind)().shape
        for kind in kinds
    ]
    assert set(shapes) == {(1000, MAX_WORDS)}


@PEERS
def test_a_peer_that_does_other_work_is_not_timed(
    contender: str, one_thread: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if contender == "textbook":
        monkeypatch.setattr("benchmarks.textbook.sigmoid", np.tanh)
    else:
        wrong = {"lstm": (sys.modules["torch"].nn.LSTM, (0, 1, 2, 3))}
        monkeypatch.setattr("benchmarks.peer_torch.CELLS", wrong)
    same = "xpcap on NumPy"
    for kind, says in ((STEP, "has loss .* and"), (GREEDY, "agrees with")):
        with pytest.raises(
            ArithmeticError,
            match=f"tiny, {contender} {says} {same if kind == GREEDY else 'xpcap'}.*: not the same work",
        ):
            list(measure.measure(contender, [TINY], BRIEF, "numpy", [kind]))


# On a device


def test_emulated_bench_is_timed_by_events_and_checked_before(
    device: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With dropout too: losses are compared without it."""
    train, caption = contenders.CONTENDERS["xpcap"]
    config = dataclasses.replace(TINY, dropout=0.5)
    job = train(config, TINY.data(2), "cupy")
    job.step(0)
    device.reset()
    assert job.clock(lambda: [job.step(k) for k in (0, 1)]) > 0
    assert device.reads == []
    assert [wait.how for wait in device.waits] == ["Device.synchronize", "Event.synchronize"]
    right = network.vocabulary_loss

    def spoilt(*args: Any, **options: Any) -> Any:
        nll, grads = right(*args, **options)
        return nll * (1 + 1e-4), grads

    monkeypatch.setattr(network, "vocabulary_loss", spoilt)
    with pytest.raises(ArithmeticError, match=r"tiny, xpcap on cupy has loss .* not the same work"):
        train(config, TINY.data(2), "cupy")

    def turned(*args: Any) -> Callable[[], np.ndarray]:
        return lambda: caption(*args)()[::-1]

    monkeypatch.setitem(contenders.CONTENDERS, "xpcap", contenders.Contender(train, turned))
    with pytest.raises(ArithmeticError, match=r"tiny, xpcap agrees with xpcap on NumPy in "):
        list(measure.measure("xpcap", [TINY], BRIEF, "cupy", [GREEDY]))


def test_emulated_bench_prints_what_gpu_it_was(device: Emulator, tiny: None) -> None:
    output = good("--backend", "cupy", "--config", "coco").output
    assert "gpu emulated" in output
    assert "cuda runtime 13.0" in output
    assert "textbook" not in output
    if importlib.util.find_spec("torch"):
        result = call("--backend", "cupy", "--peer", "torch")
        assert "finds no CUDA device" in result.output


def test_bench_of_a_gpu_leaves_it_to_other_processes() -> None:
    """In exclusive-process mode a context here would shut out those that are timed."""
    code = (
        "import sys; from click.testing import CliRunner; from benchmarks import measure, results;"
        "from benchmarks.__main__ import main; from benchmarks.measure import Measurement;"
        "measure.machine_in_process = lambda name: {'backend': name, 'gpu': 'a GPU'};"
        "results.measure_in_process = lambda *a: 2 * [Measurement(1.0, 50.0, 40.0, 9.0)];"
        "result = CliRunner().invoke(main, ['--backend', 'cupy:1', '--config', 'coco']);"
        "assert 'gpu a GPU' in result.output, result.output; sys.exit('cupy' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
    with pytest.raises(BackendError, match="backend cupy:99 cannot be used"):
        measure.machine_in_process("cupy:99")


@pytest.mark.gpu
def test_a_gpu_is_timed_beside_torch_where_it_is_there() -> None:
    """In processes of their own: this one makes errors of warnings."""
    peer = ["--peer", "torch"] if importlib.util.find_spec("torch") else []
    words = ["-m", "benchmarks", "--backend", "cupy", "--config", "notebook", "--csv", *peer]
    done = subprocess.run([sys.executable, *words], cwd=ROOT, stdout=-1, check=True, text=True)
    rows = [*csv.DictReader(io.StringIO(done.stdout))]
    assert [row["work"] for row in rows] == [STEP, GREEDY]
    for row in rows:
        assert float(row["xpcap_ms"]) > 0
        assert bool(row["ratio_torch_packed"]) == bool(peer)


# Other programs


def test_a_step_without_one_optimisation_has_the_loss_of_a_step_with_all() -> None:
    config = work.Config("tiny", N=5, D=8, W=16, H=32, V=128)
    data, losses = config.data(1), dict[str, float]()
    for name in ablations(work.make_solver(config, data)):
        solver = work.make_solver(config, data)
        with ablations(solver)[name]():
            losses[name] = float(solver.step(*work.host_batches(config, data)[0]))
    padded = next(name for name in losses if name.startswith("packing"))
    assert losses.pop(padded) > 0  # padding has a loss of its own
    assert list(losses.values()) == pytest.approx([losses["cell_steps"]] * len(losses))
