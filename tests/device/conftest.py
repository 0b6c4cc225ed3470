"""Kernels run in blocks of few threads: the CPU build switches between threads at each barrier, which is
most of a step's time. tests/ops holds them to their equations in the blocks that a GPU gets.
"""

import cpu_build
import pytest


@pytest.fixture(autouse=True)
def few_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("xpcap.ops.device.CUDA", cpu_build.FEW)
