"""A strict stand-in for cupy on a machine without a device, for tests only: NumPy computes, the
manners are cupy's or stricter.

Names and keywords are looked up in the real package. Host arrays are refused wherever cupy would
refuse them or copy them in silence. Whatever waits for the device is a read, whatever runs on it a
launch, and each keeps the line of xpcap that asked for it. It proves how the library is used, not
what CUDA does: see the table in docs/develop/testing-without-a-gpu.md.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from emulated import real
from emulated.module import install
from emulated.record import EMULATOR, Counts, Emulator

MISSING = "cupy is not installed: the kernels extra is not installed"

__all__ = ["EMULATOR", "Counts", "Emulator", "device", "in_thread", "install", "install_or_skip"]


def install_or_skip(monkeypatch: pytest.MonkeyPatch, **machine: object) -> Emulator:
    """The same in a test: skipped, with the reason, where the real cupy cannot be imported, or the
    kernels, one of which a probe of the device runs, cannot be compiled for the CPU.
    """
    if not real.is_installed():
        pytest.skip(MISSING)
    import cpu_build

    try:
        cpu_build.compiler()
    except cpu_build.UnavailableError as reason:
        pytest.skip(str(reason))
    return install(monkeypatch, **machine)


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Emulator:
    """One emulated device in place of cupy: what it counts begins with the test."""
    return install_or_skip(monkeypatch)


def in_thread(work: Callable[[], Any]) -> Any:
    """The result of work in a thread of its own, which ends; its error is raised here."""
    with ThreadPoolExecutor(1) as other:
        return other.submit(work).result()
