"""The operations of the host against their equations, and what the versions have in common."""

import inspect
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
from emulated import Emulator
from operations import (
    CELLS,
    ROUNDS,
    TABLE,
    TOLERANCES,
    Call,
    Draw,
    check_equals_equation,
    drawn,
    each,
    flat,
    run,
)

import xpcap
from xpcap import layers, ops
from xpcap.backend import Array
from xpcap.layers import PackedSequences, Pointwise
from xpcap.layers.lstm import LSTMCell
from xpcap.layers.sequence import sequence_backward, sequence_forward, step_forward
from xpcap.ops import (
    OPERATIONS,
    CellBuffers,
    DeviceOps,
    HostOps,
    Ops,
    State,
    get_ops,
    host,
    overridden,
    single_step,
)

N, H, V = 5, 7, 11  # odd sizes: nothing fits a block
ON_THE_HOST, ON_A_CARD = overridden(HostOps), overridden(DeviceOps)


def test_every_operation_has_a_fast_version() -> None:
    slow = [op for op in OPERATIONS if op not in (*ON_THE_HOST, *ON_A_CARD)]
    assert slow == [], (
        f"neither HostOps nor DeviceOps overrides {slow[:1]}, so it need not be in Ops"
    )
    assert set(OPERATIONS) == set(TABLE)


def test_arguments_are_drawn_by_the_shapes_of_a_docstring_or_a_row_is_asked_for() -> None:
    def scaled(self: Ops, x: Any, rows: Any, keep: float, out: Any, buffer: Any = None) -> None:
        """out (R, C) = keep * x[rows]: x (K, C), rows (R,) int."""
        out[...] = keep * x[rows]

    def added(self: Ops, x: Any, out: Any) -> None:
        """out += x: x (R, C), out (R, C)."""

    def unknown(self: Ops, x: Any, out: Any) -> None:
        """out (R,) = sums of x."""

    calls = drawn("scaled", scaled).calls(Draw("float32"))
    for (K, C, R, *_), call in zip(ROUNDS, calls, strict=False):
        x, rows, keep, out, buffer = call.arguments
        assert (x.shape, rows.shape, keep, out.shape, buffer) == ((K, C), (R,), 0.75, (R, C), None)
        assert rows.max() < K
        assert np.isnan(out).all()
    for call in drawn("added", added).calls(Draw("float32"))[:-1]:
        assert not any(np.isnan(x).any() for x in flat(call.arguments))
    *plain, tied, odd = calls
    shapes = [[x.shape for x in flat(call.arguments)] for call in plain[len(ROUNDS) :]]
    K, C, R, *_ = ROUNDS[0]
    assert len(np.unique(tied.arguments[0])) < K * C / 4
    assert not np.isfinite(odd.arguments[0]).all()
    no_columns, no_rows = [(K, 0), (R,), (R, 0)], [(K, C), (0,), (0, C)]
    assert shapes == [no_columns, no_rows]  # and no row of a table without rows
    with pytest.raises(AssertionError, match=r"unknown: .* no shape of x(?s:.*)    yield x, out$"):
        drawn("unknown", unknown).calls(Draw("float32"))


@pytest.mark.parametrize("version", [HostOps, DeviceOps])
def test_fast_versions_have_the_signatures_of_their_equations(version: type[Ops]) -> None:
    for op in overridden(version):
        ours, theirs = (inspect.signature(getattr(cls, op)) for cls in (version, Ops))
        assert ours == theirs, f"{version.__name__}.{op} takes {ours}, and Ops.{op} {theirs}"


def test_every_method_that_is_overridden_is_an_operation() -> None:
    """A misspelt name would override nothing."""
    for version in (HostOps, DeviceOps):
        others = [name for name in vars(version) if name[0] != "_" and name not in OPERATIONS]
        assert others == [], f"{version.__name__}.{others[0]} overrides no operation of Ops"


@pytest.mark.threads
@pytest.mark.parametrize("op", ON_THE_HOST)
@pytest.mark.parametrize("dtype", TOLERANCES)
def test_host_operation_equals_its_equation(op: str, dtype: str) -> None:
    check_equals_equation(HostOps(), op, dtype)


@pytest.mark.gpu
@pytest.mark.parametrize("op", ON_A_CARD)
@pytest.mark.parametrize("dtype", TOLERANCES)
def test_cuda_kernel_equals_the_plain_equations(op: str, dtype: str) -> None:
    with xpcap.use_backend("cupy"):
        check_equals_equation(DeviceOps(), op, dtype)


