"""Attention in the time loops on the emulated device: two launches a step each way, which touch the
rows of their step and no others.
"""

import numpy as np
import pytest
from emulated import Emulator
from emulated.record import Counts, elements
from test_emulated_loops import ROWS, H, N, R, drawn, record

import xpcap
from xpcap import ops
from xpcap.backend import Array
from xpcap.device import replay
from xpcap.ops import PackedSequences, Step, get_ops

P, G = 4, 4 * H


def poison(*shape: int) -> Array:
    """NaN, so that each write shows."""
    return xpcap.backend.array_module().empty(shape, "f4")


def both(device: Emulator, attend: ops.StepFn, multiply: ops.StepFn, step: Step) -> Counts:
    """What the two launches did."""

    def step_fn(step: Step) -> None:
        attend(step)
        multiply(step)

    counts = record(device, step_fn, step)
    assert counts.kinds() == {"raw": 1, "product": 1}
    return counts


def test_emulated_attention_forward_is_two_launches_on_their_own_rows(device: Emulator) -> None:
    with xpcap.use_backend("cupy"):
        h, A, Wattn, a = drawn(N + R, H), drawn(N, P, H), drawn(H, G), drawn(R, G)
        weights, context = poison(R, P), poison(R, H)
        attend, add = (
            get_ops(h).attend_steps(h, A, weights, context),
            get_ops(context).row_matmul_add(context, Wattn, a),
        )
        for step in ROWS.steps:
            counts = both(device, attend, lambda step: add(step.first, step.first, step.n), step)
            assert counts.changed_by_kernels() == elements(weights[step.rows]) | elements(
                context[step.rows]
            )
            assert counts.written_by_products() == elements(a[step.rows])
            assert counts.read_by_products() == elements(context[step.rows]) | elements(Wattn)
        assert np.isfinite(xpcap.to_numpy(context)).all()


def test_emulated_attention_backward_is_two_launches_on_their_own_rows(device: Emulator) -> None:
    with xpcap.use_backend("cupy"):
        A, Wattn, da, weights, dh_next = (
            drawn(N, P, H),
            drawn(H, G),
            drawn(R, G),
            drawn(R, P),
            drawn(N, H),
        )
        dcontext, dscores = poison(R, H), poison(R, P)
        transpose = get_ops(da).row_matmul_nt(da, Wattn, dcontext)
        attend = get_ops(dcontext).attend_backward_steps(dcontext, A, weights, dscores, dh_next)
        for step in reversed(ROWS.steps):
            counts = both(
                device, lambda step: transpose(step.first, step.first, step.n), attend, step
            )
            assert counts.changed_by_kernels() == elements(dscores[step.rows]) | elements(
                dh_next[: step.n]
            )
            assert counts.written_by_products() == elements(dcontext[step.rows])
        assert np.isfinite(xpcap.to_numpy(dscores)).all()


def test_emulated_attention_sums_all_steps_in_one_launch(device: Emulator) -> None:
    """Where row numbers are on the device. The picture of a sequence without a step gets 0."""
    with xpcap.use_backend("cupy"):
        rows = PackedSequences.of([2, 1, 0], 3)
        sent = rows._replace(firsts=xpcap.asarray(rows.firsts.astype(np.int32)))
        arguments, out = (drawn(3, P), drawn(3, H), drawn(3, P), drawn(6, H), sent), poison(3, P, H)
        with device.counting() as counts:
            get_ops(out).attention_sum(*arguments, out)
        assert counts.names() == {"raw attention_sum": 1}
        assert counts.allocations == []
        assert (xpcap.to_numpy(out)[2] == 0).all()


def test_emulated_attention_runs_the_plain_equations_where_a_picture_has_too_many_places(
    device: Emulator,
) -> None:
    with xpcap.use_backend("cupy"):
        h, A, weights, context = drawn(1, H), drawn(1, 1025, H), poison(1, 1025), poison(1, H)
        for places, by_equation in ((1025, "attend_steps"), (1024, None)):
            some, p = A[:, :places].copy(), weights[:, :places].copy()
            with replay.recording() as record:
                step_fn = get_ops(h).attend_steps(h, some, p, context)
            assert record.invalidated == by_equation
            step_fn(ops.single_step(1))
            assert xpcap.to_numpy(p).sum() == pytest.approx(1, rel=1e-5)
