"""One training step on the emulated device: what it launches, sends and reads, and that its numbers
are NumPy's.
"""

import functools
import gc
import io
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from device_solver import (
    RECORDED,
    VOCABULARY,
    N,
    T,
    make,
    make_data,
)
from emulated import Counts, Emulator, install, install_or_skip
from new_cells import NEW_CELLS
from refusals import refuses
from tqdm import tqdm

import xpcap
from xpcap import CaptioningSolver, Watcher, to_numpy, training
from xpcap.backend.memory import Workspace
from xpcap.data import loader
from xpcap.errors import TrainingError
from xpcap.layers import CELLS
from xpcap.ops.cell import name_of
from xpcap.ops.device import CELL_KERNELS, FUSED
from xpcap.progress import Pace

pytestmark = pytest.mark.usefixtures("few_threads")

# Launches of a step beside the loop, by dropout; with a NULL inside. Each array of a state adds one
BESIDE = {0.0: (25, 27), 0.3: (28, 28)}


def count_step(device: Emulator, solver: CaptioningSolver) -> Counts:
    """What one step costs, the features resident and the buffers as large as they have to be."""
    rows = np.arange(N)
    solver._step(solver._loader.minibatch("train", rows))
    gc.collect()  # the uploads of an earlier solver wait when they go, which would be counted here
    with device.counting() as counts:
        loss, norm = solver._step(solver._loader.minibatch("train", rows))
        solver._record.add(loss, norm)
    return counts


class StepCase(NamedTuple):
    """A step of training, as far as its launches depend on it.

    recorded : it repeats a record; else it makes its launches anew
    steps : time steps of the longest captions
    fused : most captions whose time step is one kernel
    """

    cell: str
    dropout: float = 0.3
    hole: bool = False
    inject: str = "init"
    recorded: bool = True
    steps: int = T
    fused: int = FUSED


@functools.cache
def counted(case: StepCase) -> Counts:
    """What the step costs, counted once for all tests that look at it."""
    with pytest.MonkeyPatch.context() as patch:
        device = install_or_skip(patch)
        patch.setattr("xpcap.ops.device.FUSED", case.fused)
        solver = make("cupy", case.cell, case.dropout, hole=case.hole, inject=case.inject)
        solver.data.split("train").captions[:, case.steps + 1 :] = VOCABULARY.null
        if not case.recorded:
            solver._workspace.layout = None
        return count_step(device, solver)


def launches(case: StepCase) -> tuple[Counter[str], int]:
    """What one time step launches, and how many launches a step has beside its T time steps:
    captions of T and of T - 1 steps differ by the first.
    """
    whole, shorter = (
        counted(case._replace(recorded=False, steps=steps)).names() for steps in (T, T - 1)
    )
    time_step = whole - shorter
    return time_step, whole.total() - T * time_step.total()


def files(events: Iterable[Any]) -> Counter[str]:
    """How many each file asked for."""
    return Counter(event.place.split(":")[0].split("/")[-1] for event in events)


def check_frugal(counts: Counts) -> None:
    """Nothing is read, waited for or allocated; one array is sent, of index vectors."""
    found = counts.reads, counts.waits, counts.allocations, len(counts.transfers)
    assert found == ([], [], [], 1)


@pytest.mark.parametrize("hole", [False, True], ids=["whole", "NULL-inside"])
@pytest.mark.parametrize("dropout", BESIDE)
@pytest.mark.parametrize("cell", RECORDED)
def test_emulated_step_reads_nothing_takes_no_memory_and_launches_little(
    cell: str, dropout: float, hole: bool
) -> None:
    """The bounds beside its time steps leave no room: a copy that nobody asked for is seen."""
    case = StepCase(cell, dropout, hole)
    anew, repeated = counted(case._replace(recorded=False)), counted(case)
    for counts in (anew, repeated):
        check_frugal(counts)
    assert len(repeated.launches) <= len(anew.launches), repeated.names()
    _, beside = launches(case)
    assert beside <= BESIDE[dropout][hole] + len(CELLS[cell].states)


