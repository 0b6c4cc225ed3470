"""Padded steps on the emulated device: the same launches, recorded once and repeated."""

import gc
import sys
from typing import Any

import numpy as np
import pytest
from device_solver import RECORDED, N, T, captions_of, leave_losses, make, make_data
from emulated import Emulator, in_thread, memory
from new_cells import NEW_CELLS

import xpcap
from xpcap import CaptioningSolver
from xpcap.backend.cublas import Product
from xpcap.backend.launch import KernelLaunch
from xpcap.backend.replay import Replay
from xpcap.models import Sampling
from xpcap.models.batch import Packed, caption_lengths, deal, mask_rows_of, pack
from xpcap.models.config import INJECT
from xpcap.models.device_batch import DeviceWorkspace, Layout, _padded_mask_rows
from xpcap.ops import DeviceOps
from xpcap.ops.device import Equations
from xpcap.training.objectives import CrossEntropy

pytestmark = pytest.mark.usefixtures("few_threads")

OUTSIDE_RECORD = {"raw dropout_masks", "raw squares", "raw clip", "raw adam_update"}
LEAST = captions_of(np.random.default_rng(3), 2 * N)


def solver(backend: str = "cupy", **options: Any) -> CaptioningSolver:
    return make(backend, objective=CrossEntropy(0.1), **options)


def padded(captions: np.ndarray, layout: Layout, V: int) -> Packed | None:
    lengths = caption_lengths(captions, 0)
    return layout.pack(captions, 0, deal(lengths)[0], lengths, V)


def unpadded(captions: np.ndarray) -> Packed:
    lengths = caption_lengths(captions, 0)
    return pack(captions, 0, deal(lengths)[0], lengths)


def fitting(one: CaptioningSolver, count: int) -> list[np.ndarray]:
    """Different batches that fit the layout."""
    found, rng = [], np.random.default_rng(0)
    captions = one.data.split("train").captions
    layout = Layout.of(captions, 0, N)
    while len(found) < count:
        rows = rng.permutation(2 * N)[:N]
        if padded(captions[rows], layout, len(one.model.word_to_idx)):
            found.append(rows)
    return found


def check_equal(ours: CaptioningSolver, theirs: CaptioningSolver) -> None:
    np.testing.assert_allclose(ours.loss_history, theirs.loss_history, rtol=2e-6)
    np.testing.assert_allclose(
        xpcap.to_numpy(ours.model.params.flat), theirs.model.params.flat, atol=2e-6
    )


def check_trains(ours: CaptioningSolver, steps: int = 5, **options: Any) -> None:
    """Steps of the same batches, here and on NumPy."""
    theirs = solver("numpy", **options)
    for rows in fitting(theirs, steps):
        ours.train_batch(rows)
        theirs.train_batch(rows)
    check_equal(ours, theirs)


