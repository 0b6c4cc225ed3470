"""The CUDA kernels as xpcap launches them, run on the host by the emulated device, against the
plain equations.
"""

import contextlib
import itertools
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import cpu_build
import numpy as np
import pytest
from emulated import Emulator, install
from operations import CELLS, TABLE, TERMS, TOLERANCES, Draw, check_equals_equation, flat, run
from refusals import refuses

import xpcap
from xpcap import layers, ops, optim
from xpcap.backend import replay
from xpcap.errors import InvalidTypeError, InvalidValueError
from xpcap.ops import CellBuffers, DeviceOps, get_ops
from xpcap.ops.device import Equations


def in_orders(device: Emulator, *seeds: int) -> Callable[[], Iterator[None]]:
    def orders() -> Iterator[None]:
        for device.seed in seeds:
            yield

    return orders


@pytest.mark.parametrize("op", TABLE)
@pytest.mark.parametrize("dtype", TOLERANCES)
def test_emulated_kernel_equals_the_plain_equations_in_any_order_of_threads(
    op: str, dtype: str, device: Emulator
) -> None:
    """In float32; in float64 at night."""
    orders = in_orders(device, 0, *([9] if dtype == "float32" else []))
    with xpcap.use_backend("cupy"), device.counting() as counts:
        check_equals_equation(DeviceOps(), op, dtype, orders=orders)
    launched = [one.name for one in counts.launches if one.kind == "raw"] + counts.products
    assert launched, f"{op}: DeviceOps launches no kernel of xpcap/ops/cuda, nor a product, for it"


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", pytest.param("float64", marks=pytest.mark.nightly)])
@pytest.mark.parametrize("op", TABLE)
def test_emulated_kernel_that_rounds_as_a_gpu_equals_the_equations(
    op: str, dtype: str, device: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch, as_gpu=True)
    orders = in_orders(device, 0, *([9] if dtype == "float64" else []))
    with cpu_build.or_skip(), xpcap.use_backend("cupy"):
        check_equals_equation(DeviceOps(), op, dtype, orders=orders)


MISFITS: dict[str, Callable[[np.ndarray], Any]] = {  # the same numbers, as no kernel takes them
    "host": lambda x: x,
    "view": lambda x: xpcap.asarray(np.repeat(x, 2, axis=-1))[..., ::2] if x.ndim else x,
    "dtype": lambda x: xpcap.asarray(x.astype({"f": "c8", "i": "i8", "b": "u1"}[x.dtype.kind])),
}


@pytest.mark.parametrize("op", TABLE)
@pytest.mark.parametrize("kind", MISFITS)
def test_emulated_array_that_does_not_fit_is_refused_or_changes_nothing(
    kind: str, op: str, device: Emulator
) -> None:
    """Each array of an operation's first call in turn. Some equations take row numbers on the host.
    A kernel that is launched refuses it, or cuBLAS.
    """
    call, refused = TABLE[op].calls(Draw("float32"))[0], set()
    with xpcap.use_backend("cupy"):
        with device.counting() as counts:
            expected = run(DeviceOps(), op, call)
        for changed in range(len(flat(call.arguments))):
            numbers = itertools.count()

            def send(x: np.ndarray) -> Any:
                return (MISFITS[kind] if next(numbers) == changed else xpcap.asarray)(x)  # noqa: B023

            try:
                found = run(DeviceOps(), op, call, send=send)
            except (InvalidTypeError, InvalidValueError) as error:
                refused.add(str(error).partition(":")[0])
                continue
            for ours, theirs in zip(found, expected, strict=True):
                np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)
    launched = {"cuBLAS" if one.kind == "product" else one.name for one in counts.launches}
    assert refused
    assert refused <= launched


