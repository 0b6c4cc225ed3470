"""Training that is stopped at a given pause of the solver, by a signal."""

import itertools
import signal
from collections.abc import Callable
from typing import Any

import pytest

from xpcap.trainer.saver import Checkpointer


def at_each_pause(act: Callable[[Any], object], monkeypatch: pytest.MonkeyPatch) -> None:
    """Call act(solver) after each step and between the batches of a validation."""

    def step(saver: Checkpointer, solver: Any) -> None:
        act(solver)
        original(saver, solver)

    original = Checkpointer.step
    monkeypatch.setattr(Checkpointer, "step", step)


def stop_after(
    pauses: int, monkeypatch: pytest.MonkeyPatch, number: signal.Signals = signal.SIGTERM
) -> None:
    """Send a signal just before the pause of that number is over."""
    numbers = itertools.count(1)

    def stop(solver: Any) -> None:
        if next(numbers) == pauses:
            signal.raise_signal(number)

    at_each_pause(stop, monkeypatch)
