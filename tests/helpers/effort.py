"""Limits on CPU time, which tell work without end from a machine that is slow or busy."""

import contextlib
import os
import time
from collections.abc import Iterator

MOST = 20.0  # CPU seconds of one input; those of the tests take less than one


def cpu_seconds() -> float:
    """CPU time of this process, and of those it has started and that have ended."""
    children = os.times()
    return time.process_time() + children.children_user + children.children_system


@contextlib.contextmanager
def bounded_effort() -> Iterator[None]:
    """The ``with`` block takes a bounded CPU time."""
    before = cpu_seconds()
    yield
    spent = cpu_seconds() - before
    assert spent < MOST, f"took {spent:.1f} s of CPU time, expected less than {MOST:g}"