@pytest.mark.parametrize(
    ("parameter", "change", "error", "got"),
    [
        (
            "table",
            lambda x: xpcap.asarray(np.repeat(x, 2, axis=1))[:, ::2],
            ValueError,
            "has strides",
        ),
        ("rows", lambda x: xpcap.asarray(x.astype("i8")), TypeError, "dtype int64"),
        ("rows", lambda x: x, TypeError, "is a numpy.ndarray"),
        ("mask", lambda x: xpcap.asarray(x.astype("u1")), TypeError, "dtype uint8"),
    ],
    ids=["view", "int64", "host", "bytes"],
)
def test_emulated_array_that_no_kernel_takes_is_named_with_its_parameter(
    parameter: str, change: Callable[[Any], Any], error: Any, got: str, device: Emulator
) -> None:
    table, rows = np.ones((4, 6), "f4"), np.array([2, 0], "i4")
    made = {"table": table, "rows": rows, "out": table[:2], "mask": table[:2] > 0}
    with xpcap.use_backend("cupy"):
        given = {name: xpcap.asarray(x) for name, x in made.items()}
        with refuses(error, "gather_drop: ", parameter, got):
            DeviceOps().gather(**{**given, parameter: change(made[parameter])}, keep=0.5)


def test_emulated_array_of_another_device_is_named(
    device: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch, devices=2)
    with xpcap.use_backend("cupy:1"):
        there = xpcap.asarray(np.ones(6, "f4"))
    with xpcap.use_backend("cupy"):
        x = xpcap.asarray(np.ones((2, 6), "f4"))
        with refuses(ValueError, "add_rows: ", "b", "lies on CUDA device 1"):
            DeviceOps().add_rows(x, there)


def test_emulated_number_that_c_cannot_hold_is_named(device: Emulator) -> None:
    with xpcap.use_backend("cupy"):
        record, number = xpcap.asarray(np.ones((5, 2), "f4")), xpcap.asarray(np.ones((), "f4"))
        for i, error, got in ((2**31, ValueError, f"is {2**31}"), (1.5, TypeError, "is 1.5")):
            with refuses(error, "record_step: ", "i", got):
                DeviceOps().record_step(record, i, number, number)  # type: ignore[arg-type]


def test_emulated_arrays_of_a_loop_are_checked_before_its_first_step(device: Emulator) -> None:
    with xpcap.use_backend("cupy"):
        a, Wh = (xpcap.asarray(np.ones((n, 16), "f4")) for n in (3, 4))
        c, wide = (xpcap.asarray(np.ones((6, m), "f4")) for m in (4, 8))
        states = wide[:, ::2], c
        loop = CellBuffers(a, a, states, states, (a, c))
        with refuses(ValueError, "lstm_step: ", "h_prev", "has strides"):
            DeviceOps().cell_steps(CELLS["lstm"], loop, Wh, None)


@pytest.mark.parametrize(
    ("factor", "change", "error"),
    [
        ("x", lambda x: x[:, ::2], ValueError),
        ("w", lambda w: w.astype("f8"), TypeError),
        ("w", lambda w: w.get(), TypeError),
        ("out", lambda out: out.T, ValueError),
    ],
)
def test_emulated_factor_that_cublas_cannot_read_is_named(
    factor: str, change: Callable[[Any], Any], error: type[Exception], device: Emulator
) -> None:
    with xpcap.use_backend("cupy"):
        arrays = {name: xpcap.asarray(np.ones((4, 4), "f4")) for name in ("x", "w", "out")}
        arrays[factor] = change(arrays[factor])
        with refuses(error, "cuBLAS: ", factor):
            DeviceOps().matmul(**arrays)


