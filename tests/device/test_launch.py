"""Launches and products on the emulated device, from any thread."""

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from emulated import Emulator

import xpcap
from xpcap.ops import get_ops


def in_thread(work: Callable[[], Any]) -> Any:
    """Result of work in a thread of its own, or its error raised here."""
    found: list[Any] = []

    def run() -> None:
        try:
            found.append(work())
        except Exception as error:
            found.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if isinstance(found[0], Exception):
        raise found[0]
    return found[0]


@pytest.mark.parametrize("first", ["launch", "product"])
def test_emulated_thread_that_begins_with_our_own_work_has_a_context(
    first: str, device: Emulator
) -> None:
    """The driver, unlike CuPy, launches nothing without."""
    with xpcap.use_backend("cupy"):
        x, w, out = (xpcap.asarray(np.full((4, 4), k, "f4")) for k in range(3))
    ops = get_ops(x)

    def work() -> tuple[bool, bool]:
        before = device.has_context
        if first == "launch":
            ops.adam_update(x, w, out, out, 1.0, 0.9, 0.9, 1e-8)
        else:
            ops.matmul(x, w, out)
        return before, device.has_context

    assert in_thread(work) == (False, True)
