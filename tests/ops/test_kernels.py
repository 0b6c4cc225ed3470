"""The operations of the host against their equations, and what the versions have in common."""

import functools
import inspect
import pkgutil
import re
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pytest
from emulated import Emulator
from operations import TABLE, TOLERANCES, Draw, check_equals_equation, run

import xpcap
from xpcap.backend import Array
from xpcap.backend.memory import Workspace
from xpcap.layers import Pointwise
from xpcap.layers.lstm import LSTMCell
from xpcap.layers.recurrent import sequence_backward, sequence_forward, step_forward
from xpcap.ops import (
    OPERATIONS,
    CellBuffers,
    DeviceOps,
    HostOps,
    Ops,
    State,
    get_ops,
    has_kernels,
    host,
    overridden,
    single_step,
)
from xpcap.ops.cell import name_of
from xpcap.ops.device import CELL_KERNELS
from xpcap.ops.host import STEPS_IN_PLACE

N, H, V = 5, 7, 11  # odd sizes: nothing fits a block
ON_THE_HOST, ON_A_GPU = overridden(HostOps), overridden(DeviceOps)


def test_every_operation_has_a_fast_version() -> None:
    slow = [op for op in OPERATIONS if op not in (*ON_THE_HOST, *ON_A_GPU)]
    assert slow == [], (
        f"neither HostOps nor DeviceOps overrides {slow[:1]}, so it need not be in Ops"
    )
    assert set(OPERATIONS) == set(TABLE)


@pytest.mark.parametrize("version", [HostOps, DeviceOps])
def test_fast_versions_have_the_names_and_signatures_of_their_equations(version: type[Ops]) -> None:
    """A misspelt name would override nothing."""
    others = [name for name in vars(version) if name[0] != "_" and name not in OPERATIONS]
    assert others == [], f"{version.__name__}.{others[0]} overrides no operation of Ops"
    for op in overridden(version):
        ours, theirs = (inspect.signature(getattr(cls, op)) for cls in (version, Ops))
        assert ours == theirs, f"{version.__name__}.{op} takes {ours}, and Ops.{op} {theirs}"


@pytest.mark.threads
@pytest.mark.parametrize("op", ON_THE_HOST)
@pytest.mark.parametrize("dtype", TOLERANCES)
def test_host_operation_equals_its_equation(op: str, dtype: str) -> None:
    check_equals_equation(HostOps(), op, dtype)


@pytest.mark.gpu
@pytest.mark.parametrize("op", ON_A_GPU)
@pytest.mark.parametrize("dtype", TOLERANCES)
def test_cuda_kernel_equals_the_plain_equations(op: str, dtype: str) -> None:
    with xpcap.use_backend("cupy"):
        check_equals_equation(DeviceOps(), op, dtype, gpu=True)


# ---- Faster versions of cells


def methods_of(replaced: Iterable[str]) -> list[Callable[..., Any]]:
    """The methods of the names under which faster versions are registered."""
    return [pkgutil.resolve_name(re.sub(r"\.(?=\w+\.\w+$)", ":", name)) for name in replaced]


def test_faster_versions_are_registered_for_methods_that_there_are() -> None:
    for replaced in (STEPS_IN_PLACE, CELL_KERNELS):
        assert [name_of(method) for method in methods_of(replaced)] == [*replaced]