def test_emulated_kernel_of_no_threads_is_not_launched(device: Emulator) -> None:
    """A GPU refuses a grid without blocks. A sum of no rows is a launch all the same: it is 0."""
    with xpcap.use_backend("cupy"), device.counting() as counts:
        x, b = xpcap.asarray(np.ones((0, 3), "f4")), xpcap.asarray(np.ones(3, "f4"))
        scores, none = xpcap.asarray(np.ones((2, 3), "f4")), xpcap.asarray(np.zeros(0, "i4"))
        with replay.recording() as record:
            DeviceOps().add_rows(x, b)
            DeviceOps().forbid(scores, none)
            DeviceOps().segment_sum(x, ops.segments(none, 0))
        assert (record.nodes, record.invalidated) == ([], None)
        assert not any(launch.kind == "raw" for launch in counts.launches)
        with replay.recording() as record:
            DeviceOps().column_sum(x, out=b)
        assert (len(record.nodes), record.invalidated) == (1, None)
        assert xpcap.to_numpy(b).tolist() == [0, 0, 0]


@pytest.mark.parametrize("version", [ops.Ops, DeviceOps])
def test_emulated_choice_among_no_words_is_refused(
    version: type[ops.Ops], device: Emulator
) -> None:
    """By the equation: a kernel would read a first score."""
    with xpcap.use_backend("cupy"):
        scores, u = xpcap.asarray(np.ones((2, 0), "f4")), xpcap.asarray(np.ones(2, "f4"))
        for choose in (
            lambda: version().log_softmax_(scores),
            lambda: version().argmax(scores),
            lambda: version().sample_words(scores, u, 0.5),
        ):
            with pytest.raises(ValueError, match=r"zero-size|empty sequence"):
                choose()


def test_emulated_layers_take_what_kernels_do_not(device: Emulator) -> None:
    """Targets of int64, a view as the first state, and no captions at all."""
    rng = np.random.default_rng(0)
    x, h0, Wx, Wh = (rng.standard_normal(s) for s in ((3, 2, 4), (3, 10), (4, 20), (5, 20)))
    y = rng.integers(0, 4, (3, 2))
    for n in (3, 0):
        found = []
        for backend in ("numpy", "cupy"):
            with xpcap.use_backend(backend):
                given = [xpcap.asarray(v) for v in (x[:n], h0[:n], Wx, Wh, np.ones(20), y[:n])]
                given[1] = given[1][:, ::2]
                h, cache = layers.lstm_forward(*given[:5])
                mask = xpcap.asarray(np.ones((n, 2), bool))
                loss, _ = layers.temporal_softmax_loss(h, given[5], mask) if n else (0, None)
                grads = layers.lstm_backward(h[::-1][::-1], cache)
                table, embedded = xpcap.asarray(np.ones((4, 3))), given[5]
                vectors, words = layers.word_embedding_forward(embedded, table)
                grads = *grads, layers.word_embedding_backward(vectors, words)
                found.append([xpcap.to_numpy(v) for v in (h, xpcap.asarray(loss), *grads)])
        for ours, theirs in zip(*found, strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-12, atol=1e-14)


def test_emulated_adam_takes_arrays_of_any_layout(device: Emulator) -> None:
    w, dw = np.random.default_rng(0).standard_normal((2, 4, 6))
    expected, _ = optim.adam(w.T, dw.T, {})
    with xpcap.use_backend("cupy"):
        there = xpcap.asarray(w)
        got, _ = optim.adam(there.T, xpcap.asarray(dw).T, {})
        np.testing.assert_allclose(xpcap.to_numpy(got), expected, rtol=1e-13)
        optim.update(
            "adam", there[:, ::2], xpcap.asarray(dw)[:, ::2], optim.init("adam", there[:, ::2])
        )
    np.testing.assert_allclose(xpcap.to_numpy(there)[:, ::2], expected.T[:, ::2], rtol=1e-13)
    np.testing.assert_array_equal(xpcap.to_numpy(there)[:, 1::2], w[:, 1::2])


class WithoutSum(DeviceOps):
    weighted_sum = Equations.weighted_sum


