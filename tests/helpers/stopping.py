"""Training that is stopped at a given pause, as by SIGTERM."""

import signal
from typing import Any

import pytest

from xpcap.runs.saver import Checkpointer


def stop_after(pauses: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if SIGTERM came just before the solver's pause of that number."""
    seen = 0

    def step(saver: Checkpointer, solver: Any) -> None:
        nonlocal seen
        seen += 1
        if seen == pauses:
            saver._stop.signal = signal.SIGTERM
        original(saver, solver)

    original = Checkpointer.step
    monkeypatch.setattr(Checkpointer, "step", step)