@pytest.mark.parametrize("cell", RECORDED)
def test_emulated_time_step_is_one_kernel_and_one_product_each_way(cell: str) -> None:
    """That of few captions is one kernel; attention adds one and a product, the picture at every step
    four launches to all.
    """
    kernel = CELL_KERNELS[name_of(CELLS[cell].equation)]
    both_ways = Counter({f"raw {kernel}": 1, f"raw {kernel}_backward": 1})
    assert launches(StepCase(cell, fused=N - 1))[0] == both_ways + Counter({"product sgemm": 2})
    if cell == "lstm":
        few = Counter({"raw lstm_step": 1, "raw lstm_step_backward": 1})
        assert launches(StepCase(cell))[0] == few

    time_step, beside = launches(StepCase(cell, inject="attention"))
    attention = {"raw attend_step": 1, "raw attend_step_backward": 1, "product sgemm": 4}
    assert time_step == both_ways + Counter(attention)
    assert beside - launches(StepCase(cell))[1] <= 10
    check_frugal(counted(StepCase(cell, inject="attention", hole=True)))

    without, counts = (counted(StepCase(cell, inject=inject)) for inject in ("init", "every-step"))
    check_frugal(counts)
    more = Counter({"raw gather_plus_image": 1, "raw sequence_sum": 1, "product sgemm": 3})
    assert counts.names() - without.names() == more
    assert without.names() - counts.names() == Counter({"raw gather_plus": 1})


