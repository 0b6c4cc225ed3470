"""The CUDA kernels as xpcap launches them, run on the host by the emulated device, against the
plain equations.
"""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from emulated import Emulator, install
from test_kernels import ON_A_CARD, TOLERANCES, check_equals_plain, name_of

import xpcap
from xpcap import ops
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
        with pytest.raises(
            ValueError,
            match=(
                r"arrays lie on CUDA device 1, .* current device is 0, .* use_backend\('cupy:1'\)"
            ),
        ):
            other.submit(update).result()
        assert (xpcap.to_numpy(w) == 1).all()
        other.submit(update_there).result()
    assert (xpcap.to_numpy(w) != 1).all()