def texts(nodes: Any) -> list[tuple[Any, ...]]:
    """Each launch and product of a record with all its arguments, which two records can share."""
    shown: list[tuple[Any, ...]] = []
    for one in nodes:
        if isinstance(one, KernelLaunch):
            parameters = bytes(one.parameters)
            shown.append((one.kernel.name, one.grid, parameters[len(parameters) // 2 :]))
        else:
            assert isinstance(one, Product)
            shown.append(("gemm", one.arguments))
    return shown


# ---- The record


@pytest.mark.parametrize("cell", RECORDED)
@pytest.mark.parametrize("inject", INJECT)
def test_emulated_padded_batches_make_the_same_launches(
    inject: str, cell: str, device: Emulator
) -> None:
    """To the last byte of their arguments. Besides them a step launches its masks and its update."""
    one = solver(inject=inject, cell=cell)
    leave_losses(one)
    found, record = [], one._workspace.replay
    first, *more = fitting(one, 3)
    one.train_batch(first)  # brings the buffers
    for rows in more:
        record._forget()
        with device.counting() as counts:
            one.train_batch(rows)
        found.append(texts(record.nodes))
        outside = len(counts.launches) - len(record.nodes)
        assert outside == len(OUTSIDE_RECORD) + 1, "launches outside the record"  # and record_step
    assert found[0] == found[1]
    with device.counting() as counts:
        one.train_batch(first)
    assert len(counts.launches) == len(found[0]) + len(OUTSIDE_RECORD) + 1
    assert (counts.reads, counts.waits, counts.allocations) == ([], [], [])
    assert len(counts.transfers) == 1


@pytest.mark.parametrize(
    "inject", ["every-step", pytest.param("attention", marks=pytest.mark.slow)]
)
def test_emulated_repeated_steps_train_as_numpy_does(inject: str, device: Emulator) -> None:
    """Two epochs, of batches that fit the layout, and of the last ones, which do not."""
    ours, theirs = (solver(backend, inject=inject, n=6 * N + 5) for backend in ("cupy", "numpy"))
    ours.train()
    theirs.train()
    check_equal(ours, theirs)
    assert ours._workspace.replay.repeats > 3


def test_emulated_blocks_of_scores_are_repeated_as_well(
    device: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of a step is recorded, where its scores take more than one block."""
    blocks = sys.modules["xpcap.layers.vocabulary_loss"]
    monkeypatch.setattr(blocks, "MIN_ROWS", 64)
    monkeypatch.setattr(blocks, "DEVICE_BLOCK", 64)
    ours = solver()
    leave_losses(ours)
    check_trains(ours, 1)
    with device.counting() as counts:
        ours.train_batch(fitting(ours, 2)[1])
    assert len(counts.launches) == len(ours._workspace.replay.nodes) + len(OUTSIDE_RECORD) + 1
    assert counts.names()["raw softmax_loss"] > 1


def test_emulated_steps_without_a_fused_kernel_are_recorded_too(
    device: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each is a product and the gates: operations that have kernels."""
    monkeypatch.setattr("xpcap.ops.device.FUSED", 1)
    ours = solver()
    check_trains(ours)
    assert ours._workspace.replay.repeats


def test_emulated_solver_goes_on_in_another_thread(device: Emulator) -> None:
    """The first is gone by then, with all that CuPy kept for it."""
    ours, theirs = solver(), solver("numpy")
    leave_losses(ours)
    batches = fitting(theirs, 6)

    def train(some: list[np.ndarray]) -> None:
        xpcap.use_backend("cupy")
        for rows in some:
            ours.train_batch(rows)

    in_thread(lambda: train(batches[:3]))
    in_thread(lambda: train(batches[3:]))
    for rows in batches:
        theirs.train_batch(rows)
    check_equal(ours, theirs)


def test_emulated_steps_on_arrays_of_the_device_keep_one_record_and_one_batch(
    device: Emulator,
) -> None:
    ours, theirs = solver(), solver("numpy")
    rng, captions = np.random.default_rng(0), ours.data.split("train").captions
    held = []
    for rows in fitting(ours, 6):
        features = rng.standard_normal((N, 10)).astype("f4")
        with xpcap.use_backend("cupy"):
            ours.step(xpcap.asarray(features), captions[rows])
        theirs.step(features, captions[rows])
        gc.collect()
        held.append(sum(block.nbytes for block in memory._blocks.values()))
    assert ours._workspace.replay.repeats == 5, "the first step is recorded, the others repeat it"
    assert len(set(held[1:])) == 1
    np.testing.assert_allclose(
        xpcap.to_numpy(ours.model.params.flat), theirs.model.params.flat, atol=2e-6
    )


def test_emulated_memory_goes_with_its_last_user_without_a_collection(device: Emulator) -> None:
    """Buffers and handles of solvers that are dropped, and of samples, which pile up otherwise."""
    model, features = make("cupy").model, make_data().split("train").features

    def held() -> tuple[int, int]:
        return sum(block.nbytes for block in memory._blocks.values()), len(device.handles)

    def train() -> None:
        trained = solver()
        for rows in fitting(trained, 3):
            trained.train_batch(rows)

    train()
    gc.collect()
    before, enabled = held(), gc.isenabled()
    gc.disable()
    try:
        for seed in range(40):
            model.sample(features, policy=Sampling(max_length=3, seed=seed))
            assert held() == before
        for _ in range(4):
            train()
            assert held() == before
    finally:
        if enabled:
            gc.enable()


def test_emulated_record_serves_the_work_that_came_last(device: Emulator) -> None:
    """Features of the host, then rows of a resident table, then another model."""
    ours, theirs = solver(), solver("numpy")
    captions, first = ours.data.split("train").captions, ours._workspace
    features = np.random.default_rng(0).standard_normal((N, 10)).astype("f4")
    batches = fitting(ours, 4)
    for rows in (batches[0], batches[1]):
        ours.step(features, captions[rows])
        theirs.step(features, captions[rows])
    nodes = first.replay.nodes
    for one in (ours, theirs):
        one.train_batch(batches[2])
        one.train_batch(batches[3])
    assert nodes is not first.replay.nodes
    check_equal(ours, theirs)
    losses = []
    for trained, other in ((ours, solver()), (theirs, solver("numpy"))):
        for rows, one in zip(batches, (trained, trained, other, trained), strict=True):
            loss, _ = one.model.loss(
                features, captions[rows], workspace=trained._workspace, step=1, smoothing=0.1
            )
            losses.append(float(loss))
    np.testing.assert_allclose(losses[:4], losses[4:], rtol=2e-6)


@pytest.mark.usefixtures("new_cells")
@pytest.mark.parametrize("cell", NEW_CELLS)
def test_emulated_cell_without_a_kernel_is_neither_padded_nor_recorded(
    cell: str, device: Emulator
) -> None:
    one = solver(cell=cell)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Replay, "run", None)
        check_trains(one, 3, cell=cell)
    assert not one._workspace.replay.nodes


def test_emulated_operation_without_a_kernel_ends_a_record(
    device: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(DeviceOps, "weighted_sum", Equations.weighted_sum)
    one = solver()
    check_trains(one, 3)
    assert not one._workspace.replay.nodes


# ---- Padding


def test_emulated_padding_changes_no_loss_and_no_gradient(device: Emulator) -> None:
    """Captions that end early or have a NULL inside or no word at all, with weights and dropout."""
    one = solver()
    captions = LEAST[:N].copy()
    captions[3, 4] = 0  # NULL inside
    captions[5, 1:] = 0  # no target at all
    features = np.random.default_rng(1).standard_normal((N, 10)).astype("f4")
    layout = Layout((N,) * 9 + tuple(range(N, N - T + 9, -1)), 40)
    weights = np.random.default_rng(2).random(N)
    results = []
    for space in (None, DeviceWorkspace(one.model.params.flat, layout)):
        loss, grads = one.model.loss(
            features, captions, workspace=space, step=4, weights=weights, smoothing=0.1
        )
        results.append((float(loss), xpcap.to_numpy(grads.flat)))
    assert space is not None
    assert space.replay.nodes
    np.testing.assert_allclose(*(loss for loss, _ in results), rtol=1e-6)
    np.testing.assert_allclose(*(grads for _, grads in results), atol=2e-7)


@pytest.mark.parametrize("words", [40, 1000])
@pytest.mark.parametrize(("n", "padding"), [(25, 0.25), (64, 0.15), (512, 0.06)])
def test_a_layout_fits_nearly_all_batches_with_little_padding(
    n: int, padding: float, words: int
) -> None:
    rng = np.random.default_rng(5)
    captions = captions_of(rng, 3000)
    # Words that come as often as those of a language: the k-th has a share of 1 / k
    chance = 1 / np.arange(1, words + 1)
    drawn = 2 + rng.choice(words, captions.shape, p=chance / chance.sum())
    captions = np.where(captions > 2, drawn, captions)
    layout = Layout.of(captions, 0, n)
    assert layout.sizes[0] == n
    assert sorted(layout.sizes)[::-1] == list(layout.sizes)
    fits, rows, wide, distinct = 0, 0, 0, 0
    for _ in range(200):
        some = captions[rng.permutation(3000)[:n]]
        packed, plain = padded(some, layout, words + 2), unpadded(some)
        fits += packed is not None
        rows, wide = rows + plain.rows.R, wide + (packed or plain).rows.R
        distinct += len(plain.words)
    assert fits >= 190
    assert wide < (1 + padding) * rows
    assert layout.words < distinct / 200 + 3 * 64


def test_padded_words_are_distinct_and_ascend_and_count_as_before() -> None:
    for V, words in ((40, 64), (500, 64)):
        plain = unpadded(LEAST[:N])
        packed = padded(LEAST[:N], Layout((N,) * T, words), V)
        assert packed is not None
        assert len(packed.words) == min(words, V)
        assert (np.diff(packed.words) > 0).all()
        (numbers,), _ = mask_rows_of([packed], LEAST[:N], caption_lengths(LEAST[:N], 0))
        rows = _padded_mask_rows(packed, *numbers)[1]
        real = rows >= 0
        np.testing.assert_array_equal(packed.words[real], plain.words)
        np.testing.assert_array_equal(rows[real], np.arange(len(plain.words)))
        sizes = np.diff(packed.inputs.starts)
        assert ((sizes > 0) == real).all()
        np.testing.assert_array_equal(packed.words[packed.inputs.ids][packed.inputs.order[:3]], 1)


def test_a_batch_of_more_words_than_the_layout_is_not_padded() -> None:
    plain = unpadded(LEAST[:N])
    few = Layout((N,) * T, len(plain.words) - 1)
    assert padded(LEAST[:N], few, 500) is None
    assert padded(LEAST[:N], few._replace(words=few.words + 1), 500) is not None