# ---- Steps of cells in place

IN_PLACE = {
    "cell_steps": [k for k, x in CELLS.items() if type(x).in_place is not Pointwise.in_place],
    "cell_backward_steps": [
        k for k, x in CELLS.items() if type(x).gradient_in_place is not Pointwise.gradient_in_place
    ],
}
STEPS_IN_PLACE = [(op, cell) for op, cells in IN_PLACE.items() for cell in cells]
# A sigmoid by tanh, which rounds differently
ROUNDED = [("cell_steps", "lstm")]


def calls_of(op: str, cell: str, dtype: str) -> list[Call]:
    """Calls with a cell, and the same on zeros of both signs, infinities and NaN."""
    calls = [call for call in TABLE[op].calls(Draw(dtype)) if call.arguments[0] is CELLS[cell]]
    odd = np.array([0.0, -0.0, np.inf, -np.inf, np.nan, -1.5, 2.5], dtype)

    def of_odd(x: np.ndarray) -> np.ndarray:
        return np.where(np.isnan(x), x, np.resize(np.roll(odd, x.size), x.shape))

    return [*calls, *(call._replace(arguments=each(of_odd, call.arguments)) for call in calls)]


def assert_same_bits(got: list[np.ndarray], expected: list[np.ndarray]) -> None:
    for ours, theirs in zip(got, expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)
        numbers = ~np.isnan(ours)
        np.testing.assert_array_equal(np.signbit(ours)[numbers], np.signbit(theirs)[numbers])


