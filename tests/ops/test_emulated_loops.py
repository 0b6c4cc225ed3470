"""Steps of the time loops on the emulated device: each touches its own rows of the whole buffers it
is given, and no others.
"""

import numpy as np
import pytest
from emulated import Emulator
from emulated.record import Counts, elements
from operations import CELLS, Draw, cell_buffers, cell_gradients, each

import xpcap
from xpcap import ops
from xpcap.layers import Pointwise
from xpcap.layers.recurrent import backward_steps, forward_steps
from xpcap.memory import Workspace
from xpcap.ops import DeviceOps, PackedSequences, Step, get_ops, has_kernels
from xpcap.ops import device as device_ops

N, H = 5, 7
ROWS = PackedSequences.of([5, 5, 3, 1], N)  # sequences of 4, 3, 3, 2 and 2 steps
R = ROWS.R


def drawn(*shape: int) -> xpcap.backend.Array:
    return xpcap.asarray(np.random.default_rng(shape[0]).standard_normal(shape).astype("f4"))


def record(device: Emulator, step_fn: ops.StepFn, step: Step) -> Counts:
    """What one step did: raw products and kernels alone."""
    with device.counting() as counts:
        step_fn(step)
    assert set(counts.kinds()) <= {"product", "raw"}
    assert counts.allocations == []
    return counts


MANY = ", many sequences"


@pytest.fixture(
    params=[k + more for k, x in CELLS.items() if has_kernels(x) for more in ("", MANY)]
)
def cell(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Pointwise:
    """A step of few sequences may be one kernel; that of many is a product and a kernel."""
    if request.param.endswith(MANY):
        monkeypatch.setattr("xpcap.ops.device.FUSED", N - 1)
    return CELLS[request.param.removesuffix(MANY)]


def test_emulated_steps_forward_touch_their_own_rows(cell: Pointwise, device: Emulator) -> None:
    with xpcap.use_backend("cupy"):
        Wh, draw = drawn(H, len(cell.blocks) * H), Draw("float32")
        loop = each(xpcap.asarray, cell_buffers(draw, cell, N, R, H, after=False))
        step_fn = forward_steps(get_ops(Wh), cell, loop, Wh, Workspace(Wh))
        for step in ROWS.steps:
            counts = record(device, step_fn, step)
            assert counts.read_by_products() <= elements(loop.before[0][step.states_before]) | (
                elements(Wh)
            )
            own = set().union(
                *(elements(x[step.states_after]) for x in loop.after),
                *(elements(x[step.rows]) for x in loop.saved),
            )
            assert counts.changed_by_kernels() == own
            assert counts.written_by_products() <= elements(loop.r[: step.n])


def test_emulated_steps_backward_touch_their_own_rows(cell: Pointwise, device: Emulator) -> None:
    with xpcap.use_backend("cupy"):
        Wh, draw = drawn(H, len(cell.blocks) * H), Draw("float32")
        grads = each(xpcap.asarray, cell_gradients(draw, cell, N, R, H))
        (dh_next, *others), da = grads.dstate, grads.da
        step_fn = backward_steps(get_ops(Wh), cell, grads, Wh)
        fused = cell is CELLS["lstm"] and N <= device_ops.FUSED
        for step in reversed(ROWS.steps):
            counts = record(device, step_fn, step)
            assert counts.read_by_products() <= elements(da[step.rows]) | elements(Wh)
            own = set().union(elements(da[step.rows]), *(elements(x[: step.n]) for x in others))
            if not fused or step.first == 0:  # else the step before multiplies by itself
                own |= elements(dh_next[: step.n])
            assert counts.changed_by_kernels() | counts.written_by_products() == own


@pytest.mark.parametrize("sizes", [[2, 1, 0, 0], [2, 0], [0]])
def test_emulated_steps_that_no_sequence_reaches_launch_nothing(
    sizes: list[int], cell: Pointwise, device: Emulator
) -> None:
    """A card refuses a grid without blocks."""
    rows, G = PackedSequences.of(sizes, 2), len(cell.blocks) * H
    with xpcap.use_backend("cupy"):
        state0 = (drawn(2, H),) * len(cell.states)
        h, cache = cell.rows_forward(drawn(rows.R, G), state0, {"Wh": drawn(H, G)}, rows)
        with device.counting() as counts:
            _, (dh0, *_), _ = cell.rows_backward(drawn(rows.R, H), cache)
    assert len(h) == rows.R
    assert np.isfinite(xpcap.to_numpy(dh0)).all()
    assert sum("back" in launch.name for launch in counts.launches) == sum(n > 0 for n in sizes)


def test_emulated_row_products_keep_the_memory_of_their_arrays(device: Emulator) -> None:
    """They hold addresses; whoever made the loop may have let the arrays go."""
    with xpcap.use_backend("cupy"):
        out = xpcap.backend.array_module().empty((R, H), "f4")
        multiply = DeviceOps().row_matmul(drawn(R, N), drawn(N, H), out)
        multiply(2, 1, 3)
        np.testing.assert_array_equal(
            xpcap.to_numpy(out)[1:4], xpcap.to_numpy(drawn(R, N) @ drawn(N, H))[2:5]
        )


def test_row_products_are_added_in_memory_of_the_buffer() -> None:
    """On NumPy, which cannot add to what is there within a product."""
    rng = np.random.default_rng(0)
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
