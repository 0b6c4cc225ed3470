"""Steps of one layout on the emulated device: the same launches, recorded and repeated, as a list and
as a graph.
"""

import dataclasses
import sys
from collections import Counter
from typing import Any

import numpy as np
import pytest

pytest.importorskip("PIL")  # test_emulated_step

from emulated import Emulator
from emulated.cuda import Graph, Stream
from test_emulated_step import N, T, captions_of, make

import xpcap
from xpcap import CaptioningSolver
from xpcap.device.cublas import Product
from xpcap.device.launch import Launch
from xpcap.layers.cells import CELLS
from xpcap.models import batch as batches
from xpcap.models.config import INJECT
from xpcap.ops import DeviceOps, cublas, get_ops, replay
from xpcap.ops.device import Equations
from xpcap.training.losses import LossBuffer
from xpcap.training.objectives import CrossEntropy

OUTSIDE_RECORD = {"raw dropout_masks", "raw squares", "raw clip", "raw adam_update"}
LEAST = captions_of(np.random.default_rng(3), 2 * N)


def solver(backend: str = "cupy", **options: Any) -> CaptioningSolver:
    return make(backend, objective=CrossEntropy(0.1), **options)


def replays(one: CaptioningSolver) -> list[replay.Replay[Any]]:
    """The steps that it has recorded."""
    records = one._workspace.buffer.records or {}
    return [record for record in records.values() if isinstance(record, replay.Replay)]


def leave_losses(one: CaptioningSolver) -> None:
    """Let no loss be read for a hundred steps."""
    one._record = LossBuffer(one.model.params.flat, 100)


def fitting(one: CaptioningSolver, count: int) -> list[np.ndarray]:
    """Different batches that fit the last layout and not the ones before."""
    found, rng = [], np.random.default_rng(0)
    captions = one.data.split("train").captions
    V = len(one.model.word_to_idx)
    while len(found) < count:
        rows = rng.permutation(2 * N)[:N]
        packed = batches.pack(captions[rows], 0, layouts=one._layouts, V=V)
        if packed.layout == one._layouts[-1]:
            found.append(rows)
    return found