def test_there_are_steps_in_place_of_either_direction() -> None:
    """The tests below walk these lists."""
    assert all(IN_PLACE.values())


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize(("op", "cell"), STEPS_IN_PLACE)
def test_host_steps_in_blocks_of_rows_have_the_bits_of_whole_steps(
    op: str, cell: str, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Blocks of two rows, and of one: wider rows than a block."""
    for call in calls_of(op, cell, dtype):
        with np.errstate(all="ignore"):
            whole = run(HostOps(), op, call)
            for block in (2 * call.arguments[1].a.shape[1], 1):
                monkeypatch.setattr(host, "BLOCK", block)
                assert_same_bits(run(HostOps(), op, call), whole)
        monkeypatch.undo()


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize(("op", "cell"), [one for one in STEPS_IN_PLACE if one not in ROUNDED])
def test_host_steps_in_place_have_the_bits_of_the_equations(op: str, cell: str, dtype: str) -> None:
    for call in calls_of(op, cell, dtype):
        with np.errstate(all="ignore"):
            assert_same_bits(run(HostOps(), op, call), run(Ops(), op, call))


def test_a_gate_of_minus_zero_stays_so() -> None:
    """-0.0 + 0.0 is 0.0: what halves and shifts the other gates must leave g alone."""
    a, zeros, gates = np.full((1, 8), -0.0), np.zeros((2, 1, 2)), np.empty((1, 8))
    state = tuple(zeros)
    loop = CellBuffers(a, a, state, tuple(np.empty((2, 1, 2))), (gates, np.empty((1, 2))))
    HostOps().cell_steps(CELLS["lstm"], loop)(single_step(1))
    assert np.signbit(gates[:, 6:]).all()


class Mixin:
    """Twice the h of a cell, and no gradient."""

    def equation(self, a: Array, r: Array, *state: Array) -> tuple[State, State]:
        (h, c), saved = LSTMCell.equation(self, a, r, *state)  # type: ignore[arg-type]
        return (2 * h, c), saved

    def gradient(
        self, dstate: State, before: State, after: State, saved: State
    ) -> tuple[Array, Array, tuple[Array | None, ...]]:
        da, _, dbefore = LSTMCell.gradient(self, dstate, before, after, saved)  # type: ignore[arg-type]
        return (zeros := 0 * da), zeros, dbefore


class Doubled(LSTMCell):
    """The same by methods of its own."""

    equation, gradient = Mixin.equation, Mixin.gradient


class Mixed(Mixin, LSTMCell):
    """The same by a mixin that is no cell itself."""


class Inherited(LSTMCell):
    """An LSTM with nothing of its own."""


def test_fast_versions_and_texts_belong_to_their_equations() -> None:
    for name in ("in_place", "gradient_in_place", "kernel", "memory_gate"):
        assert getattr(Inherited, name) == getattr(LSTMCell, name)
        for cell in (Doubled, Mixed):
            assert getattr(cell, name) == getattr(Pointwise, name) != getattr(LSTMCell, name)


@pytest.mark.parametrize("cell", [Doubled(), Mixed()], ids=["subclass", "mixin"])
@pytest.mark.parametrize("backend", ["numpy", "cupy"])
def test_a_subclass_with_an_equation_of_its_own_runs_it(
    backend: str, cell: LSTMCell, device: Emulator
) -> None:
    """And not the fast versions of the cell that it inherits from."""
    rng, (N, T) = np.random.default_rng(0), (3, 2)
    x, h0, c0, Wx, Wh, b = (
        rng.standard_normal(s) for s in ((N, T, 4), (N, H), (N, H), (4, 4 * H), (H, 4 * H), 4 * H)
    )
    h, c = h0, c0
    expected = []
    for t in range(T):
        (h, c), _ = CELLS["lstm"].equation(x[:, t] @ Wx + b, h @ Wh, h, c)
        h = 2 * h
        expected.append(h)
    with xpcap.use_backend(backend):
        given = [xpcap.asarray(v) for v in (x, h0, c0, Wx, Wh, b)]
        found, cache = sequence_forward(cell, given[0], tuple(given[1:3]), *given[3:])
        step, _ = step_forward(cell, given[0][:, 0], tuple(given[1:3]), *given[3:])
        np.testing.assert_allclose(xpcap.to_numpy(found), np.stack(expected, axis=1), rtol=1e-12)
        np.testing.assert_allclose(xpcap.to_numpy(step[0]), expected[0], rtol=1e-12)
        dx, *_ = sequence_backward(found, cache)
        assert not xpcap.to_numpy(dx).any()


@pytest.mark.parametrize("cell", CELLS.values(), ids=list(CELLS))
def test_operations_are_chosen_once_for_a_loop(
    cell: Pointwise, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many steps it has."""
    asked: list[Any] = []

    def watched(x: Any) -> Ops:
        asked.append(x)
        return get_ops(x)

    monkeypatch.setattr(layers.recurrent, "get_ops", watched)
    G, state0, counts = len(cell.blocks) * H, (np.ones((N, H)),) * len(cell.states), []
    for T in (2, 20):
        asked.clear()
        rows = PackedSequences.full(N, T)
        h, cache = cell.rows_forward(np.ones((T * N, G)), state0, {"Wh": np.ones((H, G))}, rows)
        cell.rows_backward(h.copy(), cache)
        counts.append(len(asked))
    assert counts[0] == counts[1] > 0


def test_a_step_of_numpy_asks_for_no_operation_of_a_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor for those of dropout masks, which come as a list of named tuples."""
    for operation in OPERATIONS:
        monkeypatch.setattr(DeviceOps, operation, Mock(side_effect=AssertionError(operation)))
    words = {"<NULL>": 0, "<START>": 1, "<END>": 2, "a": 3}
    model = xpcap.CaptioningRNN(words, 6, 4, 5, "lstm", np.float32, dropout=0.5)
    loss, _ = model.loss(np.ones((2, 6), "f4"), np.array([[1, 3, 2], [1, 2, 0]]))
    assert np.isfinite(loss)


@pytest.mark.parametrize("how", ["rows", "columns", "other-dtype"])
def test_host_adam_runs_its_equation_where_arrays_are_not_flat_and_alike(how: str) -> None:
    w, dw, m, v = np.random.default_rng(0).standard_normal((4, 6, 6)) ** 2
    expected = w - 0.5 * (0.1 * dw + 0.9 * m) / (np.sqrt(0.001 * dw * dw + 0.999 * v) + 1e-8)
    arrays = [x.astype("f4") if how == "other-dtype" and x is dw else x for x in (w, dw, m, v)]
    given = [x.T if how == "columns" else x for x in arrays]
    HostOps().adam_update(*given, 0.5, 0.9, 0.999, 1e-8)
    np.testing.assert_allclose(w, expected, rtol=1e-6)


def test_plain_only_is_the_equations_and_ends() -> None:
    x = np.zeros(4)
    assert type(get_ops(x)) is HostOps
    with ops.plain_only():
        assert type(get_ops(x)) is Ops
    assert type(get_ops(x)) is HostOps