@pytest.mark.parametrize("dtype", TOLERANCES)
def test_host_steps_in_blocks_of_rows_have_the_bits_of_whole_steps(
    dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Blocks of two rows, and of one: wider rows than a block."""
    for call in TABLE["cell_steps"].calls(Draw(dtype)):
        with np.errstate(all="ignore"):
            whole = run(HostOps(), "cell_steps", call)
            for block in (2 * call.arguments[1].a.shape[1], 1):
                monkeypatch.setattr(host, "BLOCK", block)
                for ours, theirs in zip(run(HostOps(), "cell_steps", call), whole, strict=True):
                    np.testing.assert_array_equal(ours, theirs)
        monkeypatch.undo()


def test_a_gate_of_minus_zero_stays_so() -> None:
    """-0.0 + 0.0 is 0.0: what halves and shifts the other gates must leave g alone."""
    a, zeros, gates = np.full((1, 8), -0.0), np.zeros((2, 1, 2)), np.empty((1, 8))
    after, tanh_c = tuple(np.empty((2, 1, 2))), np.empty((1, 2))
    loop = CellBuffers(a, a, tuple(zeros), after, (gates, tanh_c))
    host.lstm_in_place(loop)(single_step(1))
    assert np.signbit(gates[:, 6:]).all()


EQUATION: Any = LSTMCell.equation
GRADIENT: Any = LSTMCell.gradient


class Mixin:
    """Twice the h of a cell, and no gradient."""

    def equation(self, a: Array, r: Array, *state: Array) -> tuple[State, State]:
        (h, c), saved = EQUATION(self, a, r, *state)
        return (2 * h, c), saved

    def gradient(
        self, dstate: State, before: State, after: State, saved: State
    ) -> tuple[Array, Array, tuple[Array | None, ...]]:
        da, _, dbefore = GRADIENT(self, dstate, before, after, saved)
        return (zeros := 0 * da), zeros, dbefore


class Doubled(LSTMCell):
    """The same by methods of its own."""

    equation, gradient = Mixin.equation, Mixin.gradient


class Mixed(Mixin, LSTMCell):
    """The same by a mixin that is no cell itself."""


class Inherited(LSTMCell):
    """An LSTM with nothing of its own."""


class Wrapped(LSTMCell):
    """The same by a function that takes the name of another one."""

    equation = functools.wraps(LSTMCell.equation)(lambda *args: Mixin.equation(*args))
    gradient = functools.wraps(LSTMCell.gradient)(lambda *args: Mixin.gradient(*args))


def test_texts_belong_to_their_equations() -> None:
    assert Inherited.memory_gate == LSTMCell.memory_gate != Pointwise.memory_gate
    for cell in (Doubled, Mixed, Wrapped):
        assert cell.memory_gate == Pointwise.memory_gate


@pytest.mark.parametrize("cell", [Doubled, Mixed, Wrapped, "class", "instance"])
@pytest.mark.parametrize("backend", ["numpy", "cupy"])
def test_an_equation_that_is_overridden_or_assigned_runs(
    backend: str, cell: Any, device: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And not the faster versions of the LSTM."""
    assert has_kernels(Inherited())
    owner = LSTMCell if cell == "class" else LSTMCell() if cell == "instance" else cell()
    if isinstance(cell, str):
        for name in ("equation", "gradient"):
            method = getattr(Mixin, name)
            assigned = method if cell == "class" else functools.partial(method, owner)
            monkeypatch.setattr(owner, name, assigned)
    cell = owner() if isinstance(owner, type) else owner
    assert not has_kernels(cell)
    rng, (N, T) = np.random.default_rng(0), (3, 2)
    x, h0, c0, Wx, Wh, b = (
        rng.standard_normal(s) for s in ((N, T, 4), (N, H), (N, H), (4, 4 * H), (H, 4 * H), 4 * H)
    )
    h, c = h0, c0
    expected = []
    for t in range(T):
        (h, c), _ = EQUATION(LSTMCell(), x[:, t] @ Wx + b, h @ Wh, h, c)
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


@pytest.mark.parametrize("how", ["rows", "columns", "other-dtype"])
def test_host_adam_runs_its_equation_where_arrays_are_not_flat_and_alike(how: str) -> None:
    w, dw, m, v = np.random.default_rng(0).standard_normal((4, 6, 6)) ** 2
    expected = w - 0.5 * (0.1 * dw + 0.9 * m) / (np.sqrt(0.001 * dw * dw + 0.999 * v) + 1e-8)
    arrays = [x.astype("f4") if how == "other-dtype" and x is dw else x for x in (w, dw, m, v)]
    given = [x.T if how == "columns" else x for x in arrays]
    HostOps().adam_update(*given, 0.5, 0.9, 0.999, 1e-8)
    np.testing.assert_allclose(w, expected, rtol=1e-6)


def test_row_products_are_added_in_memory_of_the_buffer(rng: np.random.Generator) -> None:
    """On NumPy, which cannot add to what is there within a product."""
    x, w, out = (rng.standard_normal(shape) for shape in ((6, 3), (3, 5), (6, 5)))
    expected = out.copy()
    expected[1:5] += x[2:6] @ w
    expected[:2] += x[4:] @ w
    workspace = Workspace(x)
    for memory in (workspace, None):
        added = out.copy()
        multiply = get_ops(x).row_matmul_add(x, w, added, memory)
        multiply(2, 1, 4)
        multiply(4, 0, 2)
        np.testing.assert_allclose(added, expected, rtol=1e-14)
    assert workspace.nbytes == x[2:6].nbytes // 3 * 5  # of the product with the most rows