def texts(work: Any) -> list[tuple[Any, ...]]:
    """Each launch and product of a record with all its arguments, which two records can share."""
    shown: list[tuple[Any, ...]] = []
    for one in work:
        if isinstance(one, Launch):
            parameters = bytes(one.parameters)
            shown.append((one.kernel.name, one.grid, parameters[len(parameters) // 2 :]))
        else:
            assert isinstance(one, Product)
            shown.append(("gemm", one.arguments))
    return shown


@pytest.mark.parametrize("cell", ["lstm", "rnn"])
@pytest.mark.parametrize("inject", INJECT)
def test_emulated_batches_of_one_layout_make_the_same_launches(
    inject: str, cell: str, device: Emulator
) -> None:
    """To the last byte of their arguments. Besides them a step launches its masks and its update."""
    one = solver(inject=inject, cell=cell)
    leave_losses(one)
    found, records = [], one._workspace.buffer.records
    assert records is not None
    first, second, third = fitting(one, 3)
    one.train_batch(first)  # grows the buffers
    for rows in (second, third):
        records.clear()
        with device.counting() as counts:
            one.train_batch(rows)
        (record,) = replays(one)
        found.append(texts(record.work))
        outside = len(counts.launches) - len(record.work)
        assert outside == len(OUTSIDE_RECORD) + 1, "launches outside the record"  # and record_step
    assert found[0] == found[1]
    with device.counting() as counts:
        one.train_batch(first)
    assert len(counts.launches) == len(found[0]) + len(OUTSIDE_RECORD) + 1
    assert (counts.reads, counts.waits, counts.allocations) == ([], [], [])
    assert len(counts.transfers) == 1


@pytest.mark.parametrize("graphs", [False, True], ids=["list", "graph"])
@pytest.mark.parametrize(
    "inject", ["every-step", pytest.param("attention", marks=pytest.mark.slow)]
)
def test_emulated_repeated_steps_train_as_numpy_does(
    inject: str, graphs: bool, device: Emulator
) -> None:
    """Two epochs, of batches that fit a layout, and of the last ones, which do not."""
    ours, theirs = solver(inject=inject, graphs=graphs), solver("numpy", inject=inject)
    for one in (ours, theirs):
        split = one.data.split("train")
        one.data.splits["train"] = dataclasses.replace(  # type: ignore[index]
            split,
            captions=np.concatenate([split.captions] * 3 + [split.captions[:5]]),
            image_idxs=np.concatenate([split.image_idxs] * 3 + [split.image_idxs[:5]]),
        )
    ours, theirs = again(ours, graphs), again(theirs, False)
    with device.counting() as counts:
        ours.train()
    theirs.train()
    np.testing.assert_allclose(ours.loss_history, theirs.loss_history, rtol=2e-6)
    np.testing.assert_allclose(
        xpcap.to_numpy(ours.model.params.flat), theirs.model.params.flat, atol=2e-6
    )
    assert counts.kinds()["graph"] > 3 if graphs else not counts.kinds()["graph"]
    assert replays(ours)


def again(one: CaptioningSolver, graphs: bool) -> CaptioningSolver:
    """A solver for the data as they are by now."""
    with xpcap.use_backend("numpy" if one._on_host else "cupy"):
        return CaptioningSolver(
            one.model,
            one.data,
            update_rule="adam",
            batch_size=N,
            num_epochs=2,
            clip_norm=5.0,
            seed=2,
            verbose=False,
            objective=CrossEntropy(0.1),
            graphs=graphs,
        )


def test_emulated_blocks_of_scores_are_repeated_as_well(
    device: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of a step is recorded, where its scores take more than one block."""
    blocks = sys.modules["xpcap.layers.vocabulary_loss"]
    monkeypatch.setattr(blocks, "LEAST", 64)
    monkeypatch.setattr(blocks, "DEVICE_BLOCK", 64)
    ours, theirs = solver(), solver("numpy")
    leave_losses(ours)
    for k, rows in enumerate(fitting(ours, 3)):
        with device.counting() as counts:
            ours.train_batch(rows)
        theirs.train_batch(rows)
        if k == 1:
            (record,) = replays(ours)
            assert len(counts.launches) == len(record.work) + len(OUTSIDE_RECORD) + 1
    assert counts.names()["raw softmax_loss"] > 1
    np.testing.assert_allclose(ours.loss_history, theirs.loss_history, rtol=2e-6)
    np.testing.assert_allclose(
        xpcap.to_numpy(ours.model.params.flat), theirs.model.params.flat, atol=2e-6
    )


def test_emulated_padding_changes_no_loss_and_no_gradient(device: Emulator) -> None:
    """Captions that end early or have a NULL inside or no word at all, with weights and dropout."""
    one = solver()
    captions = LEAST[:N].copy()
    captions[3, 4] = 0  # NULL inside
    captions[5, 1:] = 0  # no target at all
    features = np.random.default_rng(1).standard_normal((N, 10)).astype("f4")
    layout = ((N,) * 9 + tuple(range(N, N - T + 9, -1)),)
    weights = np.random.default_rng(2).random(N)
    results = []
    for layouts in ((), layout):
        with device.counting() as counts:
            loss, grads = one.model.loss(
                features, captions, step=4, weights=weights, smoothing=0.1, layouts=layouts
            )
        results.append((float(loss), xpcap.to_numpy(grads.flat)))
        by_word = [p.C.rows for p in counts.products]
    assert by_word  # the second one was padded
    np.testing.assert_allclose(*(loss for loss, _ in results), rtol=1e-6)
    np.testing.assert_allclose(*(grads for _, grads in results), atol=2e-7)


def test_layouts_fit_nearly_all_batches_with_little_padding() -> None:
    rng = np.random.default_rng(5)
    captions = captions_of(rng, 3000)
    layouts = batches.layouts_of(captions, 0, 64)
    assert 1 <= len(layouts) <= 3
    assert all(layout[0] == 64 and sorted(layout)[::-1] == list(layout) for layout in layouts)
    fits, rows, padded = 0, 0, 0
    for _ in range(200):
        some = captions[rng.permutation(3000)[:64]]
        packed = batches.pack(some, 0, layouts=layouts, V=40)
        fits += packed.layout is not None
        rows += batches.pack(some, 0).rows.R
        padded += packed.rows.R
    assert fits >= 190
    assert padded < 1.1 * rows


def test_padded_words_are_distinct_and_ascend_and_count_as_before() -> None:
    layouts = batches.layouts_of(LEAST, 0, N)
    for V in (40, 500):
        plain = batches.pack(LEAST[:N], 0)
        packed = batches.pack(LEAST[:N], 0, layouts=((N,) * T,), V=V)
        assert len(packed.words) == min(batches.WORDS, V)
        assert (np.diff(packed.words) > 0).all()
        real = packed.word_mask_rows >= 0
        np.testing.assert_array_equal(packed.words[real], plain.words)
        np.testing.assert_array_equal(packed.word_mask_rows[real], np.arange(len(plain.words)))
        sizes = np.diff(packed.inputs.starts)
        assert ((sizes > 0) == real).all()
        np.testing.assert_array_equal(packed.words[packed.inputs.ids][packed.inputs.order[:3]], 1)
    assert layouts


# ---- what is not repeated


def test_emulated_cell_that_may_do_anything_is_not_recorded(
    device: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(CELLS, "lstm", CELLS["lstm"]._replace(replayable=False))
    one = solver()
    for rows in fitting(one, 3):
        one.train_batch(rows)
    assert not replays(one)


def test_emulated_operation_without_a_kernel_spoils_a_record(
    device: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(DeviceOps, "weighted_sum", Equations.weighted_sum)
    ours, theirs = solver(), solver("numpy")
    for rows in fitting(ours, 3):
        ours.train_batch(rows)
        theirs.train_batch(rows)
    assert not replays(ours)
    np.testing.assert_allclose(ours.loss_history, theirs.loss_history, rtol=2e-6)


def test_emulated_steps_of_many_captions_are_recorded_too(
    device: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each is a product and the gates: operations that have kernels."""
    monkeypatch.setattr("xpcap.ops.device.FUSED", 1)
    ours, theirs = solver(), solver("numpy")
    for rows in fitting(ours, 3):
        ours.train_batch(rows)
        theirs.train_batch(rows)
    assert replays(ours)
    np.testing.assert_allclose(ours.loss_history, theirs.loss_history, rtol=2e-6)


def test_emulated_record_is_made_anew_when_a_buffer_moves(device: Emulator) -> None:
    ours, theirs = solver(), solver("numpy")
    for k, rows in enumerate(fitting(ours, 5)):
        if k == 3:
            ours._workspace.buffer("cell.h", (10_000,))
            assert not ours._workspace.buffer.records
        ours.train_batch(rows)
        theirs.train_batch(rows)
    np.testing.assert_allclose(ours.loss_history, theirs.loss_history, rtol=2e-6)
    assert replays(ours)


# ---- graphs


def test_emulated_step_by_graph_is_six_launches(device: Emulator) -> None:
    one = solver(graphs=True)
    leave_losses(one)
    first, *more, last = fitting(one, 4)
    for rows in (first, *more):
        one.train_batch(rows)
    with device.counting() as counts:
        one.train_batch(last)
    names = Counter(name for name in counts.names() if not name.startswith("graph"))
    assert set(names) == {*OUTSIDE_RECORD, "raw record_step"}
    assert counts.kinds() == {"raw": 5, "graph": 1}
    assert (counts.reads, counts.waits, counts.allocations) == ([], [], [])


@pytest.mark.parametrize("fault", ["other-bits", "refused", "no-library"])
def test_emulated_graph_that_is_not_right_is_not_used(
    fault: str,
    device: Emulator,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    launch = Graph.launch

    def launch_and_spoil(self: Graph, stream: Any = None) -> None:
        launch(self)
        ours._workspace.buffer("loss", ())[...] = 7

    def refuse(*_: Any) -> None:
        raise RuntimeError("cudaErrorStreamCaptureUnsupported")

    def missing(version: int) -> None:
        raise RuntimeError("cuBLAS cannot be called without CuPy's binding")

    if fault == "other-bits":
        monkeypatch.setattr(Graph, "launch", launch_and_spoil)
    elif fault == "refused":
        monkeypatch.setattr(Stream, "begin_capture", refuse)
    else:
        monkeypatch.setattr(cublas, "load_library", missing)
    ours, theirs = solver(graphs=True), solver("numpy")
    for rows in fitting(ours, 5):
        ours.train_batch(rows)
        theirs.train_batch(rows)
    said = capsys.readouterr().err
    reasons = {"other-bits": "other bits", "refused": "Unsupported", "no-library": "binding"}
    assert said.count("no CUDA graph") == 1
    assert reasons[fault] in said
    np.testing.assert_allclose(ours.loss_history, theirs.loss_history, rtol=2e-6)


def test_emulated_capture_refuses_what_cuda_refuses(device: Emulator) -> None:
    with xpcap.use_backend("cupy"):
        xp = xpcap.backend.array_module()
        x, w, out = (xp.ones((4, 4), "f4") for _ in range(3))
        with replay.recording() as record:
            get_ops(x).matmul(x, w, out)
        (product,) = record.work
        stream = xp.cuda.Stream(non_blocking=True)
        with pytest.raises(RuntimeError, match="legacy"):
            xp.cuda.Stream.null.begin_capture()
        with pytest.raises(RuntimeError, match="status"):
            product.capture(stream.ptr)  # outside a capture it is not for us to call
        product.before_capture(stream.ptr)
        stream.begin_capture()
        refused = (
            lambda: xp.empty(3, "f4"),
            lambda: float(out[0, 0]),
            lambda: xp.cuda.Device().synchronize(),
            lambda: xp.cuda.Event().synchronize(),
            lambda: get_ops(x).adam_update(
                x, w, out, out, 1.0, 0.9, 0.9, 1e-8
            ),  # on the null stream
            lambda: out.__iadd__(x),
        )
        for what in refused:
            with pytest.raises(RuntimeError, match="not permitted when stream is capturing"):
                what()
        with pytest.raises(NotImplementedError, match="cuBLAS API during stream capture"):
            product.call(0)()
        out_before = out.host.copy()
        product.capture(stream.ptr)
        graph = stream.end_capture()
        np.testing.assert_array_equal(out.host, out_before)  # nothing ran
        x.fill(3)
        graph.launch()
        np.testing.assert_array_equal(xpcap.to_numpy(out), 12)
