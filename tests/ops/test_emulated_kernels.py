"""The CUDA kernels as xpcap launches them, run on the host by the emulated device, against the
plain equations.
"""

import contextlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from emulated import Emulator, install
from refusals import refuses
from test_kernels import ON_A_CARD, TOLERANCES, V, check_equals_plain, name_of

import xpcap
from xpcap import ops
from xpcap.layers.vocabulary_loss import vocabulary_loss
from xpcap.ops import dispatch


@pytest.mark.parametrize("kernel", ON_A_CARD, ids=name_of)
@pytest.mark.parametrize("dtype", TOLERANCES)
def test_emulated_kernel_equals_the_plain_equations(
    kernel: dispatch.Kernel, dtype: str, device: Emulator
) -> None:
    with xpcap.use_backend("cupy"), device.counting() as counts:
        check_equals_plain(kernel, dtype)
    assert any(
        launch.kind == "raw" or launch.name in ("sgemm", "dgemm") for launch in counts.launches
    )


def test_emulated_plain_equations_run_where_no_kernel_fits(device: Emulator) -> None:
    """A view that is not contiguous, as an importer of single layers may bring."""
    x = np.random.default_rng(0).standard_normal((5, 2 * 28))
    with xpcap.use_backend("cupy"), device.counting() as counts:
        out = ops.column_sum(xpcap.asarray(x)[:, ::2], xpcap.asarray(np.zeros(28)))
    assert not any(launch.kind == "raw" for launch in counts.launches)
    np.testing.assert_allclose(xpcap.to_numpy(out), x[:, ::2].sum(axis=0), rtol=1e-14)


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
        ops.adam_update(w, dw, m, v, 0.5, 0.9, 0.999, 1e-8)

    def update_there() -> None:
        with xpcap.use_backend("cupy:1"):
            update()

    with ThreadPoolExecutor(1) as other:
        with refuses(
            ValueError, thing="arrays", came="lie on CUDA device 1,", cause="use_backend('cupy:1')"
        ):
            other.submit(update).result()
        assert (xpcap.to_numpy(w) == 1).all()
        other.submit(update_there).result()
    assert (xpcap.to_numpy(w) != 1).all()


def test_emulated_loss_of_a_target_below_zero_is_nan(device: Emulator) -> None:
    """Only padding's own marker counts as no target, with and without a kernel."""
    scores = np.random.default_rng(0).standard_normal((5, V)).astype("f4")
    wrong, padding = np.array([-1, -100, 0, -(2**31), 4], np.int32), np.array([2, 0], np.int32)
    with xpcap.use_backend("cupy"):
        h, w, b = (xpcap.asarray(x) for x in (scores, np.eye(V, dtype="f4"), scores[0] * 0))
        nll, _ = vocabulary_loss(h, w, b, xpcap.asarray(wrong), 1.0)
        assert np.isnan(xpcap.to_numpy(nll)).tolist() == [True, True, False, True, False]
        padding[1] = ops.NO_TARGET
        for where in (contextlib.nullcontext(), ops.plain_only()):
            with where:
                nll, dscores = ops.softmax_loss(h[:2].copy(), xpcap.asarray(padding), 1.0)
            assert (xpcap.to_numpy(nll) != 0).tolist() == [True, False]
            assert xpcap.to_numpy(dscores).any(axis=1).tolist() == [True, False]
