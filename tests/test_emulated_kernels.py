"""The CUDA kernels as xpcap launches them, run on the host by the emulated device, against the plain equations."""

import numpy as np
import pytest
from emulated import Emulator
from test_kernels import ON_A_CARD, TOLERANCES, check_equals_plain

import xpcap
from xpcap import kernels, ops


@pytest.mark.parametrize("kernel", ON_A_CARD, ids=lambda kernel: kernel.op)
@pytest.mark.parametrize("dtype", TOLERANCES)
def test_emulated_kernel_equals_the_plain_equations(kernel: kernels.Kernel, dtype: str, device: Emulator) -> None:
    with xpcap.use_backend("cupy"), device.counting() as counts:
        check_equals_plain(kernel, dtype)
    assert any(launch.kind == "raw" or launch.name in ("sgemm", "dgemm") for launch in counts.launches)


def test_emulated_plain_equations_run_where_no_kernel_fits(device: Emulator) -> None:
    """A view that is not contiguous, as an importer of single layers may bring."""
    rng = np.random.default_rng(0)
    a, r, c = rng.standard_normal((5, 2 * 28)), rng.standard_normal((5, 28)), rng.standard_normal((5, 7))
    expected = ops.lstm_gates(a[:, ::2], r, c)
    with xpcap.use_backend("cupy"), device.counting() as counts:
        gates = ops.lstm_gates(xpcap.asarray(a)[:, ::2], xpcap.asarray(r), xpcap.asarray(c))
    assert not any(launch.kind == "raw" for launch in counts.launches)
    for ours, theirs in zip(gates, expected, strict=True):
        np.testing.assert_allclose(xpcap.to_numpy(ours), theirs, rtol=1e-14)
