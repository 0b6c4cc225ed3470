"""Steps of the time loops on the emulated device: each touches its own rows of the whole buffers it
is given, and no others.
"""

import numpy as np
import pytest
from emulated import Emulator
from emulated.record import Counts, elements

import xpcap
from xpcap import layers, ops
from xpcap.memory import Workspace
from xpcap.ops import DeviceOps, Gates, PackedSequences, Step, get_ops
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


@pytest.fixture(params=["lstm", "lstm, many sequences", "rnn"])
def cell(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """An LSTM's step is one kernel for few sequences, and a product and a kernel for many."""
    if "many" in request.param:
        monkeypatch.setattr("xpcap.ops.device.FUSED", N - 1)
    return str(request.param)[:4].rstrip(",")


def test_emulated_steps_forward_touch_their_own_rows(cell: str, device: Emulator) -> None:
    with xpcap.use_backend("cupy"):
        xp, G = xpcap.backend.array_module(), 4 * H if cell == "lstm" else H
        a, Wh = drawn(R, G), drawn(H, G)
        out = Gates(
            *(xp.empty(shape, "f4") for shape in ((N + R, H), (N + R, H), (R, G), (R, H)))
        )  # NaN, so that each write shows
        for stack in (out.h, out.c):
            stack[:N] = drawn(N, H)
        step_fn = (
            get_ops(a).lstm_steps(a, Wh, (out.h, out.c), out)
            if cell == "lstm"
            else get_ops(a).rnn_steps(a, Wh, out.h, out.h)
        )
        for step in ROWS.steps:
            counts = record(device, step_fn, step)
            assert counts.read_by_products() <= elements(out.h[step.states_before]) | elements(Wh)
            own = elements(out.h[step.states_after])
            if cell == "lstm":
                own |= (
                    elements(out.c[step.states_after])
                    | elements(out.gates[step.rows])
                    | elements(out.tanh_c[step.rows])
                )
            assert counts.changed_by_kernels() == own
            assert counts.written_by_products() <= own  # overwritten by the kernel


def test_emulated_steps_backward_touch_their_own_rows(cell: str, device: Emulator) -> None:
    with xpcap.use_backend("cupy"):
        xp, G = xpcap.backend.array_module(), 4 * H if cell == "lstm" else H
        dh, Wh = drawn(R, H), drawn(H, G)
        out = Gates(drawn(N + R, H), drawn(N + R, H), drawn(R, G), drawn(R, H))
        dh_next, dc, da = (xp.empty(shape, "f4") for shape in ((N, H), (N, H), (R, G)))
        if cell == "lstm":
            step_fn = get_ops(dh).lstm_backward_steps(dh, dh_next, dc, out, Wh, da)
        else:
            step_fn = get_ops(dh).rnn_backward_steps(dh, dh_next, out.h, Wh, da)
        for step in reversed(ROWS.steps):
            counts = record(device, step_fn, step)
            assert counts.read_by_products() <= elements(da[step.rows]) | elements(Wh)
            own = elements(da[step.rows]) | (elements(dc[: step.n]) if cell == "lstm" else set())
            if (
                cell == "rnn" or device_ops.FUSED < N or step.first == 0
            ):  # else the step before multiplies by itself
                own |= elements(dh_next[: step.n])
            assert counts.changed_by_kernels() | counts.written_by_products() == own


@pytest.mark.parametrize("sizes", [[2, 1, 0, 0], [2, 0], [0]])
def test_emulated_steps_that_no_sequence_reaches_launch_nothing(
    sizes: list[int], cell: str, device: Emulator
) -> None:
    """A card refuses a grid without blocks."""
    rows, G = PackedSequences.of(sizes, 2), 4 * H if cell == "lstm" else H
    forward, backward = (getattr(layers, f"{cell}_rows_{way}") for way in ("forward", "backward"))
    with xpcap.use_backend("cupy"):
        h, cache = forward(
            drawn(rows.R, G), (drawn(2, H),) * (2 if cell == "lstm" else 1), drawn(H, G), rows
        )
        with device.counting() as counts:
            _, (dh0, *_), _ = backward(drawn(rows.R, H), cache)
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
    for buffer in (workspace.buffer, None):
        added = out.copy()
        multiply = get_ops(x).row_matmul_add(x, w, added, buffer)
        multiply(2, 1, 4)
        multiply(4, 0, 2)
        np.testing.assert_allclose(added, expected, rtol=1e-14)
    assert workspace.nbytes == x[2:6].nbytes // 3 * 5  # of the product with the most rows