def test_emulated_equation_ends_a_record(device: Emulator) -> None:
    """Of an operation without a kernel; so does the copy of a view."""
    with xpcap.use_backend("cupy"):
        x, out = xpcap.asarray(np.ones(3, "f4")), xpcap.asarray(np.ones((), "f4"))
        for version, spoilt in ((DeviceOps(), None), (WithoutSum(), "weighted_sum")):
            with replay.recording() as record:
                version.weighted_sum(x, 2.0, out)
            assert record.invalidated == spoilt
        with replay.recording() as record:
            assert ops.contiguous(x) is x
        assert record.invalidated is None
        with replay.recording() as record:
            ops.contiguous(x[::2])
        assert record.invalidated == "contiguous"


def test_emulated_thread_on_another_device_is_told_so(
    device: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The backend belongs to the process, the current device to a thread: a new one is on
    device 0.
    """
    install(monkeypatch, devices=2)
    xpcap.use_backend("cupy:1")
    w, dw, m, v = (xpcap.asarray(np.ones(8, np.float32)) for _ in range(4))

    def update() -> None:
        get_ops(w).adam_update(w, dw, m, v, 0.5, 0.9, 0.999, 1e-8)

    def update_there() -> None:
        with xpcap.use_backend("cupy:1"):
            update()

    with ThreadPoolExecutor(1) as other:
        with refuses(ValueError, "arrays", "lie on CUDA device 1,", "use_backend('cupy:1')"):
            other.submit(update).result()
        assert (xpcap.to_numpy(w) == 1).all()
        other.submit(update_there).result()
    assert (xpcap.to_numpy(w) != 1).all()


@pytest.mark.parametrize("dtype", TOLERANCES)
def test_emulated_loss_of_a_target_outside_the_vocabulary_is_nan(
    dtype: str, device: Emulator
) -> None:
    """And nothing beyond the scores is read or written."""
    targets = np.array([-1, -2, -100, 4, 2**31 - 1, -(2**31)], np.int32)
    with xpcap.use_backend("cupy"):
        scores = xpcap.asarray(np.full((len(targets), 4), 0.5, dtype))
        nll, dscores = DeviceOps().softmax_loss(scores, xpcap.asarray(targets), ops.LossTerms())
    assert np.isnan(xpcap.to_numpy(nll)).all()
    np.testing.assert_allclose(xpcap.to_numpy(dscores), 0.25)


@pytest.mark.parametrize(("temperature", "dtype"), [(None, "float32"), (1.0, "float64")])
def test_emulated_draw_is_no_word_of_probability_0(
    temperature: float | None, dtype: str, device: Emulator
) -> None:
    """Wherever the uniform falls: at 0, as near 1 as it can come, and on the sums themselves."""
    rng, real, (n, V) = np.random.default_rng(7), np.dtype(dtype).type, (40, 1004)
    p = rng.random((n, V)).astype(dtype) * (rng.random((n, V)) < 0.05)
    p[0], p[1], p[2, :-1] = 0, 0, 0
    p[0, V - 1], p[1, 0], p[2, -1] = 1, 1, 0.5
    sums, below_1 = p.cumsum(axis=1), np.nextafter(real(1), real(0))
    on_a_sum = sums[np.arange(n), rng.integers(V, size=n)] / sums[:, -1]
    with np.errstate(divide="ignore"):
        x = p if temperature is None else np.log(p)
    with xpcap.use_backend("cupy"):
        for u in (np.zeros(n), np.full(n, below_1), on_a_sum, rng.random(n)):
            uniforms = np.minimum(u, below_1).astype(dtype)
            given = xpcap.asarray(x), xpcap.asarray(uniforms), temperature
            words = xpcap.to_numpy(DeviceOps().sample_words(*given))
            assert (p[np.arange(n), words] > 0).all()


def test_emulated_norm_beyond_the_largest_number_is_infinite(device: Emulator) -> None:
    with xpcap.use_backend("cupy"):
        x = xpcap.asarray(np.array([3e38, 3e38], "f4"))
        assert float(DeviceOps().global_norm(x)) == np.inf


def test_emulated_dropped_units_are_zero_whatever_they_were(device: Emulator) -> None:
    """Where the equation multiplies by 0, and keeps NaN."""
    with xpcap.use_backend("cupy"):
        x, mask = np.array([np.nan, np.inf, 2, 3], "f4"), np.array([False, False, False, True])
        out = DeviceOps().dropout(xpcap.asarray(x), xpcap.asarray(mask), 0.5)
    np.testing.assert_array_equal(xpcap.to_numpy(out), [0, 0, 0, 6])


def test_emulated_padding_alone_has_no_loss(device: Emulator) -> None:
    """With and without a kernel."""
    scores = np.random.default_rng(0).standard_normal((2, 11)).astype("f4")
    with xpcap.use_backend("cupy"):
        h, targets = xpcap.asarray(scores), xpcap.asarray(np.array([2, ops.NO_TARGET], np.int32))
        for where, weights in itertools.product(
            (contextlib.nullcontext, xpcap.plain), ({}, *TERMS)
        ):
            with where():
                terms = ops.LossTerms(**weights)
                nll, dscores = get_ops(h).softmax_loss(h.copy(), targets, terms)
            assert (xpcap.to_numpy(nll) != 0).tolist() == [True, False]
            assert xpcap.to_numpy(dscores).any(axis=1).tolist() == [True, False]


# ---- Loops


def normal(*shape: int) -> Any:
    return xpcap.asarray(np.random.default_rng(shape[0]).standard_normal(shape).astype("f4"))


@pytest.mark.parametrize("fused", [1, 2])
@pytest.mark.parametrize("name", [name for name, cell in CELLS.items() if ops.has_kernels(cell)])
def test_emulated_steps_that_no_sequence_reaches_launch_nothing(
    name: str, fused: int, device: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A GPU refuses a grid without blocks."""
    monkeypatch.setattr("xpcap.ops.device.FUSED", fused)
    cell, H = CELLS[name], 7
    G = len(cell.blocks) * H
    for sizes in ([2, 1, 0, 0], [2, 0], [0]):
        rows = ops.PackedSequences.of(sizes, 2)
        with xpcap.use_backend("cupy"):
            state0 = (normal(2, H),) * len(cell.states)
            h, cache = cell.rows_forward(normal(rows.R, G), state0, {"Wh": normal(H, G)}, rows)
            with device.counting() as counts:
                _, (dh0, *_), _ = cell.rows_backward(normal(rows.R, H), cache)
        assert len(h) == rows.R
        assert np.isfinite(xpcap.to_numpy(dh0)).all()
        assert sum("back" in one.name for one in counts.launches) == sum(n > 0 for n in sizes)


def test_emulated_row_products_keep_the_memory_of_their_arrays(device: Emulator) -> None:
    """They hold addresses; whoever made the loop may have let the arrays go."""
    with xpcap.use_backend("cupy"):
        out = normal(6, 4)
        multiply = DeviceOps().row_matmul(normal(5, 3), normal(3, 4), out)
        multiply(2, 1, 3)
        expected = xpcap.to_numpy(normal(5, 3) @ normal(3, 4))[2:5]
        np.testing.assert_allclose(xpcap.to_numpy(out)[1:4], expected, rtol=1e-6)


@pytest.mark.parametrize(("places", "by_equation"), [(1025, "attend_steps"), (1024, None)])
def test_emulated_attention_over_more_places_than_a_block_has_threads_is_the_equation(
    places: int, by_equation: str | None, device: Emulator
) -> None:
    with xpcap.use_backend("cupy"):
        p = normal(1, places)
        with replay.recording() as record:
            step_fn = get_ops(p).attend_steps(normal(1, 7), normal(1, places, 7), p, normal(1, 7))
        assert record.invalidated == by_equation
        step_fn(ops.single_step(1))
        assert xpcap.to_numpy(p).sum() == pytest.approx(1, rel=1e-5)
