"""The warm-up before training on a device: it meets every kernel of the first epoch, and leaves no
trace in the run.
"""

import numpy as np
import pytest

pytest.importorskip("PIL")  # test_emulated_step

from emulated import Emulator
from test_emulated_step import make

import xpcap
from xpcap.layers import CELLS
from xpcap.training.evaluate import SELECT


@pytest.mark.parametrize("select", SELECT)
@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.slow
def test_emulated_warm_up_launches_all_that_training_will_and_changes_nothing(
    cell: str, select: str, device: Emulator
) -> None:
    cold, warm = (make("cupy", cell, select=select) for _ in range(2))
    with device.counting() as counts:
        warm.warm_up()
    with device.counting() as training:
        warm.train()
    assert set(training.names()) <= set(counts.names())
    cold.train()
    assert warm.loss_history == cold.loss_history
    assert (
        xpcap.to_numpy(warm.model.params.flat).tobytes()
        == xpcap.to_numpy(cold.model.params.flat).tobytes()
    )


def test_host_needs_no_warm_up(monkeypatch: pytest.MonkeyPatch) -> None:
    solver = make("numpy")
    monkeypatch.setattr(type(solver.objective), "loss", None)
    before = np.array(solver.model.params.flat)
    solver.warm_up()
    np.testing.assert_array_equal(solver.model.params.flat, before)