@pytest.mark.parametrize(
    "inject", ["init", pytest.param("attention+every-step", marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("cell", [*CELLS, *NEW_CELLS])
@pytest.mark.usefixtures("new_cells")
def test_emulated_training_equals_numpy(cell: str, inject: str, device: Emulator) -> None:
    """Losses, validation, parameters and moments after two epochs with dropout, clipping and a NULL
    inside a caption. In float32 test_lockstep compares each step.
    """
    host, emulated = (
        make(backend, cell, dtype=np.float64, hole=True, inject=inject)
        for backend in ("numpy", "cupy")
    )
    for solver in (host, emulated):
        solver.train()
    close = {"rtol": 1e-11, "atol": 1e-13}
    np.testing.assert_allclose(emulated.loss_history, host.loss_history, **close)
    for ours, theirs in zip(emulated.history, host.history, strict=True):
        assert ours == pytest.approx(theirs, rel=close["rtol"])
    pairs = [(emulated.model.params, host.model.params)]
    pairs += [(emulated._optimizer.state[key], host._optimizer.state[key]) for key in ("m", "v")]
    for found, expected in pairs:
        np.testing.assert_allclose(to_numpy(found.flat), expected.flat, **close)


@pytest.mark.slow
def test_the_loop_of_the_docs_trains_the_same_model_on_the_device(
    device: Emulator, capsys: pytest.CaptureFixture[str]
) -> None:
    page = Path(__file__).parents[2] / "docs" / "howto" / "own-models.md"
    loop = page.read_text(encoding="utf-8").split("```python\n")[1].split("```")[0]
    loop = loop.replace("train=500", "train=64").replace("range(5)", "range(2)")
    models = []
    for backend in ("numpy", "cupy"):
        names: dict[str, Any] = {}
        with xpcap.use_backend(backend):
            exec(compile(loop, backend, "exec"), names)
        models.append(to_numpy(names["model"].params.flat))
    np.testing.assert_allclose(models[1], models[0], rtol=1e-3, atol=1e-4)
    assert "raw adam_update" in device.names()
    printed = capsys.readouterr().out.splitlines()
    assert printed[: len(printed) // 2] == printed[len(printed) // 2 :]


@pytest.mark.parametrize("cell", [*CELLS, *NEW_CELLS])
@pytest.mark.usefixtures("new_cells")
def test_emulated_shard_without_captions_has_no_loss_and_no_gradient(
    cell: str, device: Emulator
) -> None:
    """Of a rank, where there are more of them than captions."""
    solver = make("cupy", cell, inject="attention+every-step")
    features, captions = solver.data.minibatch("train", np.arange(3))
    workspace, none = Workspace(solver.model.params.flat), np.zeros(0, np.int64)
    with xpcap.use_backend("cupy"):
        # Leaves memory that a shard may not read
        solver.model.loss(features, captions, workspace=workspace)
        loss, grads = solver.model.loss(features[:0], captions, shard=none, workspace=workspace)
    assert float(loss) == 0
    assert not to_numpy(grads.flat).any()


def test_emulated_epoch_reads_its_losses_once_and_sends_features_once(device: Emulator) -> None:
    """Besides, the two scores that end an epoch are read, two numbers each, and index vectors sent."""
    solver = make("cupy", num_epochs=1)
    with device.counting() as counts:
        solver.train()
    assert files(counts.reads) <= Counter({"losses.py": 1, "evaluate.py": 4})
    sent = Counter(event.place.split("/")[-2] for event in counts.transfers)
    # Two splits; two batches are scored as well
    assert sent <= Counter({"data": 2, "models": solver.steps_per_epoch + 2})


def test_emulated_printing_reads_a_loss_each_time(
    device: Emulator, capsys: pytest.CaptureFixture[str]
) -> None:
    solver = make("cupy", num_epochs=1, verbose=True, print_every=1)
    with device.counting() as counts:
        solver.train()
    assert files(counts.reads)["losses.py"] == solver.steps_per_epoch == 2
    assert capsys.readouterr().out.count("loss:") == 2


def test_emulated_bar_reads_losses_by_the_clock(
    device: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every half second, however short the steps; `print_every` decides only what is printed."""
    clock = [0.0]

    class Tick(Watcher):
        def step(self, solver: CaptioningSolver) -> None:  # told in validation as well
            clock[0] += 0.125 if solver._order.position < solver.steps_per_epoch else 0

    monkeypatch.setattr(
        training.solver,
        "bar",
        lambda batches, *_, **__: tqdm(batches, disable=False, file=io.StringIO()),
    )
    solver = make("cupy", num_epochs=1, batch_size=2, print_every=1, watchers=[Tick()])
    solver._pace = Pace(0.5, lambda: clock[0])
    with device.counting() as counts:
        solver.train()
    assert solver.iteration == 12
    assert files(counts.reads)["losses.py"] == 3 + 1  # steps 1, 5 and 9, and the end of the epoch


def test_emulated_features_live_on_the_device_where_they_fit(device: Emulator) -> None:
    solver = make("cupy")
    size = solver.data.split("train").features.nbytes
    device.free = int(size / loader.SHARE)
    assert solver._loader._table("train") is not None
    scarce = make("cupy")
    device.free -= 4
    assert scarce._loader._table("train") is None
    losses = [
        [float(s.step(*s._loader.minibatch("train", np.arange(N))[:2])) for _ in range(3)]
        for s in (solver, scarce)
    ]
    assert losses[0] == losses[1]
    with device.counting() as counts:
        scarce.step(*scarce._loader.minibatch("train", np.arange(N))[:2])
    assert len(counts.transfers) == 2  # the features travel as well
    assert counts.reads == []


def test_emulated_step_that_is_not_finite_is_found_before_anything_is_kept(
    device: Emulator,
) -> None:
    solver = make("cupy", num_epochs=1)
    solver.model.params["Wx"][0, 0] = np.nan
    with refuses(TrainingError, "iteration 1 has loss nan and a gradient of norm nan"):
        solver.train()
    assert solver.history == []


def test_emulated_device_gets_equal_bits_twice(device: Emulator) -> None:
    """No step of training depends on an order that a device may choose: see the atomic additions
    that the emulation reorders.
    """
    flats = []
    for _ in range(2):
        solver = make("cupy", hole=True)
        solver.train()
        flats.append(to_numpy(solver.model.params.flat))
    assert flats[0].tobytes() == flats[1].tobytes()
    assert device.atomics == 0


@pytest.mark.parametrize("cell", [*CELLS, *NEW_CELLS])
@pytest.mark.usefixtures("new_cells")
def test_emulated_workspace_changes_no_bit(cell: str, device: Emulator) -> None:
    """No buffer is put to two uses, and none is read before it is written: each holds what the step
    before left.
    """
    model, data = make("cupy", cell, dropout=0.0).model, make_data(hole=True)
    workspace = Workspace(model.params.flat)
    for rows in (np.arange(N), np.arange(N, 2 * N), np.arange(N)):
        (loss, grads), (fresh_loss, fresh_grads) = (
            model.loss(*data.minibatch("train", rows), workspace=new) for new in (workspace, None)
        )
        assert to_numpy(loss) == to_numpy(fresh_loss)
        np.testing.assert_array_equal(to_numpy(grads.flat), to_numpy(fresh_grads.flat))


def test_emulated_staging_memory_goes_back_once_features_are_sent(
    device: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    freed: list[None] = []
    monkeypatch.setattr("emulated.cuda.PINNED.free_all_blocks", lambda: freed.append(None))
    assert make("cupy")._loader._table("train") is not None
    assert len(freed) == 1
    assert make("numpy")._loader._table("train") is None
    assert len(freed) == 1


def test_emulated_second_device_computes_where_it_was_asked_for(
    device: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch, devices=2)
    losses = []
    for backend, number in (("cupy", 0), ("cupy:1", 1)):
        with xpcap.use_backend(backend):
            solver = make(backend)
            losses.append(solver.step(*solver._loader.minibatch("train", np.arange(N))[:2]))
            assert [
                x.device.id
                for x in (solver.model.params.flat, solver._optimizer.state["m"].flat, losses[-1])
            ] == [number] * 3
    assert float(losses[0]) == float(losses[1])


def test_emulated_workspace_refuses_another_current_stream(device: Emulator) -> None:
    """Nothing orders two streams: buffers would be overwritten while the other one reads them."""
    import cupy

    rows, solver = np.arange(N), make("cupy")
    solver.step(*solver._loader.minibatch("train", rows)[:2])
    cupy.cuda.Stream(non_blocking=True).use()
    with refuses(ValueError, "made on CUDA stream 0x0, and the current stream is 0x"):
        solver._step(solver._loader.minibatch("train", rows))
    here = Workspace(solver.model.params.flat)
    here.send("rows", rows)
    cupy.cuda.Stream.null.use()
    with refuses(ValueError, ", and the current stream is 0x0"):
        here.send("rows", rows)


# ---- The warm-up before training


@pytest.mark.parametrize(
    ("cell", "select"), [*((cell, "cider") for cell in CELLS), ("lstm", "last")]
)
@pytest.mark.slow
def test_emulated_warm_up_launches_all_that_training_will_and_changes_nothing(
    cell: str, select: str, device: Emulator
) -> None:
    cold, warm = (make("cupy", cell, select=select) for _ in range(2))
    with device.counting() as counts:
        warm.warm_up()
    with device.counting() as training:
        warm.train()
    assert set(training.names()) <= set(counts.names())
    cold.train()
    assert warm.loss_history == cold.loss_history
    flats = [to_numpy(solver.model.params.flat).tobytes() for solver in (warm, cold)]
    assert flats[0] == flats[1]


def test_host_needs_no_warm_up(monkeypatch: pytest.MonkeyPatch) -> None:
    solver = make("numpy")
    monkeypatch.setattr(type(solver.objective), "loss", None)
    before = np.array(solver.model.params.flat)
    solver.warm_up()
    np.testing.assert_array_equal(solver.model.params.flat, before)
